//! One virtual agent: the production machines of `skynet_sim::host::AgentHost` over real sockets, without a TUN device.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use skynet_sim::host::{AgentHost, StreamEvent, StreamId};
use skynet_sim::{Host as _, StreamCommand};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Notify;

use crate::clock::Clock;

/// Length of the Noise message of a PONG: what comes while nothing happens.
const PONG_FRAME: usize = 16 + 5 + 8;
/// Length of a KEEP.
const KEEP: usize = 16;

/// What the relay has sent to all nodes of a process, keep-alives aside.
#[derive(Default, Debug)]
pub(crate) struct Heard {
    pub(crate) bytes: Cell<u64>,
    /// Control messages that are not PONGs.
    pub(crate) messages: Cell<u64>,
}

/// A node, and how to make it look at its orders.
pub(crate) struct Node {
    pub(crate) host: RefCell<AgentHost>,
    pub(crate) wake: Notify,
}

/// A node's sockets.
pub(crate) struct Sockets {
    udp: UdpSocket,
    stream: Option<(StreamId, Stream)>,
    heard: Rc<Heard>,
}

enum Stream {
    Connecting(SocketAddr, SocketAddr),
    Open { stream: TcpStream, unsent: Vec<u8>, frames: Frames },
}

/// Cuts a stream into frames to tell keep-alives from the rest: u16 length, then as many bytes.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    left: usize,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], heard: &Heard) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let n = self.left.min(bytes.len());
                self.left -= n;
                bytes = &bytes[n..];
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let [a, b] = self.head[..] {
                self.left = usize::from(u16::from_be_bytes([a, b]));
                self.head.clear();
                if self.left != PONG_FRAME {
                    heard.bytes.set(heard.bytes.get() + 2 + self.left as u64);
                    heard.messages.set(heard.messages.get() + 1);
                }
            }
        }
    }
}

impl Sockets {
    pub(crate) fn new(udp: UdpSocket, heard: Rc<Heard>) -> Self {
        Self { udp, stream: None, heard }
    }
}

/// Runs a node for ever.
pub(crate) async fn run(node: Rc<Node>, mut sockets: Sockets, clock: Clock) {
    let host = &node.host;
    host.borrow_mut().on_start(clock.now());
    loop {
        let deadline = drain(&mut host.borrow_mut(), &mut sockets, clock);
        let Sockets { udp, stream, heard } = &mut sockets;
        tokio::select! {
            ready = udp.readable() => if ready.is_ok() {
                receive(&mut host.borrow_mut(), udp, heard, clock);
            },
            (id, event) = next_event(stream, heard) => {
                if event == StreamEvent::Closed {
                    *stream = None;
                }
                host.borrow_mut().on_stream(id, event, clock.now());
            }
            () = node.wake.notified() => host.borrow_mut().on_timer(clock.now()),
            () = sleep_until(deadline) => host.borrow_mut().on_timer(clock.now()),
        }
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// Does what the host wants; when it wants to be called again.
fn drain(host: &mut AgentHost, sockets: &mut Sockets, clock: Clock) -> Option<std::time::Instant> {
    while let Some(t) = host.poll_transmit() {
        let _ = sockets.udp.try_send_to(&t.bytes, t.to);
    }
    while let Some((id, command)) = host.poll_stream() {
        match command {
            StreamCommand::Connect(from, to) => sockets.stream = Some((id, Stream::Connecting(from, to))),
            StreamCommand::Send(bytes) => {
                if let Some((open, Stream::Open { unsent, .. })) = &mut sockets.stream
                    && *open == id
                {
                    unsent.extend_from_slice(&bytes);
                }
            }
            StreamCommand::Close => sockets.stream.take_if(|(open, _)| *open == id).map_or((), drop),
        }
    }
    if let Some((_, Stream::Open { stream, unsent, .. })) = &mut sockets.stream
        && !unsent.is_empty()
        && let Ok(n) = stream.try_write(unsent)
    {
        unsent.drain(..n);
    }
    host.poll_timeout().map(|at| clock.deadline(at))
}

fn receive(host: &mut AgentHost, udp: &UdpSocket, heard: &Heard, clock: Clock) {
    let Ok(local) = udp.local_addr() else { return };
    let mut buffer = [0; 2_048];
    // A few at a time: the other nodes of this thread have their turn too.
    for _ in 0..16 {
        let Ok((n, from)) = udp.try_recv_from(&mut buffer) else { return };
        if n != KEEP {
            heard.bytes.set(heard.bytes.get() + n as u64);
        }
        host.on_datagram(local, from, buffer[..n].to_vec(), clock.now());
    }
}

/// What happens next on the node's stream.
async fn next_event(stream: &mut Option<(StreamId, Stream)>, heard: &Heard) -> (StreamId, StreamEvent) {
    let Some((id, state)) = stream else { return pending().await };
    let event = match state {
        Stream::Connecting(from, to) => match connect(*from, *to).await {
            Ok(stream) => {
                *state = Stream::Open { stream, unsent: Vec::new(), frames: Frames::default() };
                StreamEvent::Connected
            }
            Err(_) => StreamEvent::Closed,
        },
        Stream::Open { stream, unsent, frames } => next_bytes(stream, unsent, frames, heard).await,
    };
    (*id, event)
}

async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from.ip(), 0))?;
    socket.connect(to).await
}

async fn next_bytes(
    stream: &TcpStream,
    unsent: &mut Vec<u8>,
    frames: &mut Frames,
    heard: &Heard,
) -> StreamEvent {
    loop {
        let interest =
            if unsent.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let Ok(ready) = stream.ready(interest).await else { return StreamEvent::Closed };
        if ready.is_writable() && !unsent.is_empty() {
            match stream.try_write(unsent) {
                Ok(n) => drop(unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It stays writable, and would be tried for ever.
                Err(_) => return StreamEvent::Closed,
            }
        }
        let mut buffer = [0; 16_384];
        match stream.try_read(&mut buffer) {
            Ok(0) => return StreamEvent::Closed,
            Ok(n) => {
                frames.take(&buffer[..n], heard);
                return StreamEvent::Bytes(buffer[..n].to_vec());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return StreamEvent::Closed,
        }
    }
}
