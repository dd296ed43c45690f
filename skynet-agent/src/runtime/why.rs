//! What the agent says when asked why a peer is reached as it is, and its looks at the network around.

use std::net::SocketAddr;

use skynet_core::diagnosis::{
    Cause, Control, Diagnosis, Echo, Evidence, NetworkEvidence, TcpProbe, Way, diagnose, host_view,
};
use skynet_core::member::JoinToken;
use tokio::sync::mpsc;

use super::agent::Agent;
use crate::api::{AgentState, RelaysReport, Reply, WhyReport};
use crate::clock;
use crate::netcheck::{self, Plan};

/// Names offered for one that is not known.
const SUGGESTIONS: usize = 3;
/// A name so unlike, or more so, is no misspelling.
const UNLIKE: usize = 3;

/// Looks at the network that run beside the control task.
pub(super) struct Looks {
    done: mpsc::Receiver<NetworkEvidence>,
    sender: mpsc::Sender<NetworkEvidence>,
}

impl Looks {
    pub(super) fn new() -> Self {
        let (sender, done) = mpsc::channel(2);
        Self { done, sender }
    }

    fn begin(&self, plan: Plan) {
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody waits for it any more: the agent is ending.
            let _ = sender.blocking_send(netcheck::look(&plan));
        });
    }

    /// The next look that is done.
    pub(super) async fn next(&mut self) -> Option<NetworkEvidence> {
        self.done.recv().await
    }
}

impl Agent {
    /// The answer to `why`.
    pub(super) fn why(&mut self, word: &str, echo: Option<Echo>) -> Reply {
        let port = self.socket.port().unwrap_or(self.config.port);
        let Some(engine) = &mut self.engine else {
            let evidence = Evidence {
                me: "this node".to_owned(),
                peer: word.to_owned(),
                settled: true,
                ..Evidence::default()
            };
            return Reply::ok(&WhyReport::new(&evidence, &diagnose(&evidence), None));
        };
        let now = clock::now();
        let status = engine.node.status();
        let peer = status.peers.iter().find(|p| {
            p.name == word
                || p.public_key.to_string() == word
                || p.addresses.iter().any(|a| a.to_string() == word)
        });
        engine.node.inquire(peer.map(|p| &p.public_key), now);
        let evidence = peer.and_then(|p| engine.node.evidence(&p.public_key, now));
        let address = peer.and_then(|p| p.addresses.first()).map(ToString::to_string);
        let Some(evidence) = evidence else {
            let evidence = engine.node.own_evidence(now);
            let relay = self.config.relay.or(evidence.relay);
            let evidence = Evidence { peer: word.to_owned(), port, relay, ..evidence };
            if !evidence.joined {
                return Reply::ok(&WhyReport::new(&evidence, &diagnose(&evidence), None));
            }
            engine.node.search(word, now);
            let known: Vec<&str> = status.peers.iter().map(|p| p.name.as_str()).collect();
            return Reply::ok(&WhyReport::new(&evidence, &unknown(word, &known), None));
        };
        let relay = self.config.relay.or(evidence.relay);
        let evidence = Evidence { port, echo, relay, ..evidence };
        let mut report = WhyReport::new(&evidence, &diagnose(&evidence), address);
        let (node, by) = (&engine.node, |way| match way {
            Some(Way::Relay(no)) => engine.node.relaying_member(no),
            _ => None,
        });
        if let Some(member) = by(evidence.path) {
            report.notes.push(format!(
                "{member} relays, a member with the tag relay: the sum of both round trips is least there."
            ));
        }
        report.name_relays(|no| node.relaying_member(no));
        Reply::ok(&report)
    }

    /// What `netcheck` needs of a running agent.
    pub(super) fn relays(&self) -> RelaysReport {
        RelaysReport {
            relays: self.relay_addresses().iter().map(SocketAddr::to_string).collect(),
            port: self.socket.port().unwrap_or(self.config.port),
            clock_ahead_s: self.engine.as_ref().and_then(|e| e.node.clock_ahead_s()),
            joined: self.phase == AgentState::Up,
            message: self.message.clone(),
        }
    }

    /// The one configured, those of the network, or those of the token that is not used yet.
    fn relay_addresses(&self) -> Vec<SocketAddr> {
        let mut relays: Vec<SocketAddr> = self.config.relay.into_iter().collect();
        match &self.engine {
            Some(engine) => relays.extend(engine.node.relay_addresses()),
            None => {
                let token = self.config.token.as_ref().and_then(|t| t.resolve().ok());
                let token = token.and_then(|t| JoinToken::parse(&t).ok());
                relays.extend(token.iter().flat_map(|t| t.relays()).map(|r| r.address));
            }
        }
        let mut seen = Vec::new();
        relays.retain(|r| {
            !seen.contains(r) && {
                seen.push(*r);
                true
            }
        });
        relays
    }

    /// The core wants to know what is around; the answer comes by `looked`.
    pub(super) fn look_around(&self) {
        let plan = Plan {
            relays: self.relay_addresses(),
            port: self.config.port,
            tls: self.config.tls.clone(),
            ..Plan::default()
        };
        self.looks.begin(plan);
    }

    /// A look is done.
    pub(super) fn looked(&mut self, seen: &NetworkEvidence) {
        let tcp = seen.relays.first().map(|r| r.tcp);
        let connected = self.engine.as_ref().is_some_and(|e| e.node.status().control_connected);
        let control = match tcp {
            _ if connected => Control::Joined,
            Some(TcpProbe::Refused) => Control::Refused,
            Some(TcpProbe::Silent) => Control::Silent,
            Some(TcpProbe::Open(_)) if self.message.is_some() => Control::Denied,
            _ => Control::Down,
        };
        let view = host_view(seen);
        tracing::debug!(?view, ?control, "looked around");
        self.feed(|node, now| node.set_host_view(view, control, now));
    }
}

fn unknown(word: &str, known: &[&str]) -> Diagnosis {
    let near = nearest(word, known);
    let verdict = format!(
        "No member is called {word}: the name is wrong, that machine never joined, or it was revoked."
    );
    let cure = if near.is_empty() {
        format!("Use a name that skynet-agent status lists, or run skynet-agent up --token … on {word}.")
    } else {
        format!("Did you mean {}? Else run skynet-agent up --token … on {word}.", near.join(" or "))
    };
    Diagnosis { cause: Cause::UnknownPeer, verdict, cure, notes: Vec::new() }
}

/// The known names most like `word`, the most like first.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let distance = |name: &str| {
        let begins = name.starts_with(&word) || word.starts_with(name);
        strsim::damerau_levenshtein(&word, name).min(if begins { 1 } else { usize::MAX })
    };
    let mut near: Vec<(usize, &str)> =
        known.iter().map(|n| (distance(n), *n)).filter(|(d, n)| *d < UNLIKE.min(n.len())).collect();
    near.sort_unstable();
    near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_meant() {
        let known = ["web-1", "web-2", "worker-10", "db"];
        assert_eq!(nearest("wbe-1", &known), ["web-1", "web-2"]);
        assert_eq!(nearest("WEB-2", &known)[0], "web-2");
        assert_eq!(nearest("worker", &known), ["worker-10"]);
        assert_eq!(nearest("elsewhere", &known), Vec::<&str>::new());
        let found = unknown("wbe-1", &known);
        assert!(found.cure.starts_with("Did you mean web-1"), "{}", found.cure);
    }
}
