//! Why a pair is as it is: `why/1`. Field names carry their unit; stable within version 1.

use serde::{Deserialize, Serialize};
use skynet_core::diagnosis::{Change, Cloud, Diagnosis, End, Evidence, HostView, PairView, Way};

/// The answer to `why`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhyReport {
    /// Always `why/1`.
    pub schema: String,
    /// This node.
    pub node: String,
    /// The peer.
    pub peer: String,
    /// Its overlay address, where echo requests go.
    pub address: Option<String>,
    /// `direct`, `relay` or `none`.
    pub path: String,
    /// Where its packets go: `ip:port` or `relay N`.
    pub via: Option<String>,
    /// The cause, by its name in docs/TROUBLESHOOTING.md.
    pub cause: String,
    /// `fine`, `degraded`, `undecided` or `down`.
    pub degree: String,
    /// What is the case, in a sentence.
    pub verdict: String,
    /// The one change that would set it right.
    pub cure: String,
    /// What else was seen.
    pub notes: Vec<String>,
    /// Nothing is under way any more that could change the answer.
    pub settled: bool,
    /// Echo requests through the overlay just now,
    pub echo_sent: u32,
    /// and their answers.
    pub echo_received: u32,
    /// What this end sees.
    pub here: EndReport,
    /// What the other end says that it sees; `null` if it did not say.
    pub there: Option<EndReport>,
}

/// One end of the pair.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EndReport {
    /// Its network.
    pub network: HostReport,
    /// Its session at the relay is open.
    pub relay_bound: bool,
    /// Its address as the relay sees it.
    pub observed: Option<String>,
    /// Seconds its clock is ahead of the relay's.
    pub clock_ahead_s: Option<i32>,
    /// The other's candidates and what became of them.
    pub candidates: Vec<TriedReport>,
    /// How its path changed, oldest first.
    pub history: Vec<ChangeReport>,
}

/// A network in the words of RFC 4787 and RFC 5780.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HostReport {
    /// `works`, `blocked`, `refused` or `unknown`.
    pub udp: String,
    /// `endpoint-independent`, `address-dependent`, `address-and-port-dependent` or `unknown`.
    pub mapping: String,
    /// In the same words.
    pub filtering: String,
    /// Whether addresses are translated.
    pub translated: Option<bool>,
    /// Whether the external port is the internal one.
    pub port_preserved: Option<bool>,
    /// Step between the external ports of successive mappings; 0: none seen.
    pub port_delta: i16,
    /// Whether the NAT turns packets around.
    pub hairpin: Option<bool>,
    /// Largest IP packet that reaches the relay, bytes.
    pub mtu: Option<u16>,
    /// `aws`, `azure`, `google` or `null`.
    pub cloud: Option<String>,
    /// All external ports seen lie in one block of 64.
    pub port_block: bool,
}

/// One candidate of the other end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TriedReport {
    /// `host`, `server-reflexive`, `port-mapping`, `peer-reflexive`, `configured` or `global-ipv6`.
    pub kind: String,
    /// The address.
    pub address: String,
    /// How far it got.
    pub step: String,
    /// Probes sent,
    pub sent: u16,
    /// and answered.
    pub answered: u16,
}

/// One change of the path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ChangeReport {
    /// Seconds ago.
    pub age_s: u64,
    /// `ip:port`, `relay N` or `none`.
    pub to: String,
    /// Why.
    pub reason: String,
}

impl WhyReport {
    /// Evidence and what it was found to mean.
    pub fn new(e: &Evidence, found: &Diagnosis, address: Option<String>) -> Self {
        let path = match e.path {
            None => "none",
            Some(Way::Direct(_)) => "direct",
            Some(Way::Relay(_)) => "relay",
        };
        let echo = e.echo.unwrap_or_default();
        Self {
            schema: "why/1".to_owned(),
            node: e.me.clone(),
            peer: e.peer.clone(),
            address,
            path: path.to_owned(),
            via: e.path.map(way),
            cause: found.cause.id().to_owned(),
            degree: found.cause.degree().words().to_owned(),
            verdict: found.verdict.clone(),
            cure: found.cure.clone(),
            notes: found.notes.clone(),
            settled: e.settled,
            echo_sent: echo.sent,
            echo_received: echo.received,
            here: EndReport::from(&e.here),
            there: e.there.as_ref().map(EndReport::from),
        }
    }
}

impl WhyReport {
    /// Says `relay NAME` for `relay N` where `name` knows who that is: members that relay have numbers nobody knows them by.
    pub fn name_relays(&mut self, name: impl Fn(u16) -> Option<String>) {
        let ends = [Some(&mut self.here), self.there.as_mut()];
        let changes =
            ends.into_iter().flatten().flat_map(|end| &mut end.history).map(|change| &mut change.to);
        for text in self.via.iter_mut().chain(changes) {
            let no = text.strip_prefix("relay ").and_then(|no| no.parse().ok());
            if let Some(name) = no.and_then(&name) {
                *text = format!("relay {name}");
            }
        }
    }
}

impl From<&End> for EndReport {
    fn from(end: &End) -> Self {
        Self {
            network: HostReport::from(&end.host),
            relay_bound: end.relay_up,
            observed: end.observed.map(|a| a.to_string()),
            clock_ahead_s: end.clock_ahead_s,
            candidates: end.pairs.iter().map(candidate).collect(),
            history: end.changes.iter().map(change).collect(),
        }
    }
}

impl From<&HostView> for HostReport {
    fn from(host: &HostView) -> Self {
        let cloud = match host.cloud {
            Cloud::Unknown => None,
            Cloud::Aws => Some("aws"),
            Cloud::Azure => Some("azure"),
            Cloud::Google => Some("google"),
        };
        Self {
            udp: host.udp.words().to_owned(),
            mapping: host.mapping.words().to_owned(),
            filtering: host.filtering.words().to_owned(),
            translated: host.translated,
            port_preserved: host.preserves_port,
            port_delta: host.port_delta,
            hairpin: host.hairpin,
            mtu: host.mtu,
            cloud: cloud.map(str::to_owned),
            port_block: host.port_block,
        }
    }
}

fn candidate(pair: &PairView) -> TriedReport {
    TriedReport {
        kind: pair.kind.words().to_owned(),
        address: pair.addr.to_string(),
        step: pair.step.words().to_owned(),
        sent: pair.sent,
        answered: pair.answered,
    }
}

fn change(change: &Change) -> ChangeReport {
    ChangeReport {
        age_s: change.age.as_secs(),
        to: change.to.map_or_else(|| "none".to_owned(), way),
        reason: change.reason.words().to_owned(),
    }
}

fn way(way: Way) -> String {
    match way {
        Way::Direct(addr) => addr.to_string(),
        Way::Relay(no) => format!("relay {no}"),
    }
}
