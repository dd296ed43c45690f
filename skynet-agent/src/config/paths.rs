//! `[paths]`: where this node can be reached, who is asked, and how hard direct paths are tried for.

use std::net::SocketAddr;

use serde::Deserialize;
use skynet_core::path::{Guessing, MAX_GUESS_SOCKETS_EACH, is_probe_target};

/// Addresses an operator may give; the other half of the candidates is for what is found out.
pub const MAX_ADVERTISED: usize = 8;

/// The section as it is written.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Paths {
    pub(super) advertise: Option<Vec<SocketAddr>>,
    pub(super) port_mapping: Option<bool>,
    pub(super) cloud_metadata: Option<bool>,
    pub(super) birthday: Option<u8>,
}

impl Paths {
    /// What is not said here is what `below` says.
    pub(super) fn or(self, below: Self) -> Self {
        Self {
            advertise: self.advertise.or(below.advertise),
            port_mapping: self.port_mapping.or(below.port_mapping),
            cloud_metadata: self.cloud_metadata.or(below.cloud_metadata),
            birthday: self.birthday.or(below.birthday),
        }
    }
}

/// What a number of sockets, given by the operator or not, means: who gives one wants the direct path for every pair, and
/// not only for those that carry bulk.
pub(super) fn guessing(birthday: Option<u8>) -> Guessing {
    birthday.map_or_else(Guessing::default, |sockets| Guessing { sockets, bulk_only: false })
}

/// A number of sockets, if it is one.
///
/// # Errors
/// What is allowed.
pub fn check_birthday(sockets: u8) -> Result<u8, String> {
    if sockets <= MAX_GUESS_SOCKETS_EACH {
        Ok(sockets)
    } else {
        Err(format!("0 to {MAX_GUESS_SOCKETS_EACH} sockets"))
    }
}

/// [`check_birthday`] of a text.
///
/// # Errors
/// What is allowed.
pub fn parse_birthday(text: &str) -> Result<u8, String> {
    check_birthday(text.parse().map_err(|_| format!("0 to {MAX_GUESS_SOCKETS_EACH} sockets"))?)
}

/// Whether peers can be told these.
pub(super) fn check_advertised(addresses: &[SocketAddr]) -> Result<(), String> {
    if addresses.len() > MAX_ADVERTISED {
        return Err(format!("{} addresses; at most {MAX_ADVERTISED}", addresses.len()));
    }
    addresses.iter().try_for_each(check)
}

/// One address of a flag.
///
/// # Errors
/// What is wrong with it.
pub fn parse_advertised(text: &str) -> Result<SocketAddr, String> {
    let address = text.trim().parse().map_err(|_| format!("{text:?} is no IP:PORT"))?;
    check(&address).map(|()| address)
}

fn check(address: &SocketAddr) -> Result<(), String> {
    match is_probe_target(address, &[]) {
        true => Ok(()),
        false => Err(format!("{address} is an address that no peer may try")),
    }
}
