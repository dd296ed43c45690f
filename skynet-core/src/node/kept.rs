//! Documents of members kept over restarts, for times when no relay answers: whom this node could still reach by itself.
//!
//! ```text
//! u8 version = 1 | n × { u16 length, member bundle }
//! ```
//!
//! What is read back is believed no more than a relay is: each bundle is checked as any other when somebody asks for its
//! member, and not before, so a start costs no signatures.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::control::message::Lookup;
use crate::key::{Identity, PublicKey};
use crate::member::{Bundle, RootPin};
use crate::node::directory::{Directory, Entry};

const VERSION: u8 = 1;
/// Members kept: those talked to, then those that are online, then others.
pub const MAX_KEPT: usize = 1_024;
/// Bytes kept: about what so many bundles take.
pub const MAX_ROSTER: usize = 1_000_000;

/// What was kept, by the names its documents give themselves.
#[derive(Clone, Debug, Default)]
pub struct Roster(Vec<Kept>);

#[derive(Clone, Debug)]
struct Kept {
    identity: Identity,
    key: PublicKey,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    name: String,
    bundle: Vec<u8>,
}

impl Roster {
    /// Reads what was kept of the network with this pin. What cannot be read ends it; a bundle that is none is
    /// left out.
    pub fn decode(bytes: &[u8], pin: &RootPin) -> Self {
        let Some((&VERSION, mut rest)) = bytes.split_first().filter(|_| bytes.len() <= MAX_ROSTER) else {
            return Self::default();
        };
        let mut kept = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<2>() {
            let Some((bundle, tail)) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
                break;
            };
            rest = tail;
            kept.extend(Bundle::parse(bundle).ok().filter(|_| kept.len() < MAX_KEPT).map(|parsed| {
                let certificate = parsed.certificate.unverified();
                Kept {
                    identity: certificate.identity,
                    key: parsed.binding.unverified().x25519,
                    v4: certificate.v4,
                    v6: pin.v6(&certificate.identity),
                    name: certificate.name.to_string(),
                    bundle: bundle.to_vec(),
                }
            }));
        }
        Self(kept)
    }

    /// The bundle that claims to answer this.
    pub fn find(&self, lookup: &Lookup) -> Option<&[u8]> {
        let matches = |k: &&Kept| match lookup {
            Lookup::Key(key) => k.key == *key,
            Lookup::Identity(identity) => k.identity == *identity,
            Lookup::Name(name) => k.name == *name,
            Lookup::Ipv4(address) => k.v4 == *address,
            Lookup::Ipv6(address) => k.v6 == *address,
        };
        self.0.iter().find(matches).map(|k| &k.bundle[..])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The members of a directory, the most useful first, as far as there is room.
pub(super) fn encode(directory: &Directory) -> Vec<u8> {
    let mut entries: Vec<&Entry> = directory.iter().collect();
    // Stable: those alike stay in order of identity, so the same directory has the same bytes.
    entries.sort_by_key(|e| (!e.used, !e.online));
    let mut out = vec![VERSION];
    for entry in entries.into_iter().take(MAX_KEPT) {
        let bundle = entry.member.bundle();
        let Ok(length) = u16::try_from(bundle.len()) else { continue };
        if out.len() + 2 + bundle.len() > MAX_ROSTER {
            break;
        }
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bundle);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::fixture::{NOW, Network};

    fn directory() -> (Directory, RootPin) {
        let mut network = Network::new();
        let mut directory = Directory::default();
        let mut pin = None;
        for name in ["web-a", "web-b"] {
            let credentials = network.credentials_named(name);
            pin = Some(credentials.trust().root_pin());
            directory.insert(credentials.member(NOW).unwrap(), false);
        }
        (directory, pin.unwrap())
    }

    #[test]
    fn who_was_kept_is_found_by_all_names_and_who_was_talked_to_comes_first() {
        let (mut directory, pin) = directory();
        let last = directory.iter().last().unwrap().member.clone();
        directory.note_used(&last.identity());
        let bytes = encode(&directory);
        let roster = Roster::decode(&bytes, &pin);
        assert_eq!(roster.len(), 2);
        assert_eq!(roster.0[0].identity, last.identity());
        for lookup in [
            Lookup::Key(last.x25519()),
            Lookup::Identity(last.identity()),
            Lookup::Name(last.name().to_string()),
            Lookup::Ipv4(last.v4()),
            Lookup::Ipv6(last.v6()),
        ] {
            assert_eq!(roster.find(&lookup), Some(last.bundle()), "{lookup:?}");
        }
        assert!(roster.find(&Lookup::Name("nobody".into())).is_none());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_survived() {
        let (directory, pin) = directory();
        let bytes = encode(&directory);
        for end in 0..bytes.len() {
            assert!(Roster::decode(&bytes[..end], &pin).len() < 2);
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Roster::decode(&bytes, &pin).len() <= 2);
        }
        assert!(Roster::decode(&vec![VERSION; MAX_ROSTER + 1], &pin).is_empty());
    }
}
