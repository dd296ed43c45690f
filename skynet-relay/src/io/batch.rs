//! Memory of the forwarding thread: what one receive brought, and what leaves of it as trains.
//!
//! ```text
//! slots   │ train from a: 1 2 3 4 │ datagram from b: 5 │ datagram from b: 6 │ …      each as long as a train can be
//!              └───┬───┘  └─┬─┘              └────────┬──────────┘
//! runs          to x      to y                     to z                             pieces of slots, one sendmsg each
//! ```
//! A datagram is changed and sent from where it was received; there is no copy. What goes from one address to another is
//! one run as long as its datagrams are of one size, however many slots they came in; order is kept per destination.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::cmsg::Control;
use super::sockaddr;
use crate::server::Local;

/// Datagrams or trains per receive call at most: so many that single datagrams of dozens of clients find others of the
/// same way among them, and leave together.
pub(super) const SLOTS: usize = 128;
/// And usually: trains of more would not stay in the cache.
const FEW: usize = 32;
/// Bytes in a slot on average above which it is trains that come.
const TRAINS: usize = 4_096;
/// Longest train, and more than the longest datagram.
const SLOT: usize = 1 << 16;
/// From slot to slot; no power of two, or the beginnings of all slots would share a few lines of the cache.
const STRIDE: usize = SLOT + 17 * 64;
/// Longest datagram that is looked at, bytes: a jumbo frame.
pub const MAX_DATAGRAM: usize = 9_216;
/// Most runs before they must be sent: as many as one system call takes here.
pub(super) const RUNS: usize = 64;
/// Datagrams in one run: the kernel's UDP_MAX_SEGMENTS before it grew to 128.
pub(super) const MAX_SEGMENTS: usize = 64;
/// Bytes in one run: UDP's largest payload over IPv6, which is below IPv4's.
const MAX_RUN: usize = 65_487;
/// How many runs back one to the same destination is looked for, if the index does not have it.
const LOOK_BACK: usize = 16;
/// Places of the index of runs by destination.
const INDEX: usize = 256;

/// What one slot holds.
#[derive(Clone, Copy, Debug)]
pub struct Train {
    /// The address of this host it came to.
    pub local: Local,
    /// Whom it came from.
    pub from: SocketAddr,
    len: usize,
    segment: usize,
}

impl Train {
    /// A train of `len` bytes, `segment` of them per datagram.
    pub(super) fn new(local: Local, from: SocketAddr, len: usize, segment: Option<u16>) -> Self {
        Self { local, from, len, segment: segment.map_or(len, usize::from).max(1) }
    }

    /// Where its datagrams lie in the slot, in order.
    pub fn datagrams(self) -> impl Iterator<Item = Range<usize>> {
        let end = move |start: usize| (start + self.segment).min(self.len);
        (0..self.len).step_by(self.segment).map(move |start| start..end(start))
    }
}

/// Everything needed to receive into one slot.
pub(super) struct Slot {
    pub(super) name: libc::sockaddr_storage,
    pub(super) control: Control,
    pub(super) train: Option<Train>,
}

/// Datagrams of one size from one address to another, the last perhaps shorter.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) local: Local,
    pub(super) to: SocketAddr,
    pub(super) segment: usize,
    pub(super) datagrams: usize,
    len: usize,
    /// Where they lie in the slab.
    pub(super) pieces: Vec<Range<usize>>,
    /// Nothing may follow a shorter datagram.
    closed: bool,
}

