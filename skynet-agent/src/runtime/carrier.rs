//! The stream of frames to a relay that UDP does not reach: on a thread of its own, because bulk in TLS must not delay the
//! control task. Port 0's socket sees it as an address of this host in place of the relay's.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use skynet_core::carrier::{FrameStream, Way};
use skynet_core::control::channel::Purpose;
use skynet_core::key::PublicKey;
use skynet_core::rng::Rng;
use skynet_tls::{ClientStream, Counters, DialError, Dialer, Pump};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::config::TlsWays;
use crate::{clock, entropy};

/// Receive buffer of the socket, bytes: what the workers hand over while TLS is busy.
const RECEIVE_BUFFER: usize = 2 << 20;

/// What became of the stream.
pub(super) enum Carried {
    /// Datagrams to this address go into it.
    Opened(SocketAddr, Way),
    /// It could not be opened, or has ended: why.
    Closed(String),
}

/// At most one stream; opening another closes it.
pub(super) struct Carrier {
    ways: TlsWays,
    events: mpsc::Receiver<(u64, Carried)>,
    sender: mpsc::Sender<(u64, Carried)>,
    /// Which stream is meant: events of earlier ones are late and dropped.
    generation: u64,
    stop: Option<oneshot::Sender<()>>,
    /// Why there is none although one is wanted.
    pub(super) trouble: Option<String>,
}

impl Carrier {
    pub(super) fn new(ways: TlsWays) -> Self {
        let (sender, events) = mpsc::channel(8);
        Self { ways, events, sender, generation: 0, stop: None, trouble: None }
    }

    /// Opens a stream to `relay`, the first or another, for the agent's UDP port; the outcome is an event.
    pub(super) fn open(&mut self, (relay, is_first): (SocketAddr, bool), key: PublicKey, port: u16) {
        self.close();
        let (stop, stopped) = oneshot::channel();
        let work = Work { ways: self.ways.of(is_first), relay, key, port };
        let (generation, events) = (self.generation, self.sender.clone());
        let spawned = thread::Builder::new().name("skynet-tls".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Err(e) => e.to_string(),
                Ok(runtime) => runtime.block_on(async {
                    let tell = |event| events.try_send((generation, event));
                    tokio::select! {
                        ended = work.run(|address, way| drop(tell(Carried::Opened(address, way)))) => ended,
                        _ = stopped => String::new(),
                    }
                }),
            };
            // Nobody listening: the agent is ending.
            let _ = events.blocking_send((generation, Carried::Closed(ended)));
        });
        match spawned {
            Ok(_) => self.stop = Some(stop),
            Err(e) => drop(self.sender.try_send((self.generation, Carried::Closed(e.to_string())))),
        }
    }

    /// Closes the stream; no event of it follows.
    pub(super) fn close(&mut self) {
        self.generation += 1;
        self.stop = None;
    }

    /// The next event of the present stream. Loses none if dropped while waiting.
    pub(super) async fn next(&mut self) -> Carried {
        loop {
            match self.events.recv().await {
                Some((generation, event)) if generation == self.generation => return event,
                Some(_) => {}
                None => unreachable!("we hold a sender ourselves"),
            }
        }
    }
}

struct Work {
    ways: TlsWays,
    relay: SocketAddr,
    key: PublicKey,
    port: u16,
}

impl Work {
    /// To the end of the stream; why it ended.
    async fn run(&self, opened: impl FnOnce(SocketAddr, Way)) -> String {
        let (way, (stream, early)) = match race(&self.ways, self.relay).await {
            Ok(found) => found,
            Err(why) => return why,
        };
        let udp = match self.socket().await {
            Ok(udp) => udp,
            Err(e) => return format!("no socket on the loopback interface: {e}"),
        };
        let (Ok(address), Ok(seed)) = (udp.local_addr(), entropy::seed()) else {
            return "the system gives no address or no randomness".to_owned();
        };
        opened(address, way);
        let frames = FrameStream::initiator(&self.key, &mut Rng::from_seed(seed), clock::monotonic());
        let counters = Counters::default();
        let pump = Pump { frames, udp: &udp, demands_session: false, counters: &counters };
        let ended = pump.run(stream, &early, clock::monotonic).await;
        tracing::debug!(?counters, "stream of frames ended");
        ended.to_string()
    }

    /// Connected to the agent's port: nobody else on this host is heard.
    async fn socket(&self) -> std::io::Result<UdpSocket> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
        udp.connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        Ok(udp)
    }
}

type Dialled = (ClientStream, Vec<u8>);

/// Directly and through the proxy at once; the first that opens.
async fn race(ways: &TlsWays, relay: SocketAddr) -> Result<(Way, Dialled), String> {
    let dialer = Dialer::new();
    let routes = [(Way::Tls, Some(ways.direct(relay))), (Way::Proxy, ways.proxied(relay))];
    let mut attempts: JoinSet<(Way, Result<Dialled, DialError>)> = JoinSet::new();
    for (way, route) in routes.into_iter().filter_map(|(way, route)| Some((way, route?))) {
        let dialer = dialer.clone();
        attempts.spawn(async move { (way, dialer.dial(&route, Purpose::Frames).await) });
    }
    let mut failures = Vec::new();
    while let Some(done) = attempts.join_next().await {
        match done {
            Ok((way, Ok(dialled))) => return Ok((way, dialled)),
            Ok((_, Err(error))) => failures.push(error.to_string()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(failures.join("; "))
}
