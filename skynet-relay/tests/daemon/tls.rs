//! The TLS port of the real relay: nodes without UDP, and whoever else knocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skynet_core::carrier::FrameStream;
use skynet_core::control::channel::Purpose;
use skynet_core::key::PublicKey;
use skynet_tls::{ClientStream, Counters, Dialer, Ended, Pump, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use super::*;

/// A relay with a TLS port, and a runtime for the clients of it.
struct World {
    relay: Relay,
    runtime: Runtime,
    token: String,
    _directory: tempfile::TempDir,
}

impl World {
    fn new(more: &[&str]) -> Self {
        let directory = passable_directory();
        let tls = ["--tls-listen", "127.0.0.1:0"];
        let relay = Relay::up_with(&directory.path().join("relay"), &[&tls[..], more].concat());
        let token = relay.up["token"].as_str().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { relay, runtime: runtime.unwrap(), token, _directory: directory }
    }

    fn route(&self) -> Route {
        let addr: SocketAddr = self.relay.up["tls_listen"].as_str().unwrap().parse().unwrap();
        Route { host: addr.ip().to_string(), port: addr.port(), proxy: None }
    }

    fn key(&self) -> PublicKey {
        JoinToken::parse(&self.token).unwrap().relays()[0].key
    }

    fn dial(&self, purpose: Purpose) -> ClientStream {
        let (stream, early) = self.runtime.block_on(Dialer::new().dial(&self.route(), purpose)).unwrap();
        assert!(early.is_empty());
        stream
    }

    /// A node that has joined by a control channel through the TLS port.
    fn join(&self, name: &str) -> Node {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut tls = self.dial(Purpose::Control);
        self.runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (mut plain, _) = listener.accept().await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut plain, &mut tls).await;
        });
        join_at(&self.token, name, Some(address))
    }

    /// A session of `node` by frames in TLS, and how its pump ends.
    fn carry(&self, node: &Node) -> (Bound, Arc<Counters>, tokio::task::JoinHandle<Ended>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(socket.local_addr().unwrap()).unwrap();
        udp.set_nonblocking(true).unwrap();
        socket.connect(udp.local_addr().unwrap()).unwrap();
        let stream = self.dial(Purpose::Frames);
        let (clock, counters) = (node.clock, Arc::new(Counters::default()));
        let frames = FrameStream::initiator(&self.key(), &mut os_rng().unwrap(), clock.now().mono);
        let counted = Arc::clone(&counters);
        let ended = self.runtime.spawn(async move {
            let udp = tokio::net::UdpSocket::from_std(udp).unwrap();
            let pump = Pump { frames, udp: &udp, demands_session: false, counters: &counted };
            pump.run(stream, &[], || clock.now().mono).await
        });
        (Bound::on(node, socket), counters, ended)
    }

    fn status(&self) -> serde_json::Value {
        // At most a second old.
        std::thread::sleep(Duration::from_millis(1_100));
        json(&output(&self._directory.path().join("relay"), &["status", "--json"]).stdout)
    }
}

#[test]
fn nodes_without_udp_join_and_reach_each_other_and_those_with_udp() {
    let world = World::new(&[]);
    let (a, b, c) = (world.join("alpha"), world.join("beta"), join(&world.token, "gamma"));
    let [no_a, no_b, no_c] = [&a, &b, &c].map(node_no);
    let (mut by_tls, counters, _) = world.carry(&a);
    let (mut also_by_tls, ..) = world.carry(&b);
    let mut by_udp = Bound::new(&c, world.relay.addr());
    for i in 0..100u8 {
        by_tls.send(no_c, &[i; 1200]);
        assert_eq!(by_udp.receive(), (no_a, vec![i; 1200]));
        by_udp.send(no_b, &[i; 1400]);
        assert_eq!(also_by_tls.receive(), (no_c, vec![i; 1400]));
        also_by_tls.send(no_a, &[i; 9]);
        assert_eq!(by_tls.receive(), (no_b, vec![i; 9]));
    }
    assert!(counters.sent.load(Ordering::Relaxed) >= 100);
    let status = world.status();
    assert_eq!((&status["sessions"], &status["tls_carriers"]), (&3.into(), &2.into()), "{status}");
    assert_eq!(status["members_online"], 3, "{status}");
}

