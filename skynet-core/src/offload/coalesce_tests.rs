//! What is joined, what is not, and that splitting gives back what was pushed.

use proptest::prelude::*;

use super::checksum::{finish, sum};
use super::layers::{put, word};
use super::samples::{Collect, Sample};
use super::*;

/// Pushes all and flushes.
fn coalesce(packets: &[Vec<u8>]) -> Collect {
    let mut written = Collect::default();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    packets.iter().for_each(|p| coalescer.push(p, &mut written));
    coalescer.flush(&mut written);
    written
}

/// The same as [`coalesce`], as how many packets each write carries.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    let written = coalesce(packets);
    let count = |(header, packet): &(VnetHeader, Vec<u8>)| {
        SuperPacket::parse(*header, packet).expect("what is written can be split").segments()
    };
    written.0.iter().map(count).collect()
}

/// Corrects the IPv4 header checksum after a test changed the header.
fn resum_ip(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 0xf) * 4;
    put(packet, 10, 0);
    let checksum = finish(sum(0, &packet[..len]));
    put(packet, 10, checksum);
}

/// The packet without what has no meaning: the identification of one that must not be fragmented.
fn meaning(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.first().is_some_and(|b| b >> 4 == 4) && word(&packet, 6) == 0x4000 {
        put(&mut packet, 4, 0);
        resum_ip(&mut packet);
    }
    packet
}

#[test]
fn packets_of_a_flow_that_follow_each_other_become_one() {
    for sample in Sample::KINDS {
        let packets = sample.flow(5);
        let written = coalesce(&packets);
        assert_eq!(written.0.len(), 1, "{sample:?}");
        let (header, whole) = &written.0[0];
        assert!(header.needs_csum && !header.data_valid && !header.gso_ecn);
        assert_eq!(usize::from(header.gso_size), sample.payload_len);
        assert_eq!(whole.len(), packets[0].len() + 4 * sample.payload_len);
        assert_eq!(usize::from(header.hdr_len) + sample.payload_len, packets[0].len());
        assert_eq!(written.split(), packets);
    }
}

#[test]
fn a_packet_alone_is_written_as_it_came() {
    for sample in Sample::KINDS {
        let packet = sample.packet();
        assert_eq!(coalesce(std::slice::from_ref(&packet)).0, [(VnetHeader::NONE, packet)]);
    }
}

#[test]
fn a_shorter_packet_ends_a_run_and_a_longer_one_begins_the_next() {
    for sample in Sample::KINDS {
        let mut packets = sample.flow(2);
        let short = Sample { payload_len: 500, ..sample.next().next() };
        packets.extend(short.flow(2));
        packets.extend(Sample { payload_len: 501, ..short.next().next() }.flow(2));
        assert_eq!(counts(&packets), [3, 1, 2], "{sample:?}");
        assert_eq!(coalesce(&packets).split(), packets);
    }
}

#[test]
fn push_ends_a_run_and_a_pushed_packet_does_not_wait() {
    for sample in Sample::KINDS.into_iter().filter(|s| s.tcp) {
        let pushed = Sample { flags: 0x18, ..sample.next() };
        let packets = [sample.packet(), pushed.packet(), pushed.next().packet()];
        let mut written = Collect::default();
        let mut coalescer = Coalescer::new(Offloads::ALL);
        packets.iter().for_each(|p| coalescer.push(p, &mut written));
        assert_eq!(written.0.len(), 2, "both without a flush");
        assert_eq!(written.split(), packets);
    }
}

#[test]
fn a_run_ends_before_64_kib_and_before_65_datagrams() {
    for sample in Sample::KINDS {
        let header_len = sample.packet().len() - sample.payload_len;
        let most = (65_535 - header_len) / sample.payload_len;
        let expected = if sample.tcp { most } else { most.min(MAX_UDP_SEGMENTS) };
        assert_eq!(counts(&sample.flow(70)), [expected, 70 - expected], "{sample:?}");
        let small = Sample { payload_len: 100, ..sample };
        assert_eq!(counts(&small.flow(100)), if small.tcp { vec![100] } else { vec![64, 36] });
        let largest = Sample { payload_len: 65_535 - header_len, ..sample };
        assert_eq!(counts(&largest.flow(2)), [1, 1]);
    }
}

