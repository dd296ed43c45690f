//! A member tells others to probe what nobody may probe, in every spelling there is; the kernel of each victim is the judge.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use skynet_tests::fleet::{Agent, traffic};
use skynet_tests::mallory::Mallory;
use skynet_tests::{Lab, NatKind, Netns, wait_for};

use crate::{JOIN, Story};

/// The table of the core's unit test.
const TABLE: &str = include_str!("../../../skynet-core/src/path/hostile_addresses.txt");
/// Addresses of a CALL beside the one that may be probed.
const OF_CALL: usize = 15;
/// A probe leaves at once; three times a slow machine's at once.
const PROBED: Duration = Duration::from_secs(6);

/// Every destination of UDP but by the overlay's own device, whatever becomes of the packet afterwards.
const JUDGE: &str = r#"
table inet judge {
    set seen4 { type ipv4_addr; size 65535; flags dynamic; }
    set seen6 { type ipv6_addr; size 65535; flags dynamic; }
    chain out {
        type filter hook output priority -300; policy accept;
        oifname != "skynet0" meta l4proto udp add @seen4 { ip daddr }
        oifname != "skynet0" meta l4proto udp add @seen6 { ip6 daddr }
    }
}
"#;

fn destinations(namespace: &Netns) -> anyhow::Result<BTreeSet<IpAddr>> {
    let mut all = BTreeSet::new();
    for set in ["seen4", "seen6"] {
        let text = namespace.exec(&["nft", "list", "set", "inet", "judge", set])?.ok()?;
        let words = text.split(|c: char| c.is_whitespace() || ",{}".contains(c));
        all.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
    }
    Ok(all)
}

/// What is sent to for good reason: the relay, other hosts of the lab, and the addresses told for proof.
fn is_fair(ip: IpAddr, hosts: &BTreeSet<IpAddr>) -> bool {
    let proof = |ip: Ipv4Addr| ip.octets()[..3] == [192, 0, 2];
    hosts.contains(&ip) || matches!(ip, IpAddr::V4(ip) if proof(ip))
}

/// Where the kernel would broadcast to.
fn broadcasts(victim: &Agent) -> BTreeSet<IpAddr> {
    let list = ["ip", "route", "show", "table", "local", "type", "broadcast"];
    let routes = victim.namespace().exec(&list).unwrap().ok().unwrap();
    let found = routes.split_whitespace().filter_map(|word| word.parse::<IpAddr>().ok());
    found.filter(|ip| !ip.is_loopback()).collect()
}

fn canary(k: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(k + 1).unwrap()], 7_001))
}

#[test]
fn agents_send_nothing_to_forbidden_addresses_that_a_member_tells_in_any_spelling() {
    let lab = Lab::builder("sinks")
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .ipv6()
        .cloud("b", NatKind::Public, 1)
        .ipv6()
        .build()
        .unwrap();
    // Looking for a gateway that maps ports is multicast of the agent's own.
    let mut story = Story::unwatched(lab, |_| &["--port-mapping", "false"]);
    story.fleet.wait_joined(JOIN).unwrap();
    // The one beside the victim a1 turns.
    story.fleet.agent_mut("a2").kill().unwrap();
    let mut mallory = Mallory::join(story.lab.host("a2"), story.fleet.relay().token(), "mallory").unwrap();
    let mut hostile: Vec<SocketAddr> = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    let inside = mallory.overlay().map(|ip| match ip {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) + 0x0304)),
        IpAddr::V6(ip) => IpAddr::V6(std::net::Ipv6Addr::from(u128::from(ip) + 0x0304)),
    });
    hostile.extend(inside.map(|ip| SocketAddr::new(ip, 7_001)));
    let victims = ["a1", "b1"].map(|host| story.fleet.agent(host));
    // Its own interface, another port; and the broadcast addresses of its network: another's is an address as any other.
    for victim in victims {
        hostile.push(SocketAddr::from((victim.namespace().address(), 22)));
        hostile.extend(broadcasts(victim).into_iter().map(|ip| SocketAddr::new(ip, 7_001)));
    }
    let others: Vec<IpAddr> = victims.iter().flat_map(|v| broadcasts(v)).collect();
    assert!(hostile.len() >= 200);
    let hosts: BTreeSet<IpAddr> =
        story.lab.all().flat_map(|n| n.addresses().to_vec()).map(IpAddr::V4).collect();
    victims.iter().for_each(|v| v.namespace().nft(JUDGE).unwrap());

    // By its record: the victims want to talk to it.
    let mut told = vec![canary(200)];
    told.extend(hostile.iter().step_by(hostile.len() / OF_CALL).take(OF_CALL));
    mallory.publish(&told).unwrap();
    let overlay = mallory.overlay_address().unwrap();
    victims.iter().for_each(|v| traffic::poke(v.namespace(), overlay).unwrap());
    seen(&victims, canary(200));

    // By CALLs, all of the table.
    let members = ["a1", "b1"].map(|name| mallory.look_up(name).unwrap());
    for (k, batch) in hostile.chunks(OF_CALL).enumerate() {
        let mut told = batch.to_vec();
        told.push(canary(k));
        members.iter().for_each(|m| mallory.call(m, &told).unwrap());
        seen(&victims, canary(k));
    }
    // By the sources of authentic PINGs, as far as kernels let them pass.
    let a1 = SocketAddrV4::new(victims[0].namespace().address(), victims[0].port());
    let mut pings = 0;
    for source in &hostile {
        if let SocketAddr::V4(source) = source {
            pings += usize::from(mallory.ping_as(*source, &members[0], a1).is_ok());
        }
    }
    mallory.ping_as("192.0.2.250:7001".parse().unwrap(), &members[0], a1).unwrap();
    seen(&victims[..1], "192.0.2.250:7001".parse().unwrap());
    std::thread::sleep(Duration::from_secs(1));

    for victim in victims {
        let seen = destinations(victim.namespace()).unwrap();
        let mut own = broadcasts(victim);
        own.insert(victim.namespace().address().into());
        let fair = |ip: &&IpAddr| (is_fair(**ip, &hosts) || others.contains(ip)) && !own.contains(ip);
        let wrong: Vec<_> = seen.iter().filter(|ip| !fair(ip)).collect();
        println!(
            "{}: told {} addresses, {pings} forged sources; sent to {} destinations, none of them",
            victim.host(),
            hostile.len(),
            seen.len()
        );
        assert!(wrong.is_empty(), "{} has sent to {wrong:?}\n{}", victim.host(), victim.log_end());
    }
    story.fleet.agent_mut("a2").restart().unwrap();
    story.fleet.wait_joined(JOIN).unwrap();
    story.end();
}

/// The proof that what was told was acted upon: the one address that may be probed was.
fn seen(victims: &[&Agent], canary: SocketAddr) {
    for victim in victims {
        wait_for(PROBED, &format!("{} to probe {canary}", victim.host()), || {
            let seen = destinations(victim.namespace())?;
            anyhow::ensure!(seen.contains(&canary.ip()), "{seen:?}\n{}", victim.log_end());
            Ok(())
        })
        .unwrap();
    }
}
