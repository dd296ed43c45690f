//! The directory of a relay that is killed under load, and of one whose disk is full.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use skynet_core::key::Identity;
use skynet_relay::network::load_network;
use skynet_relay::registrar::{GetBy, find, list};
use skynet_relay::store::RedbStore;

use super::*;

const KILLS: usize = 200;
const WORKERS: usize = 3;
/// A relay lives for so long at most once it listens: a dozen joins.
const LIFE: Duration = Duration::from_millis(60);
/// An answer that takes longer has died with the relay.
const ANSWER: Duration = Duration::from_secs(2);

/// What came of one try to join.
enum Answer {
    Admitted(Box<Welcome>),
    /// Another member has this address: try with another salt.
    Conflict,
    Denied(u16, String),
    /// The relay died before it said anything.
    Nothing,
}

fn attempt(enrolment: &Enrolment, relay: SocketAddr) -> Answer {
    try_once(enrolment, relay).unwrap_or(Answer::Nothing)
}

fn try_once(enrolment: &Enrolment, relay: SocketAddr) -> Option<Answer> {
    let clock = Clock::new();
    let target = ControlTarget { relay_no: 1, relay: enrolment.token().relays()[0].key, address: relay };
    let config = ControlConfig { local: enrolment.node().static_secret.clone(), targets: vec![target] };
    let mut client = ControlClient::new(config, os_rng().unwrap(), clock.now().mono);
    client.join(enrolment.bundle().encode(), clock.now().mono);
    let mut stream = TcpStream::connect(relay).ok()?;
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    client.handle_connected(clock.now().mono);
    let mut buffer = [0; 16 * 1024];
    loop {
        while let Some(event) = client.poll_event() {
            match event {
                ControlEvent::Joined(welcome) => return Some(Answer::Admitted(welcome)),
                ControlEvent::Conflict(_) => return Some(Answer::Conflict),
                ControlEvent::Denied(_, code, text) => return Some(Answer::Denied(code, text)),
                _ => {}
            }
        }
        while let Some(bytes) = client.poll_bytes() {
            stream.write_all(&bytes).ok()?;
        }
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => client.handle_bytes(&buffer[..n], clock.now().mono),
            _ => return None,
        }
    }
}

fn enrolment(token: &str) -> Enrolment {
    let mut rng = os_rng().unwrap();
    let name: Name = format!("n-{:016x}", u64::from_be_bytes(rng.array())).parse().unwrap();
    let node = NodeIdentity::random(None, &mut rng);
    Enrolment::new(JoinToken::parse(token).unwrap(), node, name, Clock::new().now().unix, &mut rng).unwrap()
}

/// Joins one new node after the other, each until it is told that it is a member.
fn register(token: &str, relay: SocketAddr, ended: &AtomicBool) -> BTreeMap<Identity, Ipv4Addr> {
    let mut admitted = BTreeMap::new();
    while !ended.load(Ordering::Relaxed) {
        let (enrolment, now) = (enrolment(token), Clock::new().now().unix);
        let welcome = loop {
            match attempt(&enrolment, relay) {
                Answer::Admitted(welcome) => break Some(welcome),
                Answer::Conflict => break None,
                // What is refused after a crash although nothing was wrong with it would be lost.
                Answer::Denied(code, text) => panic!("denied {code}: {text}"),
                Answer::Nothing if ended.load(Ordering::Relaxed) => break None,
                Answer::Nothing => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let Some(welcome) = welcome else { continue };
        let credentials =
            enrolment.complete(&welcome.genesis, &welcome.manifest, &welcome.receipt, now).unwrap();
        let member = credentials.member(now).unwrap();
        admitted.insert(member.identity(), member.v4());
    }
    admitted
}

#[test]
fn two_hundred_kills_under_registration_load_lose_nothing_that_was_acknowledged() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let address = free_port();
    let arguments = ["--public-address", "127.0.0.1", "--range", "10.77.0.0/16", "--tls-listen", "off"];
    let mut relay = up_at(&dir, address, &arguments);
    let token = relay.up["token"].as_str().unwrap().to_owned();
    let ended = AtomicBool::new(false);
    let mut rng = os_rng().unwrap();
    let admitted: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..WORKERS).map(|_| scope.spawn(|| register(&token, address, &ended))).collect();
        for _ in 0..KILLS {
            std::thread::sleep(Duration::from_micros(rng.below(LIFE.as_micros() as u64)));
            relay.child.kill().unwrap();
            relay.child.wait().unwrap();
            relay = up_at(&dir, address, &arguments);
        }
        ended.store(true, Ordering::Relaxed);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(relay.stop());

    let network = load_network(&dir).unwrap();
    let store = RedbStore::open(&network.directory).unwrap();
    for (identity, address) in &admitted {
        let kept = find(&store, &GetBy::V4(*address)).unwrap().expect("an acknowledged member is there");
        let bundle = Bundle::parse(&kept).unwrap();
        assert_eq!(bundle.certificate.unverified().identity, *identity, "{address} is that node's alone");
    }
    let (mut members, mut after) = (0, 0);
    loop {
        let (page, more) = list(&store, after, 64, usize::MAX).unwrap();
        members += page.len();
        after = page.last().map_or(after, |(node_no, _)| *node_no);
        if !more {
            break;
        }
    }
    println!("{} joins were acknowledged over {KILLS} kills, {members} members are kept", admitted.len());
    assert!(members >= admitted.len());
    assert!(admitted.len() > KILLS / 4, "too little load to mean anything: {}", admitted.len());
}

