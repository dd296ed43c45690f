//! UPnP IGD: finds the device, and maps by SOAP. `igd-next` bounds what it reads (1 MiB, 64 levels of XML) and follows a
//! description to no other host than the one that answered; that this is the gateway is checked here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use igd_next::aio::tokio::Tokio;
use igd_next::{AddAnyPortError, AddPortError, PortMappingProtocol, SearchOptions};
use skynet_core::port_mapping::{Gateway, Grant, MappingProtocol, NoMapping};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Request;

/// Devices are slow; nothing waits for them but the next better protocol's absence.
const SEARCH: Duration = Duration::from_secs(2);
/// For the two or three requests that make a mapping.
const MAP: Duration = Duration::from_secs(3);
const SSDP_PORT: u16 = 1900;
/// What the gateway's owner reads in its list.
const DESCRIPTION: &str = "skynet";

pub(super) type Device = igd_next::aio::Gateway<Tokio>;

/// A mapping made by UPnP.
#[derive(Clone, Debug)]
pub struct UpnpLease {
    device: Device,
    own: SocketAddr,
    external_port: u16,
}

/// The Internet Gateway Device that the gateway is, if it is one. Asked by multicast, as the protocol wants, and directly:
/// a firewall on this host expects no answer to a multicast.
pub(super) async fn search(gateway: Gateway) -> Option<Device> {
    let mut searches = JoinSet::new();
    for to in [SearchOptions::default().broadcast_address, SocketAddr::new(gateway.address, SSDP_PORT)] {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::new(gateway.own, 0);
        options.broadcast_address = to;
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        searches.spawn(igd_next::aio::tokio::search_gateway(options));
    }
    while let Some(found) = searches.join_next().await {
        match found {
            Ok(Ok(device)) if device.addr.ip() == gateway.address => return Some(device),
            Ok(Ok(device)) => tracing::debug!(device = %device.addr, "a UPnP device that is not the gateway"),
            Ok(Err(e)) => tracing::debug!(%e, "no UPnP device"),
            Err(_) => {}
        }
    }
    None
}

pub(super) async fn external_address(device: &Device) -> Result<IpAddr, NoMapping> {
    match timeout(MAP, device.get_external_ip()).await {
        Ok(Ok(ip)) => Ok(ip),
        Ok(Err(_)) => Err(NoMapping::Refused),
        Err(_) => Err(NoMapping::Silent),
    }
}

pub(super) async fn map(device: Device, request: Request) -> Result<(Grant, UpnpLease), NoMapping> {
    let own = SocketAddr::new(request.gateway.own, request.port);
    let lease = UpnpLease { device, own, external_port: request.port };
    prolong(lease, request.lifetime).await
}

pub(super) async fn renew(lease: UpnpLease, lifetime: Duration) -> Result<(Grant, UpnpLease), NoMapping> {
    prolong(lease, lifetime).await
}

pub(super) async fn release(lease: UpnpLease) {
    let removal = lease.device.remove_port(PortMappingProtocol::UDP, lease.external_port);
    if let Ok(Err(e)) = timeout(MAP, removal).await {
        tracing::debug!(%e, "the gateway did not take a port mapping back");
    }
}

async fn prolong(mut lease: UpnpLease, lifetime: Duration) -> Result<(Grant, UpnpLease), NoMapping> {
    let made = async {
        let ip = external_address(&lease.device).await?;
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let port = match add(&lease, seconds).await {
            // Some know permanent mappings only; it is taken away at a clean stop.
            Err(AddPortError::OnlyPermanentLeasesSupported) => add(&lease, 0).await,
            added => added,
        };
        let port = match port {
            Ok(port) => port,
            // Another host of this LAN has it.
            Err(AddPortError::PortInUse) => add_any(&lease, seconds).await.map_err(|e| refused(&e))?,
            Err(e) => return Err(refused(&e)),
        };
        Ok((ip, port))
    };
    let (ip, port) = timeout(MAP, made).await.map_err(|_| NoMapping::Silent)??;
    lease.external_port = port;
    // The protocol does not say what it granted; the core believes no more than two hours.
    let grant = Grant { protocol: MappingProtocol::UpnpIgd, external: SocketAddr::new(ip, port), lifetime };
    Ok((grant, lease))
}

async fn add(lease: &UpnpLease, seconds: u32) -> Result<u16, AddPortError> {
    let port = lease.external_port;
    let added = lease.device.add_port(PortMappingProtocol::UDP, port, lease.own, seconds, DESCRIPTION);
    added.await.map(|()| port)
}

async fn add_any(lease: &UpnpLease, seconds: u32) -> Result<u16, AddAnyPortError> {
    lease.device.add_any_port(PortMappingProtocol::UDP, lease.own, seconds, DESCRIPTION).await
}

fn refused(error: &dyn std::error::Error) -> NoMapping {
    tracing::debug!(%error, "the gateway made no port mapping by UPnP");
    NoMapping::Refused
}
