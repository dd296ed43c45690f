//! The TUN device's super-packets, both ways, TCP and UDP, IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skynet_core::offload::{Offloads, SuperPacket, VnetHeader};

use super::Finding;
use super::pattern::{COUNT, Flow, Framed};
use super::rig::{Kernel, Rig};
use crate::tun::{TunDevice, TunWrite, Written};

/// Packets of others looked at while one of ours is waited for: what an interface that has just come up sends.
const OTHERS: usize = 64;

/// What works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::runtime) struct Verdict {
    /// Super-packets that are read arrive right.
    pub(in crate::runtime) reading: bool,
    /// TCP super-packets that are written arrive right.
    pub(in crate::runtime) tcp: bool,
    /// UDP super-packets that are written arrive right.
    pub(in crate::runtime) udp: bool,
}

impl Verdict {
    const ALL: Self = Self { reading: true, tcp: true, udp: true };
}

/// Checks `tun`, which is up, has the addresses `own` with their prefix lengths, and is not used by anyone yet: packets
/// of others that are read meanwhile are lost.
pub(in crate::runtime) fn check(tun: &mut TunDevice, own: &[(IpAddr, u8)], wanted: Offloads) -> Verdict {
    if !tun.has_offload() {
        return Verdict::ALL;
    }
    let udp = tun.takes().udp4;
    let wanted = Offloads { udp4: wanted.udp4 && udp, udp6: wanted.udp6 && udp, ..wanted };
    let first = |v4: bool| own.iter().find(|(ip, _)| ip.is_ipv4() == v4).copied();
    let own: Vec<_> = [first(true), first(false)].into_iter().flatten().collect();
    let addresses: Vec<IpAddr> = own.iter().map(|(ip, _)| *ip).collect();
    match Kernel::new(tun, &addresses) {
        Ok(mut kernel) => judge(&mut kernel, &own, wanted, udp),
        Err(e) => {
            tracing::debug!(%e, "the interface's offloads are not checked");
            Verdict::ALL
        }
    }
}

/// `uso`: whether the device hands over and takes UDP super-packets at all.
fn judge(rig: &mut impl Rig, own: &[(IpAddr, u8)], wanted: Offloads, uso: bool) -> Verdict {
    let mut verdict = Verdict::ALL;
    for &(to, prefix_len) in own {
        let from = stranger(to, prefix_len);
        let (tcp, udp) = if to.is_ipv4() { (wanted.tcp4, wanted.udp4) } else { (wanted.tcp6, wanted.udp6) };
        let tcp_in = Flow { from, to, tcp: true, port: None };
        verdict.tcp &= !tcp || writing_tcp(rig, &tcp_in) != Finding::Wrong;
        let udp_in = Flow { from, to, tcp: false, port: rig.port(to) };
        verdict.udp &= !udp || writing_udp(rig, &udp_in) != Finding::Wrong;
        let tcp_out = Flow { from: to, to: from, tcp: true, port: None };
        verdict.reading &= reading(rig, &tcp_out) != Finding::Wrong;
        let udp_out = Flow { tcp: false, ..tcp_out };
        verdict.reading &= !uso || reading(rig, &udp_out) != Finding::Wrong;
    }
    verdict
}

/// An address beside ours that is neither the first nor the last of the prefix. Whoever has it never hears of this.
fn stranger(own: IpAddr, prefix_len: u8) -> IpAddr {
    match own {
        IpAddr::V4(ip) => {
            let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
            let beside = |bit: u32| u32::from(ip) ^ bit;
            let is_edge = |a: u32| hosts > 1 && (a & hosts == 0 || a & hosts == hosts);
            let address = if is_edge(beside(1)) { beside(2) } else { beside(1) };
            Ipv4Addr::from(address).into()
        }
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) ^ 1).into(),
    }
}

/// What was written is on the host's side of the device as it was written.
fn writing_tcp(rig: &mut impl Rig, flow: &Flow) -> Finding {
    let single = flow.single_unanswered();
    let Some(joined) = flow.joined_unanswered() else { return Finding::Unknown };
    let visible = rig.write(&single) == Written::Yes && passes(rig, &single);
    match rig.write(&joined) {
        Written::NotAsSuperPacket => Finding::Wrong,
        Written::Yes if visible && passes(rig, &joined) => Finding::Right,
        Written::Yes if visible => Finding::Wrong,
        Written::Yes | Written::Refused => Finding::Unknown,
    }
}

/// Whether the host receives this packet, to be segmented in this way. The kernel makes the rest of the header anew.
fn passes(rig: &mut impl Rig, framed: &Framed) -> bool {
    let how = |h: &VnetHeader| (h.gso, h.gso_size);
    let same = |got: &Framed| got.packet == framed.packet && how(&got.header) == how(&framed.header);
    (0..OTHERS).map_while(|_| rig.received()).any(|got| same(&got))
}

/// What was written arrives at a socket as the datagrams it was joined of.
fn writing_udp(rig: &mut impl Rig, flow: &Flow) -> Finding {
    let Some(joined) = flow.joined() else { return Finding::Unknown };
    let single = Framed { header: VnetHeader::NONE, packet: flow.segment(0) };
    let visible = flow.port.is_some()
        && rig.write(&single) == Written::Yes
        && rig.datagram(flow.to) == Some(Flow::payload(0));
    match rig.write(&joined) {
        Written::NotAsSuperPacket => Finding::Wrong,
        Written::Yes if visible => {
            let right = (0..COUNT).all(|i| rig.datagram(flow.to) == Some(Flow::payload(i)));
            if right { Finding::Right } else { Finding::Wrong }
        }
        Written::Yes | Written::Refused => Finding::Unknown,
    }
}

/// What the host sends is read from the device as a super-packet that splits into the same segments.
fn reading(rig: &mut impl Rig, flow: &Flow) -> Finding {
    let single = Framed { header: VnetHeader::NONE, packet: flow.segment(0) };
    if rig.transmit(&single).is_err() || collect(rig, flow, 1) != [flow.segment(0)] {
        return Finding::Unknown;
    }
    let Some(joined) = flow.joined() else { return Finding::Unknown };
    if rig.transmit(&joined).is_err() {
        return Finding::Unknown;
    }
    let right = collect(rig, flow, COUNT).into_iter().eq((0..COUNT).map(|i| flow.segment(i)));
    if right { Finding::Right } else { Finding::Wrong }
}

/// Segments of the flow that are read until there are `count` or none comes.
fn collect(rig: &mut impl Rig, flow: &Flow, count: usize) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    for _ in 0..OTHERS {
        let read = rig.read();
        if read.is_empty() {
            break;
        }
        for framed in read.iter().filter(|f| flow.owns(&f.packet)) {
            let Ok(whole) = SuperPacket::parse(framed.header, &framed.packet) else { continue };
            for i in 0..whole.segments() {
                let mut out = vec![0; whole.segment_len(i)];
                whole.write_segment(i, &mut out);
                segments.push(out);
            }
        }
        if segments.len() >= count {
            break;
        }
    }
    segments
}

#[cfg(test)]
#[path = "tun_tests.rs"]
mod tests;
