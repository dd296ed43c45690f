//! What of one received buffer is sent on, because this node relays it: datagrams that follow each other to one place are
//! one train again, sent from where they were received.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use skynet_core::forwarder::Onward;

use crate::udp::UdpSocket;

/// Trains of one buffer: as many as it can have datagrams, which the kernel joins up to 64 of.
const MOST: usize = 64;

struct Run {
    to: SocketAddr,
    from: Option<IpAddr>,
    start: usize,
    end: usize,
    segment: usize,
}

/// Memory is reserved at the start.
pub(super) struct OnwardRuns(Vec<Run>);

impl OnwardRuns {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(MOST))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The datagram that begins at `at` goes on. False if there is no room: it is lost.
    pub(super) fn add(&mut self, at: usize, onward: Onward) -> bool {
        let Onward { to, from, len } = onward;
        if let Some(last) = self.0.last_mut()
            && (last.to, last.from, last.end) == (to, from, at)
            && len <= last.segment
            && (last.end - last.start).is_multiple_of(last.segment)
        {
            last.end = at + len;
            return true;
        }
        let room = self.0.len() < MOST;
        if room {
            self.0.push(Run { to, from, start: at, end: at + len, segment: len });
        }
        room
    }

    /// Sends and forgets them. Whoever receives does not wait for room to send: what finds none is lost, as in a router.
    pub(super) fn send(&mut self, socket: &UdpSocket, bytes: &[u8], ecn: u8) {
        let mut room = |_: BorrowedFd<'_>| Ok(false);
        for Run { to, from, start, end, segment } in self.0.drain(..) {
            // Counted by the socket.
            let _lost = socket.send_train_while(to, from, ecn, &bytes[start..end], segment, &mut room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_each_other_to_one_place_is_one_train_and_a_shorter_datagram_ends_it() {
        let mut runs = OnwardRuns::new();
        let to = |port: u16, len| Onward { to: ([192, 0, 2, 1], port).into(), from: None, len };
        let datagrams =
            [(0, to(1, 100)), (100, to(1, 100)), (200, to(2, 100)), (300, to(2, 12)), (400, to(2, 100))];
        assert!(datagrams.into_iter().all(|(at, onward)| runs.add(at, onward)));
        let shape: Vec<_> = runs.0.iter().map(|r| (r.to.port(), r.start..r.end, r.segment)).collect();
        assert_eq!(shape, [(1, 0..200, 100), (2, 200..312, 100), (2, 400..500, 100)]);
        // An answer that is shorter than its cause leaves a gap.
        let mut runs = OnwardRuns::new();
        assert!(runs.add(0, to(1, 48)) && runs.add(96, to(1, 48)));
        assert_eq!(runs.0.len(), 2);
        assert_eq!((2..80).filter(|i| runs.add(i * 96, to(1, 48))).count(), MOST - 2);
    }

    #[test]
    fn trains_leave_as_they_came() {
        use crate::udp::{ReceiveBatch, UdpOffloads, segments_mut};
        let [from, to] = [(); 2].map(|()| UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
        let address: SocketAddr = ([127, 0, 0, 1], to.port().unwrap()).into();
        let bytes: Vec<u8> = (0..2_500u32).map(|i| (i / 1_000) as u8).collect();
        let mut runs = OnwardRuns::new();
        for (at, len) in [(0, 1_000), (1_000, 1_000), (2_000, 500)] {
            assert!(runs.add(at, Onward { to: address, from: None, len }));
        }
        runs.send(&from, &bytes, 0);
        assert!(runs.is_empty());
        let (mut batch, mut seen) = (ReceiveBatch::new(), Vec::new());
        while to.receive_batch(&mut batch).unwrap() > 0 {
            for mut received in batch.iter_mut() {
                seen.extend(segments_mut(&mut received).map(|d| (d[0], d.len())));
            }
        }
        assert_eq!(seen, [(0, 1_000), (1, 1_000), (2, 500)]);
    }
}
