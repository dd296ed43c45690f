//! Throughput between namespaces, by iperf3.

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::lab::{Netns, Process};
use crate::wait;

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As much as TCP gets through.
    Tcp,
    /// UDP datagrams at a fixed rate.
    Udp {
        /// Offered load of all streams together, counted in payload.
        bits_per_second: u64,
        /// Payload of a datagram.
        payload_bytes: u16,
    },
}

/// How to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// TCP or UDP.
    pub transport: Transport,
    /// Length of the measurement in whole seconds.
    pub seconds: u32,
    /// Parallel streams, at least 1.
    pub streams: u32,
    /// From server to client instead.
    pub reverse: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { transport: Transport::Tcp, seconds: 3, streams: 1, reverse: false }
    }
}

/// What iperf3 measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Payload that arrived, in bits per second.
    pub bits_per_second: f64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
    /// Share of UDP datagrams lost, 0 to 1; 0 for TCP.
    pub loss: f64,
    /// UDP datagrams that arrived per second; 0 for TCP.
    pub packets_per_second: f64,
    /// Processor use of the client in percent of one core.
    pub client_cpu_percent: f64,
    /// Processor use of the server in percent of one core.
    pub server_cpu_percent: f64,
    /// Everything iperf3 said.
    pub json: Value,
}

/// Runs a server in one namespace and a client in another, towards `target`, an address of the server.
///
/// # Errors
/// If iperf3 cannot be run, the connection fails, or it hangs for more than 20 s beyond its time.
pub fn run(server: &Netns, client: &Netns, target: IpAddr, options: &Options) -> anyhow::Result<Report> {
    let port = next_port();
    let mut guard = start_server(server, port)?;
    let argv = client_argv(target, port, options);
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let within = Duration::from_secs(u64::from(options.seconds) + 20);
    let output = client.exec_within(within, &argv, "")?;
    let json: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}: {}{}", argv.join(" "), output.stderr, output.stdout))?;
    if let Some(error) = json["error"].as_str() {
        bail!("{} from {} to {}: {error}", argv.join(" "), client.role(), server.role());
    }
    // It serves one client only (`-1`); a failure to end is not the measurement's.
    let _ = guard.wait_within(Duration::from_secs(2));
    parse(json, options)
}

fn client_argv(target: IpAddr, port: u16, options: &Options) -> Vec<String> {
    let mut argv = vec!["iperf3".to_owned(), "-J".to_owned(), format!("-c{target}"), format!("-p{port}")];
    argv.push(format!("-t{}", options.seconds));
    argv.push(format!("-P{}", options.streams));
    if options.reverse {
        argv.push("-R".to_owned());
    }
    if let Transport::Udp { bits_per_second, payload_bytes } = options.transport {
        let per_stream = bits_per_second / u64::from(options.streams.max(1));
        argv.extend(["-u".to_owned(), format!("-b{per_stream}"), format!("-l{payload_bytes}")]);
    }
    argv
}

fn start_server(namespace: &Netns, port: u16) -> anyhow::Result<Process> {
    let mut command = Command::new("iperf3");
    command.args(["-s", "-1", "-p", &port.to_string()]);
    let mut server = namespace.spawn(command)?;
    let what = format!("iperf3 to listen on port {port} in {}", namespace.name());
    wait::wait_until(Duration::from_secs(5), &what, || {
        !server.is_running() || namespace.run(|| is_listening(port)).unwrap_or(false)
    })?;
    anyhow::ensure!(server.is_running(), "iperf3 -s in {}: {}", namespace.name(), server.log());
    Ok(server)
}

/// Whether a TCP socket listens on `port` in the calling thread's namespace. Connecting to find out would use up the
/// one session the server grants.
fn is_listening(port: u16) -> bool {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let local = format!(":{port:04X}");
    tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).any(|table| {
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            // State 0A is LISTEN.
            fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("0A")
        })
    })
}

/// Another port for every run, so that runs of parallel tests in one namespace do not meet.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    5201 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

fn parse(json: Value, options: &Options) -> anyhow::Result<Report> {
    let end = &json["end"];
    let cpu = |side: &str| end["cpu_utilization_percent"][side].as_f64().unwrap_or(0.0);
    let (sum, is_udp) = match options.transport {
        Transport::Tcp => (&end["sum_received"], false),
        Transport::Udp { .. } => (&end["sum"], true),
    };
    let offered = sum["bits_per_second"].as_f64().context("iperf3 reported no rate")?;
    let loss = if is_udp { sum["lost_percent"].as_f64().unwrap_or(0.0) / 100.0 } else { 0.0 };
    let packets = if is_udp { sum["packets"].as_f64().unwrap_or(0.0) } else { 0.0 };
    let seconds = sum["seconds"].as_f64().filter(|seconds| *seconds > 0.0).unwrap_or(1.0);
    Ok(Report {
        // The sum of UDP counts what was sent.
        bits_per_second: offered * (1.0 - loss),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        loss,
        packets_per_second: packets * (1.0 - loss) / seconds,
        client_cpu_percent: cpu("host_total"),
        server_cpu_percent: cpu("remote_total"),
        json,
    })
}
