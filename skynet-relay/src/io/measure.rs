//! The thread of the port above: STUN for nodes that measure their NAT. Without it the relay is whole; nodes then do not
//! know their NAT's behaviour.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::clock::Clock;
use crate::io::udp::{Batch, MAX_DATAGRAM, UdpSocket};
use crate::server::{Local, Measure};

/// A running thread.
#[derive(Debug)]
pub struct MeasureThread {
    stop: Arc<AtomicBool>,
    handle: thread::JoinHandle<()>,
}

impl MeasureThread {
    /// Starts the thread. `main` is the relay's own socket, by which some answers leave.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(socket: UdpSocket, main: UdpSocket, measure: Measure, clock: Clock) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stop_2 = Arc::clone(&stop);
        let run = move || {
            if let Err(error) = run(&socket, &main, measure, clock, &stop_2) {
                tracing::warn!(%error, "nodes cannot measure their NATs any more");
            }
        };
        let handle = thread::Builder::new().name("measure".into()).spawn(run)?;
        Ok(Self { stop, handle })
    }

    /// Stops the thread and waits for it, at most a receive timeout.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.handle.join();
    }
}

fn run(
    socket: &UdpSocket,
    main: &UdpSocket,
    mut measure: Measure,
    clock: Clock,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut batch = Batch::new();
    while !stop.load(Ordering::Relaxed) {
        let received = socket.receive(&mut batch)?;
        let now = clock.now().mono;
        let mut by_main = Vec::new();
        for slot in 0..received {
            let Some(train) = batch.train(slot) else { continue };
            for at in train.datagrams().filter(|at| at.len() <= MAX_DATAGRAM) {
                let datagram = batch.datagram_mut(slot, at.clone());
                let Ok(measured) = measure.handle_datagram(train.from, datagram, now) else { continue };
                let port = measured.to_port.unwrap_or_else(|| train.from.port());
                let answer =
                    (slot, at.start..at.start + measured.len, train.local, (train.from.ip(), port).into());
                if measured.from_main {
                    by_main.push(answer);
                } else {
                    push(&mut batch, answer, socket);
                }
            }
        }
        socket.send(&mut batch);
        for answer in by_main {
            push(&mut batch, answer, main);
        }
        main.send(&mut batch);
    }
    Ok(())
}

/// Where in a slot an answer lies, from which of our addresses it leaves, and where it goes.
type Answer = (usize, Range<usize>, Local, SocketAddr);

/// Adds an answer to what leaves by `socket`, which makes room if there is none.
fn push(batch: &mut Batch, (slot, at, local, to): Answer, socket: &UdpSocket) {
    while !batch.push(slot, at.clone(), local, to) {
        socket.send(batch);
    }
}
