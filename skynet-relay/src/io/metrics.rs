//! Prometheus metrics over HTTP, on loopback only: `GET /metrics`. What each means is in `docs/RELAY.md`.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::io::desk::ForwardStats;
use crate::io::status::Monitor;

/// Connections at once: one or two servers ask.
const CONNECTIONS: usize = 8;
/// A request must be complete within this.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// And the whole connection over within this.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const BUFFER: usize = 8 * 1024;

/// Answers for ever; `None` is nobody to answer.
pub(super) async fn serve(listener: Option<TcpListener>, monitor: Arc<Monitor>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let monitor = Arc::clone(&monitor);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &monitor);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_DEADLINE)
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
            drop(permit);
        });
    }
}

/// Opens the listener.
///
/// # Errors
/// As `bind(2)`.
pub(super) async fn bind(addr: Option<std::net::SocketAddr>) -> io::Result<Option<TcpListener>> {
    match addr {
        Some(addr) => TcpListener::bind(addr).await.map(Some).map_err(|error| {
            io::Error::new(error.kind(), format!("metrics cannot be served on {addr}: {error}"))
        }),
        None => Ok(None),
    }
}

fn answer<B>(request: &Request<B>, monitor: &Monitor) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, render(monitor)),
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "GET /metrics or /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

type OfThread = fn(&ForwardStats) -> f64;

/// What each thread has: name, kind, meaning, value.
const OF_THREADS: [(&str, &str, &str, OfThread); 8] = [
    ("received_datagrams_total", "counter", "Datagrams received.", |s| s.counters.received as f64),
    ("forwarded_datagrams_total", "counter", "DATA frames sent on.", |s| s.counters.forwarded as f64),
    ("forwarded_bytes_total", "counter", "Bytes of them, relay headers included.", |s| {
        s.counters.forwarded_bytes as f64
    }),
    ("replies_total", "counter", "Answers sent.", |s| s.counters.replies as f64),
    ("unsent_datagrams_total", "counter", "Datagrams the kernel refused to send.", |s| s.unsent as f64),
    (
        "overflowed_datagrams_total",
        "counter",
        "Datagrams of bulk lost because the thread did not come to them.",
        |s| s.overflowed as f64,
    ),
    (
        "overflowed_control_total",
        "counter",
        "Control datagrams lost because the thread did not come to them.",
        |s| s.overflowed_control as f64,
    ),
    ("thread_cpu_seconds_total", "counter", "Processor time of the thread.", |s| s.busy.as_secs_f64()),
];

fn render(monitor: &Monitor) -> String {
    let threads = monitor.threads();
    let forward = ForwardStats::sum(&threads);
    let control = monitor.control();
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, series: &mut dyn Iterator<Item = (String, f64)>| {
        let _ = writeln!(text, "# HELP skynet_relay_{name} {help}\n# TYPE skynet_relay_{name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(text, "skynet_relay_{name}{labels} {value}");
        }
    };
    let one = |value: f64| [(String::new(), value)].into_iter();
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("info", "gauge", "1, with the version.", &mut [(version, 1.0)].into_iter());
    family("uptime_seconds", "gauge", "Since the start.", &mut one(monitor.uptime().as_secs_f64()));
    let udp = forward.sessions.saturating_sub(forward.bridged);
    let sessions = [("udp", udp), ("tls", forward.bridged)];
    let mut sessions = sessions.into_iter().map(|(by, n)| (format!("{{transport=\"{by}\"}}"), n as f64));
    family("sessions", "gauge", "Lanes of members bound here.", &mut sessions);
    family("control_connections", "gauge", "Open control connections.", &mut one(control.connections as f64));
    family("members_online", "gauge", "Members with a control connection.", &mut one(control.joined as f64));
    for (name, kind, help, of) in OF_THREADS {
        let each = threads.iter().enumerate();
        let mut each = each.map(|(index, stats)| (format!("{{thread=\"{index}\"}}"), of(stats)));
        family(name, kind, help, &mut each);
    }
    let drops = monitor.drops(&forward);
    let mut drops = drops.into_iter().map(|(label, n)| (format!("{{reason=\"{label}\"}}"), n as f64));
    family("drops_total", "counter", "What went no further, by reason.", &mut drops);
    text
}
