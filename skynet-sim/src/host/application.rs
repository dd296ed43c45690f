//! What runs on top of the overlay in a simulation: flows of numbered IPv4 UDP packets, and a book of what arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use skynet_core::time::{Duration, Instant, Now};

/// Carried by every packet, so that a sniffer can tell whether it is ever in clear on the way.
pub const MARKER: [u8; 16] = *b"skynet sim clear";

/// Sequence numbers remembered per sender.
const MAX_REMEMBERED: usize = 1 << 20;

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Sequence number and time of sending follow the marker.
const BODY: usize = MARKER.len() + 16;

/// Packets to one destination at a steady pace.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Overlay address of the destination.
    pub to: Ipv4Addr,
    /// Time between two packets.
    pub every: Duration,
    /// Bytes of each IP packet, at least 60.
    pub size: usize,
    /// Packets still to send.
    pub left: u64,
    /// UDP port at both ends: packets of one are one flow.
    pub port: u16,
    next: Instant,
    sequence: u64,
}

impl Flow {
    /// `count` packets of `size` bytes, one `every` so often, from `start` of the sender's clock on.
    pub const fn new(to: Ipv4Addr, start: Instant, every: Duration, count: u64, size: usize) -> Self {
        Self { to, every, size, left: count, port: 9_000, next: start, sequence: 0 }
    }

    /// The same between these UDP ports.
    pub const fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }
}

/// What arrived from one sender.
#[derive(Clone, Default, Debug)]
pub struct Received {
    /// Packets, duplicates included.
    pub packets: u64,
    /// Packets seen before.
    pub duplicates: u64,
    /// When the first arrived, by the receiver's clock.
    pub first: Option<Instant>,
    /// When the last arrived.
    pub last: Option<Instant>,
    /// The longest silence between two arrivals.
    pub longest_gap: Duration,
    /// The longest way of a packet.
    pub slowest: Duration,
    /// The way of the last packet.
    pub latest: Duration,
    seen: BTreeSet<u64>,
}

impl Received {
    /// Distinct packets.
    pub fn distinct(&self) -> usize {
        self.seen.len()
    }

    /// Whether every number below `count` arrived.
    pub fn is_complete(&self, count: u64) -> bool {
        self.seen.len() as u64 == count && self.seen.last().is_none_or(|last| *last < count)
    }

    /// Numbers below `count` that did not arrive.
    pub fn missing(&self, count: u64) -> Vec<u64> {
        (0..count).filter(|n| !self.seen.contains(n)).collect()
    }
}

/// The inner host: sends flows, books what it gets.
#[derive(Default, Debug)]
pub struct Application {
    address: Option<Ipv4Addr>,
    flows: Vec<Flow>,
    received: BTreeMap<Ipv4Addr, Received>,
    foreign: u64,
    /// "Fragmentation needed": to where, and what passes.
    told: Vec<(Ipv4Addr, u16)>,
}

impl Application {
    /// Forgets what arrived, to begin a new measurement.
    pub fn forget(&mut self) {
        self.received.clear();
    }

    pub(super) const fn set_address(&mut self, address: Ipv4Addr) {
        self.address = Some(address);
    }

    /// Starts a flow. It waits until this host has an overlay address.
    pub fn start(&mut self, flow: Flow) {
        self.flows.push(flow);
    }

    /// What arrived from `sender`.
    pub fn received_from(&self, sender: Ipv4Addr) -> Option<&Received> {
        self.received.get(&sender)
    }

    /// Packets that arrived from anybody.
    pub fn received(&self) -> u64 {
        self.received.values().map(|r| r.packets).sum()
    }

    /// Packets delivered to this host that no application of the simulation sent to it.
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// What it was told about sizes, oldest first: its packets to there are no larger any more.
    pub fn told(&self) -> &[(Ipv4Addr, u16)] {
        &self.told
    }

    /// Whether all flows have ended.
    pub fn is_done(&self) -> bool {
        self.flows.is_empty()
    }

    /// The next packet that is due.
    pub(super) fn poll_packet(&mut self, now: Now) -> Option<Vec<u8>> {
        let from = self.address?;
        self.flows.retain(|flow| flow.left > 0);
        let flow = self.flows.iter_mut().find(|flow| flow.next <= now.mono)?;
        let packet = packet(from, flow, nanos(now));
        flow.sequence += 1;
        flow.left -= 1;
        flow.next = flow.next + flow.every;
        Some(packet)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.address?;
        self.flows.iter().filter(|flow| flow.left > 0).map(|flow| flow.next).min()
    }

