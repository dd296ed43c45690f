//! What the internet sees of UDP: how much on which 5-tuple; and cutting one of them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;
use serde_json::Value;

use super::Lab;

/// One direction of one UDP 5-tuple, as the internet sees it: after source NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFlow {
    /// Who sends.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// Packets; a train that crosses a link whole is one.
    pub packets: u64,
    /// Bytes with IP headers.
    pub bytes: u64,
}

/// Counting.
impl Lab {
    /// Begins to count UDP by 5-tuple, from 0.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn count_udp_flows(&self) -> anyhow::Result<()> {
        self.internet().nft(
            r#"table ip flows
delete table ip flows
table ip flows {
    set seen {
        type ipv4_addr . inet_service . ipv4_addr . inet_service
        flags dynamic
        size 65535
    }
    chain forward {
        type filter hook forward priority filter + 20;
        meta l4proto udp update @seen { ip saddr . udp sport . ip daddr . udp dport counter }
    }
}
"#,
        )
    }

    /// What was counted, the most bytes first.
    ///
    /// # Errors
    /// If nothing is being counted.
    pub fn udp_flows(&self) -> anyhow::Result<Vec<UdpFlow>> {
        let json = self.internet().exec(&["nft", "-j", "list", "set", "ip", "flows", "seen"])?.ok()?;
        parse(&json).with_context(|| json)
    }

    /// Drops everything on this 5-tuple, both ways, silently.
    ///
    /// # Errors
    /// If nftables refuses.
    pub fn cut_udp_flow(&self, flow: &UdpFlow) -> anyhow::Result<()> {
        for (from, to) in [(flow.from, flow.to), (flow.to, flow.from)] {
            self.add_rule(&format!(
                "ip saddr {} udp sport {} ip daddr {} udp dport {} drop",
                from.ip(),
                from.port(),
                to.ip(),
                to.port()
            ))?;
        }
        Ok(())
    }
}

fn parse(json: &str) -> anyhow::Result<Vec<UdpFlow>> {
    let json: Value = serde_json::from_str(json)?;
    let items = json["nftables"].as_array().context("no list")?;
    let set = items.iter().find_map(|item| item.get("set")).context("no set")?;
    let elements = set.get("elem").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut flows = elements.iter().map(|element| flow(&element["elem"])).collect::<Option<Vec<_>>>();
    if let Some(flows) = &mut flows {
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.bytes));
    }
    flows.context("an element that is no flow")
}

fn flow(element: &Value) -> Option<UdpFlow> {
    let parts = &element["val"]["concat"];
    let socket = |at: usize| {
        let address: Ipv4Addr = parts[at].as_str()?.parse().ok()?;
        Some(SocketAddrV4::new(address, u16::try_from(parts[at + 1].as_u64()?).ok()?))
    };
    let counter = &element["counter"];
    let (packets, bytes) = (counter["packets"].as_u64()?, counter["bytes"].as_u64()?);
    Some(UdpFlow { from: socket(0)?, to: socket(2)?, packets, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_set_of_nftables() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"family": "ip", "name": "seen",
            "elem": [{"elem": {"val": {"concat": ["192.0.2.2", 7, "192.0.2.34", 9]}, "counter": {"packets": 1, "bytes": 64}}},
                     {"elem": {"val": {"concat": ["192.0.2.34", 9, "192.0.2.2", 7]}, "counter": {"packets": 2, "bytes": 65}}}]}}]}"#;
        let flows = parse(json).unwrap();
        assert_eq!((flows[0].bytes, flows[1].bytes, flows[0].packets), (65, 64, 2));
        assert_eq!((flows[0].from, flows[0].to), (flows[1].to, flows[1].from));
        assert_eq!(parse(r#"{"nftables": [{"set": {"name": "seen"}}]}"#).unwrap(), []);
        assert!(parse(r#"{"nftables": []}"#).is_err());
    }
}
