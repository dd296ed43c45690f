//! What must hold after every step, whatever the seed.

use std::net::SocketAddr;

use crate::host::HostId;
use crate::network::Datagram;
use crate::world::World;

/// What just happened.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The host whose turn it was, if a host's.
    pub host: Option<HostId>,
    /// Datagrams that host sent in its turn.
    pub sent: &'a [Datagram],
}

/// A property of the world, checked after each step.
pub trait Invariant {
    /// For the report.
    fn name(&self) -> &'static str;
    /// An error says what is wrong; the run ends there.
    fn check(&mut self, world: &World, step: Step<'_>) -> Result<(), String>;
}

/// Every queue a host reports is within its cap, and so are the NAT tables and the heap.
#[derive(Debug, Default)]
pub struct QueuesBounded {
    steps: u64,
}

/// Events that may wait per host before the heap counts as a leak.
const HEAP_PER_HOST: usize = 20_000;

/// NAT tables are looked at once in so many steps; they only grow by one entry each.
const NAT_CHECK_EVERY: u64 = 1_024;

impl Invariant for QueuesBounded {
    fn name(&self) -> &'static str {
        "queues bounded"
    }

    fn check(&mut self, world: &World, step: Step<'_>) -> Result<(), String> {
        self.steps += 1;
        for queue in step.host.map(|h| world.queues(h)).unwrap_or_default() {
            if queue.len > queue.cap {
                return Err(format!("{} holds {} of at most {}", queue.name, queue.len, queue.cap));
            }
        }
        if world.pending_events() > HEAP_PER_HOST * world.host_count().max(1) {
            return Err(format!("{} events wait for {} hosts", world.pending_events(), world.host_count()));
        }
        if self.steps.is_multiple_of(NAT_CHECK_EVERY)
            && let Some((entries, cap)) = world.network().fullest_nat()
            && entries > cap
        {
            return Err(format!("a NAT table holds {entries} of at most {cap}"));
        }
        Ok(())
    }
}

/// No host leaves the past in its `poll_timeout`: a deadline that was handled must move, or it is never called
/// again by a driver that waits for "later than now".
#[derive(Debug, Default)]
pub struct NoSilentTimer;

impl Invariant for NoSilentTimer {
    fn name(&self) -> &'static str {
        "no silent timer"
    }

    fn check(&mut self, world: &World, step: Step<'_>) -> Result<(), String> {
        let Some(host) = step.host else { return Ok(()) };
        match world.deadline(host) {
            Some(at) if at < world.now() => {
                Err(format!("timer {:?} of {host:?} stays at {at:?}", world.timer_name(host)))
            }
            _ => Ok(()),
        }
    }
}

/// No host sends to a place it must never send to.
pub struct NoPacketTo<F> {
    forbidden: F,
}

impl<F: Fn(HostId, SocketAddr) -> bool> NoPacketTo<F> {
    /// `forbidden(sender, destination)` is true for a violation.
    pub const fn new(forbidden: F) -> Self {
        Self { forbidden }
    }
}

impl<F: Fn(HostId, SocketAddr) -> bool> Invariant for NoPacketTo<F> {
    fn name(&self) -> &'static str {
        "no packet to a forbidden sink"
    }

    fn check(&mut self, _: &World, step: Step<'_>) -> Result<(), String> {
        let Some(host) = step.host else { return Ok(()) };
        match step.sent.iter().find(|d| (self.forbidden)(host, d.to)) {
            Some(d) => Err(format!("{host:?} sent {} bytes to {}", d.bytes.len(), d.to)),
            None => Ok(()),
        }
    }
}
