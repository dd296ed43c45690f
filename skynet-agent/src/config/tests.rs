use super::*;

const KEY: &str = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
const OTHER: &str = "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("agent.toml"), Overrides::default())
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!((config.interface.as_str(), config.port), (DEFAULT_INTERFACE, DEFAULT_PORT));
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert!(config.wireguard.is_none() && config.peers.is_empty() && config.token.is_none());
}

#[test]
fn a_wireguard_node_with_a_stock_peer_is_understood() {
    let config = parse(&format!(
        r#"
        [interface]
        name = "wg-sky"
        listen_port = 51820
        address = ["10.9.0.1/24", "fd09::1/64"]
        private_key = "{KEY}"
        [[peer]]
        public_key = "{OTHER}"
        preshared_key = "{KEY}"
        endpoint = "198.51.100.7:51820"
        allowed_ips = ["10.9.0.2", "172.30.1.1/16"]
        persistent_keepalive = "25s"
        "#
    ))
    .unwrap();
    let node = config.wireguard.unwrap();
    assert_eq!(node.addresses, [("10.9.0.1".parse().unwrap(), 24), ("fd09::1".parse().unwrap(), 64)]);
    let peer = &config.peers[0];
    assert_eq!(peer.endpoint, Some("198.51.100.7:51820".parse().unwrap()));
    assert_eq!(peer.allowed_ips[1].to_string(), "172.30.0.0/16");
    assert_eq!(peer.persistent_keepalive, Some(Duration::from_secs(25)));
    assert!(!format!("{node:?} {peer:?}").contains("YWFh"), "keys do not print");
}

#[test]
fn ciphers_and_lanes_have_defaults_and_limits() {
    let config = parse("").unwrap();
    assert_eq!((config.ciphers, config.max_lanes), (Ciphers::Auto, default_max_lanes()));
    assert!((4..=8).contains(&config.max_lanes));
    let config = parse("[dataplane]\nciphers = \"chacha20-poly1305\"\nmax_lanes = 1").unwrap();
    assert_eq!((config.ciphers.suites(), config.max_lanes), (1, 1));
    let config = parse("[dataplane]\nmax_lanes = 3\nmin_lanes = 4").unwrap();
    assert_eq!((config.min_lanes, parse("").unwrap().min_lanes), (3, 1), "never more than the most");
    for lanes in [0, 9] {
        let said = message(&format!("[dataplane]\nmax_lanes = {lanes}"));
        assert!(said.contains("dataplane.max_lanes: 1 to 8 lanes"), "{said}");
    }
    assert!(message("[dataplane]\nciphers = \"rot13\"").contains("line 2"));
    let overrides = Overrides { max_lanes: Some(2), ciphers: Some(Ciphers::Auto), ..Overrides::default() };
    let text = "[dataplane]\nciphers = \"chacha20-poly1305\"\nmax_lanes = 1";
    let config = Config::parse(text, Path::new("agent.toml"), overrides).unwrap();
    assert_eq!((config.ciphers, config.max_lanes), (Ciphers::Auto, 2));
}

#[test]
fn the_mtu_is_found_unless_it_is_given() {
    assert_eq!(parse("").unwrap().mtu, Mtu::default());
    assert_eq!(parse("[dataplane]\nmtu = \"auto\"").unwrap().mtu.fixed, None);
    assert_eq!(parse("[dataplane]\nmtu = 1380").unwrap().mtu.fixed, Some(1_380));
    let bounds = parse("[dataplane]\nmtu_min = 1280\nmtu_max = 1440").unwrap().mtu;
    assert_eq!((bounds.least, bounds.most), (1_280, 1_440));
    assert!(message("[dataplane]\nmtu = 100").contains("line 2: \"auto\", or 576 to 9200 bytes"));
    assert!(message("[dataplane]\nmtu_max = 100").contains("dataplane.mtu_max: 576 to 9200 bytes"));
    let overrides = Overrides { mtu: Some(MtuChoice::Auto), ..Overrides::default() };
    let config = Config::parse("[dataplane]\nmtu = 1380", Path::new("agent.toml"), overrides).unwrap();
    assert_eq!(config.mtu.fixed, None);
}

#[test]
fn flags_beat_the_file() {
    let overrides = Overrides {
        port: Some(7),
        interface: Some("sky7".to_owned()),
        name: Some("flag".to_owned()),
        ..Overrides::default()
    };
    let text = "name = \"file\"\nstate_dir = \"/srv/sky\"\n[interface]\nname = \"sky1\"\nlisten_port = 1";
    let config = Config::parse(text, Path::new("agent.toml"), overrides).unwrap();
    assert_eq!((config.interface.as_str(), config.port), ("sky7", 7));
    assert_eq!(config.name.as_str(), "flag");
    assert_eq!(config.state_dir, Path::new("/srv/sky"));
}

