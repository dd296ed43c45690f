//! Becoming and staying a member: the control channel to a relay, enrolment, and the directory it fills.
//!
//! ```text
//! token ─▶ ENROLLING ── WELCOME, checked as a peer would ──▶ MEMBER ── LIST, GET ──▶ directory of verified members
//!             │  ▲ CONFLICT: another salt or name               ▲
//!             └──┘                          credentials ────────┘  (every later start)
//! ```
//!
//! The relay is a mailbox: whatever it says is checked against the pinned root before anything changes.

mod documents;
mod homing;
mod learn;
mod renewal;
mod watching;

pub use documents::Documents;
use homing::Homing;

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::control::message::{BootEpoch, ConflictWhat, DeniedCode, Lookup, Welcome};
use crate::control::{ControlClient, ControlConfig, ControlEvent, ControlTarget, DownCause, RequestId};
use crate::id::RelayNo;
use crate::key::{PublicKey, StaticSecret};
use crate::member::chain::ChainError;
use crate::member::enrol::RECORD_LIFETIME;
use crate::member::manifest::MAX_RELAY_ADDRESSES;
use crate::member::{
    Bundle, Credentials, Endpoint, Enrolment, JoinToken, Manifest, Member, Name, NodeIdentity, RelayRtt, Tags,
};
use crate::node::directory::{Directory, Inserted, MAX_MEMBERS};
use crate::node::event::{Addresses, ControlStreamEvent};
use crate::node::kept;
use crate::node::refused::{Refusal, RefusedTable};
use crate::node::roster::Roster;
use crate::node::watch::Watch;
use crate::rng::{Rng, RngCore as _};
use crate::time::{Duration, Instant, Now, earliest};

/// A relay's clock that differs by more from ours is worth a line: documents are judged by ours alone.
const CLOCK_APART_MS: u64 = 300_000;
/// The roster is kept so long after something new is in it,
const KEEP_AFTER: Duration = Duration::from_secs(2);
/// and so often at most: a megabyte may be written.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What becomes of it.
#[derive(Debug)]
pub(super) enum MembershipEvent {
    Connect(SocketAddr),
    Send(Vec<u8>),
    Close,
    Persist(Vec<u8>),
    PersistRoster(Vec<u8>),
    /// Joined, at first or again: the relay's ticket and clock are fresh.
    Joined(Box<Welcome>),
    JoinFailed {
        reason: String,
        fatal: bool,
    },
    /// The directory holds newer documents of this member.
    Learned {
        member: Box<Member>,
        inserted: Inserted,
    },
    /// Another session key is in use, or the one before it is over.
    KeysChanged,
    /// Another policy is in force.
    Policy,
    /// Another list of relays is.
    Relays,
    /// A member's documents have ended, none newer came.
    Gone(PublicKey),
    /// Nobody answers to this.
    NotFound(Lookup),
    /// The relay said something that is not believed: a sentence that names it.
    Alarm(String),
}

enum Phase {
    Enrolling(Box<Enrolment>),
    Member {
        credentials: Box<Credentials>,
        me: Box<Member>,
    },
    /// Only a person can help; the reason was told.
    Failed,
}

/// The machine.
pub(super) struct MembershipAgent {
    phase: Phase,
    control: ControlClient,
    lookups: BTreeMap<RequestId, Lookup>,
    roster: Roster,
    watch: Watch,
    /// What whoever watches was told last: the directory's revision, whether we are a member, whether all is known.
    told: Option<(u64, bool, bool)>,
    refused: RefusedTable,
    /// When the control channel goes back to the first relay.
    homing: Homing,
    rng: Rng,
    /// What the last record said, so that an unchanged one is not published again.
    published: (Vec<Endpoint>, Vec<RelayRtt>),
    /// Our clock against the relay's at the last WELCOME, milliseconds.
    clock_ahead_ms: Option<i64>,
    /// The operator has taken this very node back: it talks to nobody any more.
    is_revoked: bool,
    age: documents::Age,
    /// The relay said that our documents are from the future.
    pub(super) clock_refused: bool,
    /// A relay has let this process in.
    welcomed: bool,
    /// Where the control channel was last tried, for people.
    relay_address: Option<SocketAddr>,
    renewal: renewal::Renewal,
    /// When the relay in use let us in.
    joined_at: Option<Instant>,
    /// The last record on its way to the relay, and whether it did not arrive: then it is sent again with the roster.
    update: Option<RequestId>,
    unpublished: bool,
    events: VecDeque<MembershipEvent>,
    /// Of the run before.
    kept: kept::Roster,
    /// The directory has something new since the roster was kept last, and when it is kept again.
    roster_changed: bool,
    keep_at: Option<Instant>,
    kept_at: Option<Instant>,
    pub(super) directory: Directory,
}

