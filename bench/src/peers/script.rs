//! A tunnel of the user's own: two programs, one that brings it up and one that takes it down.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::link::Link;
use crate::peer::{Peer, Running};

/// How long either script may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// What `--script NAME=UP,DOWN` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    name: String,
    up: PathBuf,
    down: PathBuf,
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "expected NAME=UP,DOWN, two programs".to_owned();
        let (name, programs) = text.split_once('=').ok_or_else(wanted)?;
        let (up, down) = programs.split_once(',').ok_or_else(wanted)?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name || up.is_empty() || down.is_empty() {
            return Err(wanted());
        }
        Ok(Self { name: name.to_owned(), up: up.into(), down: down.into() })
    }
}

impl Peer for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        format!("{} and {}", self.up.display(), self.down.display())
    }

    fn missing(&self) -> Option<String> {
        let absent = [&self.up, &self.down].into_iter().find(|program| !program.is_file())?;
        Some(format!("{} does not exist", absent.display()))
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let mut running = Running::at(link.right().overlay);
        // First, so that what a failed UP has begun is taken down too.
        running.guard(Down { call: Call::new(self.down.clone(), link) });
        Call::new(self.up.clone(), link).run()?;
        Ok(running)
    }
}

/// One of the two programs, ready to run.
struct Call {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Call {
    fn new(program: PathBuf, link: &Link) -> Self {
        let (left, right) = (link.left(), link.right());
        let environment = vec![
            ("SKYNET_BENCH_LEFT_NETNS", left.namespace.name().to_owned()),
            ("SKYNET_BENCH_RIGHT_NETNS", right.namespace.name().to_owned()),
            ("SKYNET_BENCH_LEFT_UNDERLAY", left.underlay.to_string()),
            ("SKYNET_BENCH_RIGHT_UNDERLAY", right.underlay.to_string()),
            ("SKYNET_BENCH_LEFT_OVERLAY", left.overlay.to_string()),
            ("SKYNET_BENCH_RIGHT_OVERLAY", right.overlay.to_string()),
            ("SKYNET_BENCH_PORT", left.socket().port().to_string()),
            ("SKYNET_BENCH_DEVICE", crate::underlay::DEVICE.to_owned()),
            ("SKYNET_BENCH_DIRECTORY", link.directory().display().to_string()),
        ];
        Self { program, environment }
    }

    /// Runs it in the machine's own namespace; what it prints goes to a file, which a daemon it leaves may keep open.
    fn run(&self) -> anyhow::Result<()> {
        let program = std::path::absolute(&self.program)?;
        let directory = &self.environment.last().expect("the list is not empty").1;
        let log = PathBuf::from(directory)
            .join(format!("{}.log", program.file_name().unwrap_or_default().to_string_lossy()));
        let file = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = std::process::Command::new(&program);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn().with_context(|| program.display().to_string())?;
        let ended = skynet_tests::wait_for(SCRIPT_TIMEOUT, &program.display().to_string(), || {
            child.try_wait()?.context("it still runs")
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let said = || format!("it said: {}", std::fs::read_to_string(&log).unwrap_or_default());
        let status = ended.with_context(said)?;
        ensure!(status.success(), "{}: {status}; {}", program.display(), said());
        Ok(())
    }
}

/// Runs DOWN when dropped.
struct Down {
    call: Call,
}

impl Drop for Down {
    fn drop(&mut self) {
        if let Err(error) = self.call.run() {
            eprintln!("down: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_and_two_programs() {
        let script: Script = "mine=./up.sh,./down.sh".parse().unwrap();
        assert_eq!((script.name(), &script.down), ("mine", &PathBuf::from("./down.sh")));
        for wrong in ["", "mine", "mine=up", "=up,down", "mine=,down", "a b=up,down"] {
            assert!(wrong.parse::<Script>().is_err(), "{wrong}");
        }
    }
}
