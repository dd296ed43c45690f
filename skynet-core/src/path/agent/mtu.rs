//! The size of the selected path: its search, and what is done with what it finds.

use super::{CARRIER, PathAgent, PathEvent, ProbeFrom, ProbeTo};
use crate::path::history::Path;
use crate::path::link::Link;
use crate::path::mtu::{BASE, Bounds, DATAGRAM, Size};
use crate::time::{Duration, Instant};
use crate::wire::probe::{self, Pong};
use crate::wire::relay::DATA_HEADER_LEN;

/// A relayed path is usually left for a direct one before this.
const RELAYED_AFTER: Duration = Duration::from_millis(300);
const UDP: u16 = 8;
const IPV4: u16 = 20;
const IPV6: u16 = 40;

impl PathAgent {
    /// What the selected path carries.
    pub fn size(&self) -> Size {
        let link = self.selected.and_then(|path| self.link(path));
        link.map_or(Size { limit: BASE, settled: false }, |link| link.mtu.size())
    }

    /// How often the selected path turned out to carry less than before.
    pub fn black_holes(&self) -> u32 {
        self.selected.and_then(|path| self.link(path)).map_or(0, |link| link.mtu.black_holes())
    }

    /// What this host's links take has changed.
    pub fn set_mtu(&mut self, config: crate::path::MtuConfig, now: crate::time::Now) {
        self.now = now;
        if self.config.mtu != config {
            self.config.mtu = config;
            self.begin_mtu();
            self.emit(PathEvent::SizeChanged);
        }
    }

    /// What goes by the relay takes another way there: of its size nothing is known any more.
    pub fn handle_relay_transport(&mut self, now: crate::time::Now) {
        self.now = now;
        if matches!(self.selected, Some(Path::Relayed { .. })) {
            self.begin_mtu();
            self.emit(PathEvent::SizeChanged);
        }
    }

    fn link_mut(&mut self, path: Path) -> Option<&mut Link> {
        match path {
            Path::Relayed { .. } => Some(&mut self.relay_link),
            Path::Direct { remote } => self.pair_index(remote).map(|i| &mut self.pairs[i].link),
        }
    }

    /// The bounds of a path, and when its search begins; none of the carrier, which is another agent's.
    fn mtu_bounds(&self, path: Path) -> Option<(Bounds, Duration)> {
        let (headers, after) = match path {
            Path::Relayed { relay: CARRIER, .. } => return None,
            // The relay's own address family is not known here: the larger one is found not to pass.
            Path::Relayed { .. } => (IPV4 + UDP + DATA_HEADER_LEN as u16, RELAYED_AFTER),
            Path::Direct { remote } if remote.is_ipv4() => (IPV4 + UDP, Duration::ZERO),
            Path::Direct { .. } => (IPV6 + UDP, Duration::ZERO),
        };
        Some((self.config.mtu.bounds(headers), after))
    }

    /// The selected path is another.
    pub(super) fn begin_mtu(&mut self) {
        let Some(path) = self.selected else { return };
        let Some((bounds, after)) = self.mtu_bounds(path) else { return };
        let at = self.now.mono + after;
        if let Some(link) = self.link_mut(path) {
            link.mtu.begin(bounds, at);
        }
    }

    pub(super) fn mtu_due(&self) -> Option<Instant> {
        if !self.is_active() {
            return None;
        }
        // What came due while there was no traffic is due as soon as there is some.
        self.link(self.selected?)?.mtu.poll_timeout().map(|at| at.max(self.now.mono))
    }

    pub(super) fn run_mtu(&mut self) {
        let now = self.now.mono;
        if self.mtu_due().is_some_and(|at| at <= now) {
            let tx = self.mtu_tx();
            self.with_mtu(|link| link.mtu.handle_timeout(link.rtt.timeout(), tx, now));
        }
    }

