//! `skynet-agent netcheck`: what the network around this machine does to it, and what would set it right.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use skynet_core::carrier::Way;
use skynet_core::diagnosis::{
    Cause, Degree, Finding, HostView, NetworkEvidence, StreamProbe, TcpProbe, examine, host_view,
};
use skynet_core::member::{Credentials, JoinToken};
use zeroize::Zeroizing;

use super::{AskArgs, Exit, Failure, format};
use crate::api::{Client, ClientError, HostReport, RelaysReport, Request};
use crate::config::{Config, DEFAULT_PORT, Overrides, ProxyEnvironment, TlsWays, parse_duration};
use crate::netcfg::gateway::default_gateway;
use crate::netcfg::{NetConfig as _, Netlink};
use crate::netcheck::{self, Plan, Proxies};
use crate::port_mapping::survey;

const EXIT_CODES: &str = "Exit codes:
  0  nothing stands in the way of direct paths
  6  works, but something does
  1  the relay cannot be used
  2  no relay is known: give --relay

The causes and their cures: docs/TROUBLESHOOTING.md.";

/// What is waited for if `--timeout` names no time: RFC 4787 REQ-5 asks for two minutes.
const DEFAULT_TIMEOUT: &str = "2m";

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct NetcheckArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// A relay's address; may be repeated. Without it the running agent, the kept membership or the configured token says
    /// where relays are.
    #[arg(long = "relay", env = "SKYNET_RELAY", value_name = "IP:PORT", value_delimiter = ',')]
    relays: Vec<SocketAddr>,
    /// Also measure how long an idle UDP mapping lives; takes as long as it says, at most 5 minutes.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = DEFAULT_TIMEOUT, value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// `netcheck/1`. Field names carry their unit; stable within version 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct NetcheckReport {
    schema: String,
    /// Of the worst finding.
    cause: String,
    degree: String,
    verdict: String,
    cure: String,
    /// All, the worst first.
    findings: Vec<FindingReport>,
    network: HostReport,
    ipv4: FamilyReport,
    ipv6: FamilyReport,
    relays: Vec<RelayCheck>,
    /// An idle mapping still stood after so many seconds; `null`: not measured.
    udp_timeout_alive_s: Option<u32>,
    /// It did not after so many; `null`: never, or not measured.
    udp_timeout_dead_s: Option<u32>,
    /// Streams to the relay's TLS port, tried if no UDP came back: `tls` or `proxy`, and `open` or why not.
    #[serde(default)]
    tls: Vec<(String, String)>,
    /// Which of PCP, NAT-PMP and UPnP IGD the gateway speaks.
    port_mapping: GatewayReport,
    /// Proxies of the environment, by variable.
    proxies: Vec<(String, String)>,
    /// Seconds this machine's clock is ahead of the relay's; `null` without a joined agent.
    clock_ahead_s: Option<i32>,
    /// Whether an agent runs here.
    agent: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct FindingReport {
    cause: String,
    verdict: String,
    cure: String,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct FamilyReport {
    /// This machine's own addresses.
    addresses: Vec<String>,
    /// How relays see it; empty: by none.
    seen_as: Vec<String>,
}

/// The router of the IPv4 default route.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct GatewayReport {
    /// `null`: there is none.
    gateway: Option<String>,
    /// `PCP`, `NAT-PMP`, `UPnP IGD`.
    protocols: Vec<String>,
    /// The external address it told.
    external: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct RelayCheck {
    address: String,
    /// `open`, `refused` or `silent`.
    tcp: String,
    tcp_rtt_us: Option<u64>,
    /// `null`: no answer by UDP.
    udp_rtt_us: Option<u64>,
}

pub(super) fn run(args: &NetcheckArgs) -> Result<Exit, Failure> {
    let plan = plan(args)?;
    if plan.timeout.is_some() && !args.ask.json && std::io::stderr().is_terminal() {
        eprintln!("measuring how long idle UDP lives …");
    }
    let (evidence, gateway) = std::thread::scope(|scope| {
        let gateway = scope.spawn(ask_gateway);
        (netcheck::look(&plan), gateway.join().unwrap_or_default())
    });
    let report = report(&evidence, gateway, !plan.try_port);
    if args.ask.json {
        format::print_json(&report);
    } else {
        format::print_line(render(&report).trim_end());
    }
    Ok(match report.degree.as_str() {
        "fine" => Exit::Ok,
        "degraded" => Exit::Degraded,
        _ => Exit::Failed,
    })
}

/// With what a running agent knows, if there is one.
fn plan(args: &NetcheckArgs) -> Result<Plan, Failure> {
    let agent: Option<RelaysReport> = match Client::connect(&args.ask.socket()) {
        Ok(mut client) => Some(client.ask(&Request::Relays)?),
        Err(ClientError::NotRunning { .. }) => None,
        // Whoever names a relay need not be allowed to ask the agent.
        Err(_) if !args.relays.is_empty() => None,
        Err(e) => return Err(e.into()),
    };
    let mut relays = args.relays.clone();
    if relays.is_empty() && agent.is_none() {
        relays = known_relays();
    }
    if relays.is_empty() {
        relays = agent.iter().flat_map(|a| &a.relays).filter_map(|r| r.parse().ok()).collect();
    }
    if relays.is_empty() {
        let message = "no relay is known here; name one: skynet-agent netcheck --relay IP:PORT";
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(Plan {
        relays,
        port: agent.as_ref().map_or(DEFAULT_PORT, |a| a.port),
        try_port: agent.is_none(),
        timeout: args.timeout,
        tls: tls_ways(),
        clock_ahead_s: agent.and_then(|a| a.clock_ahead_s),
    })
}

/// As the agent would, as far as this user may read its configuration.
fn tls_ways() -> TlsWays {
    let environment = ProxyEnvironment::of_process();
    let overrides = Overrides { proxy_environment: environment, ..Overrides::default() };
    Config::load(overrides).map(|config| config.tls).unwrap_or_default()
}

/// Of the network this machine belongs to, or is to join, as far as this user may read that.
fn known_relays() -> Vec<SocketAddr> {
    let Ok(config) = Config::load(Overrides::default()) else { return Vec::new() };
    let kept = std::fs::read(config.state_dir.join("credentials")).ok();
    if let Some(Ok(credentials)) = kept.map(|blob| Credentials::decode(&Zeroizing::new(blob))) {
        return credentials.trust().manifest().relays.iter().flat_map(|r| r.addresses.clone()).collect();
    }
    let token = config.token.and_then(|t| t.resolve().ok()).and_then(|t| JoinToken::parse(&t).ok());
    token.iter().flat_map(|t| t.relays()).map(|r| r.address).collect()
}

/// What the gateway speaks; nothing is mapped.
fn ask_gateway() -> GatewayReport {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return GatewayReport::default();
    };
    runtime.block_on(async {
        let snapshot = match Netlink::open() {
            Ok(net) => net.snapshot().await.unwrap_or_default(),
            Err(_) => return GatewayReport::default(),
        };
        let Some(gateway) = default_gateway(&snapshot, None) else { return GatewayReport::default() };
        let survey = survey(gateway).await;
        let spoken = [("PCP", survey.pcp), ("NAT-PMP", survey.nat_pmp), ("UPnP IGD", survey.upnp_igd)];
        GatewayReport {
            gateway: Some(gateway.address.to_string()),
            protocols: spoken.iter().filter(|(_, s)| s.speaks).map(|(name, _)| (*name).to_owned()).collect(),
            external: survey.external().map(|ip| ip.to_string()),
        }
    })
}

impl GatewayReport {
    fn words(&self) -> String {
        let Some(gateway) = &self.gateway else { return "no gateway".to_owned() };
        if self.protocols.is_empty() {
            return format!("{gateway} speaks none of PCP, NAT-PMP, UPnP");
        }
        let external = self.external.as_ref().map_or(String::new(), |ip| format!(", external {ip}"));
        format!("{} at {gateway}{external}", self.protocols.join(", "))
    }
}

fn report(evidence: &NetworkEvidence, gateway: GatewayReport, agent: bool) -> NetcheckReport {
    let findings = examine(evidence);
    let worst = findings.first().cloned().unwrap_or_else(|| Finding {
        cause: Cause::NetworkFine,
        verdict: Cause::NetworkFine.what().to_owned(),
        cure: Cause::NetworkFine.cure().to_owned(),
    });
    let degree = findings.iter().map(|f| f.cause.degree()).max().unwrap_or(Degree::Fine);
    let view: HostView = host_view(evidence);
    NetcheckReport {
        schema: "netcheck/1".to_owned(),
        cause: worst.cause.id().to_owned(),
        degree: degree.words().to_owned(),
        verdict: worst.verdict,
        cure: worst.cure,
        findings: findings.iter().map(finding).collect(),
        network: HostReport::from(&view),
        ipv4: family(evidence, true),
        ipv6: family(evidence, false),
        relays: evidence.relays.iter().map(relay).collect(),
        udp_timeout_alive_s: evidence.timeout_s.map(|(alive, _)| alive),
        udp_timeout_dead_s: evidence.timeout_s.and_then(|(_, dead)| dead),
        tls: evidence.streams.iter().map(stream).collect(),
        port_mapping: gateway,
        proxies: Proxies::from_environment().0,
        clock_ahead_s: evidence.clock_ahead_s,
        agent,
    }
}

fn stream(probe: &StreamProbe) -> (String, String) {
    let way = if probe.way == Way::Proxy { "proxy" } else { "tls" };
    let outcome = match &probe.outcome {
        Ok(after) => format!("open after {} ms", after.as_millis()),
        Err(why) => why.clone(),
    };
    (way.to_owned(), outcome)
}

fn finding(f: &Finding) -> FindingReport {
    FindingReport { cause: f.cause.id().to_owned(), verdict: f.verdict.clone(), cure: f.cure.clone() }
}

fn family(evidence: &NetworkEvidence, v4: bool) -> FamilyReport {
    let is_one = |ip: &&IpAddr| ip.is_ipv4() == v4;
    let seen =
        evidence.observations.iter().filter(|o| o.to.is_ipv4() == v4).filter_map(|o| Some(o.mapped?.ip()));
    let mut seen_as: Vec<String> = seen.map(|ip| ip.to_string()).collect();
    seen_as.sort_unstable();
    seen_as.dedup();
    FamilyReport { addresses: evidence.local.iter().filter(is_one).map(IpAddr::to_string).collect(), seen_as }
}

fn relay(probe: &skynet_core::diagnosis::RelayProbe) -> RelayCheck {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let (tcp, tcp_rtt) = match probe.tcp {
        TcpProbe::Open(after) => ("open", Some(after)),
        TcpProbe::Refused => ("refused", None),
        TcpProbe::Silent => ("silent", None),
    };
    RelayCheck {
        address: probe.address.to_string(),
        tcp: tcp.to_owned(),
        tcp_rtt_us: tcp_rtt.map(micros),
        udp_rtt_us: probe.udp.map(micros),
    }
}

fn render(report: &NetcheckReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}\nCure: {}", report.verdict, report.cure);
    for more in report.findings.iter().skip(1) {
        let _ = writeln!(out, "Also: {} Cure: {}", more.verdict, more.cure);
    }
    out.push('\n');
    let n = &report.network;
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, " {name:<13} {value}");
    };
    line("UDP", n.udp.clone());
    line("IPv4", family_words(&report.ipv4));
    line("IPv6", family_words(&report.ipv6));
    let step =
        if n.port_delta == 0 { String::new() } else { format!(", ports in steps of {}", n.port_delta) };
    line("mapping", format!("{}{step}", n.mapping));
    line("filtering", n.filtering.clone());
    line("port kept", yes_no(n.port_preserved));
    line("hairpin", yes_no(n.hairpin));
    line("MTU to relay", n.mtu.map_or_else(|| "unknown".to_owned(), |m| format!("{m} bytes")));
    line("UDP timeout", timeout_words(report));
    line("port mapping", report.port_mapping.words());
    line("cloud", n.cloud.clone().unwrap_or_else(|| "none known".to_owned()));
    let proxies: Vec<String> = report.proxies.iter().map(|(name, url)| format!("{name}={url}")).collect();
    line("proxy", if proxies.is_empty() { "none".to_owned() } else { proxies.join(", ") });
    for (way, outcome) in &report.tls {
        line(if way == "proxy" { "TLS by proxy" } else { "TLS to relay" }, outcome.clone());
    }
    line("clock", report.clock_ahead_s.map_or_else(|| "unknown".to_owned(), format::clock));
    for relay in &report.relays {
        let udp =
            relay.udp_rtt_us.map_or_else(|| "UDP silent".to_owned(), |us| format!("UDP {}", format::rtt(us)));
        line("relay", format!("{}  {udp}, TCP {}", relay.address, relay.tcp));
    }
    out
}

