//! Where the programs under test are.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

/// Paths of the two programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `skynet-agent`.
    pub agent: PathBuf,
    /// `skynet-relay`.
    pub relay: PathBuf,
}

impl Binaries {
    /// In the directory `SKYNET_BIN_DIR` names, else beside this program (a test runs one directory below).
    ///
    /// # Errors
    /// Says where they were looked for and how to build them.
    pub fn find() -> anyhow::Result<Self> {
        let directories = match std::env::var_os("SKYNET_BIN_DIR") {
            Some(directory) => vec![PathBuf::from(directory)],
            None => {
                let own = std::env::current_exe().context("where this program is")?;
                own.ancestors().skip(1).take(2).map(PathBuf::from).collect()
            }
        };
        for directory in &directories {
            let found = Self { agent: directory.join("skynet-agent"), relay: directory.join("skynet-relay") };
            if found.agent.is_file() && found.relay.is_file() {
                return Ok(found);
            }
        }
        let looked: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        bail!(
            "no skynet-agent and skynet-relay in {}; build them: cargo build -p skynet-agent -p skynet-relay",
            looked.join(" or ")
        );
    }
}
