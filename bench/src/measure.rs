//! All measurements of one peer in one round.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::{ping, wait_for};

use crate::link::Link;
use crate::metric::Metric;
use crate::peer::Running;
use crate::usage;

/// What one round says about one peer; what failed is missing.
pub(crate) type Sample = BTreeMap<Metric, f64>;

/// A tunnel that does not answer by then is broken: a lost first handshake is sent again after 5 s.
const UP_TIMEOUT: Duration = Duration::from_secs(12);
const IDLE_PINGS: u32 = 100;
const IDLE_INTERVAL: Duration = Duration::from_millis(10);
const LOADED_INTERVAL: Duration = Duration::from_millis(20);
/// Until TCP has found its rate.
const SLOW_START: Duration = Duration::from_millis(300);

/// The parts of a round, for the progress bar.
pub(crate) const STEPS: [&str; 7] =
    ["RTT idle", "TCP 1", "TCP 8", "TCP reverse", "UDP 1200 B", "UDP 64 B", "RTT loaded"];

/// Waits until packets pass.
pub(crate) fn wait_until_it_answers(link: &Link, running: &Running) -> anyhow::Result<()> {
    let target = IpAddr::V4(running.target);
    wait_for(UP_TIMEOUT, &format!("an answer from {target}"), || {
        let report = ping::run(&link.left().namespace, target, 1, Duration::from_secs(1))?;
        ensure!(report.received == 1, "no answer");
        Ok(())
    })
}

/// Measures everything; `progress` is told each step, errors of steps are handed back beside what did succeed.
pub(crate) fn measure(
    link: &Link,
    running: &Running,
    seconds: u32,
    mut progress: impl FnMut(&'static str),
) -> (Sample, Vec<anyhow::Error>) {
    let mut sample = Sample::new();
    let mut errors = Vec::new();
    for step in STEPS {
        progress(step);
        let result = one_step(link, running, seconds, step, &mut sample);
        errors.extend(result.with_context(|| step).err());
    }
    if !running.processes.is_empty() {
        sample.insert(Metric::PeakRssMib, usage::peak_rss_mib(&running.processes));
    }
    (sample, errors)
}

fn one_step(
    link: &Link,
    running: &Running,
    seconds: u32,
    step: &'static str,
    sample: &mut Sample,
) -> anyhow::Result<()> {
    let tcp = |streams, reverse| Options { transport: Transport::Tcp, seconds, streams, reverse };
    let flood = |payload_bytes| Options {
        // 0 is iperf3's word for "as much as possible".
        transport: Transport::Udp { bits_per_second: 0, payload_bytes },
        ..tcp(1, false)
    };
    let gbps = |options: &Options| anyhow::Ok(iperf(link, running, options)?.bits_per_second / 1e9);
    match step {
        "RTT idle" => {
            let rtt = rtt_us(link, running, IDLE_PINGS, IDLE_INTERVAL)?;
            sample.insert(Metric::IdleRttUs, rtt);
        }
        "TCP 1" => tcp_with_cost(link, running, &tcp(1, false), sample)?,
        "TCP 8" => {
            sample.insert(Metric::TcpEightGbps, gbps(&tcp(8, false))?);
        }
        "TCP reverse" => {
            sample.insert(Metric::TcpReverseGbps, gbps(&tcp(1, true))?);
        }
        "UDP 1200 B" => {
            let report = iperf(link, running, &flood(1200))?;
            sample.insert(Metric::Udp1200Kpps, report.packets_per_second / 1e3);
            sample.insert(Metric::Udp1200LossPercent, report.loss * 100.0);
        }
        "UDP 64 B" => {
            let report = iperf(link, running, &flood(64))?;
            sample.insert(Metric::Udp64Kpps, report.packets_per_second / 1e3);
            sample.insert(Metric::Udp64LossPercent, report.loss * 100.0);
        }
        _ => {
            sample.insert(Metric::LoadedRttUs, loaded_rtt_us(link, running, &tcp(1, false))?);
        }
    }
    Ok(())
}

/// One TCP stream, and what its bytes have cost.
fn tcp_with_cost(
    link: &Link,
    running: &Running,
    options: &Options,
    sample: &mut Sample,
) -> anyhow::Result<()> {
    let before = (usage::process_seconds(&running.processes), usage::machine_seconds());
    let report = iperf(link, running, options)?;
    let tunnel = usage::process_seconds(&running.processes) - before.0;
    let machine = usage::machine_seconds() - before.1;
    let gigabytes = report.bits_per_second * f64::from(options.seconds) / 8e9;
    ensure!(gigabytes > 0.0, "nothing arrived");
    sample.insert(Metric::TcpOneGbps, report.bits_per_second / 1e9);
    if !running.processes.is_empty() {
        sample.insert(Metric::TunnelCpuPerGb, tunnel / gigabytes);
    }
    sample.insert(Metric::MachineCpuPerGb, machine / gigabytes);
    Ok(())
}

fn loaded_rtt_us(link: &Link, running: &Running, options: &Options) -> anyhow::Result<f64> {
    let measured = Duration::from_secs(u64::from(options.seconds)).saturating_sub(2 * SLOW_START);
    let pings = u32::try_from(measured.as_millis() / LOADED_INTERVAL.as_millis())?.max(10);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| iperf(link, running, options));
        std::thread::sleep(2 * SLOW_START);
        let rtt = rtt_us(link, running, pings, LOADED_INTERVAL);
        load.join().expect("iperf::run does not panic")?;
        rtt
    })
}

fn rtt_us(link: &Link, running: &Running, pings: u32, interval: Duration) -> anyhow::Result<f64> {
    let report = ping::run(&link.left().namespace, running.target.into(), pings, interval)?;
    ensure!(report.received > 0, "no answer to {pings} pings");
    Ok(report.p50().as_secs_f64() * 1e6)
}

fn iperf(link: &Link, running: &Running, options: &Options) -> anyhow::Result<iperf::Report> {
    iperf::run(&link.right().namespace, &link.left().namespace, running.target.into(), options)
}
