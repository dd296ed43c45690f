//! A policy by tags: who may begin, what may be answered, and how soon another one holds.

use std::time::Duration;

use skynet_tests::fleet::{Agent, Binaries, Relay, traffic};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::JOIN;

/// Five seconds at all who are online; three times that.
const IN_FORCE: Duration = Duration::from_secs(15);
const MIB: usize = 1 << 20;

const TCP_TO_DB: &str = r#"
default = "deny"
[[rule]]
action = "allow"
from = ["web"]
to = ["db"]
services = ["tcp", "icmp"]
[[test]]
from = ["web"]
to = ["db"]
allow = ["tcp/5432"]
deny = ["udp/53"]
"#;

fn pings(from: &Agent, to: &Agent) -> u32 {
    let target = to.overlay_address().unwrap();
    traffic::echo_icmp(from.namespace(), target, 3, Duration::from_millis(200)).unwrap().received
}

fn filtered(agent: &Agent) -> u64 {
    agent.status().unwrap().drops.get("Filtered").copied().unwrap_or(0)
}

#[test]
fn questions_begin_where_the_policy_lets_them_and_answers_come_back() {
    let lab = Lab::builder("policy")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::FullCone, 1)
        .cloud("c", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let start = |host: &str, tag: &str| {
        let token = relay.create_token(&["--token-tag", tag]).unwrap();
        Agent::start(&lab, host, &binaries, &token).unwrap()
    };
    let (web, db, far) = (start("a1", "web"), start("b1", "db"), start("c1", "db"));
    for agent in [&web, &db, &far] {
        agent.wait_joined(JOIN).unwrap();
    }
    for (from, to) in [(&web, &db), (&db, &far), (&far, &web)] {
        wait_for(JOIN, "everybody to reach everybody", || {
            anyhow::ensure!(pings(from, to) > 0, "no answer");
            Ok(())
        })
        .unwrap();
    }

    let file = relay.directory().with_extension("toml");
    let set = |text: &str| {
        std::fs::write(&file, text).unwrap();
        relay.command(&["policy", "set", &file.display().to_string()])
    };
    assert!(
        set(&TCP_TO_DB.replace("deny = [\"udp/53\"]", "allow = [\"udp/53\"]")).is_err(),
        "it fails its own test"
    );
    assert!(pings(&db, &far) > 0, "and changes nothing");

    println!("{}", set(TCP_TO_DB).unwrap());
    let begun = clock::now();
    wait_for(IN_FORCE, "the policy to hold", || {
        for agent in [&web, &db, &far] {
            let epoch = agent.status()?.documents.and_then(|documents| documents.policy_epoch);
            anyhow::ensure!(epoch == Some(1), "{} has policy {epoch:?}", agent.host());
        }
        Ok(())
    })
    .unwrap();
    println!("a policy holds at all who are online after {:?}", begun.elapsed());
    for to in [&db, &far] {
        assert!(pings(&web, to) > 0, "{}", to.log_end());
        let took =
            traffic::transfer_tcp(web.namespace(), to.namespace(), to.overlay_address().unwrap(), 4 * MIB);
        println!("4 MiB by TCP, answers by connection tracking: {:?}", took.unwrap());
        assert_eq!(pings(to, &web), 0, "it may answer, not ask");
        assert_eq!(
            traffic::echo_udp(web.namespace(), to.namespace(), to.overlay_address().unwrap(), 2).unwrap(),
            0
        );
    }
    assert_eq!((pings(&db, &far), pings(&far, &db)), (0, 0));
    assert!(filtered(&db) > 0 && filtered(&web) > 0, "the sender itself holds back");
    let said = relay.command(&["policy", "explain", "a1", "b1", "udp/53"]).unwrap();
    assert!(said.starts_with("denied: no rule is about it"), "{said}");
    let said = relay.command(&["policy", "explain", "a1", "b1", "tcp/22"]).unwrap();
    assert!(said.starts_with("allowed: rule 1, allow web -> db : tcp,icmp"), "{said}");

    // Closed while a ping runs: the last answer comes within the deadline.
    let pinger =
        traffic::Pinger::start(web.namespace(), db.overlay_address().unwrap(), Duration::from_millis(100))
            .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    set("default = \"deny\"").unwrap();
    let begun = clock::now();
    wait_for(IN_FORCE, "nothing to pass any more", || {
        anyhow::ensure!(pings(&web, &db) == 0, "answers still come");
        Ok(())
    })
    .unwrap();
    println!("an open flow is cut within {:?} (three pings of 200 ms among it)", begun.elapsed());
    drop(pinger.stop());
    set("default = \"allow\"").unwrap();
    wait_for(IN_FORCE, "everything to pass again", || {
        anyhow::ensure!(pings(&db, &web) > 0, "no answer");
        Ok(())
    })
    .unwrap();
    drop((web, db, far));
    lab.remove().unwrap();
}
