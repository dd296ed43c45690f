//! What is known of one path: checks outstanding, round-trip time, data counters; and of one candidate pair.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::candidate::Candidate;
use super::check::Check;
use super::mtu::PathMtu;
use super::rtt::Rtt;
use crate::id::PortNo;
use crate::time::{Duration, Instant};

/// Most unanswered PINGs remembered per path; the oldest is forgotten.
const OUTSTANDING: usize = 16;
/// Data messages that must have been sent before their absence at the peer means something.
const DATA_LOST_MIN: u32 = 20;
/// Data sent just before a PING may be counted just after it: look again after this long before believing.
pub(super) const DATA_LOST_CONFIRM: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    txid: u64,
    pub sent: Instant,
    pub tx_data: u32,
}

/// A point of comparison for the data counters.
#[derive(Clone, Debug)]
struct Echo {
    sent: Instant,
    tx: u32,
    rx: u32,
}

/// What a PONG's counters say about the data on the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DataVerdict {
    Fine,
    /// Looks lost; ask again after [`DATA_LOST_CONFIRM`].
    Doubtful,
    Lost,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    outstanding: VecDeque<Outstanding>,
    pub rtt: Rtt,
    /// Last authentic probe on this path.
    pub last_rx: Option<Instant>,
    pub last_ping: Option<Instant>,
    pub last_pong: Option<Instant>,
    /// PINGs since the last PONG.
    pub unanswered: u32,
    /// All PINGs sent,
    pub pings: u32,
    /// and answered.
    pub pongs: u32,
    echo: Option<Echo>,
    doubt: Option<Instant>,
    /// How large its datagrams may be.
    pub mtu: PathMtu,
}

impl Link {
    pub(super) fn sent(&mut self, txid: u64, tx_data: u32, now: Instant) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { txid, sent: now, tx_data });
        self.last_ping = Some(now);
        self.unanswered += 1;
        self.pings = self.pings.saturating_add(1);
    }

    #[cfg(test)]
    pub(super) fn last_txid(&self) -> Option<u64> {
        self.outstanding.back().map(|o| o.txid)
    }

    pub(super) fn is_outstanding(&self, txid: u64) -> bool {
        self.outstanding.iter().any(|o| o.txid == txid)
    }

    /// Takes the outstanding PING with this ID and learns from the answer.
    pub(super) fn answered(&mut self, txid: u64, now: Instant) -> Option<Outstanding> {
        let i = self.outstanding.iter().position(|o| o.txid == txid)?;
        let ping = self.outstanding.remove(i)?;
        self.rtt.sample(now - ping.sent);
        self.last_rx = Some(now);
        self.last_pong = Some(now);
        self.unanswered = 0;
        self.pongs = self.pongs.saturating_add(1);
        Some(ping)
    }

    /// Compares my count at the PING with the peer's at the PONG. The point of comparison moves only when the
    /// peer's count does, so slow traffic is judged too.
    pub(super) fn judge_data(&mut self, ping: &Outstanding, peer_rx: u32, now: Instant) -> DataVerdict {
        let Some(echo) = self.echo.as_ref().filter(|e| e.rx == peer_rx) else {
            if self.echo.as_ref().is_none_or(|e| e.sent < ping.sent) {
                self.echo = Some(Echo { sent: ping.sent, tx: ping.tx_data, rx: peer_rx });
                self.doubt = None;
            }
            return DataVerdict::Fine;
        };
        if ping.sent <= echo.sent || (ping.tx_data.wrapping_sub(echo.tx).cast_signed()) < DATA_LOST_MIN as i32
        {
            return DataVerdict::Fine;
        }
        match self.doubt {
            Some(since) if ping.sent > since => DataVerdict::Lost,
            Some(_) => DataVerdict::Fine,
            None => {
                self.doubt = Some(now);
                DataVerdict::Doubtful
            }
        }
    }

    /// The path is taken anew: what was counted before says nothing.
    pub(super) fn forget_data(&mut self) {
        self.echo = None;
        self.doubt = None;
    }
}

/// Who named the pair's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The peer's signed record, or the operator.
    Record,
    /// The peer's CALL.
    Call,
    /// The source of a PING and nobody else.
    Source,
}

