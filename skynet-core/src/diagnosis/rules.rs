//! From the evidence of a pair to its cause.

use super::Diagnosis;
use super::cause::Cause;
use super::evidence::{Control, End, Evidence, Filtering, Mapping, PeerKind, Udp};
use crate::constants::INNER_MTU;
use crate::path::{Reason, Step};

/// A clock may be wrong by so much before documents do not hold any more: PROTOCOL §3.2.
pub const CLOCK_TOLERANCE_S: i32 = 300;
/// An IPv4 packet with a full inner packet in transport data and a relay header.
pub const FULL_DATAGRAM: u16 = INNER_MTU + 32 + 8 + 28;
/// Failures of the direct path among the remembered changes that make it unstable.
const UNSTABLE: usize = 3;

/// What is the case, and what would set it right. Pure: the same evidence, the same verdict.
pub fn diagnose(e: &Evidence) -> Diagnosis {
    let cause = RULES.iter().find(|(_, holds)| holds(e)).map_or(Cause::MappingUnknown, |(cause, _)| *cause);
    let (verdict, cure) = sentences(cause, e);
    Diagnosis { cause, verdict, cure, notes: notes(cause, e) }
}

type Rule = (Cause, fn(&Evidence) -> bool);

/// In order: the first that holds is the cause.
const RULES: &[Rule] = &[
    (Cause::ClockWrong, |e| {
        !is_working(e) && (wrong_clock(e).is_some() || e.control == Control::ClockDenied)
    }),
    (Cause::LocalFirewall, |e| !e.is_heard() && e.here.host.udp == Udp::Refused),
    (Cause::RelayRefused, |e| control_is(e, Control::Refused)),
    (Cause::RelayUnreachable, |e| control_is(e, Control::Silent)),
    (Cause::Denied, |e| control_is(e, Control::Denied)),
    (Cause::NotJoined, |e| e.kind == PeerKind::Member && !e.joined),
    (Cause::EndpointUnknown, |e| e.kind == PeerKind::StockSilent && !e.is_heard()),
    (Cause::EndpointSilent, |e| e.kind == PeerKind::Stock && !e.is_heard() && !e.established),
    (Cause::MtuHole, |e| e.is_direct() && e.path_mtu.is_none() && narrow_end(e).is_some()),
    (Cause::Direct, |e| e.is_direct() && !e.is_deaf()),
    (Cause::PeerOffline, |e| e.online == Some(false) && !e.is_heard()),
    (Cause::RelayUnreachable, |e| control_is(e, Control::Down)),
    (Cause::UdpBlockedHere, |e| !e.is_heard() && !e.here.relay_up && e.here.host.udp == Udp::Blocked),
    (Cause::UdpByTls, |e| by_tls(e).is_some()),
    (Cause::Trying, |e| !e.settled && !e.is_heard()),
    (Cause::UdpBlockedHere, |e| !e.is_heard() && !e.here.relay_up),
    (Cause::UdpBlockedThere, |e| !e.is_heard() && !e.established && !e.peer_relay),
    (Cause::NoHandshake, |e| !e.is_heard() && !e.established && e.handshakes_unanswered),
    (Cause::Idle, |e| !e.tried && !e.is_deaf()),
    (Cause::DataDropped, |e| any_step(e, Step::DataLost)),
    (Cause::DataBlocked, Evidence::is_deaf),
    (Cause::Trying, |e| !e.settled),
    (Cause::Unstable, |e| failures(e) >= UNSTABLE || any_step(e, Step::OnHold)),
    (Cause::OneWay, |e| one_way(e).is_some()),
    (Cause::HairpinMissing, is_behind_one_nat),
    (Cause::NoCandidates, |e| e.candidates.is_empty()),
    (Cause::NoCommonFamily, has_no_common_family),
    (Cause::BothSymmetric, |e| mapping(&e.here).is_hard() && there(e, |t| mapping(t).is_hard())),
    (Cause::SymmetricAndFiltered, |e| hard_end(e).is_some()),
    (Cause::BlockedBetween, |e| is_easy(&e.here) && there(e, is_easy)),
];

