//! A topology of network namespaces: an internet, a relay, and clouds behind NATs.
//!
//! ```text
//!              relay  203.0.113.10, .11
//!                │eth0
//!                │to-relay
//!   ┌────────────┴─────────────┐
//!   │          inet            │   routes between public addresses only; faults are injected here
//!   └──┬─────────┬─────────┬───┘
//!      │to-a     │to-b     │to-c          veth, or a TAP pair with a WAN link between (`Lab::insert_wan`)
//!      │wan      │wan      │wan
//!    nat-a     nat-b     nat-c            nftables of the chosen `NatKind`
//!      │lan      │lan      │lan           a bridge, so hosts of one cloud are neighbours
//!    a1 a2     b1 b2     c1 c2            eth0 each; 10.x.0.0/24, or public addresses in a public cloud
//! ```
//!
//! Nothing is linked to the machine's own namespace, so no packet leaves the lab. Each lab has an internet of its own:
//! any number run side by side. Dropping a lab, also by a panic, ends every process in it and removes its namespaces;
//! a lab whose owner was killed is removed at the start of the next one.

mod behind;
mod faults;
mod flows;
mod mtu;
mod nat;
mod netns;
mod plan;
mod police;
mod policed;
mod port_mapper;
mod process;
mod reaper;
mod setup;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};

pub use behind::Behind;
pub use flows::UdpFlow;
pub use nat::{NAT_KINDS, NatKind};
pub use netns::{Netns, Output};
pub use plan::{RELAY_ADDRESSES, RELAY_V6};
pub use port_mapper::{MapsBy, PortMapper};
pub use process::Process;
pub use reaper::{cleanup_all_stale, cleanup_own, namespaces_of, remove_lab};

use crate::wan::WanLink;
use crate::{clock, sys, tools};
use plan::{CloudPlan, Families};

/// A running topology; see the module's drawing.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    title: String,
    logs: Arc<Path>,
    clouds: Vec<CloudPlan>,
    /// What can change at run time, one per cloud, in the order of `clouds`.
    states: Mutex<Vec<CloudState>>,
    namespaces: BTreeMap<String, Netns>,
    wan_links: Mutex<BTreeMap<String, WanLink>>,
    setup_time: Duration,
    kept: bool,
}

/// A cloud's NAT as it is now.
#[derive(Debug, Clone)]
struct CloudState {
    kind: NatKind,
    /// Which of its two sets of public addresses is in use.
    second_set: bool,
    mapping_timeout: Duration,
}

/// What a lab shall consist of; made by [`Lab::builder`].
#[derive(Debug)]
pub struct LabBuilder {
    title: String,
    has_relay: bool,
    clouds: anyhow::Result<Vec<CloudPlan>>,
}

impl LabBuilder {
    /// With a namespace `relay` that has two public addresses, [`RELAY_ADDRESSES`].
    pub fn relay(mut self) -> Self {
        self.has_relay = true;
        self
    }

    /// With a cloud of `hosts` hosts, called `NAME1`, `NAME2`, …, behind a NAT of `kind`; [`NatKind::Public`] gives its
    /// hosts public addresses. Names are 1 to 8 lower-case letters; at most 8 clouds of 13 hosts.
    pub fn cloud(mut self, name: &str, kind: NatKind, hosts: usize) -> Self {
        self.clouds = self.clouds.and_then(|mut clouds| {
            ensure!(clouds.iter().all(|cloud| cloud.name != name), "two clouds are called {name:?}");
            clouds.push(CloudPlan::new(name, clouds.len(), kind, hosts)?);
            Ok(clouds)
        });
        self
    }

    /// Puts the hosts of the last cloud, unless it is public, into `10.octet.0.0/24` instead of a range of their own; several clouds may use
    /// the same.
    pub fn lan(mut self, octet: u8) -> Self {
        if let Ok(cloud) = &mut self.clouds
            && let Some(cloud) = cloud.last_mut()
        {
            cloud.lan_octet = octet;
        }
        self
    }

    fn change(mut self, change: impl FnOnce(&mut CloudPlan)) -> Self {
        if let Ok(cloud) = &mut self.clouds
            && let Some(cloud) = cloud.last_mut()
        {
            change(cloud);
        }
        self
    }

