//! `skynet-agent status`: this node, its relays, one line per peer.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::{AskArgs, Exit, Failure, format};
use crate::api::{
    AgentState, Client, NamesReport, PeerReport, PortMappingReport, RefusedReport, Request, SplitReport,
    StatusReport,
};

#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// Print again every second until interrupted.
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(&args.ask.socket())?;
    loop {
        let status: StatusReport = client.ask(&Request::Status)?;
        let is_read = if args.ask.json {
            format::print_json(&status)
        } else {
            if args.watch && std::io::stdout().is_terminal() {
                format::print_line("\x1b[H\x1b[2J");
            }
            format::print_line(render(&status).trim_end())
        };
        if !args.watch || !is_read {
            return Ok(if status.state == AgentState::Up { Exit::Ok } else { Exit::NotJoined });
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn render(status: &StatusReport) -> String {
    let mut out = String::new();
    let this = &status.this;
    let state = match status.state {
        AgentState::NotJoined => "not joined",
        AgentState::Joining => "joining",
        AgentState::Up => "up",
        AgentState::Failed => "refused",
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "{} {state}", this.name.as_deref().unwrap_or("this node"));
    if let Some(ipv4) = &this.ipv4 {
        let _ = write!(out, "  {ipv4}/{}", this.ipv4_prefix_len.unwrap_or(32));
    }
    if let Some(ipv6) = &this.ipv6 {
        let _ = write!(out, "  {ipv6}");
    }
    let _ = writeln!(out, "  {}  UDP {}", this.interface, this.port);
    if let Some(network) = &status.network {
        let _ = writeln!(out, "network {network} of this machine");
    }
    if let Some(message) = &status.message {
        let _ = writeln!(out, "{message}");
    }
    for relay in &status.relays {
        let control = if relay.control { "joined" } else { "not joined" };
        let bound = if relay.bound { "bound" } else { "not bound" };
        let rtt = relay.rtt_us.map(|us| format!("  {}", format::rtt(us))).unwrap_or_default();
        let by = if matches!(relay.transport.as_str(), "udp" | "") { "" } else { &relay.transport };
        let by = if by.is_empty() { String::new() } else { format!("  by {by}") };
        let why = relay.transport_reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let draining = if relay.draining { "  draining" } else { "" };
        let address = &relay.address;
        let _ = match &relay.member {
            Some(member) => writeln!(out, "relay {member}  {address}  member, {bound}{rtt}{draining}{why}"),
            None => {
                writeln!(out, "relay {}  {address}  {control}, {bound}{rtt}{draining}{by}{why}", relay.relay)
            }
        };
    }
    if let Some(relaying) = &status.relaying {
        let (sessions, bytes) = (relaying.sessions, format::bytes(relaying.forwarded_bytes));
        let _ = writeln!(out, "relays for {sessions} members, {bytes}");
    }
    for line in refused_lines(&status.refused) {
        let _ = writeln!(out, "{line}");
    }
    if status.documents.as_ref().is_some_and(|documents| documents.stale) {
        out.push_str("stale: no relay with a registrar has confirmed for a day who is revoked\n");
    }
    for split in status.documents.iter().flat_map(|documents| &documents.split_views) {
        let _ = writeln!(out, "{}", split_line(split));
    }
    if let Some(line) = mapping_line(&status.port_mapping) {
        let _ = writeln!(out, "{line}");
    }
    if !status.offloads_off.is_empty() {
        let off: Vec<String> =
            status.offloads_off.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        let _ = writeln!(out, "offloads off: {}", off.join(", "));
    }
    out.extend(status.names.as_ref().map(names_line));
    if !status.further_networks.is_empty() {
        let _ = writeln!(out, "further networks (--network NAME): {}", status.further_networks.join(", "));
    }
    if status.peers.is_empty() {
        out.push_str("no peers yet\n");
    } else {
        let _ = writeln!(out, "{}", table(&status.peers));
        if let Some(relayed) = status.peers.iter().find(|p| p.path == "relay" && p.online != Some(false)) {
            let _ = writeln!(out, "not direct? skynet-agent why {}", relayed.name);
        }
    }
    out
}

/// Two contents of one document: somebody was shown what others were not.
fn split_line(split: &SplitReport) -> String {
    let SplitReport { peer, document, epoch, proven } = split;
    let what = if *proven { ", and both are signed: a key was used twice, or is stolen" } else { "" };
    format!("ALARM: {peer} holds another {document} of epoch {epoch} than this node{what}: docs/THREATS.md")
}

/// Where the names of members are found.
fn names_line(names: &NamesReport) -> String {
    let mut line = format!("names *.{}", names.domain);
    if let Some(dns) = &names.dns {
        let at = if dns.listening.is_empty() { "nowhere".to_owned() } else { dns.listening.join(", ") };
        line += &format!("  DNS at {at}");
        for (address, why) in &dns.failed {
            line += &format!(" (not at {address}: {why})");
        }
        line +=
            &dns.systemd_resolved.as_ref().map(|how| format!("  systemd-resolved {how}")).unwrap_or_default();
    }
    line += &names.hosts_file.as_ref().map(|file| format!("  in {file}")).unwrap_or_default();
    line + "\n"
}

/// One line per relay that said what was not believed.
fn refused_lines(refused: &[RefusedReport]) -> Vec<String> {
    let line = |of: &[RefusedReport]| {
        let what: Vec<String> = of.iter().map(|r| format!("{} ({}×)", r.words, r.count)).collect();
        let verdict = if of.iter().any(|r| r.lie) { "; it lies or is broken: docs/THREATS.md" } else { "" };
        format!("refused: relay {} showed {}{verdict}", of[0].relay, what.join(", "))
    };
    refused.chunk_by(|a, b| a.relay == b.relay).map(line).collect()
}

/// Only what a person can use or cure.
fn mapping_line(mapping: &PortMappingReport) -> Option<String> {
    let external = mapping.external.as_deref().unwrap_or("?");
    let gateway = mapping.gateway.as_deref().unwrap_or("the gateway");
    match mapping.state.as_str() {
        "mapped" => {
            let protocol = mapping.protocol.as_deref().unwrap_or("?");
            Some(format!("port mapping {external}  {protocol} at {gateway}"))
        }
        "double_nat" => Some(format!(
            "double NAT: {gateway} maps to {external}, which is private; forward the port on the router in front of it too"
        )),
        _ => None,
    }
}

fn table(peers: &[PeerReport]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["NAME", "ADDRESS", "PATH", "RTT", "MTU", "RX", "TX", "LAST", "CIPHER", "LANES"]);
    let dash = || "-".to_owned();
    for peer in peers {
        let path = match (&peer.via, peer.path.as_str()) {
            (Some(via), "direct") => format!("direct {via}"),
            // A direct path may outlive the peer's connection to its relay; nothing else does.
            _ if peer.online == Some(false) => "offline".to_owned(),
            (Some(via), "relay") => via.clone(),
            _ => peer.path.clone(),
        };
        table.add_row([
            peer.name.clone(),
            peer.ipv4.clone().or_else(|| peer.ipv6.clone()).unwrap_or_else(dash),
            path,
            peer.rtt_us.map_or_else(dash, format::rtt),
            peer.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            format::bytes(peer.rx_bytes),
            format::bytes(peer.tx_bytes),
            peer.handshake_age_s.map_or_else(dash, format::age),
            peer.cipher.clone().unwrap_or_else(dash),
            if peer.lanes == 0 { dash() } else { peer.lanes.to_string() },
        ]);
    }
    for column in [3, 4, 5, 6, 7, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DnsReport, RelayReport, RelayingReport, SelfReport};

    #[test]
    fn the_table_has_one_aligned_line_per_peer() {
        let peer = |name: &str, path: &str, via: Option<&str>| PeerReport {
            name: name.to_owned(),
            ipv4: Some("10.7.0.9".to_owned()),
            ipv6: None,
            public_key: "k".to_owned(),
            online: None,
            path: path.to_owned(),
            via: via.map(str::to_owned),
            rtt_us: via.map(|_| 12_345),
            mtu: via.map(|_| 1_440),
            mtu_black_holes: 0,
            rx_bytes: 1_500_000,
            tx_bytes: 10,
            handshake_age_s: None,
            cipher: via.map(|_| "AES-256-GCM".to_owned()),
            lanes: u8::from(via.is_some()),
            lane_list: Vec::new(),
        };
        let relay = RelayReport {
            relay: 1,
            member: None,
            address: "192.0.2.1:3478".to_owned(),
            control: true,
            bound: true,
            home: true,
            draining: false,
            rtt_us: Some(900),
            observed: None,
            transport: "udp".to_owned(),
            transport_reason: None,
        };
        let status = StatusReport {
            schema: "status/1".to_owned(),
            version: "0".to_owned(),
            state: AgentState::Up,
            message: None,
            this: SelfReport {
                name: Some("a1".to_owned()),
                ipv4: Some("10.7.0.1".to_owned()),
                ipv4_prefix_len: Some(16),
                interface: "skynet0".to_owned(),
                port: 41820,
                ..SelfReport::default()
            },
            relays: vec![
                relay.clone(),
                RelayReport {
                    relay: 40_000,
                    member: Some("gw-1".to_owned()),
                    address: "10.0.0.7:41820".to_owned(),
                    control: false,
                    home: false,
                    rtt_us: Some(250),
                    ..relay
                },
            ],
            relaying: Some(RelayingReport {
                sessions: 3,
                forwarded_datagrams: 9,
                forwarded_bytes: 9_000,
                dropped_datagrams: 1,
            }),
            peers: vec![
                peer("b1", "direct", Some("198.51.100.7:41820")),
                peer("c1", "relay", Some("relay 1")),
                peer("d1", "none", None),
                PeerReport { online: Some(false), ..peer("e1", "none", None) },
            ],
            candidates: Vec::new(),
            port_mapping: PortMappingReport {
                state: "mapped".to_owned(),
                gateway: Some("192.168.1.1".to_owned()),
                protocol: Some("PCP".to_owned()),
                external: Some("198.51.100.2:41820".to_owned()),
                retry_s: None,
            },
            offloads_off: [("udp-gso".to_owned(), "switched off".to_owned())].into(),
            offload_fallbacks: std::collections::BTreeMap::new(),
            drops: std::collections::BTreeMap::new(),
            refused: [
                ("forged", "documents that nobody entitled has signed", true),
                ("taken", "a name", false),
            ]
            .map(|(reason, words, lie)| RefusedReport {
                relay: "192.0.2.1:3478".to_owned(),
                reason: reason.to_owned(),
                words: words.to_owned(),
                lie,
                count: 3,
                age_s: 1,
            })
            .into(),
            documents: None,
            network: None,
            further_networks: vec!["lab".to_owned(), "test".to_owned()],
            names: Some(NamesReport {
                domain: "lab.internal".to_owned(),
                hosts_file: Some("/etc/hosts".to_owned()),
                dns: Some(DnsReport {
                    listening: vec!["10.7.0.1:53".to_owned()],
                    failed: [("[fd00::1]:53".to_owned(), "in use".to_owned())].into(),
                    answered: 7,
                    dropped: 0,
                    systemd_resolved: Some("asks here".to_owned()),
                }),
            }),
        };
        let expected = "\
a1 up  10.7.0.1/16  skynet0  UDP 41820
relay 1  192.0.2.1:3478  joined, bound  0.90 ms
relay gw-1  10.0.0.7:41820  member, bound  0.25 ms
relays for 3 members, 9.00 kB
refused: relay 192.0.2.1:3478 showed documents that nobody entitled has signed (3×), a name (3×); it lies or is broken: docs/THREATS.md
port mapping 198.51.100.2:41820  PCP at 192.168.1.1
offloads off: udp-gso (switched off)
names *.lab.internal  DNS at 10.7.0.1:53 (not at [fd00::1]:53: in use)  systemd-resolved asks here  in /etc/hosts
further networks (--network NAME): lab, test
 NAME  ADDRESS   PATH                           RTT   MTU       RX    TX  LAST  CIPHER       LANES
 b1    10.7.0.9  direct 198.51.100.7:41820  12.3 ms  1440  1.50 MB  10 B     -  AES-256-GCM      1
 c1    10.7.0.9  relay 1                    12.3 ms  1440  1.50 MB  10 B     -  AES-256-GCM      1
 d1    10.7.0.9  none                             -     -  1.50 MB  10 B     -  -                -
 e1    10.7.0.9  offline                          -     -  1.50 MB  10 B     -  -                -
not direct? skynet-agent why c1
";
        assert_eq!(render(&status), expected);
        assert_eq!(status.find("10.7.0.9").unwrap().name, "b1");
        assert_eq!(status.find("c1").unwrap().path, "relay");
        assert!(status.find("nobody").is_none());
    }
}
