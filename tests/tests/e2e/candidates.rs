//! Where a node can be reached, beside its interfaces and what the relay sees: mapped by a router, told by a cloud; and
//! what must not count.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skynet_tests::fleet::{Agent, PathKind, Status};
use skynet_tests::lab::MapsBy;
use skynet_tests::metadata::{Metadata, MetadataService};
use skynet_tests::{Lab, NatKind, Netns, clock};

use crate::{DIRECT, Story};

/// Asking takes up to 750 ms by PCP and NAT-PMP and a few round trips by UPnP; three times that.
const MAPPED: Duration = Duration::from_secs(9);

fn addresses(status: &Status, kind: &str) -> Vec<String> {
    status.candidates.iter().filter(|c| c.kind == kind).map(|c| c.address.clone()).collect()
}

/// Two symmetric clouds stay on the relay (`paths.rs`), unless one router maps a port.
fn one_router_maps(by: MapsBy, protocol: &str) {
    let title = format!("maps-{by:?}").to_lowercase();
    let lab =
        Lab::builder(&title).relay().cloud("a", NatKind::Symmetric, 1).cloud("b", NatKind::Symmetric, 1);
    let lab = lab.build().unwrap();
    let mapper = lab.start_port_mapper("a", by).unwrap();
    let start = clock::now();
    let mut story = Story::begin(lab);
    let expected = format!("{}:{}", mapper.external, story.fleet.agent("a1").port());
    let mapped = |status: &Status| addresses(status, "port_mapping") == [expected.as_str()];
    let status = story.fleet.agent("a1").wait_status(MAPPED, "to have a port mapped", mapped).unwrap();
    println!("{by:?}: mapped {:.1?} after the start", start.elapsed());
    let candidate = status.candidates.iter().find(|c| c.kind == "port_mapping").unwrap();
    assert_eq!(candidate.source, format!("{protocol} at {}", story.lab.router("a").addresses()[1]));
    assert_eq!(mapper.rules().unwrap().len(), 1, "one mapping, however many protocols");
    let silent = |status: &Status| status.port_mapping.state == "no_answer";
    story.fleet.agent("b1").wait_status(MAPPED, "to give its own router up", silent).unwrap();

    let took = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("{by:?}: two symmetric clouds direct after {took:.1?} of traffic");
    let b1 = story.fleet.agent("b1").status().unwrap();
    assert_eq!(b1.peer("a1").unwrap().via.as_deref(), Some(expected.as_str()));

    assert_eq!(story.fleet.agent("a1").command(&["down"]).unwrap().code, Some(0));
    story.fleet.agent_mut("a1").wait_ended(Duration::from_secs(5)).unwrap();
    assert!(mapper.rules().unwrap().is_empty(), "given back: {:?}", mapper.rules());
    drop(mapper);
    story.end();
}

#[test]
fn a_router_that_maps_by_pcp_makes_two_symmetric_clouds_direct() {
    one_router_maps(MapsBy::Pcp, "PCP");
}

#[test]
fn a_router_that_maps_by_nat_pmp_makes_two_symmetric_clouds_direct() {
    one_router_maps(MapsBy::NatPmp, "NAT-PMP");
}

#[test]
fn a_router_that_maps_by_upnp_makes_two_symmetric_clouds_direct() {
    one_router_maps(MapsBy::UpnpIgd, "UPnP IGD");
}

#[test]
fn a_router_that_knows_all_protocols_is_left_with_one_mapping() {
    one_router_maps(MapsBy::All, "PCP");
}

