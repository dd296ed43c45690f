//! One run as it was: no figure in here is derived.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::measure::Sample;
use crate::peer::Peer;
use crate::underlay::Underlay;

/// Rises when the meaning of a field changes.
pub(super) const SCHEMA: &str = "skynet-bench-compare/2";

/// Everything a run has found out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(super) schema: String,
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) peers: Vec<PeerSamples>,
    /// What could not be measured, a sentence each.
    pub(super) failures: Vec<String>,
}

/// How it was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// How often each peer was measured.
    pub(crate) rounds: u32,
    /// Length of one iperf3 run.
    pub(crate) seconds: u32,
    /// What the link's devices did for its ends.
    pub(crate) underlay: Underlay,
}

/// All rounds of one peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerSamples {
    /// Its name.
    pub(crate) name: String,
    /// Program, version, cipher.
    pub(crate) version: String,
    /// Whether it is a tunnel, and not a plain link.
    pub(crate) is_tunnel: bool,
    /// One per round that came to be.
    pub(crate) samples: Vec<Sample>,
}

impl Run {
    /// Of the present format.
    pub(crate) fn new(
        machine: Machine,
        settings: Settings,
        peers: Vec<PeerSamples>,
        failures: Vec<String>,
    ) -> Self {
        Self { schema: SCHEMA.to_owned(), machine, settings, peers, failures }
    }
}

impl PeerSamples {
    /// What `peer` has been measured at.
    pub(crate) fn new(peer: &dyn Peer, samples: Vec<Sample>) -> Self {
        Self { name: peer.name().to_owned(), version: peer.describe(), is_tunnel: peer.is_tunnel(), samples }
    }
}