impl MembershipAgent {
    /// For the first time, with a token, a name and maybe not all of the token's tags.
    pub(super) fn enrol(
        token: JoinToken,
        (name, tags): (Name, Option<Tags>),
        fingerprint: [u8; 16],
        rng: &mut Rng,
        now: Now,
    ) -> Result<Self, String> {
        let node = NodeIdentity::random(Some(fingerprint), rng);
        let enrolment = Enrolment::new(token, node, name, now.unix, rng);
        let enrolment = enrolment.and_then(|e| tags.into_iter().try_fold(e, Enrolment::with_tags));
        let enrolment = enrolment.map_err(|e| e.to_string())?;
        let named = enrolment.token().relays().iter();
        let targets: Vec<ControlTarget> =
            named.map(|r| ControlTarget { relay_no: r.relay_no, relay: r.key, address: r.address }).collect();
        if targets.is_empty() {
            return Err("the token names no relay".into());
        }
        let config = ControlConfig { local: enrolment.node().static_secret.clone(), targets };
        let bundle = enrolment.bundle().encode();
        Ok(Self::start(Phase::Enrolling(Box::new(enrolment)), config, bundle, rng, now))
    }

    /// At every later start.
    ///
    /// A node that was off for longer than its key binding lives signs a new one; its peers accept that with the
    /// receipt it has. If that has ended too, a registrar renews it, unless the node was revoked; so a machine that was off
    /// for months comes back by itself, as long as its certificate lives.
    pub(super) fn resume(mut credentials: Credentials, rng: &mut Rng, now: Now) -> Result<Self, String> {
        credentials.retire_key(now.unix);
        if renewal::binding_is_old(&credentials, now.unix) {
            credentials.renew_binding(None, now.unix).map_err(|e| e.to_string())?;
        }
        let me = credentials.lapsed_member(now.unix).map_err(|e| own_documents(&e))?;
        let targets = targets_of(credentials.trust().manifest());
        if targets.is_empty() {
            return Err("the manifest names no relay".into());
        }
        let (local, bundle) = renewal::joins_with(&credentials);
        let config = ControlConfig { local, targets };
        let phase = Phase::Member { credentials: Box::new(credentials), me: Box::new(me) };
        let mut agent = Self::start(phase, config, bundle, rng, now);
        agent.resume_change(now);
        agent.look_at_age(now);
        Ok(agent)
    }

    fn start(phase: Phase, config: ControlConfig, bundle: Vec<u8>, rng: &mut Rng, now: Now) -> Self {
        let mut control = ControlClient::new(config, rng.fork(), now.mono);
        control.join(bundle, now.mono);
        let epoch = boot_epoch(rng, now);
        control.set_epoch(epoch);
        let now = now.mono;
        let mut agent = Self {
            phase,
            control,
            lookups: BTreeMap::new(),
            roster: Roster::new(MAX_MEMBERS, rng.fork()),
            watch: Watch::new(),
            told: None,
            refused: RefusedTable::default(),
            homing: Homing::default(),
            rng: rng.fork(),
            published: Default::default(),
            clock_ahead_ms: None,
            is_revoked: false,
            age: documents::Age::default(),
            clock_refused: false,
            welcomed: false,
            relay_address: None,
            renewal: renewal::Renewal::default(),
            joined_at: None,
            update: None,
            unpublished: false,
            events: VecDeque::new(),
            kept: kept::Roster::default(),
            roster_changed: false,
            keep_at: None,
            kept_at: None,
            directory: Directory::default(),
        };
        agent.drain_control(Now { mono: now, ..Now::default() });
        agent
    }

    /// Our static key: of sessions and of the control channel.
    pub(super) fn static_secret(&self) -> Option<&StaticSecret> {
        match &self.phase {
            Phase::Enrolling(e) => Some(&e.node().static_secret),
            Phase::Member { credentials, .. } => Some(&credentials.node().static_secret),
            Phase::Failed => None,
        }
    }

