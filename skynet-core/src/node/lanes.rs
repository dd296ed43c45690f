//! The lanes of one peer (design §3.2, PROTOCOL §2.1): agreed by records inside lane 0, opened one by one. Sans-IO.
//!
//! ```text
//!  keypair current ─▶ HELLO both ways ─▶ keys of all agreed lanes derived, their root erased
//!  then per lane, at either end:
//!    derived ── wanted or asked for, and its port ready ──▶ installing ── inbound half acknowledges ──▶ installed
//!    installed ─▶ OPEN/ACCEPT go out: the peer may seal ─▶ an empty packet each way proves the keys ─▶ used for bulk
//! ```
//!
//! Rules, each of which keeps a packet from meeting a peer without its key:
//! - Our index is told (OPEN, ACCEPT) only when the opening key is installed; nothing is sealed before the peer's is known.
//! - A lane carries data only after something authentic came by it. So HELLOs that differ at the two ends, and with
//!   them the keys, cost nothing but the lane: traffic stays on lane 0.
//! - Until a lane is proven under the newest keypair, the one before goes on sealing it, for [`CHANGE_TIMEOUT`] at most.
//! - A keypair that goes takes its lanes along: [`LaneEvent::Changed`] before [`LaneEvent::Remove`], so that the snapshot
//!   without the sealing keys is out before opening keys go.
//! - A key that has met a port is never installed again: a second replay window would accept replays. If its port
//!   closes, the lane comes back with the next keypair.
//!
//! Records are hints: one that is lost, late, repeated or withheld can only leave traffic where it was.

mod keypair;

use std::collections::VecDeque;
use std::sync::Arc;

use keypair::{Keypair, Lane, Repeat, Stage};

use crate::constants::MAX_KEYPAIRS;
use crate::drop::DropReason;
use crate::id::{LaneNo, MAX_PORTS, PortNo};
use crate::key::PublicKey;
use crate::session::{Context, LaneRoot, OpeningKey, Role, SealingKey, Suite};

use crate::time::{Duration, Instant};
use crate::wire::record::{Hello, Record};
use crate::wire::wireguard::ReceiverIndex;

/// After this time under a new keypair its lanes will not open any more: all repetitions of HELLO, then of OPEN.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(16);

/// What the owner has to do, in this order.
#[derive(Debug)]
pub(super) enum LaneEvent {
    /// Give this key to the inbound half of its lane's port, then call [`LaneSet::handle_installed`].
    Install(OpeningKey),
    /// Seal this record with this key of lane 0 and send it.
    Record(Arc<SealingKey>, Record),
    /// Seal an empty packet with this key and send it by the path of this lane: the peer waits for it.
    Prove(LaneNo, Arc<SealingKey>),
    /// The peer wants this lane and its port is not ready: open it if there is to be one, then call
    /// [`LaneSet::set_port_ready`]. Once per lane and keypair.
    Asked(LaneNo),
    /// [`LaneSet::bulk`] says something else now: publish.
    Changed,
    /// Take this opening key away from the inbound half of this port, once the next snapshot is out.
    Remove(PortNo, ReceiverIndex),
}

/// The lanes of one peer. At most [`MAX_KEYPAIRS`] keypairs of [`MAX_PORTS`] lanes.
#[derive(Debug)]
pub(super) struct LaneSet {
    peer: PublicKey,
    want: u8,
    /// By [`PortNo`].
    ready: [bool; MAX_PORTS],
    /// Oldest first; only the last one opens lanes, but any answers: after handshakes that crossed, each end has the
    /// other's last one.
    keypairs: Vec<Keypair>,
    /// The last HELLO of the peer.
    hello: Option<Hello>,
    /// Bounded by the calls between two drains: each adds at most three per lane.
    events: VecDeque<LaneEvent>,
}

impl LaneSet {
    /// No keys yet; one lane for bulk is wanted, and port 0 is ready as always.
    pub(super) fn new(peer: PublicKey) -> Self {
        let mut ready = [false; MAX_PORTS];
        ready[0] = true;
        Self { peer, want: 1, ready, keypairs: Vec::new(), hello: None, events: VecDeque::new() }
    }

