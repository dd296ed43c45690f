//! What the operator has taken back: nodes, and tokens with or without the nodes they let in.

use super::address::{NetworkId, TokenId};
use super::certificate::Certificate;
use super::chain::CLOCK_TOLERANCE;
use super::document::{Content, Kind};
use super::issued::{Head, Issued};
use super::tlv::{Cursor, Reader, TlvError, Writer};
use crate::key::Identity;
use crate::time::UnixTime;

/// Most nodes of one document: with the tokens it stays below the hard maximum of its kind. Whoever has more to take
/// back revokes their tokens.
pub const MAX_REVOKED_NODES: usize = 250;
/// Most tokens of one document.
pub const MAX_REVOKED_TOKENS: usize = 64;

/// One node that is none any more, whatever token let it in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RevokedNode {
    /// Who.
    pub identity: Identity,
    /// The end of its certificate; later the entry says nothing and is left out of the next document.
    pub until: UnixTime,
}

/// How much of a token is taken back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Extent {
    /// Nobody joins with it any more; who has is a member.
    New = 1,
    /// Those it let in are members no more.
    All = 2,
}

/// One token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RevokedToken {
    /// Which.
    pub token_id: TokenId,
    /// How much.
    pub extent: Extent,
    /// Certificates made with it later than this do not count, whoever gave them a receipt.
    pub since: UnixTime,
    /// The end of all its certificates; later the entry says nothing.
    pub until: UnixTime,
}

/// Everything that is taken back, signed by the root or an issuer. Each document replaces the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocations {
    /// The network's label.
    pub network_id: NetworkId,
    /// Rises with every document; a lower one is never accepted.
    pub epoch: u64,
    /// When it was signed.
    pub issued: UnixTime,
    /// Who signed.
    pub signer: Identity,
    /// Nodes, by identity, each once.
    pub nodes: Vec<RevokedNode>,
    /// Tokens, by id, each once.
    pub tokens: Vec<RevokedToken>,
}

impl Revocations {
    /// Whether whoever has this certificate is out.
    pub fn covers(&self, certificate: &Certificate) -> bool {
        let token = self.token(&certificate.token_id);
        self.node(&certificate.identity).is_some()
            || token.is_some_and(|token| match token.extent {
                Extent::All => true,
                Extent::New => certificate.not_before > token.since.plus_secs(CLOCK_TOLERANCE),
            })
    }

    /// What it says of this token.
    pub fn token(&self, token_id: &TokenId) -> Option<&RevokedToken> {
        let at = self.tokens.binary_search_by_key(token_id, |token| token.token_id).ok()?;
        self.tokens.get(at)
    }

    /// What it says of this node.
    pub fn node(&self, identity: &Identity) -> Option<&RevokedNode> {
        let at = self.nodes.binary_search_by_key(identity, |node| node.identity).ok()?;
        self.nodes.get(at)
    }
}

impl Issued for Revocations {
    fn head(&self) -> Head {
        Head { network_id: self.network_id, epoch: self.epoch, signer: self.signer }
    }
}

impl Content for Revocations {
    const KIND: Kind = Kind::Revocations;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.u64(0x82, self.epoch);
        w.u64(0x83, self.issued.0);
        w.bytes(0x84, self.signer.as_bytes());
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.extend_from_slice(node.identity.as_bytes());
            nodes.extend_from_slice(&node.until.0.to_be_bytes());
        }
        w.optional(0x85, &nodes);
        let mut tokens = Vec::new();
        for token in &self.tokens {
            tokens.extend_from_slice(&token.token_id.0);
            tokens.push(token.extent as u8);
            tokens.extend_from_slice(&token.since.0.to_be_bytes());
            tokens.extend_from_slice(&token.until.0.to_be_bytes());
        }
        w.optional(0x86, &tokens);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        let revocations = Self {
            network_id: NetworkId(r.array(0x81)?),
            epoch: r.u64(0x82)?,
            issued: UnixTime(r.u64(0x83)?),
            signer: Identity(r.array(0x84)?),
            nodes: r.optional_list(0x85, MAX_REVOKED_NODES, decode_node)?,
            tokens: r.optional_list(0x86, MAX_REVOKED_TOKENS, decode_token)?,
        };
        if !revocations.nodes.windows(2).all(|pair| pair[0].identity < pair[1].identity) {
            return Err(TlvError::Value(0x85));
        }
        if !revocations.tokens.windows(2).all(|pair| pair[0].token_id < pair[1].token_id) {
            return Err(TlvError::Value(0x86));
        }
        Ok(revocations)
    }
}

fn decode_node(c: &mut Cursor<'_>) -> Option<RevokedNode> {
    Some(RevokedNode { identity: Identity(c.array()?), until: UnixTime(c.u64()?) })
}

fn decode_token(c: &mut Cursor<'_>) -> Option<RevokedToken> {
    Some(RevokedToken {
        token_id: TokenId(c.array()?),
        extent: match c.u8()? {
            1 => Extent::New,
            2 => Extent::All,
            _ => return None,
        },
        since: UnixTime(c.u64()?),
        until: UnixTime(c.u64()?),
    })
}