/// A file system of its own, unmounted with the test.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(bytes: usize) -> Self {
        let tmpfs = Self(passable_directory());
        tmpfs.mount(&format!("size={bytes},mode=711"));
        tmpfs
    }

    fn resize(&self, bytes: usize) {
        self.mount(&format!("remount,size={bytes}"));
    }

    fn mount(&self, options: &str) {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0.path()).status();
        assert!(done.unwrap().success(), "mounting needs root");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _done = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_new_members_in_plain_words_and_data_goes_on_until_there_is_room() {
    let disk = Tmpfs::new(4 << 20);
    let dir = disk.0.path().join("relay");
    let relay = Relay::up(&dir);
    let (addr, token) = (relay.addr(), relay.up["token"].as_str().unwrap().to_owned());
    let (a, b) = (join(&token, "alpha"), join(&token, "beta"));
    let (bound_a, mut bound_b) = (Bound::new(&a, addr), Bound::new(&b, addr));
    // Whatever is free now goes to somebody else.
    let _fails = std::fs::write(disk.0.path().join("ballast"), vec![1; 8 << 20]).unwrap_err();

    // The directory has a few pages of its own left.
    let mut told = None;
    for _ in 0..2_000 {
        match attempt(&enrolment(&token), addr) {
            Answer::Denied(code, text) => {
                told = Some((code, text));
                break;
            }
            Answer::Admitted(_) | Answer::Conflict => {}
            Answer::Nothing => panic!("the relay has died"),
        }
    }
    let (code, text) = told.expect("4 MiB are full sooner or later");
    println!("{code}: {text}");
    assert_eq!(code, 8, "try again later: {text}");
    bound_a.send(node_no(&b), b"on");
    assert_eq!(bound_b.receive(), (node_no(&a), b"on".to_vec()));
    assert!(matches!(attempt(&enrolment(&token), addr), Answer::Denied(8, _)), "it is still full");

    disk.resize(64 << 20);
    let end = a.clock.now().mono + PATIENCE;
    while !matches!(attempt(&enrolment(&token), addr), Answer::Admitted(_)) {
        assert!(a.clock.now().mono < end, "there is room again and nobody gets in");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(relay);
    let network = load_network(&dir).unwrap();
    let store = RedbStore::open(&network.directory).unwrap();
    for node in [&a, &b] {
        let identity = node.credentials.node().identity();
        assert!(find(&store, &GetBy::Identity(identity)).unwrap().is_some());
    }
}

#[test]
fn a_read_only_disk_is_named_and_nothing_on_it_changes() {
    let disk = Tmpfs::new(8 << 20);
    let dir = disk.0.path().join("relay");
    assert!(Relay::up(&dir).stop());
    disk.mount("remount,ro");
    let refused = output(&dir, &["run", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{said}");
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("directory.redb: cannot be opened: Read-only file system"), "{said}");
    disk.mount("remount,rw");
    assert!(Relay::start(&dir, &["up", "--json", "--listen", "127.0.0.1:0"]).stop());
}
