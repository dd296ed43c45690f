//! `[trust]`: what a node believes for how long, and how long its session key lives.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::units::parse_duration;

/// Below, handshakes after each change would be a load; above is what a key lives anyway, or nearly.
const KEY_LIFETIME: RangeInclusive<Duration> = Duration::from_secs(20)..=Duration::from_secs(86_400);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trust {
    pub(super) fail_closed: bool,
    key_lifetime: Option<String>,
}

impl Trust {
    pub(super) fn key_lifetime(&self) -> Result<Option<Duration>, (&'static str, String)> {
        let key = "trust.key_lifetime";
        let lifetime = self.key_lifetime.as_deref().map(parse_duration).transpose().map_err(|e| (key, e))?;
        match lifetime {
            Some(lifetime) if !KEY_LIFETIME.contains(&lifetime) => {
                Err((key, "must be from 20s to 24h; leave it out for seven days".to_owned()))
            }
            lifetime => Ok(lifetime),
        }
    }
}
