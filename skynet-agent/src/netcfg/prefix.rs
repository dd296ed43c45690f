//! [`Prefix`]: an IP prefix with its host bits cleared.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An IP prefix such as `10.7.0.0/16`; bits behind the length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Not an IP prefix.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not an IP prefix such as 10.7.0.0/16 or fd00::/48")]
pub struct PrefixError(String);

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` if the family has no such length.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(ip) => {
                let host = 32u32.checked_sub(u32::from(len))?;
                IpAddr::from((ip.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).to_be_bytes())
            }
            IpAddr::V6(ip) => {
                let host = 128u32.checked_sub(u32::from(len))?;
                IpAddr::from((ip.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).to_be_bytes())
            }
        };
        Some(Self { address, len })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.len) == Some(*self)
    }

    /// Whether all of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;
    /// A bare address is a prefix of full length.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.to_owned());
        let (address, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.trim().parse().map_err(|_| error())?;
        match len {
            None => Ok(Self::host(address)),
            Some(len) => Self::new(address, len.trim().parse().map_err(|_| error())?).ok_or_else(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_at_every_length() {
        assert_eq!(prefix("10.7.3.9/16").to_string(), "10.7.0.0/16");
        assert_eq!(prefix("10.7.3.9/0").to_string(), "0.0.0.0/0");
        assert_eq!(prefix("10.7.3.9").to_string(), "10.7.3.9/32");
        assert_eq!(prefix("fd12:3456:789a:1::5/48").to_string(), "fd12:3456:789a::/48");
        assert_eq!(prefix("::1/0").to_string(), "::/0");
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "/8"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn covering_respects_family_and_length() {
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.7.0.0/16")));
        assert!(!prefix("10.7.0.0/16").covers(&prefix("10.0.0.0/8")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/0")));
        assert!(prefix("10.7.0.0/16").contains("10.7.255.255".parse().unwrap()));
        assert!(!prefix("10.7.0.0/16").contains("10.8.0.0".parse().unwrap()));
    }
}
