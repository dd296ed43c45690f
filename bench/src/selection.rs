//! Which peers, on what kind of link: the arguments that commands share.

use anyhow::{Context as _, bail, ensure};

use crate::machine::Machine;
use crate::peer::Peer;
use crate::peers::{self, Script};
use crate::underlay::Underlay;
use crate::usage;

/// Arguments that select peers and link.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Selection {
    /// Measure only this peer, and the plain link; can be given several times (all: see docs/BENCHMARKING.md)
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Measure also a tunnel of yours: a program that brings it up and one that takes it down
    #[arg(long = "script", value_name = "NAME=UP,DOWN")]
    scripts: Vec<Script>,
    /// Install what is missing by name: from Debian with apt-get, from the Rust registry with cargo
    #[arg(long)]
    install: bool,
    /// What the link's devices do for its ends
    #[arg(long, value_enum, default_value = "veth")]
    underlay: Underlay,
}

impl Selection {
    /// What the link's devices shall do; installed if that was asked for.
    pub(crate) fn underlay(&self) -> anyhow::Result<Underlay> {
        if self.install && self.underlay.missing().is_some() {
            peers::package::install(&[("ethtool", "ethtool")])?;
        }
        if let Some(cure) = self.underlay.missing() {
            bail!("--underlay {} needs ethtool; cure: {cure}", self.underlay.name());
        }
        Ok(self.underlay)
    }

    /// The peers to measure: the plain link, those asked for, and if none was, all that can be had. Says which are
    /// left out and how to get them.
    ///
    /// # Errors
    /// If a peer asked for by name is unknown or missing.
    pub(crate) fn peers(&self) -> anyhow::Result<Vec<Box<dyn Peer>>> {
        let mut all = peers::all();
        let names: Vec<_> = all.iter().map(|peer| peer.name().to_owned()).collect();
        if let Some(unknown) = self.peers.iter().find(|name| !names.contains(name)) {
            bail!("there is no peer {unknown:?}; there are: {}", names.join(", "));
        }
        for script in &self.scripts {
            ensure!(!names.iter().any(|name| name == script.name()), "{} is a built-in peer", script.name());
            all.push(Box::new(script.clone()));
        }
        let mut chosen = Vec::new();
        for peer in all {
            let is_script = self.scripts.iter().any(|script| script.name() == peer.name());
            let is_asked_for = is_script || self.peers.iter().any(|name| name == peer.name());
            if is_asked_for || peer.name() == crate::peer::DIRECT || self.peers.is_empty() {
                chosen.extend(self.available(peer, is_asked_for)?);
            }
        }
        Ok(chosen)
    }

    fn available(&self, peer: Box<dyn Peer>, is_asked_for: bool) -> anyhow::Result<Option<Box<dyn Peer>>> {
        if self.install && peer.missing().is_some() {
            peer.install().with_context(|| format!("installing {}", peer.name()))?;
        }
        match peer.missing() {
            None => Ok(Some(peer)),
            Some(cure) if is_asked_for => bail!("{} is not here; cure: {cure}", peer.name()),
            Some(cure) => {
                eprintln!("{} is not here and is left out; cure: {cure}", peer.name());
                Ok(None)
            }
        }
    }
}

/// Looks at the machine before anything is measured, and warns on standard error.
pub(crate) fn look_at_machine() -> Machine {
    let machine = Machine::look(usage::busy_share(std::time::Duration::from_millis(500)));
    if let Some(warning) = machine.warning() {
        eprintln!("{warning}");
    }
    machine
}
