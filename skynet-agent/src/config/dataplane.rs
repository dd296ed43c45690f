//! `[dataplane]`: what bulk between members is sealed with, and on how many lanes.

use clap::ValueEnum;
use serde::Deserialize;
use skynet_core::id::MAX_PORTS;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};

/// Which ciphers are offered to other members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
pub enum Ciphers {
    /// AES-256-GCM with members whose CPU has instructions for it too, ChaCha20-Poly1305 otherwise
    #[default]
    #[serde(rename = "auto")]
    #[value(name = "auto")]
    Auto,
    /// Always ChaCha20-Poly1305, as WireGuard does
    #[serde(rename = "chacha20-poly1305")]
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Ciphers {
    /// The bits of HELLO's suites (PROTOCOL §2.1).
    pub fn suites(self) -> u32 {
        match self {
            Self::Auto if has_aes_instructions() => SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM,
            _ => SUITE_CHACHA20_POLY1305,
        }
    }
}

/// Without them AES is slower than ChaCha20, and its tables tell the key to whoever measures the cache.
fn has_aes_instructions() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// Lanes per peer at most, unless configured: a lane per core, and four where one 5-tuple is capped by the cloud.
pub fn default_max_lanes() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(cores.clamp(4, MAX_PORTS)).expect("at most MAX_PORTS")
}

/// OS threads of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u8")]
pub enum WorkerThreads {
    /// Both halves take turns.
    One,
    /// Each half has its own while there is much to do.
    Two,
}

impl Default for WorkerThreads {
    /// One on one core. On two, eight streams lose a third of their rate with one, and four policed lanes two thirds.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if cores > 1 { Self::Two } else { Self::One }
    }
}

impl TryFrom<u8> for WorkerThreads {
    type Error = &'static str;

    fn try_from(threads: u8) -> Result<Self, Self::Error> {
        match threads {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => Err("1 or 2 threads for each worker"),
        }
    }
}

/// How the workers' threads are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Threading {
    /// Threads of each worker.
    pub per_worker: WorkerThreads,
    /// How readily their processor is left to others.
    pub nice: Nice,
}

/// The nice value of the workers' threads (sched(7)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "i8")]
pub struct Nice(i8);

impl Nice {
    /// That of any program.
    pub const ORDINARY: Self = Self(0);

    /// −20 to 19.
    pub fn value(self) -> i32 {
        self.0.into()
    }
}

impl Default for Nice {
    /// Ahead of the programs whose packets they carry, as the kernel's own network code is: at 0 a packet waits for a
    /// busy program's slice of milliseconds to end (docs/PERFORMANCE.md has the figures).
    fn default() -> Self {
        Self(-10)
    }
}

impl TryFrom<i8> for Nice {
    type Error = &'static str;

    fn try_from(nice: i8) -> Result<Self, Self::Error> {
        if (-20..=19).contains(&nice) { Ok(Self(nice)) } else { Err("-20 to 19") }
    }
}

/// A nice value.
///
/// # Errors
/// What is allowed.
pub fn parse_nice(text: &str) -> Result<Nice, String> {
    text.parse::<i8>().ok().and_then(|nice| nice.try_into().ok()).ok_or_else(|| "-20 to 19".to_owned())
}

/// A number of threads of a worker.
///
/// # Errors
/// What is allowed.
pub fn parse_worker_threads(text: &str) -> Result<WorkerThreads, String> {
    let number: Result<u8, _> = text.parse();
    number.map_err(|e| e.to_string()).and_then(|n| n.try_into().map_err(str::to_owned))
}

/// A number of lanes, if it is one.
///
/// # Errors
/// What is allowed.
pub fn check_max_lanes(lanes: u8) -> Result<u8, String> {
    let allowed = 1..=MAX_PORTS;
    if allowed.contains(&usize::from(lanes)) { Ok(lanes) } else { Err(format!("1 to {MAX_PORTS} lanes")) }
}

/// [`check_max_lanes`] of a text.
///
/// # Errors
/// What is allowed.
pub fn parse_max_lanes(text: &str) -> Result<u8, String> {
    check_max_lanes(text.parse().map_err(|_| format!("1 to {MAX_PORTS} lanes"))?)
}
