//! What the resolver knows: the members of one network, by name and by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{Name, RData, RecordType};
use skynet_core::node::RosterView;

use super::{Question, TTL, domain};
use crate::netcfg::Prefix;

/// The names of one network at one moment; as many members as the core keeps (4,096).
#[derive(Debug)]
pub struct Zone {
    apex: Name,
    /// This node, which serves it.
    server: Name,
    serial: u32,
    addresses: HashMap<String, (Ipv4Addr, Ipv6Addr)>,
    names: HashMap<IpAddr, String>,
    prefixes: Vec<Prefix>,
}

/// What a zone has on a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is about another domain.
    NotOurs,
    /// There is no such name.
    Nothing,
    /// The name is there.
    Here,
}

impl Zone {
    /// The members of `view`, whose addresses lie in `prefixes`. None if this node is not among them yet.
    pub fn new(view: &RosterView, network: &str, prefixes: &[Prefix]) -> Option<Self> {
        let own = view.members.iter().find(|m| m.own)?;
        let apex = Name::from_ascii(format!("{}.", domain(network))).ok()?;
        let server = apex.prepend_label(own.name.as_str()).ok()?;
        let mut zone = Self {
            apex,
            server,
            // Serial numbers wrap (RFC 1982).
            serial: (view.revision & u64::from(u32::MAX)) as u32,
            addresses: HashMap::with_capacity(view.members.len()),
            names: HashMap::with_capacity(2 * view.members.len()),
            prefixes: prefixes.to_vec(),
        };
        for member in &view.members {
            zone.addresses.insert(member.name.to_string(), (member.v4, member.v6));
            zone.names.insert(member.v4.into(), member.name.to_string());
            zone.names.insert(member.v6.into(), member.name.to_string());
        }
        Some(zone)
    }

    /// What there is, and the answer that says so.
    pub fn answer(&self, question: &Question) -> (Found, Vec<u8>) {
        let name = question.name();
        let owner = match self.authority(name) {
            Some(owner) if question.kind().is_some() => owner,
            _ => return (Found::NotOurs, question.refused()),
        };
        let kind = question.kind().unwrap_or(RecordType::ANY);
        let Some(all) = self.records(name, &owner) else {
            return (Found::Nothing, question.answered(false, Vec::new(), Some((owner, self.soa()))));
        };
        let wanted: Vec<RData> =
            all.into_iter().filter(|r| kind == RecordType::ANY || r.record_type() == kind).collect();
        let soa = wanted.is_empty().then(|| (owner, self.soa()));
        (Found::Here, question.answered(true, wanted, soa))
    }

    /// The domains that belong here, for whoever asks several servers. Of a prefix that ends within a label, the first of
    /// its reverse zones alone.
    pub fn domains(&self) -> Vec<String> {
        let forward = self.apex.to_ascii();
        let reverse = self.prefixes.iter().filter_map(|p| Some((Name::from(p.address()), labels_of(*p)?)));
        let reverse = reverse.map(|(name, labels)| name.trim_to(labels).to_ascii());
        let all = std::iter::once(forward).chain(reverse);
        all.map(|domain| domain.trim_end_matches('.').to_owned()).collect()
    }

    /// The top of the zone that `name` lies in, if it is one of ours.
    fn authority(&self, name: &Name) -> Option<Name> {
        if self.apex.zone_of(name) {
            return Some(self.apex.clone());
        }
        let mut tops = self.prefixes.iter().filter_map(|prefix| {
            let top = name.trim_to(labels_of(*prefix)?);
            let net = top.parse_arpa_name().ok()?;
            prefix.covers(&Prefix::new(net.addr(), net.prefix_len())?).then_some(top)
        });
        tops.next()
    }

    /// All there is of a name below `apex`; `None` if there is no such name.
    fn records(&self, name: &Name, apex: &Name) -> Option<Vec<RData>> {
        if name == apex {
            return Some(vec![self.soa(), RData::NS(NS(self.server.clone()))]);
        }
        if self.apex.zone_of(name) {
            let mut labels = name.iter();
            let label = std::str::from_utf8(labels.next()?).ok()?.to_ascii_lowercase();
            let is_direct = name.num_labels() == self.apex.num_labels() + 1;
            let (v4, v6) = self.addresses.get(&label).filter(|_| is_direct)?;
            return Some(vec![RData::A(A(*v4)), RData::AAAA(AAAA(*v6))]);
        }
        let net = name.parse_arpa_name().ok()?;
        if net.prefix_len() < net.max_prefix_len() {
            // Between the apex and the addresses: there, and without records (RFC 8020).
            return Some(Vec::new());
        }
        // Other spellings of numbers are other names.
        let member = self.names.get(&net.addr()).filter(|_| Name::from(net.addr()).eq_ignore_root(name))?;
        Some(vec![RData::PTR(PTR(self.apex.prepend_label(member.as_str()).ok()?))])
    }

    fn soa(&self) -> RData {
        // Nobody reads mail about it, nobody copies the zone; what is not there is remembered as long as what is.
        let mailbox = Name::from_ascii("nobody.invalid.").unwrap_or_default();
        let (refresh, retry, expire) = (3_600, 600, 86_400);
        RData::SOA(SOA::new(self.server.clone(), mailbox, self.serial, refresh, retry, expire, TTL))
    }
}

/// How many labels the reverse zones of a prefix have, octets or nibbles and the two of `in-addr.arpa` or `ip6.arpa`: of
/// whole ones, as long as the prefix at least. None of everything, which is nobody's.
fn labels_of(prefix: Prefix) -> Option<usize> {
    let bits = if prefix.address().is_ipv4() { 8 } else { 4 };
    (prefix.prefix_len() > 0).then(|| usize::from(prefix.prefix_len().div_ceil(bits)) + 2)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
