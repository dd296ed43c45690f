//! `/etc/skynet/relay.toml`: what the operator sets beside the command line.
//!
//! ```toml
//! uplink_mbit = 1000            # what this host can send; above it members have equal shares
//! metrics = "127.0.0.1:9478"    # Prometheus; loopback only
//!
//! [[class]]                     # the first without a tag is everybody's
//! session_mbit = 200
//!
//! [[class]]
//! number = 1
//! tag = "bulk"                  # whoever has this tag
//! session_mbit = 2000
//! network_mbit = 4000           # all of them together
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skynet_core::member::Tags;

use crate::server::{Rate, RateClass};

/// Most classes.
pub const MAX_CLASSES: usize = 64;
/// Of its rate, what comes at once unless the file says otherwise, ms; at least [`LEAST_BURST_KB`].
const BURST_MS: u64 = 160;
/// A few trains.
const LEAST_BURST_KB: u64 = 256;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ConfigError {
    path: PathBuf,
    problem: String,
}

/// What the file says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Config {
    /// What the host can send, kilobits a second; 0 if it is not known.
    pub uplink_kbit: u64,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Limits; the first is that of all who have no other.
    pub classes: Vec<RateClass>,
    /// Tag → number of the class of those who have it, the first that fits.
    pub class_tags: Vec<(String, u16)>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct File {
    uplink_mbit: Option<u32>,
    metrics: Option<SocketAddr>,
    #[serde(default)]
    class: Vec<Class>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Class {
    #[serde(default)]
    number: u16,
    tag: Option<String>,
    #[serde(default)]
    session_mbit: u32,
    session_burst_kb: Option<u32>,
    #[serde(default)]
    network_mbit: u32,
    network_burst_kb: Option<u32>,
}

impl Config {
    /// Reads a file. One that is not there says nothing, unless it `must_exist`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let error = |problem: String| ConfigError { path: path.into(), problem };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(error),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(Self::default()),
            Err(e) => Err(error(e.to_string())),
        }
    }

    /// What a text says.
    ///
    /// # Errors
    /// What is wrong with it, and the cure.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        if let Some(addr) = file.metrics.filter(|addr| !addr.ip().is_loopback()) {
            return Err(format!(
                "metrics = \"{addr}\" would tell strangers; use an address of 127.0.0.0/8 or [::1]"
            ));
        }
        if file.class.len() > MAX_CLASSES {
            return Err(format!("{} classes are too many; at most {MAX_CLASSES}", file.class.len()));
        }
        let mut config = Self {
            uplink_kbit: u64::from(file.uplink_mbit.unwrap_or(0)) * 1000,
            metrics: file.metrics,
            ..Self::default()
        };
        for class in &file.class {
            config.add(class)?;
        }
        // The limits of everybody else come first.
        config.classes.sort_by_key(|class| class.number);
        if config.classes.first().is_some_and(|class| class.number != 0) {
            let none = Rate::default();
            config.classes.insert(0, RateClass { number: 0, session: none, network: none });
        }
        Ok(config)
    }

    fn add(&mut self, class: &Class) -> Result<(), String> {
        let number = class.number;
        if self.classes.iter().any(|c| c.number == number) {
            return Err(format!("two classes have the number {number}; give each its own"));
        }
        match &class.tag {
            Some(tag) if number == 0 => {
                return Err(format!("the class with the tag {tag} needs a number above 0: 0 is everybody's"));
            }
            None if number != 0 => return Err(format!("class {number} needs a tag: whose is it?")),
            Some(tag) => {
                Tags::new([tag]).map_err(|e| e.to_string())?;
                self.class_tags.push((tag.clone(), number));
            }
            None => {}
        }
        let session = rate(class.session_mbit, class.session_burst_kb)?;
        let network = rate(class.network_mbit, class.network_burst_kb)?;
        self.classes.push(RateClass { number, session, network });
        Ok(())
    }
}

fn rate(mbit: u32, burst_kb: Option<u32>) -> Result<Rate, String> {
    let kbit = mbit.checked_mul(1000).ok_or_else(|| format!("{mbit} Mbit/s is more than 4 Tbit/s"))?;
    let usual = u64::from(kbit) / 8 * BURST_MS / 1000;
    let burst_kb = burst_kb.unwrap_or_else(|| usual.max(LEAST_BURST_KB).try_into().unwrap_or(u32::MAX));
    if mbit > 0 && burst_kb < 10 {
        return Err(format!("a burst of {burst_kb} kB holds no jumbo frame; make it 10 or more"));
    }
    Ok(Rate { kbit, burst_kb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_in_the_documentation_means_what_it_says() {
        let source = include_str!("config.rs");
        let example: Vec<_> = source
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| line.trim_start_matches("//!").trim_start())
            .collect();
        let config = Config::parse(&example.join("\n")).unwrap();
        assert_eq!(config.uplink_kbit, 1_000_000);
        assert_eq!(config.class_tags, [("bulk".to_owned(), 1)]);
        let rates: Vec<_> =
            config.classes.iter().map(|c| (c.number, c.session.kbit, c.network.kbit)).collect();
        assert_eq!(rates, [(0, 200_000, 0), (1, 2_000_000, 4_000_000)]);
        assert_eq!(config.classes[0].session.burst_kb, 4_000);
        assert_eq!(config.metrics, Some("127.0.0.1:9478".parse().unwrap()));
    }

    #[test]
    fn nothing_said_is_no_limit() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::load(Path::new("/nowhere/relay.toml"), false).unwrap(), Config::default());
        let error = Config::load(Path::new("/nowhere/relay.toml"), true).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/relay.toml: "), "{error}");
        // A class for some leaves the others without a limit.
        let config = Config::parse("[[class]]\nnumber = 3\ntag = \"x\"\nsession_mbit = 1").unwrap();
        assert_eq!(
            config.classes[0],
            RateClass { number: 0, session: Rate::default(), network: Rate::default() }
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (text, reason) in [
            ("metrics = \"0.0.0.0:9478\"", "strangers"),
            ("uplnk_mbit = 3", "unknown field"),
            ("[[class]]\nnumber = 1", "needs a tag"),
            ("[[class]]\ntag = \"a\"", "needs a number"),
            ("[[class]]\n[[class]]", "two classes"),
            ("[[class]]\nnumber = 1\ntag = \"A b\"", "A b"),
            ("[[class]]\nsession_mbit = 1\nsession_burst_kb = 1", "jumbo"),
            ("[[class]]\nsession_mbit = 4294968", "Tbit"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
