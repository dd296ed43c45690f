//! Becoming and staying a member: the control channel to a relay, enrolment, and the directory it fills.
//!
//! ```text
//! token ─▶ ENROLLING ── WELCOME, checked as a peer would ──▶ MEMBER ── LIST, GET ──▶ directory of verified members
//!             │  ▲ CONFLICT: another salt or name               ▲
//!             └──┘                          credentials ────────┘  (every later start)
//! ```
//!
//! The relay is a mailbox: whatever it says is checked against the pinned root before anything changes.

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::control::message::{ConflictWhat, DeniedCode, Lookup, Welcome};
use crate::control::{ControlClient, ControlConfig, ControlEvent, DownCause, RequestId};
use crate::key::{PublicKey, StaticSecret};
use crate::member::enrol::RECORD_LIFETIME;
use crate::member::{
    Bundle, Credentials, Endpoint, Enrolment, JoinToken, Member, Name, NodeIdentity, RelayRtt,
};
use crate::node::directory::{Directory, Inserted, MAX_MEMBERS, is_answer};
use crate::node::event::{Addresses, ControlStreamEvent};
use crate::rng::Rng;
use crate::time::{Duration, Instant, Now, UnixTime, earliest};

/// How often the members are listed again while there are few of them; with many they are asked for one by one.
const ROSTER_INTERVAL: Duration = Duration::from_secs(20);
const LARGE_ROSTER_INTERVAL: Duration = Duration::from_secs(600);
const LARGE_ROSTER: usize = 128;
/// The relay cuts a page by size; this is only a bound.
const ROSTER_PAGE: u16 = 64;

/// What becomes of it.
#[derive(Debug)]
pub(super) enum MembershipEvent {
    Connect(SocketAddr),
    Send(Vec<u8>),
    Close,
    Persist(Vec<u8>),
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
    /// A member's documents have ended, none newer came.
    Gone(PublicKey),
    /// Nobody answers to this.
    NotFound(Lookup),
    /// The relay presented documents that do not hold.
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
    /// Members to learn from the roster at most; those asked for come on top.
    most: usize,
    roster_request: Option<RequestId>,
    next_roster: Option<Instant>,
    /// What the last record said, so that an unchanged one is not published again.
    published: (Vec<Endpoint>, Vec<RelayRtt>),
    /// Our clock against the relay's at the last WELCOME, milliseconds.
    clock_ahead_ms: Option<i64>,
    /// The relay said that our documents are from the future.
    pub(super) clock_refused: bool,
    /// Where the control channel was last tried, for people.
    relay_address: Option<SocketAddr>,
    /// The last record on its way to the relay, and whether it did not arrive: then it is sent again with the roster.
    update: Option<RequestId>,
    unpublished: bool,
    events: VecDeque<MembershipEvent>,
    pub(super) directory: Directory,
}

impl MembershipAgent {
    /// For the first time, with a token.
    pub(super) fn enrol(
        token: JoinToken,
        name: Name,
        fingerprint: [u8; 16],
        rng: &mut Rng,
        now: Now,
    ) -> Result<Self, String> {
        let node = NodeIdentity::random(Some(fingerprint), rng);
        let enrolment = Enrolment::new(token, node, name, now.unix, rng).map_err(|e| e.to_string())?;
        let relay = enrolment.token().relays().first().ok_or("the token names no relay")?;
        let config = ControlConfig {
            local: enrolment.node().static_secret.clone(),
            relay: relay.key,
            addresses: enrolment
                .token()
                .relays()
                .iter()
                .filter(|r| r.key == relay.key)
                .map(|r| r.address)
                .collect(),
        };
        let bundle = enrolment.bundle().encode();
        Ok(Self::start(Phase::Enrolling(Box::new(enrolment)), config, bundle, rng, now.mono))
    }

    /// At every later start.
    ///
    /// A node that was off for longer than its key binding lives signs a new one; its peers accept that with the
    /// receipt it has.
    pub(super) fn resume(mut credentials: Credentials, rng: &mut Rng, now: Now) -> Result<Self, String> {
        if binding_is_old(&credentials, now.unix) {
            credentials.renew_binding(now.unix).map_err(|e| e.to_string())?;
        }
        let me = credentials.member(now.unix).map_err(|e| format!("this node's own documents: {e}"))?;
        let relays = &credentials.trust().manifest().relays;
        let relay = relays.first().ok_or("the manifest names no relay")?;
        let config = ControlConfig {
            local: credentials.node().static_secret.clone(),
            relay: relay.key,
            addresses: relay.addresses.clone(),
        };
        let bundle = credentials.bundle().encode();
        let phase = Phase::Member { credentials: Box::new(credentials), me: Box::new(me) };
        Ok(Self::start(phase, config, bundle, rng, now.mono))
    }

