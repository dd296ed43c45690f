//! Who is here: what WATCH asks for and ROLL tells (`docs/PROTOCOL.md` §4.1).
//!
//! ```text
//! WATCH   u8 on | tags (n × {u8 length, text}; none: everybody)
//! ROLL    u8 flags (1 begins a snapshot, 2 ends one) | n × {u32 node_no | u8 presence (1 online, 2 left) | u32 mark}
//! ```
//! Nine bytes a member: whoever watches asks for the documents it has not got, and checks them. The roll is a relay's word
//! and moves nothing but what people and scripts are told.

use crate::control::message::MessageError;
use crate::crypto::hash;

/// Bytes of one entry.
const ENTRY: usize = 9;
/// Most entries of one message; a longer snapshot takes several.
pub const MAX_ENTRIES: usize = 1_500;

const BEGINS: u8 = 1;
const ENDS: u8 = 2;

/// Whether a member is there, says the relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Presence {
    /// Its control channel is closed.
    Away,
    /// Its control channel is open.
    Online,
    /// It is out of the directory: it left, or was ephemeral and is gone.
    Left,
}

/// One member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RollEntry {
    /// Its number, which is its IPv4 address.
    pub node_no: u32,
    /// Whether it is there.
    pub presence: Presence,
    /// Which certificate it has: [`mark`].
    pub mark: u32,
}

/// A part of a snapshot, or what changed since.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roll {
    /// A snapshot begins with this message,
    pub begins: bool,
    /// and ends with this one.
    pub ends: bool,
    /// At most [`MAX_ENTRIES`].
    pub entries: Vec<RollEntry>,
}

/// Tells certificates apart: whoever holds another one asks for the documents. A hint, not a proof.
pub fn mark(certificate: &[u8]) -> u32 {
    let digest = hash(&[b"skynet roll 1", certificate]);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

impl Roll {
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(MessageError::TooLong);
        }
        let flag = |on, bit| if on { bit } else { 0 };
        out.push(flag(self.begins, BEGINS) | flag(self.ends, ENDS));
        for entry in &self.entries {
            out.extend_from_slice(&entry.node_no.to_be_bytes());
            out.push(match entry.presence {
                Presence::Away => 0,
                Presence::Online => 1,
                Presence::Left => 2,
            });
            out.extend_from_slice(&entry.mark.to_be_bytes());
        }
        Ok(())
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, MessageError> {
        let (flags, rest) = body.split_first().ok_or(MessageError::Malformed)?;
        let (items, odd) = rest.as_chunks::<ENTRY>();
        if !odd.is_empty() || items.len() > MAX_ENTRIES {
            return Err(MessageError::Malformed);
        }
        let entry = |item: &[u8; ENTRY]| {
            let [a, b, c, d, presence, e, f, g, h] = *item;
            let presence = match presence & 3 {
                0 => Presence::Away,
                1 => Presence::Online,
                _ => Presence::Left,
            };
            RollEntry {
                node_no: u32::from_be_bytes([a, b, c, d]),
                presence,
                mark: u32::from_be_bytes([e, f, g, h]),
            }
        };
        Ok(Self {
            begins: flags & BEGINS != 0,
            ends: flags & ENDS != 0,
            entries: items.iter().map(entry).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roll_has_nine_bytes_a_member_and_a_bound() {
        let entry = RollEntry { node_no: 0x0a00_0001, presence: Presence::Left, mark: 7 };
        let mut roll = Roll { begins: true, ends: false, entries: vec![entry; 3] };
        let mut bytes = Vec::new();
        roll.encode(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 1 + 3 * 9);
        assert_eq!(Roll::parse(&bytes), Ok(roll.clone()));
        assert!(Roll::parse(&bytes[..bytes.len() - 1]).is_err());
        roll.entries = vec![entry; MAX_ENTRIES + 1];
        assert_eq!(roll.encode(&mut Vec::new()), Err(MessageError::TooLong));
        assert!(Roll::parse(&[0; 1 + (MAX_ENTRIES + 1) * ENTRY]).is_err());
    }

    #[test]
    fn another_certificate_has_another_mark() {
        assert_ne!(mark(b"one"), mark(b"two"));
        assert_eq!(mark(b"one"), mark(b"one"));
    }
}
