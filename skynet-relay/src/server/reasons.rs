//! Why a stream was refused or closed, or a frame on it went no further: one reason each, counted. Those of datagrams are the
//! forwarder's.

use skynet_core::reasons::Counts;

skynet_core::reasons! {
    /// The one reason why a stream ended, or a frame on it.
    pub enum StreamDrop {
        /// This relay is going away.
        Draining = "draining";
        /// Whoever had joined was revoked.
        Revoked = "revoked";
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
}

/// How often each reason occurred.
pub type StreamDrops = Counts<StreamDrop, { StreamDrop::ALL.len() }>;
