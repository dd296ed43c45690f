//! As much of a TURN client (RFC 8656) as a measurement needs: Allocate, ChannelBind, ChannelData, no authentication.
//!
//! ```text
//!   client ── ChannelData: u16 channel, u16 length, payload ──▶ relay ── payload ──▶ peer          8 + 4 less in headers
//!   client ◀── ChannelData ── relay: relayed address ◀── payload ── peer
//! ```
//! One allocation serves a pair: its other end is a plain peer, as with a NAT whose address the relay is told. Two
//! allocations would be the same work twice.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, bail, ensure};

use super::pair::{self, Pair};

const MAGIC: u32 = 0x2112_A442;
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;
const CHANNEL_NUMBER: u16 = 0x000C;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;
/// The first channel (§12); each pair has a socket, and so a channel space, of its own.
const CHANNEL: u16 = 0x4000;
const UDP: u8 = 17;
/// A relay that has just been started may miss the first request.
const TRIES: usize = 10;

/// Allocates, binds a channel to a peer and returns the way from client to peer, or the way back.
///
/// # Errors
/// If the server refuses or does not answer.
pub(super) fn pair(server: SocketAddrV4, own: Ipv4Addr, number: u32, reverse: bool) -> anyhow::Result<Pair> {
    let (client, peer) = (pair::socket(own)?, pair::socket(own)?);
    client.connect(server)?;
    let SocketAddr::V4(peer_address) = peer.local_addr()? else {
        bail!("an IPv4 socket has an IPv4 address")
    };
    let answer = ask(&client, ALLOCATE, number, &[(REQUESTED_TRANSPORT, vec![UDP, 0, 0, 0])])?;
    let relayed = xor_address(&answer, XOR_RELAYED_ADDRESS).context("no relayed address")?;
    let [high, low] = CHANNEL.to_be_bytes();
    let attributes = [(CHANNEL_NUMBER, vec![high, low, 0, 0]), (XOR_PEER_ADDRESS, encode_xor(peer_address))];
    ask(&client, CHANNEL_BIND, number, &attributes)?;
    peer.connect(relayed)?;
    if reverse {
        let head = Vec::new();
        return Ok(Pair { sender: peer, head, length_at: None, receiver: client, head_at_receiver: 4 });
    }
    let head = vec![high, low, 0, 0];
    Ok(Pair { sender: client, head, length_at: Some(2), receiver: peer, head_at_receiver: 0 })
}

fn ask(
    socket: &UdpSocket,
    method: u16,
    number: u32,
    attributes: &[(u16, Vec<u8>)],
) -> anyhow::Result<Vec<u8>> {
    let request = request(method, number, attributes);
    let mut buffer = [0; 1500];
    for _ in 0..TRIES {
        socket.send(&request)?;
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let answer = &buffer[..length];
        ensure!(answer.len() >= 20 && answer[8..20] == request[8..20], "not the answer to this request");
        let kind = u16::from_be_bytes([answer[0], answer[1]]);
        ensure!(kind == method | SUCCESS, "the server refuses method {method:#x}: {answer:02x?}");
        return Ok(answer.to_vec());
    }
    bail!("the TURN server does not answer")
}

fn request(method: u16, number: u32, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(value);
    }
    let mut message = method.to_be_bytes().to_vec();
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(MAGIC.to_be_bytes());
    // A transaction is told apart by method and pair: nobody else asks here.
    message.extend([[0; 4], u32::from(method).to_be_bytes(), number.to_be_bytes()].concat());
    message.extend(body);
    message
}

/// §18.3: family, port and address, XORed with the magic cookie.
fn encode_xor(address: SocketAddrV4) -> Vec<u8> {
    let port = address.port() ^ (MAGIC >> 16) as u16;
    let ip = u32::from(*address.ip()) ^ MAGIC;
    [&[0, 1][..], &port.to_be_bytes(), &ip.to_be_bytes()].concat()
}

fn xor_address(message: &[u8], wanted: u16) -> Option<SocketAddrV4> {
    let mut rest = message.get(20..)?;
    loop {
        let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
        let length = usize::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?));
        let value = rest.get(4..4 + length)?;
        if kind == wanted {
            let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?) ^ (MAGIC >> 16) as u16;
            let ip = u32::from_be_bytes(value.get(4..8)?.try_into().ok()?) ^ MAGIC;
            return Some(SocketAddrV4::new(ip.into(), port));
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_behind_other_attributes() {
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 50_000);
        let attributes = [(0x8022, b"abcd".to_vec()), (XOR_RELAYED_ADDRESS, encode_xor(address))];
        let message = request(ALLOCATE | SUCCESS, 7, &attributes);
        assert_eq!(xor_address(&message, XOR_RELAYED_ADDRESS), Some(address));
        assert_eq!(xor_address(&message, XOR_PEER_ADDRESS), None);
        for cut in 0..message.len() {
            assert_eq!(xor_address(&message[..cut], XOR_RELAYED_ADDRESS), None, "cut to {cut}");
        }
    }

    #[test]
    fn a_request_is_what_rfc_8656_draws() {
        let message = request(ALLOCATE, 1, &[(REQUESTED_TRANSPORT, vec![UDP, 0, 0, 0])]);
        let expected = [
            0, 3, 0, 8, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0x19, 0, 4, 17, 0, 0,
            0,
        ];
        assert_eq!(message, expected);
    }
}
