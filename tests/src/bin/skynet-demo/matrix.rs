//! Every host to every host.

use std::time::Duration;

use skynet_tests::fleet::{Agent, Fleet, PathKind, traffic};
use skynet_tests::{clock, wait_for};

use crate::progress::Progress;
use crate::report::{Pair, Report};

/// All pairs at once on one machine; a single pair takes well below a second.
const PATHS_TIMEOUT: Duration = Duration::from_secs(12);
const PINGS: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(20);

/// The path two hosts must find: a port-restricted NAT cannot predict where a symmetric one sends from.
fn expected(from: &Agent, to: &Agent) -> PathKind {
    let cloud = |agent: &Agent| agent.host().trim_end_matches(char::is_numeric).to_owned();
    match (cloud(from).as_str(), cloud(to).as_str()) {
        ("paris", "tokyo") | ("tokyo", "paris") => PathKind::Relay,
        _ => PathKind::Direct,
    }
}

/// Sends between all pairs until each is on the path it must find; what is not there in time is a failure of the report.
pub(crate) fn find_paths(fleet: &Fleet, progress: &Progress, report: &mut Report) -> anyhow::Result<()> {
    progress.step("looking for direct paths");
    let start = clock::now();
    let pairs = fleet.ordered_pairs();
    let result = wait_for(PATHS_TIMEOUT, "direct paths", || {
        for (from, to) in &pairs {
            traffic::poke(from.namespace(), to.overlay_address()?)?;
        }
        std::thread::sleep(Duration::from_millis(100));
        let missing = missing(fleet)?;
        anyhow::ensure!(missing.is_empty(), "{}", missing.join(", "));
        Ok(())
    });
    report.paths_ms = u64::try_from(start.elapsed().as_millis())?;
    report.failures.extend(result.err().map(|error| error.to_string()));
    Ok(())
}

fn missing(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    for from in fleet.agents() {
        let status = from.status()?;
        for to in fleet.agents().filter(|to| to.host() != from.host()) {
            let path = status.peer(to.host()).map_or(PathKind::None, |peer| peer.path);
            if path != expected(from, to) {
                missing.push(format!("{} to {} is {path:?}", from.host(), to.host()));
            }
        }
    }
    Ok(missing)
}

/// Pings all pairs through the overlay.
pub(crate) fn ping_all(fleet: &Fleet, progress: &Progress, report: &mut Report) -> anyhow::Result<()> {
    progress.step("ping all pairs");
    for (from, to) in fleet.ordered_pairs() {
        progress.detail(&format!("ping {} to {}", from.host(), to.host()));
        let echoes = traffic::echo_icmp(from.namespace(), to.overlay_address()?, PINGS, INTERVAL)?;
        if echoes.received < PINGS {
            let lost = PINGS - echoes.received;
            report.failures.push(format!("{} to {}: {lost} of {PINGS} pings lost", from.host(), to.host()));
        }
        report.pairs.push(Pair {
            from: from.host().to_owned(),
            to: to.host().to_owned(),
            path: from.path_to(to)?.name(),
            rtt_us: u64::try_from(echoes.median.as_micros())?,
            answered: echoes.received,
        });
    }
    Ok(())
}