    /// Ourselves, once joined.
    pub(super) fn me(&self) -> Option<&Member> {
        match &self.phase {
            Phase::Member { me, .. } => Some(me),
            _ => None,
        }
    }

    /// The network's documents and our own, once joined.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match &self.phase {
            Phase::Member { credentials, .. } => Some(credentials),
            _ => None,
        }
    }

    /// Our place in the overlay, once joined.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        let (me, credentials) = (self.me()?, self.credentials()?);
        Some(Addresses {
            name: me.name().to_string(),
            ipv4: me.v4(),
            ipv4_prefix_len: credentials.trust().manifest().v4.prefix_len(),
            ipv6: me.v6(),
        })
    }

    /// Where relays may be reached: what the manifest says, or the token as long as there is none.
    pub(super) fn relay_addresses(&self) -> Vec<SocketAddr> {
        match &self.phase {
            Phase::Member { credentials, .. } => {
                credentials.trust().manifest().relays.iter().flat_map(|r| r.addresses.clone()).collect()
            }
            Phase::Enrolling(e) => e.token().relays().iter().map(|r| r.address).collect(),
            Phase::Failed => self.relay_address.into_iter().collect(),
        }
    }

    /// Whether manifest, or token, lists this address, but not for the first relay.
    pub(super) fn is_further_relay(&self, address: SocketAddr) -> bool {
        match &self.phase {
            Phase::Member { credentials, .. } => {
                let further = credentials.trust().manifest().relays.iter().skip(1);
                further.flat_map(|r| &r.addresses).any(|a| *a == address)
            }
            Phase::Enrolling(e) => {
                let named = e.token().relays();
                let first = named.first().map(|r| r.relay_no);
                named.iter().any(|r| r.address == address && Some(r.relay_no) != first)
            }
            Phase::Failed => false,
        }
    }

    /// The relay on whose control channel we are joined.
    pub(super) fn control_relay(&self) -> Option<u16> {
        self.control.target().filter(|_| self.control.is_joined()).map(|t| t.relay_no)
    }

    /// The key that the relay of the control channel proves itself by.
    pub(super) fn relay_key(&self) -> Option<PublicKey> {
        self.control.target().map(|t| t.relay)
    }

    /// Whether a relay's control channel is open and we are joined on it.
    pub(super) fn is_connected(&self) -> bool {
        self.control.is_joined()
    }

    pub(super) fn handle_stream(&mut self, event: ControlStreamEvent, now: Now) {
        match event {
            ControlStreamEvent::Connected => self.control.handle_connected(now.mono),
            ControlStreamEvent::Bytes(bytes) => self.control.handle_bytes(&bytes, now.mono),
            ControlStreamEvent::Closed => self.control.handle_closed(now.mono),
        }
        self.drain_control(now);
    }

    /// This relay's UDP session ended: if it is the one with the control channel, that may be dead too, and TCP takes long
    /// to notice.
    pub(super) fn relay_lost(&mut self, relay: RelayNo, now: Now) {
        if self.control.target().is_some_and(|t| t.relay_no == relay.0) {
            self.control.doubt(now.mono);
            self.drain_control(now);
        }
        if self.control.first().is_some_and(|t| t.relay_no == relay.0) {
            self.homing.lost();
        }
    }

    /// This relay's session is up.
    pub(super) fn relay_found(&mut self, relay: RelayNo, now: Now) {
        let elsewhere = self.control.target().is_some_and(|t| t.relay_no != relay.0);
        if elsewhere && self.control.first().is_some_and(|t| t.relay_no == relay.0) {
            self.homing.found(&mut self.rng, now.mono);
        }
    }

    /// Whether no relay is reached by UDP, so that none can be seen to be back.
    pub(super) fn set_without_udp(&mut self, without_udp: bool, now: Now) {
        self.homing.set_without_udp(without_udp, &mut self.rng, now.mono);
    }

    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.control.handle_timeout(now.mono);
        if self.keep_at.take_if(|at| *at <= now.mono).is_some() {
            self.kept_at = Some(now.mono);
            self.events.push_back(MembershipEvent::PersistRoster(kept::encode(&self.directory)));
        }
        if self.age.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.look_at_age(now);
        }
        if self.homing.take_due(now.mono) && !self.control.is_at_first() {
            self.control.return_to_first(now.mono);
        }
        self.handle_renewal_timeout(now);
        self.drain_control(now);
        if self.roster.poll_timeout().is_some_and(|at| now.mono >= at) {
            let due = self.roster.handle_timeout(now.mono);
            self.list(due, now);
            self.renew(now);
        }
        if self.watch.poll_timeout().is_some_and(|at| now.mono >= at) {
            if self.watch.handle_timeout(&mut self.directory, now.mono) {
                self.ask_watch(now);
            }
            self.fetch(now);
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let control = self.control.poll_timeout().map(|(at, _)| at);
        let others = [
            self.roster.poll_timeout(),
            self.homing.poll_timeout(),
            self.keep_at,
            self.watch.poll_timeout(),
            self.age.poll_timeout(),
            self.renewal.poll_timeout(),
        ];
        others.into_iter().fold(control, earliest)
    }

    /// Asks who this is, unless the same question is under way. Answered by `Learned` or `NotFound`.
    pub(super) fn look_up(&mut self, lookup: Lookup, now: Now) {
        if self.is_closed() {
            return self.events.push_back(MembershipEvent::NotFound(lookup));
        }
        if self.lookups.values().any(|l| *l == lookup) {
            return;
        }
        match self.control.get(lookup.clone(), now.mono) {
            Some(id) => {
                self.lookups.insert(id, lookup);
            }
            None => self.not_found(lookup, now),
        }
        self.drain_control(now);
    }

    /// Says where we can be reached, if that is news.
    pub(super) fn publish(&mut self, endpoints: Vec<Endpoint>, relays: Vec<RelayRtt>, now: Now) {
        if !self.control.is_joined()
            || (self.published.0 == endpoints && self.published.1 == relays && !self.unpublished)
        {
            return;
        }
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        self.published = (endpoints.clone(), relays.clone());
        // What JOIN has just brought need not be signed and stored again: after a restart of its relay a whole network would.
        let told = credentials.bundle().record.as_ref().map(|r| r.unverified());
        if !self.unpublished
            && told.is_some_and(|told| {
                told.endpoints == endpoints
                    && told.relays.is_empty() == relays.is_empty()
                    && now.unix.0 + RECORD_LIFETIME / 2 < told.not_after.0
            })
        {
            return;
        }
        if let Ok(record) = credentials.sign_record(endpoints, relays, now.unix) {
            let bytes = record.bytes().to_vec();
            self.update = self.control.update(bytes, now.mono);
            self.unpublished = self.update.is_none();
        }
        let bundle = credentials.bundle().encode();
        // A reconnect joins with the newest documents.
        self.control.set_bundle(bundle);
        self.drain_control(now);
    }

    fn drain_control(&mut self, now: Now) {
        loop {
            if let Some(event) = self.control.poll_event() {
                self.on_control(event, now);
            } else if let Some(bytes) = self.control.poll_bytes() {
                self.events.push_back(MembershipEvent::Send(bytes));
            } else {
                break;
            }
        }
        if core::mem::take(&mut self.roster_changed) {
            let not_before = self.kept_at.map_or(now.mono, |at| at + KEEP_EVERY);
            self.keep_at.get_or_insert((now.mono + KEEP_AFTER).max(not_before));
        }
    }

    /// No relay answered this, or none that has the directory: what was kept may.
    fn not_found(&mut self, lookup: Lookup, now: Now) {
        let authoritative = self.control.is_joined() && self.control.is_at_first();
        let bundle = self.kept.find(&lookup).filter(|_| !authoritative).map(<[u8]>::to_vec);
        let holds = |b: &Vec<u8>| {
            let parsed = Bundle::parse(b).ok();
            parsed.zip(self.credentials()).is_some_and(|(b, c)| c.trust().verify_member(&b, now.unix).is_ok())
        };
        let known = bundle.filter(holds).is_some_and(|b| self.learn(&b, false, Some(&lookup), now));
        if !known {
            self.events.push_back(MembershipEvent::NotFound(lookup));
        }
    }

    fn on_control(&mut self, event: ControlEvent, now: Now) {
        match event {
            ControlEvent::WantConnect(address) => {
                self.relay_address = Some(address);
                self.events.push_back(MembershipEvent::Connect(address));
            }
            ControlEvent::WantClose => self.events.push_back(MembershipEvent::Close),
            ControlEvent::Ready | ControlEvent::Acknowledged(..) | ControlEvent::Manifest(..) => {}
            ControlEvent::Joined(welcome) => self.on_welcome(welcome, now),
            ControlEvent::Conflict(what) => self.on_conflict(what, now),
            ControlEvent::Denied(None, code, text) => self.on_denied(code, text, now),
            ControlEvent::Peer(id, found) => {
                self.watch.fetched(id);
                let lookup = self.lookups.remove(&id);
                if !self.learn(&found.bundle, found.online, lookup.as_ref(), now)
                    && let Some(lookup) = lookup
                {
                    self.events.push_back(MembershipEvent::NotFound(lookup));
                }
                self.fetch(now);
            }
            ControlEvent::Document(document) => self.on_document(&document, now),
            ControlEvent::Pushed(found) => {
                self.learn(&found.bundle, found.online, None, now);
            }
            ControlEvent::Roll(roll) => self.on_roll(&roll, now),
            ControlEvent::NoPeer(id) | ControlEvent::Failed(id) | ControlEvent::Denied(Some(id), ..) => {
                self.not_watched(&event, id, now);
                self.roster.failed(id);
                self.unpublished |= self.update == Some(id);
                if let Some(lookup) = self.lookups.remove(&id) {
                    self.not_found(lookup, now);
                }
            }
            ControlEvent::Members(id, more, members) => self.on_members(id, more, &members, now),
            ControlEvent::Reconnect(_, cause) => self.on_down(cause, now.mono),
        }
    }

    /// How many seconds our clock was ahead of the relay's when it last let us in, or would have.
    pub(super) fn clock_ahead_s(&self) -> Option<i32> {
        let seconds = self.clock_ahead_ms? / 1_000;
        Some(i32::try_from(seconds).unwrap_or(if seconds > 0 { i32::MAX } else { i32::MIN }))
    }

    fn on_welcome(&mut self, welcome: Box<Welcome>, now: Now) {
        let ours = i64::try_from(now.unix.0.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let theirs = i64::try_from(welcome.relay_unix_ms).unwrap_or(i64::MAX);
        self.clock_ahead_ms = Some(ours.saturating_sub(theirs));
        if ours.abs_diff(theirs) > CLOCK_APART_MS {
            self.refuse(Refusal::OtherTime, "one of the two clocks is wrong", now.mono);
        }
        let phase = core::mem::replace(&mut self.phase, Phase::Failed);
        let accepted = match phase {
            Phase::Enrolling(enrolment) => enrolment
                .complete(&welcome.genesis, &welcome.manifest, &welcome.receipt, now.unix)
                .map_err(|e| e.to_string()),
            Phase::Member { mut credentials, me } => {
                // A relay that shows an older or another manifest is not believed; what we hold stays.
                if let Err(error) = credentials.trust_mut().update_manifest(&welcome.manifest) {
                    self.refuse(Refusal::from(&error), &error, now.mono);
                }
                self.take_receipt(&mut credentials, &welcome.receipt, now);
                if let Err(error) = credentials.member(now.unix) {
                    // Expired, and this relay does not renew: a relay cannot end a membership, the next one may help.
                    let reason = error.to_string();
                    self.events.push_back(MembershipEvent::JoinFailed { reason, fatal: false });
                    self.phase = Phase::Member { credentials, me };
                    return;
                }
                Ok(*credentials)
            }
            Phase::Failed => Err("joining had failed before".into()),
        };
        let member = accepted.and_then(|c| c.member(now.unix).map(|me| (c, me)).map_err(|e| e.to_string()));
        match member {
            Ok((credentials, me)) => {
                self.events.push_back(MembershipEvent::Persist(credentials.encode().to_vec()));
                self.control.set_targets(targets_of(credentials.trust().manifest()));
                self.control.set_bundle(credentials.bundle().encode());
                self.phase = Phase::Member { credentials: Box::new(credentials), me: Box::new(me) };
                self.welcomed = true;
                self.joined_at = Some(now.mono);
                self.arm_renewal(now);
                self.homing.joined(self.control.is_at_first(), &mut self.rng, now.mono);
                self.events.push_back(MembershipEvent::Joined(welcome));
                self.published = Default::default();
                let first = self.roster.begin(!self.directory.is_empty(), now.mono);
                self.list(first, now);
                self.ask_watch(now);
            }
            Err(reason) => self.events.push_back(MembershipEvent::JoinFailed { reason, fatal: true }),
        }
    }

    fn on_conflict(&mut self, what: ConflictWhat, now: Now) {
        let Phase::Enrolling(enrolment) = &mut self.phase else { return };
        let retried = match what {
            ConflictWhat::Ipv4 => enrolment.retry_with_salt(),
            ConflictWhat::Name => enrolment.retry_with_suffix(),
        };
        match retried {
            Ok(()) => {
                let bundle = enrolment.bundle().encode();
                self.control.join(bundle, now.mono);
            }
            Err(error) => {
                self.phase = Phase::Failed;
                self.events.push_back(MembershipEvent::JoinFailed { reason: error.to_string(), fatal: true });
            }
        }
    }

    /// A refusal ends an enrolment; a member that is refused keeps what it has and tries again.
    fn on_denied(&mut self, code: u16, text: String, now: Now) {
        let duplicate = DeniedCode::from_u16(code) == Some(DeniedCode::Duplicate);
        let was_replaced = DeniedCode::from_u16(code) == Some(DeniedCode::NotProven);
        if !duplicate && self.is_about_keys(was_replaced, now) {
            return;
        }
        if duplicate {
            self.on_duplicate();
        }
        let passing = duplicate || DeniedCode::from_u16(code) == Some(DeniedCode::TryAgain);
        self.clock_refused = DeniedCode::from_u16(code) == Some(DeniedCode::Clock);
        let fatal = matches!(self.phase, Phase::Enrolling(_)) && !passing;
        if fatal {
            self.phase = Phase::Failed;
        }
        self.events
            .push_back(MembershipEvent::JoinFailed { reason: format!("the relay refuses: {text}"), fatal });
        if passing && !self.control.is_joined() {
            self.control.try_next(now.mono);
        }
    }

    fn on_down(&mut self, cause: DownCause, now: Instant) {
        self.roster.down();
        self.watch.down();
        if let Some(reason) = Refusal::of_down(cause) {
            self.refuse(reason, cause, now);
        }
        if matches!(self.phase, Phase::Enrolling(_)) {
            let at = self.relay_address.map(|a| format!(" at {a}")).unwrap_or_default();
            let reason = format!(
                "the relay{at} cannot be reached: {cause}; the cure: see that it runs and that TCP to it is allowed"
            );
            self.events.push_back(MembershipEvent::JoinFailed { reason, fatal: false });
        }
    }

    /// What a run before has kept of the members.
    pub(super) fn set_roster(&mut self, roster: &[u8]) {
        if let Some(credentials) = self.credentials() {
            self.kept = kept::Roster::decode(roster, &credentials.trust().root_pin());
        }
    }

    /// Learns no more members from the roster than so many.
    pub(super) fn set_most(&mut self, most: usize) {
        self.roster.most = most.min(MAX_MEMBERS);
    }
}

