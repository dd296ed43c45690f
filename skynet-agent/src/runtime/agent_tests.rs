//! The control task's fairness: whatever floods one of its sources, the others get their turns.

use std::net::Ipv4Addr;
use std::path::Path;

use skynet_core::id::{PeerSlot, PortNo};
use skynet_core::key::StaticSecret;
use skynet_core::node::{Floors, Membership, NodeConfig, StockConfig, StockPeer};
use skynet_core::offload::Offloads;
use skynet_core::session::Engine;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_core::worker::{ControlClass, ControlSink};
use tokio::sync::oneshot;

use super::super::data_plane::Counted;
use super::super::hooks::Hooks;
use super::super::queues::{QueueSink, queues};
use super::*;
use crate::api::Request;
use crate::config::{DNS_PORT, DisabledOffloads, Dns};
use crate::udp::UdpOffloads;

/// A node one of whose timers has been due for long.
fn node_with_a_due_timer() -> Node {
    let earlier = Now { mono: Instant::from_nanos(1), ..clock::now() };
    let peer = StockPeer {
        public_key: StaticSecret::from_bytes([2; 32]).public(),
        preshared_key: None,
        endpoint: Some(([127, 0, 0, 1], 9).into()),
        allowed_ips: Vec::new(),
        persistent_keepalive: Some(Duration::from_secs(25)),
    };
    let addresses = vec![Ipv4Addr::new(10, 0, 0, 1).into()];
    let stock = StockConfig { secret: StaticSecret::from_bytes([1; 32]), addresses, peers: vec![peer] };
    let config = NodeConfig {
        membership: Membership::None,
        stock: Some(stock),
        floors: Floors::default(),
        last_peers: Vec::new(),
        roster: Vec::new(),
        engine: Engine::Noise,
        suites: SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM,
        max_lanes: 4,
        chunks: true,
        min_lanes: 1,
        mtu: skynet_core::path::MtuConfig::default(),
        known_members: skynet_core::node::directory::MAX_MEMBERS,
        guessing: skynet_core::path::Guessing::default(),
        relay_for_members: None,
    };
    let mut node = Node::new(config, [1; 32], earlier).unwrap();
    node.handle_worker(ToControl::Awake { slot: PeerSlot(0) }, earlier);
    while node.poll_transmit().is_some() || node.poll_event().is_some() {}
    node
}

fn agent(dir: &Path) -> (Agent, QueueSink) {
    let config = Config {
        tls: Default::default(),
        network: None,
        file: dir.join("agent.toml"),
        state_dir: dir.join("state"),
        socket: dir.join("sock"),
        token: None,
        name: "fair".parse().unwrap(),
        roles: None,
        bind_identity: true,
        boot_metadata: Default::default(),
        interface: "skytest0".into(),
        port: 0,
        relay: None,
        disabled_offloads: DisabledOffloads::default(),
        ciphers: Default::default(),
        max_lanes: 4,
        min_lanes: 1,
        mtu: Default::default(),
        guessing: skynet_core::path::Guessing::default(),
        relaying: None,
        threading: Default::default(),
        advertise: Vec::new(),
        port_mapping: false,
        cloud_metadata: false,
        hooks: None,
        hosts_file: None,
        dns: Dns { mode: Default::default(), port: DNS_PORT },
        fail_closed: false,
        key_lifetime: None,
        wireguard: None,
        peers: Vec::new(),
    };
    let socket = Arc::new(UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    let (fault_sender, faults) = mpsc::channel(4);
    let (sink, queues) = queues();
    let node = node_with_a_due_timer();
    let counted = Counted { drops: Arc::clone(node.drops()), flows: Arc::clone(node.flows()) };
    let plane = DataPlane::start(
        Arc::clone(&socket),
        counted,
        sink.clone(),
        Offloads::ALL,
        Default::default(),
        fault_sender.clone(),
    )
    .unwrap();
    let agent = Agent {
        interests: Default::default(),
        hooks: Hooks::new(&config),
        search: Search::new(&config, false),
        generation: Generation::new(),
        names: Names::new(&config),
        others: None,
        state: StateDir::open(&dir.join("state")).unwrap(),
        reach: Reach::new(&config, clock::monotonic()),
        config,
        net: Netlink::open().unwrap(),
        socket,
        engine: Some(EngineRoom { node, plane, queues, sampling: Sampling::default() }),
        interface: None,
        offload_faults: OffloadFaults::default(),
        local_addresses: Vec::new(),
        tun_mtu: 1_360,
        stream: ControlStream::new(Default::default()),
        carrier: Carrier::new(Default::default()),
        phase: AgentState::Up,
        is_enrolling: false,
        token_mark: None,
        message: None,
        faults,
        fault_sender,
        looks: why::Looks::new(),
        spins: 0,
        stopping: false,
    };
    (agent, sink)
}

#[test]
fn junk_without_end_starves_neither_timers_nor_the_control_socket() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut agent, mut sink) = agent(dir.path());
        let mut stop = std::pin::pin!(std::future::pending());
        let (_changed, mut changes) = mpsc::channel(1);
        let (asking, mut calls) = mpsc::channel(1);
        let (reply, _answer) = oneshot::channel();
        asking.try_send(Call { request: Request::Status, reply }).unwrap();
        let (mut timeouts, mut answered, mut messages) = (0, 0, 0);
        for _ in 0..500 {
            for _ in 0..2 {
                let from = ([203, 0, 113, 9], 9).into();
                sink.offer(ToControl::Datagram {
                    class: ControlClass::Probe,
                    port: PortNo(0),
                    from,
                    local: None,
                    bytes: vec![0xa0; 64],
                });
            }
            match agent.wait(&mut stop, &mut calls, &mut changes).await {
                Happened::Timeout => timeouts += 1,
                Happened::Call(_) => answered += 1,
                Happened::Worker(_) => messages += 1,
                _ => {}
            }
        }
        assert_eq!(answered, 1);
        assert!(timeouts > 20 && messages > 20, "{timeouts} timeouts, {messages} messages");
    });
}
