//! iperf3: the plain way through routers and NAT, the overlay's direct path beside it, and the relayed one.

use std::net::IpAddr;

use anyhow::Context as _;
use skynet_tests::fleet::Fleet;
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::{Lab, Netns};

use crate::progress::Progress;
use crate::report::{Report, Throughput};

/// Measures the three ways; a way on which nothing arrives is a failure of the report.
pub(crate) fn measure(
    lab: &Lab,
    fleet: &Fleet,
    seconds: u32,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let overlay = |host: &str| anyhow::Ok(IpAddr::V4(fleet.agent(host).overlay_address()?));
    let ways = [
        ("underlay", "paris1", "austin1", IpAddr::V4(lab.host("austin1").address())),
        ("overlay direct", "paris1", "austin1", overlay("austin1")?),
        ("overlay relayed", "paris1", "tokyo1", overlay("tokyo1")?),
    ];
    for (way, from, to, target) in ways {
        progress.step(&format!("iperf3 {way}, {from} to {to}"));
        match one(lab.host(from), lab.host(to), target, seconds).with_context(|| format!("iperf3 {way}")) {
            Ok((forward, reverse)) => report.throughput.push(Throughput {
                way,
                from: from.to_owned(),
                to: to.to_owned(),
                mbps: forward.bits_per_second / 1e6,
                reverse_mbps: reverse.bits_per_second / 1e6,
                retransmits: forward.retransmits + reverse.retransmits,
            }),
            Err(error) => report.failures.push(format!("{error:#}")),
        }
    }
    Ok(())
}

fn one(
    from: &Netns,
    to: &Netns,
    target: IpAddr,
    seconds: u32,
) -> anyhow::Result<(iperf::Report, iperf::Report)> {
    let options = Options { transport: Transport::Tcp, seconds, streams: 1, reverse: false };
    let forward = iperf::run(to, from, target, &options)?;
    let reverse = iperf::run(to, from, target, &Options { reverse: true, ..options })?;
    for report in [&forward, &reverse] {
        anyhow::ensure!(report.bits_per_second > 0.0, "nothing arrived");
    }
    Ok((forward, reverse))
}
