//! Who may talk to whom, by tags: the signed document. What a node makes of it is [`crate::policy`].

use core::fmt;
use core::str::FromStr;

use super::address::NetworkId;
use super::document::{Content, Kind};
use super::issued::{Head, Issued};
use super::name::Tags;
use super::tlv::{Cursor, Reader, TlvError, Writer};
use crate::key::Identity;
use crate::time::UnixTime;

/// Most rules of one document.
pub const MAX_RULES: usize = 128;
/// Most services of one rule.
pub const MAX_SERVICES: usize = 16;

/// ICMP, of either family.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;

/// Packets of a kind, by the protocol and the port at the end that is talked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// The IP protocol; [`ICMP`] stands for that of IPv6 too.
    pub protocol: u8,
    /// First port; 0 for a protocol without ports.
    pub first: u16,
    /// Last port; 65,535 for a protocol without ports.
    pub last: u16,
}

impl Service {
    /// All of a protocol.
    pub const fn all_of(protocol: u8) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    fn is_valid(&self) -> bool {
        let has_ports = matches!(self.protocol, TCP | UDP);
        self.first <= self.last && (has_ports || *self == Self::all_of(self.protocol))
    }
}

/// Why a text names no service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("use tcp, tcp/22, udp/1000-2000, icmp, or the number of a protocol")]
pub struct ServiceError;

/// `tcp`, `tcp/*`, `tcp/22`, `udp/1000-2000`, `icmp`, or a protocol by its number.
impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let (protocol, ports) = text.split_once('/').unwrap_or((text, "*"));
        let protocol = match protocol {
            "icmp" => ICMP,
            "tcp" => TCP,
            "udp" => UDP,
            // ICMP of IPv6 goes by the other's name.
            number => number.parse().ok().filter(|n| *n != 58).ok_or(ServiceError)?,
        };
        let (first, last) = match ports {
            "*" => (0, u16::MAX),
            ports => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                (first.parse().map_err(|_| ServiceError)?, last.parse().map_err(|_| ServiceError)?)
            }
        };
        Some(Self { protocol, first, last }).filter(Self::is_valid).ok_or(ServiceError)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            ICMP => f.write_str("icmp")?,
            TCP => f.write_str("tcp")?,
            UDP => f.write_str("udp")?,
            other => write!(f, "{other}")?,
        }
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

/// One rule. The first that matches a packet's flow decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whether such flows may begin.
    pub allow: bool,
    /// Nodes with one of these tags begin the flow; empty: any node.
    pub from: Tags,
    /// And talk to nodes with one of these; empty: any node.
    pub to: Tags,
    /// About one of these; empty: anything.
    pub services: Vec<Service>,
}

impl Rule {
    /// Whether it is about flows from a node with tags `from` to one with tags `to`.
    pub fn concerns(&self, from: &Tags, to: &Tags) -> bool {
        let any = |wanted: &Tags, has: &Tags| {
            wanted.iter().next().is_none() || wanted.iter().any(|tag| has.contains(tag))
        };
        any(&self.from, from) && any(&self.to, to)
    }
}

/// The policy of a network, signed by the root or an issuer. Each document replaces the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The network's label.
    pub network_id: NetworkId,
    /// Rises with every document; a lower one is never accepted.
    pub epoch: u64,
    /// When it was signed.
    pub issued: UnixTime,
    /// Who signed.
    pub signer: Identity,
    /// What holds where no rule matches.
    pub allow_by_default: bool,
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
}

impl Issued for Policy {
    fn head(&self) -> Head {
        Head { network_id: self.network_id, epoch: self.epoch, signer: self.signer }
    }
}

impl Content for Policy {
    const KIND: Kind = Kind::Policy;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.u64(0x82, self.epoch);
        w.u64(0x83, self.issued.0);
        w.bytes(0x84, self.signer.as_bytes());
        w.u8(0x85, u8::from(self.allow_by_default));
        let rules: Vec<u8> = self.rules.iter().flat_map(encode_rule).collect();
        w.optional(0x86, &rules);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            epoch: r.u64(0x82)?,
            issued: UnixTime(r.u64(0x83)?),
            signer: Identity(r.array(0x84)?),
            allow_by_default: flag(r.u8(0x85)?).ok_or(TlvError::Value(0x85))?,
            rules: r.optional_list(0x86, MAX_RULES, decode_rule)?,
        })
    }
}

fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// `u8 allow | 2 × { u16 length, tags } | u8 n | n × { u8 protocol, u16 first, u16 last }`.
fn encode_rule(rule: &Rule) -> Vec<u8> {
    let mut out = vec![u8::from(rule.allow)];
    for tags in [&rule.from, &rule.to] {
        let tags = tags.encode();
        out.extend_from_slice(&u16::try_from(tags.len()).expect("16 tags of 33 bytes").to_be_bytes());
        out.extend_from_slice(&tags);
    }
    // A count above the maximum is written as it is, and refused when the signed document is read back.
    out.push(u8::try_from(rule.services.len()).unwrap_or(u8::MAX));
    for service in &rule.services {
        out.push(service.protocol);
        out.extend_from_slice(&service.first.to_be_bytes());
        out.extend_from_slice(&service.last.to_be_bytes());
    }
    out
}

fn decode_rule(c: &mut Cursor<'_>) -> Option<Rule> {
    let allow = flag(c.u8()?)?;
    let mut tags = || {
        let length = c.u16()?;
        Tags::decode(c.take(usize::from(length))?)
    };
    let (from, to) = (tags()?, tags()?);
    let count = usize::from(c.u8()?);
    if count > MAX_SERVICES {
        return None;
    }
    let mut service = || {
        let service = Service { protocol: c.u8()?, first: c.u16()?, last: c.u16()? };
        service.is_valid().then_some(service)
    };
    let services = (0..count).map(|_| service()).collect::<Option<_>>()?;
    Some(Rule { allow, from, to, services })
}
