//! The operator takes machines and tokens back, by the commands.

use std::time::Duration;

use skynet_tests::fleet::{Agent, AgentState, PathKind};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::{DIRECT, JOIN, Story, first_answer};

/// Five seconds at all who are online; three times that.
const CUT_OFF: Duration = Duration::from_secs(15);

fn json(story: &Story, arguments: &[&str]) -> serde_json::Value {
    let said = story.fleet.relay().command(&[arguments, &["--json"]].concat()).unwrap();
    serde_json::from_str(&said).unwrap()
}

fn wait_forgotten(agents: &[&Agent], name: &str) {
    let begun = clock::now();
    wait_for(CUT_OFF, &format!("{name} to be forgotten"), || {
        for agent in agents {
            let peers = agent.status()?.peers;
            anyhow::ensure!(peers.iter().all(|peer| peer.name != name), "{} knows it", agent.host());
        }
        Ok(())
    })
    .unwrap();
    println!("{name} is cut off at all online peers after {:?}", begun.elapsed());
}

#[test]
fn a_revoked_machine_is_cut_off_everywhere_and_a_revoked_token_admits_nobody() {
    let lab = Lab::builder("revoke")
        .relay()
        .cloud("a", NatKind::FullCone, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .cloud("c", NatKind::Public, 2)
        .build()
        .unwrap();
    let mut story = Story::begin(lab);
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let [a1, b1, c1] = ["a1", "b1", "c1"].map(|host| story.fleet.agent(host));
    first_answer(c1, a1, DIRECT).unwrap();

    // What there is.
    let nodes = json(&story, &["node", "list"]);
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 4, "{nodes}");
    let tokens = json(&story, &["token", "list"]);
    let token = &tokens["tokens"][0];
    assert_eq!((&token["state"], &token["used"]), (&"good".into(), &4.into()), "{tokens}");
    let shown = json(&story, &["node", "show", "a1"]);
    assert_eq!(shown["node"]["ipv4"], a1.overlay_address().unwrap().to_string(), "{shown}");

    // One machine.
    let said = story.fleet.relay().command(&["node", "revoke", "a1"]).unwrap();
    println!("{said}");
    wait_forgotten(&[b1, c1], "a1");
    a1.wait_status(CUT_OFF, "that it is told", |status| {
        status.state == AgentState::Failed && status.message.as_deref().is_some_and(|m| m.contains("revoked"))
    })
    .unwrap();
    assert_eq!(json(&story, &["node", "list"])["nodes"].as_array().unwrap().len(), 3);
    first_answer(c1, b1, DIRECT).unwrap();
    // Neither its own restart nor the relay's brings it back.
    story.fleet.relay_mut().kill().unwrap();
    story.fleet.relay_mut().restart().unwrap();
    let a1 = story.fleet.agent_mut("a1");
    a1.kill().unwrap();
    a1.restart().unwrap();
    std::thread::sleep(Duration::from_secs(8));
    assert!(a1.log().contains("revoked"), "{}", a1.log_end());
    a1.kill().unwrap();
    let [b1, c1, c2] = ["b1", "c1", "c2"].map(|host| story.fleet.agent(host));
    for agent in [b1, c1, c2] {
        agent.wait_joined(JOIN).unwrap();
        assert!(agent.status().unwrap().peers.iter().all(|peer| peer.name != "a1"), "{}", agent.log_end());
    }

    // The token it came by: nobody new, then nobody at all.
    let id = token["token_id"].as_str().unwrap();
    story.fleet.relay().command(&["token", "revoke", id]).unwrap();
    assert_eq!(json(&story, &["token", "list"])["tokens"][0]["state"], "revoked");
    let a1 = story.fleet.agent("a1");
    std::fs::remove_dir_all(a1.state_directory()).unwrap();
    let refused = a1.up(story.fleet.relay().token()).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("token was revoked"), "{refused:?}");
    first_answer(c1, b1, DIRECT).unwrap();
    story.fleet.relay().command(&["token", "revoke", id, "--all"]).unwrap();
    for name in ["b1", "c1", "c2"] {
        let others: Vec<&Agent> = [b1, c1, c2].into_iter().filter(|agent| agent.host() != name).collect();
        wait_forgotten(&others, name);
    }
    assert_eq!(json(&story, &["node", "list"])["nodes"].as_array().unwrap().len(), 0);
    story.end();
}
