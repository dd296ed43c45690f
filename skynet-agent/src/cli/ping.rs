//! `skynet-agent ping`: ICMP echo through the overlay; each answer names the path it came by.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{AskArgs, Exit, Failure, format};
use crate::api::{AgentState, Client, ClientError, PeerReport, Request, StatusReport};
use crate::config::parse_duration;
use crate::icmp::Pinger;

#[derive(Args)]
pub(super) struct PingArgs {
    /// Name or overlay address of the peer.
    peer: String,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// How many echo requests; with --until-direct at most this many.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Time between requests.
    #[arg(short, long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// How long to wait for each answer.
    #[arg(short = 'W', long, default_value = "2s", value_parser = parse_duration)]
    wait: Duration,
    /// Stop at the first answer by a direct path; exit code 6 if there was none.
    #[arg(long)]
    until_direct: bool,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    peer: String,
    address: IpAddr,
    sent: u32,
    received: u32,
    direct: bool,
    rtt_min_us: Option<u64>,
    rtt_avg_us: Option<u64>,
    rtt_max_us: Option<u64>,
    replies: Vec<Pong>,
}

#[derive(Serialize)]
struct Pong {
    seq: u16,
    rtt_us: u64,
    path: String,
    via: Option<String>,
}

pub(super) fn run(args: &PingArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(&args.ask.socket())?;
    let (name, address, interface) = resolve(&mut client, &args.peer)?;
    let mut pinger = Pinger::new(address, &interface).map_err(|e| failed(address, &e))?;
    let mut report = Report {
        schema: "ping/1",
        peer: name,
        address,
        sent: 0,
        received: 0,
        direct: false,
        rtt_min_us: None,
        rtt_avg_us: None,
        rtt_max_us: None,
        replies: Vec::new(),
    };
    for seq in 1..=args.count {
        report.sent += 1;
        let rtt = pinger.ping(seq, args.wait).map_err(|e| failed(address, &e))?;
        let is_read = match rtt {
            Some(rtt) => report.take(pong(&mut client, address, seq, rtt), args.ask.json),
            None if !args.ask.json => {
                format::print_line(&format!("no answer from {} ({address})", report.peer))
            }
            None => true,
        };
        let reached = args.until_direct && report.direct;
        if reached || !is_read || seq == args.count {
            break;
        }
        std::thread::sleep(args.interval.saturating_sub(rtt.unwrap_or(args.wait)));
    }
    let silence = if report.received == 0 { why_silent(&mut client, address) } else { None };
    report.finish(args.ask.json, silence);
    Ok(match (report.received, args.until_direct && !report.direct) {
        (0, _) => Exit::Failed,
        (_, true) => Exit::Degraded,
        (_, false) => Exit::Ok,
    })
}

/// Name and address of the peer meant, and the overlay's interface. An address need not be known to the agent yet: the packet makes it so.
fn resolve(client: &mut Client, word: &str) -> Result<(String, IpAddr, String), Failure> {
    let status: StatusReport = client.ask(&Request::Status)?;
    if status.state != AgentState::Up {
        let message = status.message.unwrap_or_else(|| "this machine has no overlay address yet".to_owned());
        return Err(Failure::new(Exit::NotJoined, message));
    }
    let this = &status.this;
    if [&this.name, &this.ipv4, &this.ipv6].into_iter().flatten().any(|own| own == word) {
        let message = format!("{word} is this node; name another one: skynet-agent status lists them");
        return Err(Failure::new(Exit::Failed, message));
    }
    if let Ok(address) = word.parse() {
        let name = status.find(word).map_or_else(|| word.to_owned(), |p| p.name.clone());
        return Ok((name, address, status.this.interface));
    }
    let peer: PeerReport = client.ask(&Request::Peer { peer: word.to_owned() })?;
    let address = peer.ipv4.as_deref().or(peer.ipv6.as_deref()).and_then(|a| a.parse().ok());
    let address =
        address.ok_or_else(|| Failure::new(Exit::Failed, format!("{word} has no overlay address")))?;
    Ok((peer.name, address, status.this.interface))
}

/// What the agent knows of a peer that answered nothing.
fn why_silent(client: &mut Client, address: IpAddr) -> Option<&'static str> {
    match client.ask::<PeerReport>(&Request::Peer { peer: address.to_string() }) {
        Ok(peer) if peer.online == Some(false) => Some("the relay says it is offline"),
        Ok(peer) if peer.path == "none" => Some("no path to it is known"),
        Ok(_) => None,
        Err(ClientError::Refused(_)) => Some("this node knows no member with this address"),
        Err(_) => Some("the agent has stopped"),
    }
}

fn pong(client: &mut Client, address: IpAddr, seq: u16, rtt: Duration) -> Pong {
    let peer: Option<PeerReport> = client.ask(&Request::Peer { peer: address.to_string() }).ok();
    let (path, via) = peer.map_or_else(|| ("unknown".to_owned(), None), |p| (p.path, p.via));
    Pong { seq, rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX), path, via }
}

fn failed(address: IpAddr, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("ping {address}: {error}"))
}

impl Report {
    /// `false` if nobody reads the lines any more.
    fn take(&mut self, pong: Pong, json: bool) -> bool {
        self.received += 1;
        self.direct |= pong.path == "direct";
        let mut is_read = true;
        if !json {
            let via = match (&pong.via, pong.path.as_str()) {
                (Some(via), "direct") => format!("direct {via}"),
                (Some(via), _) => via.clone(),
                (None, path) => path.to_owned(),
            };
            let line = format!(
                "pong from {} ({}) via {via} in {}",
                self.peer,
                self.address,
                format::rtt(pong.rtt_us)
            );
            is_read = format::print_line(&line);
        }
        self.replies.push(pong);
        is_read
    }

    fn finish(&mut self, json: bool, silence: Option<&str>) {
        let rtts = || self.replies.iter().map(|p| p.rtt_us);
        self.rtt_min_us = rtts().min();
        self.rtt_max_us = rtts().max();
        self.rtt_avg_us = rtts().sum::<u64>().checked_div(self.replies.len() as u64);
        if json {
            format::print_json(self);
            return;
        }
        let mut line = format!("{} sent, {} received", self.sent, self.received);
        if let (Some(min), Some(avg), Some(max)) = (self.rtt_min_us, self.rtt_avg_us, self.rtt_max_us) {
            line +=
                &format!(", rtt min/avg/max {}/{}/{}", format::rtt(min), format::rtt(avg), format::rtt(max));
        }
        if let Some(why) = silence {
            line += &format!("; {why}");
        }
        format::print_line(&line);
    }
}
