//! From one handshake to the keys of its lanes 1 and up (design §3.2).
//!
//! Each key can be had once: a second [`SealingKey`] would repeat nonces, a second [`OpeningKey`] would accept replays.

use std::sync::Arc;

use super::Role;
use super::handshake::Engine;
use super::keys::{Direction, Suite, lane_key};
use super::transport::{KeypairId, OpeningKey, SealingKey};
use crate::id::LaneNo;
use crate::key::Secret;
use crate::time::Instant;
use crate::wire::wireguard::ReceiverIndex;

/// The root of lane keys of one keypair; see [`lane_key`]. There is one per keypair, and [`LaneRoot::derive`] ends it.
#[derive(Debug)]
pub struct LaneRoot {
    /// The keypair.
    pub id: KeypairId,
    /// Our index of its lane 0.
    pub local: ReceiverIndex,
    /// Noise's handshake hash, equal at both ends.
    pub handshake_hash: [u8; 32],
    /// Noise's third split output, equal at both ends.
    pub lane_secret: Secret,
    /// Which end we were.
    pub role: Role,
    /// When the keypair was made: each of its lanes is as old.
    pub born: Instant,
}

impl LaneRoot {
    /// Both keys of lanes 1 to `lanes`, in order; the secret is erased. `hellos`: see [`lane_key`].
    pub fn derive(self, lanes: u8, suite: Suite, hellos: &[u8; 32], engine: Engine) -> Vec<LaneKeys> {
        let (send, receive) = match self.role {
            Role::Initiator => (Direction::ToResponder, Direction::ToInitiator),
            Role::Responder => (Direction::ToInitiator, Direction::ToResponder),
        };
        let key = |lane, direction| {
            Some(lane_key(&self.lane_secret, &self.handshake_hash, lane, direction, suite, hellos))
        };
        (1..=lanes)
            .map(LaneNo)
            .map(|lane| LaneKeys {
                id: self.id,
                lane,
                suite,
                engine,
                born: self.born,
                initiator: self.role == Role::Initiator,
                send: key(lane, send),
                receive: key(lane, receive),
            })
            .collect()
    }
}

/// Both keys of one lane of one keypair, until they are taken.
#[derive(Debug)]
pub struct LaneKeys {
    id: KeypairId,
    lane: LaneNo,
    suite: Suite,
    engine: Engine,
    born: Instant,
    initiator: bool,
    send: Option<Secret>,
    receive: Option<Secret>,
}

impl LaneKeys {
    /// Which lane.
    pub fn lane(&self) -> LaneNo {
        self.lane
    }

    /// Their cipher.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The opening half, by which arriving datagrams with the index `local` are opened; the first time only. Its first
    /// packet is reported as a confirmation: it tells that both ends derived the same keys.
    pub fn take_opening(&mut self, local: ReceiverIndex) -> Option<OpeningKey> {
        let key = self.engine.lane_aead(self.suite, &self.receive.take()?);
        Some(OpeningKey::new(self.id, self.lane, local, key, self.born, true))
    }

    /// The sealing half, for the peer's index `remote`; the first time only.
    pub fn take_sealing(&mut self, remote: ReceiverIndex) -> Option<Arc<SealingKey>> {
        let key = self.engine.lane_aead(self.suite, &self.send.take()?);
        Some(Arc::new(SealingKey::new(self.id, remote, key, self.born, self.initiator)))
    }
}
