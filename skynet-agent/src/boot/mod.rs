//! First boot without hands: what this machine is to be, as its cloud says, in the words of the configuration file.
//!
//! ```text
//! metadata service ─▶ user-data ─┐
//! cloud-init's copy of them ─────┴▶ settings ─┐
//! metadata service ─▶ skynet-… attributes ────┴▶ below flags, environment and /etc/skynet/agent.toml
//! ```
//! Bounded in time and size, and nothing depends on it: a machine without settings runs and goes on looking.

mod user_data;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use user_data::settings_in;

use crate::cloud::{self, BootData, METADATA};
use crate::config::{BootMetadata, BootSettings};

/// Of one look in all places.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// As in the metadata service.
const MAX_USER_DATA: u64 = 256 << 10;

/// Where it is looked.
#[derive(Clone, Debug)]
pub struct Places {
    /// The metadata service.
    pub service: SocketAddr,
    /// cloud-init's copy of the user-data.
    pub cloud_init: PathBuf,
    /// What the firmware says.
    pub firmware: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            service: METADATA,
            cloud_init: "/var/lib/cloud/instance/user-data.txt".into(),
            firmware: cloud::DMI.into(),
        }
    }
}

impl Places {
    /// All settings there are, those that count more first. Takes at most [`PATIENCE`].
    pub async fn look(&self, mode: BootMetadata) -> Vec<BootSettings> {
        let only = cloud::cloud(&self.firmware);
        let asks = match mode {
            BootMetadata::Never => return Vec::new(),
            BootMetadata::Auto => only.is_some(),
            BootMetadata::Always => true,
        };
        let only = only.filter(|_| mode == BootMetadata::Auto);
        let told = async { if asks { cloud::boot_data(self.service, only).await } else { None } };
        let told = tokio::time::timeout(PATIENCE, told).await.unwrap_or_else(|_| {
            tracing::warn!("the metadata service takes longer than {PATIENCE:?}, going on without it");
            None
        });
        let mut found = Vec::new();
        found.extend(self.of_user_data(told.as_ref()));
        found.extend(told.as_ref().and_then(of_keys));
        for settings in &found {
            tracing::info!(source = settings.source, "settings found");
        }
        found
    }

    /// Of the service, which is asked now; else of cloud-init, which has asked it, or a disk, before.
    fn of_user_data(&self, told: Option<&BootData>) -> Option<BootSettings> {
        let (source, text) = match told {
            Some(BootData { cloud, user_data, .. }) => {
                (format!("{} user-data", cloud.name()), user_data.clone()?)
            }
            None => ("cloud-init user-data".to_owned(), self.cloud_init_copy()?),
        };
        Some(BootSettings { source, text: settings_in(&text)? })
    }

    fn cloud_init_copy(&self) -> Option<String> {
        let is_small = std::fs::metadata(&self.cloud_init).is_ok_and(|m| m.len() <= MAX_USER_DATA);
        if is_small { std::fs::read_to_string(&self.cloud_init).ok() } else { None }
    }
}

/// Attributes as lines of a configuration file.
fn of_keys(told: &BootData) -> Option<BootSettings> {
    let mut file = toml::Table::new();
    for (setting, value) in &told.keys {
        let value = match *setting {
            "roles" => {
                let roles = value.split(',').map(|role| role.trim().into());
                toml::Value::Array(roles.collect())
            }
            _ => value.as_str().into(),
        };
        file.insert((*setting).to_owned(), value);
    }
    let source = format!("{} attributes", told.cloud.name());
    (!file.is_empty()).then(|| BootSettings { source, text: file.to_string() })
}

#[cfg(test)]
mod tests;
