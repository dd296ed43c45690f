//! The real binary on 127.0.0.1: real sockets, threads, files and signals.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use skynet_core::control::message::{Lookup, Welcome};
use skynet_core::control::{ControlClient, ControlConfig, ControlEvent, ControlTarget};
use skynet_core::member::{Bundle, Credentials, Enrolment, JoinToken, Name, NodeIdentity};
use skynet_core::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent};
use skynet_core::wire::relay::{Class, Frame};
use skynet_relay::clock::{Clock, os_rng};

#[path = "daemon/crashes.rs"]
mod crashes;
#[path = "daemon/flood.rs"]
mod flood;
#[path = "daemon/operator.rs"]
mod operator;
#[path = "daemon/tls.rs"]
mod tls;
#[path = "daemon/trust.rs"]
mod trust;

const PATIENCE: Duration = Duration::from_secs(20);

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skynet-relay"));
    command.args(arguments).arg("--dir").arg(dir);
    command
}

/// A directory that the relay's user may pass through: root's relay does not stay root.
fn passable_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    directory
}

fn output(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(bytes)))
}

/// A relay process; killed with the test.
struct Relay {
    child: Child,
    up: serde_json::Value,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// A network of its own, without a TLS port.
    fn up(dir: &Path) -> Self {
        Self::up_with(dir, &["--tls-listen", "off"])
    }
    fn up_with(dir: &Path, more: &[&str]) -> Self {
        let arguments = ["up", "--json", "--listen", "127.0.0.1:0", "--public-address", "127.0.0.1"];
        Self::start(dir, &[&arguments[..], &["--range", "10.77.0.0/16"], more].concat())
    }
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = command(dir, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        if arguments[0] == "up" {
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        }
        let up = serde_json::from_str(&line).unwrap_or_default();
        Self { child, up }
    }
    fn addr(&self) -> SocketAddr {
        self.up["listen"].as_str().unwrap().parse().unwrap()
    }
    /// SIGTERM; true if it ended with exit code 0.
    fn stop(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

/// A node with its control connection.
struct Node {
    clock: Clock,
    client: ControlClient,
    stream: TcpStream,
    credentials: Credentials,
    welcome: Welcome,
}

/// Runs `client` over a stream until an event satisfies `wanted`.
fn until<T>(
    client: &mut ControlClient,
    stream: &mut Option<TcpStream>,
    clock: Clock,
    mut wanted: impl FnMut(ControlEvent) -> Option<T>,
) -> T {
    let end = clock.now().mono + PATIENCE;
    let mut buffer = [0; 16 * 1024];
    loop {
        assert!(clock.now().mono < end, "no answer");
        while let Some(event) = client.poll_event() {
            if let ControlEvent::WantConnect(addr) = event {
                let connected = TcpStream::connect(addr).unwrap();
                connected.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                *stream = Some(connected);
                client.handle_connected(clock.now().mono);
            } else if let Some(found) = wanted(event) {
                return found;
            }
        }
        let Some(stream) = stream.as_mut() else { continue };
        while let Some(bytes) = client.poll_bytes() {
            stream.write_all(&bytes).unwrap();
        }
        if let Ok(n) = stream.read(&mut buffer) {
            assert_ne!(n, 0, "closed by the relay");
            client.handle_bytes(&buffer[..n], clock.now().mono);
        }
        if client.poll_timeout().is_some_and(|(at, _)| at <= clock.now().mono) {
            client.handle_timeout(clock.now().mono);
        }
    }
}

fn join(token: &str, name: &str) -> Node {
    join_at(token, name, None)
}

/// Joins by the relay's own address, or by another that leads there.
fn join_at(token: &str, name: &str, address: Option<SocketAddr>) -> Node {
    let clock = Clock::new();
    let mut rng = os_rng().unwrap();
    let node = NodeIdentity::random(None, &mut rng);
    let token = JoinToken::parse(token).unwrap();
    let name: Name = name.parse().unwrap();
    let enrolment = Enrolment::new(token, node, name, clock.now().unix, &mut rng).unwrap();
    let relay = enrolment.token().relays()[0];
    let config = ControlConfig {
        local: enrolment.node().static_secret.clone(),
        targets: vec![ControlTarget {
            relay_no: 1,
            relay: relay.key,
            address: address.unwrap_or(relay.address),
        }],
    };
    let mut client = ControlClient::new(config, rng.fork(), clock.now().mono);
    client.join(enrolment.bundle().encode(), clock.now().mono);
    let mut stream = None;
    let welcome = until(&mut client, &mut stream, clock, |event| match event {
        ControlEvent::Joined(welcome) => Some(*welcome),
        ControlEvent::Ready | ControlEvent::Document(_) => None,
        other => panic!("{other:?}"),
    });
    let now = clock.now().unix;
    let credentials = enrolment.complete(&welcome.genesis, &welcome.manifest, &welcome.receipt, now).unwrap();
    Node { clock, client, stream: stream.unwrap(), credentials, welcome }
}

/// A node's UDP socket with its session.
struct Bound {
    clock: Clock,
    socket: UdpSocket,
    client: RelayClient,
}

impl Bound {
    fn new(node: &Node, relay: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay).unwrap();
        Self::on(node, socket)
    }

    /// With a socket that is connected to what leads to the relay.
    fn on(node: &Node, socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let clock = node.clock;
        let config = RelayClientConfig {
            relay_no: node.welcome.relay_no,
            lane: 0,
            ticket: node.welcome.ticket,
            bind_key: node.welcome.bind_key.clone(),
            clock: RelayClock::new(node.welcome.relay_unix_ms, clock.now().mono),
        };
        let client = RelayClient::new(config, os_rng().unwrap(), clock.now().mono);
        let mut bound = Self { clock, socket, client };
        bound.until_up();
        bound
    }
    /// One step: sends what is due, receives at most one datagram; DATA is returned.
    fn step(&mut self) -> Option<(u32, Vec<u8>)> {
        while let Some(bytes) = self.client.poll_transmit() {
            let _ = self.socket.send(&bytes);
        }
        let mut buffer = [0; 2048];
        let received = self.socket.recv(&mut buffer);
        let now = self.clock.now().mono;
        if self.client.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.client.handle_timeout(now);
        }
        let bytes = &buffer[..received.ok()?];
        self.client.handle_datagram(bytes, now);
        match Frame::parse(bytes) {
            Ok(Frame::Data(header, payload)) => Some((header.node_no, payload.to_vec())),
            _ => None,
        }
    }
    fn until_up(&mut self) -> SocketAddr {
        let end = self.clock.now().mono + PATIENCE;
        loop {
            assert!(self.clock.now().mono < end, "never bound");
            self.step();
            while let Some(event) = self.client.poll_event() {
                if let RelayEvent::Up { observed, .. } = event {
                    return observed;
                }
            }
        }
    }
    fn send(&self, to: u32, payload: &[u8]) {
        let header = self.client.data_header(to, Class::Bulk, 0).unwrap();
        self.socket.send(&[&header[..], payload].concat()).unwrap();
    }
    fn receive(&mut self) -> (u32, Vec<u8>) {
        let end = self.clock.now().mono + PATIENCE;
        loop {
            assert!(self.clock.now().mono < end, "nothing arrived");
            if let Some(data) = self.step() {
                return data;
            }
        }
    }
}

