//! A registrar's word on which documents are in force, said again every hour: whoever has not heard it for a day may have
//! missed a revocation, and knows that.

use super::address::NetworkId;
use super::document::{Content, Kind};
use super::issued::{Head, Issued};
use super::tlv::{Reader, TlvError, Writer};
use super::trust::NetworkTrust;
use crate::key::Identity;
use crate::time::UnixTime;

/// Older than this, in seconds, it is no assurance.
pub const FRESHNESS_LIFETIME: u64 = 86_400;

/// What is in force. Its epoch is the second it was signed in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Freshness {
    /// The network's label.
    pub network_id: NetworkId,
    /// When it was signed.
    pub issued: UnixTime,
    /// Who signed.
    pub registrar: Identity,
    /// Epoch of the manifest.
    pub manifest: u64,
    /// Epoch of the revocations; 0 if there never were any.
    pub revocations: u64,
    /// Epoch of the policy; 0 if there never was one.
    pub policy: u64,
}

impl Issued for Freshness {
    fn head(&self) -> Head {
        Head { network_id: self.network_id, epoch: self.issued.0, signer: self.registrar }
    }
}

impl Content for Freshness {
    const KIND: Kind = Kind::Freshness;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.u64(0x82, self.issued.0);
        w.bytes(0x83, self.registrar.as_bytes());
        w.u64(0x84, self.manifest);
        w.u64(0x85, self.revocations);
        w.u64(0x86, self.policy);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            issued: UnixTime(r.u64(0x82)?),
            registrar: Identity(r.array(0x83)?),
            manifest: r.u64(0x84)?,
            revocations: r.u64(0x85)?,
            policy: r.u64(0x86)?,
        })
    }
}

impl NetworkTrust {
    /// The word of `registrar` on what is held here.
    pub fn freshness_of(&self, registrar: Identity, now: UnixTime) -> Freshness {
        Freshness {
            network_id: self.network_id(),
            issued: now,
            registrar,
            manifest: self.manifest().epoch,
            revocations: self.revocations().map_or(0, |revocations| revocations.epoch),
            policy: 0,
        }
    }

    /// Since when what is held may have been replaced unseen: a day after a registrar last said that it is in force, or
    /// from the moment it named something newer. `None` if nobody ever said anything, as before there were such words.
    pub fn stale_since(&self) -> Option<UnixTime> {
        let word = self.freshness()?;
        let held = self.freshness_of(word.registrar, word.issued);
        let is_behind =
            held.manifest < word.manifest || held.revocations < word.revocations || held.policy < word.policy;
        Some(if is_behind { word.issued } else { word.issued.plus_secs(FRESHNESS_LIFETIME) })
    }
}
