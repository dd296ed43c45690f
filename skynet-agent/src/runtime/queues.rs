//! The bounded queues from the data-plane threads to the control task, one per [`ControlClass`].

use std::task::Poll;

use skynet_core::worker::{ControlClass, ControlSink, ToControl};
use tokio::sync::mpsc;

/// Messages of one class handled in one turn, so that a flood of one class delays the others by this much only.
const TURN: usize = 32;

const CLASSES: usize = ControlClass::ALL.len();

/// The control task's end, most urgent class first.
pub(super) struct ControlQueues {
    receivers: [mpsc::Receiver<ToControl>; CLASSES],
}

/// A data-plane thread's end: offering never blocks.
#[derive(Clone)]
pub(super) struct QueueSink {
    senders: [mpsc::Sender<ToControl>; CLASSES],
}

/// The queues with the caps the core asks for.
pub(super) fn queues() -> (QueueSink, ControlQueues) {
    let mut receivers = Vec::with_capacity(CLASSES);
    let senders = ControlClass::ALL.map(|_| {
        let (sender, receiver) = mpsc::channel(ControlClass::CAPACITY);
        receivers.push(receiver);
        sender
    });
    let receivers = receivers.try_into().unwrap_or_else(|_| unreachable!("one receiver per sender"));
    (QueueSink { senders }, ControlQueues { receivers })
}

impl ControlSink for QueueSink {
    fn offer(&mut self, message: ToControl) -> bool {
        self.senders[message.class() as usize].try_send(message).is_ok()
    }
}

impl ControlQueues {
    /// Waits for the next message, the most urgent class first. Loses none if dropped while waiting.
    pub(super) async fn next(&mut self) -> Option<ToControl> {
        std::future::poll_fn(|cx| {
            let first = self.receivers.iter_mut().map(|r| r.poll_recv(cx)).find(Poll::is_ready);
            first.unwrap_or(Poll::Pending)
        })
        .await
    }

    /// What else is waiting, up to 32 of each class.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = ToControl> {
        self.receivers.iter_mut().flat_map(|r| std::iter::from_fn(|| r.try_recv().ok()).take(TURN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::id::PortNo;

    fn message(class: ControlClass, mark: u8) -> ToControl {
        ToControl::Datagram {
            class,
            port: PortNo(0),
            from: ([127, 0, 0, 1], 1).into(),
            local: None,
            bytes: vec![mark],
        }
    }

    fn mark(message: &ToControl) -> u8 {
        match message {
            ToControl::Datagram { bytes, .. } => bytes[0],
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_full_class_refuses_and_the_others_do_not_notice() {
        let (mut sink, mut queues) = queues();
        for _ in 0..ControlClass::CAPACITY {
            assert!(sink.offer(message(ControlClass::Handshake, 3)));
        }
        assert!(!sink.offer(message(ControlClass::Handshake, 3)));
        assert!(sink.offer(message(ControlClass::Probe, 2)));
        assert!(sink.offer(message(ControlClass::RelayUpkeep, 1)));
        let turn: Vec<u8> = queues.take_waiting().map(|m| mark(&m)).collect();
        assert_eq!(turn.len(), 2 + TURN);
        assert_eq!(turn[..3], [1, 2, 3]);
    }
}
