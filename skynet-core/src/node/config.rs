//! What `Node` is told at its start.

use core::net::{IpAddr, SocketAddr};

use crate::allowed_ips::Prefix;
use crate::forwarder::RelayLimits;
use crate::id::NodeNo;
use crate::key::{PublicKey, Secret, StaticSecret};
use crate::member::{Credentials, JoinToken, Name, Tags};
use crate::node::event::Floors;
use crate::path::{Guessing, MtuConfig};
use crate::session::Engine;
use crate::time::Duration;

/// All of it. Memory: about 1 KiB per idle peer, see the caps of each part.
#[derive(Debug)]
pub struct NodeConfig {
    /// How this node comes to be a member, if it does.
    pub membership: Membership,
    /// Stock WireGuard peers, if any.
    pub stock: Option<StockConfig>,
    /// What was persisted last; default on the first start.
    pub floors: Floors,
    /// What [`NodeEvent::PersistPeers`](crate::node::NodeEvent::PersistPeers) said last; empty on the first start.
    pub last_peers: Vec<NodeNo>,
    /// What [`NodeEvent::PersistRoster`](crate::node::NodeEvent::PersistRoster) said last; empty on the first start.
    pub roster: Vec<u8>,
    /// What handshakes and transport data are made of: always `Engine::Noise` outside simulations.
    pub engine: Engine,
    /// Ciphers offered for lanes, a bit each (PROTOCOL §2.1): those this machine is fast at.
    pub suites: u32,
    /// Lanes for bulk a peer may open with us, at most [`MAX_PORTS`](crate::id::MAX_PORTS); 0: everything on lane 0.
    pub max_lanes: u8,
    /// Whether packets may come and go in chunks on lanes 1 and up (PROTOCOL §2.2).
    pub chunks: bool,
    /// Lanes to have open with every member there is traffic with, as far as it agrees; 1: as many as the load wants.
    pub min_lanes: u8,
    /// How large packets may be, outside and inside.
    pub mtu: MtuConfig,
    /// Members learned in the background at most, [`MAX_MEMBERS`](crate::node::directory::MAX_MEMBERS) if more: who is not
    /// known is asked for when a packet wants to go there.
    pub known_members: usize,
    /// How far ports of peers are guessed where plain punching fails.
    pub guessing: Guessing,
    /// How much this node relays for members if its certificate has the tag [`RELAY_TAG`](crate::node::RELAY_TAG); `None`:
    /// nothing.
    pub relay_for_members: Option<RelayLimits>,
}

/// How this node comes to be a member.
#[derive(Debug)]
pub enum Membership {
    /// It does not: stock peers only.
    None,
    /// For the first time.
    Token {
        /// The token.
        token: Box<JoinToken>,
        /// The wish for a name; a number is appended if it is taken.
        name: Name,
        /// The roles it wants, of those the token has; `None`: all of them.
        tags: Option<Tags>,
        /// Of the machine, see `Certificate`.
        fingerprint: [u8; 16],
    },
    /// It is one.
    Joined(Box<Credentials>),
}

/// A node that speaks plain WireGuard to configured peers.
#[derive(Debug)]
pub struct StockConfig {
    /// Our static key. Ignored if this node is a member: it then has one key for all.
    pub secret: StaticSecret,
    /// Our own addresses towards these peers.
    pub addresses: Vec<IpAddr>,
    /// The peers, at most 1,024.
    pub peers: Vec<StockPeer>,
}

/// A peer that speaks plain WireGuard: one lane, one path, roaming as in the paper's §2.1.
#[derive(Debug)]
pub struct StockPeer {
    /// Its static key.
    pub public_key: PublicKey,
    /// The pre-shared key, if one is configured.
    pub preshared_key: Option<Secret>,
    /// Where to find it, until it is heard from elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// Its inner addresses.
    pub allowed_ips: Vec<Prefix>,
    /// Send something at least this often.
    pub persistent_keepalive: Option<Duration>,
}
