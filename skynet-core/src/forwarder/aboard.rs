//! A [`Forwarder`] aboard a member: on port 0 of a node that has traffic of its own.
//!
//! Frames for it and frames of the node's own relays come to one socket and are told apart here. Only what a relay is sent
//! is the forwarder's; a frame that has passed a relay is for the node, so none ever passes two.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use super::{Action, ClusterKeys, ForwardConfig, Forwarder, Local, Rate, RateClass, Revoked};
use crate::id::RelayNo;
use crate::key::Secret;
use crate::rng::Rng;
use crate::time::{Instant, Now, UnixTime};
use crate::wire::relay::{self, DataHeader, KEEP_ECHO};

/// The number of the one key a member mints tickets with.
pub const KID: u8 = 0;

/// How much a member does for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayLimits {
    /// Sessions at once.
    pub sessions: usize,
    /// What each may send, kilobits a second; 0 is no limit.
    pub session_kbit: u32,
    /// What all may send together, kilobits a second: above it they have equal shares. 0 is no limit.
    pub uplink_kbit: u64,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self { sessions: 1_024, session_kbit: 0, uplink_kbit: 0 }
    }
}

/// What was done for others, told by the port's thread.
#[derive(Default, Debug)]
pub struct Served {
    sessions: AtomicU64,
    forwarded: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Served {
    /// Members with a session.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Relaxed)
    }
    /// Frames sent on.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Relaxed)
    }
    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
    /// Frames that went no further.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// A datagram that leaves again: the first bytes of the one in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Onward {
    /// Where to.
    pub to: SocketAddr,
    /// From which address of this host, if the system is not to choose.
    pub from: Option<IpAddr>,
    /// How many of its bytes.
    pub len: usize,
}

/// A clock that reads the wall once: whoever gives out tickets and whoever judges them must agree, and a wall clock that
/// is set must not end sessions.
#[derive(Clone, Copy, Debug)]
pub struct RelayTime(Now);

impl RelayTime {
    /// It is now.
    pub const fn new(now: Now) -> Self {
        Self(now)
    }
    /// The time at `mono`.
    pub fn at(&self, mono: Instant) -> Now {
        let since = mono.saturating_since(self.0.mono);
        let nanos = u64::from(self.0.unix_nanos) + u64::from(since.subsec_nanos());
        let unix = UnixTime(self.0.unix.0 + since.as_secs() + nanos / 1_000_000_000);
        Now { mono, unix, unix_nanos: (nanos % 1_000_000_000) as u32 }
    }
}

/// The machine; it belongs to the inbound half of port 0.
pub struct MemberRelay {
    forwarder: Forwarder,
    time: RelayTime,
    served: Arc<Served>,
}

impl core::fmt::Debug for MemberRelay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MemberRelay").field("served", &self.served).finish_non_exhaustive()
    }
}

impl MemberRelay {
    /// Nobody is bound. Tickets are under `key`.
    pub fn new(
        (no, limits): (RelayNo, RelayLimits),
        key: Secret,
        served: Arc<Served>,
        rng: Rng,
        (time, now): (RelayTime, Instant),
    ) -> Self {
        let session = Rate { kbit: limits.session_kbit, burst_kb: (limits.session_kbit / 50).max(256) };
        let config = ForwardConfig {
            relay_no: no.0,
            max_sessions: limits.sessions,
            // Data goes by port 0 alone.
            max_sessions_per_node: 1,
            classes: vec![RateClass { number: 0, session, network: Rate::default() }],
            uplink_kbit: limits.uplink_kbit,
            ..ForwardConfig::default()
        };
        let forwarder = Forwarder::new(config, ClusterKeys::new((KID, key), []), rng, now);
        Self { forwarder, time, served }
    }

    /// Whether this datagram is for a relay. `from_relay`: it comes from a relay of this node's own, whose echo of KEEP
    /// looks as a client's does.
    pub fn is_addressed(datagram: &[u8], from_relay: bool) -> bool {
        match datagram.first() {
            Some(&relay::DATA) => DataHeader::parse(datagram).is_ok_and(|header| header.hops() == 0),
            Some(&(relay::HELLO | relay::BIND)) => true,
            // Of a relay that does not mark its echoes only the source tells.
            Some(&relay::KEEP) => !from_relay && datagram.get(1).is_none_or(|flags| flags & KEEP_ECHO == 0),
            _ => false,
        }
    }

    /// A datagram for it, in place.
    pub fn handle_datagram(
        &mut self,
        local: Option<IpAddr>,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Option<Onward> {
        let at = local.map_or(Local::ANY, Local);
        let whole = datagram.len();
        match self.forwarder.handle_datagram(at, from, datagram, self.time.at(now)) {
            Action::Forward { local, to } => {
                Some(Onward { to, from: (local != Local::ANY).then_some(local.0), len: whole })
            }
            Action::Reply { len } => Some(Onward { to: from, from: local, len }),
            Action::Drop(_) => None,
        }
    }

    /// Whom it serves no more, instead of those it was told before.
    pub fn refuse(&mut self, gone: Arc<Revoked>) {
        self.forwarder.set_revoked(gone);
    }

    /// Ends a batch, or a while without any.
    pub fn tend(&mut self, now: Instant) {
        if now >= self.forwarder.poll_timeout() {
            self.forwarder.handle_timeout(now);
        }
        let counters = self.forwarder.counters();
        self.served.sessions.store(self.forwarder.sessions() as u64, Relaxed);
        self.served.forwarded.store(counters.forwarded, Relaxed);
        self.served.bytes.store(counters.forwarded_bytes, Relaxed);
        let gone_on = counters.forwarded + counters.replies;
        self.served.dropped.store(counters.received.saturating_sub(gone_on), Relaxed);
    }
}

#[cfg(test)]
#[path = "aboard_tests.rs"]
mod tests;
