//! How the relay is: for `status`, as JSON, and for metrics.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use skynet_core::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use crate::clock::Clock;
use crate::io::control::ControlStats;
use crate::io::describe;
use crate::io::desk::{Desks, ForwardStats};
use crate::io::tls::{TlsDesk, TlsStats};
use crate::server::{DropReason, SessionView, StreamDrop};
use crate::store::View;

/// Between two samples, of which rates are made.
const SAMPLE: Duration = Duration::from_secs(1);
/// A thread looks up from its socket four times a second.
const ANSWER: Duration = Duration::from_millis(1_500);
const ANSWER_POLL: Duration = Duration::from_millis(10);
/// Whoever does not say within this what it wants gets the figures.
const ASK_DEADLINE: Duration = Duration::from_millis(200);
/// What whoever wants to see the directory says.
const DIRECTORY: &str = "directory";
/// Whoever asks and does not read.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Everything there is to know, and how it was a moment ago.
pub(super) struct Monitor {
    listen: SocketAddr,
    clock: Clock,
    desks: Desks,
    tls: Option<TlsDesk>,
    control: Arc<Mutex<ControlStats>>,
    /// The directory, for operators who ask who is in it.
    view: Option<Arc<dyn View + Send + Sync>>,
    samples: Mutex<[Sample; 2]>,
}

#[derive(Clone, Default)]
struct Sample {
    at: Instant,
    threads: Vec<ForwardStats>,
}

/// What one thread does in a second.
#[derive(Clone, Copy, Default)]
struct PerSecond {
    datagrams: f64,
    bits: f64,
    busy: f64,
}

impl Monitor {
    pub(super) fn new(
        listen: SocketAddr,
        clock: Clock,
        (desks, tls): (Desks, Option<TlsDesk>),
        control: Arc<Mutex<ControlStats>>,
    ) -> Self {
        let start = Sample { at: clock.now().mono, threads: desks.stats() };
        Self { listen, clock, desks, tls, control, view: None, samples: Mutex::new([start.clone(), start]) }
    }

    pub(super) fn with_view(self, view: Option<Arc<dyn View + Send + Sync>>) -> Self {
        Self { view, ..self }
    }

    /// Takes samples for ever.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(SAMPLE).await;
            let sample = Sample { at: self.clock.now().mono, threads: self.desks.stats() };
            let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.swap(0, 1);
            samples[1] = sample;
        }
    }

    pub(super) fn threads(&self) -> Vec<ForwardStats> {
        self.desks.stats()
    }

    pub(super) fn control(&self) -> ControlStats {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All zero without a TLS port.
    pub(super) fn tls(&self) -> TlsStats {
        self.tls.as_ref().map(TlsDesk::stats).unwrap_or_default()
    }

    /// What went no further at any side, by label, all there are.
    pub(super) fn drops(&self, forward: &ForwardStats) -> BTreeMap<&'static str, u64> {
        let mut streams = self.control().drops;
        streams.add(&self.tls().drops);
        let datagrams = DropReason::ALL.iter().map(|&reason| (reason.as_str(), forward.drops.get(reason)));
        let streams = StreamDrop::ALL.iter().map(|&reason| (reason.as_str(), streams.get(reason)));
        let mut drops = BTreeMap::new();
        for (label, n) in datagrams.chain(streams) {
            *drops.entry(label).or_default() += n;
        }
        drops
    }

    pub(super) fn uptime(&self) -> Duration {
        Duration::from_nanos(self.clock.now().mono.as_nanos())
    }

    fn per_second(&self) -> Vec<PerSecond> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let [before, after] = &*samples;
        let seconds = after.at.saturating_since(before.at).as_secs_f64();
        let rate = |(before, after): (&ForwardStats, &ForwardStats)| {
            let per_s = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
            let (b, a) = (before.counters, after.counters);
            PerSecond {
                datagrams: per_s(b.forwarded, a.forwarded),
                bits: 8.0 * per_s(b.forwarded_bytes, a.forwarded_bytes),
                busy: after.busy.saturating_sub(before.busy).as_secs_f64() / seconds,
            }
        };
        if seconds <= 0.0 {
            return vec![PerSecond::default(); after.threads.len()];
        }
        before.threads.iter().zip(&after.threads).map(rate).collect()
    }

    /// One JSON object per connection, which may say in a line what it wants to see. The socket lies in a directory only the relay's user can enter.
    pub(super) async fn serve(&self, listener: Option<UnixListener>) {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let text = match asked(&mut stream).await.as_str() {
                DIRECTORY => self.directory().to_string(),
                _ => self.to_json(self.sessions().await).to_string(),
            };
            let _ = tokio::time::timeout(WRITE_DEADLINE, stream.write_all(text.as_bytes())).await;
        }
    }

    /// Everybody in the directory. Reading ten thousand takes a tenth of a second, in which control waits.
    fn directory(&self) -> Value {
        match self.view.as_deref().map(|view| describe::directory(view)) {
            Some(Ok(value)) => value,
            Some(Err(error)) => json!({ "error": error.to_string() }),
            None => json!({ "error": "this relay does not show its directory" }),
        }
    }

    /// The sessions of all threads, by network, node and lane.
    async fn sessions(&self) -> Vec<SessionView> {
        self.desks.ask_sessions();
        let end = self.clock.now().mono + ANSWER;
        while self.clock.now().mono < end {
            if let Some(mut sessions) = self.desks.sessions() {
                sessions.sort_by_key(|session| (session.network_id, session.node_no, session.lane));
                return sessions;
            }
            tokio::time::sleep(ANSWER_POLL).await;
        }
        Vec::new()
    }

    fn to_json(&self, sessions: Vec<SessionView>) -> Value {
        let threads = self.threads();
        let forward = ForwardStats::sum(&threads);
        let drops = self.drops(&forward).into_iter().filter(|(_, n)| *n > 0);
        let drops: Map<String, Value> = drops.map(|(label, n)| (label.to_owned(), n.into())).collect();
        let (control, tls, per_second) = (self.control(), self.tls(), self.per_second());
        let sum = |of: fn(&PerSecond) -> f64| per_second.iter().map(of).sum::<f64>().round();
        json!({
            "schema": "skynet.relay.status/1",
            "listen": self.listen.to_string(),
            "process": std::process::id(),
            "uptime_s": self.uptime().as_secs(),
            "draining": forward.draining,
            "sessions": forward.sessions,
            "sessions_by_tls": forward.bridged,
            "control_connections": control.connections,
            "members_online": control.joined,
            "tls_connections": tls.connections,
            "tls_carriers": tls.carriers,
            "tls_frames_received": tls.frames.0,
            "tls_frames_sent": tls.frames.1,
            "datagrams_received": forward.counters.received,
            "datagrams_forwarded": forward.counters.forwarded,
            "bytes_forwarded": forward.counters.forwarded_bytes,
            "datagrams_unsent": forward.unsent,
            "datagrams_overflowed": forward.overflowed,
            "control_apart": threads.iter().all(|thread| thread.control_apart),
            "control_overflowed": forward.overflowed_control,
            "replies": forward.counters.replies,
            "datagrams_per_s": sum(|rate| rate.datagrams),
            "bits_per_s": sum(|rate| rate.bits),
            "threads": threads.iter().zip(&per_second).map(thread).collect::<Vec<_>>(),
            "networks": networks(&sessions),
            "peers": sessions.iter().map(peer).collect::<Vec<_>>(),
            "drops": drops,
        })
    }
}

