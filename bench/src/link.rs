//! Two namespaces joined by one veth pair:
//!
//! ```text
//!   left ── link0 172.31.255.1/30 ═════ veth ═════ 172.31.255.2/30 link0 ── right
//!     └─ tunnel 172.30.255.1/24                    172.30.255.2/24 tunnel ─┘
//! ```
//!
//! or, to police what passes, with a router between:
//!
//! ```text
//!   left ── link0 172.31.255.1/30 ══ .2 router .5 ══ 172.31.255.6/30 link0 ── right
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use skynet_tests::{Lab, NatKind, Netns};

use crate::underlay::{DEVICE, Underlay};

/// The UDP port of every tunnel, at both ends.
const PORT: u16 = 51_820;

/// The machine under test; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    lab: Lab,
    underlay: Underlay,
    right: Ipv4Addr,
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

    /// A directory of its own below the link's.
    pub(crate) fn directory(&self, link: &Link, peer: &str) -> anyhow::Result<PathBuf> {
        let directory = link.directory().join(format!("{peer}-{}", self.namespace.role()));
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

impl Link {
    /// Left and right are neighbours.
    pub(crate) fn new(underlay: Underlay) -> anyhow::Result<Self> {
        let link = Self { lab: lab()?, underlay, right: Ipv4Addr::new(172, 31, 255, 2) };
        let (left, right) = (link.left(), link.right());
        join(&left.namespace, DEVICE, &right.namespace, DEVICE)?;
        for (end, other) in [(&left, &right), (&right, &left)] {
            address(&end.namespace, DEVICE, end.underlay)?;
            default_route(&end.namespace, other.underlay)?;
        }
        link.restore()?;
        Ok(link)
    }

    /// A router stands between them: [`Link::router`].
    pub(crate) fn routed(underlay: Underlay) -> anyhow::Result<Self> {
        let link = Self { lab: lab()?, underlay, right: Ipv4Addr::new(172, 31, 255, 6) };
        let router = link.router();
        // The lab's own rules would track every connection.
        router.nft("flush ruleset\n")?;
        let near = [Ipv4Addr::new(172, 31, 255, 2), Ipv4Addr::new(172, 31, 255, 5)];
        for (end, port, gateway) in [(link.left(), "left", near[0]), (link.right(), "right", near[1])] {
            join(router, port, &end.namespace, DEVICE)?;
            address(router, port, gateway)?;
            address(&end.namespace, DEVICE, end.underlay)?;
            default_route(&end.namespace, gateway)?;
        }
        link.restore()?;
        Ok(link)
    }

    /// The end that asks: client of iperf3 and ping.
    pub(crate) fn left(&self) -> End {
        self.end("a1", Ipv4Addr::new(172, 31, 255, 1), 1)
    }

    /// The end that answers.
    pub(crate) fn right(&self) -> End {
        self.end("a2", self.right, 2)
    }

    /// What stands between them on a [`Link::routed`] one.
    pub(crate) fn router(&self) -> &Netns {
        self.lab.router("a")
    }

    /// The lab it is made of.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where peers may put configuration and state; removed with the link.
    pub(crate) fn directory(&self) -> &Path {
        self.lab.logs()
    }

    /// What the link's devices do for its ends.
    pub(crate) fn underlay(&self) -> Underlay {
        self.underlay
    }

    /// Gives both ends the link's own underlay again.
    pub(crate) fn restore(&self) -> anyhow::Result<()> {
        self.set_underlay(self.underlay)
    }

    /// Gives both ends another one.
    pub(crate) fn set_underlay(&self, underlay: Underlay) -> anyhow::Result<()> {
        underlay.apply([&self.left().namespace, &self.right().namespace])
    }

    /// Everything that runs at either end, whoever started it: between measurements, the tunnel's processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        [self.left(), self.right()].iter().flat_map(|end| end.namespace.processes()).collect()
    }

    /// Ends what a peer has left running; returns how many processes that were.
    pub(crate) fn sweep(&self) -> usize {
        let left_over = self.processes().len();
        if left_over > 0 {
            self.left().namespace.end_processes();
            self.right().namespace.end_processes();
        }
        left_over
    }

    fn end(&self, host: &str, underlay: Ipv4Addr, number: u8) -> End {
        End { namespace: self.lab.host(host).clone(), underlay, overlay: Ipv4Addr::new(172, 30, 255, number) }
    }
}

/// Two hosts whose way through the lab is down, so that no tunnel finds it.
fn lab() -> anyhow::Result<Lab> {
    let lab = Lab::builder("bench").cloud("a", NatKind::Public, 2).build()?;
    for host in lab.hosts() {
        host.exec(&["ip", "link", "set", "eth0", "down"])?.ok()?;
    }
    Ok(lab)
}

fn join(one: &Netns, device: &str, other: &Netns, there: &str) -> anyhow::Result<()> {
    let argv = ["ip", "link", "add", device, "type", "veth", "peer", there, "netns", other.name()];
    one.exec(&argv)?.ok()?;
    Ok(())
}

fn address(namespace: &Netns, device: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let address = format!("{address}/30");
    namespace.exec(&["ip", "addr", "add", &address, "dev", device])?.ok()?;
    namespace.exec(&["ip", "link", "set", device, "up"])?.ok()?;
    Ok(())
}

/// Some tunnels ask the routing table which address of theirs the internet sees; between neighbours nothing takes it.
fn default_route(namespace: &Netns, gateway: Ipv4Addr) -> anyhow::Result<()> {
    namespace.exec(&["ip", "route", "replace", "default", "via", &gateway.to_string()])?.ok()?;
    Ok(())
}
