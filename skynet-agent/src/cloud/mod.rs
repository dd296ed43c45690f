//! What clouds tell their machines, asked of the metadata service: on the link-local address that all of them share, each
//! cloud in its own words. The public address that is translated to this machine one to one, for which nothing waits; and
//! ([`boot_data`]) what the machine is to be.
//!
//! Whoever answers there need not be a cloud: what comes back is bounded and parsed, an address is believed only as far as
//! the core does, and settings are asked for only where the firmware names a cloud.

mod boot;
mod firmware;
mod http;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

pub use boot::{BootData, KEYS, boot_data};
pub use firmware::{DMI, cloud};
use http::{Ask, Reply, Verb};

/// The metadata service of every cloud asked here.
pub const METADATA: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80));
/// For one request, from the first SYN to the last byte,
const PATIENCE: Duration = Duration::from_millis(200);
/// and for one that a machine's first boot waits for.
const LONG_PATIENCE: Duration = Duration::from_secs(1);

/// A cloud.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cloud {
    /// Amazon EC2, by IMDSv2 only.
    Ec2,
    /// Google Compute Engine.
    Gce,
    /// Microsoft Azure.
    Azure,
    /// OpenStack.
    OpenStack,
}

impl Cloud {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Gce => "GCE",
            Self::Azure => "Azure",
            Self::OpenStack => "OpenStack",
        }
    }
}

/// A public address, as a cloud tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicAddress {
    /// Who says so.
    pub cloud: Cloud,
    /// The address.
    pub ip: IpAddr,
}

/// Why a cloud told no address.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("nobody is there")]
    Absent,
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("no public address")]
    None,
    #[error("it was refused with status {0}")]
    Status(u16),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answer makes no sense")]
    Garbage,
}

impl Silence {
    /// Somebody is there and does not behave: worth a line for the operator.
    fn is_strange(&self) -> bool {
        matches!(self, Self::TooLong(_) | Self::Garbage) || matches!(self, Self::Status(300..400 | 500..))
    }
}

/// Asks all clouds at once; 400 ms at most. Of several that answer, as an imitation of one by another does, the
/// first in the order of [`Cloud`] counts.
pub async fn public_address(service: SocketAddr) -> Option<PublicAddress> {
    let (ec2, gce, azure, openstack) =
        tokio::join!(ec2(service), gce(service), azure(service), openstack(service));
    let all = [(Cloud::Ec2, ec2), (Cloud::Gce, gce), (Cloud::Azure, azure), (Cloud::OpenStack, openstack)];
    let mut found = None;
    for (cloud, told) in all {
        match told {
            Ok(ip) if found.is_none() => found = Some(PublicAddress { cloud, ip }),
            Ok(_) => {}
            Err(why) if why.is_strange() => {
                tracing::info!(cloud = cloud.name(), %why, "metadata service not used");
            }
            Err(why) => {
                tracing::debug!(cloud = cloud.name(), %why, "no public address from the metadata service")
            }
        }
    }
    found
}

/// IMDSv2: a token by PUT first, which a forwarding proxy does not pass on.
async fn ec2_token(service: SocketAddr) -> Result<String, Silence> {
    let put = Ask::new(Verb::Put, "/latest/api/token").header("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let token = put.send(service).await?.ok()?.text;
    let token = token.trim();
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"-_+/=".contains(&b);
    if token.is_empty() || token.len() > 256 || !token.bytes().all(is_base64) {
        return Err(Silence::Garbage);
    }
    Ok(token.to_owned())
}

async fn ec2(service: SocketAddr) -> Result<IpAddr, Silence> {
    let token = ec2_token(service).await?;
    let get = Ask::new(Verb::Get, "/latest/meta-data/public-ipv4").header("X-aws-ec2-metadata-token", &token);
    address(&get.send(service).await?.ok()?.text)
}

async fn gce(service: SocketAddr) -> Result<IpAddr, Silence> {
    let path = "/computeMetadata/v1/instance/network-interfaces/0/access-configs/0/external-ip";
    let reply = Ask::new(Verb::Get, path).header("Metadata-Flavor", "Google").send(service).await?.ok()?;
    if reply.flavor.as_deref() != Some("Google") {
        return Err(Silence::None);
    }
    address(&reply.text)
}

/// An address of the basic kind is the instance's, one of the standard kind the load balancer's, also without any balancer.
async fn azure(service: SocketAddr) -> Result<IpAddr, Silence> {
    let instance = "/metadata/instance/network/interface/0/ipv4/ipAddress/0/publicIpAddress?api-version=2021-02-01&format=text";
    let balancer = "/metadata/loadbalancer?api-version=2020-10-01&format=json";
    let ask = |path| Ask::new(Verb::Get, path).header("Metadata", "true").send(service);
    let (basic, standard) = tokio::join!(ask(instance), ask(balancer));
    match address(&basic?.ok()?.text) {
        Err(Silence::None) => frontend(&standard?.ok()?.text),
        told => told,
    }
}

/// The first public address of `{"loadbalancer": {"publicIpAddresses": [{"frontendIpAddress": "…"}]}}`.
fn frontend(text: &str) -> Result<IpAddr, Silence> {
    let answer: serde_json::Value = serde_json::from_str(text).map_err(|_| Silence::Garbage)?;
    let first = answer.pointer("/loadbalancer/publicIpAddresses/0/frontendIpAddress");
    address(first.and_then(|a| a.as_str()).unwrap_or_default())
}

/// As EC2 before tokens; that it is no EC2 is told by the list of its own versions.
async fn openstack(service: SocketAddr) -> Result<IpAddr, Silence> {
    let ask = |path| Ask::new(Verb::Get, path).send(service);
    let versions = ask("/openstack").await?.ok()?;
    if !versions.text.lines().any(|line| line.trim_end_matches('/') == "latest") {
        return Err(Silence::None);
    }
    address(&ask("/latest/meta-data/public-ipv4").await?.ok()?.text)
}

fn address(text: &str) -> Result<IpAddr, Silence> {
    match text.trim() {
        "" => Err(Silence::None),
        text => text.parse().map_err(|_| Silence::Garbage),
    }
}

impl Reply {
    fn ok(self) -> Result<Self, Silence> {
        match self.status {
            200 => Ok(self),
            status => Err(Silence::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests;