#[test]
fn headers_that_differ_in_anything_that_matters_are_not_joined() {
    for sample in Sample::KINDS {
        let next = sample.next();
        assert_eq!(counts(&[sample.packet(), next.packet()]), [2]);
        let mut others = vec![
            Sample { tos: sample.tos ^ 1, ..next },
            Sample { tos: sample.tos ^ 0x10, ..next },
            Sample { ttl: 62, ..next },
            Sample { ports: (40_001, 443), ..next },
            next.reversed(),
        ];
        if sample.tcp {
            others.extend([
                Sample { sequence: next.sequence + 1, ..next },
                Sample { sequence: sample.sequence, ..next },
                Sample { ack: 78, ..next },
                Sample { window: 500, ..next },
                Sample { options: 2, ..next },
                Sample { flags: 0x11, ..next },
                Sample { flags: 0x90, ..next },
                Sample { flags: 0x50, ..next },
                Sample { flags: 0x30, ..next },
                Sample { flags: 0x00, ..next },
                Sample { flags: 0x14, ..next },
                Sample { flags: 0x12, ..next },
                Sample { payload_len: 0, ..next },
            ]);
        }
        if !sample.v6 {
            others.push(Sample { dont_fragment: false, ..next });
        }
        for other in others {
            let packets = [sample.packet(), other.packet()];
            assert_eq!(counts(&packets), [1, 1], "{other:?}");
            let order = coalesce(&packets).split();
            let same_flow = other.ports == sample.ports && !other.backwards;
            assert!(!same_flow || order == packets, "order within the flow: {other:?}");
        }
    }
}

#[test]
fn a_tcp_option_that_changes_ends_the_run() {
    let packets = Sample::KINDS[0].flow(2);
    let mut other = packets[1].clone();
    // Two bytes trade places, so the checksum stays right.
    other.swap(40, 42);
    assert_eq!(counts(&[packets[0].clone(), other]), [1, 1]);
}

#[test]
fn identification_matters_only_where_fragmentation_is_allowed() {
    let udp = Sample { dont_fragment: false, ..Sample::KINDS[2] };
    assert_eq!(counts(&[udp.packet(), udp.next().packet()]), [2]);
    assert_eq!(counts(&[udp.packet(), Sample { id: 9, ..udp.next() }.packet()]), [1, 1]);
    let kept = Sample { dont_fragment: true, ..udp };
    assert_eq!(counts(&[kept.packet(), Sample { id: 9, ..kept.next() }.packet()]), [2]);
    let tcp = Sample { dont_fragment: false, ..Sample::KINDS[0] };
    assert_eq!(counts(&tcp.flow(2)), [1, 1], "TCP that may be fragmented");
}

#[test]
fn damage_is_never_joined_and_never_repaired() {
    for sample in Sample::KINDS {
        let packets = Sample { payload_len: 101, ..sample }.flow(3);
        for bit in 0..packets[1].len() * 8 {
            let mut damaged = packets.clone();
            damaged[1][bit / 8] ^= 1 << (bit % 8);
            let written = coalesce(&damaged).split();
            assert_eq!(written.len(), 3, "bit {bit}");
            assert!(written.contains(&damaged[1]), "{sample:?} bit {bit}");
            for other in [&packets[0], &packets[2]] {
                let same = |p: &Vec<u8>| meaning(p.clone()) == meaning(other.clone());
                assert!(written.iter().any(same), "{sample:?} bit {bit}");
            }
        }
        let mut first = packets.clone();
        *first[0].last_mut().unwrap() ^= 1;
        assert_eq!(coalesce(&first).split(), first, "the first of a run is verified, too");
    }
}

#[test]
fn a_udp_datagram_without_checksum_is_not_joined() {
    let mut packets = Sample::KINDS[2].flow(2);
    packets.iter_mut().for_each(|p| put(p, 26, 0));
    assert_eq!(counts(&packets), [1, 1]);
}

