//! What the lab needs from the machine.

use std::path::Path;

use anyhow::bail;

/// Programs the lab runs, each with the Debian package that has it.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
];

/// Checks for root, `/dev/net/tun` and the programs the lab runs.
///
/// # Errors
/// One sentence with everything that is missing and the Debian packages that cure it.
pub fn require_root_and_tools() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root (network namespaces are made with `ip netns`)".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun (kernel module `tun`)".to_owned());
    }
    missing.extend(
        TOOLS
            .iter()
            .filter(|(tool, _)| !is_installed(tool))
            .map(|(tool, package)| format!("`{tool}` (Debian package {package})")),
    );
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the namespace lab needs {}", missing.join(", "));
}

/// Whether `tool` is in `PATH` or in the system directories an ordinary user's `PATH` lacks.
fn is_installed(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|directory| Path::new(directory).join(tool).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_an_installed_tool_from_a_missing_one() {
        assert!(is_installed("ls"));
        assert!(!is_installed("no-such-tool"));
    }
}
