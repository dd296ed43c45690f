//! The socket's offloads, between two sockets on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Finding, PATIENCE};
use crate::udp::{ReceiveBatch, UdpOffloads, UdpSocket, segments_mut};

/// Datagrams of the pattern: all of one size but the last.
const COUNT: usize = 8;
const SIZE: usize = 1_200;
const LAST: usize = 333;

/// Which of the `wanted` offloads do what they should; those that do not are off in the answer.
pub(in crate::runtime) fn check(wanted: UdpOffloads) -> UdpOffloads {
    let gso = wanted.gso.then(|| finding(UdpOffloads { gso: true, gro: false }));
    let gso_works = wanted.gso && gso != Some(Finding::Wrong);
    // Without trains nothing arrives joined over loopback; what the network card joins is checked by every packet's tag.
    let gro = (wanted.gro && gso == Some(Finding::Right)).then(|| finding(UdpOffloads::ALL));
    UdpOffloads { gso: gso_works, gro: wanted.gro && gro != Some(Finding::Wrong) }
}

/// Sends with segmentation to a socket that joins or does not, as `offloads` says.
fn finding(offloads: UdpOffloads) -> Finding {
    match Loopback::new(offloads) {
        Ok(mut link) => judge(&mut link),
        Err(e) => {
            tracing::debug!(%e, "socket offloads are not checked");
            Finding::Unknown
        }
    }
}

/// Two ends of a way that datagrams take.
trait Link {
    /// Sends datagrams of `segment` bytes, the last one perhaps shorter, as one train if that is possible.
    fn send(&mut self, bytes: &[u8], segment: usize) -> io::Result<()>;
    /// What has arrived; waits for the first a bounded time.
    fn receive(&mut self) -> Vec<Vec<u8>>;
    /// Whether trains are still sent as such.
    fn segments(&self) -> bool;
}

/// The same datagrams one by one, which must arrive for the check to mean anything, then as a train.
fn judge(link: &mut impl Link) -> Finding {
    let one_by_one = pattern(0x17);
    for datagram in one_by_one.chunks(SIZE) {
        if link.send(datagram, SIZE).is_err() {
            return Finding::Unknown;
        }
    }
    if !arrives(link, &one_by_one) {
        return Finding::Unknown;
    }
    let train = pattern(0x4d);
    let sent = link.send(&train, SIZE);
    // A refusal is met again where it matters, and answered there.
    match sent.is_ok() && arrives(link, &train) && link.segments() {
        true => Finding::Right,
        false => Finding::Wrong,
    }
}

/// Whether exactly these datagrams arrive, in order.
fn arrives(link: &mut impl Link, bytes: &[u8]) -> bool {
    let mut got: Vec<Vec<u8>> = Vec::new();
    while got.len() < COUNT {
        let some = link.receive();
        if some.is_empty() {
            return false;
        }
        got.extend(some);
    }
    got.iter().map(Vec::as_slice).eq(bytes.chunks(SIZE))
}

/// Bytes that differ between datagrams, between places and between patterns.
fn pattern(salt: usize) -> Vec<u8> {
    (0..(COUNT - 1) * SIZE + LAST).map(|i| (i * 31 + i / SIZE * 7 + salt).to_le_bytes()[0]).collect()
}

struct Loopback {
    sender: UdpSocket,
    receiver: UdpSocket,
    batch: ReceiveBatch,
}

impl Loopback {
    fn new(offloads: UdpOffloads) -> io::Result<Self> {
        let sender = UdpSocket::bind(0, UdpOffloads { gso: offloads.gso, gro: false })?;
        let receiver = UdpSocket::bind(0, UdpOffloads { gso: false, gro: offloads.gro })?;
        Ok(Self { sender, receiver, batch: ReceiveBatch::new() })
    }
}

impl Link for Loopback {
    fn send(&mut self, bytes: &[u8], segment: usize) -> io::Result<()> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.receiver.port()?));
        self.sender.send_train(to, None, 0, bytes, segment)
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut fds = [PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(PATIENCE)).unwrap_or(0);
        let (Ok(port), Ok(1..)) = (self.sender.port(), self.receiver.receive_batch(&mut self.batch)) else {
            return Vec::new();
        };
        debug_assert!(ready <= 1);
        let ours = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut out = Vec::new();
        for mut received in self.batch.iter_mut().filter(|r| r.from == ours) {
            out.extend(segments_mut(&mut received).map(|s| s.to_vec()));
        }
        out
    }

    fn segments(&self) -> bool {
        self.sender.offloads().gso
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that does `damage` to what is sent as a train.
    struct Kernel {
        damage: fn(&mut Vec<Vec<u8>>),
        refuses: bool,
        queue: Vec<Vec<u8>>,
    }

    impl Link for Kernel {
        fn send(&mut self, bytes: &[u8], segment: usize) -> io::Result<()> {
            let mut datagrams: Vec<_> = bytes.chunks(segment).map(<[u8]>::to_vec).collect();
            if datagrams.len() > 1 {
                (self.damage)(&mut datagrams);
                if self.refuses {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
            }
            self.queue.extend(datagrams);
            Ok(())
        }
        fn receive(&mut self) -> Vec<Vec<u8>> {
            std::mem::take(&mut self.queue)
        }
        fn segments(&self) -> bool {
            true
        }
    }

    fn judged(damage: fn(&mut Vec<Vec<u8>>)) -> Finding {
        judge(&mut Kernel { damage, refuses: false, queue: Vec::new() })
    }

    #[test]
    fn every_damage_to_a_train_is_noticed() {
        assert_eq!(judged(|_| {}), Finding::Right);
        let damages: [fn(&mut Vec<Vec<u8>>); 8] = [
            |d| d.clear(),
            |d| drop(d.remove(3)),
            |d| drop(d.pop()),
            |d| d.swap(0, 1),
            |d| d[5][700] ^= 4,
            |d| d.push(vec![0; 5]),
            |d| d[2] = d[1].clone(),
            |d| {
                let whole = d.concat();
                *d = whole.chunks(SIZE + 1).map(<[u8]>::to_vec).collect();
            },
        ];
        for (i, damage) in damages.into_iter().enumerate() {
            assert_eq!(judged(damage), Finding::Wrong, "damage {i}");
        }
        let refusing = judge(&mut Kernel { damage: |_| {}, refuses: true, queue: Vec::new() });
        assert_eq!(refusing, Finding::Wrong);
    }

    #[test]
    fn without_a_way_to_ourselves_nothing_is_given_up() {
        struct Firewall;
        impl Link for Firewall {
            fn send(&mut self, _: &[u8], _: usize) -> io::Result<()> {
                Ok(())
            }
            fn receive(&mut self) -> Vec<Vec<u8>> {
                Vec::new()
            }
            fn segments(&self) -> bool {
                true
            }
        }
        assert_eq!(judge(&mut Firewall), Finding::Unknown);
    }

    #[test]
    fn this_kernel_passes_and_what_is_not_wanted_is_not_checked() {
        assert_eq!(check(UdpOffloads::ALL), UdpOffloads::ALL);
        let off = UdpOffloads { gso: false, gro: false };
        assert_eq!(check(off), off);
    }
}
