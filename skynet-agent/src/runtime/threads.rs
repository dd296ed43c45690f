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
use super::handover::ToOutbound;
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
    /// There is a thread that runs it while there is much to do.
    OutboundThread(Option<ToOutbound>),
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
    /// Runs `run` on a thread of its own, woken by `bell`, which is no other thread's.
    pub(super) fn spawn(
        name: String,
        bell: Arc<Bell>,
        shared: &Arc<Shared>,
        run: impl FnOnce(&Shared, &Bell) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (shared, mine, what) = (Arc::clone(shared), Arc::clone(&bell), name.clone());
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            mine.cpu.start();
            if let Err(e) = run(&shared, &mine) {
                // A full queue of faults already ends the agent.
                let _ = shared.faults.try_send(anyhow::Error::new(e).context(what));
            }
        })?;
        Ok(Self { handle, bell })
    }

    /// How it is woken.
    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
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

impl Bell {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let (stop, cpu) = (AtomicBool::new(false), CpuClock::default());
        Ok(Arc::new(Self { waker: Waker::new()?, stop, cpu }))
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}
