//! The plain veth: what all others are compared to, as it is and without any offload.

use skynet_tests::Netns;

use super::package;
use crate::link::Link;
use crate::peer::{DIRECT, Peer, Running};
use crate::underlay::Underlay;

/// No tunnel.
pub(super) struct Direct;

impl Peer for Direct {
    fn name(&self) -> &str {
        DIRECT
    }

    fn describe(&self) -> String {
        format!("veth, {}; no encryption", package::first_line("uname", &["-sr"]))
    }

    fn is_tunnel(&self) -> bool {
        false
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        Ok(Running::at(link.right().underlay))
    }
}

/// No tunnel, and one packet is one packet: what a kernel without offloads can do.
pub(super) struct DirectPlain;

/// Gives the ends their underlay back.
struct Restore {
    ends: [Netns; 2],
    underlay: Underlay,
}

impl Drop for Restore {
    fn drop(&mut self) {
        let [left, right] = &self.ends;
        if let Err(error) = self.underlay.apply([left, right]) {
            eprintln!("the veth keeps its offloads off: {error:#}");
        }
    }
}

impl Peer for DirectPlain {
    fn name(&self) -> &str {
        "direct-plain"
    }

    fn describe(&self) -> String {
        "veth with tso, gso and gro off; no encryption".to_owned()
    }

    fn missing(&self) -> Option<String> {
        Underlay::Raw.missing()
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&[("ethtool", "ethtool")])
    }

    fn is_tunnel(&self) -> bool {
        false
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let mut running = Running::at(link.right().underlay);
        running.guard(Restore {
            ends: [link.left().namespace, link.right().namespace],
            underlay: link.underlay(),
        });
        link.set_underlay(Underlay::Raw)?;
        Ok(running)
    }
}
