//! What goes into an agent and what comes out.

use std::net::{IpAddr, SocketAddr};

use crate::allowed_ips::Prefix;
use crate::forwarding::PathActivity;
use crate::id::PortNo;
use crate::path::agent::guess::Guessing;
use crate::path::history::{Path, Reason};
use crate::path::mtu::MtuConfig;
use crate::time::{Duration, Instant};
use crate::wire::probe::{Body, Head};

/// What an agent is told once.
#[derive(Clone, Debug, Default)]
pub struct PathConfig {
    /// The overlay's own prefixes: never probed.
    pub overlay: Vec<Prefix>,
    /// How large datagrams may be.
    pub mtu: MtuConfig,
    /// How far ports are guessed where plain rounds fail.
    pub guessing: Guessing,
}

/// In place of a relay's number: the pair's *carrier*, which is the way port 0's data takes, whatever it is. An agent of
/// a further port calls by it, and never says its number to the peer.
pub const CARRIER: u16 = u16::MAX;

/// The pair's relay: a session of ours is up, and the peer is, or may be, on the same relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayPath {
    /// The relay's number in the manifest.
    pub relay_no: u16,
    /// The peer's number there.
    pub node_no: u32,
    /// My round-trip time to the relay.
    pub rtt: Duration,
    /// The peer's, if its record or CALL told; else mine is taken for it.
    pub peer_rtt: Option<Duration>,
}

/// Counters of one tier, read from the workers by the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathCounters {
    /// Transport data messages sent to the peer in this tier, modulo 2^32.
    pub tx: u32,
    /// Authenticated transport data messages received from the peer in this tier, modulo 2^32.
    pub rx: u32,
    /// When the last of these came.
    pub last_rx: Option<Instant>,
}

impl PathCounters {
    /// What the workers have counted until now.
    pub fn read(activity: &PathActivity) -> Self {
        Self { tx: activity.tx(), rx: activity.rx(), last_rx: activity.last_rx() }
    }
}

/// The data on the selected direct path as both ends have counted it, by its last PONG. Both count modulo 2^32 and from
/// anywhere: only differences of two such pairs mean something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// When the PING left.
    pub at: Instant,
    /// Messages sent until then.
    pub sent: u32,
    /// Messages the peer had received when it answered.
    pub arrived: u32,
}

/// How closely the selected direct path is watched while bulk data flows on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attention {
    /// Every two seconds, as ever.
    #[default]
    Calm,
    /// Seven times a second, for the counts in the PONGs; it fails as calmly as ever.
    Counting,
    /// Seven times a second, and it has failed within half a second: another lane stands by.
    Brisk,
}

/// What the owner knows of the traffic to and from the peer. Keepalives do not count as sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Last data sent to the peer, by whatever path.
    pub last_tx: Option<Instant>,
    /// All direct paths together.
    pub direct: PathCounters,
    /// All relayed paths together.
    pub relayed: PathCounters,
    /// When data came last by another port than this agent's.
    pub others_rx: Option<Instant>,
}

/// Where a probe came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeFrom {
    /// From this address to lane 0's socket.
    Direct(SocketAddr),
    /// Inside a relay frame.
    Relayed {
        /// The relay.
        relay: u16,
        /// The sender the relay named.
        node_no: u32,
    },
}

/// A probe that was opened under the pair's key and not seen before. Only [`super::PathAgent::open`] makes one.
#[derive(Debug)]
pub struct Opened {
    pub(super) head: Head,
    pub(super) body: Body,
    pub(super) local: Option<IpAddr>,
    /// A copy of it came before, from elsewhere.
    pub(super) repeated: bool,
}

impl Opened {
    /// It came to this address of ours, if that is known and there are several: what answers it comes from there.
    pub fn at(self, local: Option<IpAddr>) -> Self {
        Self { local, ..self }
    }
    /// Its clear head.
    pub fn head(&self) -> &Head {
        &self.head
    }
    /// Its body.
    pub fn body(&self) -> &Body {
        &self.body
    }
}

