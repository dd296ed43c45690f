//! A real HTTP proxy that opens tunnels to port 443 and to nothing else, and wants a name and a password.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use data_encoding::BASE64;

use crate::lab::Netns;

const PORT: u16 = 3128;
/// Who may use it.
pub const CREDENTIALS: &str = "lab:s3cret";

/// The running proxy; dropping it ends it.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    tunnels: AtomicU32,
    unauthorised: AtomicU32,
    forbidden: AtomicU32,
}

impl ConnectProxy {
    /// Serves at an address of `namespace`, and connects from there.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub fn start(namespace: &Netns, ip: std::net::Ipv4Addr) -> anyhow::Result<Self> {
        let address = SocketAddr::new(ip.into(), PORT);
        let listener = namespace.run(|| TcpListener::bind(address))?.context("proxy")?;
        listener.set_nonblocking(true)?;
        let (counts, ended) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let (counted, end, namespace) = (Arc::clone(&counts), Arc::clone(&ended), namespace.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((client, _)) => {
                        let (counted, namespace) = (Arc::clone(&counted), namespace.clone());
                        std::thread::spawn(move || serve(client, &namespace, &counted));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self { address, counts, ended, thread: Some(thread) })
    }

    /// What `HTTPS_PROXY` says of it.
    pub fn url(&self) -> String {
        format!("http://{CREDENTIALS}@{}", self.address)
    }

    /// The same with a wrong password.
    pub fn wrong_url(&self) -> String {
        format!("http://lab:wrong@{}", self.address)
    }

    /// Tunnels opened, requests without the right password, and those for another port.
    pub fn counts(&self) -> (u32, u32, u32) {
        let read = |n: &AtomicU32| n.load(Ordering::Relaxed);
        (read(&self.counts.tunnels), read(&self.counts.unauthorised), read(&self.counts.forbidden))
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut client: TcpStream, namespace: &Netns, counts: &Counts) {
    let Some(head) = read_head(&mut client) else { return };
    let expected = format!("proxy-authorization: basic {}", BASE64.encode(CREDENTIALS.as_bytes()));
    let may = head.lines().any(|line| line.eq_ignore_ascii_case(&expected));
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let (count, answer) = match target {
        _ if !may => (
            &counts.unauthorised,
            "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"lab\"\r\nContent-Length: 0",
        ),
        Some(target) if target.ends_with(":443") => match dial(namespace, target) {
            Some(server) => {
                counts.tunnels.fetch_add(1, Ordering::Relaxed);
                if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").is_ok() {
                    join(client, server);
                }
                return;
            }
            None => (&counts.forbidden, "502 Bad Gateway\r\nContent-Length: 0"),
        },
        _ => (&counts.forbidden, "403 Forbidden\r\nContent-Length: 0"),
    };
    count.fetch_add(1, Ordering::Relaxed);
    let _ = client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
}

fn read_head(client: &mut TcpStream) -> Option<String> {
    client.set_nonblocking(false).ok()?;
    client.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4_096 {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    client.set_read_timeout(None).ok()?;
    String::from_utf8(head).ok()
}

fn dial(namespace: &Netns, target: &str) -> Option<TcpStream> {
    let address: SocketAddr = target.parse().ok()?;
    namespace.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(3))).ok()?.ok()
}

/// Both directions until both have ended.
fn join(client: TcpStream, server: TcpStream) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    };
    let (Ok(client_2), Ok(server_2)) = (client.try_clone(), server.try_clone()) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client_2, server_2));
        copy(server, client);
    });
}
