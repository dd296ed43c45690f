//! Several networks on one machine: what the further ones are called, and where the agent keeps what is theirs.
//!
//! ```text
//!                     the machine's network          a further one, NAME
//! settings            /etc/skynet/agent.toml         /etc/skynet/networks/NAME.toml
//! state               /var/lib/skynet                /var/lib/skynet/networks/NAME
//! control socket      /run/skynet/agent.sock         /run/skynet/networks/NAME.sock
//! interface           skynet0                        sky-NAME
//! UDP port            41820                          any that is free
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use skynet_core::member::Name;

use super::{DEFAULT_CONFIG, DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// Networks of one agent besides the first.
pub const MAX_NETWORKS: usize = 16;
/// In front of the name of the interface, which has 15 characters at most.
const INTERFACE: &str = "sky-";
const MAX_NAME: usize = 15 - INTERFACE.len();
const NETWORKS: &str = "networks";

/// What a further network is called on this machine: a file and an interface are called so too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NetworkName(Name);

/// Not such a name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no name for a network here: use 1 to {MAX_NAME} of a-z, 0-9 and -, not at the ends")]
pub struct NetworkNameError(String);

impl NetworkName {
    /// The name of its interface, unless another is chosen.
    pub fn interface(&self) -> String {
        format!("{INTERFACE}{self}")
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;
    fn from_str(text: &str) -> Result<Self, NetworkNameError> {
        let name = text.parse().ok().filter(|_| text.len() <= MAX_NAME);
        name.map(Self).ok_or_else(|| NetworkNameError(text.to_owned()))
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an agent keeps what is a network's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// Its settings; the file need not exist.
    pub config: PathBuf,
    /// Keys and documents.
    pub state_dir: PathBuf,
    /// Where it is asked.
    pub socket: PathBuf,
}

/// Of the first network, by default.
impl Default for Places {
    fn default() -> Self {
        Self {
            config: DEFAULT_CONFIG.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            socket: DEFAULT_SOCKET.into(),
        }
    }
}

impl Places {
    /// Those of a further network, beside the first one's.
    pub fn of(&self, network: &NetworkName) -> Self {
        let beside = |path: &Path| path.parent().unwrap_or(Path::new("")).join(NETWORKS);
        Self {
            config: beside(&self.config).join(format!("{network}.toml")),
            state_dir: self.state_dir.join(NETWORKS).join(network.to_string()),
            socket: beside(&self.socket).join(format!("{network}.sock")),
        }
    }

    /// The further networks that this machine has settings for or is a member of; at most [`MAX_NETWORKS`].
    pub fn networks(&self) -> BTreeSet<NetworkName> {
        let files = self.config.parent().unwrap_or(Path::new("")).join(NETWORKS);
        let files = entries(&files).into_iter().filter(|path| path.extension().is_some_and(|e| e == "toml"));
        let files = files.filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
        let members = entries(&self.state_dir.join(NETWORKS));
        let members = members.into_iter().filter(|path| path.join("credentials").exists());
        let members = members.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        files.chain(members).take(MAX_NETWORKS).collect()
    }
}

/// A directory that cannot be read has none.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_called_what_a_file_and_an_interface_may_be_called() {
        for good in ["lab", "a", "prod-2", &"a".repeat(11)] {
            assert!(good.parse::<NetworkName>().unwrap().interface().len() <= 15, "{good}");
        }
        for bad in ["", "-a", "Lab", "a.b", "../x", "a/b", "a\n", &"a".repeat(12)] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_network_has_its_places_and_is_found_by_its_settings_or_its_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let first =
            Places { config: at("etc/agent.toml"), state_dir: at("lib"), socket: at("run/agent.sock") };
        assert!(first.networks().is_empty());
        let lab = first.of(&"lab".parse().unwrap());
        assert_eq!(lab.config, at("etc/networks/lab.toml"));
        assert_eq!(lab.state_dir, at("lib/networks/lab"));
        assert_eq!(lab.socket, at("run/networks/lab.sock"));
        for directory in ["etc/networks", "lib/networks/old", "lib/networks/half", "lib/networks/lab"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["etc/networks/lab.toml", "etc/networks/No good.toml", "lib/networks/old/credentials"] {
            std::fs::write(at(file), "").unwrap();
        }
        let names: Vec<_> = first.networks().iter().map(NetworkName::to_string).collect();
        assert_eq!(names, ["lab", "old"]);
    }
}
