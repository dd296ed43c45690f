//! Why a packet was dropped: one reason each, counted, grouped by whose fault it is.

use core::sync::atomic::{AtomicU64, Ordering};

/// Whose fault a drop is, that is: who has to act.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Blame {
    /// The peer or its software sent what it should not have.
    Peer,
    /// This node's configuration or applications.
    Local,
    /// Nobody: a limit was reached.
    Capacity,
    /// Most likely an attacker, or damage on the way that looks like one.
    Attack,
}

crate::reasons! {
    /// The one reason why a packet went no further.
    #[derive(Hash, thiserror::Error)]
    #[error("{}", self.as_str())]
    pub enum DropReason: Blame {
        // What a peer did.
        /// Too short, too long, or a field that contradicts another.
        Malformed = "malformed", Peer;
        /// A first byte or message type nobody has defined.
        UnknownType = "unknown_type", Peer;
        /// A version or critical bit this build does not know.
        UnknownVersion = "unknown_version", Peer;
        /// A receiver index that names no session of ours.
        UnknownIndex = "unknown_index", Peer;
        /// Sealed with, or to be sealed with, a key older than 180 s.
        ExpiredKey = "expired_key", Peer;
        /// A counter at or above the limit of its key.
        CounterLimit = "counter_limit", Peer;
        /// Neither IPv4 nor IPv6, or lengths that do not fit the packet.
        NotIp = "not_ip", Peer;
        /// The inner source address is not the sender's.
        SourceNotAllowed = "source_not_allowed", Peer;
        /// The inner destination address is not ours.
        NotForUs = "not_for_us", Peer;
        /// The policy forbids it.
        Filtered = "filtered", Peer;
        /// Not a member of this network, or revoked.
        NotMember = "not_member", Peer;
        /// A relay header that contradicts the session it names.
        BadRelayHeader = "bad_relay_header", Peer;
        /// A chunk whose fields contradict each other, its length or the other chunks of its unit.
        BadChunk = "bad_chunk", Peer;
        /// A handshake message nobody is waiting for: late, or answered twice.
        UnexpectedHandshake = "unexpected_handshake", Peer;
        /// A control record for a keypair, lane or cipher that was not agreed.
        UnexpectedRecord = "unexpected_record", Peer;
        /// An offer to relay, or a ticket for that, from a member without the tag `relay`.
        FalseRelay = "false_relay", Peer;
        // What this node asked for.
        /// No peer owns the destination address.
        NoPeer = "no_peer", Local;
        /// Larger than the path carries; the sender was told.
        TooBig = "too_big", Local;
        /// A super-packet of this node's own kernel, or its offload header, that makes no sense.
        BadOffload = "bad_offload", Local;
        // What ran out.
        /// Packets waiting for the first key of a peer overflowed.
        NoSession = "no_session", Capacity;
        /// A bounded queue was full.
        QueueFull = "queue_full", Capacity;
        /// A connection that was still good was forgotten for another; its answers may be dropped as `filtered`.
        ConnectionForgotten = "connection_forgotten", Capacity;
        /// A chunk that did not come in time: what it has bytes of could not be delivered.
        ChunkMissing = "chunk_missing", Capacity;
        /// The budget for handshakes is used up.
        UnderLoad = "under_load", Capacity;
        /// One source used up its share.
        RateLimited = "rate_limited", Capacity;
        /// A check of a punch round: all pairs together send no more of them than a NAT can bear.
        PunchLimited = "punch_limited", Capacity;
        // What an attacker does.
        /// The authentication tag of a data packet does not verify.
        BadTag = "bad_tag", Attack;
        /// The counter or timestamp was seen before, or is too old to tell.
        Replayed = "replayed", Attack;
        /// The sender does not know whom it talks to (WireGuard §5.4.4).
        BadMac1 = "bad_mac1", Attack;
        /// A handshake message that does not authenticate.
        BadHandshake = "bad_handshake", Attack;
        /// A cookie reply that does not authenticate.
        BadCookie = "bad_cookie", Attack;
        /// A probe whose tag names no path of ours.
        UnknownProbeTag = "unknown_probe_tag", Attack;
        /// A source or destination address that must not appear where it did.
        Martian = "martian", Attack;
        /// The outer packet says "congestion" of an inner one that was never sent as able to hear it (RFC 6040 §4.2).
        EcnCorrupt = "ecn", Attack;
    }
}

/// One counter per [`DropReason`]; shared by all threads, relaxed.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// All at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one packet.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Packets dropped for `reason` so far.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Every reason with its count, in the order of [`DropReason::ALL`].
    pub fn snapshot(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).collect()
    }

    /// All packets dropped.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_its_own_label() {
        let counters = DropCounters::new();
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            counters.add(reason, i as u64 + 1);
        }
        for (i, (reason, count)) in counters.snapshot().into_iter().enumerate() {
            assert_eq!((reason, count), (DropReason::ALL[i], i as u64 + 1));
        }
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert!(
            labels
                .iter()
                .all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }
}
