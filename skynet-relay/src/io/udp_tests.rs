use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::server::Local;

/// Forwards everything there is at once, by `way`; how many datagrams the kernel refused.
fn forward(
    relay: &UdpSocket,
    batch: &mut Batch,
    way: impl Fn(&[u8], Train) -> (Local, SocketAddr),
) -> (usize, u64) {
    let mut datagrams = 0;
    for slot in 0..relay.receive(batch).unwrap() {
        let train = batch.train(slot).unwrap();
        for at in train.datagrams() {
            let (local, to) = way(batch.datagram_mut(slot, at.clone()), train);
            assert!(batch.push(slot, at, local, to));
            datagrams += 1;
        }
    }
    (datagrams, relay.send(batch))
}

fn client() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn a_socket_nobody_reads_counts_what_it_throws_away() {
    let relay = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (to, client) = (relay.local_addr().unwrap(), client());
    assert_eq!(relay.overflowed().unwrap(), 0);
    for _ in 0..100_000 {
        client.send_to(&[0; 1_000], to).unwrap();
        if relay.overflowed().unwrap() > 0 {
            return;
        }
    }
    panic!("100 MB are in a socket");
}

#[test]
fn datagrams_go_out_from_where_they_came_in_each_to_its_own() {
    let relay = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let to = relay.local_addr().unwrap();
    let [a, b, c] = [client(), client(), client()];
    for i in 0..20u8 {
        let len = if i < 10 { 100 + usize::from(i) } else { 200 };
        a.send_to(&vec![i; len], to).unwrap();
    }
    let (mut batch, mut got) = (Batch::new(), 0);
    while got < 20 {
        let (n, refused) = forward(&relay, &mut batch, |bytes, train| {
            assert_eq!((train.local, train.from), (Local::ANY, a.local_addr().unwrap()));
            let target = if bytes[0] % 2 == 0 { &b } else { &c };
            (Local::ANY, target.local_addr().unwrap())
        });
        assert_eq!(refused, 0);
        got += n;
    }
    let mut buffer = [0; 300];
    for (socket, odd) in [(&b, 0), (&c, 1)] {
        for i in 0..10u8 {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let number = 2 * i + odd;
            let expected = if number < 10 { 100 + usize::from(number) } else { 200 };
            assert_eq!((buffer[0], len, from), (number, expected, to), "in order");
        }
    }
}

#[test]
fn a_train_comes_and_leaves_whole_and_its_bytes_stay_as_they_are() {
    let relay = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let [sender, receiver] = ["127.0.0.1:0"; 2].map(|a| UdpSocket::bind(a.parse().unwrap()).unwrap());
    let mut batch = Batch::new();
    let bytes: Vec<u8> = (0..40 * 1_000 + 7).map(|i| (i / 250) as u8).collect();
    let at = 0..bytes.len();
    batch.datagram_mut(0, at).copy_from_slice(&bytes);
    let to = relay.local_addr().unwrap();
    let train = Train::new(Local::ANY, to, bytes.len(), Some(1_000));
    train.datagrams().for_each(|at| assert!(batch.push(0, at, Local::ANY, to)));
    assert_eq!((batch.runs().len(), sender.send(&mut batch)), (1, 0));
    // Loopback hands a train over as it is, to a socket that takes trains.
    let target = receiver.local_addr().unwrap();
    assert_eq!(forward(&relay, &mut batch, |_, _| (Local::ANY, target)), (41, 0));
    assert_eq!(receiver.receive(&mut batch).unwrap(), 1);
    let train = batch.train(0).unwrap();
    assert_eq!((train.from, train.datagrams().count()), (to, 41));
    assert_eq!(batch.datagram_mut(0, 0..bytes.len()), bytes);
}

#[test]
fn a_run_that_is_refused_leaves_datagram_by_datagram_and_only_proof_ends_trains() {
    let relay = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = client();
    let to = target.local_addr().unwrap();
    let mut batch = Batch::new();
    for slot in 0..3 {
        assert!(batch.push(slot, 0..100, Local::ANY, to));
    }
    let run = batch.runs()[0].clone();
    assert_eq!((run.datagrams, relay.send_one_by_one(&batch, &run)), (3, 0));
    for _ in 0..3 {
        assert_eq!(target.recv(&mut [0; 200]).unwrap(), 100);
    }
    batch.clear_runs();
    // From an address this host does not have a train is refused, and so is each of its datagrams.
    for slot in 0..2 {
        assert!(batch.push(slot, 0..100, Local(IpAddr::from([203, 0, 113, 9])), to));
    }
    assert_eq!(relay.send(&mut batch), 2, "no such source");
    assert!(batch.joins, "trains were not to blame");
}

#[test]
fn a_source_the_host_no_longer_has_costs_only_its_own_datagram() {
    for (listen, gone) in [("0.0.0.0:0", "203.0.113.9"), ("[::]:0", "203.0.113.9"), ("[::]:0", "2001:db8::9")]
    {
        let relay = UdpSocket::bind(listen.parse().unwrap()).unwrap();
        let port = relay.local_addr().unwrap().port();
        let host = if gone.contains(':') { "::1" } else { "127.0.0.1" };
        let client = std::net::UdpSocket::bind((host, 0)).unwrap();
        for i in 0..4u8 {
            client.send_to(&[i], (host, port)).unwrap();
        }
        let mut batch = Batch::new();
        let done = forward(&relay, &mut batch, |bytes, train| {
            let local = if bytes[0] % 2 == 0 { Local(gone.parse().unwrap()) } else { train.local };
            (local, train.from)
        });
        assert_eq!(done, (4, 2), "{gone} on {listen}");
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 9];
        for expected in [1, 3] {
            client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[0], expected);
        }
    }
}

#[test]
fn an_ipv6_socket_serves_both_families() {
    let relay = UdpSocket::bind("[::]:0".parse().unwrap()).unwrap();
    let port = relay.local_addr().unwrap().port();
    let client = client();
    client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
    let mut batch = Batch::new();
    let done = forward(&relay, &mut batch, |_, train| {
        assert_eq!(train.local, Local(Ipv4Addr::LOCALHOST.into()));
        (train.local, SocketAddr::new(train.from.ip().to_canonical(), train.from.port()))
    });
    assert_eq!(done, (1, 0));
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
}
