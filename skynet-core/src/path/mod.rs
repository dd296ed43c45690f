//! Which path a peer is reached on.
//!
//! **Bootstraps.** Data starts on the relay, if there is one. The first data makes the agent *call*: it sends its
//! candidates through the relay and low-TTL openers towards the peer's reflexive ones, so that its own NAT lets the
//! peer in while nothing reaches the peer's NAT before the peer has sent (an early packet can take the peer's
//! mapping for as long as it is repeated). Open candidates get full-TTL PINGs at once, the others when the CALL has
//! arrived by reckoning, or when the peer's CALL shows it. The peer called fires at once and calls back.
//!
//! **Promotes.** Only a PONG with an outstanding random transaction ID, from the address the PING went to, makes a
//! pair valid. Direct beats relayed at once; inside the direct tier a challenger must be better three times.
//!
//! **Demotes.** What arrives on a path keeps that path alive and no other. A path whose checks go unanswered, or
//! that is silent for 3 s of sending, is suspect: data leaves by the relay at once, the pair has 1.5 s to answer.
//! A path whose probes pass while its data vanishes is demoted for a minute, then two, up to ten.
//!
//! **Never.** The source of a packet never moves a path; it is a candidate to be challenged. Nothing
//! unauthenticated or replayed changes anything, but the genuine copy of a probe that another copy has overtaken
//! (`agent/overtaken.rs`). A pair without traffic has no timer and sends nothing. No peer
//! can make this node send more than [`check::PINGS_PER_MINUTE`] PINGs a minute and one CALL a second; probes of size
//! aside, which only go where a PING was answered.
//!
//! ```text
//!            PONG                     not on hold
//!  RELAYED ───────▶ VALIDATED ──────────────────▶ DIRECT
//!     ▲                                           ▲    │ 12 checks in ≤ 1.4 s unanswered, or 3 s silent
//!     │ 1.5 s                                PONG │    ▼
//!     └──────────────────────────────────────── SUSPECT (data on the relay)
//! ```

mod agent;
mod candidate;
pub mod check;
mod history;
mod keys;
mod link;
mod mtu;
mod nat;
mod report;
mod ring;
mod rtt;
mod score;
mod stock;
mod tags;

pub use agent::{ATTEMPT_EVERY, GUESS_SOCKETS, GUESSES, Guessing, MAX_GUESS_SOCKETS_EACH, PLAIN_ROUNDS};
pub use agent::{
    Attention, CARRIER, Counted, Counters, Opened, PathAgent, PathConfig, PathCounters, PathEvent, PathState,
    PathTimer, ProbeFrom, ProbeTo, ProbeTransmit, RelayPath, Traffic,
};
pub use candidate::{
    Candidate, CandidateKind, MAX_CANDIDATES, canonical, is_beyond_site, is_one_to_one, is_probe_target,
    select_candidates,
};
pub use history::{HISTORY_CAP, HistoryEntry, Path, Reason};
pub use keys::{NonceSource, PairKeys, ReplayWindow};
pub use mtu::{BASE, Bounds, DATAGRAM, MIN, MtuConfig, PathMtu, Size};
pub use nat::{Mapping, NatSeen};
pub use report::{PairReport, Step};
pub use ring::KeyRing;
pub use rtt::Rtt;
pub use score::{Score, Tier};
pub use stock::StockPath;
pub use tags::{MAX_PEERS, ProbeTags, TagsFull};

#[cfg(test)]
mod tests;
