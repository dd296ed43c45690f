//! Small valid inputs of every target, the same on every run. `examples/seeds.rs` writes them into the corpus.

use data_encoding::BASE64URL_NOPAD;
use skynet_core::control::message::{ConflictWhat, DeniedCode, Lookup, Member, Message, Welcome};
use skynet_core::diagnosis::{Change, End, HostView, PairView, Way};
use skynet_core::id::LaneNo;
use skynet_core::key::{Identity, PublicKey, Secret};
use skynet_core::member::document::Kind;
use skynet_core::member::token::PREFIX;
use skynet_core::member::{Bundle, JoinToken, Signed};
use skynet_core::path::{CandidateKind, Reason, Step};
use skynet_core::rng::Rng;
use skynet_core::session::Suite;
use skynet_core::time::Duration;
use skynet_core::wire::binding::Request;
use skynet_core::wire::ip::udp_v4;
use skynet_core::wire::passed_on::Part;
use skynet_core::wire::probe::{HEAD_LEN, MAC_LEN};
use skynet_core::wire::record::{Grant, Hello as InTunnelHello, Holding, LaneOffer, Pattern, Record, Report};
use skynet_core::wire::relay::{
    self, Bind, Bound, Class, Cookie, DataHeader, Hello, Keep, Nack, TICKET_LEN, Ticket,
};
use skynet_core::wire::view::View;
use skynet_core::wire::wireguard::{CookieReply, Initiation, ReceiverIndex, Response, TransportHeader};
use skynet_relay::network::Invitation;

use crate::{Seed, control, offload, sample, slices};

fn named<T: Into<Vec<u8>>, const N: usize>(seeds: [(&str, T); N]) -> Vec<Seed> {
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect()
}

fn with(mode: u8, bytes: &[u8]) -> Vec<u8> {
    [&[mode], bytes].concat()
}

/// One of each type.
pub fn wireguard() -> Vec<Seed> {
    let (a, b) = (ReceiverIndex(0x0403_0201), ReceiverIndex(0x0807_0605));
    let mut transport = [0; 48];
    TransportHeader { receiver: a, counter: 7 }.encode(transport.first_chunk_mut().expect("48 bytes"));
    named([
        ("initiation", Initiation::encode(a, &[5; 108]).to_vec()),
        ("response", Response::encode(a, b, &[5; 48]).to_vec()),
        ("cookie", CookieReply::encode(a, &[4; 24], &[6; 32]).to_vec()),
        ("transport", transport.to_vec()),
    ])
}

fn ticket() -> [u8; TICKET_LEN] {
    let identity_hash = Ticket::hash_identity(&Identity([1; 32]));
    let not_after = sample::NOW.0 + 3600;
    let ticket = Ticket {
        kid: 1,
        rate_class: 0,
        node_no: 1,
        network_id: [1; 8],
        not_after,
        issue_nonce: 1,
        identity_hash,
    };
    ticket.mint(&Secret::from_bytes([1; 32]))
}

/// One of each kind, and a frame that begins like a ticket.
pub fn relay_frame() -> Vec<Seed> {
    let (key, ts_ms) = (Secret::from_bytes([1; 32]), 1_800_000_000_000);
    let bound = Bound {
        flags: 0,
        gen_no: 1,
        lifetime_s: 120,
        keepalive_s: 20,
        observed: "198.51.100.4:4000".parse().expect("an address"),
        rate_kbit: 0,
        burst_kb: 4000,
        features: 0,
        ts_ms,
    };
    named([
        ("data", [&DataHeader::new(Class::Bulk, 1, 2, 3).encode()[..], &[4; 40]].concat()),
        ("hello", Hello { lane: 1, ticket: ticket(), ts_ms }.encode(&key).to_vec()),
        ("cookie", Cookie { relay_no: 1, cookie: [2; 16], ts_ms }.encode(&key).to_vec()),
        ("bind", Bind { lane: 1, ticket: ticket(), ts_ms, cookie: [2; 16] }.encode(&key).to_vec()),
        ("bound", bound.encode(&key).to_vec()),
        ("keep", Keep { flags: 0, gen_no: 1, t: 2 }.encode().to_vec()),
        ("nack", Nack { code: 1, gen_no: 2, node_no: 3, retry_ms: 1000 }.encode().to_vec()),
    ])
}

