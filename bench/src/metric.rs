//! What is measured: names, units, and which way is better.

use serde::Serialize;

/// One column of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// TCP, one stream, Gbit/s.
    TcpOneGbps,
    /// TCP, eight streams, Gbit/s.
    TcpEightGbps,
    /// TCP, one stream from right to left, Gbit/s.
    TcpReverseGbps,
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
    /// Median round trip beside one TCP stream, µs.
    LoadedRttUs,
    /// Processor seconds of the tunnel's processes per GB of one TCP stream.
    TunnelCpuPerGb,
    /// Processor seconds of the whole machine per GB of one TCP stream.
    MachineCpuPerGb,
    /// Largest resident memory of one of its processes, MiB.
    PeakRssMib,
}

/// All of them, in the order of the table.
pub(crate) const METRICS: [Metric; 12] = [
    Metric::TcpOneGbps,
    Metric::TcpEightGbps,
    Metric::TcpReverseGbps,
    Metric::Udp1200Kpps,
    Metric::Udp1200LossPercent,
    Metric::Udp64Kpps,
    Metric::Udp64LossPercent,
    Metric::IdleRttUs,
    Metric::LoadedRttUs,
    Metric::TunnelCpuPerGb,
    Metric::MachineCpuPerGb,
    Metric::PeakRssMib,
];

impl Metric {
    /// Head of its column, with the unit below.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::TcpOneGbps => "TCP 1\nGbit/s",
            Self::TcpEightGbps => "TCP 8\nGbit/s",
            Self::TcpReverseGbps => "TCP rev\nGbit/s",
            Self::Udp1200Kpps => "UDP 1200 B\nkpps",
            Self::Udp1200LossPercent | Self::Udp64LossPercent => "lost\n%",
            Self::Udp64Kpps => "UDP 64 B\nkpps",
            Self::IdleRttUs => "RTT idle\nus",
            Self::LoadedRttUs => "loaded\nus",
            Self::TunnelCpuPerGb => "CPU tunnel\ns/GB",
            Self::MachineCpuPerGb => "machine\ns/GB",
            Self::PeakRssMib => "peak RSS\nMiB",
        }
    }

    /// Digits behind the point that mean something.
    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::TcpOneGbps | Self::TcpEightGbps | Self::TcpReverseGbps => 2,
            Self::TunnelCpuPerGb | Self::MachineCpuPerGb => 2,
            Self::Udp1200Kpps | Self::Udp64Kpps | Self::PeakRssMib => 1,
            Self::Udp1200LossPercent | Self::Udp64LossPercent => 0,
            Self::IdleRttUs | Self::LoadedRttUs => 0,
        }
    }

    /// Whether a ratio to the plain link says something. A flood loses what does not fit, and a link has no processes.
    pub(crate) fn has_ratio(self) -> bool {
        !matches!(
            self,
            Self::Udp1200LossPercent | Self::Udp64LossPercent | Self::TunnelCpuPerGb | Self::PeakRssMib
        )
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
