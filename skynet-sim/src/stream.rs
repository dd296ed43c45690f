//! Reliable, ordered byte pipes between two hosts: TCP as an application sees it.
//!
//! Latency is that of the links on the way; a lossy link costs retransmission time-outs instead of bytes. A cut
//! link, a stopped machine or a NAT that forgot the connection breaks the pipe as it breaks TCP: late, or by a
//! reset, never by an immediate notice from nowhere.

use std::collections::BTreeMap;

use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant};

use crate::host::{HostId, StreamEvent, StreamId};
use crate::network::{Direction, Network, StreamPath};
use crate::seed::chance;

/// Bytes in flight in one direction beyond which the sender's kernel would block for ever; the pipe breaks, so a
/// host that floods is noticed.
pub const MAX_IN_FLIGHT: usize = 1 << 20;

/// How long TCP keeps trying over a cut link or a dead machine before it tells the application (Linux's
/// `TCP_USER_TIMEOUT` as the shells set it).
pub const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a connection attempt into nowhere takes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum retransmission time-out (RFC 6298 says 1 s, kernels use 200 ms).
const RTO: Duration = Duration::from_millis(200);

/// Retransmissions of one segment drawn at most.
const MAX_RETRANSMISSIONS: u32 = 6;

/// One of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What will happen at one end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// A connection request, at the server.
    Request,
    /// Something for the application.
    Event(StreamEvent),
}

#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) hosts: [HostId; 2],
    pub(crate) ids: [Option<StreamId>; 2],
    pub(crate) path: StreamPath,
    pub(crate) from_port: u16,
    /// The end still wants to hear.
    pub(crate) open: [bool; 2],
    /// A NAT on the way forgot the connection.
    forgotten: bool,
    /// The machine at one end is gone without a word.
    dead: bool,
    /// The user time-out runs; nothing passes any more.
    stalled: bool,
    last_arrival: [Instant; 2],
    in_flight: [usize; 2],
}

/// When something sent now arrives, or that it never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Arrives(Instant),
    /// The client's NAT answers with a reset then.
    Reset(Instant),
    /// Both applications learn of it then.
    TimesOut(Instant),
    /// Nobody notices anything new.
    Vanishes,
}

#[derive(Debug)]
pub(crate) struct Streams {
    rng: Rng,
    next: u64,
    next_port: u16,
    pipes: BTreeMap<u64, Pipe>,
    by_host: BTreeMap<(HostId, StreamId), (u64, End)>,
}

impl Streams {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self { rng, next: 0, next_port: 32_768, pipes: BTreeMap::new(), by_host: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.pipes.len()
    }

    pub(crate) fn open(&mut self, client: HostId, id: StreamId, path: StreamPath) -> u64 {
        let number = self.next;
        self.next += 1;
        self.next_port = self.next_port.checked_add(1).unwrap_or(32_768);
        self.by_host.insert((client, id), (number, End::Client));
        let pipe = Pipe {
            hosts: [client, path.server],
            ids: [Some(id), None],
            path,
            from_port: self.next_port,
            open: [true, true],
            forgotten: false,
            dead: false,
            stalled: false,
            last_arrival: [Instant::ZERO; 2],
            in_flight: [0; 2],
        };
        self.pipes.insert(number, pipe);
        number
    }

    /// The server took the request: it gets its own number for the stream.
    pub(crate) fn accept(&mut self, number: u64) -> Option<StreamId> {
        let pipe = self.pipes.get_mut(&number)?;
        let id = StreamId(StreamId::ACCEPTED + number);
        pipe.ids[End::Server as usize] = Some(id);
        self.by_host.insert((pipe.hosts[1], id), (number, End::Server));
        Some(id)
    }

