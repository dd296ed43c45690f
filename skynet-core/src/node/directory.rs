//! What this node knows of the others: verified members only, found by address, key, identity or name.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::message::Lookup;
use crate::id::NodeNo;
use crate::key::{Identity, PublicKey};
use crate::member::Member;
use crate::member::chain::{Age, CLOCK_TOLERANCE};
use crate::time::UnixTime;

/// Members kept at most (design §7); beyond, new ones are refused until others expire or leave.
pub const MAX_MEMBERS: usize = 4096;

/// A member and what the relay said about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Verified documents.
    pub member: Arc<Member>,
    /// Whether the relay has its control channel open: a hint for people.
    pub online: bool,
    /// Whether this node has talked to it.
    pub used: bool,
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
    /// What is held already.
    Unchanged,
    /// Older than what is held: a replay by the relay changes nothing.
    Older,
    /// One version with two contents.
    Forked,
    /// The address, name or key belongs to another identity here.
    Taken,
    /// The cache is full.
    Full,
}

impl Directory {
    /// Takes verified documents, unless they are older than the ones held. An address or name once seen stays with its
    /// identity as long as that one is cached (pinning).
    pub fn insert(&mut self, member: Member, online: bool) -> Inserted {
        let identity = member.identity();
        let previous = self.by_identity.get_mut(&identity);
        let result = match &previous {
            Some(held) => match member.age_against(&held.member) {
                Age::Newer => {
                    let old_key = held.member.x25519();
                    Inserted::Newer { old_key: (old_key != member.x25519()).then_some(old_key) }
                }
                Age::Same => Inserted::Unchanged,
                Age::Older => Inserted::Older,
                Age::Forked => Inserted::Forked,
            },
            None => Inserted::New,
        };
        if let (Inserted::Unchanged | Inserted::Older | Inserted::Forked, Some(held)) = (result, previous) {
            held.online = online;
            return result;
        }
        if self.taken_by_another(&member) {
            return Inserted::Taken;
        }
        if result == Inserted::New && self.by_identity.len() >= MAX_MEMBERS {
            return Inserted::Full;
        }
        let used = self.remove(&identity).is_some_and(|held| held.used);
        self.by_key.insert(member.x25519(), identity);
        self.by_address.insert(IpAddr::V4(member.v4()), identity);
        self.by_address.insert(IpAddr::V6(member.v6()), identity);
        self.by_name.insert(member.name().to_string(), identity);
        self.by_identity.insert(identity, Entry { member: Arc::new(member), online, used });
        result
    }

    /// Whether these very documents are held; if so, only what the relay says of the member's presence is news.
    pub fn confirm(&mut self, identity: &Identity, bundle: &[u8], online: bool) -> bool {
        let held = self.by_identity.get_mut(identity).filter(|e| e.member.bundle() == bundle);
        held.map(|e| e.online = online).is_some()
    }