    /// The peer has another static key.
    pub(super) fn set_peer(&mut self, peer: PublicKey) {
        self.peer = peer;
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The lanes that can carry bulk now, ascending, each with the key to seal with.
    pub(super) fn bulk(&self) -> Vec<(LaneNo, Arc<SealingKey>)> {
        let number = |lane: usize| LaneNo(u8::try_from(lane).expect("at most MAX_PORTS lanes"));
        (1..=MAX_PORTS)
            .map(number)
            .filter_map(|lane| Some((lane, Arc::clone(self.usable(lane)?.sealing.as_ref()?))))
            .collect()
    }

    /// The cipher of the lanes that carry bulk; `None` while all is on lane 0.
    pub(super) fn suite(&self) -> Option<Suite> {
        (1..=MAX_PORTS)
            .filter_map(|k| self.usable(LaneNo(u8::try_from(k).ok()?)))
            .map(|lane| lane.keys.suite())
            .next()
    }

    /// How many lanes the peer and we agreed on. Until the newest keypair's HELLOs are known, or it is too late for
    /// them, the agreement before holds: its lanes are still in use.
    pub(super) fn agreed(&self) -> u8 {
        let Some(newest) = self.keypairs.last() else { return 0 };
        let waits = newest.theirs.is_none() && newest.change_until.is_some();
        let of = if waits { self.keypairs.iter().rfind(|k| k.theirs.is_some()) } else { Some(newest) };
        of.map_or(0, |k| u8::try_from(k.lanes.len()).unwrap_or(u8::MAX))
    }

    /// Lanes, and with them ports, that either end wants, within what is agreed.
    pub(super) fn wanted(&self) -> u8 {
        let asked = |k: &Keypair| k.lanes.iter().filter(|l| l.asked).map(|l| l.keys.lane().0).max();
        let theirs = self.keypairs.iter().filter_map(asked).max().unwrap_or(0);
        self.want.min(self.agreed()).max(theirs)
    }

    /// Whether the peer has asked for this lane.
    pub(super) fn is_asked(&self, lane: LaneNo) -> bool {
        self.keypairs.iter().filter_map(|k| k.lane(lane)).any(|l| l.asked)
    }

    /// Whether something came by this lane before.
    pub(super) fn was_open(&self, lane: LaneNo) -> bool {
        self.keypairs.iter().filter_map(|k| k.lane(lane)).any(|l| l.proven)
    }

    /// What the peer said of itself last.
    pub(super) fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Whether a key that bulk is sealed with has sealed so much that a handshake must bring a new one. Keys of older
    /// keypairs do not count: they have their successor.
    pub(super) fn is_worn(&self) -> bool {
        let newest = self.keypairs.last();
        newest.is_some_and(|k| k.lanes.iter().filter_map(|l| l.sealing.as_ref()).any(|s| s.is_worn()))
    }

    fn usable(&self, lane: LaneNo) -> Option<&Lane> {
        if !self.ready[usize::from(lane.port().0)] {
            return None;
        }
        let newest = self.keypairs.last()?;
        let usable =
            |k: &'_ Keypair| k.lane(lane).is_some_and(|l| l.is_proven() && (lane.0 <= self.want || l.asked));
        let of = if usable(newest) {
            newest
        } else {
            newest.change_until?;
            self.keypairs.iter().rfind(|k| usable(k))?
        };
        of.lane(lane)
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// How many lanes for bulk are to be open, within what is agreed. Lanes above are no longer used, unless the peer
    /// asked for them.
    pub(super) fn want(&mut self, count: u8, now: Instant, cx: &mut Context<'_>) {
        if self.want != count {
            self.want = count;
            self.events.push_back(LaneEvent::Changed);
            self.advance(now, cx);
        }
    }

    /// Whether `port` has a socket and an inbound half; not whether there is a way to the peer, for which see
    /// [`LaneSet::handle_path`]. Lanes on a port that is not ready are neither offered, accepted
    /// nor used; what was installed there is gone with it.
    pub(super) fn set_port_ready(&mut self, port: PortNo, ready: bool, now: Instant, cx: &mut Context<'_>) {
        let Some(before) = self.ready.get_mut(usize::from(port.0)) else { return };
        if core::mem::replace(before, ready) == ready {
            return;
        }
        if !ready {
            let lanes = self.keypairs.iter_mut().flat_map(|k| &mut k.lanes);
            for lane in lanes.filter(|l| l.keys.lane().port() == port && l.stage != Stage::Derived) {
                lane.stage = Stage::Gone;
                lane.repeat_open.stop();
            }
        }
        self.events.push_back(LaneEvent::Changed);
        self.advance(now, cx);
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// A keypair became the one that seals. `lane0` is its sealing key, `ours` our HELLO: its bytes stay the same as
    /// long as the keypair lives.
    pub(super) fn handle_keypair(
        &mut self,
        root: LaneRoot,
        lane0: Arc<SealingKey>,
        ours: Hello,
        now: Instant,
    ) {
        debug_assert!(self.keypairs.len() < MAX_KEYPAIRS, "the session removes before it adds");
        if let Some(before) = self.keypairs.last_mut() {
            before.rest();
        }
        let mut keypair = Keypair {
            id: root.id,
            local: root.local,
            role: root.role,
            lane0,
            root: Some(root),
            ours,
            theirs: None,
            suite: None,
            lanes: Vec::new(),
            repeat_hello: Repeat::default(),
            change_until: Some(now + CHANGE_TIMEOUT),
        };
        if keypair.role == Role::Initiator {
            keypair.repeat_hello.start(now);
            self.events.push_back(keypair.hello_record());
        }
        self.keypairs.push(keypair);
        self.events.push_back(LaneEvent::Changed);
    }

    /// The session lets the keypair go whose lane 0 has our index `local`.
    pub(super) fn handle_removed(&mut self, local: ReceiverIndex, cx: &mut Context<'_>) {
        let Some(at) = self.keypairs.iter().position(|k| k.local == local) else { return };
        let keypair = self.keypairs.remove(at);
        self.events.push_back(LaneEvent::Changed);
        for lane in keypair.lanes {
            let Some(index) = lane.local else { continue };
            cx.indices.free(index);
            if lane.stage != Stage::Gone {
                self.events.push_back(LaneEvent::Remove(lane.keys.lane().port(), index));
            }
        }
    }

    /// A record came in by lane 0 of the keypair with our index `local`.
    ///
    /// # Errors
    /// The reason to drop it; nothing changed then.
    pub(super) fn handle_record(
        &mut self,
        local: ReceiverIndex,
        record: &[u8],
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let parsed = Record::parse(record).map_err(|_| DropReason::UnknownType)?;
        let keypair =
            self.keypairs.iter_mut().find(|k| k.local == local).ok_or(DropReason::UnexpectedRecord)?;
        let known = keypair.known();
        match parsed {
            Record::Hello(theirs) => {
                keypair.on_hello(&theirs, Record::trim(record), cx)?;
                if keypair.role == Role::Responder {
                    self.events.push_back(keypair.hello_record());
                }
                self.hello = Some(theirs);
            }
            Record::Open(offer) => {
                let first = keypair.on_open(offer, &mut self.events)?;
                if first && !self.ready[usize::from(offer.lane.port().0)] {
                    self.events.push_back(LaneEvent::Asked(offer.lane));
                }
                // A record that says nothing new makes no new snapshot.
                if first || keypair.known() != known {
                    self.events.push_back(LaneEvent::Changed);
                }
            }
            Record::Accept(offer) => {
                keypair.on_accept(offer, &mut self.events)?;
                // The proof may have come first: it takes another way than records.
                if keypair.known() != known {
                    self.events.push_back(LaneEvent::Changed);
                }
            }
            Record::Pattern(_)
            | Record::Report(_)
            | Record::Apply(_)
            | Record::Ticket(_)
            | Record::Ask(_)
            | Record::View(_)
            | Record::Want(_)
            | Record::Document(_) => {
                return Err(DropReason::UnexpectedRecord);
            }
        }
        self.advance(now, cx);
        Ok(())
    }

    /// An inbound half opens with the key of this index. False if it is no lane's.
    pub(super) fn handle_installed(
        &mut self,
        index: ReceiverIndex,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some((keypair, lane)) = self.by_lane_index(index) else { return false };
        let (keypair, lane) = (&mut self.keypairs[keypair], lane);
        if keypair.lanes[lane].stage == Stage::Installing {
            keypair.lanes[lane].stage = Stage::Installed;
            if keypair.lanes[lane].asked {
                keypair.accept(lane, &mut self.events);
            }
        }
        self.advance(now, cx);
        true
    }

    /// An authentic packet came by the lane of this index. Our index of lane 0 of its keypair, which is thereby
    /// confirmed too; `None` if it is no lane's.
    pub(super) fn handle_authenticated(&mut self, index: ReceiverIndex) -> Option<ReceiverIndex> {
        let (keypair, lane) = self.by_lane_index(index)?;
        let keypair = &mut self.keypairs[keypair];
        let lane = &mut keypair.lanes[lane];
        if !lane.proven {
            lane.proven = true;
            lane.repeat_open.stop();
            self.events.push_back(LaneEvent::Changed);
        }
        Some(keypair.local)
    }

    /// `port` has a way to the peer, perhaps after all repetitions: lanes that wait for a proof ask for it once more.
    pub(super) fn handle_path(&mut self, port: PortNo, now: Instant) {
        let want = self.want;
        let Some(newest) = self.keypairs.last_mut() else { return };
        for at in 0..newest.lanes.len() {
            let lane = &mut newest.lanes[at];
            let no = lane.keys.lane();
            if no.port() != port || lane.stage != Stage::Installed || lane.proven {
                continue;
            }
            if no.0 <= want {
                lane.repeat_open.start(now);
                self.events.extend(newest.offer(at).map(|o| newest.record(Record::Open(o))));
            }
            newest.prove(at, &mut self.events);
        }
    }

    /// Repeats what is due, and gives up what did not come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let want = self.want;
        let Some(newest) = self.keypairs.last_mut() else { return };
        if newest.repeat_hello.is_due(now) {
            self.events.push_back(newest.hello_record());
        }
        for lane in 0..newest.lanes.len() {
            if newest.lanes[lane].repeat_open.is_due(now) {
                self.events.extend(newest.offer(lane).map(|o| newest.record(Record::Open(o))));
            }
        }
        if newest.change_until.is_some_and(|at| at <= now) {
            newest.change_until = None;
            if newest.lanes.iter().any(|l| l.keys.lane().0 <= want && !l.is_proven()) {
                tracing::info!(peer = %self.peer, keypair = ?newest.id, "a lane did not open: its traffic stays on lane 0");
            }
            if self.keypairs.len() > 1 {
                self.events.push_back(LaneEvent::Changed);
            }
        }
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next thing for the owner to do.
    pub(super) fn poll_event(&mut self) -> Option<LaneEvent> {
        self.events.pop_front()
    }

    /// When to call [`LaneSet::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let newest = self.keypairs.last()?;
        let opens = newest.lanes.iter().filter_map(|l| l.repeat_open.at);
        opens.chain(newest.repeat_hello.at).chain(newest.change_until).min()
    }

    // ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────

    fn by_lane_index(&self, index: ReceiverIndex) -> Option<(usize, usize)> {
        self.keypairs
            .iter()
            .enumerate()
            .find_map(|(k, keypair)| Some((k, keypair.lanes.iter().position(|l| l.local == Some(index))?)))
    }

    /// Lanes take the steps that nothing stands in the way of: all that are wanted under the newest keypair, and those
    /// the peer has asked for under any.
    fn advance(&mut self, now: Instant, cx: &mut Context<'_>) {
        let (want, newest) = (self.want, self.keypairs.len().wrapping_sub(1));
        for (i, keypair) in self.keypairs.iter_mut().enumerate() {
            for at in 0..keypair.lanes.len() {
                let lane = &mut keypair.lanes[at];
                let no = lane.keys.lane();
                let wanted = i == newest && no.0 <= want;
                match lane.stage {
                    Stage::Derived if (wanted || lane.asked) && self.ready[usize::from(no.port().0)] => {
                        let local = cx.indices.allocate(self.peer, cx.rng);
                        let key = lane.keys.take_opening(local).expect("a derived lane has its keys");
                        (lane.local, lane.stage) = (Some(local), Stage::Installing);
                        self.events.push_back(LaneEvent::Install(key));
                    }
                    Stage::Installed if wanted && !lane.proven && !lane.repeat_open.has_started() => {
                        lane.repeat_open.start(now);
                        self.events.extend(keypair.offer(at).map(|o| keypair.record(Record::Open(o))));
                    }
                    _ => {}
                }
            }
        }
    }
}
