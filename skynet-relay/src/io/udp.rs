//! UDP in trains: one system call receives up to 32 of them (`UDP_GRO`), one sends what became of them
//! (`UDP_SEGMENT`).
//!
//! What costs is a datagram's way through the kernel, not its bytes: a train goes that way once. Where the kernel does not
//! take trains, the same datagrams leave one by one. The `unsafe` of the relay is in this file and in `sockaddr.rs`.

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

pub use super::batch::{Batch, MAX_DATAGRAM, Train};
use super::batch::{RUNS, Run, SLOTS};
use super::cmsg::Control;
use super::sockaddr::{name_len, read_name, write_name};

/// How long a receive waits, so that the caller sees its timers and a request to stop.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_millis(250);
/// Asked of the kernel for both directions: 10 ms at 3 Gbit/s.
const SOCKET_BUFFER: libc::c_int = 4 << 20;

/// What SO_MEMINFO tells (linux/sock_diag.h), and where in it what was thrown away is.
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// A blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    v6: bool,
}

impl UdpSocket {
    /// Binds `addr`; an IPv6 wildcard also receives IPv4. On a wildcard the socket learns to which of the host's
    /// addresses each datagram came; bound to one address there is nothing to learn.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        Self::open(addr, false)
    }

    /// Binds `n` sockets to one address, at least one: the kernel hands all datagrams of a 5-tuple to the same one.
    ///
    /// The first is bound as if it were the only one, so a port that another process has is still refused.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn bind_group(addr: SocketAddr, n: usize) -> io::Result<Vec<Self>> {
        let first = Self::open(addr, false)?;
        let addr = first.local_addr()?;
        first.socket.set_reuse_port(true)?;
        let mut sockets = vec![first];
        for _ in 1..n {
            sockets.push(Self::open(addr, true)?);
        }
        Ok(sockets)
    }

    fn open(addr: SocketAddr, shares_its_port: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The privileged options pass the machine's limit; without the privilege the limit decides.
        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let _ = set_option(&socket, libc::SOL_SOCKET, forced, SOCKET_BUFFER)
                .or_else(|_| set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER));
        }
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        if addr.ip().is_unspecified() {
            // Before the bind: nothing may arrive that does not tell.
            let (level, option) = if addr.is_ipv6() {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            } else {
                (libc::IPPROTO_IP, libc::IP_PKTINFO)
            };
            set_option(&socket, level, option, 1)?;
        }
        never_fragment(&socket, addr.is_ipv6())?;
        if let Err(error) = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
            debug!(%error, "the kernel does not join datagrams on receive");
        }
        socket.set_reuse_port(shares_its_port)?;
        socket.bind(&addr.into())?;
        Ok(Self { socket, v6: addr.is_ipv6() })
    }

    /// The same socket once more, for another thread to send by.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, v6: self.v6 })
    }

    /// The address bound.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Bytes of datagrams that may wait here, as far as the machine allows what was asked for; `None` if it allows all.
    pub fn small_buffer(&self) -> Option<usize> {
        // The kernel counts what it keeps of a datagram beside its bytes, and so doubles what was asked.
        self.socket
            .recv_buffer_size()
            .ok()
            .map(|bytes| bytes / 2)
            .filter(|bytes| *bytes < SOCKET_BUFFER as usize)
    }

    /// Receives at least one datagram into `batch` and returns how many slots were filled; 0 after [`RECEIVE_TIMEOUT`].
    ///
    /// # Errors
    /// As `recvmmsg(2)`, timeouts and interruptions excepted.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.received = 0;
        // SAFETY: iovec and mmsghdr are C structures for which all zero bytes are a value.
        let (mut vectors, mut headers): ([libc::iovec; SLOTS], [libc::mmsghdr; SLOTS]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (i, (vector, header)) in vectors.iter_mut().zip(&mut headers).enumerate() {
            let bytes = batch.slot_mut(i);
            *vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let slot = &mut batch.slots[i];
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut slot.control).cast();
            header.msg_hdr.msg_controllen = Control::SIZE;
            header.msg_hdr.msg_name = (&raw mut slot.name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: the headers point into `batch` and `vectors`, which outlive the call, and say how long each buffer is.
        let n = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                SLOTS as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                // An earlier datagram of ours met a closed port: nobody's error.
                io::ErrorKind::ConnectionRefused => Ok(0),
                _ => Err(error),
            };
        }
        batch.received = n as usize;
        for (slot, header) in batch.slots.iter_mut().zip(&headers).take(n as usize) {
            let told = slot.control.read(header.msg_hdr.msg_controllen);
            let train = |from| Train::new(told.local, from, header.msg_len as usize, told.segment);
            slot.train = read_name(&slot.name).filter(|_| header.msg_len > 0).map(train);
        }
        Ok(batch.received)
    }

    /// How many datagrams the kernel has thrown away because nobody came to receive them, since the socket was opened.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub fn overflowed(&self) -> io::Result<u32> {
        let mut info = [0u32; MEMINFO_WORDS];
        let mut len = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which is the size of the array, and says how many.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(info[MEMINFO_DROPS]) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends and forgets all runs of `batch`; how many datagrams did not leave because the kernel refused them.
    pub fn send(&self, batch: &mut Batch) -> u64 {
        let mut refused = 0;
        let mut done = 0;
        while done < batch.runs().len() {
            let error = match self.send_runs(batch, done) {
                Ok(sent) => {
                    done += sent;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let run = &batch.runs()[done];
            let segmented = run.datagrams > 1;
            let lost = if segmented { self.send_one_by_one(batch, run) } else { 1 };
            // Also the answer to datagrams above the device's MTU: only a run whose datagrams go out one by one proves
            // that it is segmentation that does not work.
            if segmented && lost == 0 && matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) {
                warn!(%error, "the kernel refuses trains; sending datagram by datagram from now on");
                batch.joins = false;
            }
            refused += lost;
            done += 1;
        }
        batch.clear_runs();
        refused
    }

    /// Sends runs from number `first` on by one system call: how many left, or why the first did not.
    fn send_runs(&self, batch: &Batch, first: usize) -> io::Result<usize> {
        let runs = &batch.runs()[first..];
        // SAFETY: mmsghdr is a C structure for which all zero bytes are a value.
        let mut headers: [libc::mmsghdr; RUNS] = unsafe { mem::zeroed() };
        let mut names = [super::sockaddr::empty(); RUNS];
        let mut controls = [Control::EMPTY; RUNS];
        let mut vectors = Vectors::new();
        for (i, run) in runs.iter().enumerate() {
            write_name(&mut names[i], self.native(run.to));
            let segment = (run.datagrams > 1).then_some(run.segment as u16);
            let control_len = controls[i].write(run.local, self.v6, segment);
            let Some(pieces) = vectors.add(batch, run) else {
                return self.send_headers(&mut headers[..i]);
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = name_len(&names[i]);
            (header.msg_iov, header.msg_iovlen) = pieces;
            if control_len > 0 {
                header.msg_control = (&raw mut controls[i]).cast();
                header.msg_controllen = control_len;
            }
        }
        self.send_headers(&mut headers[..runs.len()])
    }

    fn send_headers(&self, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
        // SAFETY: every header points to a name, a control message and vectors that its maker keeps alive for this call,
        // and the vectors into the batch.
        let n =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the datagrams of a refused run; how many were refused again.
    fn send_one_by_one(&self, batch: &Batch, run: &Run) -> u64 {
        let mut name = super::sockaddr::empty();
        write_name(&mut name, self.native(run.to));
        let mut control = Control::EMPTY;
        let control_len = control.write(run.local, self.v6, None);
        let mut refused = 0;
        for at in run.datagrams() {
            let bytes = batch.piece(at);
            let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: msghdr is a C structure for which all zero bytes are a value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = name_len(&name);
            (header.msg_iov, header.msg_iovlen) = (&raw mut vector, 1);
            if control_len > 0 {
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = control_len;
            }
            // SAFETY: the header points to locals and into the batch, all of which outlive the call; the kernel reads.
            refused += u64::from(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0) } < 0);
        }
        refused
    }

    fn native(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            to => to,
        }
    }
}

