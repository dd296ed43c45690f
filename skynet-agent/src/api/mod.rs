//! The local control socket: one JSON request per line, one JSON answer per line.
//!
//! ```text
//! → {"method":"status"}
//! ← {"ok":{"schema":"status/1", …}}   or   ← {"error":{"code":4,"message":"…"}}
//! ```
//! Who may do what is decided by the kernel's word about the other end (SO_PEERCRED): reading for root and the
//! group `skynet`, changing for root. There is no other way to talk to a running agent; it listens on no TCP port but
//! that of DNS (`crate::dns`), where that is on.

mod client;
mod report;
pub(crate) mod roster;
mod server;
mod why;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use report::{
    AgentState, CandidateReport, DnsReport, DocumentsReport, LaneReport, NamesReport, PeerReport,
    PortMappingReport, RefusedReport, RelayReport, RelayingReport, RelaysReport, SelfReport, SplitReport,
    StatusReport,
};
pub use roster::{MemberReport, RosterReport};
pub use server::{Call, ServeError, Server};
pub use why::{ChangeReport, EndReport, HostReport, TriedReport, WhyReport};

/// Longest request or, times 1,024, answer in bytes: a status of 4,096 peers fits the answer.
pub const MAX_REQUEST: usize = 8 << 10;
/// So long the agent watches for somebody who asked for the roster.
pub const ROSTER_LEASE: std::time::Duration = std::time::Duration::from_secs(15);
/// Connections at a time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 32;

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The whole state. Answered by a [`StatusReport`].
    Status,
    /// One peer by name, address or public key. Answered by a [`PeerReport`].
    Peer {
        /// Name, overlay address or public key.
        peer: String,
    },
    /// Why a peer is reached as it is. Answered by a [`WhyReport`], at once with what is known; what is not known yet is
    /// found out meanwhile, so asking again tells more.
    Why {
        /// Name, overlay address or public key.
        peer: String,
        /// Echo requests that the client has sent through the overlay,
        #[serde(default)]
        echo_sent: u32,
        /// and their answers.
        #[serde(default)]
        echo_received: u32,
    },
    /// Who is in the network. Answered by a [`RosterReport`], at once with what is known. Whoever asks again within
    /// [`ROSTER_LEASE`] is told of changes as soon as the relay knows of them.
    Roster {
        /// Only members with one of these roles; everybody if there are none.
        #[serde(default)]
        roles: Vec<String>,
        /// The revision that is known already.
        #[serde(default)]
        since: Option<u64>,
    },
    /// Where relays are. Answered by a [`RelaysReport`].
    Relays,
    /// Join a network. Answered at once; progress shows in the status.
    Join {
        /// The join token itself.
        token: String,
        /// The name to join under, instead of the one the agent was started with.
        name: Option<String>,
    },
    /// Run a further network, unless it runs already. Answered when it has a control socket of its own, or cannot have one;
    /// only by the first network's agent.
    Network {
        /// What it is called on this machine.
        network: String,
        /// How it is to run, as flags of `up`.
        #[serde(default)]
        flags: Vec<String>,
        /// The HTTP proxy, which may have a password.
        #[serde(default)]
        proxy: Option<String>,
    },
    /// Stop the agent, or this network of it; its identity stays. Answered before it stops.
    Down,
}

impl Request {
    /// Whether it changes something.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::Network { .. } | Self::Down)
    }
}

/// Tokens do not print.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status => f.write_str("Status"),
            Self::Peer { peer } => write!(f, "Peer({peer})"),
            Self::Why { peer, .. } => write!(f, "Why({peer})"),
            Self::Roster { roles, .. } => write!(f, "Roster({roles:?})"),
            Self::Relays => f.write_str("Relays"),
            Self::Join { name, .. } => write!(f, "Join(***, {name:?})"),
            Self::Network { network, flags, .. } => write!(f, "Network({network}, {flags:?}, ***)"),
            Self::Down => f.write_str("Down"),
        }
    }
}

/// What the agent answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; the content depends on the request.
    Ok(serde_json::Value),
    /// Not done.
    Error(ErrorReply),
}

/// Why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// The exit code a command line tool should end with (`--help` lists them).
    pub code: u8,
    /// One sentence.
    pub message: String,
}

impl Reply {
    /// A success with `content`.
    pub fn ok(content: &impl Serialize) -> Self {
        match serde_json::to_value(content) {
            Ok(value) => Self::Ok(value),
            Err(e) => Self::error(1, &format!("the answer cannot be written: {e}")),
        }
    }

    /// A failure with an exit code and one sentence.
    pub fn error(code: u8, message: &str) -> Self {
        Self::Error(ErrorReply { code, message: message.to_owned() })
    }
}

/// A request line parsed. Never panics; an entry for fuzzing.
///
/// # Errors
/// What to answer.
pub fn parse_request(line: &[u8]) -> Result<Request, ErrorReply> {
    serde_json::from_slice(line).map_err(|_| ErrorReply {
        code: 2,
        message: "not a request of this version: one JSON object with \"method\" per line".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_cut_or_flipped_anywhere_never_panics() {
        let sample =
            serde_json::to_vec(&Request::Join { token: "skj1.x".into(), name: Some("a".into()) }).unwrap();
        assert!(parse_request(&sample).is_ok());
        for cut in 0..sample.len() {
            assert!(parse_request(&sample[..cut]).is_err());
        }
        for bit in 0..sample.len() * 8 {
            let mut flipped = sample.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = parse_request(&flipped);
        }
        assert!(parse_request(br#"{"method":"peer","peer":"a","more":1}"#).is_err());
        assert!(parse_request(br#"{"method":"reboot"}"#).is_err());
    }

    #[test]
    fn a_token_does_not_print() {
        let request = Request::Join { token: "skj1.secret".into(), name: None };
        assert!(!format!("{request:?}").contains("secret"));
        let proxy = Some("http://user:secret@proxy:3128".into());
        let request = Request::Network { network: "lab".into(), flags: vec!["--port".into()], proxy };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
