//! `skynet-load`: thousands of virtual agents, with real keys and sockets and without TUN devices, at one real relay on
//! loopback. It measures what the relay needs for them, how soon they are back after it was killed, and what one more that
//! joins costs the others.

mod clock;
mod node;
mod relay;
mod worker;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;

use clock::Clock;
use relay::Relay;
use worker::{Report, WorkerArgs};

/// Nodes of one process: each has two descriptors.
const PER_PROCESS: u32 = 2_500;
/// What takes longer is not measured. Figures that miss a bar are.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(version, about = "Thousands of virtual agents at one real relay")]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    load: Load,
}

#[derive(Subcommand)]
enum Sub {
    /// A process full of nodes; started by the generator itself.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

#[derive(clap::Args, Clone)]
struct Load {
    /// Nodes.
    #[arg(long, default_value_t = 10_000)]
    nodes: u32,
    /// Nodes started per second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds over which the idle relay is watched.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Seconds until nothing more is said after everybody has joined, and for which the others are listened to after one more has.
    #[arg(long, default_value_t = 25)]
    settle: u64,
    /// Members each learns in the background.
    #[arg(long, default_value_t = 8)]
    known: usize,
    /// Pairs that talk through the relay.
    #[arg(long, default_value_t = 100)]
    pairs: u32,
    /// `skynet-relay`; beside this program if not given.
    #[arg(long)]
    relay: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Fail if a bar is missed: 256 MiB, 5 % of a core, 60 s, 2 kB.
    #[arg(long)]
    check: bool,
}

/// What was measured.
#[derive(Serialize, Debug)]
struct Figures {
    nodes: u32,
    joined_after_s: f64,
    rss_mib: f64,
    rss_most_mib: f64,
    rss_after_restart_mib: f64,
    idle_percent_of_a_core: f64,
    packets_between_pairs: u64,
    packets_sent_by_pairs: u64,
    back_after_s: f64,
    cpu_s_to_come_back: f64,
    join_costs_others_bytes: u64,
    join_costs_others_messages: u64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match &cli.command {
        Some(Sub::Worker(args)) => worker::run(args),
        None => measure(&cli.load),
    }
}

fn measure(load: &Load) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let program = match &load.relay {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("skynet-relay"),
    };
    let mut relay = Relay::start(&program, &directory.path().join("relay"), free_address()?)?;
    let (clock, mut workers) = (Clock::new(), Vec::new());
    let processes = load.nodes.div_ceil(PER_PROCESS);
    for k in 0..processes {
        let nodes = PER_PROCESS.min(load.nodes - k * PER_PROCESS);
        workers.push(Worker::start(
            &relay.token,
            k * PER_PROCESS,
            nodes,
            load.rate.div_ceil(processes),
            load.known,
        )?);
    }
    let patience = PATIENCE + Duration::from_secs(1) * load.nodes / load.rate.max(1);
    let all = |workers: &[Worker]| total(workers).joined == load.nodes && total(workers).bound == load.nodes;
    wait(patience, || all(&workers), || format!("{:?}", total(&workers)))?;
    let joined_after_s = clock.elapsed().as_secs_f64();
    say(load, &format!("{} nodes joined and bound after {joined_after_s:.1} s", load.nodes));

    let settle = Duration::from_secs(load.settle);
    std::thread::sleep(settle);
    let (start, cpu) = (clock.elapsed(), relay.cpu_s()?);
    std::thread::sleep(Duration::from_secs(load.idle));
    let idle = (relay.cpu_s()? - cpu) / (clock.elapsed() - start).as_secs_f64() * 100.0;
    let [rss, rss_most] = relay.memory_kib()?;
    say(load, &format!("idle: {idle:.2} % of a core, {} KiB", rss));

