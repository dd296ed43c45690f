//! A relay whose directory lies: an honest one behind it, and tricks on what it answers.
//!
//! It has all that a relay has, the registrar's key too; what a trick needs beyond that (a token, an old store) is given to
//! it by name. The simulation and the namespaces run the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skynet_core::key::{Identity, SigningKey, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::{Bundle, Enrolment, JoinToken, NetworkId, NodeIdentity, Receipt, Signed};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use skynet_relay::io::control::Directory;
use skynet_relay::server::{InForce, Joined, Listed, StoreOp, StoreReply};

/// One way to lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Trick {
    /// A member with the relay's own session key in place of its own.
    SwapKey,
    /// Another member than was asked for.
    SwapMember,
    /// A member's documents from before.
    RollBack,
    /// A member that nobody let in, with a token of the relay's own making.
    Invent,
    /// The same with a genuine token's delegation and the registrar's own receipt.
    InventAdmitted,
    /// A member under the address of another.
    Reassign,
    /// A stranger who was let in with a token, under the name of a member.
    TakeName,
    /// Documents of another network.
    Foreign,
    /// Bytes that are no documents.
    Garbage,
    /// A list that goes on for ever.
    Circle,
    /// A manifest that was replaced.
    OldManifest,
    /// A manifest with a byte changed.
    FalseManifest,
    /// A receipt for this node under another address.
    FalseReceipt,
    /// A ticket for the place of another node.
    FalseTicket,
    /// A list of revocations that was replaced.
    OldDocument,
    /// Documents of the whole network with a byte changed.
    FalseDocument,
}

impl Trick {
    /// Every trick.
    pub const ALL: [Self; 16] = [
        Self::SwapKey,
        Self::SwapMember,
        Self::RollBack,
        Self::Invent,
        Self::InventAdmitted,
        Self::Reassign,
        Self::TakeName,
        Self::Foreign,
        Self::Garbage,
        Self::Circle,
        Self::OldManifest,
        Self::FalseManifest,
        Self::FalseReceipt,
        Self::FalseTicket,
        Self::OldDocument,
        Self::FalseDocument,
    ];

    /// The label under which `status` must count it.
    pub const fn refusal(self) -> &'static str {
        match self {
            Self::SwapKey | Self::Invent | Self::InventAdmitted | Self::Reassign => "forged",
            Self::SwapMember => "other_member",
            Self::RollBack => "older_member",
            Self::TakeName => "taken",
            Self::Foreign => "foreign_network",
            Self::Garbage => "malformed",
            Self::Circle => "endless_list",
            Self::OldManifest => "older_manifest",
            Self::FalseManifest => "false_manifest",
            Self::FalseReceipt => "false_receipt",
            Self::FalseTicket => "false_ticket",
            Self::OldDocument => "older_document",
            Self::FalseDocument => "false_document",
        }
    }
}

/// What the relay has got hold of.
#[derive(Clone, Default)]
pub struct Loot {
    /// Its registrar's key.
    pub registrar: Option<SigningKey>,
    /// A join token.
    pub token: Option<String>,
    /// A manifest that was replaced.
    pub old_manifest: Option<Vec<u8>>,
    /// A list of revocations that was replaced.
    pub old_document: Option<Vec<u8>>,
}

/// What it does now, shared with whoever gives orders.
#[derive(Clone, Default)]
pub struct Orders(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tricks: BTreeSet<Trick>,
    /// Members' documents as they were seen first.
    old_bundles: BTreeMap<Identity, Vec<u8>>,
}

impl Orders {
    /// From now on these tricks, all together.
    pub fn set(&self, tricks: impl IntoIterator<Item = Trick>) {
        self.lock().tricks = tricks.into_iter().collect();
    }

    /// It has seen these documents before.
    pub fn remember(&self, identity: Identity, bundle: &[u8]) {
        self.lock().old_bundles.entry(identity).or_insert_with(|| bundle.to_vec());
    }