#[test]
fn unusual_packets_come_out_as_they_are_behind_the_run_they_may_belong_to() {
    for sample in Sample::KINDS {
        let run = sample.flow(2);
        let mut unusual = Vec::new();
        if sample.v6 {
            for next_header in [0, 43, 44, 51, 60] {
                let mut packet = sample.packet();
                packet[6] = next_header;
                unusual.push(packet);
            }
        } else {
            for fragmentation in [0x2000, 0x0001, 0x4001, 0x8000] {
                let mut packet = sample.packet();
                put(&mut packet, 6, fragmentation);
                resum_ip(&mut packet);
                unusual.push(packet);
            }
            let mut options = sample.packet();
            options.splice(20..20, [1, 1, 1, 0]);
            options[0] = 0x46;
            let total = word(&options, 2) + 4;
            put(&mut options, 2, total);
            resum_ip(&mut options);
            unusual.push(options);
        }
        unusual.push([&sample.packet()[..], &[0]].concat()); // A byte behind it.
        unusual.push(sample.packet()[..sample.packet().len() - 1].to_vec());
        unusual.push(Sample { payload_len: 0, ..sample }.packet());
        for packet in unusual {
            let mut written = Collect::default();
            let mut coalescer = Coalescer::new(Offloads::ALL);
            run.iter().chain([&packet]).for_each(|p| coalescer.push(p, &mut written));
            assert_eq!(written.0.len(), 2, "{packet:02x?}");
            assert_eq!(written.0[1], (VnetHeader::NONE, packet));
        }
    }
}

#[test]
fn packets_of_other_flows_overtake_a_run_and_leave_it_open() {
    for sample in Sample::KINDS {
        let run = sample.flow(3);
        let mut ping = sample.packet();
        ping[if sample.v6 { 6 } else { 9 }] = if sample.v6 { 58 } else { 1 };
        let syn = Sample { ports: (1, 2), flags: 0x02, tcp: true, ..sample }.packet();
        let noise = vec![0xff; 30];
        let mut written = Collect::default();
        let mut coalescer = Coalescer::new(Offloads::ALL);
        coalescer.push(&run[0], &mut written);
        for other in [&ping, &syn, &noise, &vec![]] {
            coalescer.push(other, &mut written);
        }
        coalescer.push(&run[1], &mut written);
        let at_once: Vec<_> = written.0.iter().map(|(_, packet)| packet.clone()).collect();
        assert_eq!(at_once, [ping, syn, noise, vec![]]);
        coalescer.flush(&mut written);
        assert_eq!(written.0.len(), 5);
        assert_eq!(usize::from(written.0[4].0.gso_size), sample.payload_len);
    }
}

#[test]
fn as_many_flows_as_there_are_runs_are_joined_and_more_take_turns() {
    let flow = |n: usize| Sample { ports: (u16::try_from(n).unwrap(), 443), ..Sample::KINDS[0] };
    for flows in [MAX_RUNS, MAX_RUNS + 1] {
        let mut packets = Vec::new();
        for step in 0..10 {
            packets.extend((0..flows).map(|n| flow(n).flow(step + 1).remove(step)));
        }
        let expected = if flows == MAX_RUNS { vec![10; flows] } else { vec![1; flows * 10] };
        assert_eq!(counts(&packets), expected);
    }
    // The run that grew least recently makes room.
    let mut packets: Vec<_> = (0..MAX_RUNS).map(|n| flow(n).packet()).collect();
    packets.push(flow(0).next().packet());
    packets.push(flow(99).packet());
    assert_eq!(coalesce(&packets).0[0].1, flow(1).packet());
}

#[test]
fn each_kind_can_be_switched_off() {
    let mut coalescer = Coalescer::new(Offloads::ALL);
    for (i, sample) in Sample::KINDS.into_iter().enumerate() {
        let bit = |kind: usize| kind == i;
        for (allowed, writes) in [
            (Offloads { tcp4: bit(0), tcp6: bit(1), udp4: bit(2), udp6: bit(3) }, 1),
            (Offloads { tcp4: !bit(0), tcp6: !bit(1), udp4: !bit(2), udp6: !bit(3) }, 3),
            (Offloads::NONE, 3),
        ] {
            coalescer.set_allowed(allowed);
            let mut written = Collect::default();
            sample.flow(3).iter().for_each(|p| coalescer.push(p, &mut written));
            coalescer.flush(&mut written);
            assert_eq!((written.0.len(), written.split()), (writes, sample.flow(3)));
        }
    }
}

