//! The directory behind the control channel: this host's registrar over its store.

use std::iter::once;
use std::path::PathBuf;

use skynet_core::control::DeniedCode;
use skynet_core::control::message::{ConflictWhat, Lookup};
use skynet_core::control::roll;
use skynet_core::key::PublicKey;
use skynet_core::member::Bundle;
use skynet_core::node::RELAY_TAG;
use skynet_core::time::UnixTime;
use tracing::{debug, info, warn};

use crate::io::control::Directory;
use crate::registrar::{GetBy, JoinPlan, Refusal, Registrar, each_node, find, list};
use crate::server::{Enrolled, InForce, Joined, Listed, StoreOp, StoreReply};
use crate::store::{Store, StoreError};

/// Bytes of bundles in one answer to LIST: what fits a frame with their headers.
const LIST_BYTES: usize = 15_000;

/// One network's registrar and store.
pub struct LocalDirectory<S> {
    registrar: Registrar,
    store: S,
    /// Where documents are kept, if newer ones may come from another relay.
    home: Option<PathBuf>,
}

impl<S: Store> LocalDirectory<S> {
    /// A directory over `store`.
    pub fn new(registrar: Registrar, store: S) -> Self {
        Self { registrar, store, home: None }
    }

    /// The same, which keeps newer documents in this directory of the network's.
    pub fn kept_in(self, home: PathBuf) -> Self {
        Self { home: Some(home), ..self }
    }

    /// Takes a newer document of the network; another one changes nothing.
    fn adopt(&mut self, document: &[u8], now: UnixTime) {
        let kind = match self.registrar.trust_mut().take_at(document, now) {
            Ok(Some(kind)) => kind,
            Ok(None) => return,
            Err(error) => return warn!(%error, "a document of the network is not taken over"),
        };
        info!(%kind, "a newer document of the network is in force");
        let kept = self.home.as_ref().map(|home| crate::network::keep_document(home, kind, document));
        if let Some(Err(error)) = kept {
            warn!(%error, "it is not kept; it is asked for again after a restart");
        }
    }

    /// What holds now, and whom that has put out.
    fn in_force(&self, store: &dyn Store, now: UnixTime) -> Result<StoreReply, Refusal> {
        self.registrar.oust(store, now)?;
        let trust = self.registrar.trust();
        Ok(StoreReply::InForce(Box::new(InForce {
            network_id: self.network_id(),
            documents: once(trust.manifest().bytes()).chain(trust.documents()).map(<[u8]>::to_vec).collect(),
            ousted: self.registrar.ousted(store, now)?,
            relays: trust.manifest().relays.iter().map(|relay| relay.key).collect(),
        })))
    }

    fn network_id(&self) -> [u8; 8] {
        self.registrar.trust().network_id().0
    }

    fn joined(&self, plan: JoinPlan) -> StoreReply {
        let trust = self.registrar.trust();
        info!(identity = ?plan.identity, node = %std::net::Ipv4Addr::from(plan.node_no), new = plan.new, "joined");
        let bundle = Bundle::parse(&plan.bundle).ok();
        let key = bundle.as_ref().map_or(PublicKey([0; 32]), |b| b.binding.unverified().x25519);
        let certificate = bundle.map(|bundle| bundle.certificate);
        let announce = plan.is_news && plan.tags.contains(RELAY_TAG);
        let who = Enrolled {
            network_id: self.network_id(),
            identity: plan.identity,
            node_no: plan.node_no,
            key,
            tags: plan.tags,
            mark: certificate.as_ref().map_or(0, |c| roll::mark(c.bytes())),
            ephemeral: certificate.is_some_and(|c| c.unverified().ephemeral),
        };
        StoreReply::Joined(Box::new(Joined {
            who,
            announce: announce.then_some(plan.bundle),
            receipt: plan.receipt,
            genesis: trust.genesis().bytes().to_vec(),
            manifest: trust.manifest().bytes().to_vec(),
        }))
    }

    /// Who is to be forgotten when it is gone, where that is this relay's to say.
    fn ephemeral(&self, store: &dyn Store) -> Result<Vec<Enrolled>, StoreError> {
        if !self.registrar.admits() {
            return Ok(Vec::new());
        }
        let network_id = self.network_id();
        let of = |bundle: Bundle| {
            let (certificate, key) = (bundle.certificate.unverified(), bundle.binding.unverified().x25519);
            certificate.ephemeral.then(|| Enrolled {
                network_id,
                identity: certificate.identity,
                node_no: certificate.v4.to_bits(),
                key,
                tags: certificate.tags.clone(),
                mark: roll::mark(bundle.certificate.bytes()),
                ephemeral: true,
            })
        };
        let mut members = Vec::new();
        each_node(store, |_, bundle| {
            members.extend(of(bundle));
            Ok::<_, StoreError>(())
        })?;
        Ok(members)
    }

