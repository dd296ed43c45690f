//! [`GatewayClient`]: PCP and NAT-PMP by `crab_nat`, UPnP IGD by `igd-next`.
//!
//! All three are asked at once, and the best that answers is used: PCP, which maps with its first message; NAT-PMP, whose
//! first message only asks for the external address; UPnP IGD, whose first message only looks for the device. So a
//! gateway that speaks all three is left with one mapping. What is not needed any more is dropped where it stands.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use skynet_core::port_mapping::{Gateway, Grant, MappingProtocol, NoMapping};
use tokio::task::JoinSet;

use super::upnp::{self, UpnpLease};
use super::{MappingClient, Request};

/// For the first answer (RFC 6886 §3.1), and twice that for a second try: a gateway is one hop away.
pub(super) const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 1,
    max_retry_timeout: Some(Duration::from_millis(500)),
};

/// Speaks to real gateways.
#[derive(Clone, Copy, Debug, Default)]
pub struct GatewayClient;

/// A mapping that a gateway has made.
#[derive(Clone, Debug)]
pub enum GatewayLease {
    /// By PCP or NAT-PMP.
    Pcp(PortMapping),
    /// By UPnP IGD.
    Upnp(Box<UpnpLease>),
}

impl MappingClient for GatewayClient {
    type Lease = GatewayLease;

    async fn map(
        &self,
        request: Request,
        lease: Option<GatewayLease>,
    ) -> Result<(Grant, GatewayLease), NoMapping> {
        match lease {
            None => first(request).await,
            Some(GatewayLease::Pcp(mut mapping)) => {
                mapping.renew().await.map_err(|e| match e {
                    crab_nat::MappingFailure::Pcp(e) => pcp_refusal(&e),
                    crab_nat::MappingFailure::NatPmp(e) => nat_pmp_refusal(&e),
                })?;
                let external = match mapping.mapping_type() {
                    PortMappingType::Pcp { external_ip, .. } => external_ip,
                    PortMappingType::NatPmp => external_address(request.gateway).await?,
                };
                Ok(granted(mapping, external))
            }
            Some(GatewayLease::Upnp(lease)) => {
                let (grant, lease) = upnp::renew(*lease, request.lifetime).await?;
                Ok((grant, GatewayLease::Upnp(Box::new(lease))))
            }
        }
    }

    async fn release(&self, lease: GatewayLease) {
        match lease {
            GatewayLease::Pcp(mapping) => {
                if let Err((e, _)) = mapping.try_drop().await {
                    tracing::debug!(%e, "the gateway did not take a port mapping back");
                }
            }
            GatewayLease::Upnp(lease) => upnp::release(*lease).await,
        }
    }
}

async fn first(request: Request) -> Result<(Grant, GatewayLease), NoMapping> {
    let gateway = request.gateway;
    let (mut search, mut asked) = (JoinSet::new(), JoinSet::new());
    search.spawn(upnp::search(gateway));
    asked.spawn(external_address(gateway));
    let mut refusal = match map_by_pcp(request).await {
        Ok((mapping, external)) => return Ok(granted(mapping, external)),
        Err(refusal) => refusal,
    };
    match asked.join_next().await.and_then(Result::ok).unwrap_or(Err(NoMapping::Silent)) {
        Ok(external) => match map_by_nat_pmp(request).await {
            Ok(mapping) => return Ok(granted(mapping, external)),
            Err(why) => refusal = why,
        },
        Err(why) => refusal = worse(refusal, why),
    }
    let Some(Ok(Some(device))) = search.join_next().await else { return Err(refusal) };
    let (grant, lease) = upnp::map(device, request).await?;
    Ok((grant, GatewayLease::Upnp(Box::new(lease))))
}

/// Silence says least of all.
fn worse(one: NoMapping, other: NoMapping) -> NoMapping {
    if one == NoMapping::Silent { other } else { one }
}

fn options(request: Request) -> Result<(NonZeroU16, PortMappingOptions), NoMapping> {
    let port = NonZeroU16::new(request.port).ok_or(NoMapping::Refused)?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(u32::try_from(request.lifetime.as_secs()).unwrap_or(u32::MAX)),
        timeout_config: Some(TIMING),
    };
    Ok((port, options))
}

async fn map_by_pcp(request: Request) -> Result<(PortMapping, IpAddr), NoMapping> {
    let (port, options) = options(request)?;
    let Gateway { address, own } = request.gateway;
    let base = pcp::BaseMapRequest::new(address.into(), own, InternetProtocol::Udp, port);
    let mapping = pcp::port_mapping(base, None, None, options).await.map_err(|e| pcp_refusal(&e))?;
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok((mapping, external_ip)),
        PortMappingType::NatPmp => Err(NoMapping::Implausible),
    }
}

async fn map_by_nat_pmp(request: Request) -> Result<PortMapping, NoMapping> {
    let (port, options) = options(request)?;
    let gateway = request.gateway.address.into();
    natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options).await.map_err(|e| nat_pmp_refusal(&e))
}

/// By NAT-PMP, which tells it in a message of its own.
pub(super) async fn external_address(gateway: Gateway) -> Result<IpAddr, NoMapping> {
    let asked = natpmp::external_address(gateway.address.into(), Some(TIMING)).await;
    asked.map(IpAddr::from).map_err(|e| nat_pmp_refusal(&e))
}

fn granted(mapping: PortMapping, external: IpAddr) -> (Grant, GatewayLease) {
    let protocol = match mapping.mapping_type() {
        PortMappingType::Pcp { .. } => MappingProtocol::Pcp,
        PortMappingType::NatPmp => MappingProtocol::NatPmp,
    };
    let grant = Grant {
        protocol,
        external: SocketAddr::new(external, mapping.external_port().get()),
        lifetime: Duration::from_secs(mapping.lifetime().into()),
    };
    (grant, GatewayLease::Pcp(mapping))
}

fn pcp_refusal(error: &pcp::Failure) -> NoMapping {
    match error {
        // A port that is closed is a gateway without the protocol; so is one that knows NAT-PMP only.
        pcp::Failure::Socket(_) | pcp::Failure::Timeout | pcp::Failure::UnsupportedVersion(_) => {
            NoMapping::Silent
        }
        pcp::Failure::InvalidResponse(_) | pcp::Failure::Nonce => NoMapping::Implausible,
        _ => NoMapping::Refused,
    }
}

fn nat_pmp_refusal(error: &natpmp::Failure) -> NoMapping {
    match error {
        natpmp::Failure::Socket(_) | natpmp::Failure::Timeout | natpmp::Failure::UnsupportedVersion(_) => {
            NoMapping::Silent
        }
        natpmp::Failure::InvalidResponse(_) => NoMapping::Implausible,
        _ => NoMapping::Refused,
    }
}
