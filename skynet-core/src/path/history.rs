//! Paths, why one was left for another, and the memory of it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::time::Instant;

/// A way to the peer, from lane 0's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// Through a relay, to a node of the network.
    Relayed {
        /// The relay's number in the manifest.
        relay: u16,
        /// The peer's number at the relay.
        node_no: u32,
    },
    /// To the peer's address.
    Direct {
        /// Where.
        remote: SocketAddr,
    },
}

/// Why the selected path changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A relay session is up and there was no path.
    RelayUp,
    /// The relay of the pair changed.
    RelayChanged,
    /// The relay session is gone.
    RelayDown,
    /// A direct path answered.
    Validated,
    /// A suspect path answered in time.
    Recovered,
    /// Another direct path was clearly better three times.
    Better,
    /// Checks of the path went unanswered.
    ProbesLost,
    /// Nothing came on the path for 3 s of sending.
    Silent,
    /// Probes pass, data does not.
    DataLost,
    /// No traffic for 45 s; the NATs on the path may have forgotten it.
    Idle,
}

impl Reason {
    /// In the order of the wire.
    const ALL: [Self; 10] = [
        Self::RelayUp,
        Self::RelayChanged,
        Self::RelayDown,
        Self::Validated,
        Self::Recovered,
        Self::Better,
        Self::ProbesLost,
        Self::Silent,
        Self::DataLost,
        Self::Idle,
    ];

    /// Its value on the wire.
    pub fn to_wire(self) -> u8 {
        (0..).zip(Self::ALL).find(|(_, r)| *r == self).map_or(u8::MAX, |(i, _)| i)
    }

    /// The reason with this value on the wire.
    pub fn from_wire(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::RelayUp => "the relay session is up",
            Self::RelayChanged => "the pair's relay changed",
            Self::RelayDown => "the relay session is gone",
            Self::Validated => "a direct path answered",
            Self::Recovered => "the direct path answers again",
            Self::Better => "another direct path is better",
            Self::ProbesLost => "checks went unanswered",
            Self::Silent => "nothing came for 3 s of sending",
            Self::DataLost => "probes passed, data did not",
            Self::Idle => "no traffic for 45 s",
        }
    }
}

/// One change of the selected path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// When.
    pub when: Instant,
    /// The path left.
    pub from: Option<Path>,
    /// The path taken.
    pub to: Option<Path>,
    /// Why.
    pub reason: Reason,
}

/// Most changes remembered.
pub const HISTORY_CAP: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<HistoryEntry>);

impl History {
    pub(super) fn push(&mut self, entry: HistoryEntry) {
        if self.0.len() == HISTORY_CAP {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &HistoryEntry> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_wire(reason.to_wire()), Some(reason));
        }
        assert_eq!(Reason::from_wire(200), None);
    }

    #[test]
    fn keeps_the_last_thirty_two() {
        let mut history = History::default();
        for i in 0..100 {
            let when = Instant::from_nanos(i);
            history.push(HistoryEntry { when, from: None, to: None, reason: Reason::Idle });
        }
        assert_eq!(history.iter().len(), HISTORY_CAP);
        assert_eq!(history.iter().next().map(|e| e.when), Some(Instant::from_nanos(68)));
    }
}
