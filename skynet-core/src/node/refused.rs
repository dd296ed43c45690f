//! What relays said that this node does not believe, counted by relay and reason: a relay is a mailbox, and who runs a
//! network must see that one lies.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use crate::control::{ChannelError, DownCause};
use crate::member::CredentialsError;
use crate::member::chain::ChainError;
use crate::member::trust::TrustError;
use crate::time::{Duration, Instant};

/// Lines of the table at most: every reason for each of a few relays.
const MAX_LINES: usize = 128;
/// The same again is told no sooner than after this long; it is counted at once.
const TELL_AGAIN: Duration = Duration::from_secs(300);

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $words:literal, $lies:literal;)*) => {
        /// The one reason why a relay's word was not taken.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// A stable label for scripts.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
            /// In words, after "it showed".
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
            /// Whether an honest relay never does this. The others also happen when a member was away for long, when a clock
            /// is wrong, or when a relay has missed what another knows.
            pub const fn is_lie(self) -> bool {
                match self { $(Self::$name => $lies,)* }
            }
        }
    };
}

refusals! {
    /// Bytes that are no documents.
    Malformed = "malformed", "bytes that are no documents", true;
    /// Not signed by who had to, or at odds with what is signed: an invented member, an exchanged key.
    Forged = "forged", "documents that nobody entitled has signed", true;
    /// Of another network.
    ForeignNetwork = "foreign_network", "documents of another network", true;
    /// Over, or not begun.
    NotValidNow = "not_valid_now", "documents that are not valid now", false;
    /// A member's documents from before: a replaced key, an old record.
    OlderMember = "older_member", "older documents of a member than were known", false;
    /// One version with two contents.
    ForkedMember = "forked_member", "two versions of one document", true;
    /// An answer about somebody else.
    OtherMember = "other_member", "another member than was asked for", true;
    /// An address or a name that is somebody else's here.
    Taken = "taken", "a member with an address or name that is another's", true;
    /// A manifest that was replaced.
    OlderManifest = "older_manifest", "an older manifest than was known", false;
    /// Two manifests of one epoch, or one not by our root.
    FalseManifest = "false_manifest", "a manifest that does not hold", true;
    /// A list of revocations, or another document of the whole network, that was replaced.
    OlderDocument = "older_document", "an older document of the network than was known", false;
    /// Two of one epoch, or one that nobody entitled has signed.
    FalseDocument = "false_document", "a document of the network that does not hold", true;
    /// A newer document of the network that another member holds, and the relay has not shown.
    Withheld = "withheld", "less than it knows or should: a member had a newer document of the network", false;
    /// A member that the operator has taken back.
    Revoked = "revoked", "a member that was revoked", false;
    /// An admission receipt that is not for us.
    FalseReceipt = "false_receipt", "an admission receipt that is not for this node", true;
    /// A ticket that is not for us.
    FalseTicket = "false_ticket", "a ticket of another node", true;
    /// A list that does not come to its end.
    EndlessList = "endless_list", "a list of members that goes round in a circle", true;
    /// A clock far from ours.
    OtherTime = "other_time", "a time more than five minutes from this machine's", false;
    /// Bytes on the channel that its key did not seal.
    BrokenChannel = "broken_channel", "bytes that its key has not sealed", true;
}

impl From<ChainError> for Refusal {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::ForeignNetwork(_) => Self::ForeignNetwork,
            ChainError::Expired(_) | ChainError::NotYetValid(_) => Self::NotValidNow,
            ChainError::Revoked => Self::Revoked,
            _ => Self::Forged,
        }
    }
}

impl From<&TrustError> for Refusal {
    fn from(error: &TrustError) -> Self {
        match error {
            TrustError::OlderManifest { .. } => Self::OlderManifest,
            TrustError::NotPinned { .. } => Self::ForeignNetwork,
            TrustError::Genesis(_)
            | TrustError::Manifest(_)
            | TrustError::ForeignManifest(_)
            | TrustError::ForkedManifest(_) => Self::FalseManifest,
            TrustError::OlderDocument { .. } => Self::OlderDocument,
            TrustError::ForeignDocument(..) => Self::ForeignNetwork,
            TrustError::FromTheFuture(_) => Self::NotValidNow,
            TrustError::NoSuchDocument
            | TrustError::Document(_)
            | TrustError::NotEntitled(_)
            | TrustError::ForkedDocument(..) => Self::FalseDocument,
        }
    }
}

impl From<&CredentialsError> for Refusal {
    fn from(_: &CredentialsError) -> Self {
        Self::FalseReceipt
    }
}

impl Refusal {
    /// What the end of a control channel says of the relay, if anything.
    pub(super) fn of_down(cause: DownCause) -> Option<Self> {
        match cause {
            DownCause::Channel(ChannelError::Overflow | ChannelError::NotEstablished) => None,
            DownCause::Channel(_) => Some(Self::BrokenChannel),
            DownCause::Message(_) => Some(Self::Malformed),
            DownCause::ConnectTimeout
            | DownCause::Closed
            | DownCause::HandshakeTimeout
            | DownCause::Refused
            | DownCause::Unresponsive => None,
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The relay, by the address it was reached at.
    pub relay: SocketAddr,
    /// What it did.
    pub reason: Refusal,
    /// How often since the start.
    pub count: u64,
    /// When last.
    pub last: Instant,
}

/// The table.
#[derive(Clone, Default, Debug)]
pub(super) struct RefusedTable(BTreeMap<(SocketAddr, Refusal), Line>);

#[derive(Clone, Copy, Debug)]
struct Line {
    count: u64,
    last: Instant,
    told: Instant,
}

impl RefusedTable {
    /// Counts one. True if somebody should be told: the first of its kind, or the first in a while.
    pub(super) fn count(&mut self, relay: SocketAddr, reason: Refusal, now: Instant) -> bool {
        if let Some(line) = self.0.get_mut(&(relay, reason)) {
            line.count += 1;
            line.last = now;
            let tell = now.saturating_since(line.told) >= TELL_AGAIN;
            if tell {
                line.told = now;
            }
            return tell;
        }
        let room = self.0.len() < MAX_LINES;
        if room {
            self.0.insert((relay, reason), Line { count: 1, last: now, told: now });
        }
        room
    }

    /// By relay, then in the order of reasons.
    pub(super) fn lines(&self) -> Vec<Refused> {
        let line = |(&(relay, reason), line): (&(SocketAddr, Refusal), &Line)| Refused {
            relay,
            reason,
            count: line.count,
            last: line.last,
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_told_once_in_a_while() {
        let relay: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        let mut table = RefusedTable::default();
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let told = (0..601).filter(|s| table.count(relay, Refusal::Forged, at(*s))).count();
        assert_eq!(told, 3);
        assert!(table.count(relay, Refusal::Taken, at(601)));
        let lines = table.lines();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].reason, lines[0].count, lines[0].last), (Refusal::Forged, 601, at(600)));
    }

    #[test]
    fn a_relay_with_many_addresses_does_not_fill_the_memory() {
        let mut table = RefusedTable::default();
        for port in 1..=1_000 {
            table.count(([192, 0, 2, 1], port).into(), Refusal::Forged, Instant::ZERO);
        }
        assert_eq!(table.lines().len(), MAX_LINES);
    }

    #[test]
    fn labels_are_told_apart() {
        let labels: std::collections::BTreeSet<&str> = Refusal::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
