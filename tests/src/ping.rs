//! ICMP echo between namespaces, by the `ping` of iputils.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::Netns;

/// What a series of echoes showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Requests sent, up to the last one answered if all that were wanted were: what left later is still under way.
    pub sent: u32,
    /// Requests answered; duplicates do not count.
    pub received: u32,
    /// Round-trip times of all answers, ascending.
    pub round_trips: Vec<Duration>,
}

impl Report {
    /// Share of requests without an answer, 0 to 1.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { 1.0 - f64::from(self.received) / f64::from(self.sent) }
    }

    /// Shortest round trip; zero if nothing came back, as for the other figures.
    pub fn min(&self) -> Duration {
        self.round_trips.first().copied().unwrap_or_default()
    }

    /// Longest round trip.
    pub fn max(&self) -> Duration {
        self.round_trips.last().copied().unwrap_or_default()
    }

    /// Mean round trip.
    pub fn avg(&self) -> Duration {
        let count = u32::try_from(self.round_trips.len()).unwrap_or(u32::MAX);
        self.round_trips.iter().sum::<Duration>().checked_div(count).unwrap_or_default()
    }

    /// Median round trip.
    pub fn p50(&self) -> Duration {
        self.percentile(0.5)
    }

    /// The round trip that a share of all answers, 0 to 1, did not exceed; of few answers the longer one.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = (self.round_trips.len() as f64 * share) as usize;
        let last = self.round_trips.len().saturating_sub(1);
        self.round_trips.get(rank.min(last)).copied().unwrap_or_default()
    }
}

/// Sends echo requests from a namespace, `interval` apart, until `count` are answered or 2 s more have passed than
/// `count` of them take. (Without a deadline `ping` waits for the last answer no longer than two round trips, which on
/// a busy machine turns a late answer into a lost one.)
///
/// # Errors
/// If `ping` cannot be run or its output not be understood; lost packets are no error.
pub fn run(from: &Netns, to: IpAddr, count: u32, interval: Duration) -> anyhow::Result<Report> {
    let argv = [
        "ping".to_owned(),
        "-n".to_owned(),
        format!("-c{count}"),
        format!("-i{:.3}", interval.as_secs_f64()),
        format!("-w{:.0}", (interval * count).as_secs_f64().ceil() + 2.0),
        to.to_string(),
    ];
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let within = interval * count + Duration::from_secs(10);
    let output = from.exec_within(within, &argv, "")?;
    // Exit status 1 is "no answer at all"; 2 is any other error.
    ensure!(output.status.code().is_some_and(|code| code < 2), "ping {to}: {}", output.stderr);
    parse(&output.stdout, count).with_context(|| format!("output of ping:\n{}", output.stdout))
}

fn parse(output: &str, wanted: u32) -> anyhow::Result<Report> {
    let mut round_trips = output
        .lines()
        .filter_map(|line| line.split_once(" time=")?.1.split_once(" ms"))
        .map(|(milliseconds, _)| Ok(Duration::try_from_secs_f64(milliseconds.parse::<f64>()? / 1e3)?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    round_trips.sort_unstable();
    let summary = output.lines().find(|line| line.contains("packets transmitted")).context("no summary")?;
    let mut numbers = summary.split(", ").map(|part| part.split(' ').next().unwrap_or_default().parse());
    let (sent, received): (u32, u32) =
        (numbers.next().context("no count")??, numbers.next().context("no count")??);
    let last_answered = output
        .lines()
        .filter_map(|line| line.split_once("icmp_seq=")?.1.split_once(' ')?.0.parse::<u32>().ok())
        .max();
    let sent = last_answered.filter(|_| received >= wanted).unwrap_or(sent);
    Ok(Report { sent, received, round_trips })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_output_of_iputils() {
        let report = parse(
            "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\
             64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.50 ms\n\
             64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=0.25 ms\n\
             64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=0.30 ms (DUP!)\n\n\
             --- 10.0.0.1 ping statistics ---\n\
             4 packets transmitted, 2 received, +1 duplicates, 50% packet loss, time 3004ms\n",
            4,
        )
        .unwrap();
        assert_eq!((report.sent, report.received, report.loss()), (4, 2, 0.5));
        assert_eq!(report.min(), Duration::from_micros(250));
        assert_eq!(report.p50(), Duration::from_micros(300));
        assert_eq!(report.percentile(0.99), Duration::from_micros(500));
        assert_eq!(report.percentile(0.0), report.min());
        assert_eq!(report.avg(), Duration::from_micros(350));
        assert_eq!(report.max(), Duration::from_micros(500));
    }

    #[test]
    fn a_request_after_the_last_answer_wanted_is_not_lost_but_a_gap_before_it_is() {
        let output = "64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.50 ms\n\
             64 bytes from 10.0.0.1: icmp_seq=3 ttl=64 time=0.25 ms\n\
             4 packets transmitted, 2 received, 50% packet loss, time 3004ms\n";
        let report = parse(output, 2).unwrap();
        assert_eq!((report.sent, report.received), (3, 2));
    }

    #[test]
    fn refuses_the_output_of_something_else() {
        assert!(parse("connect: Network is unreachable", 1).is_err());
    }
}
