//! Forwarding threads on wildcard sockets of a host with many addresses: loopback. The clients are connected
//! sockets, which let in no other source than the one they asked, as a NAT does.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use skynet_core::key::Secret;
use skynet_core::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent};
use skynet_core::rng::{Rng, RngCore as _};
use skynet_core::time::{Now, UnixTime};
use skynet_core::wire::relay::{Class, Frame, Keep, NACK_LEN, Ticket, bind_key};
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::io::forward::ForwardThreads;
use skynet_relay::io::group::ThreadSockets;
use skynet_relay::server::{ClusterKeys, Forwarder, forward_config};

const PATIENCE: Duration = Duration::from_secs(20);
const THREADS: u8 = 3;
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

struct Relay {
    clock: Clock,
    port: u16,
    key: Secret,
    threads: ForwardThreads,
}

impl Relay {
    fn on(listen: &str) -> Self {
        let (sockets, steered) = ThreadSockets::bind(listen.parse().unwrap(), THREADS.into()).unwrap();
        steered.unwrap();
        let port = sockets[0].bulk().local_addr().unwrap().port();
        let (clock, mut rng) = (Clock::new(), os_rng().unwrap());
        let key = Secret::random(&mut rng);
        let keys = ClusterKeys::new((1, key.clone()), []);
        let now = clock.now().mono;
        let parts = Forwarder::parts(THREADS, &forward_config(), &keys, &mut rng, now);
        Self { clock, port, key, threads: ForwardThreads::start(sockets, parts, clock).unwrap() }
    }

    fn ticket(&self, node_no: u32) -> Ticket {
        let UnixTime(now) = self.clock.now().unix;
        Ticket {
            kid: 1,
            rate_class: 0,
            node_no,
            network_id: *b"networkA",
            not_after: now + 3600,
            issue_nonce: 1,
            identity_hash: [0; 16],
        }
    }
}

/// A socket that is open only to `port` of `asked`.
fn socket_to(asked: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((FIRST, 0)).unwrap();
    socket.connect((asked, port)).unwrap();
    socket
}

/// A node with its session.
struct Node {
    clock: Clock,
    socket: UdpSocket,
    client: RelayClient,
}

impl Node {
    /// Binds node `node_no` at the relay's address `asked`.
    fn bind(relay: &Relay, node_no: u32, asked: Ipv4Addr) -> Self {
        let socket = socket_to(asked, relay.port);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let ticket = relay.ticket(node_no).mint(&relay.key);
        let Now { mono, unix, unix_nanos } = relay.clock.now();
        let config = RelayClientConfig {
            relay_no: forward_config().relay_no,
            lane: 0,
            ticket,
            bind_key: bind_key(&relay.key, &ticket),
            clock: RelayClock::new(unix.0 * 1000 + u64::from(unix_nanos / 1_000_000), mono),
        };
        let client = RelayClient::new(config, os_rng().unwrap(), mono);
        let mut node = Self { clock: relay.clock, socket, client };
        node.until(|_, client| matches!(client.poll_event(), Some(RelayEvent::Up { .. })).then_some(()));
        node
    }

    /// Sends what is due and receives until `wanted` is satisfied by a datagram or by the client.
    fn until<T>(&mut self, mut wanted: impl FnMut(&[u8], &mut RelayClient) -> Option<T>) -> T {
        let end = self.clock.now().mono + PATIENCE;
        let mut buffer = [0; 2048];
        loop {
            assert!(self.clock.now().mono < end, "no answer from where it was asked");
            while let Some(bytes) = self.client.poll_transmit() {
                self.socket.send(&bytes).unwrap();
            }
            let len = self.socket.recv(&mut buffer).unwrap_or(0);
            let now = self.clock.now().mono;
            self.client.handle_datagram(&buffer[..len], now);
            self.client.handle_timeout(now);
            if let Some(found) = wanted(&buffer[..len], &mut self.client) {
                return found;
            }
        }
    }

    fn send(&self, to: u32, payload: &[u8]) {
        let header = self.client.data_header(to, Class::Bulk, 0).unwrap();
        self.socket.send(&[&header[..], payload].concat()).unwrap();
    }

    fn receive(&mut self) -> (u32, Vec<u8>) {
        self.until(|bytes, _| match Frame::parse(bytes) {
            Ok(Frame::Data(header, payload)) => Some((header.node_no, payload.to_vec())),
            _ => None,
        })
    }
}

/// A Binding request with room for an IPv6 answer, made by PADDING.
fn stun_request(rng: &mut Rng) -> [u8; 44] {
    let mut request = [0; 44];
    request[..8].copy_from_slice(&[0, 1, 0, 24, 0x21, 0x12, 0xA4, 0x42]);
    rng.fill_bytes(&mut request[8..20]);
    request[20..24].copy_from_slice(&[0, 0x26, 0, 20]);
    request
}