#[test]
fn a_mistake_in_a_flag_is_not_blamed_on_the_file() {
    let overrides = Overrides { name: Some("WEB_2".to_owned()), ..Overrides::default() };
    let message = Config::parse("", Path::new("agent.toml"), overrides).unwrap_err().to_string();
    assert!(message.contains("--name") && message.contains("WEB_2"), "{message}");
    assert!(!message.contains("agent.toml"), "{message}");
}

#[test]
fn every_mistake_names_the_file_the_key_and_what_is_wrong() {
    let peer = format!("[[peer]]\npublic_key = \"{OTHER}\"\n");
    for (text, words) in [
        ("tokn = \"x\"".to_owned(), vec!["agent.toml", "tokn"]),
        ("[interface]\nlisten_port = 70000".to_owned(), vec!["agent.toml", "70000"]),
        (format!("[interface]\nprivate_key = \"{KEY}\""), vec!["interface.address", "missing"]),
        ("[interface]\naddress = \"10.0.0.1/24\"".to_owned(), vec!["interface.private_key", "missing"]),
        (
            "[interface]\naddress = \"10.0.0.1/24\"\nprivate_key = \"short\"".to_owned(),
            vec!["interface.private_key", "44"],
        ),
        (
            format!("[interface]\naddress = \"10.0.0/24\"\nprivate_key = \"{KEY}\""),
            vec!["interface.address", "10.0.0/24"],
        ),
        (format!("{peer}{peer}"), vec!["peer 2: public_key", "twice"]),
        (format!("{peer}persistent_keepalive = \"25\""), vec!["peer 1: persistent_keepalive", "25s"]),
        (format!("{peer}persistent_keepalive = \"0s\""), vec!["peer 1: persistent_keepalive", "off"]),
        (format!("{peer}allowed_ips = [\"10.0.0.0/40\"]"), vec!["peer 1: allowed_ips", "10.0.0.0/40"]),
        (format!("{peer}endpoint = \"nowhere\""), vec!["peer 1: endpoint", "nowhere"]),
        (format!("{peer}colour = 1"), vec!["colour"]),
        ("[[peer]]\npublic_key = \"x\"".to_owned(), vec!["peer 1: public_key"]),
        ("name = \"No Name\"".to_owned(), vec!["name", "No Name"]),
    ] {
        let message = message(&text);
        for word in words {
            assert!(message.contains(word), "{word:?} not in {message:?}");
        }
    }
}

#[test]
fn an_allowed_ip_belongs_to_one_peer() {
    let text = format!(
        "[[peer]]\npublic_key = \"{KEY}\"\nallowed_ips = [\"10.0.0.0/8\"]\n\
         [[peer]]\npublic_key = \"{OTHER}\"\nallowed_ips = [\"10.1.0.0/16\", \"10.9.9.9/8\"]"
    );
    assert!(message(&text).contains("peer 2: allowed_ips: 10.0.0.0/8"));
}

#[test]
fn an_error_beside_a_secret_does_not_quote_it() {
    let message = message(&format!("name = \"a\"\n[interface]\nprivate_key = \"{KEY}\" x"));
    assert!(message.contains("line 3") && !message.contains("YWFh"), "{message}");
}