/// Data passes, whatever else is wrong.
fn is_working(e: &Evidence) -> bool {
    e.is_heard() || (e.is_direct() && !e.is_deaf())
}

/// A member without its control channel, and nothing works.
fn control_is(e: &Evidence, control: Control) -> bool {
    e.kind == PeerKind::Member && e.control == control && !is_working(e)
}

fn there(e: &Evidence, f: impl Fn(&End) -> bool) -> bool {
    e.there.as_ref().is_some_and(f)
}

fn mapping(end: &End) -> Mapping {
    end.host.mapping
}

fn is_easy(end: &End) -> bool {
    mapping(end) == Mapping::EndpointIndependent
}

fn off(end: &End) -> Option<i32> {
    end.clock_ahead_s.filter(|s| s.unsigned_abs() >= CLOCK_TOLERANCE_S.unsigned_abs())
}

/// Whose clock, and by how much.
fn wrong_clock(e: &Evidence) -> Option<(&str, i32)> {
    let here = off(&e.here).map(|s| (e.me.as_str(), s));
    here.or_else(|| Some((e.peer.as_str(), off(e.there.as_ref()?)?)))
}

/// Who has no UDP to its relay, and a session there all the same: only by UDP would it know how it is seen.
fn by_tls(e: &Evidence) -> Option<&str> {
    let by_tls = |end: &End| end.relay_up && end.observed.is_none() && end.host.udp == Udp::Blocked;
    if by_tls(&e.here) {
        return Some(&e.me);
    }
    e.there.as_ref().filter(|t| by_tls(t)).map(|_| e.peer.as_str())
}

/// Whose uplink does not take full-size datagrams, and what passes.
fn narrow_end(e: &Evidence) -> Option<(&str, u16)> {
    let narrow = |end: &End| end.host.mtu.filter(|mtu| *mtu < FULL_DATAGRAM);
    let here = narrow(&e.here).map(|mtu| (e.me.as_str(), mtu));
    here.or_else(|| Some((e.peer.as_str(), narrow(e.there.as_ref()?)?)))
}

fn any_step(e: &Evidence, step: Step) -> bool {
    e.here.pairs.iter().any(|p| p.step == step) || there(e, |t| t.pairs.iter().any(|p| p.step == step))
}

fn failures(e: &Evidence) -> usize {
    let failed = |r: Reason| matches!(r, Reason::ProbesLost | Reason::Silent);
    e.here.changes.iter().filter(|c| failed(c.reason)).count()
}

/// From whom to whom packets vanish although those the other way arrive.
fn one_way(e: &Evidence) -> Option<(&str, &str)> {
    let heard = |end: &End| end.pairs.iter().any(|p| p.step == Step::Heard);
    if heard(&e.here) {
        return Some((&e.me, &e.peer));
    }
    there(e, heard).then_some((e.peer.as_str(), e.me.as_str()))
}

fn is_behind_one_nat(e: &Evidence) -> bool {
    let theirs = e.there.as_ref().and_then(|t| t.observed);
    let ours = e.here.observed.map(|a| a.ip());
    let same = match theirs {
        Some(theirs) => ours == Some(theirs.ip()),
        // What it told by its record.
        None => ours.is_some_and(|ours| e.candidates.iter().any(|c| c.ip() == ours)),
    };
    same && e.here.host.translated != Some(false)
}

fn has_no_common_family(e: &Evidence) -> bool {
    let (four, six) = Evidence::families(&e.own);
    let (their_four, their_six) = Evidence::families(&e.candidates);
    !((four && their_four) || (six && their_six))
}

/// The end with the hard NAT, and the one that only admits replies.
fn hard_end(e: &Evidence) -> Option<(&str, &str)> {
    let filtered = |end: &End| {
        !matches!(end.host.filtering, Filtering::EndpointIndependent | Filtering::AddressDependent)
    };
    let there = e.there.as_ref();
    if mapping(&e.here).is_hard() && there.is_none_or(filtered) {
        return Some((&e.me, &e.peer));
    }
    (there.is_some_and(|t| mapping(t).is_hard()) && filtered(&e.here)).then_some((&e.peer, &e.me))
}

