//! Cryptokey routing (WireGuard paper §2): longest prefix match from an address to the peer it belongs to.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;

use crate::id::PeerSlot;

/// A prefix; IPv4 is kept as IPv4-mapped IPv6 so that one table serves both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    bits: u128,
    len: u8,
}

const V4_MAPPED_BITS: u8 = 96;

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0)
}

/// Keeps the families apart: an IPv4 address matches IPv4 prefixes only, and an IPv6 packet that claims an
/// IPv4-mapped address matches nothing.
fn family_allows(address: IpAddr, len: u8) -> bool {
    match address {
        IpAddr::V4(_) => len >= V4_MAPPED_BITS,
        IpAddr::V6(a) => a.to_ipv4_mapped().is_none(),
    }
}

impl Prefix {
    /// `address/len`, host bits cleared; `None` if `len` is more than 32 or 128.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let len = match address {
            IpAddr::V4(_) if len <= 32 => len + V4_MAPPED_BITS,
            IpAddr::V6(_) if len <= 128 => len,
            _ => return None,
        };
        Some(Self { bits: mapped(address) & mask(len), len })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { bits: mapped(address), len: 128 }
    }

    /// The address, if it is the only one inside.
    pub fn as_host(&self) -> Option<IpAddr> {
        (self.len == 128).then(|| IpAddr::V6(Ipv6Addr::from_bits(self.bits)).to_canonical())
    }

    /// Whether `address` lies inside. `::/0` holds no IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        family_allows(address, self.len) && mapped(address) & mask(self.len) == self.bits
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(v4) if self.len >= V4_MAPPED_BITS => write!(f, "{v4}/{}", self.len - V4_MAPPED_BITS),
            _ => write!(f, "{address}/{}", self.len),
        }
    }
}

impl core::str::FromStr for Prefix {
    type Err = PrefixParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (address, len) = s.split_once('/').ok_or(PrefixParseError)?;
        let address = address.parse().map_err(|_| PrefixParseError)?;
        Self::new(address, len.parse().map_err(|_| PrefixParseError)?).ok_or(PrefixParseError)
    }
}

/// A text that is not `ADDRESS/LENGTH`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a prefix: expected ADDRESS/LENGTH, such as 10.1.0.0/16")]
pub struct PrefixParseError;

/// The table: one ordered map per prefix length in use, longest first, so a look-up is one probe per length.
/// A member network has two lengths (/32 and /128 hosts).
#[derive(Clone, Default, Debug)]
pub struct AllowedIps {
    by_length: Vec<(u8, BTreeMap<u128, PeerSlot>)>,
}

impl AllowedIps {
    /// Gives `prefix` to `peer`, taking it from whoever had it.
    pub fn insert(&mut self, prefix: Prefix, peer: PeerSlot) {
        let at = match self.by_length.binary_search_by(|(len, _)| prefix.len.cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                self.by_length.insert(at, (prefix.len, BTreeMap::new()));
                at
            }
        };
        self.by_length[at].1.insert(prefix.bits, peer);
    }

    /// The peer of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<PeerSlot> {
        let bits = mapped(address);
        self.by_length
            .iter()
            .filter(|(len, _)| family_allows(address, *len))
            .find_map(|(len, map)| map.get(&(bits & mask(*len))).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let mut table = AllowedIps::default();
        table.insert(prefix("10.1.1.0/24"), PeerSlot(2));
        table.insert(prefix("10.0.0.0/8"), PeerSlot(1));
        table.insert(prefix("0.0.0.0/0"), PeerSlot(3));
        assert_eq!(table.lookup("10.1.1.1".parse().unwrap()), Some(PeerSlot(2)));
        assert_eq!(table.lookup("10.2.1.1".parse().unwrap()), Some(PeerSlot(1)));
        assert_eq!(table.lookup("11.2.1.1".parse().unwrap()), Some(PeerSlot(3)));
        assert_eq!(table.lookup("fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn a_default_route_of_one_family_does_not_catch_the_other() {
        let mut table = AllowedIps::default();
        table.insert(prefix("::/0"), PeerSlot(6));
        table.insert(prefix("0.0.0.0/0"), PeerSlot(4));
        assert_eq!(table.lookup("1.2.3.4".parse().unwrap()), Some(PeerSlot(4)));
        assert_eq!(table.lookup("2001:db8::1".parse().unwrap()), Some(PeerSlot(6)));
        assert_eq!(table.lookup("::ffff:1.2.3.4".parse().unwrap()), None);
        let mut v6_only = AllowedIps::default();
        v6_only.insert(prefix("::/0"), PeerSlot(6));
        assert_eq!(v6_only.lookup("1.2.3.4".parse().unwrap()), None);
    }

    #[test]
    fn prefixes_print_as_they_are_written() {
        for s in ["10.0.0.0/8", "0.0.0.0/0", "fd12:3456:789a::/48", "::/0", "10.1.2.3/32"] {
            assert_eq!(prefix(s).to_string(), s);
        }
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("10.0.0.0".parse::<Prefix>().is_err());
    }

    proptest! {
        /// All nested and overlapping prefixes of a small space, against the definition.
        #[test]
        fn agrees_with_a_linear_search(
            rows in proptest::collection::vec((0u8..=255, 0u8..=8, 0u32..5), 0..40),
            address in 0u8..=255,
        ) {
            let mut table = AllowedIps::default();
            let mut model: Vec<(Prefix, PeerSlot)> = Vec::new();
            for (octet, len, peer) in rows {
                let p = Prefix::new(IpAddr::from([10, 0, 0, octet]), 24 + len).unwrap();
                model.retain(|(q, _)| *q != p);
                model.push((p, PeerSlot(peer)));
                table.insert(p, PeerSlot(peer));
            }
            let a = IpAddr::from([10, 0, 0, address]);
            let expected = model.iter().filter(|(p, _)| p.contains(a)).max_by_key(|(p, _)| p.len).map(|(_, s)| *s);
            prop_assert_eq!(table.lookup(a), expected);
        }
    }
}
