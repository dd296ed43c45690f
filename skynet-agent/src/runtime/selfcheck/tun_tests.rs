//! The check against kernels with one fault each, and against the one below.

use std::collections::{HashMap, VecDeque};
use std::io;

use skynet_core::offload::Gso;

use super::*;

/// Moves packets between the two sides of a device that is right but for `fault`.
#[derive(Default)]
struct Faulty {
    /// Done to a super-packet on its way; `None`: it is lost.
    fault: Option<fn(&mut Framed) -> bool>,
    /// Which way the fault lies: reading or writing.
    reading: bool,
    /// Super-packets of these are refused when they are written.
    refuses: Option<fn(Gso) -> bool>,
    /// Whether the host sees anything.
    blind: bool,
    host: VecDeque<Framed>,
    device: VecDeque<Framed>,
    datagrams: HashMap<IpAddr, VecDeque<Vec<u8>>>,
}

impl Faulty {
    /// False: lost.
    fn damage(&self, reading: bool, framed: &mut Framed) -> bool {
        match self.fault {
            Some(fault) if reading == self.reading && framed.header.gso != Gso::None => fault(framed),
            _ => true,
        }
    }
}

impl Rig for Faulty {
    fn write(&mut self, framed: &Framed) -> Written {
        let mut framed = framed.clone();
        if framed.header.gso != Gso::None && self.refuses.is_some_and(|f| f(framed.header.gso)) {
            return Written::NotAsSuperPacket;
        }
        if self.blind || !self.damage(false, &mut framed) {
            return Written::Yes;
        }
        let v4 = framed.packet[0] >> 4 == 4;
        if framed.packet[if v4 { 9 } else { 6 }] == 17 {
            let own = if v4 { OWN[0].0 } else { OWN[1].0 };
            if let Ok(whole) = SuperPacket::parse(framed.header, &framed.packet) {
                for i in 0..whole.segments() {
                    let mut out = vec![0; whole.segment_len(i)];
                    whole.write_segment(i, &mut out);
                    let payload = out.split_off(if v4 { 28 } else { 48 });
                    self.datagrams.entry(own).or_default().push_back(payload);
                }
            }
        }
        // What others send comes in between.
        self.host.push_back(Framed::default());
        self.host.push_back(framed);
        Written::Yes
    }
    fn received(&mut self) -> Option<Framed> {
        self.host.pop_front()
    }
    fn transmit(&mut self, framed: &Framed) -> io::Result<()> {
        let mut framed = framed.clone();
        if self.blind {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if self.damage(true, &mut framed) {
            self.device.push_back(Framed { packet: vec![0x60; 60], ..Framed::default() });
            self.device.push_back(framed);
        }
        Ok(())
    }
    fn read(&mut self) -> Vec<Framed> {
        self.device.pop_front().into_iter().collect()
    }
    fn port(&self, _own: IpAddr) -> Option<u16> {
        (!self.blind).then_some(5_000)
    }
    fn datagram(&mut self, own: IpAddr) -> Option<Vec<u8>> {
        self.datagrams.get_mut(&own)?.pop_front()
    }
}

const OWN: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(10, 7, 3, 4)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 2, 3, 0, 0, 0, 4)), 48),
];

fn judged(mut rig: Faulty) -> Verdict {
    judge(&mut rig, &OWN, Offloads::ALL, true)
}

/// What may happen to a super-packet.
const FAULTS: [fn(&mut Framed) -> bool; 6] = [
    |_| false,
    |f| {
        let last = f.packet.len() - 1;
        f.packet[last] ^= 1;
        true
    },
    |f| {
        f.packet[2000] ^= 0x80;
        true
    },
    |f| {
        f.header.gso_size -= 1;
        true
    },
    |f| {
        f.header = VnetHeader::NONE;
        true
    },
    |f| {
        f.packet.truncate(3000);
        true
    },
];

#[test]
fn a_kernel_without_fault_passes() {
    assert_eq!(judged(Faulty::default()), Verdict::ALL);
}

#[test]
fn every_fault_of_reading_is_noticed_and_is_none_of_writing() {
    for (i, fault) in FAULTS.into_iter().enumerate() {
        let verdict = judged(Faulty { fault: Some(fault), reading: true, ..Faulty::default() });
        assert_eq!(verdict, Verdict { reading: false, ..Verdict::ALL }, "fault {i}");
    }
}

#[test]
fn every_fault_of_writing_is_noticed_and_is_none_of_reading() {
    for (i, fault) in FAULTS.into_iter().enumerate() {
        let verdict = judged(Faulty { fault: Some(fault), ..Faulty::default() });
        assert_eq!(verdict, Verdict { reading: true, tcp: false, udp: false }, "fault {i}");
    }
}

#[test]
fn a_kind_the_kernel_refuses_is_off_alone() {
    let refusing = |refuses| judged(Faulty { refuses: Some(refuses), ..Faulty::default() });
    assert_eq!(refusing(|gso| gso == Gso::UdpL4), Verdict { udp: false, ..Verdict::ALL });
    assert_eq!(refusing(|gso| gso == Gso::TcpV4), Verdict { tcp: false, ..Verdict::ALL });
    assert_eq!(refusing(|gso| gso == Gso::TcpV6), Verdict { tcp: false, ..Verdict::ALL });
}