/// Why a node cannot be what its credentials say. The chain's errors speak of "the peer", which here is the node itself.
fn own_documents(error: &ChainError) -> String {
    let what = error.to_string().replace("the peer", "this node");
    let cure = match error {
        ChainError::Revoked | ChainError::Expired(_) | ChainError::TokenExpired => {
            "; the cure: ask for a new token, move the state directory away, and join anew"
        }
        _ => "",
    };
    format!("{what}{cure}")
}

/// Relays in the order of the manifest, whose first is the one with the directory: each by its first address, then each
/// by its second, so that one that is dead does not take the time of all its addresses.
fn targets_of(manifest: &Manifest) -> Vec<ControlTarget> {
    let relays = manifest.relays.iter();
    let target = |r: &crate::member::RelayEntry, address: &SocketAddr| ControlTarget {
        relay_no: r.relay_no,
        relay: r.key,
        address: *address,
    };
    let nth = |n: usize| relays.clone().filter_map(move |r| Some(target(r, r.addresses.get(n)?)));
    (0..MAX_RELAY_ADDRESSES).flat_map(nth).collect()
}

/// Of this process, from now on.
fn boot_epoch(rng: &mut Rng, now: Now) -> BootEpoch {
    let started_ms = now.unix.0.saturating_mul(1_000).saturating_add(u64::from(now.unix_nanos / 1_000_000));
    BootEpoch { started_ms, nonce: rng.next_u64() }
}
