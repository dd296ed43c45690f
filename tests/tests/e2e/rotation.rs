//! Session keys that live seconds, under traffic, and through a crash.

use std::time::Duration;

use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::{DIRECT, JOIN, Story};

/// Half of the life that is configured, three times.
const CHANGED: Duration = Duration::from_secs(30);

fn key(agent: &Agent) -> anyhow::Result<String> {
    let said = agent.command(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let key = status["self"]["public_key"].as_str().or_else(|| status["public_key"].as_str());
    Ok(key.unwrap_or_default().to_owned())
}

fn wait_changed(agent: &Agent, before: &str) -> String {
    wait_for(CHANGED, &format!("another key of {}", agent.host()), || {
        let now = key(agent)?;
        anyhow::ensure!(!now.is_empty() && now != before, "{now}");
        Ok(now)
    })
    .unwrap()
}

#[test]
fn session_keys_are_replaced_under_ping_and_a_killed_agent_comes_back_with_either() {
    let lab = Lab::builder("keys")
        .relay()
        .cloud("a", NatKind::FullCone, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .cloud("c", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    std::fs::create_dir_all(lab.logs()).unwrap();
    let config = lab.logs().join("keys.toml");
    std::fs::write(&config, "[trust]\nkey_lifetime = \"20s\"\n").unwrap();
    let config = config.display().to_string();
    let arguments = ["--config", config.as_str()];
    let mut story = Story::unwatched(lab, |_| &arguments);
    story.fleet.wait_joined(JOIN).unwrap();
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let [a1, b1, c1] = ["a1", "b1", "c1"].map(|host| story.fleet.agent(host));
    let (direct, relayed) = (b1.overlay_address().unwrap(), c1.overlay_address().unwrap());
    let pingers = [direct, relayed]
        .map(|target| Pinger::start(a1.namespace(), target, Duration::from_millis(50)).unwrap());
    let begun = clock::now();
    let mut keys = vec![key(a1).unwrap()];
    for _ in 0..2 {
        keys.push(wait_changed(a1, keys.last().unwrap()));
    }
    // The others have theirs changed too, and all know each other by the newest.
    let others = [b1, c1].map(|agent| key(agent).unwrap());
    println!("two changes within {:.1?}: {keys:?}", begun.elapsed());
    for pinger in pingers {
        let echoes = pinger.stop().unwrap();
        println!("meanwhile {} of {} pings answered", echoes.received, echoes.sent);
        // One may be under way.
        assert!(echoes.sent - echoes.received <= 1, "{echoes:?}{}{}", a1.log_end(), b1.log_end());
    }
    assert!(others.iter().all(|key| !key.is_empty() && !keys.contains(key)));

    // Killed in a change; every instant of one is the simulator's.
    let address = a1.overlay_address().unwrap();
    let agent = story.fleet.agent_mut("a1");
    let before = key(agent).unwrap();
    wait_changed(agent, &before);
    agent.kill().unwrap();
    agent.restart().unwrap();
    let took = agent.wait_joined(JOIN).unwrap();
    assert_eq!(agent.overlay_address().unwrap(), address);
    println!("killed in a change: back after {took:.1?}");
    let (a1, b1) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    // Whoever is not told that its sessions are void finds out after 15 s.
    crate::first_answer(b1, a1, 2 * DIRECT).unwrap();
    story.end();
}
