//! Who may ask what: one table for every request of the control channel, by the key proven in the handshake. What a request
//! then touches is bound to that key by the registrar.

use skynet_core::control::Message;

/// The requests of the control channel (docs/PROTOCOL.md §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Admission, or renewal.
    Join,
    /// Liveness.
    Ping,
    /// A new record of oneself.
    Update,
    /// One member's documents.
    Get,
    /// Many members' documents.
    List,
    /// Leaving the directory.
    Leave,
    /// Which documents are in force.
    GetManifest,
    /// To be told who comes and goes.
    Watch,
    /// Its process ends.
    Bye,
    /// When its process began; before JOIN.
    Start,
    /// The answer to the relay's own PING.
    Pong,
}

/// Who asks. Before the handshake has proven a key nothing is read at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A key was proven and nobody has joined by it on this connection: a stranger, a member that is about to join, or one
    /// that was revoked.
    Pending,
    /// The key of another relay of the manifest.
    Relay,
    /// A member that has joined on this connection.
    Member,
}

/// Method, and whether who is pending, another relay, a member may use it.
const TABLE: [(Method, [bool; 3]); 11] = [
    (Method::Join, [true, true, true]),
    (Method::Ping, [true, true, true]),
    (Method::Update, [false, false, true]),
    (Method::Get, [false, true, true]),
    (Method::List, [false, true, true]),
    (Method::Leave, [false, false, true]),
    (Method::GetManifest, [false, true, false]),
    (Method::Watch, [false, false, true]),
    (Method::Bye, [false, false, true]),
    (Method::Start, [true, true, true]),
    (Method::Pong, [true, true, true]),
];

impl Method {
    /// What a message asks; `None` for what only a relay says.
    pub fn of(message: &Message) -> Option<Self> {
        match message {
            Message::Join(_) => Some(Self::Join),
            Message::Ping(_) => Some(Self::Ping),
            Message::Update(_) => Some(Self::Update),
            Message::Get(_) => Some(Self::Get),
            Message::List { .. } => Some(Self::List),
            Message::Leave => Some(Self::Leave),
            Message::GetManifest => Some(Self::GetManifest),
            Message::Watch(_) => Some(Self::Watch),
            Message::Bye => Some(Self::Bye),
            Message::Start(_) => Some(Self::Start),
            Message::Pong(_) => Some(Self::Pong),
            Message::Welcome(_)
            | Message::Denied(..)
            | Message::Conflict(_)
            | Message::Ack(_)
            | Message::Peer(_)
            | Message::NoPeer
            | Message::Members { .. }
            | Message::Roll(_)
            | Message::Manifest(_)
            | Message::Document(_) => None,
        }
    }

    /// Whether the table lets `standing` use it.
    pub fn is_open_to(self, standing: Standing) -> bool {
        let row = TABLE.iter().find(|(method, _)| *method == self);
        row.is_some_and(|(_, [pending, relay, member])| match standing {
            Standing::Pending => *pending,
            Standing::Relay => *relay,
            Standing::Member => *member,
        })
    }
}

#[cfg(test)]
#[path = "methods_tests.rs"]
mod tests;
