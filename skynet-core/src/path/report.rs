//! What a path agent can tell of each candidate pair, for whoever asks why the path is as it is.

use super::agent::PathAgent;
use super::candidate::{Candidate, CandidateKind, is_probe_target};
use super::history::Path;
use super::link::Pair;
use crate::time::{Instant, Now};
use std::net::SocketAddr;

/// How far a candidate pair got, worst first, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Step {
    /// An address that is never probed: loopback, link-local, metadata, multicast, the overlay's own.
    Refused = 0,
    /// An address of ours.
    Own = 1,
    /// Not tried.
    NeverSent = 2,
    /// PINGs were sent, nothing came.
    Unanswered = 3,
    /// The peer's packets come from there, our PINGs are not answered.
    Heard = 4,
    /// It has answered, and failed: not taken before its time is over.
    OnHold = 5,
    /// PINGs pass, data does not: not taken before its time is over.
    DataLost = 6,
    /// It answers.
    Answered = 7,
    /// It answers and carries the data.
    Selected = 8,
}

impl Step {
    /// The step with this value on the wire.
    pub fn from_wire(value: u8) -> Option<Self> {
        use Step::{Answered, DataLost, Heard, NeverSent, OnHold, Own, Refused, Selected, Unanswered};
        let all = [Refused, Own, NeverSent, Unanswered, Heard, OnHold, DataLost, Answered, Selected];
        all.get(usize::from(value)).copied()
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused: never probed",
            Self::Own => "an address of this machine too",
            Self::NeverSent => "never sent",
            Self::Unanswered => "sent, no answer",
            Self::Heard => "peer heard from there, but no answer to us",
            Self::OnHold => "on hold after it failed",
            Self::DataLost => "demoted: probes pass, data does not",
            Self::Answered => "answers",
            Self::Selected => "in use",
        }
    }
}

/// One candidate pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairReport {
    /// How the address was learned.
    pub kind: CandidateKind,
    /// The peer's address.
    pub addr: SocketAddr,
    /// How far it got.
    pub step: Step,
    /// PINGs sent,
    pub sent: u32,
    /// and answered.
    pub answered: u32,
}

impl Pair {
    fn step(&self, selected: Option<Path>, now: Instant) -> Step {
        let held = self.hold_until > now;
        if selected == Some(Path::Direct { remote: self.candidate.addr }) {
            Step::Selected
        } else if held && self.demotions > 0 {
            Step::DataLost
        } else if held {
            Step::OnHold
        } else if self.valid {
            Step::Answered
        } else if self.link.pings == 0 {
            Step::NeverSent
        } else if self.link.last_rx > self.link.last_pong {
            Step::Heard
        } else {
            Step::Unanswered
        }
    }
}

impl PathAgent {
    /// Every address the peer was known to have, with what became of it; best first, then those never probed. `known`
    /// are the addresses it has told of otherwise.
    pub fn report(&self, known: &[Candidate], now: Now) -> Vec<PairReport> {
        let of_pair = |p: &Pair| PairReport {
            kind: p.candidate.kind,
            addr: p.candidate.addr,
            step: p.step(self.selected(), now.mono),
            sent: p.link.pings,
            answered: p.link.pongs,
        };
        let mut all: Vec<PairReport> = self.pairs().iter().map(of_pair).collect();
        for c in known.iter().chain(self.called()) {
            if all.iter().any(|p| p.addr == c.addr) {
                continue;
            }
            let step = if !is_probe_target(&c.addr, self.overlay()) {
                Step::Refused
            } else if self.is_this_host(c.addr) {
                Step::Own
            } else {
                Step::NeverSent
            };
            all.push(PairReport { kind: c.kind, addr: c.addr, step, sent: 0, answered: 0 });
        }
        all.sort_by_key(|p| core::cmp::Reverse(p.step));
        all
    }
}
