//! What clients ask over the control socket, and who answers.

use std::path::Path;

use skynet_core::diagnosis::Echo;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::agent::Agent;
use super::networks::Wishes;
use super::why;
use crate::api::{Call, Reply, Request, Server};
use crate::config::NetworkName;
use crate::secret::SecretText;

/// Listens on the control socket and hands authorised requests over.
pub(super) fn listen(path: &Path) -> anyhow::Result<(mpsc::Receiver<Call>, JoinHandle<()>)> {
    let server = Server::bind(path)?;
    let (sender, calls) = mpsc::channel(16);
    let serving = tokio::spawn(server.serve(sender));
    Ok((calls, serving))
}

impl Agent {
    pub(super) async fn answer(&mut self, call: Call) {
        tracing::debug!(request = ?call.request, "asked");
        let reply = match call.request {
            Request::Status => Reply::ok(&self.status()),
            Request::Peer { peer } => self.peer(&peer),
            Request::Why { peer, echo_sent, echo_received } => {
                let echo = Echo { sent: echo_sent, received: echo_received };
                self.why(&peer, (echo_sent > 0).then_some(echo))
            }
            Request::Roster { roles, since } => self.roster(&roles, since),
            Request::Relays => Reply::ok(&self.relays()),
            Request::Join { token, name } => match self.join(&token, name).await {
                Ok(()) => Reply::ok(&serde_json::json!({ "joining": true })),
                Err(e) => Reply::error(1, &format!("{e:#}")),
            },
            Request::Network { network, flags, proxy } => {
                let wishes = Wishes { flags, proxy: proxy.map(SecretText::new) };
                return self.start_network(&network, wishes, call.reply);
            }
            Request::Down => {
                self.stopping = true;
                Reply::ok(&serde_json::json!({ "stopping": true }))
            }
        };
        // A client that has gone needs no answer.
        let _ = call.reply.send(reply);
    }

    fn start_network(&self, network: &str, wishes: Wishes, reply: oneshot::Sender<Reply>) {
        let others =
            self.others.as_ref().ok_or("only the agent of the first network starts others".to_owned());
        let network = network.parse::<NetworkName>().map_err(|e| e.to_string());
        match others.and_then(|others| Ok((others, network?))) {
            Ok((others, network)) => others.start(network, wishes, reply),
            Err(what) => drop(reply.send(Reply::error(2, &what))),
        }
    }

    fn peer(&self, word: &str) -> Reply {
        let status = self.status();
        if let Some(found) = status.find(word) {
            return Reply::ok(found);
        }
        let names: Vec<&str> = status.peers.iter().map(|p| p.name.as_str()).collect();
        let hint = match why::nearest(word, &names)[..] {
            [] => "skynet-agent status lists them".to_owned(),
            ref near => format!("did you mean {}?", near.join(" or ")),
        };
        Reply::error(1, &format!("no peer is called {word:?}; {hint}"))
    }
}
