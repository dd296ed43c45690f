//! A stock user-space WireGuard device (`wireguard-go`, `boringtun-cli`), set up by `wg` and `ip`.
//!
//! Their control socket lies in `/var/run/wireguard`, which all network namespaces share: so every device on the machine
//! needs a name of its own, and one that was killed leaves a socket behind that must be removed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::{Netns, Process};
use crate::wait;

const CONTROL_DIRECTORY: &str = "/var/run/wireguard";
/// A Go program on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const WG_TIMEOUT: Duration = Duration::from_secs(10);

/// An X25519 key pair as `wg` writes it: base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Private key.
    pub private: String,
    /// Public key.
    pub public: String,
}

impl KeyPair {
    /// A fresh pair.
    ///
    /// # Errors
    /// If `wg` (Debian package wireguard-tools) cannot be run in `namespace`.
    pub fn generate(namespace: &Netns) -> anyhow::Result<Self> {
        let private = namespace.exec(&["wg", "genkey"])?.ok()?.trim().to_owned();
        let public = namespace.exec_within(WG_TIMEOUT, &["wg", "pubkey"], &private)?.ok()?.trim().to_owned();
        Ok(Self { private, public })
    }
}

/// The other end, as a WireGuard device knows it.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Public key, base64.
    pub public_key: String,
    /// Where it is reached; `None` until it has spoken first.
    pub endpoint: Option<SocketAddrV4>,
    /// Addresses it may use, such as `10.0.0.0/24`.
    pub allowed_ips: String,
}

/// A running device with its daemon. Dropping it stops the daemon, and with it the device.
#[derive(Debug)]
pub struct StockWireGuard {
    namespace: Netns,
    interface: String,
    process: Process,
}

impl StockWireGuard {
    /// Starts `program -f INTERFACE` with further `arguments` in a namespace and waits for its control socket.
    ///
    /// # Errors
    /// If it cannot be started or its control socket does not appear within 10 s; with its log.
    pub fn start(namespace: &Netns, program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let interface = unique_interface("wg");
        let mut command = Command::new(program);
        command.arg("-f").arg(&interface).args(arguments);
        // wireguard-go declines to run where the kernel could do it, unless told.
        command.env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1").env("LOG_LEVEL", "error");
        let mut process = namespace.spawn(command)?;
        let socket = control_socket(&interface);
        wait::wait_until(START_TIMEOUT, &format!("{}", socket.display()), || {
            socket.exists() || !process.is_running()
        })
        .and_then(|()| {
            ensure!(process.is_running(), "it has ended");
            Ok(())
        })
        .with_context(|| format!("{} in {}: {}", program.display(), namespace.name(), process.log()))?;
        Ok(Self { namespace: namespace.clone(), interface, process })
    }

    /// Sets private key, port, address and MTU, and brings the interface up.
    ///
    /// # Errors
    /// If `wg` or `ip` refuse.
    pub fn configure(
        &self,
        private_key: &str,
        listen_port: u16,
        address: (Ipv4Addr, u8),
        mtu_bytes: u16,
    ) -> anyhow::Result<()> {
        let port = listen_port.to_string();
        self.wg(&["set", &self.interface, "private-key", "/dev/stdin", "listen-port", &port], private_key)?;
        let address = format!("{}/{}", address.0, address.1);
        let mtu = mtu_bytes.to_string();
        self.ip(&["addr", "add", &address, "dev", &self.interface])?;
        self.ip(&["link", "set", "dev", &self.interface, "mtu", &mtu, "up"])
    }

    /// Adds or changes a peer.
    ///
    /// # Errors
    /// If `wg` refuses.
    pub fn set_peer(&self, peer: &PeerConfig) -> anyhow::Result<()> {
        let mut argv =
            vec!["set", &self.interface, "peer", &peer.public_key, "allowed-ips", &peer.allowed_ips];
        let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
        if let Some(endpoint) = &endpoint {
            argv.extend(["endpoint", endpoint]);
        }
        self.wg(&argv, "")?;
        Ok(())
    }

    /// Moves the device to another UDP port, as a host that roams.
    ///
    /// # Errors
    /// If `wg` refuses.
    pub fn set_listen_port(&self, port: u16) -> anyhow::Result<()> {
        self.wg(&["set", &self.interface, "listen-port", &port.to_string()], "")?;
        Ok(())
    }

    /// When the last handshake with the only peer was done, in Unix seconds; `None` if there was none.
    ///
    /// # Errors
    /// If `wg` cannot be understood.
    pub fn latest_handshake(&self) -> anyhow::Result<Option<u64>> {
        let seconds: u64 = self.show("latest-handshakes")?.parse()?;
        Ok(Some(seconds).filter(|&seconds| seconds > 0))
    }

    /// Where the device sends to its only peer.
    ///
    /// # Errors
    /// If it knows no endpoint.
    pub fn endpoint(&self) -> anyhow::Result<SocketAddrV4> {
        let endpoint = self.show("endpoints")?;
        endpoint.parse().with_context(|| endpoint)
    }

    /// The daemon's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The last column of `wg show INTERFACE WHAT`, which has a line per peer.
    fn show(&self, what: &str) -> anyhow::Result<String> {
        let output = self.wg(&["show", &self.interface, what], "")?;
        output.split_whitespace().last().map(str::to_owned).with_context(|| format!("no peer: {output}"))
    }

    fn wg(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let argv: Vec<_> = ["wg"].iter().chain(arguments).copied().collect();
        self.namespace.exec_within(WG_TIMEOUT, &argv, input)?.ok()
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let argv: Vec<_> = ["ip"].iter().chain(arguments).copied().collect();
        self.namespace.exec(&argv)?.ok()?;
        Ok(())
    }
}

impl Drop for StockWireGuard {
    fn drop(&mut self) {
        self.process.stop();
        let _ = std::fs::remove_file(control_socket(&self.interface));
    }
}

fn control_socket(interface: &str) -> PathBuf {
    Path::new(CONTROL_DIRECTORY).join(format!("{interface}.sock"))
}

/// A name no other interface on this machine has, in any namespace: at most 15 bytes for `start` of up to 3.
pub fn unique_interface(start: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("{start}{:x}n{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}
