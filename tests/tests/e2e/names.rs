//! Names in DNS: the agent's own resolver, asked as any program asks it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use skynet_tests::fleet::{Agent, Binaries, Extra, Relay};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::JOIN;

/// An answer changes within a second of a join or a departure; three times that.
const CHANGE: Duration = Duration::from_secs(3);
/// What an answer may be longer than its query (docs/NAMES.md).
const MAX_GROWTH: usize = 192;

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A socket on `from`'s host for questions to a server.
fn socket(from: &Agent, server: SocketAddr) -> UdpSocket {
    let connected = from.namespace().run(|| {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    });
    connected.unwrap()
}

/// Code and records of the answer by UDP.
fn ask(socket: &UdpSocket, name: &str, kind: RecordType) -> anyhow::Result<(ResponseCode, Vec<String>)> {
    socket.send(&query(name, kind))?;
    let mut buffer = [0; 2_048];
    let len = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..len])?;
    Ok((answer.metadata.response_code, answer.answers.iter().map(|r| r.data.to_string()).collect()))
}

fn found(records: &[String]) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, records.to_vec())
}

fn reverse(address: &str) -> String {
    Name::from(address.parse::<IpAddr>().unwrap()).to_ascii()
}

/// What `status` says of names.
fn told(agent: &Agent) -> serde_json::Value {
    let status = agent.command(&["status", "--json"]).unwrap();
    serde_json::from_str::<serde_json::Value>(&status.stdout).unwrap()["names"].clone()
}

fn by_tcp(agent: &Agent, server: SocketAddr, queries: &[Vec<u8>]) -> Vec<Message> {
    let answers = agent.namespace().run(|| {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut answers = Vec::new();
        for query in queries {
            let length = u16::try_from(query.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], query].concat()).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).unwrap();
            answers.push(Message::from_vec(&answer).unwrap());
        }
        answers
    });
    answers.unwrap()
}

/// Cut and flipped queries: the server lives, and what it sends is bounded by what it was sent.
fn bears_hostile_queries(socket: &UdpSocket, good: &[u8]) {
    socket.set_nonblocking(true).unwrap();
    let (mut sent, mut received, mut answers, mut buffer) = (0, 0, 0, [0; 2_048]);
    let flipped = (0..good.len() * 8).map(|bit| {
        let mut flipped = good.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    });
    for bytes in (0..good.len()).map(|cut| good[..cut].to_vec()).chain(flipped) {
        sent += bytes.len();
        let _ = socket.send(&bytes);
        std::thread::sleep(Duration::from_millis(1));
        while let Ok(len) = socket.recv(&mut buffer) {
            (received, answers) = (received + len, answers + 1);
            assert!(len <= good.len() + MAX_GROWTH, "{len}");
        }
    }
    println!("hostile: {sent} bytes in, {answers} answers, {received} bytes out");
    assert!(answers > 0 && received <= sent + answers * MAX_GROWTH);
    socket.set_nonblocking(false).unwrap();
}

