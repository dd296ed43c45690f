//! Back: the chunks of a unit become the packet they were cut from.
//!
//! ```text
//! buffer   │ headers, bytes of chunk 0 │ of chunk 1 │    missing    │ of chunk 3 │ of the last │
//! ready    └── segments 0, 1 ─────────────────┘          ×          └─ 4 ──────────────────────┘
//! ```
//!
//! Nothing leaves before chunk 0 is there and its headers have passed the checks every packet has to pass. A unit
//! that is complete leaves at once, as one write. At the end of a batch, and before anything else that came under the
//! same key, leaves what is complete of the others: every run of segments of which no byte is missing. So no packet
//! waits for one it does not need, and no timer is needed for delivery; time only ends units that lost something.
//! An ordinary packet leaves whole or not at all.
//!
//! A unit is named by the key it came under and the counter of its chunk 0. The replay window lets each counter
//! through once, so no chunk comes twice and no byte is delivered twice.

use core::ops::Range;

use super::format::{Chunk, MAX_CHUNKS, Shape};
use crate::drop::{DropCounters, DropReason};
use crate::forwarding::ForwardingTable;
use crate::id::PeerSlot;
use crate::offload::{MAX_HEADERS, MAX_UDP_SEGMENTS, SuperPacket, ecn};
use crate::policy::Way;
use crate::receive::{self, Deliver};
use crate::time::{Duration, Instant};
use crate::wire::ip::IpPacket;
use crate::wire::wireguard::ReceiverIndex;

/// Open units under one key: one may wait for a late chunk while the next arrives.
pub const MAX_OPEN_PER_KEY: usize = 2;
/// Open units of one inbound half: 1 MiB of buffers, each allocated when first needed and then kept.
pub const MAX_OPEN_UNITS: usize = 16;
/// A chunk that comes later than this after the first of its unit comes too late.
pub const UNIT_LIFETIME: Duration = Duration::from_millis(50);

/// Bytes of a packet at most.
const MAX_LEN: usize = 65_535;

/// Where a chunk came from: all of it authenticated.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The key it was opened with.
    pub index: ReceiverIndex,
    /// Whose key that is.
    pub slot: PeerSlot,
    /// The counter of its message.
    pub counter: u64,
    /// The ECN field of its outer IP header.
    pub ecn: u8,
}

/// What a packet that is complete passes, and where it goes.
pub struct Exit<'a> {
    /// Which source may come from whom, and what is ours.
    pub table: &'a ForwardingTable,
    /// Of the batch.
    pub now: Instant,
    /// Towards the TUN device.
    pub deliver: &'a mut dyn Deliver,
    /// What is not delivered is counted here.
    pub drops: &'a DropCounters,
}

/// The open units of one inbound half, at most [`MAX_OPEN_UNITS`].
#[derive(Default, Debug)]
pub struct Joiner {
    /// In the order in which they were opened.
    open: Vec<Open>,
    /// Buffers of units that have ended.
    free: Vec<Box<[u8]>>,
    /// Where parts of a super-packet are put together.
    part: Vec<u8>,
}

/// A unit of which something is still to come.
#[derive(Debug)]
struct Open {
    index: ReceiverIndex,
    slot: PeerSlot,
    /// The counter of chunk 0.
    first: u64,
    since: Instant,
    progress: Progress,
    /// Bit e: a chunk came with outer ECN field e.
    ecn: u8,
    /// Its packet did not pass the checks.
    refused: bool,
    buffer: Box<[u8]>,
}

/// How far a unit has come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    shape: Shape,
    /// Bit i: chunk i is in the buffer.
    received: u64,
    /// [`Self::received`] when something was last delivered: whatever these chunks complete is gone.
    delivered: u64,
}

impl Joiner {
    /// Without open units.
    pub fn new() -> Self {
        Self::default()
    }

