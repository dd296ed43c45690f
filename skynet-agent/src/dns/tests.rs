use std::collections::BTreeSet;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use skynet_core::member::Tags;
use skynet_core::node::RosterMember;

use super::super::{MAX_GROWTH, MAX_QUERY, Parsed};
use super::*;

fn view(names: &[&str]) -> RosterView {
    let member = |(n, name): (usize, &&str)| RosterMember {
        name: name.parse().unwrap(),
        v4: format!("10.44.1.{}", n + 1).parse().unwrap(),
        v6: format!("fd00:1:2::{:x}", n + 1).parse().unwrap(),
        tags: Tags::default(),
        ephemeral: false,
        online: true,
        own: n == 0,
    };
    RosterView { revision: 7, complete: true, members: names.iter().enumerate().map(member).collect() }
}

fn zone() -> Zone {
    let prefixes = ["10.44.0.0/16", "fd00:1:2::/48"].map(|p| p.parse().unwrap());
    Zone::new(&view(&["head", "w-1", &"x".repeat(63)]), "Lab 7", &prefixes).unwrap()
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn ask(zone: &Zone, bytes: &[u8]) -> Message {
    let Parsed::Ask(question) = Question::parse(bytes) else { panic!("no question") };
    Message::from_vec(&zone.answer(&question).1).unwrap()
}

/// Code and records of an answer.
fn told(zone: &Zone, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = ask(zone, &query(name, kind));
    assert_eq!(answer.metadata.id, 4_711);
    (answer.metadata.response_code, answer.answers.iter().map(|r| r.data.to_string()).collect())
}

#[test]
fn names_and_addresses_are_told_both_ways_and_in_both_families() {
    let zone = zone();
    let ok = |records: &[&str]| (ResponseCode::NoError, records.iter().map(|r| (*r).to_owned()).collect());
    assert_eq!(told(&zone, "w-1.lab-7.internal.", RecordType::A), ok(&["10.44.1.2"]));
    assert_eq!(told(&zone, "W-1.LAB-7.Internal.", RecordType::AAAA), ok(&["fd00:1:2::2"]));
    assert_eq!(told(&zone, "w-1.lab-7.internal.", RecordType::ANY), ok(&["10.44.1.2", "fd00:1:2::2"]));
    assert_eq!(told(&zone, "2.1.44.10.in-addr.arpa.", RecordType::PTR), ok(&["w-1.lab-7.internal."]));
    let v6 = Name::from("fd00:1:2::2".parse::<IpAddr>().unwrap()).to_ascii();
    assert_eq!(told(&zone, &v6, RecordType::PTR), ok(&["w-1.lab-7.internal."]));
    assert_eq!(told(&zone, "lab-7.internal.", RecordType::NS), ok(&["head.lab-7.internal."]));
}

#[test]
fn what_is_not_there_is_denied_with_the_zones_own_word_for_a_second() {
    let zone = zone();
    for (name, kind, code, owner) in [
        ("w-2.lab-7.internal.", RecordType::A, ResponseCode::NXDomain, "lab-7.internal."),
        ("a.w-1.lab-7.internal.", RecordType::A, ResponseCode::NXDomain, "lab-7.internal."),
        ("w-1.lab-7.internal.", RecordType::MX, ResponseCode::NoError, "lab-7.internal."),
        ("9.9.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "44.10.in-addr.arpa."),
        ("02.1.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "44.10.in-addr.arpa."),
        ("a.1.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "44.10.in-addr.arpa."),
        ("1.2.1.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, "44.10.in-addr.arpa."),
        // Between apex and addresses a name is there, or whoever asks label by label would never come to them.
        ("1.44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, "44.10.in-addr.arpa."),
        ("44.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError, "44.10.in-addr.arpa."),
    ] {
        let answer = ask(&zone, &query(name, kind));
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        let [soa] = &answer.authorities[..] else { panic!("{name}: {answer}") };
        assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), (owner, TTL), "{name}");
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
    }
}

#[test]
fn other_domains_are_refused_and_never_asked_elsewhere() {
    let zone = zone();
    for name in [
        ".",
        "example.org.",
        "internal.",
        "lab.internal.",
        "w-1.",
        "xlab-7.internal.",
        "10.in-addr.arpa.",
        "1.1.45.10.in-addr.arpa.",
        "in-addr.arpa.",
        "1.0.0.127.in-addr.arpa.",
        "0.0.d.f.ip6.arpa.",
    ] {
        assert_eq!(told(&zone, name, RecordType::PTR), (ResponseCode::Refused, vec![]), "{name}");
    }
    let mut chaos = Message::new(1, MessageType::Query, OpCode::Query);
    let mut version = Query::query(Name::from_ascii("head.lab-7.internal.").unwrap(), RecordType::TXT);
    version.set_query_class(DNSClass::CH);
    chaos.add_query(version);
    assert_eq!(ask(&zone, &chaos.to_vec().unwrap()).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_prefix_that_ends_within_a_label_is_told_in_zones_of_whole_ones() {
    let prefixes = ["10.44.16.0/20", "fd00:1:2::/46"].map(|p| p.parse().unwrap());
    let mut view = view(&["head"]);
    view.members[0].v4 = "10.44.17.9".parse().unwrap();
    let zone = Zone::new(&view, "n", &prefixes).unwrap();
    let answer = ask(&zone, &query("1.17.44.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(answer.authorities[0].name.to_ascii(), "17.44.10.in-addr.arpa.");
    assert_eq!(told(&zone, "9.17.44.10.in-addr.arpa.", RecordType::PTR).1, ["head.n.internal."]);
    assert_eq!(told(&zone, "1.32.44.10.in-addr.arpa.", RecordType::PTR).0, ResponseCode::Refused);
    assert_eq!(told(&zone, "44.10.in-addr.arpa.", RecordType::PTR).0, ResponseCode::Refused);
}

fn with_edns(version: u8) -> Vec<u8> {
    let mut message = Message::from_vec(&query("w-1.lab-7.internal.", RecordType::A)).unwrap();
    let mut edns = Edns::new();
    edns.set_version(version).set_max_payload(4_096);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// The answer to any bytes, as a server gives it.
fn reply(zone: &Zone, bytes: &[u8]) -> Option<Vec<u8>> {
    match Question::parse(bytes) {
        Parsed::Ask(question) => Some(zone.answer(&question).1),
        Parsed::Reply(reply) => Some(reply),
        Parsed::Silence => None,
    }
}

#[test]
fn what_is_no_plain_question_is_told_so_or_nothing() {
    let zone = zone();
    let code =
        |bytes: &[u8]| reply(&zone, bytes).map(|r| Message::from_vec(&r).unwrap().metadata.response_code);
    let good = query("w-1.lab-7.internal.", RecordType::A);
    assert_eq!(code(&with_edns(0)), Some(ResponseCode::NoError));
    assert!(Message::from_vec(&reply(&zone, &with_edns(0)).unwrap()).unwrap().edns.is_some());
    assert!(Message::from_vec(&reply(&zone, &good).unwrap()).unwrap().edns.is_none());
    // BADVERS (RFC 6891 §6.1.3), a number that it shares with BADSIG.
    assert_eq!(code(&with_edns(1)).map(u16::from), Some(16));
    assert_eq!(code(&good[..11]), None);
    assert_eq!(code(&good[..20]), Some(ResponseCode::FormErr));
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(code(&response), None, "servers do not answer servers");
    let mut update = good.clone();
    update[2] = 5 << 3;
    assert!(matches!(code(&update), Some(ResponseCode::NotImp | ResponseCode::FormErr)));
    let mut two = Message::from_vec(&good).unwrap();
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two.to_vec().unwrap()), Some(ResponseCode::FormErr));
    assert_eq!(code(&vec![0; MAX_QUERY + 1]), None);
}

/// Every kind of answer there is, cut and flipped at every place: none is longer than its query by more than the bound,
/// none needs more than the 512 bytes that everybody takes.
#[test]
fn hostile_queries_get_short_answers() {
    let zone = zone();
    let long = format!("{}.lab-7.internal.", "x".repeat(63));
    let v6 = Name::from("fd00:1:2::3".parse::<IpAddr>().unwrap()).to_ascii();
    let samples = [
        query(&long, RecordType::ANY),
        query("w-2.lab-7.internal.", RecordType::A),
        query(&v6, RecordType::PTR),
        query("3.1.44.10.in-addr.arpa.", RecordType::ANY),
        query("lab-7.internal.", RecordType::ANY),
        query("example.org.", RecordType::A),
        with_edns(0),
        with_edns(3),
    ];
    let (mut worst, mut codes) = (0, BTreeSet::new());
    let mut check = |bytes: &[u8]| {
        let Some(reply) = reply(&zone, bytes) else { return };
        assert!(
            reply.len() <= bytes.len() + MAX_GROWTH && reply.len() <= 512,
            "{} of {}",
            reply.len(),
            bytes.len()
        );
        worst = worst.max(reply.len().saturating_sub(bytes.len()));
        codes.insert(reply[3] & 0xf);
    };
    for sample in &samples {
        for cut in 0..=sample.len() {
            check(&sample[..cut]);
        }
        for bit in 0..sample.len() * 8 {
            let mut flipped = sample.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check(&flipped);
        }
    }
    println!("the longest answer has {worst} bytes more than its query; codes {codes:?}");
    assert!(codes.is_superset(&[0, 1, 3, 4, 5].into()));
}