    fn start(phase: Phase, config: ControlConfig, bundle: Vec<u8>, rng: &mut Rng, now: Instant) -> Self {
        let mut control = ControlClient::new(config, rng.fork(), now);
        control.join(bundle, now);
        let mut agent = Self {
            phase,
            control,
            lookups: BTreeMap::new(),
            most: MAX_MEMBERS,
            roster_request: None,
            next_roster: None,
            published: Default::default(),
            clock_ahead_ms: None,
            clock_refused: false,
            relay_address: None,
            update: None,
            unpublished: false,
            events: VecDeque::new(),
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

    /// The key that the relay of the control channel proves itself by.
    pub(super) fn relay_key(&self) -> PublicKey {
        self.control.relay()
    }

    /// Whether the relay's control channel is open and we are joined on it.
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

    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.control.handle_timeout(now.mono);
        self.drain_control(now);
        if self.next_roster.is_some_and(|at| now.mono >= at) {
            self.next_roster = Some(now.mono + self.roster_interval());
            self.list_after(0, now);
            self.renew(now);
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<MembershipEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.control.poll_timeout().map(|(at, _)| at), self.next_roster)
    }

    /// Asks who this is, unless the same question is under way. Answered by `Learned` or `NotFound`.
    pub(super) fn look_up(&mut self, lookup: Lookup, now: Now) {
        if self.lookups.values().any(|l| *l == lookup) {
            return;
        }
        match self.control.get(lookup.clone(), now.mono) {
            Some(id) => {
                self.lookups.insert(id, lookup);
            }
            None => self.events.push_back(MembershipEvent::NotFound(lookup)),
        }
        self.drain_control(now);
    }

    /// Says where we can be reached, if that is news.
    pub(super) fn publish(&mut self, endpoints: Vec<Endpoint>, relays: Vec<RelayRtt>, now: Now) {
        if !self.control.is_joined()
            || (self.published.0 == endpoints
                && self.published.1.is_empty() == relays.is_empty()
                && !self.unpublished)
        {
            return;
        }
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        self.published = (endpoints.clone(), relays.clone());
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
                return;
            }
        }
    }

    fn on_control(&mut self, event: ControlEvent, now: Now) {
        match event {
            ControlEvent::WantConnect(address) => {
                self.relay_address = Some(address);
                self.events.push_back(MembershipEvent::Connect(address));
            }
            ControlEvent::WantClose => self.events.push_back(MembershipEvent::Close),
            ControlEvent::Ready | ControlEvent::Acknowledged(..) => {}
            ControlEvent::Joined(welcome) => self.on_welcome(welcome, now),
            ControlEvent::Conflict(what) => self.on_conflict(what, now),
            ControlEvent::Denied(None, code, text) => self.on_denied(code, text),
            ControlEvent::Peer(id, found) => {
                let lookup = self.lookups.remove(&id);
                if !self.learn(&found.bundle, found.online, lookup.as_ref(), now.unix)
                    && let Some(lookup) = lookup
                {
                    self.events.push_back(MembershipEvent::NotFound(lookup));
                }
            }
            ControlEvent::Pushed(found) => {
                self.learn(&found.bundle, found.online, None, now.unix);
            }
            ControlEvent::NoPeer(id) | ControlEvent::Failed(id) | ControlEvent::Denied(Some(id), ..) => {
                if self.roster_request == Some(id) {
                    self.roster_request = None;
                }
                self.unpublished |= self.update == Some(id);
                if let Some(lookup) = self.lookups.remove(&id) {
                    self.events.push_back(MembershipEvent::NotFound(lookup));
                }
            }
            ControlEvent::Members(id, more, members) => self.on_members(id, more, &members, now),
            ControlEvent::Reconnect(_, cause) => self.on_down(cause),
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
        let phase = core::mem::replace(&mut self.phase, Phase::Failed);
        let accepted = match phase {
            Phase::Enrolling(enrolment) => enrolment
                .complete(&welcome.genesis, &welcome.manifest, &welcome.receipt, now.unix)
                .map_err(|e| e.to_string()),
            Phase::Member { mut credentials, me } => {
                // A relay that shows an older or another manifest is not believed; what we hold stays.
                if let Err(error) = credentials.trust_mut().update_manifest(&welcome.manifest) {
                    self.events.push_back(MembershipEvent::Alarm(error.to_string()));
                }
                if let Err(error) = credentials.accept_receipt(&welcome.receipt, now.unix) {
                    self.events.push_back(MembershipEvent::Alarm(error.to_string()));
                }
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
                self.phase = Phase::Member { credentials: Box::new(credentials), me: Box::new(me) };
                self.events.push_back(MembershipEvent::Joined(welcome));
                self.published = Default::default();
                self.next_roster = Some(now.mono + self.roster_interval());
                self.list_after(0, now);
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
    fn on_denied(&mut self, code: u16, text: String) {
        let passing = DeniedCode::from_u16(code) == Some(DeniedCode::TryAgain);
        self.clock_refused = DeniedCode::from_u16(code) == Some(DeniedCode::Clock);
        let fatal = matches!(self.phase, Phase::Enrolling(_)) && !passing;
        if fatal {
            self.phase = Phase::Failed;
        }
        self.events
            .push_back(MembershipEvent::JoinFailed { reason: format!("the relay refuses: {text}"), fatal });
    }

    fn on_down(&mut self, cause: DownCause) {
        self.roster_request = None;
        if matches!(self.phase, Phase::Enrolling(_)) {
            let at = self.relay_address.map(|a| format!(" at {a}")).unwrap_or_default();
            let reason = format!(
                "the relay{at} cannot be reached: {cause}; the cure: see that it runs and that TCP to it is allowed"
            );
            self.events.push_back(MembershipEvent::JoinFailed { reason, fatal: false });
        }
    }

    /// Learns no more members from the roster than so many.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.min(MAX_MEMBERS);
    }

    fn list_after(&mut self, after: u32, now: Now) {
        if after > 0 || self.roster_request.is_none() {
            self.roster_request = self.control.list(after, ROSTER_PAGE, now.mono);
        }
        self.drain_control(now);
    }

    fn on_members(
        &mut self,
        id: RequestId,
        more: bool,
        members: &[crate::control::message::Member],
        now: Now,
    ) {
        if self.roster_request != Some(id) {
            return;
        }
        self.roster_request = None;
        let mut last = 0;
        for found in members {
            if let Ok(bundle) = Bundle::parse(&found.bundle) {
                let certificate = bundle.certificate.unverified();
                last = certificate.v4.to_bits();
                let known = self.directory.get(&certificate.identity).is_some();
                if !known && self.directory.len() >= self.most {
                    continue;
                }
            }
            self.learn(&found.bundle, found.online, None, now.unix);
        }
        if more && last > 0 && self.directory.len() < self.most {
            self.list_after(last, now);
        }
    }

    /// Checks documents as the chain demands and keeps them if they are news. False if they do not hold, or are not
    /// of whom we asked for.
    fn learn(&mut self, bundle: &[u8], online: bool, asked: Option<&Lookup>, now: UnixTime) -> bool {
        let Phase::Member { credentials, me } = &self.phase else { return false };
        let parsed = Bundle::parse(bundle).map_err(|e| e.to_string());
        // The same bytes as before were verified before: a roster of hundreds costs its signatures once.
        if let Ok(parsed) = &parsed
            && asked.is_none()
            && self.directory.confirm(&parsed.certificate.unverified().identity, bundle, online)
        {
            return true;
        }
        let checked =
            parsed.and_then(|b| credentials.trust().verify_member(&b, now).map_err(|e| e.to_string()));
        let member = match checked {
            Ok(member) => member,
            Err(reason) => {
                self.events.push_back(MembershipEvent::Alarm(reason));
                return false;
            }
        };
        if member.identity() == me.identity() || asked.is_some_and(|l| !is_answer(l, &member)) {
            return false;
        }
        let inserted = self.directory.insert(member.clone(), online);
        self.events.push_back(MembershipEvent::Learned { member: Box::new(member), inserted });
        true
    }

    fn roster_interval(&self) -> Duration {
        if self.directory.len() > LARGE_ROSTER { LARGE_ROSTER_INTERVAL } else { ROSTER_INTERVAL }
    }

    /// What has an end is renewed at half its life: the key binding by joining again with a newer one (which also brings
    /// a fresh receipt and ticket), the record by publishing it again. Members past theirs are forgotten.
    fn renew(&mut self, now: Now) {
        for key in self.directory.expire(now.unix) {
            self.events.push_back(MembershipEvent::Gone(key));
        }
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        if !self.control.is_joined() {
            return;
        }
        let record = credentials.bundle().record.as_ref().map(|r| r.unverified().not_after.0);
        if self.unpublished || record.is_some_and(|end| now.unix.0 + RECORD_LIFETIME / 2 >= end) {
            let (endpoints, relays) = core::mem::take(&mut self.published);
            return self.publish(endpoints, relays, now);
        }
        if binding_is_old(credentials, now.unix) && credentials.renew_binding(now.unix).is_ok() {
            let bundle = credentials.bundle().encode();
            self.control.join(bundle, now.mono);
            self.drain_control(now);
        }
    }
}

fn binding_is_old(credentials: &Credentials, now: UnixTime) -> bool {
    let binding = credentials.bundle().binding.unverified();
    now.0 >= binding.not_before.0.midpoint(binding.not_after.0)
}
