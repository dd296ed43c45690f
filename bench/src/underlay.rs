//! How much of a real wire the veth imitates.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use skynet_tests::Netns;

use crate::peers::package;

/// What the two ends of the link may leave to their device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Underlay {
    /// All a veth can: trains of 64 KiB cross it whole
    Veth,
    /// The sender cuts every train in software, the receiver joins packets (GRO): a network card without offloads
    Wire,
    /// As `wire`, and the receiver joins nothing
    Raw,
}

/// The device of the link at each end.
pub(crate) const DEVICE: &str = "link0";

impl Underlay {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Wire => "wire",
            Self::Raw => "raw",
        }
    }

    /// What must be done before it can be had, in one sentence; `None` if nothing.
    pub(crate) fn missing(self) -> Option<String> {
        package::need(&[("ethtool", "ethtool")]).filter(|_| self != Self::Veth)
    }

    /// Makes both ends of a link like this.
    pub(crate) fn apply(self, ends: [&Netns; 2]) -> anyhow::Result<()> {
        for end in ends {
            match self {
                // As a veth comes into the world; without ethtool it still is.
                Self::Veth if package::find("ethtool").is_none() => {}
                Self::Veth => set(end, "on", "off")?,
                Self::Wire => set(end, "off", "on")?,
                Self::Raw => set(end, "off", "off")?,
            }
        }
        Ok(())
    }
}

/// Switches segmentation by the device, of TCP and UDP, and the joining of what arrives.
fn set(end: &Netns, segmentation: &str, joining: &str) -> anyhow::Result<()> {
    let program = package::path("ethtool")?;
    let argv = [
        &program,
        "-K",
        DEVICE,
        "tso",
        segmentation,
        "gso",
        segmentation,
        "tx-udp-segmentation",
        segmentation,
        "gro",
        joining,
    ];
    end.exec(&argv)?.ok()?;
    Ok(())
}
