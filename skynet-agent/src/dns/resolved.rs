//! systemd-resolved, where it runs: it is told to ask the agent's resolver for the overlay's domains, and for no other.
//!
//! The setting belongs to the interface and goes with it, also when the agent is killed. Told by `resolvectl`, which is
//! there where resolved is.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Made by resolved when it starts.
const RUNNING: &str = "/run/systemd/resolve/io.systemd.Resolve";
/// For each of the settings.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether it runs here.
pub fn is_running() -> bool {
    Path::new(RUNNING).exists()
}

/// Arguments of `resolvectl`, one setting after the other. Nothing else is asked there, and what is told needs no proof:
/// no network has a key for names in DNS.
pub fn settings(interface: &str, servers: &[SocketAddr], domains: &[String]) -> Vec<Vec<String>> {
    let with = |setting: &str, values: Vec<String>| {
        [vec![setting.to_owned(), interface.to_owned()], values].concat()
    };
    let servers = servers.iter().map(|s| if s.port() == 53 { s.ip().to_string() } else { s.to_string() });
    vec![
        with("default-route", vec!["no".to_owned()]),
        // Multicast ends at the overlay's edge: nobody would answer.
        with("llmnr", vec!["no".to_owned()]),
        with("dnssec", vec!["no".to_owned()]),
        with("dnsovertls", vec!["no".to_owned()]),
        with("domain", domains.iter().map(|domain| format!("~{domain}")).collect()),
        with("dns", servers.collect()),
    ]
}

/// Tells it.
///
/// # Errors
/// What it did not take, in one sentence.
pub async fn tell(settings: Vec<Vec<String>>) -> Result<(), String> {
    for arguments in settings {
        let mut command = tokio::process::Command::new("resolvectl");
        command.args(&arguments).env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |what: &str| Err(format!("resolvectl {}: {what}", arguments.join(" ")));
        match tokio::time::timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) if output.status.success() => {}
            Ok(Ok(output)) => {
                return failed(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed"));
            }
            Ok(Err(e)) => return failed(&e.to_string()),
            Err(_) => return failed("no answer"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_overlays_domains_are_asked_here() {
        let servers = ["10.44.1.2:53".parse().unwrap(), "[fd00::2]:5353".parse().unwrap()];
        let settings = settings("skynet0", &servers, &["lab.internal".to_owned()]);
        let lines: Vec<_> = settings.iter().map(|s| s.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "default-route skynet0 no",
                "llmnr skynet0 no",
                "dnssec skynet0 no",
                "dnsovertls skynet0 no",
                "domain skynet0 ~lab.internal",
                "dns skynet0 10.44.1.2 [fd00::2]:5353",
            ]
        );
    }
}
