//! NATs and firewalls in the words of RFC 4787, with the requirement each knob belongs to.
//!
//! A [`Nat`] translates and filters UDP between an inside and an outside network. What it stores:
//!
//! ```text
//! mapping   (inside endpoint [, remote address [, remote port]])  →  external endpoint, until
//! session   (external endpoint, remote endpoint)                  →  replied?, until      (the filter's memory)
//! own       (external endpoint, remote endpoint)                  →  until                (the early-packet trap)
//! ```
//! Every table is capped by [`NatConfig::max_entries`]. Chains of NATs are chains of networks ([`crate::network`]).
//!
//! Left out: ICMP (REQ-10, REQ-12), fragments (REQ-13, REQ-14), port parity (REQ-4); nothing in skynet depends on
//! them.

mod behaviour;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant};

pub use self::behaviour::{Addresses, Filtering, Mapping, NatConfig, NatDrop, Outbound, PortAllocation};

/// An inside endpoint and, as far as the mapping depends on it, the remote one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct MappingKey {
    inside: SocketAddr,
    address: Option<IpAddr>,
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct MappingEntry {
    external: SocketAddr,
    expires: Instant,
    /// Made because the NAT's own entry held the tuple; passes its session only.
    displaced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    replied: bool,
    expires: Instant,
}

/// A NAT or firewall between two networks.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    addresses: Addresses,
    /// External to inside address, of a 1:1 NAT.
    inside_of_address: BTreeMap<IpAddr, IpAddr>,
    rng: Rng,
    next_port: u16,
    mappings: BTreeMap<MappingKey, MappingEntry>,
    by_external: BTreeMap<SocketAddr, MappingKey>,
    sessions: BTreeMap<(SocketAddr, SocketAddr), Session>,
    own: BTreeMap<(SocketAddr, SocketAddr), Instant>,
}

