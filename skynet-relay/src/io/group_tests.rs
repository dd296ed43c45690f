use std::collections::BTreeMap;
use std::net::UdpSocket as Client;
use std::os::fd::AsRawFd as _;

use skynet_core::wire::relay::{Bind, Class, DataHeader, Hello, Keep, TICKET_LEN};

use super::super::udp::Batch;
use super::*;

fn client(ip: &str) -> Client {
    Client::bind((ip, 0)).unwrap()
}

/// Everything that is there now, by socket (control, bulk): first byte and source port of each datagram, in order.
fn take(sockets: &ThreadSockets) -> [Vec<(u8, u16)>; 2] {
    let (mut batch, mut taken) = (Batch::new(), [Vec::new(), Vec::new()]);
    for (socket, taken) in [sockets.control.as_ref(), Some(&sockets.bulk)].into_iter().zip(&mut taken) {
        let Some(socket) = socket else { continue };
        while socket.receive_now(&mut batch).unwrap() > 0 {
            for slot in 0..batch.received {
                // A datagram without a byte is nothing.
                let Some(train) = batch.train(slot) else { continue };
                for at in train.datagrams() {
                    taken.push((batch.datagram_mut(slot, at)[0], train.from.port()));
                }
            }
        }
    }
    taken
}

fn keep() -> Vec<u8> {
    Keep { flags: 0, gen_no: 7, t: 1 }.encode().to_vec()
}

fn data(class: Class, len: usize) -> Vec<u8> {
    let mut frame = DataHeader::new(class, 3, 7, 9).encode().to_vec();
    frame.resize(len, 4);
    frame
}

/// What sessions live by, each as it is on the wire.
fn control() -> Vec<Vec<u8>> {
    let key = skynet_core::key::Secret::from_bytes([1; 32]);
    let ticket = [0; TICKET_LEN];
    let mut stun = vec![0; 28];
    stun[..8].copy_from_slice(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]);
    vec![
        Hello { lane: 0, ticket, ts_ms: 1 }.encode(&key).to_vec(),
        Bind { lane: 0, ticket, ts_ms: 1, cookie: [0; 16] }.encode(&key).to_vec(),
        keep(),
        stun,
        data(Class::Control, 9 + 108),
        data(Class::Control, 1_500),
    ]
}

fn bulk() -> Vec<Vec<u8>> {
    let long_probe = data(Class::Control, 1_501);
    let mut bulk = vec![data(Class::Bulk, 17), data(Class::Normal, 1_400), long_probe, vec![0xff; 100]];
    bulk.extend([vec![], vec![0], vec![0xa8; 15], vec![0xa1, 2]]);
    bulk
}

#[test]
fn threads_share_one_port_by_client_and_nobody_elses_port_is_taken() {
    for (listen, ip) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let (threads, steered) = ThreadSockets::bind(listen.parse().unwrap(), 3).unwrap();
        steered.unwrap();
        let addr = threads[0].bulk().local_addr().unwrap();
        let again = ThreadSockets::bind(addr, 2).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let clients: Vec<_> = (0..64).map(|_| client(ip)).collect();
        for frame in [data(Class::Bulk, 100), keep(), data(Class::Normal, 1_000), keep()] {
            for client in &clients {
                client.send_to(&frame, (ip, addr.port())).unwrap();
            }
        }
        let (mut total, mut sizes) = (0, Vec::new());
        for thread in &threads {
            let mut seen: BTreeMap<u16, [usize; 2]> = BTreeMap::new();
            for (socket, taken) in take(thread).into_iter().enumerate() {
                taken.iter().for_each(|(_, port)| seen.entry(*port).or_default()[socket] += 1);
            }
            assert!(seen.values().all(|n| *n == [2, 2]), "all of a client come to one thread: {seen:?}");
            total += seen.len();
            sizes.push(seen.len());
        }
        assert_eq!(total, 64);
        assert!(sizes.iter().all(|n| *n > 5), "{sizes:?} at {listen} from {ip}");
    }
}

