//! What is measured: names, units, and which way is better.

use serde::{Deserialize, Serialize};

/// One column of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// TCP, one stream, Gbit/s.
    TcpOneGbps,
    /// TCP, eight streams, Gbit/s.
    TcpEightGbps,
    /// TCP, one stream from right to left, Gbit/s.
    TcpReverseGbps,
    /// Segments that the one stream has sent again.
    TcpOneRetransmits,
    /// UDP datagrams of 1,200 B that arrive, 1,000/s, out of an unlimited offer.
    Udp1200Kpps,
    /// Share of them lost, percent.
    Udp1200LossPercent,
    /// UDP datagrams of 64 B that arrive, 1,000/s, out of an unlimited offer.
    Udp64Kpps,
    /// Share of them lost, percent.
    Udp64LossPercent,
    /// Median round trip with nothing else going on, µs.
    IdleRttUs,
    /// 99th percentile of it, µs.
    IdleRttP99Us,
    /// Median round trip beside one TCP stream, µs.
    LoadedRttUs,
    /// 99th percentile of it, µs.
    LoadedRttP99Us,
    /// Processor seconds of the tunnel's processes per GB of one TCP stream.
    TunnelCpuPerGb,
    /// Processor seconds of the whole machine per GB of one TCP stream.
    MachineCpuPerGb,
    /// Largest resident memory of one of its processes before any load, MiB.
    IdleRssMib,
    /// Largest resident memory of one of its processes until the end, MiB.
    PeakRssMib,
}

/// What the tables are divided into: title and columns.
pub(crate) const GROUPS: [(&str, &[Metric]); 2] = [
    (
        "Throughput",
        &[
            Metric::TcpOneGbps,
            Metric::TcpEightGbps,
            Metric::TcpReverseGbps,
            Metric::TcpOneRetransmits,
            Metric::Udp1200Kpps,
            Metric::Udp1200LossPercent,
            Metric::Udp64Kpps,
            Metric::Udp64LossPercent,
        ],
    ),
    (
        "Latency and cost",
        &[
            Metric::IdleRttUs,
            Metric::IdleRttP99Us,
            Metric::LoadedRttUs,
            Metric::LoadedRttP99Us,
            Metric::TunnelCpuPerGb,
            Metric::MachineCpuPerGb,
            Metric::IdleRssMib,
            Metric::PeakRssMib,
        ],
    ),
];

/// All of them, in the order of the tables.
pub(crate) fn all() -> impl Iterator<Item = Metric> {
    GROUPS.iter().flat_map(|(_, metrics)| metrics.iter().copied())
}

impl Metric {
    /// Head of its column: name and unit.
    pub(crate) fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::TcpOneGbps => ("TCP 1", "Gbit/s"),
            Self::TcpEightGbps => ("TCP 8", "Gbit/s"),
            Self::TcpReverseGbps => ("TCP rev", "Gbit/s"),
            Self::TcpOneRetransmits => ("TCP 1 resent", "segments"),
            Self::Udp1200Kpps => ("UDP 1200 B", "kpps"),
            Self::Udp1200LossPercent | Self::Udp64LossPercent => ("lost", "%"),
            Self::Udp64Kpps => ("UDP 64 B", "kpps"),
            Self::IdleRttUs => ("RTT idle", "us"),
            Self::IdleRttP99Us => ("idle p99", "us"),
            Self::LoadedRttUs => ("RTT loaded", "us"),
            Self::LoadedRttP99Us => ("loaded p99", "us"),
            Self::TunnelCpuPerGb => ("CPU tunnel", "s/GB"),
            Self::MachineCpuPerGb => ("machine", "s/GB"),
            Self::IdleRssMib => ("RSS idle", "MiB"),
            Self::PeakRssMib => ("peak RSS", "MiB"),
        }
    }

    /// Digits behind the point that mean something.
    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::TcpOneGbps | Self::TcpEightGbps | Self::TcpReverseGbps => 2,
            Self::TunnelCpuPerGb | Self::MachineCpuPerGb => 2,
            Self::Udp1200Kpps | Self::Udp64Kpps | Self::IdleRssMib | Self::PeakRssMib => 1,
            Self::TcpOneRetransmits | Self::Udp1200LossPercent | Self::Udp64LossPercent => 0,
            Self::IdleRttUs | Self::IdleRttP99Us | Self::LoadedRttUs | Self::LoadedRttP99Us => 0,
        }
    }

    /// Whether a ratio between peers says something. A flood loses what does not fit, and a count may be 0.
    pub(crate) fn has_ratio(self) -> bool {
        !matches!(self, Self::TcpOneRetransmits | Self::Udp1200LossPercent | Self::Udp64LossPercent)
    }

    /// Whether more is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::TcpOneGbps
                | Self::TcpEightGbps
                | Self::TcpReverseGbps
                | Self::Udp1200Kpps
                | Self::Udp64Kpps
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_survives_json() {
        for metric in all() {
            let text = serde_json::to_string(&metric).unwrap();
            assert_eq!(serde_json::from_str::<Metric>(&text).unwrap(), metric);
        }
        assert_eq!(serde_json::to_string(&Metric::TcpOneGbps).unwrap(), "\"tcp_one_gbps\"");
        assert_eq!(serde_json::to_string(&Metric::Udp64Kpps).unwrap(), "\"udp64_kpps\"");
    }
}
