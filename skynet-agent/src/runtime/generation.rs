//! Whether this machine's memory may be in use elsewhere too: it was suspended, restored from a snapshot, or copied.
//!
//! What tells: the hypervisor by its generation id (the kernel's `vmgenid` reports a new one by an event, since Linux 6.8);
//! time spent suspended, which the kernel counts; another boot id, after a process was restored on another kernel. Without
//! any of these nobody can tell, and two copies of one memory go on alike.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use nix::time::{ClockId, clock_gettime};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Less is a difference between two readings.
const SUSPENDED: Duration = Duration::from_secs(1);
/// Events of the kernel; udev's own have another group.
const KERNEL_EVENTS: u32 = 1;
/// In the event of a new generation.
const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";

pub(super) struct Generation {
    suspended: Duration,
    boot_id: String,
    /// Absent where the kernel's events cannot be had.
    events: Option<TokioSocket>,
}

impl Generation {
    pub(super) fn new() -> Self {
        let events = listen();
        if let Err(e) = &events {
            tracing::debug!(%e, "a new generation of this machine will not be told");
        }
        Self { suspended: suspended().unwrap_or_default(), boot_id: boot_id(), events: events.ok() }
    }

    /// Why this memory may be a copy, since this was asked last. `everything`: also what costs more than clock readings.
    pub(super) fn check(&mut self, everything: bool) -> Option<&'static str> {
        self.observe(suspended(), everything.then(boot_id))
    }

    fn observe(&mut self, suspended: Option<Duration>, boot_id: Option<String>) -> Option<&'static str> {
        let slept = suspended.is_some_and(|now| now.saturating_sub(self.suspended) >= SUSPENDED);
        self.suspended = suspended.unwrap_or(self.suspended);
        let is_other = boot_id.as_ref().is_some_and(|boot_id| *boot_id != self.boot_id);
        self.boot_id = boot_id.unwrap_or_else(|| std::mem::take(&mut self.boot_id));
        match (slept, is_other) {
            (true, _) => Some("it was suspended"),
            (_, true) => Some("the kernel is another"),
            _ => None,
        }
    }

    /// The hypervisor says that this machine is a copy, or was restored. Only the kernel's word counts.
    pub(super) async fn next(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        loop {
            match events.recv_from_full().await {
                Ok((event, from)) if from.port_number() == 0 && is_new_generation(&event) => return,
                Ok(_) => {}
                // More events than were read: they are of devices that come and go.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// Time spent suspended since boot; `None` if this thread was held up between the readings.
fn suspended() -> Option<Duration> {
    let read = |clock| clock_gettime(clock).map(Duration::from).ok();
    let before = read(ClockId::CLOCK_BOOTTIME)?;
    let monotonic = read(ClockId::CLOCK_MONOTONIC)?;
    let after = read(ClockId::CLOCK_BOOTTIME)?;
    (after.saturating_sub(before) < SUSPENDED / 4).then(|| before.saturating_sub(monotonic))
}

fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).unwrap_or_default()
}

fn listen() -> io::Result<TokioSocket> {
    let mut events = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
    events.socket_mut().bind(&SocketAddr::new(0, KERNEL_EVENTS))?;
    Ok(events)
}

/// An event is `ACTION@PATH` and `KEY=VALUE`s, each ended by a zero byte.
fn is_new_generation(event: &[u8]) -> bool {
    event.split(|byte| *byte == 0).any(|field| field == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_event_of_a_new_generation_is_one() {
        let event = b"change@/devices/LNXSYSTM:00/VMGENCTR:00\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=1\0";
        assert!(is_new_generation(event));
        for other in [&event[..event.len() - 30], b"", b"NEW_VMGENID=10\0", b"add@/devices/x\0ACTION=add\0"] {
            assert!(!is_new_generation(other));
        }
    }

    #[test]
    fn a_machine_that_runs_on_is_no_copy_and_one_that_slept_or_has_another_kernel_is() {
        let mut generation =
            Generation { suspended: Duration::from_secs(5), boot_id: "a".to_owned(), events: None };
        let s = |seconds| Some(Duration::from_secs_f64(seconds));
        assert_eq!(generation.observe(s(5.9), None), None, "readings differ");
        assert_eq!(generation.observe(None, None), None, "held up");
        assert_eq!(generation.observe(s(7.0), Some("a".to_owned())), Some("it was suspended"));
        assert_eq!(generation.observe(s(7.0), Some("a".to_owned())), None, "told once");
        assert_eq!(generation.observe(s(0.0), Some("b".to_owned())), Some("the kernel is another"));
        assert_eq!(generation.observe(s(0.0), Some("b".to_owned())), None);
    }

    #[test]
    fn a_real_machine_is_not_taken_for_a_copy_of_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut generation = Generation::new();
            assert!((0..10_000).all(|_| generation.check(true).is_none()));
        });
    }
}
