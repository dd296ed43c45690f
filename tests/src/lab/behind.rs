//! A host behind a host, so that what comes out of a tunnel goes on over a wire and nothing about it is left to offloads.
//!
//! ```text
//!    host                                  host-behind
//!    TUN ── destination NAT ── behind0 ──── eth0
//!                    172.31.0.1/30      172.31.0.2
//!                    fd31::1/64         fd31::2         no segmentation and no checksum offload on either end
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::{Lab, Netns};

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
const BEHIND_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 1);
const BEHIND_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2);
/// Not the index of the other end, see [`super::setup`].
const INDEX: u8 = 110;

/// A namespace whose only neighbour is a host of the lab.
#[derive(Debug, Clone)]
pub struct Behind {
    /// The namespace; its interface is `eth0`.
    pub namespace: Netns,
    /// Its IPv4 address.
    pub ipv4: IpAddr,
    /// Its IPv6 address.
    pub ipv6: IpAddr,
}

impl Lab {
    /// Makes a namespace behind `host`, which from now on leads TCP and UDP that comes in by `interface` for one of
    /// `ports` to it. It goes with the lab.
    ///
    /// # Errors
    /// If there is one behind this host already, or a step fails.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn attach_behind(
        &self,
        host: &str,
        interface: &str,
        ports: RangeInclusive<u16>,
    ) -> anyhow::Result<Behind> {
        let host = self.host(host);
        let behind = Netns::new(&self.prefix, &format!("{}-behind", host.role()), &[BEHIND_V4], &self.logs);
        let name = behind.name();
        host.exec(&["ip", "netns", "add", name])?.ok()?;
        for key in ["all", "default"] {
            behind.set_sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0")?;
        }
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.set_sysctl(key, "1")?;
        }
        host.ip_batch(&format!(
            "link add behind0 index {INDEX} type veth peer name eth0 netns {name}\n\
             addr add {GATEWAY_V4}/30 dev behind0\n\
             addr add {GATEWAY_V6}/64 dev behind0 nodad\n\
             link set behind0 up\n"
        ))?;
        behind.ip_batch(&format!(
            "link set lo up\naddr add {BEHIND_V4}/30 dev eth0\naddr add {BEHIND_V6}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via {GATEWAY_V4}\nroute add default via {GATEWAY_V6}\n"
        ))?;
        host.set_offloads("behind0", false)?;
        behind.set_offloads("eth0", false)?;
        let ports = format!("{}-{}", ports.start(), ports.end());
        host.nft(&format!(
            r#"table inet behind {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname "{interface}" meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport {ports} dnat ip to {BEHIND_V4}
        iifname "{interface}" meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport {ports} dnat ip6 to {BEHIND_V6}
    }}
}}
"#
        ))?;
        super::setup::wait_for_carriers(host)?;
        super::setup::wait_for_carriers(&behind)?;
        Ok(Behind { namespace: behind, ipv4: BEHIND_V4.into(), ipv6: BEHIND_V6.into() })
    }
}
