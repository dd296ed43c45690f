//! Why a datagram went no further: one reason each, counted.

use crate::reasons::Counts;

crate::reasons! {
    /// The one reason why a datagram was not forwarded.
    pub enum DropReason {
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
        /// The ticket's holder was revoked.
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
    }
}

/// How often each reason occurred.
pub type Drops = Counts<DropReason, { DropReason::ALL.len() }>;