    /// Puts the NAT of the last cloud behind that of an earlier one, as a home's is behind its carrier's.
    pub fn behind(mut self, carrier: &str) -> Self {
        self.clouds = self.clouds.and_then(|clouds| {
            let found = clouds.iter().find(|c| c.name == carrier && !c.has_public_hosts());
            let octet = found.with_context(|| format!("no private cloud {carrier} before"))?.lan_octet;
            let mut clouds = clouds;
            if let Some(last) = clouds.last_mut() {
                ensure!(last.name != carrier, "cloud {carrier} cannot be behind itself");
                last.carrier = Some((carrier.to_owned(), octet));
            }
            Ok(clouds)
        });
        self
    }

    /// Lets the NAT of the last cloud send back what its hosts send to its public address.
    pub fn hairpin(self) -> Self {
        self.change(|cloud| cloud.hairpin = true)
    }

    /// Gives the last host of the last cloud a public address of its own, translated one to one, with every port open: an
    /// "elastic" one beside neighbours behind the NAT.
    pub fn elastic(self) -> Self {
        self.change(|cloud| cloud.elastic = true)
    }

    /// Gives the hosts of the last cloud global IPv6 addresses too; its router lets only replies in.
    pub fn ipv6(self) -> Self {
        self.change(|cloud| cloud.families = Families::Both)
    }

    /// Gives the hosts of the last cloud global IPv6 addresses only.
    pub fn ipv6_only(self) -> Self {
        self.change(|cloud| cloud.families = Families::V6)
    }

    /// Makes it all.
    ///
    /// # Errors
    /// If the plan is impossible, something is missing on this machine ([`tools::require_root_and_tools`]), or a step
    /// fails; nothing is left behind then.
    pub fn build(self) -> anyhow::Result<Lab> {
        let clouds = self.clouds.with_context(|| format!("lab {}", self.title))?;
        tools::require_root_and_tools()?;
        reaper::reap();
        let start = clock::now();
        let prefix = reaper::new_prefix();
        let logs: Arc<Path> = reaper::logs(&prefix).into();
        let mut lab = Lab {
            namespaces: setup::namespaces(&prefix, &clouds, self.has_relay, &logs),
            states: Mutex::new(clouds.iter().map(CloudState::initial).collect()),
            prefix,
            title: self.title,
            logs,
            clouds,
            wan_links: Mutex::default(),
            setup_time: Duration::ZERO,
            kept: false,
        };
        // From here on dropping the lab removes what has been made so far.
        lab.set_up().with_context(|| format!("lab {}", lab.title))?;
        lab.setup_time = start.elapsed();
        Ok(lab)
    }
}

impl CloudState {
    fn initial(cloud: &CloudPlan) -> Self {
        Self { kind: cloud.kind, second_set: false, mapping_timeout: nat::MAPPING_TIMEOUT }
    }
}

impl Lab {
    /// Starts the description of a lab; `title` appears in errors.
    pub fn builder(title: &str) -> LabBuilder {
        LabBuilder { title: title.to_owned(), has_relay: false, clouds: Ok(Vec::new()) }
    }

    /// The start of all its namespaces' names, unique on this machine.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The directory with the logs of its processes; kept if the lab is dropped by a panic.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// How long it took to build.
    pub fn setup_time(&self) -> Duration {
        self.setup_time
    }

