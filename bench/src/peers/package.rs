//! Where programs are, and how missing ones are had: from Debian or the Rust registry, by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use skynet_tests::{clock, wait_for};

/// A download from a slow mirror.
const APT_TIMEOUT: Duration = Duration::from_secs(300);
/// A build of some hundred crates on two busy cores.
const CARGO_TIMEOUT: Duration = Duration::from_secs(1200);

/// Where a program is: in `PATH`, among the system's, or among what cargo has installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_default();
    path.split(':')
        .map(PathBuf::from)
        .chain(["/usr/sbin".into(), "/usr/local/bin".into(), Path::new(&home).join(".cargo/bin")])
        .chain(std::env::var("CARGO_HOME").ok().map(|home| Path::new(&home).join("bin")))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// As [`find`], as text for a command line.
pub(crate) fn path(name: &str) -> anyhow::Result<String> {
    Ok(find(name).with_context(|| format!("{name} is not installed"))?.display().to_string())
}

/// How to get those of `programs`, each with its Debian package, that are not here; `None` if all are.
pub(crate) fn need(programs: &[(&str, &str)]) -> Option<String> {
    let packages = lacking(programs);
    (!packages.is_empty()).then(|| format!("apt-get install {} (or pass --install)", packages.join(" ")))
}

/// How to get a program of the Rust registry; `None` if it is here.
pub(crate) fn need_crate(name: &str, program: &str) -> Option<String> {
    find(program).is_none().then(|| format!("cargo install --locked {name} (or pass --install)"))
}

/// Installs the Debian packages of those programs that are not here.
pub(crate) fn install(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let packages = lacking(programs);
    if packages.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    run(command, APT_TIMEOUT)
}

/// Builds and installs a program of the Rust registry if it is not here.
pub(crate) fn install_crate(name: &str, program: &str) -> anyhow::Result<()> {
    if find(program).is_some() {
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", "--quiet", name]);
    run(command, CARGO_TIMEOUT)
}

/// The first line `program arguments…` prints, or why it cannot.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> String {
    let printed = || -> anyhow::Result<String> {
        let output = Command::new(path(program)?).args(arguments).output()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok(text.lines().next().context("it prints nothing")?.trim().to_owned())
    };
    printed().unwrap_or_else(|error| format!("{program}: {error}"))
}

fn lacking(programs: &[(&str, &str)]) -> Vec<String> {
    let missing = programs.iter().filter(|(program, _)| find(program).is_none());
    let mut packages: Vec<_> = missing.map(|(_, package)| (*package).to_owned()).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// Says what is run, and ends it when it takes too long.
fn run(mut command: Command, within: Duration) -> anyhow::Result<()> {
    let what = format!("{command:?}").replace('"', "");
    eprintln!("installing: {what}");
    let start = clock::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context(what.clone())?;
    let ended = wait_for(within, &what, || child.try_wait()?.context("it still runs"));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let status = ended?;
    ensure!(status.success(), "{what}: {status}");
    eprintln!("installed after {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_package_once() {
        let programs = [("no-such-a", "two"), ("no-such-b", "one"), ("no-such-c", "one"), ("sh", "dash")];
        assert_eq!(need(&programs).unwrap(), "apt-get install one two (or pass --install)");
        assert_eq!(need(&[("sh", "dash")]), None);
    }

    #[test]
    fn says_why_a_version_cannot_be_had() {
        assert!(first_line("no-such-program", &[]).contains("is not installed"));
    }
}
