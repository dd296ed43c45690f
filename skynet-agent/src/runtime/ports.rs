//! Further UDP ports, as lanes want them, and how busy their threads are.

use std::net::SocketAddr;
use std::sync::Arc;

use skynet_core::id::PortNo;
use skynet_core::time::Instant;

use super::agent::Agent;
use crate::clock;
use crate::udp::UdpSocket;

/// Of a thread's time; below, a sample counts as quiet.
const QUIET_PERMILLE: u16 = 50;

impl Agent {
    /// `Node` wants another port: any free one.
    pub(super) fn open_port(&mut self, port: PortNo) {
        match self.start_port(port) {
            Ok(addresses) => self.feed(|node, now| node.port_opened(port, &addresses, now)),
            Err(e) => {
                tracing::warn!(port = port.0, "no further lane: {e:#}");
                self.feed(|node, now| node.port_failed(port, now));
            }
        }
    }

    fn start_port(&mut self, port: PortNo) -> anyhow::Result<Vec<SocketAddr>> {
        let socket = Arc::new(UdpSocket::bind(0, self.offload_faults.limit_udp(self.config.udp_offloads()))?);
        let number = socket.port()?;
        match &mut self.engine {
            Some(engine) if port.is_guess_socket() => engine.plane.set_guess_socket(port, Some(socket)),
            Some(engine) => engine.plane.open(port, socket)?,
            None => {}
        }
        tracing::debug!(port = port.0, number, "port opened");
        Ok(self.local_addresses.iter().map(|a| SocketAddr::new(a.ip(), number)).collect())
    }

    pub(super) fn close_port(&mut self, port: PortNo) {
        match &mut self.engine {
            Some(engine) if port.is_guess_socket() => engine.plane.set_guess_socket(port, None),
            Some(engine) => engine.plane.close(port),
            None => {}
        }
        tracing::debug!(port = port.0, "port closed");
    }

    /// A thread has begun to be busy.
    pub(super) fn begin_sampling(&mut self) {
        if let Some(engine) = &mut self.engine {
            // The meters begin here: the first measurement says nothing yet.
            engine.plane.sample(clock::monotonic());
            engine.sampling.begin(clock::monotonic());
        }
    }

    /// When to measure next; `None` while nothing is busy.
    pub(super) fn sampling_due(&self) -> Option<Instant> {
        self.engine.as_ref()?.sampling.due()
    }

    /// Tells `Node` how busy the last tenth of a second was.
    pub(super) fn sample(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let now = clock::now();
        let load = engine.plane.sample(now.mono);
        let busy = load.ports.iter().any(|p| p.inbound_permille.max(p.outbound_permille) >= QUIET_PERMILLE);
        engine.node.handle_load(&load, now);
        let bell = Arc::clone(engine.plane.busy());
        engine.sampling.measured(busy, now.mono, &bell);
    }
}
