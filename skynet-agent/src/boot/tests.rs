//! Against real sockets on loopback; whole machines boot so in the end-to-end tests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::config::{Config, Overrides};

/// Answers every request by `answer` until the test's process ends.
fn service(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 2_048];
            let n = stream.read(&mut request).unwrap_or(0);
            let (status, body) = answer(&String::from_utf8_lossy(&request[..n]));
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
        }
    });
    address
}

fn places(service: SocketAddr, directory: &Path) -> Places {
    Places { service, cloud_init: directory.join("user-data.txt"), firmware: directory.to_owned() }
}

fn look(places: &Places, mode: BootMetadata) -> Vec<BootSettings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(places.look(mode))
}

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// OpenStack with user-data and properties.
fn openstack(request: &str) -> (u16, String) {
    let path = request.split(' ').nth(1).unwrap_or_default();
    match path {
        "/openstack/latest/meta_data.json" => {
            let meta = r#"{"uuid": "u", "meta": {"skynet-role": "worker, gpu", "skynet-name": "below", "skynet-token": "skj1.of-the-properties"}}"#;
            (200, meta.to_owned())
        }
        "/openstack/latest/user_data" => (200, "#skynet\nname = \"of-user-data\"\n".to_owned()),
        _ => (404, String::new()),
    }
}

#[test]
fn what_is_said_higher_up_counts() {
    let directory = tempfile::tempdir().unwrap();
    let found = look(&places(service(openstack), directory.path()), BootMetadata::Always);
    let sources: Vec<_> = found.iter().map(|s| s.source.as_str()).collect();
    assert_eq!(sources, ["OpenStack user-data", "OpenStack attributes"]);
    let file = directory.path().join("agent.toml");
    let load = |text: &str, overrides: Overrides| {
        std::fs::write(&file, text).unwrap();
        Config::load_over(Overrides { config: Some(file.clone()), ..overrides }, &found).unwrap()
    };
    let config = load("", Overrides::default());
    assert_eq!(config.name.as_str(), "of-user-data");
    assert_eq!(config.roles.as_ref().map(|r| r.iter().collect::<Vec<_>>()), Some(vec!["gpu", "worker"]));
    assert_eq!(&**config.token.unwrap().resolve().unwrap(), "skj1.of-the-properties");
    assert_eq!(load("name = \"of-the-file\"", Overrides::default()).name.as_str(), "of-the-file");
    let flag = Overrides { name: Some("of-a-flag".into()), ..Overrides::default() };
    assert_eq!(load("name = \"of-the-file\"", flag).name.as_str(), "of-a-flag");
}

#[test]
fn without_a_cloud_in_the_firmware_only_cloud_inits_copy_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(service(openstack), directory.path());
    assert_eq!(look(&places, BootMetadata::Auto), []);
    std::fs::write(directory.path().join("user-data.txt"), "#skynet\nname = \"copy\"\n").unwrap();
    let found = look(&places, BootMetadata::Auto);
    assert_eq!(
        found,
        [BootSettings { source: "cloud-init user-data".into(), text: "name = \"copy\"\n".into() }]
    );
    assert_eq!(look(&places, BootMetadata::Never), []);
    // The firmware names it: then it is asked, and nobody else.
    std::fs::write(directory.path().join("product_name"), "OpenStack Nova\n").unwrap();
    assert_eq!(look(&places, BootMetadata::Auto)[0].source, "OpenStack user-data");
    // A service that is gone leaves the copy.
    let gone = Places { service: nobody(), ..places };
    assert_eq!(look(&gone, BootMetadata::Auto)[0].source, "cloud-init user-data");
}

#[test]
fn metadata_may_not_say_what_is_the_machines_own_affair() {
    let below = |text: &str| [BootSettings { source: "test".into(), text: text.into() }];
    for foreign in [
        "state_dir = \"/tmp\"",
        "socket = \"/tmp/s\"",
        "token = \"file:/etc/shadow\"",
        "[hooks]\ndirectory = \"/tmp\"",
        "[names]\nhosts_file = \"/etc/shadow\"",
        "[boot]\nmetadata = \"always\"",
        "[interface]\nprivate_key = \"x\"",
        "[[peer]]\npublic_key = \"x\"",
        "[relay]\nproxy = \"file:/etc/shadow\"",
        "not toml at all",
        "unknown = 1",
    ] {
        // Left out as a whole, with its good part; what comes below it still counts.
        let settings = [below(&format!("name = \"evil\"\n{foreign}")), below("name = \"good\"")].concat();
        let config = Config::load_over(Overrides::default(), &settings);
        assert_eq!(config.unwrap().name.as_str(), "good", "{foreign}");
    }
}

#[test]
fn a_service_that_is_slow_or_talks_nonsense_takes_two_seconds_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let slow = service(|_| {
        std::thread::sleep(Duration::from_secs(5));
        (200, String::new())
    });
    let page = service(|_| (200, "<html>Welcome</html>".to_owned()));
    for service in [slow, page, nobody()] {
        let begun = crate::clock::monotonic();
        assert_eq!(look(&places(service, directory.path()), BootMetadata::Always), []);
        let took = crate::clock::monotonic().saturating_since(begun);
        println!("{took:?}");
        assert!(took < 2 * PATIENCE, "{took:?}");
    }
}

#[test]
fn settings_do_not_print_what_they_hold() {
    let settings = BootSettings { source: "EC2 user-data".into(), text: "token = \"skj1.secret\"".into() };
    assert!(!format!("{settings:?}").contains("secret"));
}
