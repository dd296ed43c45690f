//! Membership: who belongs to the network, and how a stranger can check it (docs/PROTOCOL.md §3).
//!
//! ```text
//! root key ─ signs ─▶ genesis ── HASH ──▶ root_pin, carried by every token and pinned by every node
//!    │                manifest {epoch, issuers, registrars, relays, IPv4 range}
//!    └─ or an issuer ─▶ delegation {token key, pool, tags, name pattern}          the join token carries its seed
//!                          └─ token key ─▶ certificate {identity, name, IPv4}     made by the node at first boot
//!                                            └─ identity ─▶ binding {X25519}, record {endpoints}
//!       registrar ─▶ receipt {identity, X25519, name, IPv4, token}, freshness {epochs in force}
//!    root key, or an issuer ─▶ revocations {nodes, tokens}, policy {rules}
//! ```
//!
//! Nothing here trusts the relay that delivers the documents. A token without a registrar's receipt, or a registrar
//! without a token, makes no member: [`NetworkTrust::verify_member`] is the only way to a [`Member`].

pub mod address;
pub mod bundle;
pub mod certificate;
pub mod chain;
pub mod credentials;
pub mod document;
pub mod enrol;
pub mod freshness;
pub mod issued;
pub mod manifest;
pub mod name;
pub mod policy;
pub mod record;
pub mod revocation;
pub mod rotation;
pub mod tlv;
pub mod token;
pub mod trust;

pub use address::{Ipv4Prefix, NetworkId, RootPin, TokenId};
pub use bundle::Bundle;
pub use certificate::{Certificate, Delegation};
pub use chain::{Candidate, ChainError, Member};
pub use credentials::{Credentials, CredentialsError};
pub use document::{DocumentError, Signed, Verified};
pub use enrol::{Enrolment, NodeIdentity};
pub use freshness::Freshness;
pub use manifest::{Genesis, Manifest, RelayEntry};
pub use name::{Name, NamePattern, Tags};
pub use policy::{Policy, Rule, Service};
pub use record::{Binding, Endpoint, Receipt, Record, RelayRtt};
pub use revocation::{Extent, Revocations, RevokedNode, RevokedToken};
pub use token::{JoinToken, TokenError, TokenRelay};
pub use trust::NetworkTrust;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
