//! Which segmentation offloads are used. All by default; each can be switched off, for kernels and devices on which it
//! is broken.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One offload, by the name it is switched off with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// Super-packets and partial checksums from and to the TUN device (`IFF_VNET_HDR`, TSO, USO).
    Tun,
    /// One system call sends a train of datagrams (`UDP_SEGMENT`).
    UdpGso,
    /// One buffer receives a train of datagrams (`UDP_GRO`).
    UdpGro,
    /// Received TCP segments are joined before they are written to the TUN device.
    CoalesceTcp,
    /// Received UDP datagrams are joined before they are written to the TUN device.
    CoalesceUdp,
}

impl Offload {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Tun, Self::UdpGso, Self::UdpGro, Self::CoalesceTcp, Self::CoalesceUdp];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::UdpGso => "udp-gso",
            Self::UdpGro => "udp-gro",
            Self::CoalesceTcp => "coalesce-tcp",
            Self::CoalesceUdp => "coalesce-udp",
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Offload {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|o| o.as_str()).collect();
            format!("{text:?} is no offload; there are {}", all.join(", "))
        })
    }
}

/// Offloads that are switched off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DisabledOffloads(BTreeSet<Offload>);

impl DisabledOffloads {
    /// Whether `offload` may be used.
    pub fn allows(&self, offload: Offload) -> bool {
        !self.0.contains(&offload)
    }
}

impl FromIterator<Offload> for DisabledOffloads {
    fn from_iter<I: IntoIterator<Item = Offload>>(offloads: I) -> Self {
        Self(offloads.into_iter().collect())
    }
}
