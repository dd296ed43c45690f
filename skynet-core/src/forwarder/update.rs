//! What one forwarding thread tells the others of its sessions.
//!
//! ```text
//!   client ── kernel: hash of the 5-tuple ──▶ thread 1: owns the session     thread 2: a replica     thread 3: a replica
//!                                                └──────── Update ──────────────▲────────────────────────▲
//! ```
//! A session belongs to the thread that its client's BIND came to, for that is where the client's datagrams come. The
//! others know where it is, so that any of them can send to it, and its last timestamp, so that none takes an old BIND.
//! Of two that claim a session the later BIND wins, so the threads agree whatever order updates take. Updates are soft
//! state: a session that is in use is told again every [`REFRESH`], and a replica of which nothing is heard ends.

use core::net::SocketAddr;

use crate::time::Duration;

use super::Local;
use super::session::SessionKey;

/// A session in use is told to the other threads again after this long.
pub(super) const REFRESH: Duration = Duration::from_secs(30);

/// The state of a session, as its owner has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    pub(super) key: SessionKey,
    /// Which thread it belongs to.
    pub(super) owner: u8,
    /// Timestamp of its last BIND; with `owner` it orders the claims of several threads.
    pub(super) last_ts: u64,
    pub(super) gen_no: u16,
    pub(super) local: Local,
    /// `None`: another session was bound from the same address.
    pub(super) addr: Option<SocketAddr>,
    /// Its time is over.
    pub(super) gone: bool,
}