/// A request of each kind, and the answer of RFC 5769 §2.2.
pub fn binding() -> Vec<Seed> {
    let ask = |change_port, response_port| Request { change_port, response_port, len: 0 }.encode([7; 12]);
    let mut answer = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    answer.extend([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
    answer.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    named([
        ("plain", ask(false, None)),
        ("change_port", ask(true, None)),
        ("response_port", ask(false, Some(4711))),
        ("answer", answer),
    ])
}

/// The sealed samples, and their bodies in the open.
pub fn probe() -> Vec<Seed> {
    let sealed = sample::probes().iter().map(|p| with(0, p));
    let names = ["sealed-ping", "sealed-pong", "sealed-call"].map(str::to_owned);
    let mut seeds: Vec<Seed> = names.into_iter().zip(sealed).collect();
    let candidate = [&[1, 200][..], &[0; 10], &[255, 255, 203, 0, 113, 7, 0, 80]].concat();
    let call = [&[1; 8][..], &[0, 0, 0, 2, 0, 2, 1, 3, 255, 255, 1], &candidate, &[1, 0, 1, 0, 30]].concat();
    seeds.extend(named([
        ("ping", with(1, &[1; 24])),
        ("pong", with(2, &[1; 100 - HEAD_LEN - MAC_LEN - 18])),
        ("call", with(3, &call)),
    ]));
    seeds
}

/// HELLO, whole and as short as it may be, OPEN and ACCEPT.
pub fn record() -> Vec<Seed> {
    let hello = InTunnelHello {
        suites: 3,
        max_lanes: 4,
        max_packet: 1360,
        manifest: Holding { epoch: 9, hash: [7; 32] },
        documents: None,
        features: 1,
    };
    let documents = Some([Holding { epoch: 3, hash: [1; 32] }, Holding::default()]);
    let holding = InTunnelHello { documents, ..hello.clone() };
    let part = Part { kind: Kind::Policy, total: 412, at: 400, bytes: vec![9; 12] };
    let offer = LaneOffer { lane: LaneNo(1), suite: Suite::Aes256Gcm, receiver: ReceiverIndex(0xa1b2_c3d4) };
    let [open, accept] = [Record::Open(offer), Record::Accept(offer)].map(|r| r.encode());
    let shortest = vec![0x10, 1, 0, 4, 0x81, 0, 1, 1, 0, 0];
    let pattern = Record::Pattern(Pattern { id: 0x0102_0304, i: 5, fill: 60 }).encode();
    let report = Record::Report(Report { id: 0x0102_0304, arrived: 0xdf }).encode();
    let bind_key = Secret::from_bytes([3; 32]);
    let grant = Grant { id: 7, ticket: [1; TICKET_LEN], bind_key, relay_unix_ms: 1_800_000_000_000 };
    named([
        ("hello", hello.encode()),
        ("shortest", shortest),
        ("open", open),
        ("accept", accept),
        ("pattern", pattern),
        ("report", report),
        ("apply", Record::Apply(7).encode()),
        ("ticket", Record::Ticket(Box::new(grant)).encode()),
        ("ask", Record::Ask(7).encode()),
        ("view", view()),
        ("hello-documents", holding.encode()),
        ("want", Record::Want(Kind::Revocations).encode()),
        ("document", Record::Document(part).encode()),
    ])
}

fn view() -> Vec<u8> {
    let addr = "198.51.100.7:41820".parse().expect("an address");
    let pair = PairView {
        kind: CandidateKind::ServerReflexive,
        addr,
        step: Step::Unanswered,
        sent: 10,
        answered: 0,
    };
    let change = |to, reason| Change { age: Duration::from_secs(9), to, reason };
    let host = HostView { translated: Some(true), mtu: Some(1500), ..HostView::default() };
    let end = End {
        host,
        relay_up: true,
        observed: Some(addr),
        clock_ahead_s: Some(-1),
        pairs: vec![pair],
        changes: vec![
            change(Some(Way::Relay(1)), Reason::RelayUp),
            change(Some(Way::Direct(addr)), Reason::Validated),
            change(None, Reason::RelayDown),
        ],
    };
    Record::View(Box::new(View { id: 7, end })).encode()
}

/// IPv4 with padding behind it, and IPv6.
pub fn ip() -> Vec<Seed> {
    let v4 = udp_v4([10, 1, 0, 1].into(), [10, 1, 0, 2].into(), (1, 2), b"payload");
    let v6 = [&[0x60, 0, 0, 0, 0, 4, 17, 64][..], &[0xfd; 32], &[1, 2, 3, 4]].concat();
    named([("v4", [&v4[..], &[0; 5]].concat()), ("v6", v6)])
}

/// Scripts for the joiner: units of each kind whole, one with a gap and a late chunk, one that is forged.
pub fn chunk() -> Vec<Seed> {
    let all = [0u8, 1, 2, 3].map(|i| [1, i]).concat();
    let unit = |kind: u8| [&[0, kind], &all[..]].concat();
    let late = [&[0, 0, 1, 0, 1, 2, 3, 0, 1, 1, 1, 3][..], &unit(2)].concat();
    let packet = udp_v4([10, 9, 0, 1].into(), [10, 1, 0, 2].into(), (1, 2), b"whoever");
    let mut plaintext = [&[0x20, 0, 0, 35, 0, 128, 0, 0][..], &packet].concat();
    plaintext.resize(48, 0);
    let forged = [&[2, 0][..], &slices(&[&plaintext])].concat();
    named([
        ("tcp4", unit(0)),
        ("tcp6", unit(1)),
        ("udp4", unit(2)),
        ("udp6", unit(3)),
        ("ordinary", unit(4)),
        ("late", late),
        ("forged", forged),
    ])
}

/// A super-packet of each kind, and an ordinary packet.
pub fn offload_split() -> Vec<Seed> {
    named([
        ("tcp4", offload::super_packet(false, true)),
        ("tcp6", offload::super_packet(true, true)),
        ("udp4", offload::super_packet(false, false)),
        ("udp6", offload::super_packet(true, false)),
        ("plain", [&[0; 10][..], &offload::sample(false, true)].concat()),
        ("partial", [&[1, 0, 0, 0, 0, 0, 20, 0, 6, 0][..], &offload::sample(false, false)].concat()),
    ])
}

/// Scripts of packets: a flow of each kind, four at once, and one with everything that ends a run.
pub fn offload_coalesce() -> Vec<Seed> {
    let start = |flow: u8, v6, tcp| with(flow << 3 | 1, &slices(&[&offload::sample(v6, tcp)]));
    let one = |v6, tcp| [start(0, v6, tcp), vec![2, 2, 3, 9, 2, 7, 2, 2]].concat();
    let kinds = [(false, true), (true, true), (false, false), (true, false)];
    let four = kinds.iter().zip(0..).flat_map(|((v6, tcp), flow)| start(flow, *v6, *tcp));
    let turns = [2, 10, 18, 26].repeat(5);
    let ends =
        [2, 4, 64, 0x18, 2, 2, 4, 64, 0x11, 2, 5, 40, 2, 4, 0, 0x10, 2, 3, 65, 2, 6, 15, 2, 2, 7, 6, 0, 2, 2];
    named([
        ("tcp4", one(false, true)),
        ("tcp6", one(true, true)),
        ("udp4", one(false, false)),
        ("udp6", one(true, false)),
        ("four", four.chain(turns).collect()),
        ("ends", [start(0, false, true), ends.to_vec()].concat()),
    ])
}

/// One of each type.
pub fn control_message() -> Vec<Seed> {
    let member = Member { online: true, bundle: vec![3; 20] };
    let welcome = Welcome {
        relay_unix_ms: 1_700_000_000_000,
        observed: "203.0.113.9:55".parse().expect("an address"),
        ticket: [4; TICKET_LEN],
        bind_key: Secret::from_bytes([5; 32]),
        relay_no: 1,
        receipt: vec![6; 10],
        genesis: vec![7; 11],
        manifest: vec![8; 12],
    };
    let messages = [
        ("join", Message::Join(vec![1; 40])),
        ("welcome", Message::Welcome(Box::new(welcome))),
        ("denied", Message::denied(DeniedCode::TokenExpired, "the token expired yesterday")),
        ("conflict", Message::Conflict(ConflictWhat::Name)),
        ("update", Message::Update(vec![9; 30])),
        ("ack", Message::Ack(12)),
        ("get-key", Message::Get(Lookup::Key(PublicKey([1; 32])))),
        ("get-name", Message::Get(Lookup::Name("web-1".into()))),
        ("get-ipv4", Message::Get(Lookup::Ipv4([10, 1, 2, 3].into()))),
        ("get-ipv6", Message::Get(Lookup::Ipv6([0xfd; 16].into()))),
        ("peer", Message::Peer(member.clone())),
        ("no-peer", Message::NoPeer),
        ("list", Message::List { after: 7, limit: 100 }),
        ("members", Message::Members { more: true, members: vec![member.clone(), member] }),
        ("ping", Message::Ping(1)),
        ("leave", Message::Leave),
        ("get_manifest", Message::GetManifest),
        ("manifest", Message::Manifest(vec![3; 300])),
        ("document", Message::Document(vec![3; 200])),
    ];
    named(messages.map(|(name, message)| (name, message.encode(77).expect("a short message"))))
}

/// Heads as nodes, relays and proxies write them.
pub fn carrier_head() -> Vec<Seed> {
    use skynet_core::carrier::http;
    use skynet_core::control::channel::Purpose;
    named([
        ("control", http::upgrade_request(Purpose::Control, "203.0.113.10:443")),
        ("frames", http::upgrade_request(Purpose::Frames, "relay.example:443")),
        ("answer", http::upgrade_answer()),
        ("connect", http::connect_request("[2001:db8::1]:443", Some("me:s3cret"))),
        ("proxy", b"HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\n\r\n".to_vec()),
        ("page", http::page(http::Status::Ok, false)),
    ])
}

/// Lists of frames.
pub fn carrier_stream() -> Vec<Seed> {
    let packed = |frames: &[&[u8]]| {
        let mut out = Vec::new();
        for frame in frames {
            out.extend_from_slice(&(frame.len() as u16).to_be_bytes());
            out.extend_from_slice(frame);
        }
        out
    };
    named([
        ("keep", packed(&[&[0xAC; 16]])),
        ("data", packed(&[&[0xA1, 1, 0, 7, 10, 77, 0, 1, 4, 0, 0, 0], &[0xA1; 40]])),
        ("hello", packed(&[&[0xA8; 96], &[0xAA; 112], &[0xAB; 64]])),
    ])
}

/// The recorded conversation, from either end, whole and begun.
pub fn control_channel() -> Vec<Seed> {
    fn pieces(mode: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![mode];
        for piece in bytes.chunks(100) {
            out.push(piece.len() as u8 - 1);
            out.extend_from_slice(piece);
        }
        out
    }
    let (mut initiator, mut responder) = control::ends();
    let first = initiator.poll_bytes().expect("an initiator speaks first");
    responder.feed(&first).expect("it is genuine");
    let second = responder.poll_bytes().expect("it is answered");
    initiator.feed(&second).expect("it is genuine");
    initiator.send(control::SAID).expect("the channel is open");
    responder.send(control::SAID).expect("the channel is open");
    let up = initiator.poll_bytes().expect("just sent");
    let down = responder.poll_bytes().expect("just sent");
    named([
        ("responder", pieces(0, &[&first[..], &up].concat())),
        ("right-mac", pieces(1, &[&first[..2 + 96], &[0; 16], &up].concat())),
        ("initiator", pieces(2, &[&second[..], &down].concat())),
        ("open-responder", pieces(3, &up)),
        ("open-initiator", pieces(4, &down)),
    ])
}

/// The sample network's documents, and their bodies for a container.
pub fn document() -> Vec<Seed> {
    let network = sample::network();
    let [delegation, certificate, binding, receipt, record] = sample::documents();
    let all = [
        ("genesis", network.genesis.bytes()),
        ("manifest", network.manifest.bytes()),
        ("delegation", delegation),
        ("certificate", certificate),
        ("binding", binding),
        ("receipt", receipt),
        ("record", record),
        ("revocations", &network.issued[0]),
        ("policy", &network.issued[1]),
        ("freshness", &network.issued[2]),
    ];
    let mut seeds = named(all.map(|(name, bytes)| (name, with(0, bytes))));
    seeds.extend(all.map(|(name, b)| (format!("{name}-body"), with(0x80 | b[0], &b[4..b.len() - 64]))));
    seeds
}

/// A question and its answer; the same over IPv6 behind an extension header.
pub fn policy() -> Vec<Seed> {
    let tcp = |from: [u8; 4], to: [u8; 4], ports| {
        let mut packet = udp_v4(from.into(), to.into(), ports, &[0; 12]);
        packet[9] = 6;
        packet
    };
    let (web, db, port) = ([10, 7, 0, 1], [10, 7, 0, 2], crate::policy::OFFERED);
    let step = |step: u8, packet: &[u8]| with(step, &slices(&[packet]));
    let talk = [step(0, &tcp(web, db, (9, port))), step(3, &tcp(db, web, (port, 9)))].concat();
    let ports = [9_u16.to_be_bytes(), port.to_be_bytes()].concat();
    let v6 = [&[0x60, 0, 0, 0, 0, 24, 0, 64][..], &[0xfd; 32], &[6, 0, 0, 0, 0, 0, 0, 0], &ports, &[0; 12]]
        .concat();
    named([("talk", talk), ("v6", step(0, &v6))])
}

/// With a record, and without.
pub fn bundle() -> Vec<Seed> {
    let whole = sample::network().credentials.bundle();
    named([("whole", whole.encode()), ("no-record", Bundle { record: None, ..whole.clone() }.encode())])
}

/// Changes that leave a member, one in each document.
pub fn chain() -> Vec<Seed> {
    let edit = |document: u8, tag: u8, operation: u8, value: &[u8]| {
        [&[document, tag, operation][..], &slices(&[value])].concat()
    };
    let script = |edits: &[Vec<u8>]| [&[0, 1], edits.concat().as_slice()].concat();
    let session_key = [edit(2, 0x83, 0, &[5; 32]), edit(3, 0x83, 0, &[5; 32])];
    let renamed = [edit(1, 0x85, 0, b"web-2"), edit(3, 0x84, 0, b"web-2")];
    named([
        ("unchanged", script(&[])),
        ("session-key", script(&session_key)),
        ("other-name", script(&renamed)),
        ("later-receipt", script(&[edit(3, 0x89, 2, &[0xff])])),
        ("no-relays", script(&[edit(4, 0x06, 1, &[])])),
        ("unknown-field", script(&[edit(0, 0x7f, 0, b"new"), edit(2, 0x84, 2, &[1])])),
    ])
}

/// As text, and as the bytes behind the text; with one relay, and with none.
pub fn token() -> Vec<Seed> {
    let network = sample::network();
    let delegation = Signed::parse(sample::documents()[0]).expect("a sample");
    let lone = JoinToken::new(network.genesis.root_pin(), network.token_key.seed(), vec![], delegation);
    let texts = [&network.token, &lone].map(|token| token.encode().to_string());
    let [bytes, lone] = texts.clone().map(|text| {
        let bytes = BASE64URL_NOPAD.decode(text.trim_start_matches(PREFIX).as_bytes()).expect("just encoded");
        with(1, &bytes[..bytes.len() - 8])
    });
    named([("text", with(0, texts[0].as_bytes())), ("bytes", bytes), ("no-relay", lone)])
}

/// The sample's relay invited to its own network.
pub fn invitation() -> Vec<Seed> {
    let trust = sample::network().credentials.trust().clone();
    let cluster_key = Secret::from_bytes([1; 32]);
    let invitation = Invitation { relay_key: sample::relay_secret(), cluster_key, trust, relay_no: 1 };
    let text = invitation.encode();
    let bytes = BASE64URL_NOPAD.decode(&text.as_bytes()["ski1.".len()..]).expect("just encoded");
    named([("text", with(0, text.as_bytes())), ("bytes", with(1, &bytes[..bytes.len() - 8]))])
}

/// Both members of the sample.
pub fn kept_members() -> Vec<Seed> {
    let network = sample::network();
    let bundles = [network.credentials.bundle(), &network.other].map(Bundle::encode);
    named([("two", with(1, &slices(&[&bundles[0], &bundles[1]]))), ("one", with(1, &slices(&[&bundles[1]])))])
}

/// The file of the sample's member, and its inside.
pub fn credentials() -> Vec<Seed> {
    let file = sample::network().credentials.encode();
    let inside = &file[b"skynet credentials".len() + 1..file.len() - 32];
    // Between two session keys, on both sides of the change.
    let mut changing = sample::network().credentials.clone();
    changing.prepare_key(86_400, sample::NOW, &mut Rng::from_seed([5; 32])).expect("within limits");
    let half_way = changing.encode();
    named([("file", with(0, &file)), ("inside", with(1, inside)), ("changing", with(0, &half_way))])
}

/// Scripts for a node: they speak, lose, wait out a rekey, roam, and come under load.
pub fn node() -> Vec<Seed> {
    let to_peer = |text: &[u8]| with(3, &slices(&[text]));
    let from_peer = |text: &[u8]| [&with(5, &slices(&[text]))[..], &[0]].concat();
    let (carry, advance) = (|n: u8| vec![6, n], |s: u8| vec![11, s]);
    let talk = [to_peer(b"one"), carry(20), from_peer(b"two"), carry(20)].concat();
    let initiation = slices(&[&Initiation::encode(ReceiverIndex(1), &[7; 108])[..116]]);
    let rekey = [talk.clone(), advance(130), from_peer(b"late"), carry(20), advance(200), talk.clone()];
    let disorder = [talk.clone(), from_peer(b"a"), from_peer(b"b"), vec![9, 8, 7], carry(9), vec![14, 2, 1]];
    let roam = [talk.clone(), vec![12, 2], from_peer(b"moved"), carry(9), to_peer(b"there?"), carry(9)];
    let hostile = [
        talk.clone(),
        with(0, &slices(&[&[4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]])),
        with(1, &initiation),
        vec![2, 0, 0, 9, 1, 2, 1, 0, 70, 128],
        with(13, &initiation),
        talk.clone(),
    ];
    let forged = [talk.clone(), with(5, &slices(&[b"not mine"])), vec![77], carry(9), talk.clone()];
    let commands = [talk.clone(), vec![15, 0, 15, 1, 15, 2, 15, 3], advance(6), talk.clone(), vec![10, 9, 9]];
    named([
        ("talk", talk.clone()),
        ("rekey", rekey.concat()),
        ("disorder", disorder.concat()),
        ("roam", roam.concat()),
        ("hostile", hostile.concat()),
        ("forged-source", forged.concat()),
        ("commands", commands.concat()),
    ])
}

/// Scripts for a pair: it talks, is raced, is sent old and changed probes, is cut off, meets somebody in the middle.
pub fn path() -> Vec<Seed> {
    let talk = [0, 0, 0, 1, 3, 0, 3, 0, 3, 0, 1, 20, 3, 0, 3, 0, 3, 0, 3, 0].to_vec();
    let raced = [&talk[..], &[0, 0, 1, 30, 5, 0, 9, 0, 5, 3, 9, 3, 3, 0, 9, 0, 3, 0, 2, 10]].concat();
    let old =
        [&talk[..], &[6, 0, 0, 6, 1, 1, 6, 2, 2, 6, 3, 0, 8, 0, 8, 1, 7, 0, 0, 9, 7, 1, 1, 200]].concat();
    let cut = [&talk[..], &[0, 0, 0, 1, 2, 15, 4, 0, 4, 0, 4, 0, 2, 60, 0, 0, 2, 250]].concat();
    let middle = [&[0, 0, 0, 1][..], &[5, 2, 9, 2, 9, 0, 5, 2, 9, 2].repeat(4), &talk].concat();
    named([("talk", talk), ("raced", raced), ("old", old), ("cut", cut), ("middle", middle)])
}

/// Scripts for a relay: two bind and talk, one moves, one is a stranger, one is silent for too long.
pub fn relay_forwarder() -> Vec<Seed> {
    let bind = |who: u8, from: u8| vec![1, who, from, 0, 0, 2, who, from, 1, 0];
    let data =
        |who: u8, from: u8, to: u8| [&[3, who, from, 0, to, 0][..], &slices(&[b"\x04\0\0\0 data"])].concat();
    let both = [bind(0, 0), bind(1, 2), data(0, 0, 2), data(1, 2, 1)].concat();
    let moved = [both.clone(), vec![7, 0, 0, 60], bind(0, 1), data(1, 2, 1), data(0, 1, 2)].concat();
    let rebound = [both.clone(), vec![7, 0, 0, 60], bind(1, 2 | 4), data(0, 0, 2), data(1, 2, 1)].concat();
    let stranger = [both.clone(), bind(2, 3), data(2, 3, 1), data(2, 3, 2), data(0, 0, 3)].concat();
    let silent = [both.clone(), vec![4, 0, 0, 7, 0, 0, 130], data(0, 0, 2)].concat();
    let raw =
        [both.clone(), [&[0, 0, 3][..], &slices(&[&stun_request()])].concat(), vec![5, 0, 3, 1, 7]].concat();
    let made = [both.clone(), [&[6, 0, 0][..], &slices(&[&hello_shape()])].concat()].concat();
    named([
        ("both", both),
        ("moved", moved),
        ("rebound", rebound),
        ("stranger", stranger),
        ("silent", silent),
        ("raw", raw),
        ("made", made),
    ])
}

/// A STUN binding request (RFC 8489 §5).
fn stun_request() -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[9; 12]].concat()
}

