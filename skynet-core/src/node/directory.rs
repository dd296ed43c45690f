//! What this node knows of the others: verified members only, found by address, key, identity or name.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::NodeNo;
use crate::key::{Identity, PublicKey};
use crate::member::Member;

/// Members kept at most (design §7); beyond, new ones are refused until others expire or leave.
pub const MAX_MEMBERS: usize = 4096;

/// A member and what the relay said about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Verified documents.
    pub member: Arc<Member>,
    /// Whether the relay has its control channel open: a hint for people.
    pub online: bool,
}

/// The cache.
#[derive(Default, Debug)]
pub struct Directory {
    by_identity: BTreeMap<Identity, Entry>,
    by_key: BTreeMap<PublicKey, Identity>,
    by_address: BTreeMap<IpAddr, Identity>,
    by_name: BTreeMap<String, Identity>,
}

/// What [`Directory::insert`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// Not known before.
    New,
    /// Documents newer than the ones held.
    Newer {
        /// The session key it had before, if it has another one now: those sessions are void.
        old_key: Option<PublicKey>,
    },
    /// The same, or older than what is held: a replay by the relay changes nothing.
    Unchanged,
    /// The address or name belongs to another identity here, or the cache is full.
    Refused,
}

impl Directory {
    /// Takes verified documents, unless they are older than the ones held. An address or name once seen stays with its
    /// identity as long as that one is cached (pinning).
    pub fn insert(&mut self, member: Member, online: bool) -> Inserted {
        let identity = member.identity();
        let previous = self.by_identity.get_mut(&identity);
        let result = match &previous {
            Some(held) if !member.supersedes(&held.member) => Inserted::Unchanged,
            Some(held) => {
                let old_key = held.member.x25519();
                Inserted::Newer { old_key: (old_key != member.x25519()).then_some(old_key) }
            }
            None => Inserted::New,
        };
        if let (Inserted::Unchanged, Some(held)) = (result, previous) {
            held.online = online;
            return result;
        }
        if self.taken_by_another(&member)
            || (result == Inserted::New && self.by_identity.len() >= MAX_MEMBERS)
        {
            return Inserted::Refused;
        }
        self.remove(&identity);
        self.by_key.insert(member.x25519(), identity);
        self.by_address.insert(IpAddr::V4(member.v4()), identity);
        self.by_address.insert(IpAddr::V6(member.v6()), identity);
        self.by_name.insert(member.name().to_string(), identity);
        self.by_identity.insert(identity, Entry { member: Arc::new(member), online });
        result
    }

    fn taken_by_another(&self, member: &Member) -> bool {
        let other = |held: Option<&Identity>| held.is_some_and(|i| *i != member.identity());
        other(self.by_key.get(&member.x25519()))
            || other(self.by_address.get(&IpAddr::V4(member.v4())))
            || other(self.by_name.get(member.name().as_str()))
    }

    /// Forgets a member.
    pub fn remove(&mut self, identity: &Identity) -> Option<Entry> {
        let entry = self.by_identity.remove(identity)?;
        self.by_key.remove(&entry.member.x25519());
        self.by_address.remove(&IpAddr::V4(entry.member.v4()));
        self.by_address.remove(&IpAddr::V6(entry.member.v6()));
        self.by_name.remove(entry.member.name().as_str());
        Some(entry)
    }

    /// By identity.
    pub fn get(&self, identity: &Identity) -> Option<&Entry> {
        self.by_identity.get(identity)
    }
    /// By session key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Entry> {
        self.get(self.by_key.get(key)?)
    }
    /// By overlay address.
    pub fn by_address(&self, address: IpAddr) -> Option<&Entry> {
        self.get(self.by_address.get(&address)?)
    }
    /// By number at the relay.
    pub fn by_node_no(&self, node_no: NodeNo) -> Option<&Entry> {
        self.by_address(IpAddr::V4(Ipv4Addr::from(node_no.0)))
    }
    /// By name.
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.get(self.by_name.get(name)?)
    }
    /// All, by identity.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_identity.values()
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.by_identity.len()
    }
    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_identity.is_empty()
    }
}
