//! A process full of nodes: starts them a few at a time and tells once a second how many are joined and bound. A line on
//! its standard input makes pairs of its nodes talk; the end of it ends the process.

use std::cell::RefCell;
use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skynet_core::path::{Guessing, MtuConfig};
use skynet_core::session::Engine;
use skynet_core::time::Duration as CoreDuration;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_sim::host::{AgentConfig, AgentHost, Flow, Persisted, SharedBatch};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::node::{self, Heard, Node, Sockets};

/// Nodes per source address: below the relay's burst of HELLOs from one.
const PER_ADDRESS: u32 = 50;
/// Between two reports.
const REPORT: Duration = Duration::from_millis(250);
/// Packets of a pair that is told to talk.
const PACKETS: u64 = 20;

/// What to be.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct WorkerArgs {
    /// Number of the first node.
    #[arg(long)]
    pub(crate) first: u32,
    /// How many.
    #[arg(long)]
    pub(crate) nodes: u32,
    /// Join token.
    #[arg(long)]
    pub(crate) token: String,
    /// Nodes started per second.
    #[arg(long, default_value_t = 500)]
    pub(crate) rate: u32,
    /// Members each learns in the background.
    #[arg(long, default_value_t = 8)]
    pub(crate) known: usize,
}

/// How it stands.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Joined on the control channel now.
    pub(crate) joined: u32,
    /// With a session at the relay now.
    pub(crate) bound: u32,
    /// Bytes heard from the relay, keep-alives aside.
    pub(crate) heard_bytes: u64,
    /// Control messages heard, PONGs aside.
    pub(crate) heard_messages: u64,
    /// Packets that pairs have sent each other through the relay.
    pub(crate) delivered: u64,
}

type Nodes = Rc<RefCell<Vec<Rc<Node>>>>;

/// Runs until standard input ends.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let (orders, mut given) = tokio::sync::mpsc::unbounded_channel();
    // Blocking reads have a thread of their own; it ends with the process.
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let _ = orders.send(Some(line));
        }
        let _ = orders.send(None);
    })?;
    local.block_on(&runtime, async {
        let (clock, heard, nodes) = (Clock::new(), Rc::<Heard>::default(), Nodes::default());
        tokio::task::spawn_local(start_all(args.clone(), clock, Rc::clone(&heard), Rc::clone(&nodes)));
        let mut report = tokio::time::interval(REPORT);
        loop {
            tokio::select! {
                _ = report.tick() => {
                    let line = serde_json::to_string(&report_of(&nodes.borrow(), &heard))?;
                    if writeln!(std::io::stdout(), "{line}").is_err() {
                        return Ok(());
                    }
                }
                order = given.recv() => match order.flatten() {
                    Some(pairs) => talk(&nodes.borrow(), pairs.trim().parse().unwrap_or(0), clock),
                    None => return Ok(()),
                },
            }
        }
    })
}

async fn start_all(args: WorkerArgs, clock: Clock, heard: Rc<Heard>, nodes: Nodes) {
    let batch = SharedBatch::default();
    for n in args.first..args.first + args.nodes {
        let due = Duration::from_secs(1) * (n - args.first) / args.rate.max(1);
        tokio::time::sleep(due.saturating_sub(clock.elapsed())).await;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n / PER_ADDRESS);
        let Ok(udp) = UdpSocket::bind((address, 0)).await else { continue };
        let Ok(local) = udp.local_addr() else { continue };
        let host = AgentHost::new(config(&args, n, local), Rc::clone(&batch));
        let node = Rc::new(Node { host: RefCell::new(host), wake: Notify::new() });
        nodes.borrow_mut().push(Rc::clone(&node));
        tokio::task::spawn_local(node::run(node, Sockets::new(udp, Rc::clone(&heard)), clock));
    }
}

fn config(args: &WorkerArgs, n: u32, local: SocketAddr) -> AgentConfig {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    seed[4..8].copy_from_slice(&std::process::id().to_le_bytes());
    AgentConfig {
        token: args.token.clone(),
        name: format!("v{n}"),
        local,
        others: Vec::new(),
        v6: None,
        seed,
        engine: Engine::Noise,
        suites: SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM,
        max_lanes: 1,
        chunks: true,
        min_lanes: 1,
        mtu: MtuConfig::default(),
        known_members: args.known,
        guessing: Guessing::default(),
        fail_closed: false,
        key_lifetime: None,
        persisted: Persisted::default(),
    }
}

fn report_of(nodes: &[Rc<Node>], heard: &Heard) -> Report {
    let mut report =
        Report { heard_bytes: heard.bytes.get(), heard_messages: heard.messages.get(), ..Report::default() };
    for node in nodes {
        let node = node.host.borrow();
        report.joined += u32::from(node.is_joined());
        report.bound += u32::from(node.is_bound());
        report.delivered += node.application().received();
    }
    report
}

/// Each of `pairs` nodes sends its successor a few packets.
fn talk(nodes: &[Rc<Node>], pairs: usize, clock: Clock) {
    for pair in nodes.chunks_exact(2).take(pairs) {
        let Some(to) = pair[1].host.borrow().addresses().map(|a| a.ipv4) else { continue };
        let flow = Flow::new(to, clock.now().mono, CoreDuration::from_millis(100), PACKETS, 200);
        pair[0].host.borrow_mut().application_mut().start(flow);
        pair[0].wake.notify_one();
    }
}