/// The pieces of all runs of one system call.
struct Vectors {
    vectors: [libc::iovec; Self::MOST],
    used: usize,
}

impl Vectors {
    /// Four for each run; whoever needs more sends in two calls.
    const MOST: usize = 4 * RUNS;

    fn new() -> Self {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { vectors: [none; Self::MOST], used: 0 }
    }

    /// Those of one run; `None` if there is no room.
    fn add(&mut self, batch: &Batch, run: &Run) -> Option<(*mut libc::iovec, usize)> {
        let room = self.vectors.get_mut(self.used..self.used + run.pieces.len())?;
        for (vector, piece) in room.iter_mut().zip(&run.pieces) {
            let bytes = batch.piece(piece.clone());
            // The kernel only reads what is to be sent.
            *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        }
        self.used += run.pieces.len();
        Some((room.as_mut_ptr(), run.pieces.len()))
    }
}

/// No datagram is fragmented on its way, by whatever ICMP says: what passes by this relay is for its users to find out.
fn never_fragment(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

fn set_option(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a local int and its size is passed along; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
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
    fn a_group_shares_one_port_by_client_and_nobody_elses_port_is_taken() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let group = UdpSocket::bind_group(listen.parse().unwrap(), 3).unwrap();
            let addr = group[0].local_addr().unwrap();
            assert!(group.iter().all(|socket| socket.local_addr().unwrap() == addr));
            assert_eq!(UdpSocket::bind_group(addr, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let clients: Vec<_> = (0..64).map(|_| client()).collect();
            for _ in 0..3 {
                for client in &clients {
                    client.send_to(b"hello", ("127.0.0.1", addr.port())).unwrap();
                }
            }
            let (mut batch, mut sources, mut total) = (Batch::new(), Vec::new(), 0);
            for socket in &group {
                let mut seen = std::collections::BTreeMap::new();
                loop {
                    let received = socket.receive(&mut batch).unwrap();
                    if received == 0 {
                        break;
                    }
                    for slot in 0..received {
                        let train = batch.train(slot).unwrap();
                        *seen.entry(train.from.port()).or_insert(0) += train.datagrams().count();
                    }
                }
                total += seen.values().sum::<usize>();
                assert!(seen.values().all(|n| *n == 3), "all of a client come to one socket: {seen:?}");
                sources.push(seen.len());
            }
            assert_eq!((total, sources.iter().sum::<usize>()), (192, 64));
            assert!(sources.iter().all(|n| *n > 5), "{sources:?}");
        }
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
        for (listen, gone) in
            [("0.0.0.0:0", "203.0.113.9"), ("[::]:0", "203.0.113.9"), ("[::]:0", "2001:db8::9")]
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
}