fn family_words(family: &FamilyReport) -> String {
    let none = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    match (family.addresses.is_empty(), family.seen_as.is_empty()) {
        (true, true) => "no address".to_owned(),
        (_, true) => format!("{}; no relay reached by it", none(&family.addresses)),
        _ => format!("{}; seen as {}", none(&family.addresses), none(&family.seen_as)),
    }
}

fn timeout_words(report: &NetcheckReport) -> String {
    match (report.udp_timeout_alive_s, report.udp_timeout_dead_s) {
        (None, _) => "not measured (--timeout)".to_owned(),
        (Some(alive), Some(dead)) => format!("between {alive} and {dead} s"),
        (Some(alive), None) => format!("more than {alive} s"),
    }
}

fn yes_no(known: Option<bool>) -> String {
    known.map_or("unknown", |k| if k { "yes" } else { "no" }).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::diagnosis::{Observation, RelayProbe};

    fn evidence() -> NetworkEvidence {
        let seen = |to: &str, mapped: &str| Observation {
            socket: 0,
            local_port: 5_000,
            to: to.parse().unwrap(),
            mapped: Some(mapped.parse().unwrap()),
        };
        NetworkEvidence {
            relays: vec![RelayProbe {
                address: "203.0.113.10:3478".parse().unwrap(),
                tcp: TcpProbe::Open(Duration::from_millis(3)),
                udp: Some(Duration::from_micros(900)),
            }],
            observations: vec![
                seen("203.0.113.10:3478", "198.51.100.2:4001"),
                seen("203.0.113.10:3479", "198.51.100.2:9007"),
            ],
            local: vec!["10.1.0.10".parse().unwrap()],
            timeout_s: Some((20, Some(30))),
            ..NetworkEvidence::default()
        }
    }

    #[test]
    fn verdict_and_cure_come_first_and_the_facts_below() {
        let gateway = GatewayReport {
            gateway: Some("192.168.1.1".to_owned()),
            protocols: vec!["PCP".to_owned(), "UPnP IGD".to_owned()],
            external: Some("198.51.100.2".to_owned()),
        };
        let report = report(&evidence(), gateway, true);
        let text = render(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("The NAT uses another port"), "{text}");
        assert!(lines[1].starts_with("Cure: "), "{text}");
        for part in [
            "Also: The NAT forgets UDP that was idle for 30 s.",
            "mapping       address-and-port-dependent",
            "IPv4          10.1.0.10; seen as 198.51.100.2",
            "UDP timeout   between 20 and 30 s",
            "port mapping  PCP, UPnP IGD at 192.168.1.1, external 198.51.100.2",
            "relay         203.0.113.10:3478  UDP 0.90 ms, TCP open",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], "netcheck/1");
        assert_eq!((&json["cause"], &json["degree"]), (&"symmetric-nat".into(), &"degraded".into()));
    }
}