#[test]
fn durations_carry_their_unit() {
    assert_eq!(parse_duration("25s"), Ok(Duration::from_secs(25)));
    assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    for bad in ["", "25", "s", "-1s", "1.5s", "25 s", "25h", "99999999999999999999s", "5d"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_file_cut_or_flipped_anywhere_never_panics() {
    let sample = format!(
        "name = \"a\"\n[interface]\nlisten_port = 5\naddress = \"10.9.0.1/24\"\nprivate_key = \"{KEY}\"\n\
         [[peer]]\npublic_key = \"{OTHER}\"\nallowed_ips = [\"10.0.0.0/8\"]\npersistent_keepalive = \"25s\"\n"
    );
    for cut in 0..sample.len() {
        let _ = parse(&sample[..cut]);
    }
    for bit in 0..sample.len() * 8 {
        let mut bytes = sample.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = parse(text);
        }
    }
}

#[test]
fn offloads_are_switched_off_by_name_and_a_flag_beats_the_file() {
    assert!(Offload::ALL.iter().all(|&o| parse("").unwrap().disabled_offloads.allows(o)));
    let file = "[dataplane]\ndisable_offload = [\"udp-gso\", \"coalesce-tcp\"]";
    let config = parse(file).unwrap();
    assert!(!config.udp_offloads().gso && config.udp_offloads().gro);
    assert!(!config.coalescing().tcp6 && config.coalescing().udp4);
    let overrides = Overrides { disable_offload: Some(vec![Offload::Tun]), ..Overrides::default() };
    let config = Config::parse(file, Path::new("agent.toml"), overrides).unwrap();
    assert!(config.udp_offloads().gso && !config.disabled_offloads.allows(Offload::Tun));
    assert!(message("[dataplane]\ndisable_offload = [\"gso\"]").contains("gso"));
    for offload in Offload::ALL {
        assert_eq!(offload.as_str().parse(), Ok(offload));
    }
}

#[test]
fn a_node_goes_on_with_stale_documents_unless_it_is_told_otherwise() {
    assert!(!parse("").unwrap().fail_closed);
    assert!(parse("[trust]\nfail_closed = true").unwrap().fail_closed);
    assert!(message("[trust]\nfail_open = true").contains("fail_open"));
}

#[test]
fn session_keys_live_a_day_at_most_if_anything_is_said_of_it() {
    assert_eq!(parse("").unwrap().key_lifetime, None);
    let hour = parse("[trust]\nkey_lifetime = \"1h\"").unwrap();
    assert_eq!(hour.key_lifetime, Some(Duration::from_secs(3_600)));
    for wrong in ["0s", "19s", "25h", "7d", "1"] {
        assert!(
            message(&format!("[trust]\nkey_lifetime = \"{wrong}\"")).contains("trust.key_lifetime"),
            "{wrong}"
        );
    }
}

#[test]
fn addresses_to_advertise_are_ones_that_peers_may_try() {
    let config = parse("").unwrap();
    assert!(config.advertise.is_empty() && config.port_mapping && config.cloud_metadata);
    let file = "[paths]\nadvertise = [\"203.0.113.7:41820\", \"[2001:db8::7]:1\"]\nport_mapping = false\ncloud_metadata = false";
    let config = parse(file).unwrap();
    assert_eq!(config.advertise, ["203.0.113.7:41820".parse().unwrap(), "[2001:db8::7]:1".parse().unwrap()]);
    assert!(!config.port_mapping && !config.cloud_metadata);
    for wrong in ["203.0.113.7:0", "127.0.0.1:5", "0.0.0.0:5", "169.254.169.254:80", "224.0.0.1:5", "[::1]:5"]
    {
        let said = message(&format!("[paths]\nadvertise = [\"{wrong}\"]"));
        assert!(said.contains("paths.advertise") && said.contains(wrong), "{said}");
        assert!(parse_advertised(wrong).is_err());
    }
    assert!(message("[paths]\nadvertise = [\"203.0.113.7\"]").contains("line 2"));
    let many = ["\"203.0.113.7:1\""; MAX_ADVERTISED + 1].join(", ");
    assert!(message(&format!("[paths]\nadvertise = [{many}]")).contains("at most 8"));
    let overrides = Overrides {
        advertise: Some(vec!["203.0.113.9:2".parse().unwrap()]),
        port_mapping: Some(true),
        ..Overrides::default()
    };
    let config = Config::parse(file, Path::new("agent.toml"), overrides).unwrap();
    assert_eq!(config.advertise, ["203.0.113.9:2".parse().unwrap()]);
    assert!(config.port_mapping && !config.cloud_metadata);
}

#[test]
fn the_priority_of_the_workers_threads_is_one_the_kernel_knows() {
    assert_eq!(parse("").unwrap().threading.nice.value(), -10);
    assert_eq!(parse("[dataplane]\nnice = 0").unwrap().threading.nice.value(), 0);
    assert!(message("[dataplane]\nnice = -21").contains("-20 to 19"));
    assert!(parse_nice("20").is_err() && parse_nice("high").is_err());
    let overrides = Overrides { nice: parse_nice("-5").ok(), ..Overrides::default() };
    let config = Config::parse("[dataplane]\nnice = 3", Path::new("agent.toml"), overrides).unwrap();
    assert_eq!(config.threading.nice.value(), -5);
}

#[test]
fn a_member_relays_within_limits_unless_it_is_told_not_to() {
    use skynet_core::forwarder::RelayLimits;
    assert_eq!(parse("").unwrap().relaying, Some(RelayLimits::default()));
    assert_eq!(parse("[relaying]\nenabled = false").unwrap().relaying, None);
    let text = "[relaying]\nsessions = 10\nsession_mbit = 200\nuplink_mbit = 1000";
    let limits = RelayLimits { sessions: 10, session_kbit: 200_000, uplink_kbit: 1_000_000 };
    assert_eq!(parse(text).unwrap().relaying, Some(limits));
    assert!(message("[relaying]\nsessions = 0").contains("relaying.sessions: 1 to 16384"));
    assert!(message("[relaying]\nsession_mbit = 4294968").contains("relaying.session_mbit: at most 4294967"));
}