#[test]
fn a_session_is_taken_back_by_udp_and_not_a_frame_is_lost() {
    let world = World::new(&[]);
    let (a, b) = (world.join("alpha"), join(&world.token, "beta"));
    let no_b = node_no(&b);
    let (by_tls, ..) = world.carry(&a);
    let mut peer = Bound::new(&b, world.relay.addr());
    let before = by_tls.client.data_header(no_b, Class::Bulk, 0).unwrap();
    const FRAMES: u32 = 2_000;
    let done = AtomicBool::new(false);
    let mut got = std::thread::scope(|scope| {
        scope.spawn(|| {
            // By TLS until the session is UDP's, and for a while longer what is on its way.
            let mut after: Option<Bound> = None;
            for number in 0..FRAMES {
                if number == FRAMES / 2 {
                    after = Some(Bound::new(&a, world.relay.addr()));
                }
                match &after {
                    Some(bound) if number % 2 == 0 => bound.send(no_b, &number.to_be_bytes()),
                    _ => {
                        let frame = [&before[..], &number.to_be_bytes()].concat();
                        by_tls.socket.send(&frame).unwrap();
                    }
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            std::thread::sleep(Duration::from_millis(500));
            done.store(true, Ordering::Release);
        });
        let mut got = Vec::new();
        while !done.load(Ordering::Acquire) {
            if let Some((_, payload)) = peer.step() {
                got.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
            }
        }
        got
    });
    got.sort_unstable();
    let lost = FRAMES as usize - got.len();
    assert_eq!(lost, 0, "lost {lost} of {FRAMES}");
    got.dedup();
    assert_eq!(got.len(), FRAMES as usize, "something came twice");
}

/// One request over TLS, to the end of the answer.
fn ask(world: &World, request: &[u8]) -> String {
    let route = world.route();
    world.runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect((route.host.as_str(), route.port)).await.unwrap();
        let mut stream = Dialer::new().envelope(&route, stream).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("the answer ends").unwrap();
        String::from_utf8(answer).unwrap()
    })
}

