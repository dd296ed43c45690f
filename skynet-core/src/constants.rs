//! Constants of the session, specification apart from implementation.
//!
//! The first list only changes when a paper changes; the second is ours.

use core::time::Duration;

// ── Specification: WireGuard §5.4 and §6.1 ──────────────────────────────────────────────────────────────────────

/// Noise protocol of the session (WireGuard §5.4).
pub const NOISE_NAME: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Prologue mixed into the handshake hash (WireGuard §5.4, `IDENTIFIER`).
pub const NOISE_PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Label of the key of `mac1` (WireGuard §5.4.4).
pub const LABEL_MAC1: &[u8] = b"mac1----";
/// Label of the key of the cookie reply (WireGuard §5.4.7).
pub const LABEL_COOKIE: &[u8] = b"cookie--";
/// After so many messages under one key the sender asks for a new one (§6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters from here on are neither sent nor accepted: the kernel's value, which leaves room for its window.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// The initiator of a key renews it when it sends and the key is so old (§6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A key so old is neither used nor accepted (§6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Trying to reach a peer that does not answer ends after this time (§6.1).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// An initiation without response is repeated after this time plus jitter; never are two sent closer (§6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper end of the jitter on a repetition (§6.1), so that two peers in step fall out of step.
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// Whoever received data and sent nothing for so long sends an empty packet (§6.1, §6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever sent data and heard nothing for so long begins a handshake (§6.2).
pub const DEAD_PEER_TIMEOUT: Duration =
    Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());
/// An initiator that *receives* on a key so old renews it (§6.2): just before it would die unnoticed.
pub const REKEY_ON_RECEIVE_AFTER_TIME: Duration =
    Duration::from_secs(REJECT_AFTER_TIME.as_secs() - DEAD_PEER_TIMEOUT.as_secs());
/// The secret behind cookies changes in this rhythm, and a received cookie is used for so long (§5.4.7).
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// As [`REKEY_AFTER_MESSAGES`], for a lane with AES-256-GCM; see [`AES_REJECT_AFTER_MESSAGES`].
pub const AES_REKEY_AFTER_MESSAGES: u64 = 1 << 29;
/// As [`REJECT_AFTER_MESSAGES`], for a lane with AES-256-GCM: GCM tells itself apart from random with an advantage that
/// grows with the square of the blocks sealed. After q packets of L blocks of 16 bytes it is at most (qL + q)² / 2^129
/// (Luykx and Paterson, "Limits on Authenticated Encryption Use in TLS", 2015; draft-irtf-cfrg-aead-limits §5.1).
///
/// ```text
///   packets    of 64 KiB (L = 2^12)    of 1,500 bytes (L = 94)
///   2^29       2^-47                   2^-57: what RFC 8446 §5.5 asks of TLS
///   2^31       2^-43                   2^-53
/// ```
/// For forgeries the bound is 2v(L + 1) / 2^128 after v attempts: 2^-84 for 64 KiB packets at 10 million attempts per
/// second over the 180 s a key lives.
pub const AES_REJECT_AFTER_MESSAGES: u64 = 1 << 31;
/// Payloads are padded with zeros to a multiple of this (§5.4.6), so their length tells less.
pub const PADDING_MULTIPLE: usize = 16;

// ── Implementation ──────────────────────────────────────────────────────────────────────────────────────────────

/// Packets that may arrive out of order, behind the newest: a switch from relay to direct with 100 ms between the
/// two paths at 1 Gbit/s displaces about 8,300 full packets; twice that is room for 2 Gbit/s.
pub const REPLAY_WINDOW: u64 = 16_384;
/// Packets waiting for a peer's first key: WireGuard's number; one window of a TCP connection that just starts.
pub const MAX_STAGED_PACKETS: usize = 128;
/// Keys of one peer whose opening halves are installed at a time: WireGuard's previous, current and next, plus one
/// for a handshake that crosses another.
pub const MAX_KEYPAIRS: usize = 4;
/// Initiations accepted from one peer are at least this far apart: the kernel's 50 per second.
pub const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Handshakes per second served to anyone who knows our public key, before a cookie is asked for. A responder's
/// work is about 0.3 ms, so this is below a tenth of a core.
pub const HANDSHAKES_PER_SECOND: u64 = 256;
/// Handshakes per second served to sources that proved their address, all together: a fifth of a core.
pub const PROVEN_HANDSHAKES_PER_SECOND: u64 = 512;
/// Responses to our own initiations handled per second; each already matched an index we chose at random.
pub const RESPONSES_PER_SECOND: u64 = 512;
/// Handshakes per second of one source under load (the kernel's limit).
pub const SOURCE_HANDSHAKES_PER_SECOND: u64 = 20;
/// Handshakes one source may send at once under load (the kernel's limit).
pub const SOURCE_HANDSHAKE_BURST: u64 = 5;
/// Sets of the table of sources; see [`SOURCE_TABLE_WAYS`].
pub const SOURCE_TABLE_SETS: usize = 8_192;
/// Entries per set. 8,192 × 8 entries of 16 bytes are 1 MiB, allocated at the first attack.
pub const SOURCE_TABLE_WAYS: usize = 8;
/// Static-static Diffie-Hellman results kept: as many peers as the directory cache holds documents of.
pub const MAX_CACHED_SHARED_SECRETS: usize = 4_096;

/// Every link carries packets of so many bytes (RFC 8200 §5): so does the overlay.
pub const IPV6_MIN_MTU: u16 = 1280;
/// Largest inner packet to peers whose path cannot be measured, for they answer no probes: fits 1,460 B of underlay with IPv6, UDP, WireGuard and a relay
/// header around it (1,460 − 88 = 1,372, rounded down to 16).
pub const INNER_MTU: u16 = 1360;
