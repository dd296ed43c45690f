//! `[paths]`: where this node can be reached, and who is asked.

use std::net::SocketAddr;

use skynet_core::path::is_probe_target;

/// Addresses an operator may give; the other half of the candidates is for what is found out.
pub const MAX_ADVERTISED: usize = 8;

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