/// Slots and runs; all memory is reserved at the start.
pub struct Batch {
    slab: Box<[u8]>,
    pub(super) slots: Vec<Slot>,
    pub(super) received: usize,
    /// Slots to receive into next time.
    pub(super) wanted: usize,
    runs: Vec<Run>,
    used: usize,
    /// By a hash of the destination: the number of the last run to it, and one; 0 is none.
    index: [u8; INDEX],
    /// Whether a run may hold more than one datagram: `UDP_SEGMENT` works.
    pub(super) joins: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        let slot = || Slot { name: sockaddr::empty(), control: Control::EMPTY, train: None };
        let run = Run {
            local: Local::ANY,
            to: SocketAddr::from(([0; 4], 0)),
            segment: 0,
            datagrams: 0,
            len: 0,
            pieces: Vec::new(),
            closed: true,
        };
        let run = || Run { pieces: Vec::with_capacity(MAX_SEGMENTS), ..run.clone() };
        Self {
            slab: vec![0; SLOTS * STRIDE].into_boxed_slice(),
            slots: std::iter::repeat_with(slot).take(SLOTS).collect(),
            received: 0,
            wanted: FEW,
            runs: std::iter::repeat_with(run).take(RUNS).collect(),
            used: 0,
            index: [0; INDEX],
            joins: true,
        }
    }

    /// Of so many slots wanted so many were filled: how many to want next.
    pub(super) fn filled(&mut self, received: usize) {
        self.received = received;
        let bytes: usize = self.slots[..received].iter().filter_map(|slot| Some(slot.train?.len)).sum();
        let is_more = received >= FEW && bytes / received.max(1) < TRAINS;
        self.wanted = if is_more { SLOTS } else { FEW };
    }

    /// What came in `slot`; `None` if its sender is of an unknown family, or it is empty.
    pub fn train(&self, slot: usize) -> Option<Train> {
        self.slots[..self.received].get(slot)?.train
    }

    /// One datagram of `slot`.
    pub fn datagram_mut(&mut self, slot: usize, at: Range<usize>) -> &mut [u8] {
        let start = slot * STRIDE;
        &mut self.slab[start + at.start..start + at.end]
    }

    /// The bytes of these pieces.
    pub(super) fn piece(&self, at: Range<usize>) -> &[u8] {
        &self.slab[at]
    }

    /// The memory of `slot`, for the kernel to write to.
    pub(super) fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        &mut self.slab[slot * STRIDE..][..SLOT]
    }

    /// What is to be sent.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[..self.used]
    }

    /// Everything has been sent.
    pub(super) fn clear_runs(&mut self) {
        self.used = 0;
        self.index = [0; INDEX];
    }

    /// Adds the datagram at `at` of `slot` to what leaves from `local` for `to`. False if there is no room: what there
    /// is must be sent first.
    #[must_use]
    pub fn push(&mut self, slot: usize, at: Range<usize>, local: Local, to: SocketAddr) -> bool {
        let piece = slot * STRIDE + at.start..slot * STRIDE + at.end;
        let place = index_of(to);
        if self.joins
            && let Some(last) = self.last_run(place, local, to)
            && self.runs[last].add(piece.clone())
        {
            return true;
        }
        let Some(run) = self.runs.get_mut(self.used) else { return false };
        run.begin(piece, local, to);
        self.used += 1;
        self.index[place] = self.used as u8;
        true
    }
}

impl Batch {
    /// The last run of this way. Two destinations may have the same place; then a few runs are looked at. One that is not
    /// found is begun once more, behind all others: order is kept.
    fn last_run(&self, place: usize, local: Local, to: SocketAddr) -> Option<usize> {
        let is_same = |run: &Run| (run.to, run.local) == (to, local);
        let indexed = usize::from(self.index[place]).checked_sub(1)?;
        if is_same(&self.runs[indexed]) {
            return Some(indexed);
        }
        (self.used.saturating_sub(LOOK_BACK)..self.used).rev().find(|run| is_same(&self.runs[*run]))
    }
}

/// A place in the index: clients differ in their address's last byte or in their port.
fn index_of(to: SocketAddr) -> usize {
    let ip = match to.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    let [high, low] = to.port().to_be_bytes();
    usize::from(ip ^ low ^ high.rotate_left(4))
}

impl Run {
    fn begin(&mut self, piece: Range<usize>, local: Local, to: SocketAddr) {
        (self.local, self.to) = (local, to);
        (self.segment, self.len, self.datagrams, self.closed) = (piece.len(), piece.len(), 1, false);
        self.pieces.clear();
        self.pieces.push(piece);
    }

