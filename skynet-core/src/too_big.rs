//! What the outbound half answers to packets that are larger than their peer's MTU: few, and never in a hurry.
//!
//! Most of such packets are carried all the same (a TCP stream is cut smaller, others go as fragments); the answer lets
//! the sender do better from then on. It is told by ICMP from the packet's destination, as a router there would.

use crate::offload::{MAX_TOO_BIG, SuperPacket, write_too_big};
use crate::time::{Duration, Instant};

/// Answers of one batch at most; the others of that batch go without.
const WAITING: usize = 4;
/// Answers at once,
const BURST: u32 = 16;
/// and then one each so often.
const EVERY: Duration = Duration::from_millis(20);

/// Answers that wait for the shell, and how many more there may be.
#[derive(Debug)]
pub(crate) struct TooBig {
    answers: [(usize, [u8; MAX_TOO_BIG]); WAITING],
    /// Written,
    written: usize,
    /// and taken.
    taken: usize,
    tokens: u32,
    filled: Instant,
}

impl Default for TooBig {
    fn default() -> Self {
        let answers = [(0, [0; MAX_TOO_BIG]); WAITING];
        Self { answers, written: 0, taken: 0, tokens: BURST, filled: Instant::ZERO }
    }
}

impl TooBig {
    /// A packet towards a peer of this MTU; if it is larger its sender is told, unless too many were lately.
    #[cold]
    pub(crate) fn note(&mut self, packet: &SuperPacket<'_>, mtu: u16, now: Instant) {
        if packet.segment_len_max() <= mtu.into() || self.written == WAITING {
            return;
        }
        let earned = now.saturating_since(self.filled).as_nanos() / EVERY.as_nanos();
        if earned > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            self.filled = now;
        }
        if self.tokens == 0 {
            return;
        }
        let (len, answer) = &mut self.answers[self.written];
        if let Some(written) = write_too_big(packet.ip().bytes(), mtu, answer) {
            *len = written;
            self.written += 1;
            self.tokens -= 1;
        }
    }

    pub(crate) fn poll_answer(&mut self) -> Option<&[u8]> {
        if self.taken == self.written {
            (self.written, self.taken) = (0, 0);
            return None;
        }
        let (len, answer) = &self.answers[self.taken];
        self.taken += 1;
        Some(&answer[..*len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::VnetHeader;
    use crate::offload::samples::tcp;

    #[test]
    fn whoever_sends_too_much_is_told_now_and_then_and_others_never() {
        let large = tcp(false, 3_000);
        let packet = SuperPacket::parse(VnetHeader::NONE, &large).unwrap();
        let mut too_big = TooBig::default();
        too_big.note(&packet, u16::MAX, Instant::ZERO);
        too_big.note(&packet, large.len() as u16, Instant::ZERO);
        assert_eq!(too_big.poll_answer(), None);
        let mut told = 0;
        for millis in 0..1_000 {
            for _ in 0..10 {
                too_big.note(&packet, 1_280, Instant::ZERO + Duration::from_millis(millis));
            }
            while let Some(answer) = too_big.poll_answer() {
                assert_eq!(answer[26..28], 1_280u16.to_be_bytes());
                told += 1;
            }
        }
        assert_eq!(told, BURST as usize + 49);
    }
}