#[test]
fn a_browser_a_scanner_and_a_health_check_see_a_web_server() {
    let world = World::new(&[]);
    let page = ask(&world, b"GET / HTTP/1.1\r\nHost: relay.example\r\nAccept: */*\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("</html>\n"), "{page}");
    let head = ask(&world, b"HEAD / HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(ask(&world, b"GET /.git/config HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(&world, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 405 "));
    assert!(ask(&world, b"\x01\x02\x03 nothing\r\n\r\n").starts_with("HTTP/1.1 400 "));
    // An upgrade to something else is a page like any other.
    let websocket = b"GET /skynet/v1/frames HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(ask(&world, websocket).starts_with("HTTP/1.1 404 "));
}

#[test]
fn the_operators_certificate_is_shown_and_one_that_does_not_fit_is_refused_with_the_cure() {
    let directory = passable_directory();
    let pem = |name: &str, text: String| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let made = || rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    let to_pem = |der: &[u8], what: &str| {
        let lines = base64_lines(der);
        format!("-----BEGIN {what}-----\n{lines}-----END {what}-----\n")
    };
    let chain = pem("chain.pem", to_pem(one.cert.der(), "CERTIFICATE"));
    let key = pem("key.pem", to_pem(&one.signing_key.serialize_der(), "PRIVATE KEY"));
    let wrong = pem("wrong.pem", to_pem(&other.signing_key.serialize_der(), "PRIVATE KEY"));

    let world = World::new(&["--tls-cert", &chain, "--tls-key", &key]);
    let stream = world.dial(Purpose::Frames);
    let shown = stream.get_ref().1.peer_certificates().unwrap().to_vec();
    assert_eq!(shown, [one.cert.der().clone()]);

    let dir = directory.path().join("other");
    let arguments =
        ["up", "--listen", "127.0.0.1:0", "--public-address", "127.0.0.1", "--tls-listen", "127.0.0.1:0"];
    for (chain, key, says) in
        [(&chain, &wrong, "do not go together"), (&chain, &dir.display().to_string(), "PEM file")]
    {
        let out = output(&dir, &[&arguments[..], &["--tls-cert", chain, "--tls-key", key]].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(says), "{said}");
    }
}

fn base64_lines(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect()
}

#[test]
fn whoever_does_not_read_is_cut_and_others_do_not_notice() {
    let world = World::new(&[]);
    let (slow, b, c) = (world.join("slow"), join(&world.token, "beta"), world.join("gamma"));
    let [no_slow, no_b] = [&slow, &b].map(node_no);
    // Bound, and then nobody reads any more: the handshake and the bind are done by hand.
    let mut stream = world.dial(Purpose::Frames);
    let clock = slow.clock;
    let mut frames = FrameStream::initiator(&world.key(), &mut os_rng().unwrap(), clock.now().mono);
    let config = RelayClientConfig {
        relay_no: slow.welcome.relay_no,
        lane: 0,
        ticket: slow.welcome.ticket,
        bind_key: slow.welcome.bind_key.clone(),
        clock: RelayClock::new(slow.welcome.relay_unix_ms, clock.now().mono),
    };
    let mut client = RelayClient::new(config, os_rng().unwrap(), clock.now().mono);
    world.runtime.block_on(async {
        let mut buffer = [0; 4096];
        while !client.is_up() {
            while let Some(frame) = client.poll_transmit() {
                frames.push(&frame, clock.now().mono);
            }
            while let Some(bytes) = frames.poll_bytes(clock.now().mono) {
                stream.write_all(&bytes).await.unwrap();
            }
            let n = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
            let now = clock.now().mono;
            frames.feed(&buffer[..n], |frame| client.handle_datagram(frame, now)).unwrap();
        }
    });

    let mut sender = Bound::new(&b, world.relay.addr());
    let (fine, ..) = world.carry(&c);
    let begun = clock.now().mono;
    let cut = loop {
        let took = clock.now().mono - begun;
        assert!(took < Duration::from_secs(40), "never cut");
        for _ in 0..200 {
            sender.send(no_slow, &[7; 1400]);
        }
        fine.send(no_b, b"still here");
        while sender.receive().1 != b"still here" {}
        let status = world.status();
        if status["drops"]["tls_slow_reader"] == 1 {
            assert!(status["drops"]["tls_frame_full"].as_u64() > Some(0), "{status}");
            break took;
        }
    };
    println!("a reader that stopped was cut after {cut:.1?} (stalled for 10 s)");
    drop(stream);
}

#[test]
fn streams_that_prove_nothing_are_cut_and_counted() {
    let world = World::new(&[]);
    // A junk handshake inside, a right one and no session, and a TLS client that asks nothing.
    let mut junk = world.dial(Purpose::Frames);
    let mut unbound = world.dial(Purpose::Frames);
    let mute = TcpStream::connect((world.route().host.as_str(), world.route().port)).unwrap();
    let clock = Clock::new();
    let mut frames = FrameStream::initiator(&world.key(), &mut os_rng().unwrap(), clock.now().mono);
    let first = frames.poll_bytes(clock.now().mono).unwrap();
    world.runtime.block_on(async {
        let junk_first: Vec<u8> = [&[0, 112][..], &[9; 112]].concat();
        junk.write_all(&junk_first).await.unwrap();
        assert!(matches!(junk.read(&mut [0; 64]).await, Ok(0) | Err(_)), "junk was answered");
        unbound.write_all(&first).await.unwrap();
        let ended = async {
            let mut buffer = [0; 256];
            while unbound.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("a stream without a session is cut");
    });
    let drops = world.status()["drops"].clone();
    assert_eq!(drops["broken_channel"], 1, "{drops}");
    assert_eq!(drops["tls_unbound"], 1, "{drops}");
    assert_eq!(drops["tls_handshake"], 1, "{drops}");
    drop(mute);
}
