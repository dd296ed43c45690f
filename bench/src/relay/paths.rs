//! What a relayed path costs beside the direct one, and what the relay pays for it.
//!
//! ```text
//!   a1 ── router ──┐                 ┌── router ── b1
//!                  ├── internet ─────┤
//!                  │    relay        │        direct, or by way of the relay
//! ```

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use skynet_tests::fleet::{self, Fleet, PathKind};
use skynet_tests::iperf::{self, Options};
use skynet_tests::{Lab, NatKind, ping};

use super::Arguments;
use crate::progress::Progress;
use crate::{stats, tables, usage};

const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// A path that stops is noticed, and another one taken.
const PATH_TIMEOUT: Duration = Duration::from_secs(60);
const PINGS: u32 = 100;
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// One path in one round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    path: &'static str,
    gbps: f64,
    rtt_us: f64,
    agents_cpu_per_gb: f64,
    relay_cpu_per_gb: f64,
    machine_cpu_per_gb: f64,
}

/// Measures both paths in turn.
///
/// # Errors
/// If the lab or the overlay cannot be made, or a path does not come to be.
pub(super) fn measure_all(arguments: &Arguments) -> anyhow::Result<Vec<Sample>> {
    let lab = Lab::builder("bench-relay")
        .relay()
        .cloud("a", NatKind::Public, 1)
        .cloud("b", NatKind::Public, 1)
        .build()?;
    let fleet = Fleet::joined(&lab, JOIN_TIMEOUT)?;
    let mut samples = Vec::new();
    let mut progress = Progress::new(2 * arguments.rounds as usize);
    for round in 1..=arguments.rounds {
        for path in [PathKind::Direct, PathKind::Relay] {
            progress.turn(&format!("round {round}/{} {}", arguments.rounds, path.name()));
            if path == PathKind::Relay {
                lab.block_udp_between("a", "b")?;
            } else if round > 1 {
                lab.unblock_udp_between("a", "b")?;
            }
            fleet.wait_path("a1", "b1", path, PATH_TIMEOUT)?;
            samples.push(measure(&lab, &fleet, path, arguments.seconds)?);
            progress.advance(1);
        }
    }
    Ok(samples)
}

fn measure(lab: &Lab, fleet: &Fleet, path: PathKind, seconds: u32) -> anyhow::Result<Sample> {
    let (from, to) = (lab.host("a1"), lab.host("b1"));
    let target = fleet.agent("b1").overlay_address()?.into();
    let rtt = ping::run(from, target, PINGS, PING_INTERVAL)?;
    let agents: Vec<_> = fleet.agents().filter_map(fleet::Agent::id).collect();
    let relay: Vec<_> = fleet.relay().id().into_iter().collect();
    let (of_agents, of_relay) = (usage::Meter::start(&agents), usage::Meter::start(&relay));
    let report = iperf::run(to, from, target, &Options { seconds, ..Options::default() })?;
    let gigabytes = report.bits_per_second * f64::from(seconds) / 8e9;
    let (agents, relay) = (of_agents.per_gigabyte(gigabytes)?, of_relay.per_gigabyte(gigabytes)?);
    let still = fleet.agent("a1").path_to(fleet.agent("b1"))?;
    ensure!(still == path, "the path changed to {} while it was measured", still.name());
    Ok(Sample {
        path: path.name(),
        gbps: report.bits_per_second / 1e9,
        rtt_us: rtt.p50().as_secs_f64() * 1e6,
        agents_cpu_per_gb: agents.processes,
        relay_cpu_per_gb: relay.processes,
        machine_cpu_per_gb: agents.machine,
    })
}

/// Medians.
pub(super) fn text(samples: &[Sample]) -> String {
    let head = ["Gbit/s", "RTT idle us", "CPU agents s/GB", "relay s/GB", "machine s/GB"];
    let rows = [PathKind::Direct, PathKind::Relay].map(|path| {
        let median = |value: fn(&Sample) -> f64, digits: usize| {
            let of = samples.iter().filter(|sample| sample.path == path.name());
            let values = stats::sorted(of.map(value));
            stats::median(&values).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let cells = vec![
            median(|s| s.gbps, 2),
            median(|s| s.rtt_us, 0),
            median(|s| s.agents_cpu_per_gb, 2),
            median(|s| s.relay_cpu_per_gb, 2),
            median(|s| s.machine_cpu_per_gb, 2),
        ];
        (path.name().to_owned(), cells)
    });
    tables::text(&head, rows.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_own_medians() {
        let sample = |path: PathKind, gbps, relay_cpu_per_gb| Sample {
            path: path.name(),
            gbps,
            rtt_us: 200.0,
            agents_cpu_per_gb: 5.0,
            relay_cpu_per_gb,
            machine_cpu_per_gb: 9.0,
        };
        let text = text(&[sample(PathKind::Direct, 2.0, 0.0), sample(PathKind::Relay, 1.0, 2.5)]);
        let relayed = text.lines().find(|line| line.contains("relay ") && line.contains("1.00")).unwrap();
        assert!(relayed.contains("2.50"), "{text}");
    }
}
