//! The NATs are what their names say: an observer on two addresses finds out, as RFC 5780 does, and the result is
//! the table that was measured between real NATs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;

use skynet_core::time::Duration;
use skynet_sim::link::LinkConfig;
use skynet_sim::nat::NatConfig;
use skynet_sim::topology::{NatKind, Topology};
use skynet_sim::toy::{Observer, Script};
use skynet_sim::{Host, HostId};

const S: Duration = Duration::from_secs(1);

struct Lab {
    topology: Topology,
    servers: [SocketAddr; 4],
    host: HostId,
}

impl Lab {
    /// A host behind `nats`, innermost first, and an observer on the internet.
    fn new(nats: &[(NatKind, NatConfig)]) -> Self {
        let mut t = Topology::new(11);
        let ips = [t.next_public_ip(), t.next_public_ip()];
        let link = LinkConfig::latency(Duration::from_millis(5));
        let internet = t.internet();
        let observer = Box::new(Observer::new(ips));
        let id = t.world.add_host(internet, ips[0], link.clone(), link.clone(), observer);
        t.world.add_interface(id, internet, ips[1], link.clone(), link.clone());
        let mut cloud = None;
        for (kind, config) in nats.iter().rev() {
            cloud = Some(match cloud {
                None => t.add_cloud_with(*kind, config.clone(), link.clone(), link.clone()),
                Some(carrier) => t.add_cloud_in(carrier, *kind, Duration::from_millis(1)),
            });
        }
        let host = t.add_host(cloud.unwrap(), |site| Box::new(Script::new(site.ip)) as Box<dyn Host>);
        let servers = [(0, 3478), (0, 3479), (1, 3478), (1, 3479)].map(|(i, p)| SocketAddr::new(ips[i], p));
        Self { topology: t, servers, host }
    }

    /// Asks server `server` from local `port`; the observed endpoint, if an answer came.
    fn ask(&mut self, port: u16, server: usize, change: (bool, bool)) -> Option<SocketAddr> {
        let to = self.servers[server];
        self.send(port, to, &Observer::request(change.0, change.1, 0))
            .into_iter()
            .find_map(|(_, bytes)| Observer::parse(&bytes).map(|(_, observed)| observed))
    }

    /// Sends and waits a second: what arrived on any port meanwhile.
    fn send(&mut self, port: u16, to: SocketAddr, bytes: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let world = &mut self.topology.world;
        let before = world.host::<Script>(self.host).received().len();
        let after = world.now().saturating_since(skynet_core::time::Instant::ZERO);
        world.with_host(self.host, |h: &mut Script, _| h.say(after, port, to, bytes)).unwrap();
        world.run_for(S).unwrap();
        let received = &world.host::<Script>(self.host).received()[before..];
        received.iter().map(|r| (r.from, r.bytes.clone())).collect()
    }
}

/// One line of the proof table.
fn classify(nats: &[(NatKind, NatConfig)]) -> String {
    let mut lab = Lab::new(nats);
    let Some(first) = lab.ask(5_000, 0, (false, false)) else { return "udp=False".to_owned() };
    let observed: Vec<_> = (1..4).filter_map(|s| lab.ask(5_000, s, (false, false))).collect();
    let mapping = match (observed[0] == first, observed[1] == first) {
        (true, true) => "EIM",
        (true, false) => "ADM",
        _ => "APDM",
    };
    let filtering = if lab.ask(5_001, 0, (true, true)).is_some() {
        "EIF"
    } else if lab.ask(5_002, 0, (false, true)).is_some() {
        "ADF"
    } else {
        "APDF"
    };
    let keeps_port = first.port() == 5_000;
    let (a, b) = (lab.ask(6_000, 0, (false, false)).unwrap(), lab.ask(6_001, 0, (false, false)).unwrap());
    lab.send(6_000, b, b"hairpin");
    let heard = lab.send(6_001, a, b"hairpin");
    let hairpin = match heard.first() {
        None => "False",
        Some((from, _)) if *from == b => "yes(src=public)",
        Some(_) => "yes(src=private)",
    };
    let deltas = if mapping == "APDM" {
        let ports: Vec<i32> = std::iter::once(first).chain(observed).map(|e| i32::from(e.port())).collect();
        let deltas: Vec<i32> = ports.windows(2).map(|w| w[1] - w[0]).collect();
        if deltas.iter().all(|d| *d == 1) { "[1]" } else { "random" }
    } else {
        "[0]"
    };
    format!("udp=True map={mapping} filt={filtering} keepport={keeps_port} hairpin={hairpin} deltas={deltas}")
}

fn one(kind: NatKind) -> Vec<(NatKind, NatConfig)> {
    vec![(kind, kind.config())]
}

fn hairpinning(kind: NatKind) -> Vec<(NatKind, NatConfig)> {
    vec![(kind, NatConfig { hairpinning: true, ..kind.config() })]
}

/// `verify_kinds`: every kind is as intended.
#[test]
fn every_kind_of_nat_is_what_its_name_says() {
    use NatKind::*;
    let mut table = String::new();
    let mut row = |name: &str, nats: &[(NatKind, NatConfig)]| {
        table += &format!("{name:<22} {}\n", classify(nats));
    };
    for kind in NatKind::ALL {
        row(kind.name(), &one(kind));
    }
    for kind in [FullCone, AddressRestricted, PortRestricted] {
        row(&format!("{}+hairpin", kind.name()), &hairpinning(kind));
    }
    for (inner, outer) in [
        (PortRestricted, PortRestricted),
        (FullCone, FullCone),
        (PortRestricted, Symmetric),
        (Symmetric, FullCone),
    ] {
        let chain = [(inner, inner.config()), (outer, outer.config())];
        row(&format!("{} / CGN {}", inner.name(), outer.name()), &chain);
    }
    let expected = "\
public                 udp=True map=EIM filt=EIF keepport=true hairpin=False deltas=[0]
sg                     udp=True map=EIM filt=APDF keepport=true hairpin=False deltas=[0]
fullcone               udp=True map=EIM filt=EIF keepport=true hairpin=False deltas=[0]
addr                   udp=True map=EIM filt=ADF keepport=true hairpin=False deltas=[0]
port                   udp=True map=EIM filt=APDF keepport=true hairpin=False deltas=[0]
port-np                udp=True map=EIM filt=APDF keepport=false hairpin=False deltas=[0]
port-in                udp=True map=EIM filt=APDF keepport=true hairpin=False deltas=[0]
adm                    udp=True map=ADM filt=APDF keepport=false hairpin=False deltas=[0]
sym-seq                udp=True map=APDM filt=APDF keepport=false hairpin=False deltas=[1]
sym                    udp=True map=APDM filt=APDF keepport=false hairpin=False deltas=random
udpblock               udp=False
fullcone+hairpin       udp=True map=EIM filt=EIF keepport=true hairpin=yes(src=public) deltas=[0]
addr+hairpin           udp=True map=EIM filt=ADF keepport=true hairpin=yes(src=public) deltas=[0]
port+hairpin           udp=True map=EIM filt=APDF keepport=true hairpin=yes(src=public) deltas=[0]
port / CGN port        udp=True map=EIM filt=APDF keepport=true hairpin=False deltas=[0]
fullcone / CGN fullcone udp=True map=EIM filt=EIF keepport=true hairpin=False deltas=[0]
port / CGN sym         udp=True map=APDM filt=APDF keepport=false hairpin=False deltas=random
sym / CGN fullcone     udp=True map=APDM filt=APDF keepport=false hairpin=False deltas=random
";
    assert_eq!(table, expected, "\n{table}");
}