fn asked_and_answered(relay: &Relay, asked: SocketAddr, request: &[u8]) -> (SocketAddr, Vec<u8>) {
    // Open to all, so that an answer from elsewhere is seen as such.
    let socket = UdpSocket::bind(if asked.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(request, asked).unwrap();
    let mut buffer = [0; 200];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert!(!relay.threads.is_finished());
    (from, buffer[..len].to_vec())
}

fn answers_from_where_it_was_asked(listen: &str, hosts: &[&str]) {
    let relay = Relay::on(listen);
    let mut rng = os_rng().unwrap();
    for host in hosts {
        let asked = SocketAddr::new(host.parse().unwrap(), relay.port);
        let request = stun_request(&mut rng);
        let (from, answer) = asked_and_answered(&relay, asked, &request);
        assert_eq!(from, asked, "STUN at {host} on {listen}");
        assert_eq!((&answer[..2], &answer[8..20]), (&[1, 1][..], &request[8..20]));
        // A refusal is an answer too.
        let keep = Keep { flags: 0, gen_no: 7, t: 1 }.encode();
        let (from, answer) = asked_and_answered(&relay, asked, &keep);
        assert_eq!((from, answer.len()), (asked, NACK_LEN), "KEEP at {host} on {listen}");
    }
    relay.threads.stop().unwrap();
}

#[test]
fn a_relay_on_all_addresses_answers_from_the_one_asked() {
    answers_from_where_it_was_asked("0.0.0.0:0", &["127.0.0.2", "127.0.0.1", "127.0.0.3"]);
}

#[test]
fn a_dual_stack_relay_answers_both_families_from_the_address_asked() {
    answers_from_where_it_was_asked("[::]:0", &["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"]);
}

#[test]
fn a_relay_on_one_address_answers_from_it() {
    answers_from_where_it_was_asked("127.0.0.2:0", &["127.0.0.2"]);
}

fn data_arrives_from_where_the_recipient_bound(listen: &str) {
    let relay = Relay::on(listen);
    let mut a = Node::bind(&relay, 1, FIRST);
    let mut b = Node::bind(&relay, 2, SECOND);
    for i in 0..20u8 {
        a.send(2, &[i; 1200]);
        assert_eq!(b.receive(), (1, vec![i; 1200]));
        b.send(1, &[i; 300]);
        assert_eq!(a.receive(), (2, vec![i; 300]));
    }
    // The same node and port, now asking elsewhere.
    b.socket.connect((THIRD, relay.port)).unwrap();
    b.client.rebind(relay.clock.now().mono);
    b.until(|bytes, _| matches!(Frame::parse(bytes), Ok(Frame::Bound(_))).then_some(()));
    a.send(2, b"moved");
    assert_eq!(b.receive(), (1, b"moved".to_vec()));
    relay.threads.stop().unwrap();
}

#[test]
fn data_arrives_from_where_its_recipient_bound() {
    data_arrives_from_where_the_recipient_bound("0.0.0.0:0");
}

#[test]
fn data_arrives_from_where_its_recipient_bound_on_a_dual_stack_relay() {
    data_arrives_from_where_the_recipient_bound("[::]:0");
}

#[test]
fn nodes_reach_each_other_whatever_threads_they_and_their_lanes_come_to() {
    let relay = Relay::on("127.0.0.1:0");
    let mut nodes: Vec<_> = (1..=40).map(|n| Node::bind(&relay, n, FIRST)).collect();
    for round in 0..3u8 {
        for i in 0..nodes.len() {
            let to = (i + 1 + usize::from(round) * 5) % nodes.len();
            nodes[i].send(to as u32 + 1, &[round; 700]);
            assert_eq!(nodes[to].receive(), (i as u32 + 1, vec![round; 700]));
        }
    }
    // One of them behind a NAT that now gives it another port, and so mostly another thread.
    for round in 0..8u8 {
        let old = std::mem::replace(&mut nodes[0].socket, socket_to(FIRST, relay.port));
        nodes[0].socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        nodes[0].client.rebind(relay.clock.now().mono);
        nodes[0].until(|bytes, _| matches!(Frame::parse(bytes), Ok(Frame::Bound(_))).then_some(()));
        drop(old);
        for i in 1..nodes.len() {
            nodes[i].send(1, &[round]);
            assert_eq!(nodes[0].receive(), (i as u32 + 1, vec![round]));
        }
    }
    std::thread::sleep(Duration::from_millis(1_100));
    nodes[0].send(2, b"so that a thread publishes");
    let sessions = || relay.threads.stats().iter().map(|stats| stats.sessions).collect::<Vec<_>>();
    let end = relay.clock.now().mono + PATIENCE;
    while sessions().iter().sum::<usize>() != nodes.len() {
        assert!(relay.clock.now().mono < end, "{:?}", sessions());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(sessions().iter().all(|n| *n > 0), "{:?}", sessions());
    relay.threads.stop().unwrap();
}