    /// A packet from the overlay.
    pub(super) fn deliver(&mut self, packet: &[u8], now: Now) {
        if let Some((to, mtu)) = too_big(packet) {
            self.told.push((to, mtu));
            let flows = self.flows.iter_mut().filter(|flow| flow.to == to);
            flows.for_each(|flow| flow.size = flow.size.min(mtu.into()));
            return;
        }
        let Some((from, to, sequence, sent)) = parse(packet) else {
            self.foreign += 1;
            return;
        };
        if Some(to) != self.address {
            self.foreign += 1;
            return;
        }
        let book = self.received.entry(from).or_default();
        book.packets += 1;
        book.first = book.first.or(Some(now.mono));
        let gap = book.last.map_or(Duration::ZERO, |last| now.mono.saturating_since(last));
        book.longest_gap = book.longest_gap.max(gap);
        book.last = Some(now.mono);
        book.latest = Duration::from_nanos(nanos(now).saturating_sub(sent));
        book.slowest = book.slowest.max(book.latest);
        if book.seen.len() < MAX_REMEMBERED && !book.seen.insert(sequence) {
            book.duplicates += 1;
        }
    }
}

/// Wall clock: the one clock all hosts of a world share.
fn nanos(now: Now) -> u64 {
    now.unix.0 * 1_000_000_000 + u64::from(now.unix_nanos)
}

fn packet(from: Ipv4Addr, flow: &Flow, sent: u64) -> Vec<u8> {
    let len = flow.size.max(IPV4_HEADER + UDP_HEADER + BODY);
    let mut packet = vec![0; len];
    let total = u16::try_from(len).expect("a packet below 64 KiB");
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&flow.to.octets());
    let sum = checksum(&packet[..IPV4_HEADER]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut packet[IPV4_HEADER..];
    udp[..2].copy_from_slice(&flow.port.to_be_bytes());
    udp[2..4].copy_from_slice(&flow.port.to_be_bytes());
    udp[4..6].copy_from_slice(&(total - IPV4_HEADER as u16).to_be_bytes());
    let body = &mut udp[UDP_HEADER..];
    body[..16].copy_from_slice(&MARKER);
    body[16..24].copy_from_slice(&flow.sequence.to_be_bytes());
    body[24..32].copy_from_slice(&sent.to_be_bytes());
    packet
}

fn parse(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u64, u64)> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    let address = |at: usize| Some(Ipv4Addr::from(*header[at..].first_chunk::<4>()?));
    let body = packet.get(IPV4_HEADER + UDP_HEADER..)?;
    let (marker, rest) = body.split_first_chunk::<16>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let sent = rest.first_chunk::<8>()?;
    let sound = header[0] == 0x45 && header[9] == 17 && *marker == MARKER && checksum(header) == 0;
    sound.then_some((address(12)?, address(16)?, u64::from_be_bytes(*sequence), u64::from_be_bytes(*sent)))
}

/// The destination and the MTU of a "fragmentation needed" (RFC 1191 §4).
fn too_big(packet: &[u8]) -> Option<(Ipv4Addr, u16)> {
    let icmp = packet.strip_prefix(&[0x45]).filter(|_| packet.get(9) == Some(&1))?.get(IPV4_HEADER - 1..)?;
    let to = icmp.strip_prefix(&[3, 4])?.get(6 + 16..)?.first_chunk::<4>()?;
    Some((Ipv4Addr::from(*to), u16::from_be_bytes(*icmp[6..].first_chunk()?)))
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(header: &[u8]) -> u16 {
    let (words, _) = header.as_chunks::<2>();
    let sum: u32 = words.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_as_sent_and_are_booked_once() {
        let (a, b) = (Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::new(10, 7, 0, 2));
        let mut sender = Application::default();
        let now = |ms| Now { mono: Instant::ZERO + Duration::from_millis(ms), ..Now::default() };
        sender.start(Flow::new(b, Instant::ZERO, Duration::from_millis(10), 3, 100));
        assert!(sender.poll_packet(now(0)).is_none(), "no address yet");
        sender.set_address(a);
        let packets: Vec<_> = (0..5).filter_map(|i| sender.poll_packet(now(10 * i))).collect();
        assert_eq!(packets.len(), 3);
        assert_eq!(packets[0].len(), 100);
        let mut receiver = Application::default();
        receiver.set_address(b);
        for p in [&packets[0], &packets[2], &packets[2]] {
            receiver.deliver(p, now(50));
        }
        receiver.deliver(b"junk", now(50));
        let book = receiver.received_from(a).unwrap();
        assert_eq!((book.packets, book.duplicates, book.distinct()), (3, 1, 2));
        assert_eq!(book.missing(3), [1]);
        assert_eq!(receiver.foreign(), 1);
    }
}
