//! `[hooks]`: programs to be run when members come and go.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use skynet_core::member::Tags;

use super::parse_duration;

/// A program that takes longer is ended.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that may be asked for.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HooksSection {
    directory: Option<PathBuf>,
    roles: Vec<String>,
    timeout: Option<String>,
}

/// What is run, and for whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hooks {
    /// Its programs, in the order of their names.
    pub directory: PathBuf,
    /// Only for members with one of these roles; for everybody if there are none.
    pub roles: Tags,
    /// How long each may take.
    pub timeout: Duration,
}

impl HooksSection {
    /// Whether anything is said of hooks.
    pub(super) fn is_given(&self) -> bool {
        self.directory.is_some() || !self.roles.is_empty() || self.timeout.is_some()
    }

    /// `directory` of flag or environment beats the file's.
    pub(super) fn check(self, directory: Option<PathBuf>) -> Result<Option<Hooks>, (&'static str, String)> {
        let roles = Tags::new(&self.roles).map_err(|e| ("hooks.roles", e.to_string()))?;
        let timeout = self.timeout.as_deref().map(parse_duration).transpose();
        let timeout = timeout.map_err(|e| ("hooks.timeout", e))?.unwrap_or(TIMEOUT);
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            return Err(("hooks.timeout", "must be more than nothing and at most 10m".to_owned()));
        }
        let Some(directory) = directory.or(self.directory) else { return Ok(None) };
        if !directory.is_absolute() {
            return Err(("hooks.directory", "must begin with /".to_owned()));
        }
        Ok(Some(Hooks { directory, roles, timeout }))
    }
}
