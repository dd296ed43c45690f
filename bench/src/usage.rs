//! Processor time and memory, from `/proc`.

use std::fs;

use anyhow::ensure;

/// Clock ticks per second in `/proc`: USER_HZ, a constant of the interface to user space on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What processes and the machine use between two moments.
pub(crate) struct Meter<'a> {
    processes: &'a [u32],
    before: (f64, f64),
}

/// Processor seconds per GB, 10^9 bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// Of the processes.
    pub(crate) processes: f64,
    /// Of the whole machine.
    pub(crate) machine: f64,
}

impl<'a> Meter<'a> {
    /// From now on.
    pub(crate) fn start(processes: &'a [u32]) -> Self {
        Self { processes, before: (process_seconds(processes), machine_seconds()) }
    }

    /// Until now, for so many GB.
    pub(crate) fn per_gigabyte(&self, gigabytes: f64) -> anyhow::Result<Cost> {
        let processes = process_seconds(self.processes) - self.before.0;
        let machine = machine_seconds() - self.before.1;
        ensure!(gigabytes > 0.0, "nothing arrived");
        Ok(Cost { processes: processes / gigabytes, machine: machine / gigabytes })
    }
}

/// Processor seconds some processes have used so far, all threads, user and kernel; ended ones count as 0.
pub(crate) fn process_seconds(processes: &[u32]) -> f64 {
    processes
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter_map(|stat| ticks_of_process(&stat))
        .sum::<u64>() as f64
        / TICKS_PER_SECOND
}

/// Processor seconds all cores have been busy since boot.
pub(crate) fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&stat) as f64 / TICKS_PER_SECOND
}

/// Share of all cores in use during `interval`, 0 to 1.
pub(crate) fn busy_share(interval: std::time::Duration) -> f64 {
    let before = machine_seconds();
    std::thread::sleep(interval);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    ((machine_seconds() - before) / interval.as_secs_f64() / cores).clamp(0.0, 1.0)
}

/// Largest resident memory of any of the processes now, in MiB.
pub(crate) fn rss_mib(processes: &[u32]) -> f64 {
    largest_mib(processes, "VmRSS:")
}

/// Largest resident memory of any of the processes so far, in MiB.
pub(crate) fn peak_rss_mib(processes: &[u32]) -> f64 {
    largest_mib(processes, "VmHWM:")
}

fn largest_mib(processes: &[u32], key: &str) -> f64 {
    let statuses = processes.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    statuses.filter_map(|status| kib(&status, key)).max().unwrap_or(0) as f64 / 1024.0
}

fn ticks_of_process(stat: &str) -> Option<u64> {
    // The name, in parentheses, may itself contain spaces and parentheses. utime and stime are fields 14 and 15.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn busy_ticks(stat: &str) -> u64 {
    // user, nice, system, idle, iowait, irq, softirq; steal is not ours.
    let columns: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|column| column.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().filter_map(|&column| columns.get(column)).sum()
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time_of_a_process_whose_name_is_odd() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 1 1 1";
        assert_eq!(ticks_of_process(stat), Some(300));
        assert_eq!(ticks_of_process("77 (a) S 1"), None);
    }

    #[test]
    fn does_not_count_idle_or_stolen_time_as_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 9 9 9 9"), 31);
    }

    #[test]
    fn reads_resident_memory_now_and_at_its_peak() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!((kib(status, "VmHWM:"), kib(status, "VmRSS:")), (Some(2048), Some(1)));
        assert_eq!(kib(status, "VmSwap:"), None);
    }

    #[test]
    fn sees_its_own_process_use_time_and_memory() {
        let own = [std::process::id()];
        assert!(peak_rss_mib(&own) > 0.0);
        assert!(machine_seconds() >= process_seconds(&own));
    }
}
