//! Why is it as it is, and what would set it right: a pure function from evidence to a verdict.
//!
//! ```text
//! path agents, sessions, directory ─┐
//! the other end's own VIEW ─────────┼─▶ Evidence ─▶ diagnose ─▶ Diagnosis {cause, verdict, cure, notes}    `why`
//! the shell's look at the network ──┤
//!                                   └─▶ NetworkEvidence ─▶ examine ─▶ HostView and findings                `netcheck`
//! ```
//! One table of causes ([`Cause`]) serves both, and the documentation. The rules are tried in order: what makes other
//! evidence worthless comes first (no membership, a wrong clock, no relay), then what concerns one end, then the pair.

mod cause;
mod evidence;
mod network;
#[cfg(test)]
mod network_tests;
mod rules;
#[cfg(test)]
mod rules_tests;

pub use cause::{Cause, Degree, table};
pub use evidence::{
    Change, Cloud, Control, Echo, End, Evidence, Filtering, HostView, MAX_CHANGES, MAX_PAIRS, Mapping,
    PairView, PeerKind, Udp, Way,
};
pub use network::{
    Finding, NetworkEvidence, Observation, RelayProbe, StreamProbe, TcpProbe, examine, host_view,
};
pub use rules::{CLOCK_TOLERANCE_S, FULL_DATAGRAM, diagnose};

/// What [`diagnose`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    /// From the table.
    pub cause: Cause,
    /// What is the case, in a sentence with names and addresses.
    pub verdict: String,
    /// The one change that would set it right.
    pub cure: String,
    /// What else was seen that somebody should know.
    pub notes: Vec<String>,
}

/// An end that has something in every field.
#[cfg(test)]
pub(crate) fn sample_end() -> End {
    use crate::path::{CandidateKind, Reason, Step};
    let addr = "198.51.100.7:41820".parse().expect("an address");
    let pair = |kind, step| PairView { kind, addr, step, sent: 10, answered: 3 };
    let change = |to, reason| Change { age: crate::time::Duration::from_secs(9), to, reason };
    End {
        host: HostView {
            udp: Udp::Works,
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressDependent,
            port_delta: -3,
            translated: Some(true),
            preserves_port: Some(false),
            hairpin: Some(false),
            mtu: Some(1500),
            cloud: Cloud::Aws,
            port_block: true,
        },
        relay_up: true,
        observed: Some(addr),
        clock_ahead_s: Some(-301),
        pairs: vec![
            pair(CandidateKind::ServerReflexive, Step::Selected),
            pair(CandidateKind::Host, Step::Heard),
        ],
        changes: vec![
            change(None, Reason::RelayDown),
            change(Some(Way::Relay(1)), Reason::RelayUp),
            change(Some(Way::Direct(addr)), Reason::Validated),
        ],
    }
}
