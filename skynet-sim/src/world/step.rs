//! One step of the world: take an event, let it happen, drain the host it touched, check the invariants.

use std::cmp::{Ordering, Reverse};

use skynet_core::time::{Duration, Instant, Now};

use super::{RunError, World};
use crate::host::{Host, HostId, StreamEvent, StreamId};
use crate::invariants::Step;
use crate::network::{Datagram, DropCause, Hop, Place};
use crate::stream::{Arrival, End};
use crate::trace::Kind;

/// Time to live of a datagram that asks for none.
const DEFAULT_TTL: u8 = 64;

/// Turns a host may take by its own timer at one instant before it counts as one that never rests.
const MAX_TIMERS_PER_INSTANT: u32 = 64;

/// Datagrams or stream commands a host may emit in one turn.
const MAX_OUTPUT_PER_TURN: usize = 100_000;

#[derive(Debug)]
pub(super) enum Event {
    Start(HostId),
    Timer(HostId),
    Packet(Place, Datagram),
    Stream(u64, End, Arrival),
    /// A connection that was never possible fails at the client.
    ConnectFailed(HostId, StreamId),
}

#[derive(Debug)]
pub(super) struct Entry {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl World {
    /// Runs until `duration` has passed.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), RunError> {
        let deadline = self.now + duration;
        self.run_until(deadline, |_| false).map(|_| ())
    }

