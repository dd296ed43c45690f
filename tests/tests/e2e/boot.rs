//! First boot without hands: the image knows nothing, the cloud says what the machine is to be.

use std::collections::BTreeSet;
use std::time::Duration;

use skynet_tests::fleet::{Agent, AgentState, Binaries, Relay};
use skynet_tests::instance::{CloudKind, Instance};
use skynet_tests::metadata::{Metadata, MetadataService};
use skynet_tests::{Lab, NatKind, clock};

use crate::JOIN;

/// Two seconds for one look at the metadata; three times that.
const LOOK: Duration = Duration::from_secs(6);
/// A look every five seconds, and a join.
const FOUND: Duration = Duration::from_secs(30);

const UNTOLD: [&str; 2] = ["--boot-metadata", "always"];

fn keys(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn four_clouds_tell_their_machines_what_to_be() {
    let lab = ["aws", "gce", "azure", "stack"]
        .iter()
        .fold(Lab::builder("first-boot").relay(), |lab, cloud| lab.cloud(cloud, NatKind::PortRestricted, 1))
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let token = relay.create_token(&["--token-tag", "worker", "--token-tag", "storage"]).unwrap();
    let cloud_config = format!(
        "#cloud-config\nskynet: |\n  token = \"{token}\"\n  name = \"from-ec2\"\n  roles = [\"worker\"]\nruncmd: []\n"
    );
    let script = format!("#!/bin/sh\n#skynet: token = \"{token}\"\necho booted\n");
    let instances = [
        ("aws", CloudKind::Ec2, Instance { user_data: Some(cloud_config), keys: Vec::new() }),
        (
            "gce",
            CloudKind::Gce,
            Instance {
                user_data: Some(script),
                keys: keys(&[("skynet-name", "from-gce"), ("skynet-role", "storage")]),
            },
        ),
        (
            "azure",
            CloudKind::Azure,
            Instance {
                user_data: None,
                keys: keys(&[("skynet-token", &token), ("skynet-name", "from-azure")]),
            },
        ),
        (
            "stack",
            CloudKind::OpenStack,
            Instance {
                user_data: Some(format!("#skynet\ntoken = \"{token}\"\nname = \"from-stack\"\n")),
                keys: Vec::new(),
            },
        ),
    ];
    let services: Vec<_> = instances
        .into_iter()
        .map(|(cloud, kind, instance)| {
            MetadataService::of_instance(lab.router(cloud), kind, instance).unwrap()
        })
        .collect();
    let start = clock::now();
    let agents = ["aws1", "gce1", "azure1", "stack1"]
        .map(|host| Agent::start_untold(&lab, host, &binaries, &UNTOLD).unwrap());
    for agent in &agents {
        agent.wait_joined(JOIN).unwrap();
    }
    println!("four machines that were told nothing have joined after {:.1?}", start.elapsed());
    let barrier = agents[0].command(&["wait", "--count", "4", "--timeout", "20s"]).unwrap();
    assert_eq!(barrier.stdout.trim(), "from-azure from-ec2 from-gce from-stack", "{barrier:?}");
    let inventory = agents[0].command(&["hosts", "--format", "ansible"]).unwrap().stdout;
    let group = |name: &str| {
        let lines = inventory.lines().skip_while(|l| *l != format!("[{name}]")).skip(1);
        lines.take_while(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    // A role that was asked for is the only one; without any, a machine has all that its token allows.
    assert_eq!(group("worker"), ["from-azure", "from-ec2", "from-stack"], "{inventory}");
    assert_eq!(group("storage"), ["from-azure", "from-gce", "from-stack"], "{inventory}");
    for agent in &agents {
        assert!(!agent.log().contains("skj1."), "{}", agent.log());
    }
    drop((agents, services, relay));
    lab.remove().unwrap();
}

/// All that are started from it have the same user-data, down to the name.
#[test]
fn one_image_started_fifty_times_is_fifty_nodes() {
    let clouds = [("a", 13), ("b", 13), ("c", 12), ("d", 12)];
    let lab = clouds
        .iter()
        .fold(Lab::builder("fifty").relay(), |lab, (name, hosts)| {
            lab.cloud(name, NatKind::PortRestricted, *hosts)
        })
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let user_data = format!("#skynet\ntoken = \"{}\"\nname = \"web\"\n", relay.token());
    let services: Vec<_> = clouds
        .iter()
        .map(|(cloud, _)| {
            let image = Instance { user_data: Some(user_data.clone()), keys: Vec::new() };
            MetadataService::of_instance(lab.router(cloud), CloudKind::Ec2, image).unwrap()
        })
        .collect();
    let start = clock::now();
    let hosts = clouds.iter().flat_map(|(cloud, hosts)| (1..=*hosts).map(move |k| format!("{cloud}{k}")));
    let agents: Vec<_> =
        hosts.map(|host| Agent::start_untold(&lab, &host, &binaries, &UNTOLD).unwrap()).collect();
    agents[0].wait_joined(FOUND).unwrap();
    // Three times the thirty seconds.
    let barrier = agents[0].command(&["wait", "--count", "50", "--timeout", "90s"]).unwrap();
    println!("fifty machines of one image have joined {:.1?} after the first was started", start.elapsed());
    assert_eq!(barrier.code, Some(0), "{barrier:?}");
    let addresses: BTreeSet<_> = agents.iter().map(|a| a.overlay_address().unwrap()).collect();
    let listed = agents[49].command(&["hosts", "--format", "hosts"]).unwrap().stdout;
    let names: BTreeSet<&str> = listed.split_whitespace().filter(|word| word.starts_with("web")).collect();
    // Each with its network's name and alone.
    assert_eq!((addresses.len(), names.len()), (50, 100), "{listed}");
    drop((agents, services, relay));
    lab.remove().unwrap();
}

#[test]
fn a_machine_without_metadata_or_with_hostile_ones_runs_and_says_what_it_waits_for() {
    let kinds = [
        ("none", None),
        ("silent", Some(Metadata::Silent)),
        ("endless", Some(Metadata::Endless)),
        ("page", Some(Metadata::Page)),
    ];
    let lab = kinds
        .iter()
        .fold(Lab::builder("no-metadata").relay(), |lab, (name, _)| {
            lab.cloud(name, NatKind::PortRestricted, 1)
        })
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let services: Vec<_> = kinds
        .iter()
        .filter_map(|(name, says)| Some(MetadataService::start(lab.router(name), (*says)?).unwrap()))
        .collect();
    let start = clock::now();
    let agents =
        kinds.map(|(name, _)| Agent::start_untold(&lab, &format!("{name}1"), &binaries, &UNTOLD).unwrap());
    for agent in &agents {
        let waits = agent
            .wait_status(LOOK, "to say what it waits for", |s| s.state == AgentState::NotJoined)
            .unwrap();
        println!("{}: {:?} after {:.1?}", agent.host(), waits.state, start.elapsed());
        let printed = agent.command(&["status"]).unwrap();
        assert!(printed.stdout.contains("no join token yet"), "{printed:?}");
    }
    // The metadata come late, and a hostile service is replaced by a good one: nobody touches the machine.
    drop(services);
    let token = relay.token().to_owned();
    let late = Instance { user_data: None, keys: keys(&[("skynet-token", &token)]) };
    let service = MetadataService::of_instance(lab.router("none"), CloudKind::Ec2, late).unwrap();
    let given = clock::now();
    agents[0].wait_joined(FOUND).unwrap();
    println!("joined {:.1?} after its token was put into the metadata", given.elapsed());
    // A person can still say it.
    assert_eq!(agents[3].up(&token).unwrap().code, Some(0), "{}", agents[3].log_end());
    drop((agents, service, relay));
    lab.remove().unwrap();
}