    /// Messages of data sent in the tier of the selected path.
    fn mtu_tx(&self) -> u32 {
        match self.selected {
            Some(Path::Relayed { .. }) => self.traffic.relayed.tx,
            _ => self.traffic.direct.tx,
        }
    }

    /// Does something to the selected path's search, sends what it wants sent, and says what it found.
    fn with_mtu(&mut self, f: impl FnOnce(&mut Link)) {
        let Some(path) = self.selected else { return };
        let before = self.size();
        if let Some(link) = self.link_mut(path) {
            let holes = link.mtu.black_holes();
            f(link);
            if link.mtu.black_holes() != holes {
                // What was lost in it says nothing of the path.
                link.forget_data();
                self.confirm_at = None;
            }
        }
        while let Some(size) = self.link_mut(path).and_then(|link| link.mtu.poll_probe()) {
            self.send_mtu_probe(path, size);
        }
        if self.size() != before {
            self.emit(PathEvent::SizeChanged);
        }
    }

    /// Not in the budget of checks: searches are rare and end, and what is asked while data flows is little beside it.
    fn send_mtu_probe(&mut self, path: Path, size: u16) {
        let (socket, to, id, counters) = match path {
            Path::Relayed { relay, node_no } => {
                (None, ProbeTo::Relayed { relay, node_no }, 0, self.traffic.relayed)
            }
            Path::Direct { remote } => {
                let pair = self.pair_index(remote).map(|i| &self.pairs[i]);
                let (socket, id, local) =
                    pair.map_or((None, 0, None), |pair| (pair.socket, pair.id, pair.local));
                (socket, ProbeTo::Direct { addr: remote, local, ttl: None }, id, self.traffic.direct)
            }
        };
        let txid = self.txid();
        let body = self.ping_body(txid, id, counters.tx, counters.rx);
        let padded = if size == 0 { 0 } else { size + DATAGRAM };
        if self.queue_by(socket, to, probe::FLAG_MTU | probe::FLAG_CARRIES_DATA, &body, padded) {
            self.counters.mtu_probes += 1;
            if let Some(link) = self.link_mut(path) {
                link.mtu.sent(txid, size);
            }
        }
    }

    /// True if `pong` answers a probe of a path's size; it says that the path lives, and nothing else.
    pub(super) fn answers_mtu_probe(&mut self, from: ProbeFrom, pong: &Pong) -> bool {
        let now = self.now.mono;
        let path = match from {
            ProbeFrom::Direct(remote) => Path::Direct { remote },
            ProbeFrom::Relayed { relay, node_no } => Path::Relayed { relay, node_no },
        };
        let before = self.size();
        let Some(link) = self.link_mut(path) else { return false };
        if !link.mtu.handle_pong(pong.txid, pong.received_size, now) {
            return false;
        }
        link.last_rx = Some(now);
        if self.size() != before {
            self.emit(PathEvent::SizeChanged);
        }
        self.run_mtu();
        true
    }

    /// Probes pass, data may not: perhaps it is too large by now.
    pub(super) fn doubt_mtu(&mut self) {
        let now = self.now.mono;
        self.with_mtu(|link| link.mtu.handle_doubt(link.rtt.timeout(), now));
    }

    /// Data is lost. True if it is its size, because a probe of that size is lost as well, or if that is not known yet: the
    /// next answer of the path asks again.
    pub(super) fn blame_mtu(&mut self) -> bool {
        let now = self.now.mono;
        if self.selected.and_then(|path| self.link(path)).is_some_and(|link| link.mtu.is_asking()) {
            return true;
        }
        let in_doubt =
            |link: &Link| link.mtu.is_in_doubt() && link.mtu.size().limit > self.config.mtu.least.max(BASE);
        if !self.selected.and_then(|path| self.link(path)).is_some_and(in_doubt) {
            return false;
        }
        self.with_mtu(|link| link.mtu.handle_black_hole(link.rtt.timeout(), now));
        true
    }
}
