//! Two namespaces joined by one veth pair:
//!
//! ```text
//!   left ── link0 172.31.255.1/30 ═════ veth ═════ 172.31.255.2/30 link0 ── right
//!     └─ tunnel 172.30.255.1/24                    172.30.255.2/24 tunnel ─┘
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use skynet_tests::{Lab, NatKind, Netns};

/// The UDP port of every tunnel, at both ends.
const PORT: u16 = 51_820;

/// The machine under test; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    lab: Lab,
}

/// One end of it.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// Where it lives.
    pub(crate) namespace: Netns,
    /// Address on the veth.
    pub(crate) underlay: Ipv4Addr,
    /// Address inside the tunnel.
    pub(crate) overlay: Ipv4Addr,
}

impl End {
    /// Where this end's tunnel listens.
    pub(crate) fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.underlay, PORT)
    }
}

impl Link {
    /// Makes it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let lab = Lab::builder("bench").cloud("a", NatKind::Public, 2).build()?;
        let link = Self { lab };
        let (left, right) = (link.left(), link.right());
        left.namespace
            .exec(&[
                "ip",
                "link",
                "add",
                "link0",
                "type",
                "veth",
                "peer",
                "link0",
                "netns",
                right.namespace.name(),
            ])?
            .ok()?;
        for end in [left, right] {
            let address = format!("{}/30", end.underlay);
            end.namespace.exec(&["ip", "addr", "add", &address, "dev", "link0"])?.ok()?;
            end.namespace.exec(&["ip", "link", "set", "link0", "up"])?.ok()?;
        }
        Ok(link)
    }

    /// The end that asks: client of iperf3 and ping.
    pub(crate) fn left(&self) -> End {
        self.end("a1", 1)
    }

    /// The end that answers.
    pub(crate) fn right(&self) -> End {
        self.end("a2", 2)
    }

    /// Where peers may put configuration and state; removed with the link.
    pub(crate) fn directory(&self) -> PathBuf {
        self.lab.logs().to_owned()
    }

    fn end(&self, host: &str, number: u8) -> End {
        End {
            namespace: self.lab.host(host).clone(),
            underlay: Ipv4Addr::new(172, 31, 255, number),
            overlay: Ipv4Addr::new(172, 30, 255, number),
        }
    }
}
