//! Frames that wait for a stream that is slower than they come. A tunnel that queues is worse than one that drops: what
//! waited too long is of no use to anybody, and the connections inside learn of the limit by the loss.

use std::collections::VecDeque;

use super::packing::{self, LENGTH};
use crate::time::{Duration, Instant};
use crate::wire::relay::{Class, DATA, DataHeader};

/// Bytes of data that may wait.
pub(super) const MAX_DATA: usize = 512 * 1024;
/// How long data may wait.
pub(super) const MAX_AGE: Duration = Duration::from_millis(100);
/// Bytes of control frames, handshakes and probes that may wait: hundreds of them.
pub(super) const MAX_CONTROL: usize = 64 * 1024;
/// How long those may wait: their senders repeat them by then.
const MAX_CONTROL_AGE: Duration = Duration::from_secs(1);

/// What a queue gave up, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueDrops {
    /// The oldest ones, when there were too many bytes.
    pub full: u64,
    /// Those that had waited too long.
    pub old: u64,
}

#[derive(Default)]
struct Line {
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Line {
    fn push(&mut self, frame: &[u8], most: usize, now: Instant, drops: &mut QueueDrops) {
        self.bytes += frame.len();
        self.frames.push_back((now, frame.to_vec()));
        while self.bytes > most && self.pop().is_some() {
            drops.full += 1;
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    fn expire(&mut self, age: Duration, now: Instant, drops: &mut QueueDrops) {
        while self.frames.front().is_some_and(|(since, _)| now.saturating_since(*since) > age) {
            self.pop();
            drops.old += 1;
        }
    }

    /// Packs frames behind `out` while it stays within `most` bytes.
    fn pack(&mut self, out: &mut Vec<u8>, most: usize) {
        while self.frames.front().is_some_and(|(_, frame)| out.len() + LENGTH + frame.len() <= most) {
            if let Some(frame) = self.pop() {
                packing::pack(&frame, out);
            }
        }
    }
}

/// The queue in front of a stream: at most 512 kB and 100 ms of data, 64 kB and 1 s of what keeps sessions alive. The
/// latter goes first, and data never takes its room.
#[derive(Default)]
pub struct FrameQueue {
    control: Line,
    data: Line,
    drops: QueueDrops,
}

impl FrameQueue {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control.frames.is_empty() && self.data.frames.is_empty()
    }

    /// What was given up so far.
    pub fn drops(&self) -> QueueDrops {
        self.drops
    }

    /// A relay frame that came at `now`.
    pub fn push(&mut self, frame: &[u8], now: Instant) {
        if is_data(frame) {
            self.data.push(frame, MAX_DATA, now, &mut self.drops);
        } else {
            self.control.push(frame, MAX_CONTROL, now, &mut self.drops);
        }
    }

    /// Packs what goes next behind `out`, up to `most` bytes in all.
    pub fn pack(&mut self, out: &mut Vec<u8>, most: usize, now: Instant) {
        self.control.expire(MAX_CONTROL_AGE, now, &mut self.drops);
        self.data.expire(MAX_AGE, now, &mut self.drops);
        self.control.pack(out, most);
        self.data.pack(out, most);
    }
}

/// DATA of bulk and normal class; whatever else there is keeps something alive.
fn is_data(frame: &[u8]) -> bool {
    let is_control = |header: DataHeader| header.flags & 3 == Class::Control as u8;
    frame.first() == Some(&DATA) && !DataHeader::parse(frame).is_ok_and(is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier::Frames;

    fn data(class: Class, number: u32, len: usize) -> Vec<u8> {
        let mut frame = DataHeader::new(class, 0, 1, number).encode().to_vec();
        frame.resize(len, 0);
        frame
    }

    fn numbers(queue: &mut FrameQueue, most: usize, now: Instant) -> Vec<u32> {
        let mut out = Vec::new();
        queue.pack(&mut out, most, now);
        assert!(out.len() <= most);
        Frames::of(&out).map(|f| DataHeader::parse(f.unwrap()).unwrap().node_no).collect()
    }

    #[test]
    fn control_goes_before_data_and_order_is_kept_within_each() {
        let (mut queue, now) = (FrameQueue::default(), Instant::ZERO);
        queue.push(&data(Class::Normal, 1, 1400), now);
        queue.push(&data(Class::Bulk, 2, 1400), now);
        queue.push(&data(Class::Control, 3, 100), now);
        queue.push(&data(Class::Control, 4, 100), now);
        assert_eq!(numbers(&mut queue, 16_000, now), [3, 4, 1, 2]);
        assert!(queue.is_empty());
        assert_eq!(queue.drops(), QueueDrops::default());
    }

    #[test]
    fn data_that_has_waited_100_ms_is_dropped_and_control_is_not() {
        let (mut queue, start) = (FrameQueue::default(), Instant::ZERO);
        queue.push(&data(Class::Normal, 1, 100), start);
        queue.push(&data(Class::Control, 2, 100), start);
        queue.push(&data(Class::Normal, 3, 100), start + Duration::from_millis(1));
        let late = start + MAX_AGE + Duration::from_millis(1);
        assert_eq!(numbers(&mut queue, 16_000, late), [2, 3]);
        assert_eq!(queue.drops(), QueueDrops { full: 0, old: 1 });
        queue.push(&data(Class::Control, 4, 100), start);
        assert!(numbers(&mut queue, 16_000, start + Duration::from_millis(1_001)).is_empty());
    }

    #[test]
    fn bytes_are_bounded_the_oldest_data_goes_and_control_keeps_its_room() {
        let (mut queue, now) = (FrameQueue::default(), Instant::ZERO);
        queue.push(&data(Class::Control, 0, 100), now);
        for number in 1..=1_000 {
            queue.push(&data(Class::Normal, number, 1_000), now);
        }
        assert_eq!(queue.data.bytes, 524_000);
        assert_eq!(queue.drops(), QueueDrops { full: 476, old: 0 });
        let first = numbers(&mut queue, 2_000, now);
        assert_eq!(first, [0, 477]);
        for number in 0..10_000 {
            queue.push(&data(Class::Control, number, 100), now);
        }
        assert!(queue.control.bytes <= MAX_CONTROL);
    }

    #[test]
    fn a_frame_that_is_no_data_header_waits_with_the_control_frames() {
        assert!(!is_data(&[0xAB; 64]));
        assert!(
            is_data(&[DATA, 0, 0]),
            "cut short: the relay will drop it, and it takes no room from control"
        );
        assert!(is_data(&data(Class::Bulk, 1, 9)) && !is_data(&data(Class::Control, 1, 9)));
    }
}
