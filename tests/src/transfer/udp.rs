//! Datagrams whose content, size and order are compared.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Ends, Pattern, set_tos};
use crate::clock;

/// How long a datagram may take.
const ARRIVAL: Duration = Duration::from_secs(2);
/// So much is under way before the receiver is looked at: what any socket buffer holds.
const WINDOW_BYTES: usize = 96 * 1024;
/// Segments of one `UDP_SEGMENT` call.
const MAX_SEGMENTS: usize = 64;
/// UDP's largest payload over IPv4.
const MAX_PAYLOAD: usize = 65_507;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Datagrams handed to the kernel together: all of `segment` bytes but the last, which may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train {
    /// Bytes of each datagram.
    pub segment: u16,
    /// Bytes in all; 0 is one empty datagram.
    pub total: usize,
}

impl Train {
    /// A datagram alone.
    pub fn single(bytes: u16) -> Self {
        Self { segment: bytes, total: usize::from(bytes) }
    }

    /// Sizes of its datagrams, in order.
    fn sizes(self) -> impl Iterator<Item = usize> {
        let segment = usize::from(self.segment).max(1);
        let count = self.total.div_ceil(segment).max(1);
        (0..count).map(move |k| (self.total - k * segment).min(segment))
    }
}

/// What to send by UDP.
#[derive(Debug, Clone)]
pub struct UdpPlan {
    /// In order.
    pub trains: Vec<Train>,
    /// Each train by one call with `UDP_SEGMENT`, so that a device with the offload sees it whole; else one call each.
    pub segmentation_offload: bool,
    /// What the bytes are.
    pub seed: u64,
    /// TOS or traffic class, if not 0.
    pub tos: u8,
}

impl UdpPlan {
    /// Every size from 0 to `largest` in steps of 7 and around the ends, alone.
    pub fn every_size(largest: u16) -> Self {
        let sizes = (0..40).chain((40..largest).step_by(7)).chain(largest.saturating_sub(3)..=largest);
        Self::of(sizes.map(Train::single).collect(), false)
    }

    /// Trains of many shapes up to `largest` bytes per datagram: even, with a shorter last one, of two, of 64.
    pub fn trains(largest: u16, segmentation_offload: bool) -> Self {
        let mut trains = Vec::new();
        for segment in [1, 17, 64, 100, 512, 1_000, 1_201, largest - 1, largest] {
            for count in [1, 2, 3, 17, MAX_SEGMENTS] {
                let whole = (usize::from(segment) * count).min(MAX_PAYLOAD);
                let whole = whole - whole % usize::from(segment);
                for shorter in [0, 1, usize::from(segment) / 2] {
                    trains.push(Train { segment, total: (whole - shorter).max(1) });
                }
            }
        }
        Self::of(trains, segmentation_offload)
    }

    fn of(trains: Vec<Train>, segmentation_offload: bool) -> Self {
        Self { trains, segmentation_offload, seed: 1, tos: 0 }
    }
}

/// Datagrams that all arrived, in order.
#[derive(Debug, Clone, Copy)]
pub struct UdpReport {
    /// Datagrams.
    pub datagrams: usize,
    /// Their payload.
    pub bytes: usize,
    /// Those that came before one that was sent earlier.
    pub early: usize,
    /// From the first call to the last arrival.
    pub elapsed: Duration,
}