fn node_no(node: &Node) -> u32 {
    node.credentials.member(node.clock.now().unix).unwrap().node_no()
}

#[test]
fn nodes_join_bind_and_exchange_data_and_a_restart_costs_them_nothing_but_a_bind() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let mut relay = Relay::up(&dir);
    let addr = relay.addr();
    assert_eq!(relay.up["schema"], "skynet.relay.up/1");
    let token = relay.up["token"].as_str().unwrap().to_owned();

    let mut a = join(&token, "alpha");
    let b = join(&token, "beta");
    let (no_a, no_b) = (node_no(&a), node_no(&b));
    assert_eq!(no_a >> 16, 0x0a4d, "an address of 10.77.0.0/16");

    // The directory gives a what it needs to verify b.
    let id = a.client.get(Lookup::Name("beta".into()), a.clock.now().mono).unwrap();
    let mut stream = Some(a.stream.try_clone().unwrap());
    let found = until(&mut a.client, &mut stream, a.clock, |event| match event {
        ControlEvent::Peer(of, member) if of == id => Some(member),
        ControlEvent::Document(_) => None,
        other => panic!("{other:?}"),
    });
    assert!(found.online);
    let bundle = Bundle::parse(&found.bundle).unwrap();
    let peer = a.credentials.trust().verify_member(&bundle, a.clock.now().unix).unwrap();
    assert_eq!(peer.node_no(), no_b);

    let (mut bound_a, mut bound_b) = (Bound::new(&a, addr), Bound::new(&b, addr));
    for i in 0..200u8 {
        bound_a.send(no_b, &[i; 1200]);
        assert_eq!(bound_b.receive(), (no_a, vec![i; 1200]));
    }
    bound_b.send(no_a, b"back");
    assert_eq!(bound_a.receive(), (no_b, b"back".to_vec()));

    // Old tickets, new process.
    assert!(relay.stop());
    let _relay = Relay::start(&dir, &["run", "--listen", &addr.to_string()]);
    let end = bound_a.clock.now().mono + PATIENCE;
    for bound in [&mut bound_a, &mut bound_b] {
        let old = bound.client.gen_no();
        while bound.client.gen_no() == old {
            assert!(bound.clock.now().mono < end, "never bound again");
            bound.client.rebind(bound.clock.now().mono);
            for _ in 0..4 {
                bound.step();
            }
        }
    }
    bound_a.send(no_b, b"after the restart");
    assert_eq!(bound_b.receive(), (no_a, b"after the restart".to_vec()));
}