    /// False if a datagram of that size does not fit behind those that are there.
    fn add(&mut self, piece: Range<usize>) -> bool {
        let fits = !self.closed
            && piece.len() <= self.segment
            && self.datagrams < MAX_SEGMENTS
            && self.len + piece.len() <= MAX_RUN;
        if !fits {
            return false;
        }
        self.datagrams += 1;
        self.len += piece.len();
        self.closed = piece.len() < self.segment;
        match self.pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => self.pieces.push(piece),
        }
        true
    }

    /// Its datagrams one by one: none lies in two pieces.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Range<usize>> {
        let segment = self.segment.max(1);
        self.pieces.iter().flat_map(move |piece| {
            piece.clone().step_by(segment).map(move |start| start..(start + segment).min(piece.end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ([u8; 4], u16) = ([192, 0, 2, 1], 1);
    const Y: ([u8; 4], u16) = ([192, 0, 2, 2], 2);

    fn push(batch: &mut Batch, slot: usize, at: Range<usize>, to: ([u8; 4], u16)) {
        assert!(batch.push(slot, at, Local::ANY, to.into()));
    }

    fn shape(batch: &Batch) -> Vec<(u16, usize, usize)> {
        batch.runs().iter().map(|run| (run.to.port(), run.datagrams, run.pieces.len())).collect()
    }

    #[test]
    fn a_train_is_cut_where_its_destination_changes_and_joined_across_slots() {
        let mut batch = Batch::new();
        let train = Train::new(Local::ANY, X.into(), 4_100, Some(1_000));
        let at: Vec<_> = train.datagrams().collect();
        assert_eq!(at, [0..1_000, 1_000..2_000, 2_000..3_000, 3_000..4_000, 4_000..4_100]);
        for (at, to) in at.into_iter().zip([X, X, Y, Y, Y]) {
            push(&mut batch, 0, at, to);
        }
        push(&mut batch, 1, 0..1_000, X);
        push(&mut batch, 2, 0..1_000, Y);
        assert_eq!(shape(&batch), [(1, 3, 2), (2, 3, 1), (2, 1, 1)], "nothing follows the short one");
    }

    #[test]
    fn single_datagrams_of_many_clients_leave_together_and_in_order() {
        let mut batch = Batch::new();
        // 60 destinations in turn, each twice; four have the place of another in the index.
        let to =
            |n: usize| if n < 56 { ([192, 0, 2, n as u8], 1) } else { ([192, 0, 2, n as u8 - 56], 0x1000) };
        assert_eq!(index_of(to(3).into()), index_of(to(59).into()));
        for slot in 0..120 {
            push(&mut batch, slot, 0..200, to(slot % 60));
        }
        assert_eq!(batch.runs().iter().filter(|run| run.datagrams == 2).count(), 56);
        for n in 0..60 {
            let of = batch.runs().iter().filter(|run| run.to == to(n).into()).flat_map(Run::datagrams);
            assert_eq!(of.map(|at| at.start / STRIDE).collect::<Vec<_>>(), [n, n + 60], "in order");
        }
    }

    #[test]
    fn many_small_ones_are_received_at_once_and_few_trains() {
        let mut batch = Batch::new();
        let mut fill = |received: usize, len: usize| {
            for slot in &mut batch.slots {
                slot.train = Some(Train::new(Local::ANY, X.into(), len, None));
            }
            batch.filled(received);
            batch.wanted
        };
        assert_eq!(
            [fill(FEW, 200), fill(SLOTS, 200), fill(FEW, 40_000), fill(1, 200)],
            [SLOTS, SLOTS, FEW, FEW]
        );
        assert_eq!(fill(0, 0), FEW);
    }

    #[test]
    fn sizes_keep_their_order_within_a_destination() {
        let mut batch = Batch::new();
        for (slot, len) in [500, 1_000, 300, 1_000].into_iter().enumerate() {
            push(&mut batch, slot, 0..len, X);
        }
        assert_eq!(shape(&batch), [(1, 1, 1), (1, 2, 2), (1, 1, 1)]);
        let order: Vec<_> =
            batch.runs().iter().flat_map(Run::datagrams).map(|at| at.start / STRIDE).collect();
        assert_eq!(order, [0, 1, 2, 3]);
    }

    #[test]
    fn a_run_holds_what_the_kernel_takes_and_a_batch_what_one_call_sends() {
        let mut batch = Batch::new();
        for slot in 0..3 {
            for i in 0..45 {
                push(&mut batch, slot, i * 1_400..(i + 1) * 1_400, X);
            }
        }
        let most = batch.runs().iter().map(|run| run.len).max().unwrap();
        assert_eq!(shape(&batch).iter().map(|run| run.1).sum::<usize>(), 135);
        assert!(most <= MAX_RUN);
        let mut batch = Batch { joins: false, ..Batch::new() };
        for i in 0..RUNS {
            push(&mut batch, 0, i..i + 1, X);
        }
        assert!(!batch.push(0, 99..100, Local::ANY, X.into()));
        batch.clear_runs();
        push(&mut batch, 0, 99..100, X);
    }
}