    fn get(store: &dyn Store, lookup: &Lookup) -> Result<StoreReply, StoreError> {
        let by = match lookup {
            Lookup::Key(key) => GetBy::Key(*key),
            Lookup::Identity(identity) => GetBy::Identity(*identity),
            Lookup::Name(name) => match name.parse() {
                Ok(name) => GetBy::Name(name),
                Err(_) => return Ok(StoreReply::NotFound),
            },
            Lookup::Ipv4(address) => GetBy::V4(*address),
            Lookup::Ipv6(address) => GetBy::V6(*address),
        };
        let found = find(store, &by)?.and_then(listed);
        Ok(found.map_or(StoreReply::NotFound, StoreReply::Found))
    }

    fn list(store: &dyn Store, after: u32, limit: u16) -> Result<StoreReply, StoreError> {
        let (page, more) = list(store, after, limit.into(), LIST_BYTES)?;
        Ok(StoreReply::Listed(more, page.into_iter().filter_map(|(_, bundle)| listed(bundle)).collect()))
    }
}

/// A bundle with the identity it is of; `None` if the store holds what is no bundle.
fn listed(bundle: Vec<u8>) -> Option<Listed> {
    let identity = Bundle::parse(&bundle).ok()?.certificate.unverified().identity;
    Some(Listed { identity, bundle })
}

fn refused(refusal: Refusal) -> StoreReply {
    match refusal {
        Refusal::Denied { code, text } => {
            let code = DeniedCode::from_u16(code as u16).expect("both follow the table in PROTOCOL §4.1");
            info!(?code, text, "denied");
            StoreReply::Denied(code, text)
        }
        Refusal::AddressTaken => StoreReply::Conflict(ConflictWhat::Ipv4),
        Refusal::NameTaken => StoreReply::Conflict(ConflictWhat::Name),
    }
}

fn failed(error: StoreError) -> StoreReply {
    warn!(%error, "the directory store failed");
    refused(error.into())
}

impl<S: Store + 'static> LocalDirectory<S> {
    /// The part of an operation that changes what the registrar itself goes by.
    fn adopt_of(&mut self, op: &StoreOp, now: UnixTime) {
        if let StoreOp::Adopt { document } = op {
            self.adopt(document, now);
        }
        if matches!(op, StoreOp::Adopt { .. } | StoreOp::InForce) {
            self.registrar.confirm_documents(now);
        }
    }

    fn execute_on(&self, store: &dyn Store, op: StoreOp, now: UnixTime) -> StoreReply {
        match op {
            StoreOp::Join { bundle, key } => match self.registrar.join(&bundle, &key, store, now) {
                Ok(plan) => self.joined(plan),
                Err(refusal) => refused(refusal),
            },
            StoreOp::Update { record, key, .. } => {
                self.registrar.update(&record, &key, store).map_or_else(refused, StoreReply::Done)
            }
            StoreOp::Leave { key, .. } => {
                self.registrar.leave(&key, store).map_or_else(refused, |()| StoreReply::Done(0))
            }
            StoreOp::Get { lookup, .. } => Self::get(store, &lookup).unwrap_or_else(failed),
            StoreOp::List { after, limit, .. } => Self::list(store, after, limit).unwrap_or_else(failed),
            StoreOp::Manifest => StoreReply::Manifest(self.registrar.trust().manifest().bytes().to_vec()),
            StoreOp::Learn { bundles } => {
                for bundle in bundles {
                    if let Err(refusal) = self.registrar.learn(&bundle, store, now) {
                        debug!(%refusal, "a member that the first relay lists is not taken over");
                    }
                }
                StoreReply::Done(0)
            }
            // `adopt_of` has taken it over.
            StoreOp::Adopt { .. } | StoreOp::InForce => self.in_force(store, now).unwrap_or_else(refused),
            StoreOp::Ephemeral => self.ephemeral(store).map_or_else(failed, StoreReply::Ephemeral),
        }
    }
}

impl<S: Store + 'static> Directory for LocalDirectory<S> {
    fn execute(&mut self, op: StoreOp, now: UnixTime) -> StoreReply {
        self.adopt_of(&op, now);
        self.execute_on(&self.store, op, now)
    }

    fn execute_all(&mut self, ops: Vec<StoreOp>, now: UnixTime) -> Vec<StoreReply> {
        ops.iter().for_each(|op| self.adopt_of(op, now));
        let (count, alone) = (ops.len(), ops.len() == 1);
        let group = if alone { Ok(None) } else { self.store.group() };
        let group = match group {
            Ok(Some(group)) => group,
            Ok(None) => return ops.into_iter().map(|op| self.execute_on(&self.store, op, now)).collect(),
            Err(error) => return vec![failed(error); count],
        };
        let replies = ops.into_iter().map(|op| self.execute_on(&*group, op, now)).collect();
        match group.finish() {
            Ok(()) => replies,
            Err(error) => vec![failed(error); count],
        }
    }
}