#[test]
fn a_fault_of_one_family_is_noticed() {
    for gso in [Gso::TcpV4, Gso::TcpV6] {
        let fault: fn(&mut Framed) -> bool = match gso {
            Gso::TcpV4 => |f| f.header.gso != Gso::TcpV4,
            _ => |f| f.header.gso != Gso::TcpV6,
        };
        let verdict = judged(Faulty { fault: Some(fault), ..Faulty::default() });
        assert_eq!(verdict, Verdict { tcp: false, ..Verdict::ALL });
    }
}

#[test]
fn what_cannot_be_seen_is_not_given_up_but_a_refusal_is() {
    assert_eq!(judged(Faulty { blind: true, ..Faulty::default() }), Verdict::ALL);
    let refusing = Faulty { blind: true, refuses: Some(|_| true), ..Faulty::default() };
    assert_eq!(judged(refusing), Verdict { reading: true, tcp: false, udp: false });
}

#[test]
fn what_is_switched_off_is_not_written() {
    let refusing = || Faulty { refuses: Some(|_| true), ..Faulty::default() };
    assert_eq!(judge(&mut refusing(), &OWN, Offloads::NONE, false), Verdict::ALL);
}

#[test]
fn the_address_beside_ours_is_a_host_of_the_prefix() {
    let beside = |ip: [u8; 4], len| stranger(IpAddr::from(ip), len);
    assert_eq!(beside([10, 7, 3, 4], 16), IpAddr::from([10, 7, 3, 5]));
    assert_eq!(beside([10, 7, 0, 1], 16), IpAddr::from([10, 7, 0, 3]), "not the network's address");
    assert_eq!(beside([10, 7, 255, 254], 16), IpAddr::from([10, 7, 255, 252]), "not the broadcast address");
    assert_eq!(beside([10, 7, 3, 4], 32), IpAddr::from([10, 7, 3, 5]));
    assert_eq!(beside([10, 7, 3, 4], 0), IpAddr::from([10, 7, 3, 5]));
}

/// Runs `test` with a TUN device that is up and has the addresses [`OWN`], in a network namespace of its own; without
/// the right to make one it says so and passes.
fn with_device(test: impl FnOnce(TunDevice) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no new network namespace ({e})");
            return;
        }
        let tun = TunDevice::create("skcheck0", 1360, true, false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = crate::netcfg::Netlink::open().unwrap();
            crate::netcfg::NetConfig::bring_up(&net, tun.index().unwrap(), &OWN).await.unwrap();
        });
        test(tun);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn this_kernel_passes_every_part_and_answers_nothing() {
    with_device(|mut tun| {
        let uso = tun.takes().udp4;
        let before = crate::clock::monotonic();
        assert_eq!(check(&mut tun, &OWN, Offloads::ALL), Verdict::ALL);
        let took = crate::clock::monotonic().saturating_since(before);
        eprintln!("the check took {took:?}");
        let addresses = OWN.map(|(ip, _)| ip);
        let mut kernel = Kernel::new(&mut tun, &addresses).unwrap();
        for (own, len) in OWN {
            let other = stranger(own, len);
            let tcp_in = Flow { from: other, to: own, tcp: true, port: None };
            let udp_in = Flow { tcp: false, port: kernel.port(own), ..tcp_in };
            let tcp_out = Flow { from: own, to: other, ..tcp_in };
            assert_eq!(writing_tcp(&mut kernel, &tcp_in), Finding::Right, "{own}");
            assert_eq!(reading(&mut kernel, &tcp_out), Finding::Right, "{own}");
            if uso {
                assert_eq!(writing_udp(&mut kernel, &udp_in), Finding::Right, "{own}");
                assert_eq!(reading(&mut kernel, &Flow { tcp: false, ..tcp_out }), Finding::Right, "{own}");
            }
        }
        // No reset, no ICMP to the stranger: neither is left in the queue.
        let left = kernel.read();
        let is_answer = |f: &Framed| {
            OWN.iter().any(|(own, len)| {
                Flow { from: *own, to: stranger(*own, *len), tcp: true, port: None }.owns(&f.packet)
                    || matches!(f.packet.get(9), Some(1)) && f.packet[0] >> 4 == 4
            })
        };
        assert!(!left.iter().any(is_answer), "{left:?}");
    });
}

#[test]
fn behind_a_firewall_that_lets_nothing_in_nothing_is_given_up() {
    with_device(|mut tun| {
        let rules = "table inet shut { chain input { type filter hook input priority 0; policy drop; }; }";
        let shut = std::process::Command::new("nft").arg(rules).status();
        if !shut.is_ok_and(|s| s.success()) {
            eprintln!("skipped: no nft");
            return;
        }
        assert_eq!(check(&mut tun, &OWN, Offloads::ALL), Verdict::ALL);
        let mut kernel = Kernel::new(&mut tun, &OWN.map(|(ip, _)| ip)).unwrap();
        let flow =
            Flow { from: stranger(OWN[0].0, 16), to: OWN[0].0, tcp: false, port: kernel.port(OWN[0].0) };
        assert_eq!(writing_udp(&mut kernel, &flow), Finding::Unknown, "the firewall was no firewall");
        assert_eq!(writing_tcp(&mut kernel, &Flow { tcp: true, port: None, ..flow }), Finding::Right);
    });
}

#[test]
fn a_device_whose_interface_is_down_gives_nothing_up() {
    with_device(|mut tun| {
        let down = std::process::Command::new("ip").args(["link", "set", "skcheck0", "down"]).status();
        assert!(down.is_ok_and(|s| s.success()));
        assert_eq!(check(&mut tun, &OWN, Offloads::ALL), Verdict::ALL);
    });
}