fn sentences(cause: Cause, e: &Evidence) -> (String, String) {
    let (me, peer) = (e.me.as_str(), e.peer.as_str());
    let relay = e.relay.map_or_else(|| "the relay".to_owned(), |r| format!("the relay {r}"));
    let general = || (cause.what().trim_end_matches('.').to_owned(), cause.cure().to_owned());
    let at = |end: Option<&End>| {
        end.and_then(|t| t.observed).map_or_else(|| "its address".to_owned(), |a| a.ip().to_string())
    };
    let (verdict, cure) = match cause {
        Cause::Direct => (format!("{me} and {peer} talk directly"), cause.cure().to_owned()),
        Cause::Idle => (
            format!("{me} has not sent to {peer} lately, so no path is kept"),
            format!("Send something: skynet-agent ping {peer}."),
        ),
        Cause::Trying => (format!("{me} is still trying paths to {peer}"), cause.cure().to_owned()),
        Cause::ClockWrong if wrong_clock(e).is_none() => (
            format!("{relay} refuses {me}, whose certificate is from the future by its clock"),
            format!("Set the clock of {me}: run an NTP client (timedatectl set-ntp true)."),
        ),
        Cause::ClockWrong => {
            let (whose, ahead) = wrong_clock(e).unwrap_or((me, 0));
            let way = if ahead > 0 { "ahead" } else { "behind" };
            let by = ahead.unsigned_abs();
            (
                format!("{whose}'s clock is {by} s {way}, so certificates do not hold"),
                format!("Set the clock of {whose}: run an NTP client (timedatectl set-ntp true)."),
            )
        }
        Cause::PeerOffline => (
            format!("{peer} is a member, but its agent has no connection to the relay"),
            format!("Start {peer}, or its agent: skynet-agent up."),
        ),
        Cause::RelayRefused => (
            format!("{relay} does not listen: its host answers and refuses TCP"),
            "Start the relay, or correct its address (--relay, or a new token).".to_owned(),
        ),
        Cause::RelayUnreachable => (
            format!("nothing answers at {relay}"),
            "See that the relay's host is up and its address right, and allow TCP and UDP to it here."
                .to_owned(),
        ),
        Cause::UdpBlockedHere => (
            format!("UDP between {me} and {relay} is blocked, TCP works"),
            format!(
                "Allow outgoing UDP to {relay}, and its answers, in the firewall or security group of {me}."
            ),
        ),
        Cause::UdpByTls => {
            let whose = by_tls(e).unwrap_or(me);
            (
                format!("UDP between {whose} and {relay} is blocked, so {whose} reaches it by TLS"),
                format!(
                    "Allow outgoing UDP to {relay}, and its answers, in the firewall or security group of {whose}."
                ),
            )
        }
        Cause::UdpBlockedThere => (
            format!("UDP between {peer} and its relay is blocked, TCP works"),
            format!(
                "Allow outgoing UDP to {relay}, and its answers, in the firewall or security group of {peer}."
            ),
        ),
        Cause::EndpointSilent => (
            format!("nobody answers at {}, the endpoint configured for {peer}", endpoint(e)),
            cause.cure().to_owned(),
        ),
        Cause::NoHandshake => (
            format!("{me} and {peer} both reach the relay, but no handshake succeeds"),
            format!("Run skynet-agent netcheck on {peer}, and see its agent's log."),
        ),
        Cause::DataBlocked => (
            format!("there is a path to {peer}, but nothing sent through it is answered"),
            format!("Allow the overlay's traffic in {peer}'s own firewall, on interface skynet0."),
        ),
        Cause::DataDropped => (
            format!(
                "between {me} and {peer} probes pass directly, but data is eaten, so the relay carries it"
            ),
            cause.cure().to_owned(),
        ),
        Cause::MtuHole => {
            let (whose, mtu) = narrow_end(e).unwrap_or((me, 0));
            (
                format!("{whose}'s uplink lets packets of {mtu} bytes pass, {FULL_DATAGRAM} are needed"),
                format!(
                    "Set the MTU of {whose}'s uplink interface to {mtu}, or let ICMP \"fragmentation needed\" through."
                ),
            )
        }
        Cause::OneWay => {
            let (from, to) = one_way(e).unwrap_or((me, peer));
            let source = if from == me { at(Some(&e.here)) } else { at(e.there.as_ref()) };
            (
                format!("packets from {from} do not reach {to} directly, those the other way arrive"),
                format!(
                    "Allow UDP from {source} into {to}'s firewall or security group, and out of {from}'s."
                ),
            )
        }
        Cause::HairpinMissing => (
            format!(
                "{me} and {peer} are behind one NAT ({}), which does not turn packets around, and do not reach \
                 each other inside",
                at(Some(&e.here))
            ),
            cause.cure().to_owned(),
        ),
        Cause::BothSymmetric => (
            format!("{me} and {peer} are both behind NATs that use another port for every destination"),
            format!(
                "Open UDP {} to the world on one end, with an address of its own, or give both IPv6.",
                e.port
            ),
        ),
        Cause::SymmetricAndFiltered => {
            let (hard, filtered) = hard_end(e).unwrap_or((me, peer));
            (
                format!(
                    "{hard}'s NAT uses another port for every destination, and {filtered} admits replies only"
                ),
                format!("Open UDP {} to the world on {filtered}.", e.port),
            )
        }
        Cause::NoCandidates => (format!("{peer} has no address that can be tried"), cause.cure().to_owned()),
        Cause::BlockedBetween => (
            format!("{me} and {peer} both reach the relay by UDP, but nothing passes between the two"),
            format!(
                "Allow UDP between {} and {} in both firewalls.",
                at(Some(&e.here)),
                at(e.there.as_ref())
            ),
        ),
        Cause::Unstable => (
            format!("the direct path between {me} and {peer} fails again and again"),
            cause.cure().to_owned(),
        ),
        _ => general(),
    };
    let carried = !e.is_direct() && e.is_heard() && cause.degree() == super::Degree::Degraded;
    let relayed = if carried { "; the relay carries their data" } else { "" };
    // A name stays as it is written.
    let named = verdict.starts_with(me) || verdict.starts_with(peer);
    let verdict = if named { verdict } else { capital(&verdict) };
    (format!("{verdict}{relayed}."), cure)
}