impl Nat {
    /// A NAT with empty tables.
    pub fn new(config: NatConfig, addresses: Addresses, rng: Rng) -> Self {
        let next_port = *config.ports.start();
        Self {
            config,
            inside_of_address: reverse(&addresses),
            addresses,
            rng,
            next_port,
            mappings: BTreeMap::new(),
            by_external: BTreeMap::new(),
            sessions: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    /// What it does.
    pub const fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Whether inside hosts share one external address.
    pub const fn is_shared(&self) -> bool {
        matches!(self.addresses, Addresses::Shared(_))
    }

    /// Its external addresses.
    pub fn external_addresses(&self) -> Vec<IpAddr> {
        match &self.addresses {
            Addresses::Shared(ip) => vec![*ip],
            Addresses::OneToOne(map) => map.values().copied().collect(),
        }
    }

    /// The external address of an inside one, if it has any: what the far end of a stream sees.
    pub fn external_address(&self, inside: IpAddr) -> Option<IpAddr> {
        match &self.addresses {
            Addresses::Shared(ip) => Some(*ip),
            Addresses::OneToOne(map) => map.get(&inside).copied(),
        }
    }

    /// Whether a stream from outside may be opened to an inside host, and to which.
    pub fn accepts_stream(&self, external: IpAddr) -> Option<IpAddr> {
        let open = self.config.filtering == Filtering::EndpointIndependent;
        self.one_to_one_inside(external).filter(|_| open)
    }

    /// Entries in its largest table.
    pub fn entries(&self) -> usize {
        self.mappings.len().max(self.sessions.len()).max(self.own.len())
    }

    /// Changes its behaviour from now on; entries keep their lifetime.
    pub fn set_config(&mut self, config: NatConfig) {
        self.config = config;
    }

    /// Forgets every mapping and session.
    pub fn reboot(&mut self) {
        self.mappings.clear();
        self.by_external.clear();
        self.sessions.clear();
        self.own.clear();
    }

    /// Gives an inside address of a 1:1 NAT its external one. No effect on a shared address.
    pub(crate) fn add_address(&mut self, inside: IpAddr, external: IpAddr) {
        if let Addresses::OneToOne(map) = &mut self.addresses {
            map.insert(inside, external);
            self.inside_of_address.insert(external, inside);
        }
    }

    /// Gets another shared external address and forgets everything.
    pub(crate) fn readdress(&mut self, addresses: Addresses) {
        self.inside_of_address = reverse(&addresses);
        self.addresses = addresses;
        self.reboot();
    }

    /// A packet from inside. Opens or refreshes the mapping and the session it belongs to.
    pub fn outbound(
        &mut self,
        inside: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Result<Outbound, NatDrop> {
        if self.config.blocks_udp {
            return Err(NatDrop::UdpBlocked);
        }
        let to_self = self.external_addresses_contain(to.ip());
        if to_self && !self.config.hairpinning {
            return Err(NatDrop::NoHairpin);
        }
        let from = self.translate(inside, to, now)?;
        self.note_outbound(inside, from, to, now)?;
        if to_self {
            return Ok(Outbound::Hairpin { from, to: self.inbound(from, to, now)? });
        }
        Ok(Outbound::Forward { from })
    }

    /// A packet from outside: the inside endpoint it is for.
    pub fn inbound(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Result<SocketAddr, NatDrop> {
        if self.config.blocks_udp {
            return Err(NatDrop::UdpBlocked);
        }
        let Some((inside, displaced)) = self.inside_of(to, now) else {
            return Err(self.unsolicited(from, to, now, NatDrop::NoMapping));
        };
        if !self.passes_filter(from, to, displaced, now) {
            return Err(self.unsolicited(from, to, now, NatDrop::Filtered));
        }
        self.note_inbound(from, to, now);
        Ok(inside)
    }

    /// The external source of a packet from `inside` to `to`.
    fn translate(&mut self, inside: SocketAddr, to: SocketAddr, now: Instant) -> Result<SocketAddr, NatDrop> {
        let shared = match &self.addresses {
            Addresses::OneToOne(map) => {
                let ip = map.get(&inside.ip()).ok_or(NatDrop::NoAddress)?;
                return Ok(SocketAddr::new(*ip, inside.port()));
            }
            Addresses::Shared(ip) => *ip,
        };
        let displaced_key = MappingKey { inside, address: Some(to.ip()), port: Some(to.port()) };
        if let Some(entry) = self.live_mapping(displaced_key, now).filter(|e| e.displaced) {
            return Ok(entry.external);
        }
        let key = self.key(inside, to);
        let external = match self.live_mapping(key, now) {
            Some(entry) => entry.external,
            None => {
                let port = self.allocate(shared, inside.port(), self.config.allocation, now)?;
                self.map(key, SocketAddr::new(shared, port), false, now)?
            }
        };
        if self.session_lives(external, to, now) || !self.own_entry_lives(external, to, now) {
            return Ok(external);
        }
        let port = self.allocate(shared, inside.port(), PortAllocation::Random, now)?;
        if key == displaced_key {
            self.by_external.remove(&external);
        }
        self.map(displaced_key, SocketAddr::new(shared, port), true, now)
    }

    fn key(&self, inside: SocketAddr, to: SocketAddr) -> MappingKey {
        let (address, port) = match self.config.mapping {
            Mapping::EndpointIndependent => (None, None),
            Mapping::AddressDependent => (Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        MappingKey { inside, address, port }
    }

    fn live_mapping(&mut self, key: MappingKey, now: Instant) -> Option<MappingEntry> {
        let entry = *self.mappings.get(&key)?;
        if entry.expires > now {
            return Some(entry);
        }
        self.unmap(key);
        None
    }

    fn map(
        &mut self,
        key: MappingKey,
        external: SocketAddr,
        displaced: bool,
        now: Instant,
    ) -> Result<SocketAddr, NatDrop> {
        if self.mappings.len() >= self.config.max_entries {
            self.sweep(now);
            if self.mappings.len() >= self.config.max_entries {
                return Err(NatDrop::TableFull);
            }
        }
        // The session that caused the mapping extends it at once.
        let expires = now + self.config.unreplied_timeout;
        self.mappings.insert(key, MappingEntry { external, expires, displaced });
        self.by_external.insert(external, key);
        Ok(external)
    }

    fn unmap(&mut self, key: MappingKey) {
        if let Some(entry) = self.mappings.remove(&key) {
            self.by_external.remove(&entry.external);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let dead: Vec<_> = self.mappings.iter().filter(|(_, e)| e.expires <= now).map(|(k, _)| *k).collect();
        for key in dead {
            self.unmap(key);
        }
        self.sessions.retain(|_, s| s.expires > now);
        self.own.retain(|_, expires| *expires > now);
    }

    fn allocate(
        &mut self,
        ip: IpAddr,
        wanted: u16,
        how: PortAllocation,
        now: Instant,
    ) -> Result<u16, NatDrop> {
        if how == PortAllocation::Preserving && self.is_free(SocketAddr::new(ip, wanted), now) {
            return Ok(wanted);
        }
        let (first, last) = (*self.config.ports.start(), *self.config.ports.end());
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = match how {
            PortAllocation::Sequential => u32::from(self.next_port - first),
            PortAllocation::Preserving | PortAllocation::Random => {
                u32::try_from(self.rng.below(u64::from(count))).expect("below a range of ports")
            }
        };
        for step in 0..count {
            let offset = u16::try_from((start + step) % count).expect("a range of ports");
            let port = first + offset;
            if self.is_free(SocketAddr::new(ip, port), now) {
                if how == PortAllocation::Sequential {
                    self.next_port = if port == last { first } else { port + 1 };
                }
                return Ok(port);
            }
        }
        Err(NatDrop::OutOfPorts)
    }

    fn is_free(&mut self, external: SocketAddr, now: Instant) -> bool {
        match self.by_external.get(&external).copied() {
            Some(key) => self.live_mapping(key, now).is_none(),
            None => true,
        }
    }

    fn note_outbound(
        &mut self,
        inside: SocketAddr,
        external: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Result<(), NatDrop> {
        if self.is_stateless() {
            return Ok(());
        }
        let known = self.session_lives(external, to, now);
        if !known && self.sessions.len() >= self.config.max_entries {
            self.sweep(now);
            if self.sessions.len() >= self.config.max_entries {
                return Err(NatDrop::TableFull);
            }
        }
        let fresh = Session { replied: false, expires: now + self.config.unreplied_timeout };
        let session = self.sessions.entry((external, to)).or_insert(fresh);
        if !known {
            *session = fresh;
        } else if self.config.refresh_outbound {
            session.expires = session.expires.max(now + lifetime(&self.config, session.replied));
        }
        let expires = session.expires;
        // The mapping lives as long as its longest session; REQ-6 is about both.
        let displaced = MappingKey { inside, address: Some(to.ip()), port: Some(to.port()) };
        for key in [displaced, self.key(inside, to)] {
            if let Some(entry) = self.mappings.get_mut(&key).filter(|e| e.external == external) {
                entry.expires = entry.expires.max(expires);
            }
        }
        Ok(())
    }

    fn note_inbound(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) {
        let until = now + self.config.assured_timeout;
        if let Some(session) = self.sessions.get_mut(&(to, from)).filter(|s| s.expires > now) {
            session.replied = true;
            if self.config.refresh_inbound {
                session.expires = session.expires.max(until);
            }
        }
        if !self.config.refresh_inbound {
            return;
        }
        if let Some(key) = self.by_external.get(&to)
            && let Some(entry) = self.mappings.get_mut(key)
        {
            entry.expires = entry.expires.max(until);
        }
    }

    fn inside_of(&mut self, external: SocketAddr, now: Instant) -> Option<(SocketAddr, bool)> {
        if let Some(ip) = self.one_to_one_inside(external.ip()) {
            return Some((SocketAddr::new(ip, external.port()), false));
        }
        let key = *self.by_external.get(&external)?;
        self.live_mapping(key, now).map(|entry| (key.inside, entry.displaced))
    }

    fn passes_filter(&self, from: SocketAddr, to: SocketAddr, displaced: bool, now: Instant) -> bool {
        let filtering = if displaced { Filtering::AddressAndPortDependent } else { self.config.filtering };
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                let (low, high) = (SocketAddr::new(from.ip(), 0), SocketAddr::new(from.ip(), u16::MAX));
                self.sessions.range((to, low)..=(to, high)).any(|(_, s)| s.expires > now)
            }
            Filtering::AddressAndPortDependent => self.session_lives(to, from, now),
        }
    }

    /// Nobody's packet: dropped, and remembered if the router took it for itself.
    fn unsolicited(&mut self, from: SocketAddr, to: SocketAddr, now: Instant, why: NatDrop) -> NatDrop {
        if !self.config.answers_unsolicited {
            return why;
        }
        if self.own.len() >= self.config.max_entries {
            self.own.retain(|_, expires| *expires > now);
        }
        if self.own.len() < self.config.max_entries {
            self.own.insert((to, from), now + self.config.unreplied_timeout);
        }
        why
    }

    fn own_entry_lives(&self, external: SocketAddr, remote: SocketAddr, now: Instant) -> bool {
        self.own.get(&(external, remote)).is_some_and(|expires| *expires > now)
    }

    fn session_lives(&self, external: SocketAddr, remote: SocketAddr, now: Instant) -> bool {
        self.sessions.get(&(external, remote)).is_some_and(|s| s.expires > now)
    }

    /// An open 1:1 address keeps no state at all.
    fn is_stateless(&self) -> bool {
        matches!(self.addresses, Addresses::OneToOne(_))
            && self.config.filtering == Filtering::EndpointIndependent
    }

    fn external_addresses_contain(&self, ip: IpAddr) -> bool {
        match &self.addresses {
            Addresses::Shared(shared) => *shared == ip,
            Addresses::OneToOne(_) => self.inside_of_address.contains_key(&ip),
        }
    }

    fn one_to_one_inside(&self, external: IpAddr) -> Option<IpAddr> {
        self.inside_of_address.get(&external).copied()
    }
}

fn reverse(addresses: &Addresses) -> BTreeMap<IpAddr, IpAddr> {
    match addresses {
        Addresses::Shared(_) => BTreeMap::new(),
        Addresses::OneToOne(map) => map.iter().map(|(inside, outside)| (*outside, *inside)).collect(),
    }
}

fn lifetime(config: &NatConfig, replied: bool) -> Duration {
    if replied { config.assured_timeout } else { config.unreplied_timeout }
}
