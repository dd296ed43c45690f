//! What the agent needs of the operating system, and the cure for what is missing.

/// Bit of CAP_NET_ADMIN in a capability set (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;

/// Everything that is missing to run an agent, one sentence each; empty if nothing is.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => missing.push(
            "/dev/net/tun may not be opened by this user; the cure: run as root (sudo)".to_owned(),
        ),
        Err(e) => missing.push(format!(
            "/dev/net/tun cannot be used ({e}); the cure: modprobe tun (in a container: --device /dev/net/tun)"
        )),
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !has_capability(&status, CAP_NET_ADMIN) {
        missing.push(
            "the capability CAP_NET_ADMIN is missing; the cure: run as root (in a container: --cap-add NET_ADMIN)"
                .to_owned(),
        );
    }
    missing
}

/// Whether the effective set in the text of `/proc/<pid>/status` has `bit`.
fn has_capability(status: &str, bit: u32) -> bool {
    let set = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = set.and_then(|s| u64::from_str_radix(s.trim(), 16).ok());
    set.is_some_and(|s| s >> bit & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_decides() {
        assert!(has_capability("CapPrm:\t0\nCapEff:\t0000000000001000\n", CAP_NET_ADMIN));
        assert!(!has_capability("CapPrm:\t1000\nCapEff:\t0000000000000fff\n", CAP_NET_ADMIN));
        assert!(!has_capability("rubbish", CAP_NET_ADMIN));
    }
}
