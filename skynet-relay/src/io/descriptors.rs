//! How many descriptors this process may have, and what that leaves for control connections.

use crate::server::ControlServerConfig;

/// Descriptors the relay needs besides control connections: its sockets, its store, the runtime, status, logs.
const OWN: usize = 32;
/// One of so many is for the TLS port, if there is one: who has no UDP is the exception.
pub const TLS_SHARE: usize = 4;

/// Raises the limit to what the system allows; the limit then.
pub fn raise() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the struct it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the call only reads the struct.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
        limit = wanted;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// Bounds the connections by the descriptors there are, so that one more is closed and not left waiting, and those that
/// have not joined never take the places of those that have.
pub fn bound(config: &mut ControlServerConfig, descriptors: usize) {
    let room = descriptors.saturating_sub(OWN).max(4);
    config.max_connections = config.max_connections.min(room);
    config.max_unjoined = config.max_unjoined.min(room / 4).max(2);
    let of_prefix = u16::try_from(config.max_unjoined / 2).unwrap_or(u16::MAX).max(1);
    config.max_unjoined_per_prefix = config.max_unjoined_per_prefix.min(of_prefix);
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::key::StaticSecret;

    #[test]
    fn connections_fit_the_descriptors_and_strangers_leave_room_for_members() {
        for (descriptors, expected) in
            [(64, (32, 8, 4)), (0, (4, 2, 1)), (1_024, (992, 248, 124)), (1 << 20, (20_000, 512, 128))]
        {
            let mut config = ControlServerConfig::new(1, StaticSecret::from_bytes([1; 32]));
            bound(&mut config, descriptors);
            let bounds = (config.max_connections, config.max_unjoined, config.max_unjoined_per_prefix);
            assert_eq!(bounds, expected, "{descriptors}");
        }
    }
}