#[test]
fn a_host_translated_one_to_one_tells_the_public_address_that_its_cloud_told() {
    let lab =
        Lab::builder("metadata").relay().cloud("a", NatKind::SecurityGroup, 1).cloud("b", NatKind::Public, 1);
    let lab = lab.build().unwrap();
    let public = lab.public_address("a1");
    let service = MetadataService::start(lab.router("a"), Metadata::Ec2(public)).unwrap();
    // A router that would map is not asked: there is nothing to map.
    let mapper = lab.start_port_mapper("a", MapsBy::All).unwrap();
    let story = Story::begin(lab);
    let a1 = story.fleet.agent("a1");
    let expected = format!("{public}:{}", a1.port());
    let told = |status: &Status| addresses(status, "cloud") == [expected.as_str()];
    let status = a1.wait_status(MAPPED, "to know its public address", told).unwrap();
    let source = status.candidates.iter().find(|c| c.kind == "cloud").map(|c| c.source.clone());
    assert_eq!(source.as_deref(), Some("EC2 metadata"));
    assert_eq!(addresses(&status, "server_reflexive"), Vec::<String>::new(), "the same address is told once");
    let requests = service.requests();
    let at = |line: &str| requests.iter().position(|r| r.starts_with(line)).expect(line);
    assert!(at("PUT /latest/api/token ") < at("GET /latest/meta-data/public-ipv4 "), "{requests:?}");
    let took = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("by a cloud's public address: direct after {took:.1?}");
    assert_eq!(a1.status().unwrap().port_mapping.state, "not_needed");
    assert!(mapper.rules().unwrap().is_empty());
    // A public host has no NAT and asks nobody either.
    assert_eq!(story.fleet.agent("b1").status().unwrap().port_mapping.state, "not_needed");
    drop((mapper, service));
    story.end();
}

