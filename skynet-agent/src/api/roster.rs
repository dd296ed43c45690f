//! Who is in the network: `hosts/1`. Stable within version 1.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use skynet_core::member::Tags;
use skynet_core::node::{RosterMember, RosterView};

/// The answer to `roster`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RosterReport {
    /// Always `hosts/1`.
    pub schema: String,
    /// Where the agent is on its way, as in `status/1`.
    pub state: super::AgentState,
    /// One sentence about what it waits for or what went wrong.
    pub message: Option<String>,
    /// The network's name.
    pub network: Option<String>,
    /// Rises with every change, until the agent is restarted.
    pub revision: u64,
    /// Whether the relay has told of everybody asked for who is there. `false` at first, for a moment; and without a relay.
    pub complete: bool,
    /// By name; `null` if nothing has changed since the revision that was named.
    pub members: Option<Vec<MemberReport>>,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its name, an LDH label.
    pub name: String,
    /// Its overlay IPv4 address.
    pub ipv4: String,
    /// Its overlay IPv6 address.
    pub ipv6: String,
    /// Its roles: the tags of its certificate.
    pub roles: BTreeSet<String>,
    /// It is forgotten when it stops.
    pub ephemeral: bool,
    /// Whether it is there, says the relay.
    pub online: bool,
    /// It is this node.
    #[serde(rename = "self")]
    pub own: bool,
}

impl MemberReport {
    pub(crate) fn new(member: &RosterMember) -> Self {
        Self {
            name: member.name.to_string(),
            ipv4: member.v4.to_string(),
            ipv6: member.v6.to_string(),
            roles: member.tags.iter().map(str::to_owned).collect(),
            ephemeral: member.ephemeral,
            online: member.online,
            own: member.own,
        }
    }
}

/// Those of `view` who have one of these tags, everybody if there are none.
pub(crate) fn members_with<'a>(
    view: &'a RosterView,
    tags: &'a Tags,
) -> impl Iterator<Item = &'a RosterMember> {
    let wanted = |m: &&RosterMember| tags.is_empty() || m.tags.iter().any(|tag| tags.contains(tag));
    view.members.iter().filter(wanted)
}