    fn get(&self) -> BTreeSet<Trick> {
        self.lock().tricks.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lying directory.
pub struct EvilDirectory<D> {
    honest: D,
    loot: Loot,
    orders: Orders,
    rng: Rng,
}

impl<D: Directory> EvilDirectory<D> {
    /// Lies as ordered about what `honest` answers.
    pub fn new(honest: D, loot: Loot, orders: Orders, seed: [u8; 32]) -> Self {
        Self { honest, loot, orders, rng: Rng::from_seed(seed) }
    }

    /// All members, honestly.
    fn members(&mut self, now: UnixTime) -> Vec<Listed> {
        let op = StoreOp::List { network_id: [0; 8], after: 0, limit: 64 };
        match self.honest.execute(op, now) {
            StoreReply::Listed(_, members) => members,
            _ => Vec::new(),
        }
    }

    /// The answer about one member.
    fn lie_about(&mut self, found: Listed, now: UnixTime) -> Listed {
        for trick in self.orders.get() {
            if trick == Trick::SwapMember {
                let others = self.members(now);
                if let Some(other) = others.into_iter().find(|m| m.identity != found.identity) {
                    return other;
                }
            }
            if let Some(bundle) = self.corrupt(trick, &found, now) {
                return Listed { identity: found.identity, bundle };
            }
        }
        found
    }

    /// Members with each trick played on them, in place of the honest list.
    fn lie_in_list(&mut self, listed: Vec<Listed>, now: UnixTime) -> Vec<Listed> {
        let tricks = self.orders.get();
        if tricks.is_empty() {
            return listed;
        }
        let mut lies = Vec::new();
        let mut bytes = 0;
        for (k, trick) in tricks.iter().enumerate() {
            // Few of each kind, that all kinds find room; what was replaced may be one of many.
            let all = *trick == Trick::RollBack || tricks.len() == 1;
            for (_, found) in listed.iter().enumerate().filter(|(i, _)| all || *i == k % listed.len()) {
                let Some(bundle) = self.corrupt(*trick, found, now) else { continue };
                bytes += bundle.len() + 8;
                if bytes < MAX_LIST_BYTES {
                    lies.push(Listed { identity: found.identity, bundle });
                }
            }
        }
        if lies.is_empty() { listed } else { lies }
    }

    fn corrupt(&mut self, trick: Trick, found: &Listed, now: UnixTime) -> Option<Vec<u8>> {
        let mut bundle = Bundle::parse(&found.bundle).ok()?;
        let own = SigningKey::random(&mut self.rng);
        match trick {
            Trick::SwapKey => {
                let mut binding = bundle.binding.unverified().clone();
                binding.x25519 = StaticSecret::random(&mut self.rng).public();
                binding.sequence += 1;
                bundle.binding = binding.sign(&own).ok()?.into_signed();
                bundle.receipt = self.receipt_for(&bundle, now);
            }
            Trick::RollBack => return self.orders.lock().old_bundles.get(&found.identity).cloned(),
            Trick::Invent => {
                let mut delegation = bundle.delegation.unverified().clone();
                (delegation.signer, delegation.token_key) = (own.identity(), own.identity());
                bundle.delegation = delegation.sign(&own).ok()?.into_signed();
                self.become_somebody(&mut bundle, &own, now)?;
            }
            Trick::InventAdmitted => self.become_somebody(&mut bundle, &own, now)?,
            Trick::Reassign => {
                let mut certificate = bundle.certificate.unverified().clone();
                let other = self.members(now).into_iter().find(|m| m.identity != found.identity)?;
                certificate.v4 = Bundle::parse(&other.bundle).ok()?.certificate.unverified().v4;
                bundle.certificate = certificate.sign(&own).ok()?.into_signed();
                bundle.receipt = self.receipt_for(&bundle, now);
            }
            Trick::TakeName => {
                let token = JoinToken::parse(self.loot.token.as_ref()?).ok()?;
                let (name, node) = (
                    bundle.certificate.unverified().name.clone(),
                    NodeIdentity::random(Some([9; 16]), &mut self.rng),
                );
                let enrolment = Enrolment::new(token, node, name, now, &mut self.rng).ok()?;
                bundle = enrolment.bundle().clone();
                bundle.receipt = self.receipt_for(&bundle, now);
            }
            Trick::Foreign => {
                let mut binding = bundle.binding.unverified().clone();
                binding.network_id = NetworkId([7; 8]);
                bundle.binding = binding.sign(&own).ok()?.into_signed();
            }
            Trick::Garbage => return Some(self.rng.array::<64>().to_vec()),
            Trick::SwapMember
            | Trick::Circle
            | Trick::OldManifest
            | Trick::FalseManifest
            | Trick::FalseReceipt
            | Trick::FalseTicket
            | Trick::OldDocument
            | Trick::FalseDocument => return None,
        }
        Some(bundle.encode())
    }

    /// Makes a bundle that of an identity of the relay's own.
    fn become_somebody(&mut self, bundle: &mut Bundle, own: &SigningKey, now: UnixTime) -> Option<()> {
        let mut certificate = bundle.certificate.unverified().clone();
        certificate.identity = own.identity();
        certificate.name = certificate.name.with_suffix(66);
        let delegation = bundle.delegation.unverified();
        certificate.v4 = delegation.pool.derive(&certificate.identity, certificate.salt)?;
        bundle.certificate = certificate.sign(own).ok()?.into_signed();
        let mut binding = bundle.binding.unverified().clone();
        binding.identity = own.identity();
        binding.x25519 = StaticSecret::random(&mut self.rng).public();
        bundle.binding = binding.sign(own).ok()?.into_signed();
        bundle.record = None;
        bundle.receipt = self.receipt_for(bundle, now);
        Some(())
    }

    /// The receipt the registrar would sign for these documents, if it asked nobody.
    fn receipt_for(&self, bundle: &Bundle, now: UnixTime) -> Option<Signed<Receipt>> {
        let registrar = self.loot.registrar.as_ref()?;
        let (certificate, binding) = (bundle.certificate.unverified(), bundle.binding.unverified());
        let receipt = Receipt {
            network_id: certificate.network_id,
            identity: certificate.identity,
            x25519: binding.x25519,
            name: certificate.name.clone(),
            v4: certificate.v4,
            token_id: certificate.token_id,
            use_number: 1,
            issued: now,
            not_after: now.plus_secs(14 * 86_400),
            registrar: registrar.identity(),
            certificate_until: None,
        };
        Some(receipt.sign(registrar).ok()?.into_signed())
    }

    fn lie_in_welcome(&mut self, mut joined: Box<Joined>, now: UnixTime) -> Box<Joined> {
        for trick in self.orders.get() {
            match trick {
                Trick::OldManifest => {
                    if let Some(old) = &self.loot.old_manifest {
                        joined.manifest.clone_from(old);
                    }
                }
                Trick::FalseManifest => {
                    if let Some(last) = joined.manifest.last_mut() {
                        *last ^= 1;
                    }
                }
                Trick::FalseReceipt => {
                    if let Some(bytes) = self.receipt_under_another_address(&joined, now) {
                        joined.receipt = bytes;
                    }
                }
                Trick::FalseTicket => joined.who.node_no ^= 1,
                _ => {}
            }
        }
        joined
    }

    fn lie_in_documents(&self, mut in_force: Box<InForce>) -> Box<InForce> {
        let tricks = self.orders.get();
        if let Some(old) = self.loot.old_document.as_ref().filter(|_| tricks.contains(&Trick::OldDocument)) {
            in_force.documents = vec![old.clone()];
        }
        if tricks.contains(&Trick::FalseDocument) {
            for document in &mut in_force.documents {
                if let Some(last) = document.last_mut() {
                    *last ^= 1;
                }
            }
        }
        in_force
    }

    fn receipt_under_another_address(&self, joined: &Joined, now: UnixTime) -> Option<Vec<u8>> {
        let mut receipt = Signed::<Receipt>::parse(&joined.receipt).ok()?.unverified().clone();
        receipt.v4 = (joined.who.node_no ^ 1).into();
        receipt.issued = now;
        Some(receipt.sign(self.loot.registrar.as_ref()?).ok()?.bytes().to_vec())
    }
}

/// What fits a frame of the control channel.
const MAX_LIST_BYTES: usize = 15_000;

impl<D: Directory> Directory for EvilDirectory<D> {
    fn execute(&mut self, op: StoreOp, now: UnixTime) -> StoreReply {
        match self.honest.execute(op, now) {
            StoreReply::Joined(joined) => StoreReply::Joined(self.lie_in_welcome(joined, now)),
            StoreReply::Found(found) => {
                self.orders.remember(found.identity, &found.bundle);
                StoreReply::Found(self.lie_about(found, now))
            }
            StoreReply::Listed(more, listed) => {
                listed.iter().for_each(|found| self.orders.remember(found.identity, &found.bundle));
                let circle = self.orders.get().contains(&Trick::Circle);
                StoreReply::Listed(more || circle, self.lie_in_list(listed, now))
            }
            StoreReply::InForce(in_force) => StoreReply::InForce(self.lie_in_documents(in_force)),
            other => other,
        }
    }
}
