//! All measurements of one peer in one round.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
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
/// Enough that the 99th percentile is more than the largest.
const IDLE_PINGS: u32 = 200;
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// Until TCP has found its rate.
const SLOW_START: Duration = Duration::from_millis(300);

/// The parts of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// 200 echoes, nothing else
    RttIdle,
    /// TCP, one stream, and what its bytes cost
    Tcp,
    /// TCP, eight streams
    Tcp8,
    /// TCP, one stream from right to left
    TcpReverse,
    /// A flood of UDP datagrams of 1,200 B
    Udp1200,
    /// A flood of UDP datagrams of 64 B
    Udp64,
    /// Echoes beside one TCP stream
    RttLoaded,
}

impl Step {
    /// For the progress bar and for errors.
    fn name(self) -> &'static str {
        match self {
            Self::RttIdle => "RTT idle",
            Self::Tcp => "TCP 1",
            Self::Tcp8 => "TCP 8",
            Self::TcpReverse => "TCP reverse",
            Self::Udp1200 => "UDP 1200 B",
            Self::Udp64 => "UDP 64 B",
            Self::RttLoaded => "RTT loaded",
        }
    }
}

/// Waits until packets pass.
pub(crate) fn wait_until_it_answers(link: &Link, running: &Running) -> anyhow::Result<()> {
    let target = IpAddr::V4(running.target);
    wait_for(UP_TIMEOUT, &format!("an answer from {target}"), || {
        let report = ping::run(&link.left().namespace, target, 1, Duration::from_secs(1))?;
        ensure!(report.received == 1, "no answer");
        Ok(())
    })
    .with_context(|| format!("logs end with:{}", running.log_ends()))
}

/// Measures everything; `progress` is told each step, errors of steps are handed back beside what did succeed.
pub(crate) fn measure(
    link: &Link,
    running: &Running,
    seconds: u32,
    steps: &[Step],
    mut progress: impl FnMut(&'static str),
) -> (Sample, Vec<anyhow::Error>) {
    let mut sample = Sample::new();
    let mut errors = Vec::new();
    // Nothing of ours runs at either end between measurements.
    let tunnel = link.processes();
    if !tunnel.is_empty() {
        sample.insert(Metric::IdleRssMib, usage::rss_mib(&tunnel));
    }
    for &step in steps {
        progress(step.name());
        let result = one_step(link, running, &tunnel, seconds, step, &mut sample);
        errors.extend(result.with_context(|| step.name()).err());
    }
    if !tunnel.is_empty() {
        sample.insert(Metric::PeakRssMib, usage::peak_rss_mib(&tunnel));
    }
    (sample, errors)
}

fn one_step(
    link: &Link,
    running: &Running,
    tunnel: &[u32],
    seconds: u32,
    step: Step,
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
        Step::RttIdle => {
            let rtt = round_trips(link, running, IDLE_PINGS)?;
            sample.insert(Metric::IdleRttUs, us(rtt.p50()));
            sample.insert(Metric::IdleRttP99Us, us(rtt.percentile(0.99)));
        }
        Step::Tcp => tcp_with_cost(link, running, tunnel, &tcp(1, false), sample)?,
        Step::Tcp8 => {
            sample.insert(Metric::TcpEightGbps, gbps(&tcp(8, false))?);
        }
        Step::TcpReverse => {
            sample.insert(Metric::TcpReverseGbps, gbps(&tcp(1, true))?);
        }
        Step::Udp1200 => {
            let report = iperf(link, running, &flood(1200))?;
            sample.insert(Metric::Udp1200Kpps, report.packets_per_second / 1e3);
            sample.insert(Metric::Udp1200LossPercent, report.loss * 100.0);
        }
        Step::Udp64 => {
            let report = iperf(link, running, &flood(64))?;
            sample.insert(Metric::Udp64Kpps, report.packets_per_second / 1e3);
            sample.insert(Metric::Udp64LossPercent, report.loss * 100.0);
        }
        Step::RttLoaded => {
            let rtt = loaded_round_trips(link, running, &tcp(1, false))?;
            sample.insert(Metric::LoadedRttUs, us(rtt.p50()));
            sample.insert(Metric::LoadedRttP99Us, us(rtt.percentile(0.99)));
        }
    }
    Ok(())
}

/// One TCP stream, and what its bytes have cost.
fn tcp_with_cost(
    link: &Link,
    running: &Running,
    tunnel: &[u32],
    options: &Options,
    sample: &mut Sample,
) -> anyhow::Result<()> {
    let meter = usage::Meter::start(tunnel);
    let report = iperf(link, running, options)?;
    let cost = meter.per_gigabyte(report.bits_per_second * f64::from(options.seconds) / 8e9)?;
    sample.insert(Metric::TcpOneGbps, report.bits_per_second / 1e9);
    sample.insert(Metric::TcpOneRetransmits, report.retransmits as f64);
    if !tunnel.is_empty() {
        sample.insert(Metric::TunnelCpuPerGb, cost.processes);
    }
    sample.insert(Metric::MachineCpuPerGb, cost.machine);
    Ok(())
}

/// Round trips beside one transfer, once it has found its rate.
pub(crate) fn loaded_round_trips(
    link: &Link,
    running: &Running,
    options: &Options,
) -> anyhow::Result<ping::Report> {
    let measured = Duration::from_secs(u64::from(options.seconds)).saturating_sub(2 * SLOW_START);
    let pings = u32::try_from(measured.as_millis() / PING_INTERVAL.as_millis())?.max(10);
    beside(link, running, options, || round_trips(link, running, pings))
}

/// Does `f` beside one transfer, once it has found its rate.
pub(crate) fn beside<T>(
    link: &Link,
    running: &Running,
    options: &Options,
    f: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| iperf(link, running, options));
        std::thread::sleep(2 * SLOW_START);
        let result = f();
        load.join().expect("iperf::run does not panic")?;
        result
    })
}

/// Round trips of `pings` echoes.
pub(crate) fn round_trips(link: &Link, running: &Running, pings: u32) -> anyhow::Result<ping::Report> {
    let report = ping::run(&link.left().namespace, running.target.into(), pings, PING_INTERVAL)?;
    ensure!(report.received > 0, "no answer to {pings} pings");
    Ok(report)
}

/// iperf3 from left to right.
pub(crate) fn iperf(link: &Link, running: &Running, options: &Options) -> anyhow::Result<iperf::Report> {
    iperf::run(&link.right().namespace, &link.left().namespace, running.target.into(), options)
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
