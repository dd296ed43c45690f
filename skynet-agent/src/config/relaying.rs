//! `[relaying]`: how much a member with the tag `relay` does for the others.

use serde::Deserialize;
use skynet_core::forwarder::RelayLimits;

/// Sessions at most: their tables are 300 bytes each.
const MAX_SESSIONS: usize = 16_384;

/// The section as it is written.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Relaying {
    enabled: Option<bool>,
    sessions: Option<usize>,
    session_mbit: Option<u32>,
    uplink_mbit: Option<u32>,
}

impl Relaying {
    /// What is relayed; `None`: nothing, whatever the certificate says.
    pub(super) fn limits(&self) -> Result<Option<RelayLimits>, (&'static str, String)> {
        let default = RelayLimits::default();
        let sessions = self.sessions.unwrap_or(default.sessions);
        if !(1..=MAX_SESSIONS).contains(&sessions) {
            return Err(("relaying.sessions", format!("1 to {MAX_SESSIONS}")));
        }
        let kbit = |key, mbit: Option<u32>| match mbit.unwrap_or(0).checked_mul(1_000) {
            Some(kbit) => Ok(kbit),
            None => Err((key, format!("at most {}", u32::MAX / 1_000))),
        };
        let limits = RelayLimits {
            sessions,
            session_kbit: kbit("relaying.session_mbit", self.session_mbit)?,
            uplink_kbit: kbit("relaying.uplink_mbit", self.uplink_mbit)?.into(),
        };
        Ok(self.enabled.unwrap_or(true).then_some(limits))
    }
}
