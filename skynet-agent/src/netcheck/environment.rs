//! What the machine itself knows: whose it is, its addresses, its proxies.

use std::fs;
use std::net::{IpAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use skynet_core::diagnosis::Cloud;

/// Azure's tag of every VM's chassis.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";
/// In the order in which they are looked at.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Whose machine this is, by its firmware.
pub(super) fn cloud() -> Cloud {
    let read = |name: &str| fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    cloud_of(&read("sys_vendor"), &read("product_name"), &read("chassis_asset_tag"))
}

fn cloud_of(vendor: &str, product: &str, chassis: &str) -> Cloud {
    if vendor.starts_with("Amazon EC2") {
        Cloud::Aws
    } else if chassis.trim() == AZURE_CHASSIS {
        Cloud::Azure
    } else if vendor.trim() == "Google" || product.starts_with("Google Compute Engine") {
        Cloud::Google
    } else {
        Cloud::Unknown
    }
}

/// The addresses of all interfaces but loopback's and those that mean something on one link only.
pub fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let ip = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let everywhere = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    interfaces.filter_map(|i| i.address.and_then(ip)).filter(everywhere).collect()
}

/// Who holds this UDP port, if it cannot be bound.
pub(super) fn port_taken(port: u16) -> Option<String> {
    let taken = UdpSocket::bind(("::", port)).or_else(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Err(e),
        _ => UdpSocket::bind(("0.0.0.0", port)),
    });
    let in_use = taken.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
    in_use.then(|| format!("another program (ss -ulpn sport = :{port} names it)"))
}

/// HTTP proxies that the environment names, without what could be a password.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxies(pub Vec<(String, String)>);

impl Proxies {
    /// Of this process.
    pub fn from_environment() -> Self {
        let variable = |name: &&str| Some(((*name).to_owned(), without_secret(&std::env::var(name).ok()?)));
        Self(PROXY_VARIABLES.iter().filter_map(variable).filter(|(_, v)| !v.is_empty()).collect())
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `http://user:password@host:port` without user and password.
fn without_secret(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme =
                before.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
            format!("{scheme}{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_are_known_by_their_firmware() {
        assert_eq!(cloud_of("Amazon EC2\n", "m7i.large\n", "Amazon EC2\n"), Cloud::Aws);
        assert_eq!(
            cloud_of("Microsoft Corporation\n", "Virtual Machine\n", "7783-7084-3265-9085-8269-3286-77\n"),
            Cloud::Azure
        );
        assert_eq!(
            cloud_of("Microsoft Corporation\n", "Virtual Machine\n", "none\n"),
            Cloud::Unknown,
            "Hyper-V"
        );
        assert_eq!(cloud_of("Google\n", "Google Compute Engine\n", ""), Cloud::Google);
        assert_eq!(cloud_of("QEMU\n", "Standard PC\n", ""), Cloud::Unknown);
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        assert_eq!(without_secret("http://me:s3cret@proxy:3128"), "http://proxy:3128");
        assert_eq!(without_secret("me:s3@cret@proxy:3128"), "proxy:3128");
        assert_eq!(without_secret("http://proxy:3128"), "http://proxy:3128");
    }

    #[test]
    fn a_port_in_use_is_told_and_a_free_one_is_not() {
        let held = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let port = held.local_addr().unwrap().port();
        assert!(port_taken(port).is_some_and(|who| who.contains(&port.to_string())));
        drop(held);
        assert_eq!(port_taken(port), None);
    }
}
