//! `[names]`: where programs of this machine find the names of members.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// Whether the agent answers DNS at its overlay addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DnsMode {
    /// Where systemd-resolved runs, which is told to ask there for the overlay's names.
    #[default]
    Auto,
    /// Everywhere.
    On,
    /// Nowhere.
    Off,
}

/// The agent's own resolver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Whether there is one.
    pub mode: DnsMode,
    /// Its UDP and TCP port.
    pub port: u16,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NamesSection {
    pub(super) hosts_file: Option<PathBuf>,
    dns: Option<DnsMode>,
    dns_port: Option<u16>,
}

impl NamesSection {
    /// Whether anything is said of names.
    pub(super) fn is_given(&self) -> bool {
        self.hosts_file.is_some() || self.dns.is_some() || self.dns_port.is_some()
    }

    /// What flags and environment say beats the file's.
    pub(super) fn dns(
        &self,
        mode: Option<DnsMode>,
        port: Option<u16>,
    ) -> Result<Dns, (&'static str, String)> {
        let port = port.or(self.dns_port).unwrap_or(DNS_PORT);
        if port == 0 {
            return Err(("names.dns_port", "must be 1 to 65535: whoever asks has to know it".to_owned()));
        }
        Ok(Dns { mode: mode.or(self.dns).unwrap_or_default(), port })
    }
}