/// Sends the datagrams, a window at a time, and compares each that arrives with those that may. Their order is reported and
/// not demanded: a flow moves once when a lane opens.
///
/// # Errors
/// If one is lost, changed, cut or repeated; with its number and size.
pub fn udp(ends: Ends<'_>, plan: &UdpPlan) -> anyhow::Result<UdpReport> {
    let what = || format!("UDP from {} to {}", ends.from.role(), ends.to.role());
    let receiver = ends.to.run(|| UdpSocket::bind((ends.bind, ends.port)))?.context("binding")?;
    receiver.set_read_timeout(Some(ARRIVAL))?;
    let _ = setsockopt(&receiver.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
    let target = SocketAddr::new(ends.target, receiver.local_addr()?.port());
    let sender = ends.from.run(|| bind_any(target.ip()))?.context("binding")?;
    sender.connect(target)?;
    set_tos(&sender, target.ip(), plan.tos)?;
    let start = clock::now();
    let report = run(&sender, &receiver, plan).with_context(what)?;
    Ok(UdpReport { elapsed: start.elapsed(), ..report })
}

fn bind_any(like: IpAddr) -> std::io::Result<UdpSocket> {
    match like {
        IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn run(sender: &UdpSocket, receiver: &UdpSocket, plan: &UdpPlan) -> anyhow::Result<UdpReport> {
    let pattern = Pattern::new(plan.seed);
    let mut report = UdpReport { datagrams: 0, bytes: 0, early: 0, elapsed: Duration::ZERO };
    let mut waiting = VecDeque::new();
    let mut under_way = 0;
    for (number, train) in plan.trains.iter().enumerate() {
        if under_way + train.total > WINDOW_BYTES || waiting.len() > 256 {
            arrivals(receiver, &pattern, &mut waiting, &mut report)?;
            under_way = 0;
        }
        let payload = pattern.datagram(number, train.total);
        send(sender, payload, *train, plan.segmentation_offload)
            .with_context(|| format!("sending train {number}: {train:?}"))?;
        let mut offset = 0;
        for size in train.sizes() {
            waiting.push_back((number, offset, size));
            offset += size;
        }
        under_way += train.total;
    }
    arrivals(receiver, &pattern, &mut waiting, &mut report)?;
    // Nothing may follow: a duplicate, or an invention.
    receiver.set_nonblocking(true)?;
    let mut rest = [0; 64];
    ensure!(receiver.recv(&mut rest).is_err(), "a datagram more arrived than was sent");
    Ok(report)
}

fn send(sender: &UdpSocket, payload: &[u8], train: Train, offload: bool) -> anyhow::Result<()> {
    if offload {
        // A train of one is no train: 0 turns it off.
        let segment = if train.total > usize::from(train.segment) { train.segment } else { 0 };
        setsockopt(&sender.as_fd(), sockopt::UdpGsoSegment, &i32::from(segment)).context("UDP_SEGMENT")?;
        sender.send(payload)?;
        return Ok(());
    }
    let mut rest = payload;
    for size in train.sizes() {
        let (datagram, after) = rest.split_at(size);
        sender.send(datagram)?;
        rest = after;
    }
    Ok(())
}

/// Receives all that is `waiting` for arrival: train, offset and size of each.
fn arrivals(
    receiver: &UdpSocket,
    pattern: &Pattern,
    waiting: &mut VecDeque<(usize, usize, usize)>,
    report: &mut UdpReport,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65_536];
    while let Some(&(train, offset, size)) = waiting.front() {
        let name = format!("datagram {} ({size} B at {offset} of train {train})", report.datagrams);
        let length = receive(receiver, &mut buffer).with_context(|| format!("{name} did not arrive"))?;
        let bytes = &buffer[..length];
        let content = |&(train, offset, size): &(usize, usize, usize)| {
            &pattern.datagram(train, offset + size)[offset..]
        };
        let Some(at) = waiting.iter().position(|one| bytes == content(one)) else {
            let expected = content(&(train, offset, size));
            let first = bytes.iter().zip(expected).position(|(a, b)| a != b);
            bail!(
                "instead of {name} came one of {length} B, first difference at {first:?}, and no other is like it"
            );
        };
        let (_, _, size) = waiting.remove(at).context("it was found there")?;
        report.early += usize::from(at > 0);
        report.datagrams += 1;
        report.bytes += size;
    }
    Ok(())
}

/// One datagram of a socket with a read timeout. A wait that is interrupted, as by a machine that is suspended, begins
/// again.
///
/// # Errors
/// As `recv`, but never that it was interrupted.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_ends_with_what_is_left() {
        let sizes = |segment, total| Train { segment, total }.sizes().collect::<Vec<_>>();
        assert_eq!(sizes(100, 250), [100, 100, 50]);
        assert_eq!(sizes(100, 200), [100, 100]);
        assert_eq!(sizes(100, 0), [0]);
        assert_eq!(sizes(0, 0), [0]);
    }

    #[test]
    fn plans_cover_the_ends_and_stay_below_what_the_kernel_takes() {
        let sizes: Vec<_> = UdpPlan::every_size(1_332).trains.iter().map(|train| train.total).collect();
        assert!(sizes.contains(&0) && sizes.contains(&1) && sizes.contains(&1_332));
        for train in UdpPlan::trains(1_332, true).trains {
            assert!(train.total <= MAX_PAYLOAD && train.sizes().count() <= MAX_SEGMENTS, "{train:?}");
        }
    }
}
