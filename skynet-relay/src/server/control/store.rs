//! What the machine asks of the store and the registrar, and what they answer.

use skynet_core::control::DeniedCode;
use skynet_core::control::message::{ConflictWhat, Lookup};
use skynet_core::key::{Identity, PublicKey};
use skynet_core::member::Tags;

use crate::registrar::Ousted;

/// Something for the store or the registrar. `id` comes back with the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreRequest {
    /// To be given to [`ControlServer::handle_store_reply`](super::ControlServer::handle_store_reply).
    pub id: u64,
    /// What to do.
    pub op: StoreOp,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Admit or renew the member whose session key the handshake has proven.
    Join {
        /// Delegation, certificate, binding, maybe receipt and record.
        bundle: Vec<u8>,
        /// The proven key; the binding must name it.
        key: PublicKey,
    },
    /// Store a node record of `identity`.
    Update {
        /// The member's network.
        network_id: [u8; 8],
        /// Who asks; the record must be its own.
        identity: Identity,
        /// Its proven session key.
        key: PublicKey,
        /// The record.
        record: Vec<u8>,
    },
    /// Find a member.
    Get {
        /// Where to look.
        network_id: [u8; 8],
        /// Whom to look for.
        lookup: Lookup,
    },
    /// Members in order of node number.
    List {
        /// Where to look.
        network_id: [u8; 8],
        /// Only those above this number.
        after: u32,
        /// At most this many.
        limit: u16,
    },
    /// The manifest in force, for another relay.
    Manifest,
    /// Another relay's directory says so. Nobody is answered.
    Learn {
        /// Documents of members.
        bundles: Vec<Vec<u8>>,
    },
    /// A document of the network that may be newer than ours, from another relay or from the operator. Answered as
    /// `InForce`.
    Adopt {
        /// The document.
        document: Vec<u8>,
    },
    /// Which documents are in force, and who was put out by them.
    InForce,
    /// Which ephemeral members there are, if this relay's registrar is who forgets them.
    Ephemeral,
    /// The member leaves for good.
    Leave {
        /// The member's network.
        network_id: [u8; 8],
        /// Who leaves.
        identity: Identity,
        /// Its proven session key.
        key: PublicKey,
    },
}

/// A member, as the directory has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enrolled {
    /// The network.
    pub network_id: [u8; 8],
    /// The member.
    pub identity: Identity,
    /// Its overlay IPv4 address as a number.
    pub node_no: u32,
    /// Its session key.
    pub key: PublicKey,
    /// Its certificate's tags,
    pub tags: Tags,
    /// what tells that certificate from others,
    pub mark: u32,
    /// and whether it is forgotten when it is gone.
    pub ephemeral: bool,
}

/// What the registrar made of a JOIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Who has joined.
    pub who: Enrolled,
    /// Its documents, if everybody is to have them at once: those of a member that relays, and was not known to.
    pub announce: Option<Vec<u8>>,
    /// The admission receipt.
    pub receipt: Vec<u8>,
    /// The genesis document.
    pub genesis: Vec<u8>,
    /// The manifest in force.
    pub manifest: Vec<u8>,
}

/// A member found by LIST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The member.
    pub identity: Identity,
    /// Its documents.
    pub bundle: Vec<u8>,
}

/// The store's answer, given when what it says is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreReply {
    /// JOIN: admitted.
    Joined(Box<Joined>),
    /// JOIN: taken by another.
    Conflict(ConflictWhat),
    /// Any: no.
    Denied(DeniedCode, String),
    /// UPDATE: stored under this version. LEAVE: 0.
    Done(u64),
    /// GET: found.
    Found(Listed),
    /// GET: nobody.
    NotFound,
    /// LIST: some, and whether there are more.
    Listed(bool, Vec<Listed>),
    /// The manifest.
    Manifest(Vec<u8>),
    /// What is in force, whoever asked.
    InForce(Box<InForce>),
    /// The ephemeral members of the directory.
    Ephemeral(Vec<Enrolled>),
}

/// What holds in the network now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// Which network.
    pub network_id: [u8; 8],
    /// The documents that members are told, in the order in which they must be taken: the manifest first.
    pub documents: Vec<Vec<u8>>,
    /// Who was revoked, as long as it may hold a ticket.
    pub ousted: Vec<Ousted>,
    /// The keys of the network's relays.
    pub relays: Vec<PublicKey>,
}
