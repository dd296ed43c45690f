//! What this node knows of the others: verified members only, found by address, key, identity or name.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::message::Lookup;
use crate::control::roll;
use crate::id::NodeNo;
use crate::key::{Identity, PublicKey};
use crate::member::chain::{Age, CLOCK_TOLERANCE};
use crate::member::{Bundle, Member};
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
    /// The relay says that it is no member any more. Its documents hold nevertheless, and so do sessions with it; only
    /// people and scripts are not told of it.
    pub left: bool,
    /// Tells its certificate from others.
    mark: u32,
}

/// The cache.
#[derive(Default, Debug)]
pub struct Directory {
    by_identity: BTreeMap<Identity, Entry>,
    by_key: BTreeMap<PublicKey, Identity>,
    by_address: BTreeMap<IpAddr, Identity>,
    by_name: BTreeMap<String, Identity>,
    revision: u64,
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
        if let (Inserted::Unchanged | Inserted::Older | Inserted::Forked, Some(_)) = (result, previous) {
            self.note_presence(&identity, online);
            return result;
        }
        if self.taken_by_another(&member) {
            return Inserted::Taken;
        }
        if result == Inserted::New && self.by_identity.len() >= MAX_MEMBERS {
            return Inserted::Full;
        }
        let revision = self.revision;
        let before = self.remove(&identity);
        let used = before.as_ref().is_some_and(|held| held.used);
        self.by_key.insert(member.x25519(), identity);
        self.by_address.insert(IpAddr::V4(member.v4()), identity);
        self.by_address.insert(IpAddr::V6(member.v6()), identity);
        self.by_name.insert(member.name().to_string(), identity);
        let mark = Bundle::parse(member.bundle()).map_or(0, |b| roll::mark(b.certificate.bytes()));
        let entry = Entry { member: Arc::new(member), online, used, left: false, mark };
        let shown = |e: &Entry| (e.mark, e.online, e.left);
        let is_news = before.is_none_or(|before| shown(&before) != shown(&entry));
        self.revision = revision + u64::from(is_news);
        self.by_identity.insert(identity, entry);
        result
    }

    /// Whether these very documents are held; if so, only what the relay says of the member's presence is news.
    pub fn confirm(&mut self, identity: &Identity, bundle: &[u8], online: bool) -> bool {
        let is_held = self.by_identity.get(identity).is_some_and(|e| e.member.bundle() == bundle);
        if is_held {
            self.note_presence(identity, online);
        }
        is_held
    }

    /// The relay lists it, and says whether it is there.
    fn note_presence(&mut self, identity: &Identity, online: bool) {
        if let Some(entry) = self.by_identity.get_mut(identity) {
            self.revision += u64::from(entry.online != online || entry.left);
            (entry.online, entry.left) = (online, false);
        }
    }

    /// The relay says whether it is there.
    pub fn set_online(&mut self, node_no: NodeNo, online: bool) {
        if let Some(identity) = self.by_node_no(node_no).map(|e| e.member.identity()) {
            self.note_presence(&identity, online);
        }
    }

    /// The relay says that it is no member any more.
    pub fn set_left(&mut self, node_no: NodeNo) {
        let identity = self.by_node_no(node_no).map(|e| e.member.identity());
        if let Some(entry) = identity.and_then(|i| self.by_identity.get_mut(&i)) {
            self.revision += u64::from(!entry.left);
            (entry.online, entry.left) = (false, true);
        }
    }

    /// Of ephemeral members only these are still there.
    pub fn keep_ephemeral(&mut self, listed: &BTreeSet<u32>) {
        let is_gone = |e: &&Entry| {
            !e.left && e.member.candidate().certificate().ephemeral && !listed.contains(&e.member.node_no())
        };
        let gone: Vec<u32> = self.by_identity.values().filter(is_gone).map(|e| e.member.node_no()).collect();
        gone.into_iter().for_each(|node_no| self.set_left(NodeNo(node_no)));
    }

    /// Forgets whoever must yield their name or address to this member; returns their session keys.
    pub fn make_place_for(&mut self, member: &Member) -> Vec<PublicKey> {
        let holders =
            [self.by_address(member.v4().into()), self.by_name(member.name().as_str())].into_iter().flatten();
        let yields: Vec<Identity> =
            holders.filter(|held| yields(held, member)).map(|held| held.member.identity()).collect();
        yields.iter().filter_map(|identity| self.remove(identity)).map(|e| e.member.x25519()).collect()
    }

    /// Rises with every change that the roster of members shows.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Which certificate is held of the member with this number.
    pub fn mark_of(&self, node_no: NodeNo) -> Option<u32> {
        self.by_node_no(node_no).map(|e| e.mark)
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
        self.revision += 1;
        self.by_key.remove(&entry.member.x25519());
        self.by_address.remove(&IpAddr::V4(entry.member.v4()));
        self.by_address.remove(&IpAddr::V6(entry.member.v6()));
        self.by_name.remove(entry.member.name().as_str());
        Some(entry)
    }

    /// Forgets everybody; returns their session keys.
    pub fn clear(&mut self) -> Vec<PublicKey> {
        let revision = self.revision + 1;
        let before = core::mem::take(self);
        self.revision = revision;
        before.by_key.into_keys().collect()
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

/// A name or address stays with whoever had it first, except: an ephemeral member that has left yields to whoever was admitted
/// later, and one whose token is for this very name or address to whoever joined with the same token later.
fn yields(held: &Entry, newcomer: &Member) -> bool {
    let (old, new) = (&held.member, newcomer);
    if old.identity() == new.identity() || new.receipt().issued < old.receipt().issued {
        return false;
    }
    let gone = held.left && old.candidate().certificate().ephemeral;
    let same_token = old.candidate().certificate().token_id == new.candidate().certificate().token_id;
    gone || (same_token && new.candidate().delegation().is_pinned())
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
