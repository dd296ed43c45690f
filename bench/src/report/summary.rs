//! Medians over rounds and their ratios.

use std::collections::BTreeMap;

use serde::Serialize;

use super::PeerSamples;
use crate::metric::{self, Metric};
use crate::peer::DIRECT;
use crate::stats;

/// The peer every report is also related to: WireGuard in Rust without offloads, which is the same everywhere.
pub(super) const REFERENCE: &str = "boringtun";

/// What all rounds say about one peer.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Its name.
    pub(super) name: String,
    /// Whether it is a tunnel.
    pub(super) is_tunnel: bool,
    /// Medians over rounds.
    pub(super) medians: BTreeMap<Metric, f64>,
    /// Lowest and highest of all rounds: the noise.
    pub(super) spread: BTreeMap<Metric, (f64, f64)>,
    /// Median over the median of the plain link.
    pub(super) to_direct: BTreeMap<Metric, f64>,
    /// Median over that of the best tunnel of somebody else.
    pub(super) to_best_other: BTreeMap<Metric, f64>,
    /// Median over that of boringtun.
    pub(super) to_boringtun: BTreeMap<Metric, f64>,
}

/// One row per peer, in their order.
pub(super) fn rows(peers: &[PeerSamples]) -> Vec<Row> {
    let mut rows: Vec<_> = peers.iter().map(row).collect();
    let medians: Vec<_> = rows.iter().map(|row| row.medians.clone()).collect();
    let named = |name: &str| peers.iter().position(|peer| peer.name == name).map(|at| medians[at].clone());
    let (direct, reference) = (named(DIRECT).unwrap_or_default(), named(REFERENCE).unwrap_or_default());
    for (index, row) in rows.iter_mut().enumerate() {
        for metric in metric::all().filter(|metric| metric.has_ratio()) {
            let Some(own) = row.medians.get(&metric).copied() else { continue };
            let to = |base: Option<f64>| base.and_then(|base| stats::ratio(own, base));
            let others = peers.iter().zip(&medians).filter(|(other, _)| is_other(&peers[index], other));
            let others = others.filter_map(|(_, medians)| medians.get(&metric).copied());
            let best = if metric.more_is_better() { f64::max } else { f64::min };
            row.to_direct.extend(to(direct.get(&metric).copied()).map(|ratio| (metric, ratio)));
            row.to_boringtun.extend(to(reference.get(&metric).copied()).map(|ratio| (metric, ratio)));
            let other = others.reduce(best).filter(|_| row.is_tunnel);
            row.to_best_other.extend(to(other).map(|ratio| (metric, ratio)));
        }
    }
    rows
}

/// Whether `other` is somebody else's tunnel: variants of skynet do not compete with each other.
fn is_other(own: &PeerSamples, other: &PeerSamples) -> bool {
    let is_skynet = |peer: &PeerSamples| peer.name == "skynet" || peer.name.starts_with("skynet-");
    other.is_tunnel && other.name != own.name && !(is_skynet(own) && is_skynet(other))
}

fn row(peer: &PeerSamples) -> Row {
    let mut medians = BTreeMap::new();
    let mut spread = BTreeMap::new();
    for metric in metric::all() {
        let values = stats::sorted(peer.samples.iter().filter_map(|sample| sample.get(&metric).copied()));
        if let (Some(median), Some(&low), Some(&high)) =
            (stats::median(&values), values.first(), values.last())
        {
            medians.insert(metric, median);
            spread.insert(metric, (low, high));
        }
    }
    let (to_direct, to_best_other, to_boringtun) = Default::default();
    Row {
        name: peer.name.clone(),
        is_tunnel: peer.is_tunnel,
        medians,
        spread,
        to_direct,
        to_best_other,
        to_boringtun,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, is_tunnel: bool, gbps: &[f64], rtt_us: f64) -> PeerSamples {
        let samples = gbps
            .iter()
            .map(|&gbps| BTreeMap::from([(Metric::TcpOneGbps, gbps), (Metric::IdleRttUs, rtt_us)]))
            .collect();
        PeerSamples { name: name.to_owned(), version: String::new(), is_tunnel, samples }
    }

    #[test]
    fn compares_with_the_link_the_best_other_tunnel_and_boringtun() {
        let rows = rows(&[
            peer("direct", false, &[8.0, 10.0, 9.0], 50.0),
            peer("direct-plain", false, &[20.0], 10.0),
            peer("one", true, &[3.0, 2.0, 4.0], 200.0),
            peer("two", true, &[1.0, 2.0], 100.0),
            peer("boringtun", true, &[0.5], 400.0),
        ]);
        assert_eq!(rows[2].medians[&Metric::TcpOneGbps], 3.0);
        assert_eq!(rows[2].spread[&Metric::TcpOneGbps], (2.0, 4.0));
        // The plain link, however fast another link is.
        assert_eq!(rows[2].to_direct[&Metric::TcpOneGbps], 3.0 / 9.0);
        assert_eq!(rows[2].to_best_other[&Metric::TcpOneGbps], 2.0);
        assert_eq!(rows[2].to_boringtun[&Metric::TcpOneGbps], 6.0);
        assert_eq!(rows[3].to_best_other[&Metric::TcpOneGbps], 0.5);
        // Less is better: the best other tunnel is the quicker one.
        assert_eq!(rows[2].to_best_other[&Metric::IdleRttUs], 2.0);
        assert_eq!(rows[4].to_best_other[&Metric::IdleRttUs], 4.0);
        assert!(rows[0].to_best_other.is_empty());
    }

    #[test]
    fn variants_of_skynet_do_not_compete_with_each_other() {
        let rows = rows(&[
            peer("skynet", true, &[3.0], 1.0),
            peer("skynet-mesh", true, &[4.0], 1.0),
            peer("nebula", true, &[2.0], 1.0),
        ]);
        let ratios: Vec<_> = rows.iter().map(|row| row.to_best_other[&Metric::TcpOneGbps]).collect();
        assert_eq!(ratios, [1.5, 2.0, 0.5]);
    }

    #[test]
    fn a_measurement_that_failed_is_a_gap_and_not_a_zero() {
        assert!(rows(&[peer("direct", false, &[], 0.0)])[0].medians.is_empty());
    }
}