#[test]
fn each_kind_comes_to_its_socket_and_control_is_named_first() {
    for (listen, ip) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let (threads, _) = ThreadSockets::bind(listen.parse().unwrap(), 1).unwrap();
        let port = threads[0].bulk().local_addr().unwrap().port();
        let client = client(ip);
        for frame in bulk().iter().chain(&control()) {
            client.send_to(frame, (ip, port)).unwrap();
        }
        let ready = threads[0].wait().unwrap().map(|socket| socket.map(UdpSocket::as_raw_fd));
        let sockets = [threads[0].control.as_ref(), Some(&threads[0].bulk)];
        assert_eq!(ready, sockets.map(|socket| socket.map(UdpSocket::as_raw_fd)));
        let kinds = take(&threads[0]).map(|taken| taken.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
        let sent = [control(), bulk()];
        let sent = sent.map(|frames| frames.iter().filter_map(|f| f.first().copied()).collect::<Vec<_>>());
        assert_eq!(kinds, sent, "from {ip} at {listen}");
    }
}

#[test]
fn a_train_comes_whole_whatever_its_first_datagram_is() {
    let (threads, _) = ThreadSockets::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let (to, local) = (threads[0].bulk().local_addr().unwrap(), crate::server::Local::ANY);
    let sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut batch = Batch::new();
    for first in [Class::Bulk, Class::Control] {
        for (i, class) in [first, Class::Bulk, Class::Bulk].into_iter().enumerate() {
            let at = i * 1_000..(i + 1) * 1_000;
            batch.datagram_mut(0, at.clone()).copy_from_slice(&data(class, 1_000));
            assert!(batch.push(0, at, local, to));
        }
        assert_eq!((batch.runs().len(), sender.send(&mut batch)), (1, 0));
    }
    let thread = threads.iter().find(|thread| thread.bulk.receive_now(&mut batch).unwrap() > 0).unwrap();
    let trains: Vec<_> =
        (0..batch.received).map(|slot| batch.train(slot).unwrap().datagrams().count()).collect();
    assert_eq!(trains, [3, 3]);
    assert_eq!(take(thread), [vec![], vec![]]);
}

/// How many of a hundred KEEPs arrive, and how many datagrams are lost, if bulk comes and nobody reads.
fn keeps_in_a_flood(thread: &ThreadSockets) -> (usize, [u32; 2]) {
    let to = thread.bulk().local_addr().unwrap();
    let (hog, others) = (client("127.0.0.1"), [(); 10].map(|()| client("127.0.0.1")));
    let frame = data(Class::Bulk, 1_400);
    for _ in 0..100_000 {
        hog.send_to(&frame, to).unwrap();
        if thread.overflowed().unwrap()[0] > 0 {
            break;
        }
    }
    for _ in 0..10 {
        for other in &others {
            (0..100).for_each(|_| assert_eq!(hog.send_to(&frame, to).unwrap(), 1_400));
            other.send_to(&keep(), to).unwrap();
        }
    }
    let lost = thread.overflowed().unwrap();
    (take(thread).into_iter().flatten().filter(|(kind, _)| *kind == 0xac).count(), lost)
}

#[test]
fn no_control_is_lost_in_a_flood_of_bulk_that_nobody_reads() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let (threads, steered) = ThreadSockets::bind(listen, 1).unwrap();
    steered.unwrap();
    let (arrived, lost) = keeps_in_a_flood(&threads[0]);
    // What it is without: a thread has one socket where the kernel refuses.
    let one = ThreadSockets::pair(ThreadSockets::bind_bulk(listen, 1).unwrap(), Vec::new()).unwrap();
    let (together, lost_together) = keeps_in_a_flood(&one[0]);
    println!("of 100 KEEPs {arrived} arrive, in one socket {together}; lost {lost:?}, {lost_together:?}");
    assert!(lost[0] >= 10_000 && lost_together[0] >= 10_000, "no flood: {lost:?}, {lost_together:?}");
    assert_eq!((arrived, lost[1]), (100, 0));
    assert!(together < 10, "the flood would have done no harm");
}
