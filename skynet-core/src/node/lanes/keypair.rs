//! One keypair's lanes, and how far each has come.

use std::collections::VecDeque;
use std::sync::Arc;

use super::LaneEvent;
use crate::crypto::hash;
use crate::drop::DropReason;
use crate::id::{LaneNo, MAX_PORTS};
use crate::session::{Context, KeypairId, LaneKeys, LaneRoot, Role, SealingKey, Suite};
use crate::time::{Duration, Instant};
use crate::wire::record::{Hello, LaneOffer, Record};
use crate::wire::wireguard::ReceiverIndex;

/// HELLO and OPEN are repeated after this time, a round trip of most pairs: lanes are wanted where lane 0 loses, and what
/// opens them travels by it.
const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// The first repetitions are so far apart, each further one twice as far as the one before.
const EVEN_REPEATS: u32 = 4;
/// How often each is repeated: the last one 8.5 s after the first.
const REPEATS: u32 = 8;

#[derive(Debug)]
pub(super) struct Keypair {
    pub(super) id: KeypairId,
    /// Our index of lane 0.
    pub(super) local: ReceiverIndex,
    pub(super) role: Role,
    pub(super) lane0: Arc<SealingKey>,
    /// Until both HELLOs are known.
    pub(super) root: Option<LaneRoot>,
    pub(super) ours: Hello,
    pub(super) theirs: Option<Vec<u8>>,
    pub(super) suite: Option<Suite>,
    /// Lane k at k − 1.
    pub(super) lanes: Vec<Lane>,
    pub(super) repeat_hello: Repeat,
    /// When the lanes of older keypairs are given up.
    pub(super) change_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) keys: LaneKeys,
    pub(super) stage: Stage,
    /// Our index, from installing on.
    pub(super) local: Option<ReceiverIndex>,
    /// Once the peer's index is known.
    pub(super) sealing: Option<Arc<SealingKey>>,
    pub(super) repeat_open: Repeat,
    /// The peer sent OPEN.
    pub(super) asked: bool,
    /// Something authentic came by it.
    pub(super) proven: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Derived,
    Installing,
    Installed,
    /// Its port closed.
    Gone,
}

/// The next repetition of a record, if it is to be repeated.
#[derive(Default, Debug)]
pub(super) struct Repeat {
    pub(super) at: Option<Instant>,
    pub(super) sent: u32,
}

impl Repeat {
    /// The record goes out for the first time.
    pub(super) fn start(&mut self, now: Instant) {
        *self = Self { at: Some(now + REPEAT_AFTER), sent: 1 };
    }

    pub(super) fn has_started(&self) -> bool {
        self.sent > 0
    }

    pub(super) fn stop(&mut self) {
        self.at = None;
    }

    /// Whether the record goes out again now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        let doubled = (self.sent + 1).saturating_sub(EVEN_REPEATS);
        self.at = (self.sent < REPEATS).then(|| now + REPEAT_AFTER * 2u32.pow(doubled));
        self.sent += 1;
        true
    }
}

impl Keypair {
    pub(super) fn lane(&self, lane: LaneNo) -> Option<&Lane> {
        self.lanes.get(usize::from(lane.0).checked_sub(1)?)
    }

    /// Lanes of which the peer's index is known.
    pub(super) fn known(&self) -> usize {
        self.lanes.iter().filter(|l| l.sealing.is_some()).count()
    }

    /// A newer one takes over: nothing is repeated for this one any more.
    pub(super) fn rest(&mut self) {
        self.repeat_hello.stop();
        self.lanes.iter_mut().for_each(|l| l.repeat_open.stop());
    }

    pub(super) fn record(&self, record: Record) -> LaneEvent {
        LaneEvent::Record(Arc::clone(&self.lane0), record)
    }

    pub(super) fn hello_record(&self) -> LaneEvent {
        self.record(Record::Hello(self.ours.clone()))
    }

