//! How closely a session at a relay is watched: by KEEPs, which the relay echoes.

use crate::time::Duration;

/// How a session is watched.
pub(super) struct Pace {
    /// Shortest and longest wait for the answer to a KEEP.
    pub(super) answer: (Duration, Duration),
    /// Between the fast KEEPs that follow an unanswered one,
    pub(super) fast: Duration,
    /// and how many they are.
    pub(super) tries: u8,
}

/// A session that carries nothing: nobody waits for it.
pub(super) const IDLE: Pace = Pace {
    answer: (Duration::from_secs(1), Duration::from_secs(1)),
    fast: Duration::from_millis(400),
    tries: 3,
};
/// One that carries data. From the death of a relay to its end: 1 s until the next KEEP, 0.25 s (or four round trips),
/// and 6 × 0.1 s. Where a fifth of all packets is lost each way, seven KEEPs are lost together once in twenty minutes.
pub(super) const IN_USE: Pace = Pace {
    answer: (Duration::from_millis(250), Duration::from_secs(1)),
    fast: Duration::from_millis(100),
    tries: 6,
};
/// Between KEEPs of a session in use.
pub(super) const KEEP_IN_USE: Duration = Duration::from_secs(1);
