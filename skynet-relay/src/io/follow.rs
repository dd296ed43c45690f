//! A relay without a registrar asks the network's first relay who is a member, and which documents are in force, so
//! that it can answer look-ups while that one is away.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use skynet_core::control::{ControlClient, ControlConfig, ControlEvent, ControlTarget};
use skynet_core::key::StaticSecret;
use skynet_core::member::{Bundle, Manifest};
use skynet_core::rng::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::debug;

use crate::clock::Clock;
use crate::server::StoreOp;

/// As agents do: often while there are few members,
const EVERY: Duration = Duration::from_secs(20);
/// and seldom where there are more than this.
const MANY: usize = 128;
const EVERY_MANY: Duration = Duration::from_secs(600);
/// The whole of one look takes no longer, or is given up.
const LOOK: Duration = Duration::from_secs(60);
/// Members asked for at once.
const PAGE: u16 = 64;
const READ: usize = 16 * 1024;

/// Whom to follow, and as whom.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The first relay of the manifest, by its addresses.
    pub targets: Vec<ControlTarget>,
    /// This relay's key, which the manifest lists.
    pub key: StaticSecret,
}

impl Follow {
    /// What a relay of this key and manifest follows; nothing if it is the first itself.
    pub fn of(manifest: &Manifest, key: &StaticSecret) -> Option<Self> {
        let first = manifest.relays.first().filter(|relay| relay.key != key.public())?;
        let target = |address: &SocketAddr| ControlTarget {
            relay_no: first.relay_no,
            relay: first.key,
            address: *address,
        };
        Some(Self { targets: first.addresses.iter().map(target).collect(), key: key.clone() })
    }

    /// Looks again and again; what it finds goes to the directory. For ever.
    pub(super) async fn run(
        self,
        directory: mpsc::UnboundedSender<(u64, StoreOp)>,
        mut rng: Rng,
        clock: Clock,
    ) {
        loop {
            let mut pause = EVERY;
            for target in &self.targets {
                let look = self.look(*target, &directory, rng.fork(), clock);
                match tokio::time::timeout(LOOK, look).await {
                    Ok(Ok(members)) => {
                        pause = if members > MANY { EVERY_MANY } else { EVERY };
                        break;
                    }
                    Ok(Err(error)) => {
                        debug!(relay = %target.address, %error, "the first relay does not tell of members")
                    }
                    Err(_) => debug!(relay = %target.address, "the first relay takes too long"),
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection: the manifest, then all members, page by page; how many there were.
    async fn look(
        &self,
        target: ControlTarget,
        directory: &mpsc::UnboundedSender<(u64, StoreOp)>,
        rng: Rng,
        clock: Clock,
    ) -> io::Result<usize> {
        let mut stream = TcpStream::connect(target.address).await?;
        let config = ControlConfig { local: self.key.clone(), targets: vec![target] };
        let mut client = ControlClient::new(config, rng, clock.now().mono);
        client.handle_connected(clock.now().mono);
        let (mut buffer, mut members) = (vec![0; READ], 0);
        loop {
            while let Some(event) = client.poll_event() {
                let now = clock.now().mono;
                match event {
                    ControlEvent::Ready => {
                        let _asked = client.manifest(now);
                        let _asked = client.list(0, PAGE, now);
                    }
                    ControlEvent::Manifest(_, manifest) => {
                        let _gone = directory.send((0, StoreOp::Adopt { document: manifest }));
                    }
                    ControlEvent::Document(document) => {
                        let _gone = directory.send((0, StoreOp::Adopt { document }));
                    }
                    ControlEvent::Members(_, more, page) => {
                        members += page.len();
                        let last = page.last().and_then(|m| node_no(&m.bundle));
                        let bundles = page.into_iter().map(|m| m.bundle).collect();
                        let _gone = directory.send((0, StoreOp::Learn { bundles }));
                        let Some(last) = last.filter(|_| more) else { return Ok(members) };
                        let _asked = client.list(last, PAGE, now);
                    }
                    ControlEvent::Denied(..) | ControlEvent::Failed(_) | ControlEvent::Reconnect(..) => {
                        return Err(io::Error::other("refused, or not answered"));
                    }
                    _ => {}
                }
            }
            while let Some(bytes) = client.poll_bytes() {
                stream.write_all(&bytes).await?;
            }
            match stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => client.handle_bytes(&buffer[..n], clock.now().mono),
            }
        }
    }
}

fn node_no(bundle: &[u8]) -> Option<u32> {
    Some(Bundle::parse(bundle).ok()?.certificate.unverified().v4.to_bits())
}