#[test]
fn no_truncation_or_extension_of_a_packet_in_a_run_panics_or_is_lost() {
    for sample in Sample::KINDS {
        let packets = sample.flow(3);
        for len in 0..packets[1].len() + 1 {
            let mut changed = packets.clone();
            changed[1].resize(len, 9);
            let written = coalesce(&changed);
            assert!(written.0.iter().any(|(_, p)| *p == changed[1]) || len == packets[1].len());
        }
    }
}

/// A super-packet of any shape the kernel hands out: its header, its bytes, and what it is made of.
fn any_sample() -> impl Strategy<Value = Sample> {
    let ip = (any::<bool>(), any::<bool>(), any::<u16>(), any::<u8>(), any::<u8>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>(), 0u8..=10, any::<bool>());
    (ip, tcp, any::<(u16, u16)>(), 1usize..1500, any::<u8>()).prop_map(
        |(ip, tcp, ports, payload_len, fill)| Sample {
            v6: ip.0,
            tcp: ip.1,
            backwards: false,
            ports,
            id: ip.2,
            tos: ip.3,
            ttl: ip.4,
            dont_fragment: ip.1 || tcp.4,
            sequence: tcp.0,
            ack: tcp.1,
            window: tcp.2,
            options: tcp.3,
            flags: 0x10,
            payload_len,
            fill,
        },
    )
}

/// What may happen to the next packet of a flow.
fn vary(sample: Sample, how: u8) -> Sample {
    let next = sample.next();
    match how % 16 {
        0 => Sample { flags: 0x18, ..next },
        1 => Sample { flags: 0x11, ..next },
        2 => Sample { flags: 0x90, ..next },
        3 => Sample { flags: 0x30, ..next },
        4 => Sample { payload_len: sample.payload_len / 2 + 1, ..next },
        5 => Sample { payload_len: sample.payload_len + 1, ..next },
        6 => Sample { payload_len: 0, ..next },
        7 => Sample { ack: sample.ack.wrapping_add(1), ..next },
        _ => Sample { flags: 0x10, ..next },
    }
}

fn by_flow(packets: &[Vec<u8>], sample: Sample) -> Vec<Vec<u8>> {
    let at = if sample.v6 { 40 } else { 20 };
    let of_flow = |p: &&Vec<u8>| {
        p[0] >> 4 == sample.packet()[0] >> 4
            && p[at..at + 4] == sample.packet()[at..at + 4]
            && p[if sample.v6 { 6 } else { 9 }] == if sample.tcp { 6 } else { 17 }
    };
    packets.iter().filter(of_flow).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn splitting_what_was_joined_gives_each_flow_back_in_order(
        flows in prop::collection::vec(any_sample(), 1..12),
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..150),
    ) {
        let mut flows: Vec<Sample> =
            (1u16..).zip(flows).map(|(port, s)| Sample { ports: (port, s.ports.1), ..s }).collect();
        let mut pushed = Vec::new();
        for (which, how) in steps {
            let at = which.index(flows.len());
            pushed.push(flows[at].packet());
            flows[at] = vary(flows[at], how);
        }
        let written = coalesce(&pushed).split();
        prop_assert_eq!(written.len(), pushed.len());
        for flow in flows {
            prop_assert_eq!(by_flow(&written, flow), by_flow(&pushed, flow));
        }
    }

    #[test]
    fn joining_what_was_split_gives_the_super_packet_back(
        sample in any_sample(),
        n in 2usize..=64,
        last in any::<prop::sample::Index>(),
        ends in any::<bool>(),
    ) {
        let header_len = sample.packet().len() - sample.payload_len;
        let n = n.min((65_535 - header_len) / sample.payload_len).max(2);
        let mut last_one = sample;
        for _ in 1..n {
            last_one = last_one.next();
        }
        last_one.payload_len = 1 + last.index(sample.payload_len);
        last_one.flags = if ends { 0x18 } else { 0x10 };
        let mut pushed = sample.flow(n - 1);
        pushed.push(last_one.packet());
        let joined = coalesce(&pushed);
        prop_assert_eq!(joined.0.len(), 1);
        let split = joined.split();
        prop_assert_eq!(&split, &pushed);
        prop_assert_eq!(coalesce(&split).0, joined.0);
    }
}
