//! The two relays that are measured, each alone on the right end of the link; their clients are on the left.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use skynet_core::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent};
use skynet_core::time::Now;
use skynet_core::wire::relay::{Class, Ticket, bind_key};
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::network::{Network, load_network};
use skynet_tests::lab::Process;
use skynet_tests::{fleet, wait_until};

use super::pair::{self, Pair};
use super::turn;
use crate::link::Link;
use crate::peers::package;

const PORT: u16 = 3478;
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Each client's node number: those of the network's addresses do not matter here.
const FIRST_NODE: u32 = 1;

/// Which relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Contender {
    Skynet,
    Coturn,
}

impl Contender {
    pub(super) const ALL: [Self; 2] = [Self::Skynet, Self::Coturn];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Skynet => "skynet-relay",
            Self::Coturn => "coturn",
        }
    }
}

/// A relay with clients.
pub(super) struct Running {
    pub(super) pairs: Vec<Pair>,
    pub(super) process: Process,
}

impl Running {
    /// Starts the relay and connects so many pairs of clients.
    ///
    /// # Errors
    /// If it cannot be started or does not serve.
    pub(super) fn start(contender: Contender, link: &Link, pairs: u32, threads: u8) -> anyhow::Result<Self> {
        let server = SocketAddrV4::new(link.right().underlay, PORT);
        let own = link.left().underlay;
        let (process, network) = match contender {
            Contender::Skynet => {
                let (process, network) = start_skynet(link, server, threads)?;
                (process, Some(network))
            }
            Contender::Coturn => (start_coturn(link, server, threads)?, None),
        };
        let connect = || {
            (0..pairs)
                .map(|number| match &network {
                    Some(network) => skynet_pair(server, own, number, network),
                    None => turn::pair(server, own, number, number % 2 == 1),
                })
                .collect::<anyhow::Result<Vec<_>>>()
        };
        let pairs = link.left().namespace.run(connect)?;
        let pairs = pairs.with_context(|| format!("{} said:\n{}", contender.name(), process.log()))?;
        Ok(Self { pairs, process })
    }
}

fn start_skynet(link: &Link, server: SocketAddrV4, threads: u8) -> anyhow::Result<(Process, Network)> {
    let directory = link.directory().join("relay");
    // A network of its own each time: whatever a round leaves behind is no part of the next.
    let _ = std::fs::remove_dir_all(&directory);
    let mut command = Command::new(fleet::Binaries::find()?.relay);
    command.args(["up", "--json", "--range", "10.99.0.0/16", "--threads", &threads.to_string()]);
    command.arg("--dir").arg(&directory);
    command.args(["--listen", &server.to_string(), "--public-address", &server.to_string()]);
    let process = link.right().namespace.spawn(command)?;
    wait_until(START_TIMEOUT, "skynet-relay", || process.log().contains("skynet.relay.up/1"))
        .with_context(|| process.log())?;
    let network = load_network(&directory)?;
    Ok((process, network))
}

fn start_coturn(link: &Link, server: SocketAddrV4, threads: u8) -> anyhow::Result<Process> {
    let ip = server.ip().to_string();
    let directory = link.directory();
    let file = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new(package::path("turnserver")?);
    command.args(["-n", "--no-auth", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--no-rfc5780"]);
    command.args(["-L", &ip, "-E", &ip, "-p", &PORT.to_string(), "-m", &threads.to_string()]);
    command.args(["--simple-log", "--log-file", "stdout", "--realm", "bench"]);
    command.args(["--pidfile", &file("turnserver.pid"), "--userdb", &file("turndb")]);
    let mut process = link.right().namespace.spawn(command)?;
    wait_until(START_TIMEOUT, "coturn", || process.log().contains("Total General servers"))
        .with_context(|| process.log())?;
    ensure!(process.is_running(), "coturn has ended:\n{}", process.log());
    Ok(process)
}

/// Two members of the network with a session each.
fn skynet_pair(server: SocketAddrV4, own: Ipv4Addr, number: u32, network: &Network) -> anyhow::Result<Pair> {
    let from = FIRST_NODE + 2 * number;
    let (sender, client) = bind(server, own, from, network)?;
    let (receiver, _) = bind(server, own, from + 1, network)?;
    let head = client.data_header(from + 1, Class::Bulk, 0).context("no session")?;
    Ok(Pair { sender, head: head.to_vec(), length_at: None, receiver, head_at_receiver: head.len() })
}

fn bind(
    server: SocketAddrV4,
    own: Ipv4Addr,
    node_no: u32,
    network: &Network,
) -> anyhow::Result<(UdpSocket, RelayClient)> {
    let clock = Clock::new();
    let Now { mono, unix, unix_nanos } = clock.now();
    let ticket = Ticket {
        kid: 1,
        rate_class: 0,
        node_no,
        network_id: network.trust.network_id().0,
        not_after: unix.0 + 3_600,
        issue_nonce: 1,
        identity_hash: [0; 16],
    };
    let ticket = ticket.mint(&network.cluster_key);
    let config = RelayClientConfig {
        relay_no: network.relay_no,
        lane: 0,
        ticket,
        bind_key: bind_key(&network.cluster_key, &ticket),
        clock: RelayClock::new(unix.0 * 1000 + u64::from(unix_nanos / 1_000_000), mono),
    };
    let socket = pair::socket(own)?;
    socket.connect(server)?;
    let mut client = RelayClient::new(config, os_rng()?, mono);
    let mut buffer = [0; 256];
    while clock.now().mono.saturating_since(mono) < START_TIMEOUT {
        while let Some(bytes) = client.poll_transmit() {
            socket.send(&bytes)?;
        }
        let received = socket.recv(&mut buffer).unwrap_or(0);
        let now = clock.now().mono;
        client.handle_datagram(&buffer[..received], now);
        client.handle_timeout(now);
        while let Some(event) = client.poll_event() {
            if matches!(event, RelayEvent::Up { .. }) {
                return Ok((socket, client));
            }
        }
    }
    anyhow::bail!("node {node_no} is not bound after {} s", START_TIMEOUT.as_secs())
}