    /// One chunk of a packet.
    ///
    /// # Errors
    /// [`DropReason::BadChunk`]: it contradicts the others of its unit. What comes of the packet is counted by `exit`.
    pub fn add(
        &mut self,
        from: From,
        chunk: &Chunk<'_>,
        now: Instant,
        exit: &mut Exit<'_>,
    ) -> Result<(), DropReason> {
        let first = from.counter.checked_sub(chunk.i as u64).ok_or(DropReason::BadChunk)?;
        let at = match self.open.iter().rposition(|u| u.first == first && u.index == from.index) {
            Some(at) => at,
            None => self.begin(from, first, chunk.shape, now, exit),
        };
        let unit = &mut self.open[at];
        if unit.progress.shape != chunk.shape {
            return Err(DropReason::BadChunk);
        }
        unit.buffer[chunk.shape.range(chunk.i)].copy_from_slice(chunk.payload);
        unit.progress.received |= 1 << chunk.i;
        unit.ecn |= 1 << (from.ecn & 3);
        if unit.progress.missing() == 0 {
            unit.leave(&mut self.part, exit);
            self.end(at);
        }
        Ok(())
    }

    /// Something else came under this key: what is complete goes first.
    pub fn give_way(&mut self, index: ReceiverIndex, exit: &mut Exit<'_>) {
        for unit in self.open.iter_mut().filter(|u| u.index == index) {
            unit.leave(&mut self.part, exit);
        }
    }

    /// The batch is over: whatever is complete leaves, and units that are too old end.
    pub fn finish(&mut self, now: Instant, exit: &mut Exit<'_>) {
        let mut at = 0;
        while at < self.open.len() {
            self.open[at].leave(&mut self.part, exit);
            if now.saturating_since(self.open[at].since) >= UNIT_LIFETIME {
                self.give_up(at, exit.drops);
            } else {
                at += 1;
            }
        }
    }

    /// The key is gone, and with it what was begun under it.
    pub fn forget(&mut self, index: ReceiverIndex, drops: &DropCounters) {
        while let Some(at) = self.open.iter().position(|u| u.index == index) {
            self.give_up(at, drops);
        }
    }

    /// Units of which something is still to come.
    pub fn open_units(&self) -> usize {
        self.open.len()
    }

    /// Whether nothing is open.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens a unit and says where. The oldest ends if there are too many, of its key or of all.
    fn begin(&mut self, from: From, first: u64, shape: Shape, now: Instant, exit: &mut Exit<'_>) -> usize {
        self.give_way(from.index, exit);
        let of_key = || self.open.iter().enumerate().filter(|(_, u)| u.index == from.index);
        if of_key().count() >= MAX_OPEN_PER_KEY {
            let oldest = of_key().map(|(at, _)| at).next().expect("there are two");
            self.give_up(oldest, exit.drops);
        } else if self.open.len() >= MAX_OPEN_UNITS {
            self.open[0].leave(&mut self.part, exit);
            self.give_up(0, exit.drops);
        }
        let buffer = self.free.pop().unwrap_or_else(|| vec![0; MAX_LEN].into_boxed_slice());
        self.open.push(Open {
            index: from.index,
            slot: from.slot,
            first,
            since: now,
            progress: Progress { shape, received: 0, delivered: 0 },
            ecn: 0,
            refused: false,
            buffer,
        });
        self.open.len() - 1
    }

    /// Ends a unit that lost something.
    fn give_up(&mut self, at: usize, drops: &DropCounters) {
        drops.add(DropReason::ChunkMissing, self.open[at].progress.missing().into());
        self.end(at);
    }

    fn end(&mut self, at: usize) {
        let unit = self.open.remove(at);
        self.free.push(unit.buffer);
    }
}

impl Open {
    /// Delivers what is complete and was not delivered before.
    fn leave(&mut self, part: &mut Vec<u8>, exit: &mut Exit<'_>) {
        if self.refused || !self.progress.has_news() {
            return;
        }
        if let Err(reason) = self.try_leave(part, exit) {
            self.refused = true;
            exit.drops.count(reason);
        }
        self.progress.delivered = self.progress.received;
    }