    pub(crate) fn find(&self, host: HostId, id: StreamId) -> Option<(u64, End)> {
        self.by_host.get(&(host, id)).copied()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Pipe> {
        self.pipes.get(&number)
    }

    /// Streams of a host, in order.
    pub(crate) fn of_host(&self, host: HostId) -> Vec<(u64, End)> {
        let range = (host, StreamId(0))..=(host, StreamId(u64::MAX));
        self.by_host.range(range).map(|(_, end)| *end).collect()
    }

    /// A gateway forgot its connections or changed its address.
    pub(crate) fn forget(&mut self, crosses: impl Fn(&StreamPath) -> bool) {
        for pipe in self.pipes.values_mut().filter(|p| crosses(&p.path)) {
            pipe.forgotten = true;
        }
    }

    /// One end wants to hear no more; the pipe is gone once neither does.
    pub(crate) fn close(&mut self, number: u64, end: End) {
        let Some(pipe) = self.pipes.get_mut(&number) else { return };
        pipe.open[end as usize] = false;
        if let Some(id) = pipe.ids[end as usize].take() {
            self.by_host.remove(&(pipe.hosts[end as usize], id));
        }
        if pipe.open == [false, false] {
            self.pipes.remove(&number);
        }
    }

    /// The machine at `end` is gone; the other end finds out when it next sends.
    pub(crate) fn die(&mut self, number: u64, end: End) {
        if let Some(pipe) = self.pipes.get_mut(&number) {
            pipe.dead = true;
        }
        self.close(number, end);
    }

    /// Bytes that arrived leave the flight.
    pub(crate) fn arrived(&mut self, number: u64, end: End, bytes: usize) {
        if let Some(pipe) = self.pipes.get_mut(&number) {
            pipe.in_flight[end as usize] = pipe.in_flight[end as usize].saturating_sub(bytes);
        }
    }

    /// What becomes of `bytes` sent by `end` at `now`.
    pub(crate) fn fate(
        &mut self,
        number: u64,
        end: End,
        bytes: usize,
        network: &Network,
        now: Instant,
    ) -> Fate {
        let Some(pipe) = self.pipes.get_mut(&number) else { return Fate::Vanishes };
        if pipe.stalled {
            return Fate::Vanishes;
        }
        let (latency, loss_ppm, up) = survey(&pipe.path, end, network);
        let (back, _, _) = survey(&pipe.path, end.other(), network);
        if !up || pipe.dead {
            pipe.stalled = true;
            return Fate::TimesOut(now + USER_TIMEOUT);
        }
        if pipe.forgotten {
            pipe.stalled = true;
            return match end {
                // The server knows no such connection and says so.
                End::Client => Fate::Reset(now + latency + back),
                End::Server => Fate::TimesOut(now + USER_TIMEOUT),
            };
        }
        let to = end.other() as usize;
        pipe.in_flight[to] += bytes;
        if pipe.in_flight[to] > MAX_IN_FLIGHT {
            pipe.stalled = true;
            return Fate::TimesOut(now);
        }
        let mut arrival = now + latency;
        let mut timeout = RTO.max(latency + back);
        for _ in 0..MAX_RETRANSMISSIONS {
            if !chance(&mut self.rng, loss_ppm) {
                break;
            }
            arrival = arrival + timeout;
            timeout *= 2;
        }
        pipe.last_arrival[to] = pipe.last_arrival[to].max(arrival);
        Fate::Arrives(pipe.last_arrival[to])
    }

    /// Splits at random: TCP keeps no boundaries, so no receiver may rely on them.
    pub(crate) fn split(&mut self, bytes: Vec<u8>) -> (Vec<u8>, Option<Vec<u8>>) {
        if bytes.len() < 2 || self.rng.below(4) != 0 {
            return (bytes, None);
        }
        let at = 1 + usize::try_from(self.rng.below(bytes.len() as u64 - 1)).expect("below a length");
        let mut first = bytes;
        let second = first.split_off(at);
        (first, Some(second))
    }
}

/// Round trip time of a path.
pub(crate) fn round_trip(path: &StreamPath, network: &Network) -> Duration {
    survey(path, End::Client, network).0 + survey(path, End::Server, network).0
}

/// Latency and loss of the way from `end` to the other, and whether it is whole.
fn survey(path: &StreamPath, end: End, network: &Network) -> (Duration, u32, bool) {
    let mut latency = Duration::ZERO;
    let mut passes = 1_000_000u64;
    let mut whole = true;
    for (attachment, direction) in &path.links {
        let direction = match (end, direction) {
            (End::Client, d) => *d,
            (End::Server, Direction::Up) => Direction::Down,
            (End::Server, Direction::Down) => Direction::Up,
        };
        let link = network.link(*attachment, direction);
        latency += link.config().latency;
        passes = passes * u64::from(1_000_000 - link.loss_ppm().min(1_000_000)) / 1_000_000;
        whole &= link.is_up();
    }
    (latency, u32::try_from(1_000_000 - passes).expect("a part of a million"), whole)
}