    /// Both HELLOs are known: the keys of all agreed lanes are derived, and what they come from is erased.
    pub(super) fn on_hello(
        &mut self,
        theirs: &Hello,
        bytes: &[u8],
        cx: &Context<'_>,
    ) -> Result<(), DropReason> {
        self.repeat_hello.stop();
        if let Some(known) = &self.theirs {
            return if known == bytes { Ok(()) } else { Err(DropReason::UnexpectedRecord) };
        }
        self.theirs = Some(bytes.to_vec());
        self.suite = Suite::agree(self.ours.suites, theirs.suites);
        let Some((root, suite)) = self.root.take().zip(self.suite) else { return Ok(()) };
        let ours = self.ours.encode();
        let hellos = match self.role {
            Role::Initiator => hash(&[&ours, bytes]),
            Role::Responder => hash(&[bytes, &ours]),
        };
        let most = u8::try_from(MAX_PORTS).expect("three bits");
        let lanes = self.ours.max_lanes.min(theirs.max_lanes).min(most);
        let keys = root.derive(lanes, suite, &hellos, cx.local.engine());
        self.lanes = keys.into_iter().map(Lane::new).collect();
        Ok(())
    }

    /// The peer opens with the key of `offer`: from now on we could seal. Where the lane is in our list.
    pub(super) fn on_offer(&mut self, offer: LaneOffer) -> Result<usize, DropReason> {
        let at = usize::from(offer.lane.0).checked_sub(1).ok_or(DropReason::UnexpectedRecord)?;
        let lane = self.lanes.get_mut(at).ok_or(DropReason::UnexpectedRecord)?;
        if lane.keys.suite() != offer.suite {
            return Err(DropReason::UnexpectedRecord);
        }
        match &lane.sealing {
            None => lane.sealing = lane.keys.take_sealing(offer.receiver),
            Some(known) if known.receiver_index() == offer.receiver => {}
            Some(_) => return Err(DropReason::UnexpectedRecord),
        }
        Ok(at)
    }

    /// OPEN. True if it is the first for its lane.
    pub(super) fn on_open(
        &mut self,
        offer: LaneOffer,
        out: &mut VecDeque<LaneEvent>,
    ) -> Result<bool, DropReason> {
        let at = self.on_offer(offer)?;
        let first = !core::mem::replace(&mut self.lanes[at].asked, true);
        if self.lanes[at].stage == Stage::Installed {
            self.accept(at, out);
        }
        Ok(first)
    }

    /// ACCEPT, which answers an OPEN of ours.
    pub(super) fn on_accept(
        &mut self,
        offer: LaneOffer,
        out: &mut VecDeque<LaneEvent>,
    ) -> Result<(), DropReason> {
        let asked = |l: &Lane| l.stage == Stage::Installed && l.repeat_open.has_started();
        if !self.lane(offer.lane).is_some_and(asked) {
            return Err(DropReason::UnexpectedRecord);
        }
        let at = self.on_offer(offer)?;
        self.prove(at, out);
        Ok(())
    }

    pub(super) fn accept(&self, at: usize, out: &mut VecDeque<LaneEvent>) {
        out.extend(self.offer(at).map(|o| self.record(Record::Accept(o))));
        self.prove(at, out);
    }

    pub(super) fn prove(&self, at: usize, out: &mut VecDeque<LaneEvent>) {
        let lane = &self.lanes[at];
        out.extend(lane.sealing.iter().map(|key| LaneEvent::Prove(lane.keys.lane(), Arc::clone(key))));
    }

    pub(super) fn offer(&self, at: usize) -> Option<LaneOffer> {
        let lane = self.lanes.get(at)?;
        Some(LaneOffer { lane: lane.keys.lane(), suite: lane.keys.suite(), receiver: lane.local? })
    }
}

impl Lane {
    pub(super) fn new(keys: LaneKeys) -> Self {
        Self {
            keys,
            stage: Stage::Derived,
            local: None,
            sealing: None,
            repeat_open: Repeat::default(),
            asked: false,
            proven: false,
        }
    }

    /// Whether both ends have shown that they have its keys.
    pub(super) fn is_proven(&self) -> bool {
        self.stage == Stage::Installed && self.proven && self.sealing.is_some()
    }
}
