//! What a machine's metadata says of the agent, below flags, environment and file.

use clap::ValueEnum;
use serde::Deserialize;

use super::file::File;

/// Whether the cloud is asked for settings that nobody else gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BootMetadata {
    /// Where the firmware says that this is a cloud's machine: elsewhere a stranger may answer at the same address.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// Settings found in one place.
#[derive(Clone, PartialEq, Eq)]
pub struct BootSettings {
    /// Where: `EC2 user-data`.
    pub source: String,
    /// What, as in the configuration file. May hold the join token.
    pub text: String,
}

/// Not the text.
impl std::fmt::Debug for BootSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootSettings").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A file's content; the error has the line and not its text, which may hold a secret.
pub(super) fn parse(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", e.message())
    })
}

/// The file, and what is not said there as the first of these says it.
pub(super) fn lay_over(file: File, below: &[BootSettings]) -> File {
    let mut lower = File::default();
    for settings in below {
        let parsed = parse(&settings.text);
        // Each is judged by itself, so that a bad one spoils no other.
        let parsed = parsed.and_then(|settings| {
            File::default().over(settings).map_err(|key| format!("{key} is not for metadata to say"))
        });
        match parsed {
            Ok(settings) => lower = lower.over(settings).unwrap_or_else(|_| unreachable!("judged just now")),
            Err(what) => tracing::warn!(source = settings.source, what, "settings not used"),
        }
    }
    file.over(lower).unwrap_or_else(|_| unreachable!("made of judged ones"))
}
