//! Packets against a policy: whatever they claim to be, nothing begins that must not.

use std::sync::Arc;

use skynet_core::drop::DropCounters;
use skynet_core::id::PeerSlot;
use skynet_core::member::policy::{TCP, UDP};
use skynet_core::member::{Policy, Rule, Service, Tags};
use skynet_core::policy::{Connections, PeerPolicy, Way};
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant};
use skynet_core::wire::ip::IpPacket;

use crate::{Input, sample};

/// The only service that this node offers the peer. Nothing may begin from here.
pub const OFFERED: u16 = 5432;

/// Steps: a byte, whose bit 0 is the direction and whose others are seconds that pass, then a packet behind its length.
/// True if a packet passed.
pub fn policy(bytes: &[u8]) -> bool {
    let connections = Arc::new(Connections::new(&mut Rng::from_seed([3; 32])));
    let [me, peer] = ["db", "web"].map(|tag| Tags::new([tag]).expect("a tag"));
    let policy = Policy {
        network_id: sample::network().credentials.trust().network_id(),
        epoch: 1,
        issued: sample::NOW,
        signer: sample::network().root.identity(),
        allow_by_default: false,
        rules: vec![Rule {
            allow: true,
            from: peer.clone(),
            to: me.clone(),
            services: vec![Service { protocol: TCP, first: OFFERED, last: OFFERED }],
        }],
    };
    let policy = PeerPolicy::new(&policy, &me, &peer, &connections).expect("it forbids something");
    let (drops, mut now, mut passed, mut asked) = (DropCounters::default(), Instant::ZERO, false, false);
    let mut input = Input(bytes);
    while !input.is_empty() {
        let step = input.byte();
        now = now + Duration::from_secs(u64::from(step >> 1));
        let Ok(packet) = IpPacket::parse(input.slice()) else { continue };
        let way = if step & 1 == 0 { Way::In } else { Way::Out };
        let passes = policy.check(way, PeerSlot(1), &packet, now, &drops).is_ok();
        passed |= passes;
        // Said once more and otherwise, of what is plain to see.
        let Some((protocol, from, to)) = plain_ports(packet.bytes()) else { continue };
        let question = (protocol, to) == (TCP, OFFERED);
        match way {
            Way::In => assert_eq!(passes, question, "from {from} to {to}"),
            Way::Out => {
                assert!(!passes || (asked && (protocol, from) == (TCP, OFFERED)), "an answer to nothing")
            }
        }
        asked |= passes && way == Way::In;
    }
    passed
}

/// Of an IPv4 TCP or UDP packet without options that is no fragment.
fn plain_ports(packet: &[u8]) -> Option<(u8, u16, u16)> {
    let is_plain = packet[0] == 0x45 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
    let ports: &[u8; 4] = packet.get(20..)?.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    (is_plain && matches!(packet[9], TCP | UDP)).then(|| (packet[9], word(0), word(2)))
}
