use super::*;

fn wait_readable(socket: &UdpSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(2000u16)).unwrap(), 1, "nothing arrived within 2 s");
}

/// Receives `count` datagrams, each with its sender.
fn receive(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = ReceiveBatch::new();
    let mut out = Vec::new();
    while out.len() < count {
        wait_readable(socket);
        socket.receive_batch(&mut batch).unwrap();
        for mut received in batch.iter_mut() {
            let from = received.from;
            out.extend(segments_mut(&mut received).map(|s| (from, s.to_vec())));
        }
    }
    out
}

fn loopback(socket: &UdpSocket) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, socket.port().unwrap()))
}

#[test]
fn a_train_arrives_as_its_datagrams_in_order() {
    let (a, b) =
        (UdpSocket::bind(0, UdpOffloads::ALL).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    // More than one sendmsg: 100 full segments and a short one.
    let train: Vec<u8> = (0..100 * 1200 + 7).map(|i| (i / 1200) as u8).collect();
    a.send_train(loopback(&b), None, 0, &train, 1200).unwrap();
    let got = receive(&b, 101);
    assert_eq!(got.len(), 101);
    for (i, (from, datagram)) in got.iter().enumerate() {
        assert_eq!(*from, loopback(&a), "v4-mapped senders are reported as IPv4");
        assert_eq!(datagram.len(), if i == 100 { 7 } else { 1200 });
        assert!(datagram.iter().all(|b| *b == i as u8));
    }
    assert!(a.offloads().gso);
    assert_eq!(a.dropped(), 0);
}

#[test]
fn trains_arrive_also_without_segmentation() {
    let off = UdpOffloads { gso: false, gro: true };
    let (a, b) = (UdpSocket::bind(0, off).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    a.send_train(loopback(&b), None, 0, &[5; 2500], 1000).unwrap();
    let lengths: Vec<_> = receive(&b, 3).iter().map(|(_, d)| d.len()).collect();
    assert_eq!(lengths, [1000, 1000, 500]);
}

#[test]
fn a_kernel_that_refuses_the_train_gets_its_datagrams() {
    let (a, b) =
        (UdpSocket::bind(0, UdpOffloads::ALL).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    // Linux answers UDP_SEGMENT with EINVAL on a socket that leaves out checksums, and sends everything else.
    sys::set_option(a.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let train: Vec<u8> = (0..130 * 1000 + 7).map(|i| (i / 1000) as u8).collect();
    a.send_train(loopback(&b), None, 0, &train, 1000).unwrap();
    let got: Vec<u8> = receive(&b, 131).into_iter().flat_map(|(_, datagram)| datagram).collect();
    assert_eq!(got, train);
    assert_eq!((a.offloads().gso, a.refused_trains(), a.dropped()), (false, 1, 0));
}

#[test]
fn segments_above_the_mtu_do_not_turn_segmentation_off() {
    let (a, b) =
        (UdpSocket::bind(0, UdpOffloads::ALL).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    // 65,508 and more cannot be a datagram at all, whatever the MTU of loopback.
    assert!(a.send_train(loopback(&b), None, 0, &[0; 131_200], 65_600).is_err());
    assert!(a.offloads().gso);
    assert_eq!(a.dropped(), 2);
}

#[test]
fn ipv6_works_where_the_machine_has_it() {
    let (a, b) =
        (UdpSocket::bind(0, UdpOffloads::ALL).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    if !a.is_dual_stack() {
        return;
    }
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, b.port().unwrap()));
    if a.send_one(to, None, b"six", None).is_err() {
        return; // no ::1 here
    }
    let (from, datagram) = receive(&b, 1).remove(0);
    assert_eq!(datagram, b"six");
    assert!(from.is_ipv6());
    a.send_one(to, None, b"near", Some(1)).unwrap();
    assert_eq!(receive(&b, 1)[0].1, b"near");
}

#[test]
fn a_datagram_leaves_with_the_ttl_asked_for() {
    let sender = UdpSocket::bind(0, UdpOffloads::ALL).unwrap();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sys::set_option(receiver.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
    sender.send_one(receiver.local_addr().unwrap(), None, b"low", Some(3)).unwrap();
    let mut space = nix::cmsg_space!([u8; 64]);
    let mut bytes = [0; 16];
    let mut iov = [io::IoSliceMut::new(&mut bytes)];
    use std::os::fd::AsRawFd;
    let message = nix::sys::socket::recvmsg::<()>(
        receiver.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    let ttl = message.cmsgs().unwrap().find_map(|c| match c {
        nix::sys::socket::ControlMessageOwned::Ipv4Ttl(ttl) => Some(ttl),
        _ => None,
    });
    assert_eq!(ttl, Some(3));
}

#[test]
fn a_port_in_use_is_named() {
    let a = UdpSocket::bind(0, UdpOffloads::ALL).unwrap();
    let port = a.port().unwrap();
    let error = UdpSocket::bind(port, UdpOffloads::ALL).err().unwrap().to_string();
    assert!(error.contains(&format!("UDP port {port}")), "{error}");
}

#[test]
fn an_empty_datagram_and_an_empty_train_are_harmless() {
    let (a, b) =
        (UdpSocket::bind(0, UdpOffloads::ALL).unwrap(), UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    a.send_train(loopback(&b), None, 0, &[], 1200).unwrap();
    a.send_train(loopback(&b), None, 0, b"x", 0).unwrap();
    a.send_one(loopback(&b), None, b"last", None).unwrap();
    assert_eq!(receive(&b, 1)[0].1, b"last");
}

#[test]
fn congestion_marks_travel_with_every_datagram_of_a_train() {
    let (a, b) = (
        UdpSocket::bind(0, UdpOffloads::ALL).unwrap(),
        UdpSocket::bind(0, UdpOffloads { gso: true, gro: false }).unwrap(),
    );
    for to in [loopback(&b), SocketAddr::from((Ipv6Addr::LOCALHOST, b.port().unwrap()))] {
        for ecn in [0, 1, 2, 3] {
            if a.send_train(to, None, ecn, &[ecn; 2_500], 1_000).is_err() {
                return; // no ::1 here
            }
            let (mut batch, mut got) = (ReceiveBatch::new(), 0);
            while got < 3 {
                wait_readable(&b);
                b.receive_batch(&mut batch).unwrap();
                for received in batch.iter_mut() {
                    assert_eq!((received.ecn, received.bytes[0]), (ecn, ecn));
                    got += 1;
                }
            }
        }
    }
}

#[test]
fn the_source_is_the_one_asked_for_and_the_receiver_knows_where_it_came_to() {
    let [a, b] = [(); 2].map(|()| UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
    let (first, second) = (IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 4]));
    let to = SocketAddr::new(second, b.port().unwrap());
    a.send_one(to, Some(first), b"one", None).unwrap();
    a.send_train(to, Some(first), 2, &[7; 2_500], 1_000).unwrap();
    let mut batch = ReceiveBatch::new();
    let mut bytes = 0;
    while bytes < 2_503 {
        b.receive_batch(&mut batch).unwrap();
        for received in batch.iter_mut() {
            assert_eq!((received.from.ip(), received.local), (first, Some(second)));
            bytes += received.bytes.len();
        }
    }
    // One of the other family is not asked for, and one that is not ours is refused.
    a.send_one(to, Some(Ipv6Addr::LOCALHOST.into()), b"two", None).unwrap();
    assert!(a.send_one(to, Some([192, 0, 2, 77].into()), b"three", None).is_err());
}
