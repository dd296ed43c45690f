//! Streams between hosts: the world's side of [`crate::stream`].

use std::net::SocketAddr;

use super::{Event, RunError, Stop, World};
use crate::host::{HostId, StreamCommand, StreamEvent, StreamId};
use crate::stream::{self, Arrival, End, Fate};
use crate::trace::Kind;

impl World {
    pub(super) fn stream_command(&mut self, host: HostId, id: StreamId, command: StreamCommand) {
        match command {
            StreamCommand::Connect(local, to) => self.connect(host, id, local, to),
            StreamCommand::Send(bytes) => {
                if let Some((number, end)) = self.streams.find(host, id) {
                    self.send_stream(number, end, bytes);
                }
            }
            StreamCommand::Close => {
                if let Some((number, end)) = self.streams.find(host, id) {
                    self.close_stream(number, end);
                }
            }
        }
    }

    fn connect(&mut self, host: HostId, id: StreamId, local: SocketAddr, to: SocketAddr) {
        debug_assert!(id.0 < StreamId::ACCEPTED, "numbers from there on are the world's");
        let slot = &self.slots[host.0];
        let from = slot.attachments.iter().copied().find(|a| self.network.has_address(*a, local.ip()));
        let path = from.and_then(|from| self.network.stream_path(from, to));
        let Some(path) = path.filter(|_| self.streams.find(host, id).is_none()) else {
            return self.schedule(self.now + stream::CONNECT_TIMEOUT, Event::ConnectFailed(host, id));
        };
        let wait = match self.slots[path.server.0].stopped {
            None => {
                let number = self.streams.open(host, id, path);
                return self.dispatch(number, End::Client, 0, Arrival::Request);
            }
            // The kernel is alive and refuses.
            Some(Stop::Kill) => stream::round_trip(&path, &self.network),
            Some(Stop::PowerOff) => stream::CONNECT_TIMEOUT,
        };
        self.schedule(self.now + wait, Event::ConnectFailed(host, id));
    }

    fn send_stream(&mut self, number: u64, end: End, bytes: Vec<u8>) {
        let (first, second) = self.streams.split(bytes);
        for part in std::iter::once(first).chain(second) {
            self.dispatch(number, end, part.len(), Arrival::Event(StreamEvent::Bytes(part)));
        }
    }

    pub(super) fn close_stream(&mut self, number: u64, end: End) {
        self.dispatch(number, end, 0, Arrival::Event(StreamEvent::Closed));
        self.streams.close(number, end);
    }

    /// Sends something from `end` to the other end, or lets the connection break.
    fn dispatch(&mut self, number: u64, end: End, bytes: usize, arrival: Arrival) {
        let closed = || Arrival::Event(StreamEvent::Closed);
        match self.streams.fate(number, end, bytes, &self.network, self.now) {
            Fate::Arrives(at) => self.schedule(at, Event::Stream(number, end.other(), arrival)),
            Fate::Reset(at) => self.schedule(at, Event::Stream(number, end, closed())),
            Fate::TimesOut(at) => {
                self.schedule(at, Event::Stream(number, End::Client, closed()));
                self.schedule(at, Event::Stream(number, End::Server, closed()));
            }
            Fate::Vanishes => {}
        }
    }

    pub(super) fn stream_arrival(
        &mut self,
        number: u64,
        end: End,
        arrival: Arrival,
    ) -> Result<Option<HostId>, RunError> {
        let Some(pipe) = self.streams.get(number).filter(|p| p.open[end as usize]) else { return Ok(None) };
        let host = pipe.hosts[end as usize];
        match arrival {
            Arrival::Request => self.stream_request(number, host),
            Arrival::Event(event) => {
                let Some(id) = pipe.ids[end as usize] else { return Ok(None) };
                match &event {
                    StreamEvent::Bytes(bytes) => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 1, bytes);
                        self.streams.arrived(number, end, bytes.len());
                    }
                    StreamEvent::Closed => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 2, &[]);
                        self.streams.close(number, end);
                    }
                    StreamEvent::Accepted { .. } | StreamEvent::Connected => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 3, &[]);
                    }
                }
                self.turn(host, |h, now| h.on_stream(id, event, now))
            }
        }
    }

    fn stream_request(&mut self, number: u64, server: HostId) -> Result<Option<HostId>, RunError> {
        let Some(pipe) = self.streams.get(number) else { return Ok(None) };
        let (local, from) = (pipe.path.local, SocketAddr::new(pipe.path.observed, pipe.from_port));
        if !self.slots[server.0].host.listens_on(local) {
            self.close_stream(number, End::Server);
            return Ok(None);
        }
        let Some(id) = self.streams.accept(number) else { return Ok(None) };
        self.dispatch(number, End::Server, 0, Arrival::Event(StreamEvent::Connected));
        self.trace.record(self.now, Kind::Stream, Some(server), 4, &[]);
        self.turn(server, |h, now| h.on_stream(id, StreamEvent::Accepted { local, from }, now))
    }
}