/// A HELLO without ticket and MAC.
fn hello_shape() -> Vec<u8> {
    [&[relay::HELLO, 1, 0, 0][..], &[0; relay::HELLO_LEN - 4]].concat()
}

/// Scripts for a hostile relay: it tells the truth, then other things; it goes away; it binds.
pub fn hostile_relay() -> Vec<Seed> {
    let (welcome, member, packet) = (vec![1], vec![2, 0x24, 0, 0, 0], vec![9, 0]);
    let met = [welcome.clone(), member.clone(), packet.clone()].concat();
    let frame = |bytes: &[u8]| with(6, &slices(&[bytes]));
    let cookie = [&[relay::COOKIE, 1, 0, 1][..], &[2; 16], &[0; 28]].concat();
    let lies = [met.clone(), vec![2, 0x24, 1, 0, 9, 2, 0x26, 0, 0, 0, 2, 8, 0, 0, 0, 2, 0x8c, 0, 0, 0]];
    let away = [met.clone(), vec![11], vec![8, 0, 90], welcome.clone(), vec![8, 3, 0], welcome.clone()];
    let bound = [met.clone(), frame(&cookie), vec![7, 1, 0], frame(&[relay::KEEP; 16]), vec![8, 0, 60]];
    let datagrams = [met.clone(), [&[5, 0][..], &slices(&[&[1; 148]])].concat(), vec![8, 0, 20], packet];
    named([
        ("met", met),
        ("lies", lies.concat()),
        ("away", away.concat()),
        ("bound", bound.concat()),
        ("datagrams", datagrams.concat()),
    ])
}