#[test]
fn a_metadata_service_that_is_slow_or_hostile_or_lies_changes_nothing() {
    let kinds = [
        ("none", None),
        ("silent", Some(Metadata::Silent)),
        ("endless", Some(Metadata::Endless)),
        ("redirect", Some(Metadata::Redirect)),
        ("page", Some(Metadata::Page)),
        ("lies", Some(Metadata::Ec2("203.0.113.99".parse().unwrap()))),
    ];
    let lab = kinds
        .iter()
        .fold(Lab::builder("hostile").relay(), |lab, (name, _)| lab.cloud(name, NatKind::SecurityGroup, 1));
    let lab = lab.build().unwrap();
    let services: Vec<_> = kinds
        .iter()
        .filter_map(|(name, says)| Some(MetadataService::start(lab.router(name), (*says)?).unwrap()))
        .collect();
    let start = clock::now();
    let story = Story::begin(lab);
    println!("six agents joined after {:.1?}", start.elapsed());
    // Longer than the clouds are given, and than a repetition.
    skynet_tests::wait_until(Duration::from_secs(10), "all services to be asked", || {
        services.iter().all(|s| !s.requests().is_empty())
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for agent in story.fleet.agents() {
        let status = agent.status().unwrap();
        assert_eq!(addresses(&status, "cloud"), Vec::<String>::new(), "{}", agent.host());
        let public = format!("{}:{}", story.lab.public_address(agent.host()), agent.port());
        assert_eq!(addresses(&status, "server_reflexive"), [public], "{}", agent.host());
    }
    let log = |host: &str| story.fleet.agent(host).log();
    assert!(log("endless1").contains("longer than 4096 bytes"), "{}", log("endless1"));
    assert!(log("redirect1").contains("refused with status 302"), "{}", log("redirect1"));
    assert!(log("page1").contains("makes no sense"), "{}", log("page1"));
    assert!(log("lies1").contains("a public address that is not ours"), "{}", log("lies1"));
    drop(services);
    story.end();
}

#[test]
fn neighbours_take_the_private_path_and_containers_that_come_and_go_change_nothing() {
    let lab = Lab::builder("neighbours").relay().cloud("a", NatKind::PortRestricted, 2).build().unwrap();
    let story = Story::begin(lab);
    let (a1, a2) = (story.fleet.agent("a1"), story.fleet.agent("a2"));
    let took = story.fleet.wait_path("a1", "a2", PathKind::Direct, DIRECT).unwrap();
    println!("two hosts behind one NAT: direct after {took:.1?}");
    let private = format!("{}:{}", a2.namespace().address(), a2.port());
    let via = |agent: &Agent, peer: &str| agent.status().unwrap().peer(peer).unwrap().via.clone();
    assert_eq!(via(a1, "a2").as_deref(), Some(private.as_str()));

    let before = a1.status().unwrap().candidates;
    let log_before = a1.log().lines().count();
    let host = a1.namespace();
    let batch = |lines: &[&str]| {
        for line in lines {
            host.exec(&[&["ip"], &line.split(' ').collect::<Vec<_>>()[..]].concat()).unwrap().ok().unwrap();
        }
    };
    for round in 0..4 {
        batch(&[
            "link add br-7f3a type bridge",
            "addr add 172.18.0.1/16 dev br-7f3a",
            "link set br-7f3a up",
            "link add veth12 type veth peer name veth13",
            "link set veth12 master br-7f3a",
            "link set veth12 up",
            "link set veth13 up",
            "addr add 10.244.0.1/32 dev veth13",
        ]);
        // Longer than changes are collected.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(a1.status().unwrap().candidates, before, "round {round}");
        batch(&["link del veth12", "link del br-7f3a"]);
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(a1.status().unwrap().candidates, before, "round {round}");
    }
    assert_eq!(via(a1, "a2").as_deref(), Some(private.as_str()));
    let log = a1.log();
    let changes: Vec<_> = log.lines().skip(log_before).filter(|l| l.contains("path changed")).collect();
    assert!(changes.is_empty(), "{changes:?}");
    story.end();
}

#[test]
fn what_the_operator_says_is_told_to_peers_and_every_switch_works() {
    let lab =
        Lab::builder("advertise").relay().cloud("a", NatKind::Symmetric, 1).cloud("b", NatKind::Symmetric, 1);
    let lab = lab.build().unwrap();
    let mapper = lab.start_port_mapper("a", MapsBy::All).unwrap();
    // Forwarded by hand: outside port 5000.
    let (public, host) = (lab.public_address("a1"), lab.host("a1").address());
    let forward = format!("iifname \"wan\" udp dport 5000 dnat ip to {host}:41820");
    lab.router("a")
        .nft(&format!(
            "table inet byhand {{\n chain prerouting {{ type nat hook prerouting priority dstnat; {forward}; }}\n}}\n\
             insert rule inet firewall forward ct status dnat accept\n"
        ))
        .unwrap();
    let advertise = format!("{public}:5000");
    let all = ["--advertise", advertise.as_str(), "--port-mapping", "false", "--cloud-metadata", "false"];
    let story = Story::unwatched(lab, |host| if host == "a1" { &all } else { &[] });
    story.fleet.wait_joined(crate::JOIN).unwrap();
    let took = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("a port forwarded by hand: two symmetric clouds direct after {took:.1?}");
    let status = story.fleet.agent("a1").status().unwrap();
    assert_eq!(addresses(&status, "configured"), [advertise.as_str()]);
    assert_eq!(status.candidates[0].source, "configuration", "the best first");
    assert_eq!(status.port_mapping.state, "off");
    assert!(mapper.rules().unwrap().is_empty());
    drop(mapper);
    story.end();
}

/// NAT-PMP as RFC 6886 has it, of a router whose own address is a carrier's; ends with the story.
struct InnerRouter {
    ended: Arc<AtomicBool>,
}

impl InnerRouter {
    fn start(router: &Netns) -> Self {
        let socket = router.run(|| UdpSocket::bind("0.0.0.0:5351")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let ended = Arc::<AtomicBool>::default();
        let end = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut request = [0; 1_200];
            while !end.load(Ordering::Acquire) {
                let Ok((n, from)) = socket.recv_from(&mut request) else { continue };
                let mut answer = vec![0, request[1] | 0x80, 0, 0, 0, 0, 0, 9];
                match request[..n] {
                    [0, 0] => answer.extend([100, 64, 3, 4]),
                    [0, 1, ..] if n == 12 => answer.extend(&request[4..12]),
                    _ => answer[3] = 1,
                }
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { ended }
    }
}

impl Drop for InnerRouter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

#[test]
fn a_private_external_address_is_reported_as_double_nat_and_told_to_nobody() {
    let lab = Lab::builder("double").relay().cloud("a", NatKind::Symmetric, 1).build().unwrap();
    let _router = InnerRouter::start(lab.router("a"));
    let story = Story::begin(lab);
    let double = |status: &Status| status.port_mapping.state == "double_nat";
    let status = story.fleet.agent("a1").wait_status(MAPPED, "to see the double NAT", double).unwrap();
    assert_eq!(status.port_mapping.external.as_deref(), Some("100.64.3.4"));
    assert_eq!(addresses(&status, "port_mapping"), Vec::<String>::new());
    let printed = story.fleet.agent("a1").command(&["status"]).unwrap().stdout;
    assert!(printed.contains("double NAT: 10.1.0.1 maps to 100.64.3.4"), "{printed}");
    story.end();
}
