//! The operator's key elsewhere, and what comes back of it.

use skynet_core::member::document::{Kind, kind_of};

use super::*;

/// The next documents that the relay pushes to `node`, until one of this kind.
fn hear(node: &mut Node, wanted: Kind) -> Vec<u8> {
    let mut stream = Some(node.stream.try_clone().unwrap());
    until(&mut node.client, &mut stream, node.clock, |event| match event {
        ControlEvent::Document(document) if kind_of(&document) == Some(wanted) => Some(document),
        _ => None,
    })
}

fn told(dir: &Path, arguments: &[&str]) -> serde_json::Value {
    let done = output(dir, &[arguments, &["--json"]].concat());
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
    json(&done.stdout)
}

#[test]
fn what_is_signed_elsewhere_is_carried_to_the_running_relay_and_told_to_its_members() {
    let parent = passable_directory();
    let (dir, stick) = (parent.path().join("relay"), parent.path().join("stick"));
    let relay = Relay::up(&dir);
    let mut alpha = join(relay.up["token"].as_str().unwrap(), "alpha");
    hear(&mut alpha, Kind::Freshness);

    told(&dir, &["network", "root", "export", stick.to_str().unwrap(), "--remove"]);
    assert_eq!(told(&dir, &["network", "show"])["root_key_on_this_host"], false);
    let refused = output(&dir, &["token", "create"]);
    assert!(!refused.status.success());
    let token = told(&stick, &["token", "create"]);
    let tokens = told(&stick, &["token", "list"]);
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 2, "with the first one: {tokens}");
    drop(join(token["token"].as_str().unwrap(), "beta"));

    let file = parent.path().join("policy.toml");
    std::fs::write(&file, "default = \"deny\"").unwrap();
    told(&stick, &["policy", "set", file.to_str().unwrap()]);
    assert_eq!(told(&dir, &["network", "import", stick.to_str().unwrap()])["taken"][0], "policy");
    hear(&mut alpha, Kind::Policy);
    assert_eq!(told(&dir, &["policy", "explain", "alpha", "beta", "tcp/22"])["allowed"], false);

    let shown = told(&dir, &["node", "show", "alpha"]);
    told(&stick, &["node", "revoke", shown["node"]["identity"].as_str().unwrap()]);
    told(&dir, &["network", "import", stick.to_str().unwrap()]);
    hear(&mut alpha, Kind::Revocations);
    let left = told(&dir, &["node", "list"]);
    assert_eq!((&left["nodes"][0]["name"], left["nodes"].as_array().unwrap().len()), (&"beta".into(), 1));
    let mut end = [0; 64];
    alpha.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while alpha.stream.read(&mut end).unwrap() > 0 {}
}

#[test]
fn a_network_made_offline_runs_without_its_root() {
    let parent = passable_directory();
    let (operator, host) = (parent.path().join("operator"), parent.path().join("host"));
    let made = told(
        &operator,
        &["network", "init", "--offline", host.to_str().unwrap(), "--public-address", "127.0.0.1:34789"],
    );
    assert!(!host.join("operator").exists() && operator.join("operator/root.key").exists());
    let show = told(&operator, &["network", "show"]);
    assert_eq!(
        (&show["root_key_on_this_host"], &show["registrar_on_this_host"]),
        (&true.into(), &false.into())
    );
    let mut relay = Relay::start(&host, &["run", "--listen", "127.0.0.1:34789", "--tls-listen", "off"]);
    let clock = Clock::new();
    while TcpStream::connect("127.0.0.1:34789").is_err() {
        assert!(Duration::from_nanos(clock.now().mono.as_nanos()) < PATIENCE, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let node = join(made["token"].as_str().unwrap(), "first");
    assert_eq!(node.credentials.member(Clock::new().now().unix).unwrap().name().as_str(), "first");
    assert!(relay.stop());
}