    /// Host `a1`, `a2`, `b1`, …
    ///
    /// # Panics
    /// If there is no such host.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Netns {
        self.namespaces.get(name).unwrap_or_else(|| panic!("lab {} has no host {name}", self.title))
    }

    /// All hosts, in the order of clouds.
    pub fn hosts(&self) -> impl Iterator<Item = &Netns> {
        let names = self.clouds.iter().flat_map(|cloud| (0..cloud.hosts).map(|k| cloud.host_name(k)));
        names.map(|name| &self.namespaces[&name])
    }

    /// The relay's namespace.
    ///
    /// # Panics
    /// If the lab was built without [`LabBuilder::relay`].
    #[track_caller]
    pub fn relay(&self) -> &Netns {
        self.host("relay")
    }

    /// The internet's namespace.
    pub fn internet(&self) -> &Netns {
        self.host("inet")
    }

    /// The router of a cloud.
    ///
    /// # Panics
    /// If there is no such cloud.
    #[track_caller]
    pub fn router(&self, cloud: &str) -> &Netns {
        self.host(&format!("nat-{cloud}"))
    }

    /// Every namespace of the lab.
    pub fn all(&self) -> impl Iterator<Item = &Netns> {
        self.namespaces.values()
    }

    /// The address by which the internet sees a host now: its own in a public cloud, else one of its NAT's.
    ///
    /// # Panics
    /// If there is no such host.
    #[track_caller]
    pub fn public_address(&self, host: &str) -> Ipv4Addr {
        let (cloud, k) = self.locate(host).unwrap_or_else(|| panic!("lab {} has no host {host}", self.title));
        let plan = &self.clouds[cloud];
        let state = self.state(cloud);
        match state.kind {
            _ if plan.has_public_hosts() => plan.host_address(k),
            _ if plan.elastic && k + 1 == plan.hosts => plan.uplink_address(state.second_set, k),
            NatKind::Public | NatKind::SecurityGroup => plan.uplink_address(state.second_set, k),
            _ => plan.uplink_address(state.second_set, 0),
        }
    }

    /// Leaves everything in place: namespaces and the processes in them outlive this process, until
    /// [`remove_lab`] or [`cleanup_all_stale`]. WAN links end with this process, so a kept lab has none: they are replaced by plain links.
    /// Returns the prefix.
    ///
    /// # Errors
    /// If the marker cannot be written; the lab is removed then.
    pub fn leak(mut self) -> anyhow::Result<String> {
        let clouds: Vec<_> = self.wan_links.lock().expect("no panic holds it").keys().cloned().collect();
        for cloud in clouds {
            self.remove_wan(&cloud)?;
        }
        reaper::keep(&self.prefix)?;
        self.kept = true;
        Ok(self.prefix.clone())
    }

    /// Removes it, and says so if that fails; dropping does the same silently.
    ///
    /// # Errors
    /// If `ip netns` cannot be run.
    pub fn remove(mut self) -> anyhow::Result<Duration> {
        let start = clock::now();
        self.remove_everything()?;
        Ok(start.elapsed())
    }

    fn remove_everything(&mut self) -> anyhow::Result<()> {
        self.kept = true;
        self.wan_links.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        reaper::remove(&self.prefix, &namespaces_of(&self.prefix))?;
        if std::thread::panicking() {
            eprintln!("lab {}: logs are kept in {}", self.title, self.logs.display());
        } else {
            let _ = fs::remove_dir_all(&self.logs);
        }
        Ok(())
    }

    /// Index of the cloud and number of the host within it.
    fn locate(&self, host: &str) -> Option<(usize, u8)> {
        self.clouds.iter().enumerate().find_map(|(index, cloud)| {
            (0..cloud.hosts).find(|&k| cloud.host_name(k) == host).map(|k| (index, k))
        })
    }

    fn cloud_index(&self, name: &str) -> anyhow::Result<usize> {
        self.clouds
            .iter()
            .position(|cloud| cloud.name == name)
            .with_context(|| format!("lab {} has no cloud {name}", self.title))
    }

    fn state(&self, cloud: usize) -> CloudState {
        self.states.lock().expect("no panic holds it")[cloud].clone()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.remove_everything();
        }
    }
}

/// Removes this process's labs on SIGINT or SIGTERM and exits with 128 + the signal; a second signal ends it at once.
///
/// # Errors
/// If the handlers cannot be installed or no thread can be started.
pub fn remove_labs_on_signals() -> anyhow::Result<()> {
    let mut signals = sys::signals()?;
    std::thread::Builder::new().name("lab-signals".to_owned()).spawn(move || {
        let mut signal = [0];
        if signals.read_exact(&mut signal).is_ok() {
            INTERRUPTED.store(true, Ordering::Release);
            cleanup_own();
            std::process::exit(128 + i32::from(signal[0]));
        }
    })?;
    Ok(())
}

/// Set by the first signal that [`remove_labs_on_signals`] waits for.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A Ctrl-C reaches the commands a lab runs as soon as its owner.
const SIGNAL_GRACE: Duration = Duration::from_millis(50);

/// For `main`, before it reports an error: if a signal is the cause, the error is an effect of the removal of the lab,
/// and this returns never: the process ends when the lab is removed.
pub fn yield_to_signals() {
    std::thread::sleep(SIGNAL_GRACE);
    while INTERRUPTED.load(Ordering::Acquire) {
        std::thread::park();
    }
}