#[test]
fn a_stun_client_learns_its_address() {
    use stun_rs::attributes::stun::{Software, XorMappedAddress};
    use stun_rs::methods::BINDING;
    use stun_rs::{MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunMessageBuilder};

    let parent = passable_directory();
    let relay = Relay::up(&parent.path().join("relay"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = StunMessageBuilder::new(BINDING, MessageClass::Request)
        .with_attribute(Software::new("a client that pads").unwrap())
        .build();
    let mut buffer = [0; 200];
    let len = MessageEncoderBuilder::default().build().encode(&mut buffer, &request).unwrap();
    socket.send_to(&buffer[..len], relay.addr()).unwrap();
    let len = socket.recv(&mut buffer).unwrap();
    let (answer, _) = MessageDecoderBuilder::default().build().decode(&buffer[..len]).unwrap();
    assert_eq!(answer.transaction_id(), request.transaction_id());
    let mapped = answer.get::<XorMappedAddress>().unwrap().as_xor_mapped_address().unwrap();
    assert_eq!(*mapped.socket_address(), socket.local_addr().unwrap());
}

#[test]
fn a_taken_port_names_its_holder_and_changes_nothing() {
    let parent = passable_directory();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = holder.local_addr().unwrap().to_string();
    let dir = parent.path().join("relay");
    let output = output(&dir, &["up", "--listen", &listen, "--public-address", "127.0.0.1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&listen) && text.contains(&format!("(process {})", std::process::id())), "{text}");
    assert!(text.contains("choose another port"), "{text}");
    assert!(!dir.exists());
}

#[test]
fn status_and_network_show_speak_json_and_exit_codes() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    assert_eq!(output(&dir, &["status"]).status.code(), Some(3));
    let missing = output(&dir, &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(!dir.exists(), "`run` never creates");
    assert_eq!(output(&dir, &["up", "--no-such-option"]).status.code(), Some(2));

    let mut relay = Relay::up(&dir);
    let _node = join(relay.up["token"].as_str().unwrap(), "gamma");
    let network = json(&output(&dir, &["network", "show", "--json"]).stdout);
    assert_eq!(network["schema"], "skynet.relay.network/1");
    assert_eq!(network["range"], "10.77.0.0/16");
    assert_eq!(network["network_id"], relay.up["network_id"]);
    let token = json(&output(&dir, &["token", "create", "--json", "--token-uses", "1"]).stdout);
    assert_eq!(token["schema"], "skynet.relay.token/1");
    JoinToken::parse(token["token"].as_str().unwrap()).unwrap();
    // Figures are a second old at most.
    let mut online = 0;
    for _ in 0..100 {
        let status = json(&output(&dir, &["status", "--json"]).stdout);
        assert_eq!(status["schema"], "skynet.relay.status/1");
        online = status["members_online"].as_u64().unwrap();
        if online == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(online, 1);
    // `status | head -0`: nobody reads.
    let mut unread = command(&dir, &["status"]);
    unread.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = unread.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(relay.stop());
    assert_eq!(output(&dir, &["status"]).status.code(), Some(3));
}

#[test]
fn the_relay_runs_without_the_root_key_and_refuses_damaged_files_by_name() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let mut relay = Relay::up(&dir);
    let listen = relay.addr().to_string();
    assert!(relay.stop());
    std::fs::remove_dir_all(dir.join("operator")).unwrap();
    {
        let mut without = Relay::start(&dir, &["run", "--listen", &listen]);
        let clock = Clock::new();
        let end = clock.now().mono + PATIENCE;
        while !output(&dir, &["status"]).status.success() {
            assert!(clock.now().mono < end, "does not run without the root key");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(without.stop());
    }
    let file = dir.join("directory.redb");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"this is no database").unwrap();
    let output = output(&dir, &["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("directory.redb"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), b"this is no database", "not overwritten");
    assert!(!good.is_empty());
}

#[test]
fn the_running_relay_cannot_read_the_root_key() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root's relay becomes another user");
        return;
    }
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let relay = Relay::up(&dir);
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.child.id())).unwrap();
    let uids = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
    assert!(uids.split_whitespace().skip(1).all(|uid| uid != "0"), "{uids}");
    let groups = status.lines().find(|l| l.starts_with("Groups:")).unwrap();
    assert_eq!(groups.split_whitespace().count(), 1, "{groups}");
    use std::os::unix::fs::MetadataExt as _;
    let operator = std::fs::metadata(dir.join("operator")).unwrap();
    assert_eq!((operator.uid(), operator.mode() & 0o777), (0, 0o700));
    assert_eq!(std::fs::metadata(dir.join("operator/root.key")).unwrap().mode() & 0o777, 0o600);
}

/// A port nobody has at this moment, and which no connection is given while a relay that has it restarts.
fn free_port() -> SocketAddr {
    let mut rng = os_rng().unwrap();
    let mut any = || SocketAddr::from(([127, 0, 0, 1], 20_000 + rng.below(12_000) as u16));
    let is_free = |at: &SocketAddr| UdpSocket::bind(at).is_ok() && std::net::TcpListener::bind(at).is_ok();
    std::iter::repeat_with(&mut any).take(100).find(is_free).unwrap()
}

/// `up` at a fixed address, with what else.
fn up_at(dir: &Path, address: SocketAddr, more: &[&str]) -> Relay {
    let address = address.to_string();
    Relay::start(dir, &[&["up", "--json", "--listen", &address], more].concat())
}

fn shown_epoch(dir: &Path) -> u64 {
    json(&output(dir, &["network", "show", "--json"]).stdout)["manifest_epoch"].as_u64().unwrap()
}

#[test]
fn a_further_relay_takes_the_tickets_and_knows_the_members_of_the_first() {
    let (first_dir, second_dir) = (passable_directory(), passable_directory());
    let (first_dir, second_dir) = (first_dir.path().join("relay"), second_dir.path().join("relay"));
    let (first_at, second_at) = (free_port(), free_port());
    let public = first_at.to_string();
    let first_up =
        |dir: &Path| up_at(dir, first_at, &["--public-address", &public, "--range", "10.77.0.0/16"]);
    let mut first = first_up(&first_dir);
    let token = first.up["token"].as_str().unwrap().to_owned();
    let second_public = second_at.to_string();
    let add =
        |address: &str| output(&first_dir, &["network", "add-relay", "--json", "--public-address", address]);
    let invited = json(&add(&second_public).stdout);
    assert_eq!(invited["relay_no"], 2);
    assert!(first.stop());
    let mut first = first_up(&first_dir);

    let away = join(&token, "web-1");
    drop(away.stream);
    let mut node = join(&token, "web-2");
    let invitation = invited["invitation"].as_str().unwrap();
    let mut second = up_at(&second_dir, second_at, &["--invitation", invitation]);
    assert_eq!(second.up["relay_no"], 2);

    // The first relay's ticket is good at the second.
    node.welcome.relay_no = 2;
    let _bound = Bound::new(&node, second_at);
    // With the first dead, the second lets in whom that admitted, and knows who else is a member.
    std::thread::sleep(Duration::from_secs(2));
    assert!(first.stop());
    let manifest = node.credentials.trust().manifest().clone();
    let target = ControlTarget { relay_no: 2, relay: manifest.relay(2).unwrap().key, address: second_at };
    let clock = node.clock;
    let config =
        ControlConfig { local: node.credentials.node().static_secret.clone(), targets: vec![target] };
    let mut client = ControlClient::new(config, os_rng().unwrap(), clock.now().mono);
    client.join(node.credentials.bundle().encode(), clock.now().mono);
    let mut stream = None;
    let welcome = until(&mut client, &mut stream, clock, |event| match event {
        ControlEvent::Joined(welcome) => Some(*welcome),
        ControlEvent::Ready | ControlEvent::Document(_) => None,
        other => panic!("{other:?}"),
    });
    assert_eq!(welcome.relay_no, 2);
    client.get(Lookup::Name("web-1".into()), clock.now().mono).unwrap();
    let found = until(&mut client, &mut stream, clock, |event| match event {
        ControlEvent::Peer(_, member) => Some(member),
        ControlEvent::Document(_) => None,
        other => panic!("{other:?}"),
    });
    assert!(!found.online);
    let bundle = Bundle::parse(&found.bundle).unwrap();
    assert_eq!(bundle.certificate.unverified().name.as_str(), "web-1");

    // A newer manifest gets there by itself.
    add("127.0.0.1:9");
    assert!(second.stop());
    let _first = first_up(&first_dir);
    let _second = up_at(&second_dir, second_at, &[]);
    let end = clock.now().mono + PATIENCE;
    while shown_epoch(&second_dir) < shown_epoch(&first_dir) {
        assert!(clock.now().mono < end, "the second relay keeps the old manifest");
        std::thread::sleep(Duration::from_millis(100));
    }
}
