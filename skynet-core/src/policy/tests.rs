//! Two ends with a policy between them.

use super::*;
use crate::member::NetworkId;
use crate::member::policy::{ICMP, TCP, UDP};
use crate::rng::Rng;
use crate::time::{Duration, UnixTime};
use crate::wire::ip::udp_v4;

const WEB: [u8; 4] = [10, 7, 0, 1];
const DB: [u8; 4] = [10, 7, 0, 2];

fn tags(list: &[&str]) -> Tags {
    Tags::new(list).unwrap()
}

fn rule(allow: bool, from: &[&str], to: &[&str], services: &[Service]) -> Rule {
    Rule { allow, from: tags(from), to: tags(to), services: services.to_vec() }
}

const fn port(protocol: u8, port: u16) -> Service {
    Service { protocol, first: port, last: port }
}

fn policy(allow_by_default: bool, rules: &[Rule]) -> Policy {
    Policy {
        network_id: NetworkId([1; 8]),
        epoch: 1,
        issued: UnixTime(0),
        signer: crate::key::Identity([2; 32]),
        allow_by_default,
        rules: rules.to_vec(),
    }
}

/// A web server and a database, each with its own table.
struct Pair {
    web: Option<Arc<PeerPolicy>>,
    db: Option<Arc<PeerPolicy>>,
    tables: [Arc<Connections>; 2],
    drops: DropCounters,
    now: Instant,
}

impl Pair {
    fn new(policy: &Policy) -> Self {
        let tables = [1, 2].map(|n| Arc::new(Connections::new(&mut Rng::from_seed([n; 32]))));
        let mut pair =
            Self { web: None, db: None, tables, drops: DropCounters::default(), now: Instant::ZERO };
        pair.set(policy);
        pair
    }

    fn set(&mut self, policy: &Policy) {
        let (web, db) = (tags(&["web"]), tags(&["db", "linux"]));
        self.web = PeerPolicy::new(policy, &web, &db, &self.tables[0]);
        self.db = PeerPolicy::new(policy, &db, &web, &self.tables[1]);
    }

    /// Whether a packet arrives: both ends look at it.
    fn passes(&self, bytes: &[u8], from_web: bool) -> bool {
        let packet = IpPacket::parse(bytes).unwrap();
        let (sender, receiver) = if from_web { (&self.web, &self.db) } else { (&self.db, &self.web) };
        let look = |policy: &Option<Arc<PeerPolicy>>, way| {
            policy.as_ref().is_none_or(|p| p.check(way, PeerSlot(1), &packet, self.now, &self.drops).is_ok())
        };
        let (left, arrived) = (look(sender, Way::Out), look(receiver, Way::In));
        assert!(left || !arrived || !from_web || self.tables.is_empty(), "the receiver is not laxer");
        left && arrived
    }

    fn sends(&self, protocol: u8, from_web: bool, ports: (u16, u16)) -> bool {
        let (from, to) = if from_web { (WEB, DB) } else { (DB, WEB) };
        let mut bytes = udp_v4(from.into(), to.into(), ports, b"x");
        bytes[9] = protocol;
        self.passes(&bytes, from_web)
    }
}

#[test]
fn without_rules_nothing_is_looked_at() {
    let pair = Pair::new(&policy(true, &[]));
    assert!(pair.web.is_none() && pair.db.is_none());
    let elsewhere = policy(true, &[rule(false, &["gpu"], &["db"], &[])]);
    assert!(Pair::new(&elsewhere).web.is_none(), "rules about others cost nothing");
    assert!(Pair::new(&policy(true, &[rule(true, &["web"], &["db"], &[])])).web.is_none());
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = [
        rule(true, &["web"], &["db"], &[port(TCP, 5432), Service { protocol: UDP, first: 100, last: 200 }]),
        rule(false, &["web"], &["db"], &[]),
        rule(true, &[], &[], &[]),
    ];
    let policy = policy(true, &rules);
    let decide =
        |protocol, port| Rules::between(&policy, &tags(&["web"]), &tags(&["db"])).decide(protocol, port);
    assert_eq!(decide(TCP, Some(5432)), (true, Some(0)));
    assert_eq!(decide(TCP, Some(5433)), (false, Some(1)));
    assert_eq!((decide(UDP, Some(99)).0, decide(UDP, Some(100)).0), (false, true));
    assert_eq!((decide(UDP, Some(200)).0, decide(UDP, Some(201)).0), (true, false));
    assert_eq!(decide(ICMP, Some(0)), (false, Some(1)));
    assert_eq!(decide(TCP, None), (false, Some(1)), "a hidden port is no allowed one");
    let back = Rules::between(&policy, &tags(&["db"]), &tags(&["web"]));
    assert_eq!(back.decide(TCP, Some(1)), (true, Some(2)));
    assert_eq!(Rules::between(&policy, &tags(&[]), &tags(&[])).decide(TCP, Some(1)), (true, Some(2)));
}

