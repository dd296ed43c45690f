//! Bytes ↔ types: one file per format, no state, no policy. `docs/PROTOCOL.md` is the norm.

pub mod address;
pub mod binding;
pub mod ip;
pub mod passed_on;
pub mod probe;
pub mod record;
pub mod relay;
pub mod view;
pub mod wireguard;

/// What a datagram is, told by its first bytes (PROTOCOL §1).
///
/// ```text
/// 00|01 .. .. .. 21 12 A4 42   STUN            01..04 00 00 00   WireGuard
/// A0                           path probe      A1, A8..AD        relay frame
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// WireGuard transport data (message type 4): the only kind the data plane handles itself.
    Transport,
    /// WireGuard handshake initiation, response or cookie reply.
    Handshake,
    /// A path probe.
    Probe,
    /// A relay DATA frame: eight bytes of header, then a handshake, transport data or a probe.
    RelayData,
    /// Any other relay frame: upkeep of our own relay session.
    RelayUpkeep,
    /// STUN.
    Stun,
    /// Nothing we know.
    Unknown,
}

impl Kind {
    /// Looks at the first bytes only; the lengths are the parsers' business.
    pub fn of(datagram: &[u8]) -> Self {
        if datagram.first().is_some_and(|b| *b <= 1) && datagram.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42])
        {
            return Self::Stun;
        }
        match *datagram {
            [4, 0, 0, 0, ..] => Self::Transport,
            [1..=3, 0, 0, 0, ..] => Self::Handshake,
            [0xa0, ..] => Self::Probe,
            [0xa1, ..] => Self::RelayData,
            [0xa8..=0xad, ..] => Self::RelayUpkeep,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_tells_stun_from_an_initiation() {
        assert_eq!(Kind::of(&[1, 0, 0, 0, 0x21, 0x12, 0xa4, 0x42]), Kind::Stun);
        assert_eq!(Kind::of(&[1, 0, 0, 0, 1, 2, 3, 4]), Kind::Handshake);
        assert_eq!(Kind::of(&[4, 0, 0, 0]), Kind::Transport);
        assert_eq!(Kind::of(&[4, 0, 0, 1]), Kind::Unknown);
        assert_eq!(Kind::of(&[]), Kind::Unknown);
    }
}
