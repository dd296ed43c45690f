//! `[dataplane] mtu`: how large packets inside the overlay may be. All numbers are bytes of inner IP packets.

use serde::Deserialize;
use skynet_core::constants::{INNER_MTU, IPV6_MIN_MTU};
use skynet_core::path::{DATAGRAM, MIN, MtuConfig};

/// What an inner packet has in front of it at least: IPv4, UDP and a message of transport data.
const OUTSIDE: u16 = 20 + 8 + DATAGRAM;
/// What may be configured.
const ALLOWED: std::ops::RangeInclusive<u16> = 576..=9_200;
/// As large as jumbo frames of 9,001 bytes carry.
const DEFAULT_MOST: u16 = 8_928;

/// What is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mtu {
    /// The same for every peer, and nothing is probed.
    pub fixed: Option<u16>,
    /// Taken to pass everywhere.
    pub least: u16,
    /// Never more.
    pub most: u16,
}

impl Default for Mtu {
    fn default() -> Self {
        Self { fixed: None, least: MIN, most: DEFAULT_MOST }
    }
}

/// `mtu = …` in the file or after the flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MtuChoice {
    /// Found by probes, for each path.
    #[default]
    Auto,
    /// So many bytes, everywhere.
    Fixed(u16),
}

impl std::fmt::Display for MtuChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(bytes) => bytes.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for MtuChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Bytes(i64),
            Word(String),
        }
        let text = match Raw::deserialize(deserializer)? {
            Raw::Bytes(bytes) => bytes.to_string(),
            Raw::Word(word) => word,
        };
        parse_mtu(&text).map_err(serde::de::Error::custom)
    }
}

/// `auto`, or a number of bytes.
///
/// # Errors
/// What is allowed.
pub fn parse_mtu(text: &str) -> Result<MtuChoice, String> {
    if text == "auto" {
        return Ok(MtuChoice::Auto);
    }
    let bytes = text.parse().ok().filter(|bytes| ALLOWED.contains(bytes));
    bytes.map(MtuChoice::Fixed).ok_or_else(|| format!("\"auto\", or {}", allowed()))
}

fn allowed() -> String {
    format!("{} to {} bytes", ALLOWED.start(), ALLOWED.end())
}

impl Mtu {
    /// Of the file, with a flag that beats it.
    ///
    /// # Errors
    /// The key, and what is allowed.
    pub(super) fn new(
        choice: MtuChoice,
        min: Option<u16>,
        max: Option<u16>,
    ) -> Result<Self, (&'static str, String)> {
        for (key, value) in [("mtu_min", min), ("mtu_max", max)] {
            if value.is_some_and(|bytes| !ALLOWED.contains(&bytes)) {
                return Err((key, allowed()));
            }
        }
        let default = Self::default();
        let (least, most) = (min.unwrap_or(default.least), max.unwrap_or(default.most));
        if least > most {
            return Err(("mtu_min", "more than mtu_max".to_owned()));
        }
        let fixed = match choice {
            MtuChoice::Auto => None,
            MtuChoice::Fixed(bytes) => Some(bytes),
        };
        Ok(Self { fixed, least, most })
    }

    /// What the core is told, on a machine whose links take packets of `link` bytes. `most` is the MTU of the TUN device
    /// as well: as large as any path can be, since peers of less are told apart. A node without members has no peer
    /// whose path can be measured.
    pub fn on_links_of(&self, link: u16, has_members: bool) -> MtuConfig {
        if let Some(fixed) = self.fixed {
            return MtuConfig { link, least: fixed, most: fixed };
        }
        let fits = link.saturating_sub(OUTSIDE) / 16 * 16;
        let most = if has_members { fits } else { INNER_MTU };
        let most = most.min(self.most).max(IPV6_MIN_MTU.min(self.most)).max(self.least);
        MtuConfig { link, least: self.least, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_as_large_as_the_links_allow() {
        let auto = Mtu::default();
        for (link, mtu) in [(1_500, 1_440), (9_001, 8_928), (1_460, 1_392), (1_124, 1_280), (65_535, 8_928)] {
            assert_eq!(auto.on_links_of(link, true), MtuConfig { link, least: MIN, most: mtu });
        }
        assert_eq!(auto.on_links_of(9_001, false).most, INNER_MTU);
        let fixed = Mtu { fixed: Some(1_300), ..auto };
        assert_eq!(fixed.on_links_of(9_001, true), MtuConfig { link: 9_001, least: 1_300, most: 1_300 });
        let bounded = Mtu::new(MtuChoice::Auto, Some(1_400), Some(1_420)).unwrap();
        assert_eq!(bounded.on_links_of(9_001, true).most, 1_420);
        assert_eq!(bounded.on_links_of(1_280, true), MtuConfig { link: 1_280, least: 1_400, most: 1_400 });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(parse_mtu("auto"), Ok(MtuChoice::Auto));
        assert_eq!(parse_mtu("1420"), Ok(MtuChoice::Fixed(1_420)));
        for text in ["", "Auto", "575", "9201", "99999", "-1"] {
            assert_eq!(parse_mtu(text), Err("\"auto\", or 576 to 9200 bytes".to_owned()), "{text}");
        }
        assert_eq!(Mtu::new(MtuChoice::Auto, Some(1_500), Some(1_400)).unwrap_err().0, "mtu_min");
        assert_eq!(Mtu::new(MtuChoice::Auto, Some(100), None).unwrap_err().0, "mtu_min");
    }
}
