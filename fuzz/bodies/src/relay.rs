//! The relay's UDP side, with clients that hold tickets and an attacker who holds none.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use skynet_core::crypto;
use skynet_core::key::{Identity, Secret};
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::relay::{
    self, Bind, Class, DATA_HEADER_LEN, DataHeader, Frame, Hello, Keep, TICKET_LEN, Ticket, bind_key,
};
use skynet_relay::server::{Action, ClusterKeys, ForwardConfig, Forwarder, Local, forward_config};

use crate::Input;
use crate::sample::NOW;

const MAX_STEPS: usize = 256;
const MAX_SESSIONS: usize = 6;

struct Client {
    network: u8,
    node_no: u32,
    ticket: [u8; TICKET_LEN],
    key: Secret,
    cookie: [u8; 16],
    gen_no: u16,
}

struct World {
    /// One for each thread; an address always comes to the same.
    parts: Vec<Forwarder>,
    clients: Vec<Client>,
    now: Now,
    /// Address → network of who was told BOUND there. Sessions end; what was once proven stays possible.
    proven: BTreeMap<SocketAddr, Vec<u8>>,
    /// Address → what the last BIND from there came to.
    asked: BTreeMap<SocketAddr, Local>,
    last: Vec<u8>,
    forwarded: usize,
}

fn cluster_key() -> Secret {
    Secret::from_bytes([4; 32])
}

/// Three clients, the third in a network of its own.
fn clients() -> Vec<Client> {
    let client = |(node_no, network): (u32, u8)| {
        let ticket = Ticket {
            kid: 1,
            rate_class: 0,
            node_no,
            network_id: [network; 8],
            not_after: NOW.0 + 3600,
            issue_nonce: u64::from(node_no),
            identity_hash: Ticket::hash_identity(&Identity([node_no as u8; 32])),
        };
        let ticket = ticket.mint(&cluster_key());
        let key = bind_key(&cluster_key(), &ticket);
        Client { network, node_no, ticket, key, cookie: [0; 16], gen_no: 0 }
    };
    [(1, 1), (2, 1), (3, 2)].map(client).into()
}

/// Four addresses of the clients, two of them one host, and the attacker's.
fn address(n: u8) -> SocketAddr {
    let hosts = [([192, 0, 2, 1], 1), ([192, 0, 2, 1], 2), ([198, 51, 100, 1], 1), ([203, 0, 113, 5], 7)];
    hosts[usize::from(n) % hosts.len()].into()
}

/// Two addresses of the relay's host, by a bit the above leaves over.
fn local(n: u8) -> Local {
    Local(IpAddr::from([203, 0, 113, 10 + (n >> 2) % 2]))
}

