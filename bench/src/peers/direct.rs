//! The plain veth: what all others are compared to.

use crate::link::Link;
use crate::peer::{Peer, Running};

/// No tunnel.
pub(crate) struct Direct;

impl Peer for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn describe(&self) -> String {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        format!("veth, kernel {}; no encryption", release.trim())
    }

    fn is_tunnel(&self) -> bool {
        false
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        Ok(Running { target: link.right().underlay, processes: Vec::new(), guards: Vec::new() })
    }
}