/// Where a probe goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeTo {
    /// From lane 0's socket to this address.
    Direct {
        /// Where.
        addr: SocketAddr,
        /// From which address of ours, if the system is not to choose.
        local: Option<IpAddr>,
        /// TTL or hop limit, if not the system's.
        ttl: Option<u8>,
    },
    /// In a relay frame of class control.
    Relayed {
        /// The relay.
        relay: u16,
        /// The peer there.
        node_no: u32,
    },
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeTransmit {
    /// By which of the sockets for guessing; `None`: by the agent's own.
    pub socket: Option<PortNo>,
    /// Where to.
    pub to: ProbeTo,
    /// Sealed.
    pub bytes: Vec<u8>,
    /// A check or an opener of a punch round: bounded over all pairs of a node ([`crate::path::check::PunchRate`]).
    pub punch: bool,
}

/// What the owner must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathEvent {
    /// Data goes this way from now on; `None`: there is no way.
    Selected {
        /// The path.
        path: Option<Path>,
        /// Why, for the log.
        reason: Reason,
    },
    /// The peer has told that it is at other relays.
    PeerRelays,
    /// Three PINGs in a row by this relay, which carries the data, were not answered.
    RelaySilent(u16),
    /// The direct path failed: ask STUN again, the local candidates may have changed.
    RefreshCandidates,
    /// [`super::PathAgent::size`] says something else now.
    SizeChanged,
    /// The peer has heard that this node started anew, and had time to begin a handshake.
    Announced,
    /// Open so many sockets for guessing, and tell each with [`super::PathAgent::socket_opened`].
    OpenSockets {
        /// How many.
        count: u8,
    },
    /// Close the sockets for guessing of this peer, but this one.
    KeepSocket(Option<PortNo>),
    /// The peer has started anew, and lost every session: what is sealed for it under old keys is lost.
    PeerRestarted,
}

/// The states of `path/mod.rs`, and two for a peer without a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// No path.
    Unreached,
    /// Data by the relay, no direct path known to work.
    Relayed,
    /// Data by the relay; a direct path answers but is on hold.
    Validated,
    /// Data goes direct.
    Direct,
    /// The direct path is in doubt; data by the relay, or, without one, still direct however long it lasts.
    Suspect,
}

/// Which timer [`super::PathAgent::poll_timeout`] names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PathTimer {
    /// Output waits: poll it.
    Output,
    /// The peer is told that this node has started anew.
    Announce,
    /// The next check, or the end, of a suspect path.
    Suspect,
    /// Three seconds without a packet on the selected path.
    Silence,
    /// The next check of the selected path.
    Watch,
    /// A second look at the data counters.
    Confirm,
    /// An opener of a round.
    Opener,
    /// A check of a round.
    Check,
    /// A CALL.
    Call,
    /// Another try of a path that worked once.
    Retry,
    /// The next round.
    Round,
    /// The size of the selected path.
    Mtu,
    /// Guesses to send, or the end of an attempt.
    Guess,
    /// Forty-five seconds without traffic.
    Idle,
}

/// Counts of what the agent did and refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// PINGs sent.
    pub pings_sent: u64,
    /// PINGs sent besides, of a path's size or to compare with those.
    pub mtu_probes: u64,
    /// PONGs sent.
    pub pongs_sent: u64,
    /// CALLs sent.
    pub calls_sent: u64,
    /// Rounds begun.
    pub rounds: u64,
    /// Changes of the selected path.
    pub switches: u64,
    /// Probes that did not open.
    pub unauthentic: u64,
    /// Probes refused as replayed or from before the peer's start.
    pub replayed: u64,
    /// PONGs without an outstanding transaction on the path they came by.
    pub unexpected_pongs: u64,
    /// PONGs on a path only a packet's source named, of a PING that did not come from an address of mine.
    pub misdirected_pongs: u64,
    /// Probes from, and CALLs by, a path they may not take.
    pub refused_sources: u64,
    /// Attempts to guess ports.
    pub guess_attempts: u64,
    /// Guesses and their openers sent.
    pub guesses_sent: u64,
    /// Sockets that became a path.
    pub guesses_won: u64,
    /// PINGs the budget held back.
    pub over_budget: u64,
    /// Datagrams dropped because the queue was full.
    pub queue_full: u64,
}
