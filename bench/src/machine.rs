//! On what a measurement was made.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The facts that explain a figure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// When the run began, UTC.
    pub(crate) started: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Processor as it calls itself.
    pub(crate) cpu: String,
    /// Which of its features matter to ciphers.
    pub(crate) cpu_flags: Vec<String>,
    /// Cores online.
    pub(crate) cores: usize,
    /// Memory, MiB.
    pub(crate) memory_mib: u64,
    /// Load average of the minute before the run.
    pub(crate) load_before: f64,
    /// Share of all cores that others used in half a second before the run, 0 to 1.
    pub(crate) busy_before: f64,
}

/// What decides which code a cipher runs.
const FLAGS: [&str; 8] = ["aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f", "asimd", "pmull"];
/// Beyond this share of the machine, others' work shows in the figures.
const BUSY: f64 = 0.10;

impl Machine {
    /// As it is now; `busy` is the share of all cores in use.
    pub(crate) fn look(busy: f64) -> Self {
        let read = |path: &str| fs::read_to_string(Path::new("/proc").join(path)).unwrap_or_default();
        let cpuinfo = read("cpuinfo");
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M:%S"]).output();
        let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self {
            started: date.unwrap_or_default(),
            kernel: read("sys/kernel/osrelease").trim().to_owned(),
            cpu: cpu_model(&cpuinfo),
            cpu_flags: cpu_flags(&cpuinfo),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(&read("meminfo")),
            load_before: first_number(&read("loadavg")),
            busy_before: busy,
        }
    }

    /// A warning if others work on this machine.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.busy_before > BUSY).then(|| {
            format!(
                "WARNING: other work kept {:.0} % of the machine busy before the run (load {:.2}); trust no figure below",
                self.busy_before * 100.0,
                self.load_before
            )
        })
    }

    /// In one line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} cores {} ({}), {} MiB, Linux {}, started {} UTC at load {:.2}",
            self.cores,
            self.cpu,
            self.cpu_flags.join(" "),
            self.memory_mib,
            self.kernel,
            self.started,
            self.load_before
        )
    }
}

fn field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> String {
    field(cpuinfo, "model name").or_else(|| field(cpuinfo, "CPU part")).unwrap_or("unknown").to_owned()
}

fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").or_else(|| field(cpuinfo, "Features")).unwrap_or_default();
    let present: Vec<_> = flags.split_whitespace().collect();
    FLAGS.iter().filter(|flag| present.contains(*flag)).map(|flag| (*flag).to_owned()).collect()
}

fn memory_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes avx2 vaes\n\n\
                           processor\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes avx2 vaes\n";

    #[test]
    fn reads_the_processor_and_the_flags_that_matter() {
        assert_eq!(cpu_model(CPUINFO), "AMD EPYC");
        assert_eq!(cpu_flags(CPUINFO), ["aes", "vaes", "avx2"]);
        assert_eq!(cpu_flags("processor : 0\nFeatures : fp asimd aes pmull\n"), ["aes", "asimd", "pmull"]);
        assert_eq!(cpu_model(""), "unknown");
    }

    #[test]
    fn reads_memory_and_load() {
        assert_eq!(memory_mib("MemTotal:       24117248 kB\nMemFree: 1 kB\n"), 23552);
        assert_eq!(first_number("0.25 0.50 1.00 1/85 29468\n"), 0.25);
        assert_eq!(first_number(""), 0.0);
    }

    #[test]
    fn warns_only_of_a_machine_that_others_use() {
        let quiet = Machine { busy_before: 0.02, ..Machine::default() };
        let busy = Machine { busy_before: 0.6, ..Machine::default() };
        assert_eq!(quiet.warning(), None);
        assert!(busy.warning().unwrap().contains("60 %"));
    }
}
