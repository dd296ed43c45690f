//! Formats of `skynet_core::wire`: what parses is written back as it came.

use std::net::SocketAddr;

use skynet_core::key::Secret;
use skynet_core::rng::Rng;
use skynet_core::time::Instant;
use skynet_core::wire::binding::Answer;
use skynet_core::wire::ip::IpPacket;
use skynet_core::wire::passed_on::{Joiner, MAX_PASSED_ON, PART, Part};
use skynet_core::wire::probe::{self, Body, Head, Ping, ProbeKey};
use skynet_core::wire::record::Record;
use skynet_core::wire::relay::{Frame, TICKET_LEN, Ticket, fuzz_frame};
use skynet_core::wire::wireguard::{CookieReply, Initiation, Message, Response};
use skynet_core::wire::{Kind, wireguard};
use skynet_relay::server::Measure;

use crate::sample;

/// WireGuard's messages: every byte but those of the MACs comes back from the accessors.
pub fn wireguard(bytes: &[u8]) -> bool {
    let kind = Kind::of(bytes);
    let Ok(message) = Message::parse(bytes) else { return false };
    match message {
        Message::Initiation(m) => {
            let noise = m.noise().try_into().expect("108 bytes of Noise in an initiation");
            assert_eq!(Initiation::encode(m.sender(), noise)[..116], bytes[..116]);
            assert_eq!(m.mac1(), bytes[116..132]);
            // An index may look like STUN's cookie; whoever draws indices avoids that one.
            assert!(matches!(kind, Kind::Handshake | Kind::Stun));
        }
        Message::Response(m) => {
            let noise = m.noise().try_into().expect("48 bytes of Noise in a response");
            assert_eq!(Response::encode(m.sender(), m.receiver(), noise)[..60], bytes[..60]);
            assert_eq!((m.mac1(), kind), (bytes[60..76].try_into().expect("16 bytes"), Kind::Handshake));
        }
        Message::CookieReply(m) => {
            assert_eq!(CookieReply::encode(m.receiver(), &m.nonce(), &m.sealed()), bytes);
            assert_eq!(kind, Kind::Handshake);
        }
        Message::Transport(header) => {
            let mut again = [0; wireguard::TRANSPORT_HEADER_LEN];
            header.encode(&mut again);
            assert_eq!((&again[..], kind), (&bytes[..16], Kind::Transport));
        }
    }
    true
}

/// Relay frames and, in their first 64 bytes, tickets.
pub fn relay_frame(bytes: &[u8]) -> bool {
    fuzz_frame(bytes);
    let key = Secret::from_bytes([1; 32]);
    if let Some(ticket) = bytes.first_chunk::<TICKET_LEN>()
        && let Ok(fields) = Ticket::parse(ticket)
    {
        let minted = fields.mint(&key);
        assert_eq!(minted[..48], ticket[..48]);
        assert_eq!(Ticket::is_authentic(ticket, &key), minted == *ticket);
    }
    let Ok(frame) = Frame::parse(bytes) else { return false };
    let again = match &frame {
        Frame::Data(header, payload) => [&header.encode()[..], payload].concat(),
        Frame::Hello(f) => f.encode(&key).to_vec(),
        Frame::Cookie(f) => f.encode(&key).to_vec(),
        Frame::Bind(f) => f.encode(&key).to_vec(),
        Frame::Bound(f) => f.encode(&key).to_vec(),
        Frame::Keep(f) => f.encode().to_vec(),
        Frame::Nack(f) => f.encode().to_vec(),
    };
    assert_eq!(again.len(), bytes.len());
    assert_eq!(Frame::parse(&again).as_ref(), Ok(&frame));
    true
}

/// Path probes. First byte: 0 a datagram as from the wire, 1–3 an opened body of PING, PONG or CALL.
pub fn probe(bytes: &[u8]) -> bool {
    let Some((&mode, bytes)) = bytes.split_first() else { return false };
    let kind = match mode & 3 {
        0 => return probe_datagram(bytes),
        1 => probe::Kind::Ping,
        2 => probe::Kind::Pong,
        _ => probe::Kind::Call,
    };
    let Ok(body) = probe::parse_body(kind, bytes) else { return false };
    let key = ProbeKey::new(&sample::probe_secret());
    let pad_to = if let Body::Ping(p) = &body { p.wire_size.min(1500) } else { 0 };
    let mut sealed = probe::seal(&key, 0, [7; 8], sample::PROBE_NONCE, &body, pad_to);
    let (head, opened) = probe::open(&key, &mut sealed).expect("what is sealed opens");
    assert_eq!(head.kind, kind);
    match (opened, body) {
        // `seal` writes the size that is true.
        (Body::Ping(o), Body::Ping(b)) => assert_eq!(o, Ping { wire_size: o.wire_size, ..b }),
        (opened, body) => assert_eq!(opened, body),
    }
    true
}

/// Without the key nobody makes a probe that opens, so only the samples do.
fn probe_datagram(bytes: &[u8]) -> bool {
    let head = Head::parse(bytes);
    let mut copy = bytes.to_vec();
    let Ok((opened, _)) = probe::open(&ProbeKey::new(&sample::probe_secret()), &mut copy) else {
        return false;
    };
    assert_eq!(head, Ok(opened));
    assert!(sample::probes().iter().any(|p| p == bytes), "a forged probe opened");
    true
}

/// STUN: an answer is read or not; a request that comes to the port above the relay's gets no larger answer, to no other
/// address, and one that its sender can read.
pub fn binding(bytes: &[u8]) -> bool {
    let read = Answer::parse(bytes).is_some();
    let from: SocketAddr = "198.51.100.7:4711".parse().expect("an address");
    let mut measure = Measure::new(&mut Rng::from_seed([1; 32]), Instant::ZERO);
    let mut datagram = bytes.to_vec();
    let Ok(measured) = measure.handle_datagram(from, &mut datagram, Instant::ZERO) else { return read };
    assert!(measured.len <= bytes.len());
    let answer = Answer::parse(&datagram[..measured.len]).expect("what the relay says is an answer");
    assert_eq!((answer.mapped, &answer.transaction[..]), (from, &bytes[8..20]));
    true
}

/// Records inside the tunnel: what is trimmed off is padding, and what is written parses to the same.
pub fn record(bytes: &[u8]) -> bool {
    let trimmed = Record::trim(bytes);
    assert!(bytes.starts_with(trimmed));
    let Ok(record) = Record::parse(bytes) else { return false };
    assert_eq!(Record::parse(trimmed).as_ref(), Ok(&record));
    assert_eq!(Record::parse(&record.encode()).as_ref(), Ok(&record));
    if let Record::Document(part) = &record {
        // A part fits what it says it is a part of, whatever came before it.
        let mut joiner = Joiner::new(part.kind);
        let longer = Part { kind: part.kind, total: MAX_PASSED_ON, at: 0, bytes: vec![1; PART] };
        assert_eq!(joiner.take(&longer), None);
        let whole = joiner.take(part);
        assert_eq!(whole.is_some(), usize::from(part.total) == part.bytes.len());
    }
    true
}

/// IP packets: the view is a prefix of the buffer and parses to itself.
pub fn ip(bytes: &[u8]) -> bool {
    let Ok(packet) = IpPacket::parse(bytes) else { return false };
    assert!(bytes.starts_with(packet.bytes()));
    assert_eq!(packet.source().is_ipv4(), packet.destination().is_ipv4());
    assert_eq!(IpPacket::parse(packet.bytes()), Ok(packet));
    true
}
