//! The overlay's interface on this machine: made only after nothing collides, removed without a trace.

use std::net::IpAddr;

use anyhow::Context;
use tokio::sync::Mutex;

use crate::netcfg::{NetConfig, Prefix, overlap};
use crate::tun::TunDevice;

/// Super-packets at most, in bytes: 47 segments of a TCP over IPv4 with timestamps (the kernel sets 321 bytes aside for
/// headers), which sealed are one train on the socket. With the kernel's own 65,536 each would be one and a bit, and the
/// bit costs a system call and a wake-up of its own.
const SUPER_PACKET: u32 = 61_900;

/// Between looking for what collides and having the addresses, no other network of this process may do the same.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What the interface is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    /// As large as any peer's path can be; those of less are the core's affair.
    pub(super) mtu: u16,
    /// Each with its on-link prefix length.
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// Led to the interface besides the on-link prefixes: allowed IPs of stock peers.
    pub(super) routes: Vec<Prefix>,
}

impl Plan {
    /// The prefixes that are on-link, each once.
    fn on_link(&self) -> Vec<Prefix> {
        let mut prefixes: Vec<_> =
            self.addresses.iter().filter_map(|&(ip, len)| Prefix::new(ip, len)).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }
}

/// A TUN device that is up.
pub(super) struct Interface {
    pub(super) plan: Plan,
    pub(super) tun: TunDevice,
    pub(super) index: u32,
}

/// Makes the interface.
///
/// # Errors
/// What collides, what is missing, or what the kernel refused; nothing is left behind.
pub(super) async fn bring_up(
    net: &impl NetConfig,
    plan: Plan,
    offload: bool,
    queues: bool,
) -> anyhow::Result<Interface> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let on_link = plan.on_link();
    for covered in overlap::check(&on_link, &net.snapshot().await?, None)? {
        tracing::warn!(route = covered.what, overlay = %covered.overlay, "a wider route holds the overlay's prefix");
    }
    let tun = TunDevice::create(&plan.name, plan.mtu, offload, queues)?;
    let index = tun.index().context("the TUN device just made")?;
    if let Err(e) = net.limit_super_packets(index, SUPER_PACKET).await {
        tracing::debug!(%e, "super-packets stay as large as the kernel makes them");
    }
    net.bring_up(index, &plan.addresses).await?;
    for &prefix in &on_link {
        if let Err(e) = net.add_unreachable(prefix).await {
            tracing::warn!(%e, %prefix, "no unreachable route: overlay traffic may leave by another way when the agent is down");
        }
    }
    for &prefix in &plan.routes {
        if prefix.prefix_len() == 0 {
            tracing::warn!(%prefix, "no default route through the overlay: that would cut off the underlay");
        } else if !on_link.iter().any(|p| p.covers(&prefix)) {
            net.add_route(prefix, index).await?;
        }
    }
    tracing::info!(interface = plan.name, addresses = ?plan.addresses, mtu = plan.mtu, "interface up");
    Ok(Interface { plan, tun, index })
}

/// Takes away what outlives the device.
pub(super) async fn clean_up(net: &impl NetConfig) {
    match net.remove_unreachable().await {
        Ok(0) => {}
        Ok(routes) => tracing::debug!(routes, "unreachable routes removed"),
        Err(e) => tracing::warn!(%e, "unreachable routes are still there"),
    }
}
