//! What the operator sees and sets.

use std::collections::BTreeSet;

use super::*;

/// What `GET path` answers: its head and its body.
fn get(addr: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn every_documented_metric_is_served_and_every_served_one_is_documented() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let metrics = format!("127.0.0.1:{port}");
    let relay = Relay::start(
        &dir,
        &["up", "--json", "--listen", "127.0.0.1:0", "--public-address", "127.0.0.1", "--metrics", &metrics],
    );
    let token = relay.up["token"].as_str().unwrap();
    let (a, b) = (join(token, "alpha"), join(token, "beta"));
    let bound_a = Bound::new(&a, relay.addr());
    let mut bound_b = Bound::new(&b, relay.addr());
    for _ in 0..10 {
        bound_a.send(node_no(&b), b"counted");
        bound_b.receive();
    }
    // Figures are a second old at most.
    let end = a.clock.now().mono + PATIENCE;
    let (head, body) = loop {
        let (head, body) = get(&metrics, "/metrics");
        let forwarded: f64 = body
            .lines()
            .filter(|line| line.starts_with("skynet_relay_forwarded_datagrams_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        // Each thread tells in its own time.
        if forwarded == 10.0 && body.contains("skynet_relay_sessions{transport=\"udp\"} 2\n") {
            break (head, body);
        }
        assert!(a.clock.now().mono < end, "{body}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let names = |text: &str, before: &str, after: char| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(before));
        lines.map(|rest| rest.split(after).next().unwrap().to_owned()).collect()
    };
    let documented = names(include_str!("../../../docs/RELAY.md"), "| `skynet_relay_", '`');
    assert_eq!(names(&body, "# TYPE skynet_relay_", ' '), documented);
    for name in &documented {
        let has_value = body.lines().any(|line| {
            let rest = line.strip_prefix("skynet_relay_").and_then(|rest| rest.strip_prefix(name.as_str()));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(has_value, "{name} has no value:\n{body}");
    }
    assert!(get(&metrics, "/other").0.starts_with("HTTP/1.1 404"));
    assert_eq!(get(&metrics, "/healthz").1, "ok\n");
}

#[test]
fn metrics_are_for_this_host_and_a_wrong_file_changes_nothing() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    assert_eq!(output(&dir, &["up", "--metrics", "0.0.0.0:9478"]).status.code(), Some(2));
    let file = parent.path().join("relay.toml");
    std::fs::write(&file, "uplnk_mbit = 1").unwrap();
    let wrong = output(&dir, &["up", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{text}");
    assert!(text.contains("relay.toml") && text.contains("uplnk_mbit"), "{text}");
    assert!(!dir.exists());
}

#[test]
fn a_token_s_tag_gives_its_members_their_class_and_status_shows_who_is_there() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let file = parent.path().join("relay.toml");
    let text = "[[class]]\nsession_mbit = 100\n[[class]]\nnumber = 5\ntag = \"fast\"\nsession_mbit = 900\n";
    std::fs::write(&file, text).unwrap();
    let arguments =
        ["up", "--json", "--listen", "127.0.0.1:0", "--public-address", "127.0.0.1", "--threads", "2"];
    let arguments = [&arguments[..], &["--config", file.to_str().unwrap()]].concat();
    let relay = Relay::start(&dir, &arguments);
    let token = json(&output(&dir, &["token", "create", "--json", "--token-tag", "fast"]).stdout);
    let (a, b) =
        (join(relay.up["token"].as_str().unwrap(), "alpha"), join(token["token"].as_str().unwrap(), "beta"));
    let (bound_a, mut bound_b) = (Bound::new(&a, relay.addr()), Bound::new(&b, relay.addr()));
    for _ in 0..20 {
        bound_a.send(node_no(&b), &[7; 992]);
        bound_b.receive();
    }
    let status = json(&output(&dir, &["status", "--json"]).stdout);
    let peers = status["peers"].as_array().unwrap();
    let of = |node: &Node| {
        let ip = std::net::Ipv4Addr::from(node_no(node)).to_string();
        peers.iter().find(|peer| peer["node"] == ip.as_str()).unwrap_or_else(|| panic!("no {ip} in {status}"))
    };
    assert_eq!((&of(&a)["rate_class"], &of(&b)["rate_class"]), (&0.into(), &5.into()));
    assert_eq!((&of(&a)["transport"], &of(&a)["bytes_forwarded"]), (&"udp".into(), &20_000.into()));
    assert_eq!(of(&a)["address"], bound_a.socket.local_addr().unwrap().to_string());
    assert_eq!(status["networks"][0]["nodes"], 2);
    assert_eq!(status["networks"][0]["network"], relay.up["network_id"]);
    assert_eq!(status["threads"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(output(&dir, &["status"]).stdout).unwrap();
    for part in ["\nthreads\n", "\nnetworks\n", "\npeers\n", "\ndrops\n", "bytes_forwarded"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}