/// Nothing happened, and a byte that matters to nobody.
pub fn store() -> Vec<Seed> {
    named([("sound", vec![0, 0]), ("same-byte", vec![0, 0, 0, 0, 0, 0, 1, b'r'])])
}

/// As a cloud hands them over.
pub fn user_data() -> Vec<Seed> {
    const SETTINGS: &str = "token = \"skj1.x\"\nroles = [\"worker\"]\n";
    named([
        ("whole", format!("#skynet\n{SETTINGS}")),
        ("cloud_config", "#cloud-config\nskynet: |\n  token = \"skj1.x\"\npackages: [mpi]\n".to_owned()),
        ("script", "#!/bin/sh\n#skynet: token = \"skj1.x\"\necho hello\n".to_owned()),
        (
            "parts",
            "--b\r\nContent-Type: text/cloud-config\r\n\r\nskynet: |\r\n token = 1\r\n--b--\r\n".to_owned(),
        ),
    ])
}

/// Queries as programs send them (RFC 1035 §4.1): header, name, type and class; one with EDNS.
pub fn dns() -> Vec<Seed> {
    let query = |labels: &[&str], kind: u8, additional: u8| {
        let mut out = vec![0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional];
        for label in labels {
            out.push(u8::try_from(label.len()).expect("a short label"));
            out.extend(label.as_bytes());
        }
        out.extend([0, 0, kind, 0, 1]);
        out
    };
    let mut edns = query(&["head", "lab", "internal"], 28, 1);
    edns.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    named([
        ("a", query(&["w-1", "lab", "internal"], 1, 0)),
        ("aaaa_edns", edns),
        ("ptr", query(&["2", "1", "44", "10", "in-addr", "arpa"], 12, 0)),
        ("soa", query(&["lab", "internal"], 6, 0)),
    ])
}
