//! Who may ask what: one table for every method of the control channel, by the key proven in the handshake.

use skynet_core::key::{Identity, PublicKey};

use super::{DenyCode, Refusal};

/// The requests of the control channel (docs/PROTOCOL.md §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Admission.
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
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// The handshake is not finished.
    Unproven,
    /// A key was proven, and it is no member's.
    Stranger(PublicKey),
    /// The key of a member was proven.
    Member {
        /// The key.
        proven: PublicKey,
        /// Whose it is.
        identity: Identity,
        /// Its number at the relay.
        node_no: u32,
    },
}

/// Least standing that a method asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Standing {
    Nobody,
    Proven,
    Member,
}

const TABLE: [(Method, Standing); 6] = [
    (Method::Join, Standing::Proven),
    (Method::Ping, Standing::Proven),
    (Method::Update, Standing::Member),
    (Method::Get, Standing::Member),
    (Method::List, Standing::Member),
    (Method::Leave, Standing::Member),
];

/// Whether `caller` may use `method`. What the method then touches is bound to the proven key by its own decision.
pub fn authorise(method: Method, caller: &Caller) -> Result<(), Refusal> {
    let standing = match caller {
        Caller::Unproven => Standing::Nobody,
        Caller::Stranger(_) => Standing::Proven,
        Caller::Member { .. } => Standing::Member,
    };
    let needed = TABLE.iter().find(|(m, _)| *m == method).map_or(Standing::Member, |(_, needed)| *needed);
    if standing >= needed {
        Ok(())
    } else if standing == Standing::Nobody {
        Err(Refusal::denied(DenyCode::NotProven, "no key was proven"))
    } else {
        Err(Refusal::denied(DenyCode::NotJoined, "this node is not in the directory: join first"))
    }
}