#[test]
fn a_hidden_port_is_taken_for_one_that_is_denied() {
    let policy = policy(true, &[rule(false, &[], &["db"], &[port(TCP, 22)])]);
    let rules = Rules::between(&policy, &tags(&["web"]), &tags(&["db"]));
    assert_eq!((rules.decide(TCP, Some(23)).0, rules.decide(TCP, None).0), (true, false));
    assert!(rules.decide(UDP, None).0);
}

#[test]
fn answers_pass_where_questions_may_not_begin() {
    let pair = Pair::new(&policy(false, &[rule(true, &["web"], &["db"], &[port(TCP, 5432)])]));
    assert!(!pair.sends(TCP, false, (5432, 40_000)), "no answer without a question");
    assert!(pair.sends(TCP, true, (40_000, 5432)));
    assert!(pair.sends(TCP, false, (5432, 40_000)));
    assert!(!pair.sends(TCP, false, (5432, 40_001)) && !pair.sends(TCP, false, (5433, 40_000)));
    assert!(!pair.sends(TCP, false, (40_000, 5432)), "nor may the database ask the same");
    assert!(!pair.sends(UDP, true, (40_000, 5432)) && !pair.sends(TCP, true, (40_000, 22)));
}

#[test]
fn an_idle_connection_ends_after_its_time_and_begins_anew() {
    let mut pair = Pair::new(&policy(false, &[rule(true, &["web"], &["db"], &[])]));
    assert!(pair.sends(UDP, true, (1, 2)) && pair.sends(UDP, false, (2, 1)));
    pair.now = pair.now + Duration::from_secs(301);
    assert!(!pair.sends(UDP, false, (2, 1)));
    assert!(pair.sends(UDP, true, (1, 2)) && pair.sends(UDP, false, (2, 1)));
}

#[test]
fn a_new_policy_holds_for_what_is_open_and_spares_what_it_still_allows() {
    let allows = |ports: &[u16]| {
        let services: Vec<_> = ports.iter().map(|p| port(TCP, *p)).collect();
        policy(false, &[rule(true, &["web"], &["db"], &services)])
    };
    let mut pair = Pair::new(&allows(&[22, 5432]));
    for to in [22, 5432] {
        assert!(pair.sends(TCP, true, (9, to)) && pair.sends(TCP, false, (to, 9)));
    }
    pair.set(&allows(&[5432]));
    assert!(pair.sends(TCP, false, (5432, 9)), "an answer, though nothing was asked since");
    assert!(!pair.sends(TCP, false, (22, 9)) && !pair.sends(TCP, true, (9, 22)));
    // Turned round: whoever answered may ask, and the other may not answer what was never asked.
    pair.set(&policy(false, &[rule(true, &["db"], &["web"], &[])]));
    assert!(!pair.sends(TCP, true, (9, 5432)));
    assert!(pair.sends(TCP, false, (5432, 9)) && pair.sends(TCP, true, (9, 5432)));
}

#[test]
fn errors_about_what_was_allowed_pass_and_others_do_not() {
    let pair = Pair::new(&policy(false, &[rule(true, &["web"], &["db"], &[port(UDP, 53)])]));
    let error = |to_port: u16| {
        let sent = udp_v4(WEB.into(), DB.into(), (9, to_port), b"?");
        let mut bytes =
            udp_v4(DB.into(), WEB.into(), (0, 0), &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &sent].concat());
        // What stands for UDP's header makes way for ICMP's.
        bytes.drain(20..28);
        bytes[9] = 1;
        let length = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    assert!(pair.passes(&error(53), false));
    assert!(!pair.passes(&error(54), false));
    assert!(!pair.sends(ICMP, false, (0, 0)), "a ping");
}

#[test]
fn a_ping_brings_its_answer_and_nothing_else() {
    let pair = Pair::new(&policy(false, &[rule(true, &["web"], &["db"], &[Service::all_of(ICMP)])]));
    let echo = |kind: u8, id: u8, from_web: bool| {
        let (from, to) = if from_web { (WEB, DB) } else { (DB, WEB) };
        let mut bytes = udp_v4(from.into(), to.into(), (0, 0), &[0; 8]);
        bytes[9] = 1;
        bytes[20..28].copy_from_slice(&[kind, 0, 0, 0, 0, id, 0, 1]);
        pair.passes(&bytes, from_web)
    };
    assert!(!echo(0, 7, false) && !echo(8, 7, false), "nobody has asked");
    assert!(echo(8, 7, true));
    assert!(echo(0, 7, false), "the answer");
    assert!(!echo(0, 8, false), "another's");
    assert!(!echo(8, 7, false), "a question of its own");
    assert!(!pair.sends(TCP, false, (0, 0)));
}