fn capital(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn endpoint(e: &Evidence) -> String {
    e.candidates.first().map_or_else(|| "the endpoint".to_owned(), ToString::to_string)
}

fn notes(cause: Cause, e: &Evidence) -> Vec<String> {
    let mut notes = Vec::new();
    match (e.there.is_some(), e.peer_answers) {
        (true, _) => {}
        (false, Some(false)) => notes.push(format!("{}'s agent is too old to say what it sees", e.peer)),
        (false, _) if e.kind == PeerKind::Member => {
            notes.push(format!("{} did not say what it sees", e.peer));
        }
        _ => {}
    }
    if let Some(own) = e.here.pairs.iter().find(|p| p.step == Step::Own) {
        let ip = own.addr.ip();
        notes.push(format!(
            "{} also offers {ip}, which is an address of {} too (a container's bridge?)",
            e.peer, e.me
        ));
    }
    if cause != Cause::MtuHole
        && let Some((whose, mtu)) = narrow_end(e)
    {
        notes.push(format!("{whose}'s uplink lets packets of {mtu} bytes pass, {FULL_DATAGRAM} are needed"));
    }
    if cause != Cause::ClockWrong
        && let Some((whose, ahead)) = wrong_clock(e)
    {
        notes.push(format!("{whose}'s clock is off by {} s", ahead.unsigned_abs()));
    }
    if matches!(e.control, Control::Down | Control::Refused | Control::Silent)
        && !matches!(cause, Cause::RelayRefused | Cause::RelayUnreachable)
    {
        notes.push("the relay's control channel is down".to_owned());
    }
    notes
}
