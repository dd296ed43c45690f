//! The OS threads of the workers: what they share, and how control speaks to each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PortNo;
use skynet_core::worker::InboundCommand;
use tokio::sync::mpsc;

use super::halves::OutboundIo;
use super::load::{BusyBell, CpuClock};
use super::to_tun::WriteState;
use crate::config::Nice;
use crate::tun::TunDevice;
use crate::udp::UdpSocket;
use crate::wake::Waker;

/// Why a data-plane thread ended without being told to.
pub(super) type Fault = anyhow::Error;

/// The sockets of all open ports by number: any worker sends by any of them, each receives by its own. The ones for
/// guessing, which worker 0 receives by, come after the ports.
pub(super) type Sockets = Vec<Option<Arc<UdpSocket>>>;

/// What all threads share with the control task.
pub(super) struct Shared {
    pub(super) table: ArcSwap<ForwardingTable>,
    pub(super) sockets: ArcSwap<Sockets>,
    pub(super) written: Arc<WriteState>,
    pub(super) busy: Arc<BusyBell>,
    pub(super) nice: Nice,
    pub(super) faults: mpsc::Sender<Fault>,
}

pub(super) enum ToInbound {
    Command(InboundCommand),
    /// Receive by this one too, or no more.
    Socket(PortNo, Option<Arc<UdpSocket>>),
    /// Deliver here from now on; `None`: nowhere.
    Tun(Option<TunDevice>),
    /// Run this outbound half too from now on; `None`: none.
    Outbound(Option<Box<OutboundIo>>),
    /// Say that all before this is done.
    Confirm(SyncSender<()>),
}

/// A running thread.
pub(super) struct Thread {
    handle: JoinHandle<()>,
    bell: Arc<Bell>,
}

/// How a thread is told something: look at the commands, or at the flag and end.
pub(super) struct Bell {
    pub(super) waker: Waker,
    stop: AtomicBool,
    cpu: CpuClock,
}

impl Thread {
    pub(super) fn spawn(
        name: String,
        shared: &Arc<Shared>,
        run: impl FnOnce(&Shared, &Bell) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let bell =
            Arc::new(Bell { waker: Waker::new()?, stop: AtomicBool::new(false), cpu: CpuClock::default() });
        let (shared, mine, what) = (Arc::clone(shared), Arc::clone(&bell), name.clone());
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            mine.cpu.start();
            take_priority(shared.nice);
            if let Err(e) = run(&shared, &mine) {
                // A full queue of faults already ends the agent.
                let _ = shared.faults.try_send(anyhow::Error::new(e).context(what));
            }
        })?;
        Ok(Self { handle, bell })
    }

    pub(super) fn wake(&self) {
        self.bell.waker.wake();
    }

    /// Its processor time.
    pub(super) fn cpu(&self) -> &CpuClock {
        &self.bell.cpu
    }

    /// Ends the thread and waits for it. A panic in it goes on here: never half alive.
    pub(super) fn end(self) {
        self.bell.stop.store(true, Relaxed);
        self.bell.waker.wake();
        if let Err(panic) = self.handle.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Sets the nice value of the calling thread alone, as Linux does for a thread's id. Needs CAP_SYS_NICE or RLIMIT_NICE
/// to go below 0; without, packets wait longer where programs are busy and nothing else is lost.
fn take_priority(nice: Nice) {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice.value()) {
        tracing::debug!(%error, nice = nice.value(), "the thread keeps its priority");
    }
}

impl Bell {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priority_is_the_threads_own() {
        let nice_of = |tid| rustix::process::getpriority_process(Some(tid)).unwrap();
        let here = rustix::thread::gettid();
        let before = nice_of(here);
        let changed = std::thread::spawn(move || {
            // Upwards, which needs no privilege.
            take_priority(Nice::try_from(7).unwrap());
            nice_of(rustix::thread::gettid())
        });
        assert_eq!((changed.join().unwrap(), nice_of(here)), (7, before));
    }
}
