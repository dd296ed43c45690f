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
        for (here, there) in [(&right, &left), (&left, &right)] {
            let (listen, peer) = (here.socket().to_string(), there.socket().to_string());
            let address = format!("{}/24", here.overlay);
            let mut arguments = vec!["--no-port-forwarding", "--type", "tun", "--device", DEVICE, "--quiet"];
            arguments.extend(["--ip", &address, "--listen", &listen, "--peer", &peer]);
            arguments.extend(["--password", "one password for both ends"]);
            let process = daemon::start(here, "vpncloud", &arguments)?;
            daemon::await_device(here, process, DEVICE, &mut running)?;
        }
        Ok(running)
    }
}