/// The line that was sent; none from whoever only listens.
async fn asked(stream: &mut UnixStream) -> String {
    let mut line = [0; 64];
    let mut len = 0;
    let read = async {
        while !line[..len].contains(&b'\n') && len < line.len() {
            match stream.read(&mut line[len..]).await {
                Ok(n) if n > 0 => len += n,
                _ => break,
            }
        }
    };
    let _late = tokio::time::timeout(ASK_DEADLINE, read).await;
    String::from_utf8_lossy(&line[..len]).trim().to_owned()
}

fn thread((stats, rate): (&ForwardStats, &PerSecond)) -> Value {
    json!({
        "sessions": stats.sessions,
        "busy_percent": (rate.busy * 1000.0).round() / 10.0,
        "datagrams_per_s": rate.datagrams.round(),
        "bits_per_s": rate.bits.round(),
        "datagrams_forwarded": stats.counters.forwarded,
        "datagrams_overflowed": stats.overflowed,
        "control_overflowed": stats.overflowed_control,
    })
}

fn networks(sessions: &[SessionView]) -> Vec<Value> {
    let mut networks: BTreeMap<[u8; 8], (usize, usize, u64)> = BTreeMap::new();
    let mut last = None;
    for session in sessions {
        let (nodes, count, bytes) = networks.entry(session.network_id).or_default();
        let node = Some((session.network_id, session.node_no));
        *nodes += usize::from(std::mem::replace(&mut last, node) != node);
        *count += 1;
        *bytes += session.bytes;
    }
    let network = |(id, (nodes, sessions, bytes)): ([u8; 8], (usize, usize, u64))| json!({ "network": hex(&id), "nodes": nodes, "sessions": sessions, "bytes_forwarded": bytes });
    networks.into_iter().map(network).collect()
}

fn peer(session: &SessionView) -> Value {
    json!({
        "network": hex(&session.network_id),
        "node": Ipv4Addr::from(session.node_no).to_string(),
        "lane": session.lane,
        "transport": if session.is_bridged() { "tls" } else { "udp" },
        "address": session.addr.to_string(),
        "rate_class": session.class,
        "bytes_forwarded": session.bytes,
        "silent_s": session.silent.as_secs(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where `status` asks; gone with it. Whoever connects before the relay serves waits, so bound before the relay reads its
/// documents nobody can replace one and find nobody to tell.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl StatusSocket {
    /// Binds it. A socket left by a relay that was killed is in the way and nobody's any more; the port was free, so this
    /// is it.
    pub fn bind(path: PathBuf) -> Option<Self> {
        let _ = std::fs::remove_file(&path);
        let bound = std::os::unix::net::UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        match bound {
            Ok(listener) => Some(Self { path, listener }),
            Err(error) => {
                warn!(path = %path.display(), %error, "no status socket");
                None
            }
        }
    }

    pub(super) fn listener(&self) -> Option<UnixListener> {
        UnixListener::from_std(self.listener.try_clone().ok()?).ok()
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
