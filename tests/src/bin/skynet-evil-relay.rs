//! A relay that lies: `skynet-relay run` with another directory behind it. For tests; it plays every trick at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use skynet_core::member::Manifest;
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::config::Config;
use skynet_relay::io::control::Directory as _;
use skynet_relay::io::daemon::{self, RelayParts, Sockets};
use skynet_relay::io::directory::LocalDirectory;
use skynet_relay::network::load_network;
use skynet_relay::server::{StoreOp, StoreReply};
use skynet_relay::store::RedbStore;
use skynet_tests::evil::{EvilDirectory, Loot, Orders, Trick};

#[derive(Parser)]
struct Args {
    /// The state of the relay whose place it takes.
    #[arg(long)]
    dir: PathBuf,
    /// Where.
    #[arg(long)]
    listen: SocketAddr,
    /// A copy of the store from before, for documents that have been replaced since.
    #[arg(long)]
    old_store: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let sockets = Sockets::bind(args.listen, 1)?;
    let (clock, mut rng) = (Clock::new(), os_rng()?);
    let network = load_network(&args.dir)?;
    let orders = Orders::default();
    // A stranger under a member's name would be believed by whoever never knew that member: it has no token for that.
    let needs_more = [Trick::TakeName, Trick::OldManifest, Trick::OldDocument];
    orders.set(Trick::ALL.into_iter().filter(|trick| !needs_more.contains(trick)));
    let mut before = LocalDirectory::new(network.registrar(), RedbStore::open(&args.old_store)?);
    let all = StoreOp::List { network_id: network.trust.network_id().0, after: 0, limit: 64 };
    if let StoreReply::Listed(_, members) = before.execute(all, clock.now().unix) {
        members.iter().for_each(|m| orders.remember(m.identity, &m.bundle));
    }
    let honest = LocalDirectory::new(network.registrar(), RedbStore::open(&network.directory)?);
    let loot = Loot { registrar: network.registrar_key.clone(), ..Loot::default() };
    let parts = RelayParts {
        relay_no: network.relay_no,
        key: network.relay_key,
        cluster_key: network.cluster_key,
        directory: EvilDirectory::new(honest, loot, orders, rng.array()),
        view: None,
        manifest: Manifest::clone(network.trust.manifest()),
        status_socket: None,
        config: Config::default(),
        tls: None,
        news: tokio::sync::mpsc::channel(1).1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let (_stop_now, stop) = tokio::sync::watch::channel(false);
        let (_drain_now, drain) = tokio::sync::watch::channel(false);
        let orders = daemon::Orders { stop, drain };
        println!("the evil relay runs");
        daemon::run(parts, sockets, rng, clock, orders).await.context("the evil relay has ended")
    })
}