    fn try_leave(&mut self, part: &mut Vec<u8>, exit: &mut Exit<'_>) -> Result<(), DropReason> {
        let Shape { total, segment, .. } = self.progress.shape;
        let packet = &mut self.buffer[..total.into()];
        ecn::decapsulate(packet, outer_ecn(self.ecn))?;
        let ip = IpPacket::parse(packet).map_err(|_| DropReason::NotIp)?;
        if ip.bytes().len() != packet.len() {
            return Err(DropReason::BadChunk);
        }
        receive::check_inner(exit.table, self.slot, &ip)?;
        if let Some(policy) = exit.table.peer(self.slot).and_then(|peer| peer.policy.as_ref()) {
            policy.check(Way::In, self.slot, &ip, exit.now, exit.drops)?;
        }
        if segment == 0 {
            exit.deliver.deliver(packet);
            return Ok(());
        }
        let whole = SuperPacket::of_segments(packet, segment).map_err(|_| DropReason::BadChunk)?;
        let all = 0..whole.segments();
        if !self.progress.is_complete_at_once() || all.len() == 1 || all.len() > most_segments(&whole) {
            deliver_runs(&whole, &self.progress, part, exit.deliver);
            return Ok(());
        }
        let (mut headers, len) = ([0; MAX_HEADERS], whole.header_len());
        let header = whole.write_run_headers(all, &mut headers);
        packet[..len].copy_from_slice(&headers[..len]);
        exit.deliver.deliver_super(header, packet);
        Ok(())
    }
}

/// Delivers every run of segments that are complete now and were not before.
fn deliver_runs(whole: &SuperPacket<'_>, progress: &Progress, part: &mut Vec<u8>, deliver: &mut dyn Deliver) {
    let most = most_segments(whole);
    let mut next = 0;
    while next < whole.segments() {
        let from = next;
        while next < whole.segments()
            && next - from < most
            && progress.is_new(whole.offset(next)..whole.offset(next + 1))
        {
            next += 1;
        }
        match next - from {
            0 => next += 1,
            1 => {
                part.resize(whole.segment_len(from), 0);
                whole.write_segment(from, part);
                deliver.deliver(part);
            }
            _ => {
                let mut headers = [0; MAX_HEADERS];
                let header = whole.write_run_headers(from..next, &mut headers);
                part.clear();
                part.extend_from_slice(&headers[..whole.header_len()]);
                part.extend_from_slice(whole.payloads(from..next));
                deliver.deliver_super(header, part);
            }
        }
    }
}

impl Progress {
    /// Chunks that have not come.
    fn missing(&self) -> u32 {
        self.shape.chunks() as u32 - self.received.count_ones()
    }

    /// Whether there may be something to deliver: of an ordinary packet all, of a super-packet anything with headers.
    fn has_news(&self) -> bool {
        let enough = if self.shape.segment() == 0 { self.missing() == 0 } else { self.received & 1 != 0 };
        enough && self.received != self.delivered
    }

    /// Whether all is here and nothing of it was delivered.
    fn is_complete_at_once(&self) -> bool {
        self.missing() == 0 && self.delivered == 0
    }

    /// Whether all these bytes of the packet, at least one, are here and some were not when last delivered.
    fn is_new(&self, bytes: Range<usize>) -> bool {
        let (first, last) = (self.shape.chunk_of(bytes.start), self.shape.chunk_of(bytes.end - 1));
        let chunks = (u64::MAX << first) & (u64::MAX >> (MAX_CHUNKS - 1 - last));
        chunks & !self.received == 0 && (self.delivered == 0 || chunks & !self.delivered != 0)
    }
}

/// Segments that may leave as one super-packet.
fn most_segments(whole: &SuperPacket<'_>) -> usize {
    if whole.is_tcp() { usize::MAX } else { MAX_UDP_SEGMENTS }
}

/// What happened to a unit on its way is what happened to any of its chunks, the worst first (RFC 6040 §4.2, and RFC
/// 3168 §5.3 for fragments).
fn outer_ecn(seen: u8) -> u8 {
    [ecn::CE, ecn::ECT_1, ecn::ECT_0].into_iter().find(|e| seen & 1 << e != 0).unwrap_or(ecn::NOT_ECT)
}

impl core::fmt::Debug for Exit<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Exit").finish_non_exhaustive()
    }
}
