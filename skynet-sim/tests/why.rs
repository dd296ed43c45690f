//! Every pair of NATs with production nodes: what `why` says of it, at both ends, is what the oracle knows.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::diagnosis::{Cause, Echo, Evidence, Filtering, HostView, Mapping, Udp, Way, diagnose};
use skynet_core::drop::DropReason;
use skynet_core::time::Duration;
use skynet_sim::nat;
use skynet_sim::oracle::Direct;
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// What a look at the network behind such a NAT shows.
fn view(kind: NatKind) -> HostView {
    let config = kind.config();
    if config.blocks_udp {
        return HostView { udp: Udp::Blocked, ..HostView::default() };
    }
    HostView {
        udp: Udp::Works,
        mapping: match config.mapping {
            nat::Mapping::EndpointIndependent => Mapping::EndpointIndependent,
            nat::Mapping::AddressDependent => Mapping::AddressDependent,
            nat::Mapping::AddressAndPortDependent => Mapping::AddressAndPortDependent,
        },
        filtering: match config.filtering {
            nat::Filtering::EndpointIndependent | nat::Filtering::AddressDependent => {
                Filtering::AddressDependent
            }
            nat::Filtering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        },
        ..HostView::default()
    }
}

fn pair(kinds: [NatKind; 2]) -> (Overlay, [HostId; 2]) {
    let mut o = Overlay::new(7);
    let ends = kinds.map(|kind| {
        let cloud = o.cloud(kind);
        let host = o.add_agent(cloud);
        o.set_host_view(host, view(kind)).unwrap();
        host
    });
    assert!(o.join_all(10 * S).unwrap(), "{kinds:?} {}", o.report());
    o.world_mut().run_for(25 * S).unwrap();
    (o, ends)
}

/// Evidence after traffic both ways, with what a ping would have shown.
fn ask(o: &mut Overlay, from: HostId, to: HostId) -> Evidence {
    let _first = o.inquire(from, to).unwrap();
    o.world_mut().run_for(3 * S).unwrap();
    let evidence = o.inquire(from, to).unwrap().unwrap();
    let received = o.received(from, to).map_or(0, |book| u32::try_from(book.distinct()).unwrap());
    Evidence { port: 51_820, echo: Some(Echo { sent: 80, received }), ..evidence }
}

#[test]
fn every_pair_of_nats_is_explained_at_both_ends() {
    let mut table = String::new();
    for (i, &a) in NatKind::ALL.iter().enumerate() {
        for &b in &NatKind::ALL[i..] {
            let (mut o, [x, y]) = pair([a, b]);
            o.flow(x, y, 100 * MS, 80).unwrap();
            o.flow(y, x, 100 * MS, 80).unwrap();
            o.world_mut().run_for(9 * S).unwrap();
            let direct = o.is_direct(x, y);
            let expected = o.expected(x, y);
            for (from, to, here, there) in [(x, y, a, b), (y, x, b, a)] {
                let evidence = ask(&mut o, from, to);
                let found = diagnose(&evidence);
                table += &format!(
                    "{:>9} {:<9} {:24} {}\n",
                    here.name(),
                    there.name(),
                    found.cause.id(),
                    found.verdict
                );
                let blocked = |kind: NatKind| kind == NatKind::UdpBlocked;
                let wanted = match (blocked(here), blocked(there)) {
                    (true, _) => Cause::UdpBlockedHere,
                    (_, true) => Cause::UdpBlockedThere,
                    _ if direct => Cause::Direct,
                    _ if [here, there].iter().all(|k| view(*k).mapping.is_hard()) => Cause::BothSymmetric,
                    _ => Cause::SymmetricAndFiltered,
                };
                assert_eq!(found.cause, wanted, "{table}{evidence:#?}{}", o.report());
                assert!(expected != Direct::MustNot || found.cause != Cause::Direct, "{table}");
                let reached = !blocked(here) && !blocked(there);
                assert_eq!(
                    evidence.there.is_some(),
                    reached,
                    "both ends speak where there is a tunnel: {table}"
                );
            }
        }
    }
    println!("{table}");
}

#[test]
fn a_peer_answers_once_a_second_and_looks_around_once_a_minute() {
    let (mut o, [a, b]) = pair([NatKind::PortRestricted, NatKind::Symmetric]);
    o.flow(a, b, 100 * MS, 300).unwrap();
    o.world_mut().run_for(8 * S).unwrap();
    assert!(o.inquire(a, b).unwrap().unwrap().there.is_none(), "nobody has asked before");
    o.world_mut().run_for(S).unwrap();
    let told = o.inquire(a, b).unwrap().unwrap().there.unwrap();
    assert_eq!(told.host, view(NatKind::Symmetric));
    assert!(told.relay_up && told.observed.is_some() && !told.pairs.is_empty());
    assert!(matches!(told.changes.last().and_then(|c| c.to), Some(Way::Relay(_))));
    // What it would see now is not looked at, and a hasty client sends no more than one question a second.
    o.set_host_view(b, HostView::default()).unwrap();
    for _ in 0..20 {
        o.inquire(a, b).unwrap();
        o.world_mut().run_for(100 * MS).unwrap();
    }
    assert_eq!(o.inquire(a, b).unwrap().unwrap().there.unwrap().host, view(NatKind::Symmetric));
    let refused = |host| {
        o.agent(host).drops().iter().find(|(r, _)| *r == DropReason::RateLimited).map_or(0, |(_, n)| *n)
    };
    assert_eq!((refused(a), refused(b)), (0, 0));
}