/// A candidate pair (RFC 8445 §5.2): a socket of ours and one remote candidate.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub id: u16,
    /// The agent's own, or the one of many by which a guess came in.
    pub socket: Option<PortNo>,
    pub candidate: Candidate,
    pub origin: Origin,
    pub link: Link,
    /// Which address of ours the peer reaches from there, if we have several: what we send leaves from it. It changes
    /// only while the pair does not answer, so nobody who repeats a PING to another address of ours moves a path.
    pub local: Option<IpAddr>,
    /// Answered, and not failed since.
    pub valid: bool,
    /// Answered once: worth trying again and again.
    pub proven: bool,
    /// Not to be selected before.
    pub hold_until: Instant,
    pub failed_at: Option<Instant>,
    pub relapses: u32,
    pub demotions: u32,
    pub check: Option<Check>,
    pub opener_at: Option<Instant>,
    /// Consecutive samples clearly better than the selected pair's.
    pub better: u32,
}

impl Pair {
    pub(super) fn new(id: u16, candidate: Candidate, origin: Origin) -> Self {
        Self {
            id,
            socket: None,
            candidate,
            origin,
            link: Link::default(),
            local: None,
            valid: false,
            proven: false,
            hold_until: Instant::ZERO,
            failed_at: None,
            relapses: 0,
            demotions: 0,
            check: None,
            opener_at: None,
            better: 0,
        }
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.valid && self.hold_until <= now
    }

    /// Nothing the first time, so that what is restored is used at once; twenty seconds, doubled, for each failure within
    /// two minutes of the last: a path that comes and goes is left alone longer each time, so it changes at most about
    /// once a minute.
    pub(super) fn fail(&mut self, now: Instant) {
        self.valid = false;
        let again =
            self.failed_at.is_some_and(|at| now - at < Duration::from_secs(120) * (1 << self.relapses));
        self.relapses = if again { (self.relapses + 1).min(4) } else { 0 };
        self.failed_at = Some(now);
        if again {
            self.hold(now);
        }
    }

    pub(super) fn hold(&mut self, now: Instant) {
        if self.relapses > 0 {
            self.hold_until = self.hold_until.max(now + Duration::from_secs(10) * (1 << self.relapses));
        }
    }

    /// This host is in another network: what failed in the one before may work here.
    pub(super) fn forgive(&mut self) {
        (self.failed_at, self.relapses) = (None, 0);
        if self.demotions == 0 {
            self.hold_until = Instant::ZERO;
        }
    }

    /// Probes pass, data does not: one minute, doubled up to ten.
    pub(super) fn demote(&mut self, now: Instant) {
        self.valid = false;
        let secs = (60u64 << self.demotions).min(600);
        self.demotions = (self.demotions + 1).min(4);
        self.hold_until = now + Duration::from_secs(secs);
        self.link.forget_data();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn pong(link: &mut Link, txid: u64, tx: u32, peer_rx: u32, ms: u64) -> DataVerdict {
        link.sent(txid, tx, at(ms));
        let ping = link.answered(txid, at(ms + 20)).unwrap();
        link.judge_data(&ping, peer_rx, at(ms + 20))
    }

    #[test]
    fn vanished_data_is_believed_at_the_second_look() {
        let mut link = Link::default();
        assert_eq!(pong(&mut link, 1, 100, 90, 0), DataVerdict::Fine);
        assert_eq!(pong(&mut link, 2, 200, 190, 2000), DataVerdict::Fine);
        assert_eq!(pong(&mut link, 3, 300, 190, 4000), DataVerdict::Doubtful);
        assert_eq!(pong(&mut link, 4, 320, 190, 4270), DataVerdict::Lost);
    }

    #[test]
    fn data_in_flight_at_the_first_look_is_forgiven_at_the_second() {
        let mut link = Link::default();
        assert_eq!(pong(&mut link, 1, 100, 90, 0), DataVerdict::Fine);
        assert_eq!(pong(&mut link, 2, 200, 90, 2000), DataVerdict::Doubtful);
        assert_eq!(pong(&mut link, 3, 200, 190, 2270), DataVerdict::Fine);
        assert_eq!(pong(&mut link, 4, 215, 190, 4270), DataVerdict::Fine, "too little to judge");
    }

    #[test]
    fn counters_wrap() {
        let mut link = Link::default();
        assert_eq!(pong(&mut link, 1, u32::MAX - 5, 7, 0), DataVerdict::Fine);
        assert_eq!(pong(&mut link, 2, 20, 7, 2000), DataVerdict::Doubtful);
    }

    #[test]
    fn an_answer_counts_once() {
        let mut link = Link::default();
        link.sent(1, 0, at(0));
        assert!(link.answered(2, at(1)).is_none());
        assert!(link.answered(1, at(1)).is_some());
        assert!(link.answered(1, at(2)).is_none());
        for txid in 0..100 {
            link.sent(txid, 0, at(3));
        }
        assert_eq!(link.outstanding.len(), OUTSTANDING);
    }
}
