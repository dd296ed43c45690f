//! VpnCloud, from the Rust registry: a shared password, and the cipher it finds the fastest.

use super::{daemon, package};
use crate::link::Link;
use crate::peer::{Peer, Running};

/// `vpncloud`.
pub(super) struct VpnCloud;

const DEVICE: &str = "vpncloud0";

impl Peer for VpnCloud {
    fn name(&self) -> &str {
        "vpncloud"
    }

    fn describe(&self) -> String {
        let version = package::first_line("vpncloud", &["--version"]);
        format!("{version}; the fastest of AES-GCM and ChaCha20-Poly1305 (its defaults)")
    }

    fn missing(&self) -> Option<String> {
        package::need_crate("vpncloud", "vpncloud")
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install_crate("vpncloud", "vpncloud")
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let (left, right) = (link.left(), link.right());
        let mut running = Running::at(right.overlay);
        let peer = right.socket().to_string();
        // Only one calls: when both do at once, each refuses the other and waits.
        for (here, call) in [(&right, &[][..]), (&left, &["--peer", &peer])] {
            let listen = here.socket().to_string();
            let claim = format!("{}/32", here.overlay);
            let mut arguments = vec!["--no-port-forwarding", "--type", "tun", "--device", DEVICE];
            arguments.extend(["--listen", &listen]);
            arguments.extend(call);
            arguments.extend(["--password", "one password for both ends"]);
            // Built with a present compiler it garbles the address of `--ip`, so it gets none to claim by itself.
            arguments.extend(["--no-auto-claim", "--claim", &claim]);
            let process = daemon::start(here, "vpncloud", &arguments)?;
            daemon::await_device(here, process, DEVICE, &mut running)?;
            daemon::configure(here, DEVICE)?;
        }
        Ok(running)
    }
}
