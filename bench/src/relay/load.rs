//! Load through a relay. A pair has at most a window of datagrams on their way, so a relay is kept busy and nothing is
//! wasted on datagrams that are dropped; or datagrams leave at a given rate.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use skynet_tests::clock;

use super::pair::Pair;

/// When nothing can be sent: shorter than a window takes.
const PAUSE: Duration = Duration::from_micros(20);
/// Nothing has arrived for so long: what is on its way is lost.
const LOST: Duration = Duration::from_millis(20);
/// Between two probes of latency.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);
/// Of a probe, in its payload.
const STAMP: usize = 8;
/// Receive calls on one socket before the next one's turn.
const TURN: usize = 64;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of payload per datagram.
    pub(super) payload: usize,
    /// Datagrams handed to the kernel at once.
    pub(super) train: usize,
    /// Datagrams of a pair on their way at most.
    pub(super) window: usize,
}

/// What arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    pub(super) datagrams: u64,
    pub(super) seconds: f64,
}

/// Keeps windows full for so long.
///
/// # Errors
/// If sockets cannot be used.
pub(super) fn saturate(pairs: &[Pair], shape: Shape, length: Duration) -> anyhow::Result<Delivered> {
    let trains = prepare(pairs, shape)?;
    let received: Vec<_> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(pairs, shape, &received, &is_over));
        let start = clock::now();
        let mut windows = vec![Window::default(); pairs.len()];
        while start.elapsed() < length {
            let mut has_sent = false;
            for (((pair, train), window), received) in
                pairs.iter().zip(&trains).zip(&mut windows).zip(&received)
            {
                if window.has_room(received.load(Ordering::Relaxed), shape, start.elapsed())
                    && pair.sender.send(train).is_ok()
                {
                    window.sent += shape.train as u64;
                    has_sent = true;
                }
            }
            if !has_sent {
                thread::sleep(PAUSE);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let datagrams = received.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        is_over.store(true, Ordering::Relaxed);
        receiving.join().expect("the receiving thread does not panic")?;
        Ok(Delivered { datagrams, seconds })
    })
}

/// One-way times of probes by the first pair, while the others send `per_second` datagrams together.
///
/// # Errors
/// If sockets cannot be used.
pub(super) fn latency(
    pairs: &[Pair],
    background: Option<(Shape, f64)>,
    probe: usize,
    length: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let (prober, others) = pairs.split_first().expect("there is a pair");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loading = background.map(|(shape, per_second)| {
            scope.spawn({
                let is_over = &is_over;
                move || pace(others, shape, per_second, is_over)
            })
        });
        let times = probe_for(prober, probe, length);
        is_over.store(true, Ordering::Relaxed);
        if let Some(loading) = loading {
            loading.join().expect("the loading thread does not panic")?;
        }
        times
    })
}

/// What a pair has on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    sent: u64,
    last_received: u64,
    changed: Duration,
}

impl Window {
    fn has_room(&mut self, received: u64, shape: Shape, now: Duration) -> bool {
        if received != self.last_received {
            (self.last_received, self.changed) = (received, now);
        } else if now.saturating_sub(self.changed) > LOST {
            (self.sent, self.changed) = (received, now);
        }
        self.sent + shape.train as u64 <= received + shape.window as u64
    }
}

/// The bytes each pair sends at once, its sockets made to cut and join them.
fn prepare(pairs: &[Pair], shape: Shape) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut trains = Vec::new();
    for pair in pairs {
        let one = (pair.head.len() + shape.payload) as i32;
        setsockopt(&pair.sender, sockopt::UdpGsoSegment, &if shape.train > 1 { one } else { 0 })?;
        setsockopt(&pair.receiver, sockopt::UdpGroSegment, &true)?;
        pair.receiver.set_nonblocking(true)?;
        trains.push(pair.train(shape.payload, shape.train));
    }
    Ok(trains)
}

fn receive(pairs: &[Pair], shape: Shape, received: &[AtomicU64], is_over: &AtomicBool) -> anyhow::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    for (index, pair) in pairs.iter().enumerate() {
        epoll.add(pair.receiver.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
    }
    let mut events = [EpollEvent::empty(); 64];
    let mut buffer = vec![0; 1 << 16];
    while !is_over.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, 20u8)?;
        for event in &events[..ready] {
            let pair = &pairs[event.data() as usize];
            let one = pair.head_at_receiver + shape.payload;
            for _ in 0..TURN {
                match pair.receiver.recv(&mut buffer) {
                    // What comes joined is whole datagrams of one size.
                    Ok(bytes) => {
                        received[event.data() as usize].fetch_add((bytes / one) as u64, Ordering::Relaxed)
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
            }
        }
    }
    Ok(())
}

fn pace(pairs: &[Pair], shape: Shape, per_second: f64, is_over: &AtomicBool) -> anyhow::Result<()> {
    let trains = prepare(pairs, shape)?;
    let received: Vec<_> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(pairs, shape, &received, is_over));
        let (start, mut sent, mut turn) = (clock::now(), 0.0, 0);
        while !is_over.load(Ordering::Relaxed) {
            while sent < start.elapsed().as_secs_f64() * per_second {
                let _ = pairs[turn].sender.send(&trains[turn]);
                sent += shape.train as f64;
                turn = (turn + 1) % pairs.len();
            }
            thread::sleep(PAUSE);
        }
        receiving.join().expect("the receiving thread does not panic")
    })
}

fn probe_for(pair: &Pair, payload: usize, length: Duration) -> anyhow::Result<Vec<Duration>> {
    setsockopt(&pair.sender, sockopt::UdpGsoSegment, &0)?;
    pair.receiver.set_nonblocking(false)?;
    let start = clock::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let (mut times, mut buffer) = (Vec::new(), [0; 2048]);
            while start.elapsed() < length + LOST {
                let Ok(bytes) = pair.receiver.recv(&mut buffer) else { continue };
                let now = start.elapsed();
                let stamp = buffer.get(pair.head_at_receiver..pair.head_at_receiver + STAMP);
                if bytes == pair.head_at_receiver + payload
                    && let Some(Ok(stamp)) = stamp.map(<[u8; STAMP]>::try_from)
                {
                    times.push(now.saturating_sub(Duration::from_nanos(u64::from_be_bytes(stamp))));
                }
            }
            times
        });
        let mut datagram = pair.train(payload, 1);
        let at = pair.head.len();
        let mut next = Duration::ZERO;
        while start.elapsed() < length {
            let stamp = start.elapsed().as_nanos() as u64;
            datagram[at..at + STAMP].copy_from_slice(&stamp.to_be_bytes());
            pair.sender.send(&datagram)?;
            next += PROBE_INTERVAL;
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
        Ok(receiving.join().expect("the receiving thread does not panic"))
    })
}