/// Runs a script against a relay of two parts with room for six sessions: an operation a byte, its operands behind it.
///
/// Promises: no panic; no answer is larger than its cause; a datagram is only ever forwarded, unchanged behind its
/// header, to an address that was proven by a member of the sender's network, and from the address of the relay where
/// that was done last; the table stays within its cap.
pub fn forwarder(bytes: &[u8]) -> bool {
    let config = ForwardConfig { max_sessions: MAX_SESSIONS, max_sessions_per_node: 2, ..forward_config() };
    let keys = ClusterKeys::new((1, cluster_key()), []);
    let mut rng = Rng::from_seed([1; 32]);
    let mut world = World {
        parts: Forwarder::parts(2, &config, &keys, &mut rng, Instant::ZERO),
        clients: clients(),
        now: Now { mono: Instant::ZERO, unix: NOW, unix_nanos: 0 },
        proven: BTreeMap::new(),
        asked: BTreeMap::new(),
        last: Vec::new(),
        forwarded: 0,
    };
    let mut input = Input(bytes);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.forwarded > 0
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let (who, ends) = (usize::from(input.byte()) % 3, input.byte());
        let from = (local(ends), address(ends));
        match operation % 8 {
            0 => self.handle(from, input.slice().to_vec(), None),
            1 => {
                let ts_ms = self.ts(input.byte());
                let hello = Hello { lane: input.byte() % 8, ticket: self.clients[who].ticket, ts_ms };
                self.handle(from, hello.encode(&self.clients[who].key).to_vec(), Some(who));
            }
            2 => {
                let ts_ms = self.ts(input.byte());
                let c = &self.clients[who];
                let bind = Bind { lane: input.byte() % 8, ticket: c.ticket, ts_ms, cookie: c.cookie };
                self.handle(from, bind.encode(&self.clients[who].key).to_vec(), Some(who));
            }
            3 => {
                let (class, to) = (input.byte(), u32::from(input.byte() % 4));
                let class = [Class::Bulk, Class::Normal, Class::Control][usize::from(class) % 3];
                let header = DataHeader::new(class, input.byte(), self.clients[who].gen_no, to);
                let frame = [&header.encode()[..], input.slice()].concat();
                self.handle(from, frame, Some(who));
            }
            4 => {
                let keep = Keep { flags: 0, gen_no: self.clients[who].gen_no, t: 7 };
                self.handle(from, keep.encode().to_vec(), Some(who));
            }
            5 => {
                let (at, mask) = (usize::from(input.byte()), input.byte());
                let mut frame = self.last.clone();
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= mask;
                }
                self.handle(from, frame, Some(who));
            }
            6 => {
                // A frame of the fuzzer's, with a right ticket and MAC.
                let mut frame = input.slice().to_vec();
                let c = &self.clients[who];
                if let Some(place) = frame.get_mut(4..4 + TICKET_LEN) {
                    place.copy_from_slice(&c.ticket);
                }
                if let Some(at) = frame.len().checked_sub(16) {
                    let mac = crypto::mac16(c.key.expose(), &[&frame[..at]]);
                    frame[at..].copy_from_slice(&mac);
                }
                self.handle(from, frame, Some(who));
            }
            _ => {
                let by = Duration::from_secs(u64::from(input.byte()));
                self.now.mono = self.now.mono + by;
                self.now.unix = UnixTime(self.now.unix.0 + by.as_secs());
                for part in &mut self.parts {
                    part.handle_timeout(self.now.mono);
                    assert!(part.poll_timeout() > self.now.mono, "a timer that stays due");
                }
                self.tell();
            }
        }
    }

    /// The client's clock, which may be wrong by minutes.
    fn ts(&self, skew: u8) -> u64 {
        self.now.unix.0 * 1000 + u64::from(skew & 15) + 4_000 * u64::from(skew >> 4)
    }

    fn handle(&mut self, (local, from): (Local, SocketAddr), cause: Vec<u8>, who: Option<usize>) {
        let mut buffer = cause.clone();
        let part = usize::from(from.port()) % self.parts.len();
        let action = self.parts[part].handle_datagram(local, from, &mut buffer, self.now);
        self.tell();
        let sessions: usize = self.parts.iter().map(Forwarder::sessions).sum();
        assert!(sessions <= MAX_SESSIONS, "more sessions than the cap");
        assert_eq!(buffer.len(), cause.len());
        match action {
            Action::Reply { len } => {
                assert!(len <= cause.len(), "an answer larger than its cause");
                self.answered((local, from), &buffer[..len], who);
            }
            Action::Forward { local, to } => {
                self.forwarded += 1;
                assert_eq!(self.asked.get(&to), Some(&local), "leaves from where {to} did not bind");
                assert_eq!(
                    buffer[DATA_HEADER_LEN..],
                    cause[DATA_HEADER_LEN..],
                    "the payload is not ours to change"
                );
                let networks = |a: &SocketAddr| self.proven.get(a).cloned().unwrap_or_default();
                let (ours, theirs) = (networks(&from), networks(&to));
                assert!(ours.iter().any(|n| theirs.contains(n)), "{from} reached {to}, {ours:?} {theirs:?}");
            }
            Action::Drop(_) => {}
        }
        self.last = cause;
    }

    /// Each part hears what the others say.
    fn tell(&mut self) {
        for part in 0..self.parts.len() {
            while let Some(update) = self.parts[part].poll_update() {
                let others = self.parts.iter_mut().enumerate().filter(|(other, _)| *other != part);
                others.for_each(|(_, other)| other.handle_update(&update, self.now.mono));
            }
        }
    }

    fn answered(&mut self, (local, from): (Local, SocketAddr), answer: &[u8], who: Option<usize>) {
        let Some(client) = who.map(|who| &mut self.clients[who]) else {
            assert!(!matches!(Frame::parse(answer), Ok(Frame::Bound(_))), "bound without a ticket");
            return;
        };
        match Frame::parse(answer) {
            Ok(Frame::Cookie(cookie)) if relay::mac_is_valid(answer, &client.key) => {
                client.cookie = cookie.cookie
            }
            // Frames of one client, sent by another step with a flipped bit, may be answered for the first.
            Ok(Frame::Bound(bound)) => {
                assert_eq!(bound.observed, from, "bound where it is not");
                self.asked.insert(from, local);
                for client in &mut self.clients {
                    if relay::mac_is_valid(answer, &client.key) {
                        client.gen_no = bound.gen_no;
                        let networks = self.proven.entry(from).or_default();
                        networks.push(client.network);
                        networks.dedup();
                    }
                }
            }
            Ok(_) | Err(_) => {}
        }
        debug_assert!(self.clients.iter().all(|c| c.node_no <= 3));
    }
}
