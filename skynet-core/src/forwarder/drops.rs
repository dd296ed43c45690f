//! Why something went no further: one reason each, counted.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// The one reason why a datagram was not forwarded or a stream was closed.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// A stable label for metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

reasons! {
    /// The first bytes name nothing this port serves.
    UnknownKind = "unknown_kind";
    /// A relay frame of a wrong length, version or lane.
    Malformed = "malformed";
    /// A frame only a relay sends.
    WrongDirection = "wrong_direction";
    /// A source port of zero cannot be answered.
    NoSourcePort = "no_source_port";
    /// The ticket's cluster key is not here.
    UnknownClusterKey = "unknown_cluster_key";
    /// The ticket was not made with the cluster key.
    BadTicket = "bad_ticket";
    /// The ticket's time is over.
    TicketExpired = "ticket_expired";
    /// The ticket's holder was revoked, or the connection's.
    Revoked = "revoked";
    /// The MAC under `K_b` is wrong.
    BadMac = "bad_mac";
    /// The timestamp is too far from this relay's clock.
    Skew = "skew";
    /// A timestamp not above the last one of this node and lane.
    Replay = "replay";
    /// HELLO or BIND while this relay is going away.
    Draining = "draining";
    /// HELLO above the rate of its source prefix.
    HelloRate = "hello_rate";
    /// STUN above the rate of its source prefix.
    StunRate = "stun_rate";
    /// Not a Binding request, or with attributes that must be understood and are not.
    StunUnsupported = "stun_unsupported";
    /// The answer would be larger than the request.
    StunTooSmall = "stun_too_small";
    /// All sessions are taken.
    TableFull = "table_full";
    /// The node has as many sessions as it may.
    NodeSessions = "node_sessions";
    /// No session for this source address.
    NoSession = "no_session";
    /// The source has a session of another number.
    WrongGeneration = "wrong_generation";
    /// The frame has passed a relay already.
    Hops = "hops";
    /// Addressed to its sender.
    ToSelf = "to_self";
    /// The destination has no session in the sender's network.
    NoSuchPeer = "no_such_peer";
    /// A session of another thread, for which there is no room here.
    ReplicaTableFull = "replica_table_full";
    /// Above the session's rate.
    SessionRate = "session_rate";
    /// Above the rate of its class and network.
    NetworkRate = "network_rate";
    /// Above its share of the uplink, which is full.
    UplinkFull = "uplink_full";
    /// Above its share of a thread that cannot keep up.
    Overload = "overload";
    /// Too many connections that have not joined.
    TooManyUnjoined = "too_many_unjoined";
    /// Too many connections.
    TooManyConnections = "too_many_connections";
    /// No handshake or JOIN in time.
    JoinDeadline = "join_deadline";
    /// A joined connection was silent for too long.
    Idle = "idle";
    /// Too many members to be told of at once.
    AnnouncementFull = "announcement_full";
    /// Another process with this identity lives, and began earlier.
    Duplicate = "duplicate";
    /// The other side does not read.
    SlowReader = "slow_reader";
    /// The channel broke: wrong MAC, wrong key, altered bytes.
    BrokenChannel = "broken_channel";
    /// More connections on the TLS port than it, or their source prefix, may have.
    TlsConnections = "tls_connections";
    /// TLS handshakes above the rate of their source prefix.
    TlsRate = "tls_rate";
    /// No TLS, no request or no handshake inside, within its deadline.
    TlsHandshake = "tls_handshake";
    /// A stream of frames without a session.
    TlsUnbound = "tls_unbound";
    /// A stream of frames that was silent for too long.
    TlsIdle = "tls_idle";
    /// A stream of frames whose other side does not read.
    TlsSlowReader = "tls_slow_reader";
    /// A frame waited for its stream for too long.
    TlsFrameOld = "tls_frame_old";
    /// A frame found too many before it.
    TlsFrameFull = "tls_frame_full";
    /// A frame of a kind that has no business in its direction.
    TlsFrameForeign = "tls_frame_foreign";
}

/// How often each reason occurred.
#[derive(Clone, Debug)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        self.count_many(reason, 1);
    }
    /// Counts `n`.
    pub fn count_many(&mut self, reason: DropReason, n: u64) {
        self.0[reason as usize] += n;
    }
    /// How often `reason` occurred.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }
    /// Every reason that occurred, in order of declaration.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&r| (r, self.get(r))).filter(|&(_, n)| n > 0)
    }
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
    }
}