    /// Runs until `done` holds, checked after each step, or `deadline`; whether it came to hold.
    pub fn run_until(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, RunError> {
        if done(self) {
            return Ok(true);
        }
        while self.heap.peek().is_some_and(|Reverse(e)| e.at <= deadline) {
            if self.step()? && done(self) {
                return Ok(true);
            }
        }
        self.now = self.now.max(deadline);
        Ok(false)
    }

    /// Takes the next event. False if it was a stale timer or there was none.
    pub fn step(&mut self) -> Result<bool, RunError> {
        let Some(Reverse(entry)) = self.heap.pop() else { return Ok(false) };
        if let Event::Timer(host) = entry.event
            && !self.timer_is_due(host, entry.at)
        {
            return Ok(false);
        }
        if self.stats.events >= self.event_budget {
            return Err(RunError::Budget);
        }
        self.stats.events += 1;
        self.now = self.now.max(entry.at);
        self.sent.clear();
        let host = self.handle(entry.event)?;
        self.check_invariants(host)?;
        Ok(true)
    }

    fn timer_is_due(&mut self, host: HostId, at: Instant) -> bool {
        let slot = &mut self.slots[host.0];
        if slot.armed != Some(at) {
            return false;
        }
        slot.armed = None;
        match self.deadline(host) {
            Some(deadline) if deadline <= at => true,
            Some(_) => {
                self.rearm(host);
                false
            }
            None => false,
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<HostId>, RunError> {
        match event {
            Event::Start(id) => {
                self.trace.record(self.now, Kind::Start, Some(id), 0, &[]);
                self.turn(id, |host, now| host.on_start(now))
            }
            Event::Timer(id) => {
                self.count_timer(id)?;
                self.trace.record(self.now, Kind::Timer, Some(id), 0, &[]);
                self.turn(id, |host, now| host.on_timer(now))
            }
            Event::Packet(place, datagram) => self.carry(place, datagram),
            Event::Stream(number, end, arrival) => self.stream_arrival(number, end, arrival),
            Event::ConnectFailed(id, stream) => {
                self.turn(id, |h, now| h.on_stream(stream, StreamEvent::Closed, now))
            }
        }
    }

    fn count_timer(&mut self, id: HostId) -> Result<(), RunError> {
        let now = self.now;
        let slot = &mut self.slots[id.0];
        let (at, count) = slot.last_timer;
        slot.last_timer = if at == now { (at, count + 1) } else { (now, 1) };
        if slot.last_timer.1 > MAX_TIMERS_PER_INSTANT {
            return Err(RunError::Livelock { host: id, timer: slot.host.timer_name() });
        }
        Ok(())
    }

    pub(super) fn turn(
        &mut self,
        id: HostId,
        act: impl FnOnce(&mut dyn Host, Now),
    ) -> Result<Option<HostId>, RunError> {
        let now = self.host_now(id);
        let slot = &mut self.slots[id.0];
        if slot.stopped.is_some() {
            return Ok(None);
        }
        act(slot.host.as_mut(), now);
        self.drain(id)?;
        Ok(Some(id))
    }

    fn carry(&mut self, place: Place, datagram: Datagram) -> Result<Option<HostId>, RunError> {
        let mut hops = std::mem::take(&mut self.hops);
        self.network.carry(place, datagram, self.now, &mut hops);
        let mut touched = Ok(None);
        for hop in hops.drain(..) {
            match hop {
                Hop::Later(at, place, datagram) => self.schedule(at, Event::Packet(place, datagram)),
                Hop::Drop(cause, datagram) => self.count_drop(cause, &datagram),
                // A datagram arrives at one attachment; only that branch of `carry` yields a delivery.
                Hop::Deliver(host, datagram) => touched = self.deliver(host, datagram),
            }
        }
        self.hops = hops;
        touched
    }

    fn deliver(&mut self, id: HostId, datagram: Datagram) -> Result<Option<HostId>, RunError> {
        if self.slots[id.0].stopped.is_some() {
            self.count_drop(DropCause::HostDown, &datagram);
            return Ok(None);
        }
        let ports = u64::from(datagram.from.port()) << 16 | u64::from(datagram.to.port());
        self.trace.record(self.now, Kind::Datagram, Some(id), ports, &datagram.bytes);
        self.turn(id, |host, now| host.on_datagram(datagram.to, datagram.from, datagram.bytes, now))
    }

    fn count_drop(&mut self, cause: DropCause, datagram: &Datagram) {
        *self.stats.drops.entry(cause).or_default() += 1;
        self.trace.record(self.now, Kind::Drop, None, cause.code(), &datagram.bytes);
    }

    /// Takes everything a host wants to send and arms its timer.
    pub(super) fn drain(&mut self, id: HostId) -> Result<(), RunError> {
        for _ in 0..MAX_OUTPUT_PER_TURN {
            let host = &mut self.slots[id.0].host;
            if let Some(t) = host.poll_transmit() {
                self.transmit(
                    id,
                    Datagram { from: t.from, to: t.to, ttl: t.ttl.unwrap_or(DEFAULT_TTL), bytes: t.bytes },
                );
            } else if let Some((stream, command)) = host.poll_stream() {
                self.stream_command(id, stream, command);
            } else {
                self.rearm(id);
                return Ok(());
            }
        }
        Err(RunError::Livelock { host: id, timer: "output".to_owned() })
    }

    fn transmit(&mut self, id: HostId, datagram: Datagram) {
        self.stats.datagrams += 1;
        self.stats.bytes += datagram.bytes.len() as u64;
        self.trace.record(self.now, Kind::Transmit, Some(id), u64::from(datagram.to.port()), &datagram.bytes);
        let ip = datagram.from.ip();
        let attachment =
            self.slots[id.0].attachments.iter().copied().find(|a| self.network.has_address(*a, ip));
        let Some(attachment) = attachment.filter(|_| ip.is_ipv4() == datagram.to.is_ipv4()) else {
            return self.count_drop(DropCause::NoLocalAddress, &datagram);
        };
        if !self.invariants.is_empty() {
            self.sent.push(datagram.clone());
        }
        let mut hops = Vec::new();
        self.network.carry(Place::Up(attachment), datagram, self.now, &mut hops);
        for hop in hops {
            match hop {
                Hop::Later(at, place, datagram) => self.schedule(at, Event::Packet(place, datagram)),
                Hop::Drop(cause, datagram) => self.count_drop(cause, &datagram),
                Hop::Deliver(..) => unreachable!("a host's turn is an event of its own"),
            }
        }
    }

    fn rearm(&mut self, id: HostId) {
        let Some(deadline) = self.deadline(id) else { return };
        if deadline == Instant::FAR_FUTURE {
            return;
        }
        let at = deadline.max(self.now);
        let slot = &mut self.slots[id.0];
        if slot.armed.is_none_or(|armed| at < armed) {
            slot.armed = Some(at);
            self.schedule(at, Event::Timer(id));
        }
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        let entry = Entry { at, sequence: self.sequence, event };
        self.sequence += 1;
        self.heap.push(Reverse(entry));
    }

    pub(super) fn command(&mut self, host: HostId, detail: u64) {
        self.trace.record(self.now, Kind::Command, Some(host), detail, &[]);
    }

    fn check_invariants(&mut self, host: Option<HostId>) -> Result<(), RunError> {
        if self.invariants.is_empty() {
            return Ok(());
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        let mut result = Ok(());
        for invariant in &mut invariants {
            if let Err(what) = invariant.check(self, Step { host, sent: &self.sent }) {
                result = Err(RunError::Invariant { name: invariant.name(), what, at: self.now });
                break;
            }
        }
        self.invariants = invariants;
        result
    }
}
