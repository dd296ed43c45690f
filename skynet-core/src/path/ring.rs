//! The keys of a pair while one of its ends changes its static key, or both do: probes under any of them are opened, and one
//! of them seals.

use super::keys::PairKeys;
use crate::time::UnixTime;
use crate::wire::probe::{Body, Head, ProbeError, Tag};

/// Two static keys at either end at most.
const MOST: usize = 4;

/// Keys of one pair on one port. Nonces are shared, so that none is used twice, whatever key it is under.
#[derive(Debug)]
pub struct KeyRing {
    sealing: PairKeys,
    others: Vec<PairKeys>,
}

impl From<PairKeys> for KeyRing {
    fn from(keys: PairKeys) -> Self {
        Self::new(keys, Vec::new())
    }
}

impl KeyRing {
    /// `sealing` for what is sent, and these besides for what comes; at most three of them.
    pub fn new(sealing: PairKeys, mut others: Vec<PairKeys>) -> Self {
        others.truncate(MOST - 1);
        Self { sealing, others }
    }

    /// What seals.
    pub fn sealing(&self) -> &PairKeys {
        &self.sealing
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &PairKeys> {
        core::iter::once(&self.sealing).chain(&self.others)
    }

    pub(super) fn open(&self, now: UnixTime, datagram: &mut [u8]) -> Result<(Head, Body), ProbeError> {
        let named = match self.others.is_empty() {
            true => None,
            false => self.named(&Head::parse(datagram)?.tag, now),
        };
        named.unwrap_or(&self.sealing).open(datagram)
    }

    fn named(&self, tag: &Tag, now: UnixTime) -> Option<&PairKeys> {
        self.others.iter().find(|keys| keys.receive_tags(now).contains(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PortNo;
    use crate::key::StaticSecret;
    use crate::wire::probe::{Nonce, Ping};

    fn keys(mine: u8, peer: u8) -> PairKeys {
        let peer = StaticSecret::from_bytes([peer; 32]).public();
        PairKeys::new(&[3; 32], &StaticSecret::from_bytes([mine; 32]), &peer, PortNo(0)).unwrap()
    }

    #[test]
    fn what_either_key_of_either_end_sealed_is_opened_and_nothing_else() {
        let now = UnixTime(1_700_000_000);
        let ring = KeyRing::new(keys(1, 2), vec![keys(1, 12), keys(11, 2), keys(11, 12)]);
        let ping = Ping { txid: 1, t_us: 2, path_id: 3, wire_size: 0, tx_data: 4, rx_data: 5 };
        let nonce = Nonce { start: 1, random: 2, counter: 3 };
        for (peer, mine, opens) in [(2, 1, true), (12, 1, true), (2, 11, true), (12, 11, true), (3, 1, false)]
        {
            let sealed = keys(peer, mine).seal(0, now, nonce, &Body::Ping(ping), 0);
            assert_eq!(ring.open(now, &mut sealed.clone()).is_ok(), opens, "{peer} {mine}");
            for bit in 0..sealed.len() * 8 {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(ring.open(now, &mut damaged).is_err(), "bit {bit}");
            }
            assert!((0..sealed.len()).all(|len| ring.open(now, &mut sealed[..len].to_vec()).is_err()));
        }
        assert_eq!(ring.iter().count(), 4);
    }
}
