//! What a gateway speaks, found out without a trace: for diagnosis.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crab_nat::{InternetProtocol, pcp};
use skynet_core::port_mapping::{Gateway, NoMapping};

use super::client::{TIMING, external_address};
use super::upnp;

/// The discard port: no mapping of it is anybody's.
const UNUSED_PORT: NonZeroU16 = NonZeroU16::new(9).expect("nine is not zero");

/// One protocol at one gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surveyed {
    /// It answered.
    pub speaks: bool,
    /// The external address it told, if it did; hostile input like all it says.
    pub external: Option<IpAddr>,
}

/// All of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survey {
    /// PCP (RFC 6887), which tells no address without a mapping.
    pub pcp: Surveyed,
    /// NAT-PMP (RFC 6886).
    pub nat_pmp: Surveyed,
    /// UPnP Internet Gateway Device.
    pub upnp_igd: Surveyed,
}

impl Survey {
    /// The external address, by the best protocol that told one.
    pub fn external(&self) -> Option<IpAddr> {
        self.nat_pmp.external.or(self.upnp_igd.external)
    }
}

/// Asks `gateway` by all three protocols at once; at most six seconds, about one if it speaks none. Nothing is mapped: of
/// PCP a mapping that cannot exist is given back, which every server answers.
pub async fn survey(gateway: Gateway) -> Survey {
    let (pcp, nat_pmp, upnp_igd) = tokio::join!(speaks_pcp(gateway), external_address(gateway), async {
        let device = upnp::search(gateway).await?;
        Some(upnp::external_address(&device).await.ok())
    });
    let nat_pmp = Surveyed {
        speaks: !matches!(nat_pmp, Err(NoMapping::Silent | NoMapping::Implausible)),
        external: nat_pmp.ok(),
    };
    Survey {
        pcp: Surveyed { speaks: pcp, external: None },
        nat_pmp,
        upnp_igd: Surveyed { speaks: upnp_igd.is_some(), external: upnp_igd.flatten() },
    }
}

async fn speaks_pcp(gateway: Gateway) -> bool {
    let range = pcp::DropMappingRange::Single { protocol: InternetProtocol::Udp, internal_port: UNUSED_PORT };
    let mut nonce = [0; 12];
    // A server gives back only what was asked for under the same nonce, so any will do; one that is not to be guessed
    // only shows that an answer is to this question.
    if getrandom::fill(&mut nonce).is_err() {
        return false;
    }
    let word = |i: usize| u32::from_ne_bytes([nonce[i], nonce[i + 1], nonce[i + 2], nonce[i + 3]]);
    let nonce = [word(0), word(4), word(8)];
    let asked = pcp::try_drop_mapping(gateway.address.into(), gateway.own, nonce, range, Some(TIMING)).await;
    !matches!(
        asked,
        Err(pcp::Failure::Socket(_)
            | pcp::Failure::Timeout
            | pcp::Failure::UnsupportedVersion(_)
            | pcp::Failure::InvalidResponse(_)
            | pcp::Failure::Nonce)
    )
}