    let before = total(&workers);
    let newcomer = Worker::start(&relay.token, load.nodes, 1, 1, load.known)?;
    wait(Duration::from_secs(20), || newcomer.report().bound == 1, || "the newcomer".to_owned())?;
    std::thread::sleep(settle);
    let after = total(&workers);
    drop(newcomer);

    let each = (load.pairs / processes).max(1);
    workers.iter_mut().try_for_each(|w| w.order(&each.to_string()))?;
    let sent = u64::from(each * processes) * 20;
    let _some = wait(Duration::from_secs(20), || total(&workers).delivered >= sent, String::new);
    let delivered = total(&workers).delivered;
    say(load, &format!("{delivered} of {sent} packets between pairs"));

    let killed = clock.elapsed();
    relay.kill_and_restart()?;
    // Until the first report without them.
    wait(Duration::from_secs(60), || !all(&workers), || "nobody noticed".to_owned())?;
    wait(PATIENCE, || all(&workers), || format!("{:?}", total(&workers)))?;
    let back_after_s = (clock.elapsed() - killed).as_secs_f64();
    let figures = Figures {
        nodes: load.nodes,
        joined_after_s,
        rss_mib: rss as f64 / 1024.0,
        rss_most_mib: rss_most as f64 / 1024.0,
        rss_after_restart_mib: relay.memory_kib()?[1] as f64 / 1024.0,
        idle_percent_of_a_core: idle,
        packets_between_pairs: delivered,
        packets_sent_by_pairs: sent,
        back_after_s,
        cpu_s_to_come_back: relay.cpu_s()?,
        join_costs_others_bytes: after.heard_bytes - before.heard_bytes,
        join_costs_others_messages: after.heard_messages - before.heard_messages,
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    if load.check { figures.check() } else { Ok(()) }
}

impl Figures {
    /// The bars for 10,000 nodes; fewer must not need more.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.rss_most_mib <= 256.0 && self.rss_after_restart_mib <= 256.0, "memory");
        ensure!(self.idle_percent_of_a_core <= 5.0, "idle");
        ensure!(self.back_after_s <= 60.0, "restart");
        ensure!(self.join_costs_others_bytes <= 2_000, "join");
        ensure!(self.packets_between_pairs * 100 >= self.packets_sent_by_pairs * 98, "pairs");
        Ok(())
    }
}

fn say(load: &Load, text: &str) {
    if !load.json {
        println!("{text}");
    }
}

/// A port that is free for UDP and TCP, and the one above for UDP.
fn free_address() -> anyhow::Result<SocketAddr> {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(tcp.local_addr()?)
}

fn wait(within: Duration, mut done: impl FnMut() -> bool, state: impl Fn() -> String) -> anyhow::Result<()> {
    let clock = Clock::new();
    while !done() {
        ensure!(clock.elapsed() < within, "not within {within:?}: {}", state());
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn total(workers: &[Worker]) -> Report {
    workers.iter().map(Worker::report).fold(Report::default(), |a, b| Report {
        joined: a.joined + b.joined,
        bound: a.bound + b.bound,
        heard_bytes: a.heard_bytes + b.heard_bytes,
        heard_messages: a.heard_messages + b.heard_messages,
        delivered: a.delivered + b.delivered,
    })
}

/// A process full of nodes; dropping it ends it.
struct Worker {
    child: Child,
    orders: ChildStdin,
    last: Arc<Mutex<Report>>,
}

impl Worker {
    fn start(token: &str, first: u32, nodes: u32, rate: u32, known: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", "--token", token, "--first", &first.to_string()]);
        command.args(["--nodes", &nodes.to_string(), "--rate", &rate.to_string()]);
        command.args(["--known", &known.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("no input")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let last = Arc::<Mutex<Report>>::default();
        let told = Arc::clone(&last);
        std::thread::Builder::new().name("reports".into()).spawn(move || {
            for report in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = report;
            }
        })?;
        Ok(Self { child, orders, last })
    }

    fn report(&self) -> Report {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{text}").context("a process of nodes has ended")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
