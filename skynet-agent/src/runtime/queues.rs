//! The bounded queues from the data-plane threads to the control task, one per [`ControlClass`].

use skynet_core::worker::{ControlClass, ControlSink, ToControl};
use tokio::sync::mpsc;

/// Messages of one class handled in one turn, so that a flood of one class delays the others by this much only.
const TURN: usize = 32;

/// The control task's end.
pub(super) struct ControlQueues {
    receivers: [mpsc::Receiver<ToControl>; 3],
}

/// A data-plane thread's end: offering never blocks.
#[derive(Clone)]
pub(super) struct QueueSink {
    senders: [mpsc::Sender<ToControl>; 3],
}

/// The three queues with the caps the core asks for.
pub(super) fn queues() -> (QueueSink, ControlQueues) {
    let pairs = ControlClass::ALL.map(|_| mpsc::channel(ControlClass::CAPACITY));
    let [(a, x), (b, y), (c, z)] = pairs;
    (QueueSink { senders: [a, b, c] }, ControlQueues { receivers: [x, y, z] })
}

impl ControlSink for QueueSink {
    fn offer(&mut self, message: ToControl) -> bool {
        self.senders[position(message.class())].try_send(message).is_ok()
    }
}

fn position(class: ControlClass) -> usize {
    match class {
        ControlClass::RelayUpkeep => 0,
        ControlClass::Probe => 1,
        ControlClass::Session => 2,
    }
}

impl ControlQueues {
    /// Waits for the next message, the most urgent class first. Loses none if dropped while waiting.
    pub(super) async fn next(&mut self) -> Option<ToControl> {
        let [relay, probe, session] = &mut self.receivers;
        tokio::select! {
            biased;
            message = relay.recv() => message,
            message = probe.recv() => message,
            message = session.recv() => message,
        }
    }

    /// What else is waiting, up to 32 of each class.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = ToControl> {
        self.receivers.iter_mut().flat_map(|r| std::iter::from_fn(|| r.try_recv().ok()).take(TURN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(class: ControlClass, mark: u8) -> ToControl {
        ToControl::Datagram { class, from: ([127, 0, 0, 1], 1).into(), bytes: vec![mark] }
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
            assert!(sink.offer(message(ControlClass::Session, 3)));
        }
        assert!(!sink.offer(message(ControlClass::Session, 3)));
        assert!(sink.offer(message(ControlClass::Probe, 2)));
        assert!(sink.offer(message(ControlClass::RelayUpkeep, 1)));
        let turn: Vec<u8> = queues.take_waiting().map(|m| mark(&m)).collect();
        assert_eq!(turn.len(), 2 + TURN);
        assert_eq!(turn[..3], [1, 2, 3]);
    }
}
