//! Addresses of the overlay, derived from keys, and the labels of a network.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::crypto::hash;
use crate::key::Identity;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            /// Lower-case hexadecimal.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

label! {
    /// `HASH(genesis document)`: the one thing a node pins; everything else follows from it.
    RootPin, 32
}
label! {
    /// The first 8 bytes of the [`RootPin`]: tells networks apart in logs and headers, and is never trusted.
    NetworkId, 8
}
label! {
    /// Names a join token: what is counted and revoked.
    TokenId, 8
}

impl RootPin {
    /// The label of this network.
    pub fn network_id(&self) -> NetworkId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.0[..8]);
        NetworkId(id)
    }

    /// The network's IPv6 prefix, a unique local /48 (RFC 4193): the first address of it.
    pub fn v6_prefix(&self) -> Ipv6Addr {
        let digest = hash(&[b"skynet ula 1", &self.0]);
        let mut bytes = [0; 16];
        bytes[0] = 0xfd;
        bytes[1..6].copy_from_slice(&digest[..5]);
        bytes.into()
    }

    /// The IPv6 address of a node: the prefix and 80 bits of its identity's hash.
    pub fn v6(&self, identity: &Identity) -> Ipv6Addr {
        let digest = hash(&[b"skynet v6 1", identity.as_bytes()]);
        let mut bytes = self.v6_prefix().octets();
        bytes[6..].copy_from_slice(&digest[..10]);
        bytes.into()
    }
}

/// Length of a network's IPv6 prefix in bits.
pub const V6_PREFIX_LEN: u8 = 48;

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    base: u32,
    len: u8,
}

/// A text or pair that is not an IPv4 prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an IPv4 prefix: expected a network address and a length, as in 10.20.0.0/16")]
pub struct PrefixError;

impl Ipv4Prefix {
    /// `base/len`; refuses lengths above 32 and host bits in `base`.
    pub fn new(base: Ipv4Addr, len: u8) -> Result<Self, PrefixError> {
        let prefix = Self { base: base.to_bits(), len };
        if len > 32 || prefix.base & !prefix.mask() != 0 { Err(PrefixError) } else { Ok(prefix) }
    }

    /// The first address.
    pub fn base(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// Length in bits, 0–32.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.base
    }

    /// Whether every address of `other` is inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.base())
    }

    /// Whether a network may use this prefix as its range: /8 to /30, in unicast space.
    pub fn is_network_range(&self) -> bool {
        let first = self.base().octets()[0];
        (8..=30).contains(&self.len) && (1..224).contains(&first) && first != 127
    }

    /// Whether a token may use this prefix as its pool: up to /30, or one pinned address.
    pub fn is_pool(&self) -> bool {
        self.len <= 30 || self.len == 32
    }

    /// How many addresses a pool can give: all but the first and the last, or the one of a /32.
    pub fn usable(&self) -> u64 {
        match self.len {
            32 => 1,
            len => (1u64 << (32 - len)).saturating_sub(2),
        }
    }

    /// The address of `identity` with this salt: base + 1 + hash mod (span − 2), or the base of a /32.
    /// `None` if the prefix is no pool (/31).
    pub fn derive(&self, identity: &Identity, salt: u32) -> Option<Ipv4Addr> {
        if self.len == 32 {
            return Some(self.base());
        }
        let digest = hash(&[b"skynet v4 1", identity.as_bytes(), &salt.to_be_bytes()]);
        let number = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        let offset = u32::try_from(number.checked_rem(self.usable())?).expect("below 2^32");
        Some(Ipv4Addr::from_bits(self.base + 1 + offset))
    }

    pub(crate) fn to_bytes(self) -> [u8; 5] {
        let [a, b, c, d] = self.base.to_be_bytes();
        [a, b, c, d, self.len]
    }

    pub(crate) fn from_bytes([a, b, c, d, len]: [u8; 5]) -> Option<Self> {
        Self::new(Ipv4Addr::new(a, b, c, d), len).ok()
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.len)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;
    fn from_str(s: &str) -> Result<Self, PrefixError> {
        let (base, len) = s.split_once('/').ok_or(PrefixError)?;
        Self::new(base.parse().map_err(|_| PrefixError)?, len.parse().map_err(|_| PrefixError)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_stay_off_the_ends_of_the_range() {
        let prefix: Ipv4Prefix = "10.9.8.0/29".parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for salt in 0..500 {
            seen.insert(prefix.derive(&Identity([3; 32]), salt).unwrap().octets()[3]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_pinned_pool_gives_its_one_address() {
        let prefix: Ipv4Prefix = "10.9.8.7/32".parse().unwrap();
        assert_eq!(prefix.derive(&Identity([3; 32]), 5), Some("10.9.8.7".parse().unwrap()));
        let odd: Ipv4Prefix = "10.9.8.6/31".parse().unwrap();
        assert_eq!(odd.derive(&Identity([3; 32]), 5), None);
    }

    #[test]
    fn a_prefix_has_no_host_bits() {
        assert!("10.0.0.1/16".parse::<Ipv4Prefix>().is_err());
        assert!("10.0.0.0/33".parse::<Ipv4Prefix>().is_err());
        assert!("0.0.0.0/0".parse::<Ipv4Prefix>().is_ok());
        assert_eq!("10.1.0.0/16".parse::<Ipv4Prefix>().unwrap().to_string(), "10.1.0.0/16");
    }

    #[test]
    fn covering_is_by_length_and_bits() {
        let wide: Ipv4Prefix = "10.1.0.0/16".parse().unwrap();
        assert!(wide.covers(&wide));
        assert!(wide.covers(&"10.1.7.0/24".parse().unwrap()));
        assert!(!wide.covers(&"10.2.7.0/24".parse().unwrap()));
        assert!(!wide.covers(&"10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn v6_is_the_networks_prefix_and_80_bits_of_the_identity() {
        let pin = RootPin([5; 32]);
        let a = pin.v6(&Identity([1; 32]));
        let b = pin.v6(&Identity([2; 32]));
        assert_eq!(a.octets()[..6], pin.v6_prefix().octets()[..6]);
        assert_eq!(a.octets()[0], 0xfd);
        assert_ne!(a.octets()[6..], b.octets()[6..]);
    }
}