/// As many queries as a program can send in a second, of which only so many are answered.
fn bears_a_flood(socket: &UdpSocket, query: &[u8]) {
    let mut drain = [0; 512];
    socket.set_nonblocking(true).unwrap();
    let (start, mut sent, mut answered) = (clock::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(1) {
        sent += u32::from(socket.send(query).is_ok());
        while socket.recv(&mut drain).is_ok() {
            answered += 1;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    while socket.recv(&mut drain).is_ok() {
        answered += 1;
    }
    socket.set_nonblocking(false).unwrap();
    println!("flood: {sent} queries in a second, {answered} answers within 1.5 s");
    assert!(sent > 10_000 && (1..=4_000).contains(&answered), "{sent} {answered}");
}

#[test]
fn members_are_found_by_name_and_by_address_until_they_leave() {
    let lab = Lab::builder("names")
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .cloud("b", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    let resolv_conf = std::fs::read("/etc/resolv.conf").ok();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let arguments = vec!["--dns".to_owned(), "on".to_owned()];
    let extra = Extra { arguments, ..Extra::default() };
    let mut head = Agent::start_with(&lab, "a1", &binaries, relay.token(), &extra).unwrap();
    let other = Agent::start(&lab, "a2", &binaries, relay.token()).unwrap();
    head.wait_joined(JOIN).unwrap();
    other.wait_joined(JOIN).unwrap();
    assert!(told(&other).is_null(), "no resolver where nobody wants one: {}", told(&other));

    let names = told(&head);
    let domain = names["domain"].as_str().unwrap().to_owned();
    let at: Vec<SocketAddr> = names["dns"]["listening"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap().parse().unwrap())
        .collect();
    let [v4, v6] = at[..] else { panic!("{names}") };
    assert_eq!((v4.port(), v6.port()), (53, 53));
    let dns = socket(&head, v4);
    let full = |name: &str| format!("{name}.{domain}.");
    assert_eq!(ask(&dns, &full("a1"), RecordType::A).unwrap(), found(&[v4.ip().to_string()]));
    assert_eq!(
        ask(&socket(&head, v6), &full("A1"), RecordType::AAAA).unwrap(),
        found(&[v6.ip().to_string()])
    );
    assert_eq!(ask(&dns, &reverse(&v6.ip().to_string()), RecordType::PTR).unwrap(), found(&[full("a1")]));
    assert_eq!(ask(&dns, &full("b1"), RecordType::A).unwrap().0, ResponseCode::NXDomain);
    assert_eq!(ask(&dns, "example.org.", RecordType::A).unwrap().0, ResponseCode::Refused);

    // One comes and goes.
    let ephemeral = relay.create_token(&["--token-ephemeral"]).unwrap();
    let guest = Agent::start(&lab, "b1", &binaries, &ephemeral).unwrap();
    guest.wait_joined(JOIN).unwrap();
    let joined = clock::now();
    let address = guest.overlay_address().unwrap().to_string();
    let wait_told = |what: &str, name: &str, kind, expected: (ResponseCode, Vec<String>)| {
        wait_for(CHANGE, what, || {
            let told = ask(&dns, name, kind)?;
            anyhow::ensure!(told == expected, "{told:?}");
            Ok(())
        })
        .unwrap();
    };
    wait_told("the newcomer's address", &full("b1"), RecordType::A, found(std::slice::from_ref(&address)));
    println!("a newcomer's name is told {:.2?} after it has joined", joined.elapsed());
    wait_told("the newcomer's name", &reverse(&address), RecordType::PTR, found(&[full("b1")]));
    let queries = [query(&full("b1"), RecordType::A), query(&full("a2"), RecordType::A)];
    let answers = by_tcp(&head, v4, &queries);
    assert_eq!(answers[0].answers[0].data.to_string(), address);
    assert_eq!(answers[1].answers[0].data.to_string(), other.overlay_address().unwrap().to_string());
    assert_eq!(guest.command(&["down"]).unwrap().code, Some(0));
    let left = clock::now();
    let nothing = || (ResponseCode::NXDomain, vec![]);
    wait_told("the end of its name", &full("b1"), RecordType::A, nothing());
    println!("and is gone {:.2?} after it has left", left.elapsed());
    wait_told("the end of its address", &reverse(&address), RecordType::PTR, nothing());

    // Others are not served, and nobody makes it say much or fall.
    let stranger = socket(&other, v4);
    stranger.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(ask(&stranger, &full("a1"), RecordType::A).is_err(), "another machine got an answer");
    bears_hostile_queries(&dns, &query(&full("a2"), RecordType::A));
    bears_a_flood(&socket(&head, v4), &query(&full("a2"), RecordType::A));
    let asked = clock::now();
    assert_eq!(ask(&socket(&head, v6), &full("a2"), RecordType::A).unwrap().0, ResponseCode::NoError);
    println!("the other address answers after {:.1?}", asked.elapsed());
    let id = head.id();
    assert_eq!(ask(&socket(&head, v4), &full("a1"), RecordType::A).unwrap(), found(&[v4.ip().to_string()]));
    let names = told(&head);
    assert!(names["dns"]["dropped"].as_u64().unwrap() > 0 && head.id() == id, "{names}");
    println!("{names}");

    // Nothing to be restored: what a killed one leaves is nothing.
    head.kill().unwrap();
    head.restart().unwrap();
    head.wait_joined(JOIN).unwrap();
    assert_eq!(ask(&socket(&head, v4), &full("a2"), RecordType::A).unwrap().0, ResponseCode::NoError);
    assert_eq!(std::fs::read("/etc/resolv.conf").ok(), resolv_conf);
    drop((guest, other, head, relay));
    lab.remove().unwrap();
}