    /// This node talks to it.
    pub fn note_used(&mut self, identity: &Identity) {
        if let Some(entry) = self.by_identity.get_mut(identity) {
            entry.used = true;
        }
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

    /// Forgets members whose documents have ended (with the tolerance peers apply); returns their session keys.
    pub fn expire(&mut self, now: UnixTime) -> Vec<PublicKey> {
        self.remove_if(|member| member.not_after().plus_secs(CLOCK_TOLERANCE) < now)
    }

    /// Forgets these members; returns their session keys.
    pub fn remove_if(&mut self, gone: impl Fn(&Member) -> bool) -> Vec<PublicKey> {
        let members = self.by_identity.values().map(|e| &e.member);
        let gone: Vec<Identity> = members.filter(|m| gone(m)).map(|m| m.identity()).collect();
        gone.iter().filter_map(|i| self.remove(i)).map(|e| e.member.x25519()).collect()
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

/// Whether the relay answered for whom it was asked: it could show another, genuine member.
pub(super) fn is_answer(lookup: &Lookup, member: &Member) -> bool {
    match lookup {
        Lookup::Key(key) => member.x25519() == *key,
        Lookup::Identity(identity) => member.identity() == *identity,
        Lookup::Name(name) => member.name().as_str() == name,
        Lookup::Ipv4(address) => member.v4() == *address,
        Lookup::Ipv6(address) => member.v6() == *address,
    }
}

/// The question for an overlay address.
pub(super) fn lookup_for(address: IpAddr) -> Lookup {
    match address {
        IpAddr::V4(a) => Lookup::Ipv4(a),
        IpAddr::V6(a) => Lookup::Ipv6(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Credentials;
    use crate::member::fixture::{DAY, NOW, Network};

    fn member(credentials: &Credentials, now: UnixTime) -> Member {
        credentials.member(now).unwrap()
    }

    #[test]
    fn a_member_is_found_by_all_it_is_known_by() {
        let me = member(&Network::new().credentials(), NOW);
        let mut directory = Directory::default();
        assert_eq!(directory.insert(me.clone(), true), Inserted::New);
        assert!(directory.get(&me.identity()).is_some_and(|e| e.online));
        assert!(directory.by_key(&me.x25519()).is_some());
        assert!(directory.by_address(me.v4().into()).is_some());
        assert!(directory.by_address(me.v6().into()).is_some());
        assert!(directory.by_node_no(NodeNo(me.node_no())).is_some());
        assert!(directory.by_name("web-1").is_some());
        directory.remove(&me.identity());
        assert!(directory.is_empty() && directory.by_key.is_empty() && directory.by_address.is_empty());
        assert!(directory.by_name.is_empty());
    }

    #[test]
    fn older_documents_change_nothing_and_newer_ones_do() {
        let mut credentials = Network::new().credentials();
        let old = member(&credentials, NOW);
        credentials.sign_record(vec![], vec![], NOW).unwrap();
        let new = member(&credentials, NOW);
        let mut directory = Directory::default();
        directory.insert(new.clone(), true);
        assert_eq!(directory.insert(old.clone(), false), Inserted::Older);
        assert_eq!(directory.insert(new.clone(), false), Inserted::Unchanged);
        let held = directory.get(&new.identity()).unwrap();
        assert_eq!((held.member.record_version(), held.online), (new.record_version(), false));
        let mut directory = Directory::default();
        directory.insert(old, true);
        assert_eq!(directory.insert(new, true), Inserted::Newer { old_key: None });
    }

    #[test]
    fn only_the_very_same_documents_are_confirmed_without_a_check() {
        let me = member(&Network::new().credentials(), NOW);
        let mut directory = Directory::default();
        directory.insert(me.clone(), false);
        let mut other = me.bundle().to_vec();
        assert!(directory.confirm(&me.identity(), &other, true));
        assert!(directory.get(&me.identity()).unwrap().online);
        *other.last_mut().unwrap() ^= 1;
        assert!(!directory.confirm(&me.identity(), &other, true));
    }

    #[test]
    fn a_name_stays_with_the_identity_that_had_it_first() {
        let mut network = Network::new();
        let (first, second) = (member(&network.credentials(), NOW), member(&network.credentials(), NOW));
        assert_ne!(first.identity(), second.identity());
        assert_eq!(first.name(), second.name());
        let mut directory = Directory::default();
        directory.insert(first.clone(), true);
        assert_eq!(directory.insert(second, true), Inserted::Taken);
        assert_eq!(directory.by_name("web-1").unwrap().member.identity(), first.identity());
    }

    #[test]
    fn a_member_past_its_documents_is_forgotten() {
        let me = member(&Network::new().credentials(), NOW);
        let mut directory = Directory::default();
        directory.insert(me.clone(), true);
        assert!(directory.expire(me.not_after()).is_empty());
        assert_eq!(directory.expire(me.not_after().plus_secs(DAY)), [me.x25519()]);
        assert_eq!(directory.len(), 0);
    }
}
