//! The Internet checksum (RFC 1071), with its pseudo headers (RFC 9293 §3.1, RFC 8200 §8.1) and updates (RFC 1624).
//!
//! A *sum* is a `u32` that grows as pieces are added and means the same modulo 65,535; every piece but the last has an
//! even number of bytes. [`fold`] makes it 16 bits; its complement is what a checksum field holds.

/// Adds `bytes`, taken as big-endian 16-bit words, to `initial`. The result is at most `initial` + 65,535, so tens of
/// thousands of pieces can be added before it would overflow.
pub fn sum(initial: u32, bytes: &[u8]) -> u32 {
    // The sum of swapped words is the swapped sum (RFC 1071 §2 B): words are added as the machine reads them, 32 bits
    // at a time into 64, in independent lanes that the compiler turns into vector registers.
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    let mut total = lanes.iter().sum::<u64>();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    initial + u32::from(u16::from_be(fold_64(total)))
}

fn fold_64(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    fold(u32::try_from(total).expect("three sums of 16 bits"))
}

/// The sum in 16 bits, in one's complement arithmetic.
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum).expect("folded twice")
}

/// What a checksum field has to hold so that everything sums to 65,535.
pub fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The same for UDP, where zero means "no checksum" (RFC 768).
pub fn finish_udp(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Adds what `word` counts for if it is left out of a sum that contains it.
pub fn without(sum: u32, word: u16) -> u32 {
    sum + u32::from(!word)
}

/// The sum of a pseudo header: `addresses` are source and destination as they follow each other in an IP header (8 or
/// 32 bytes), `len` is that of the transport header and its payload.
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u32 {
    let len = u32::try_from(len).expect("shorter than a jumbogram");
    sum(u32::from(protocol) + (len >> 16) + (len & 0xffff), addresses)
}

/// The new checksum after one covered word changed from `old` to `new` (RFC 1624 eqn. 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        let mut sum: u64 = bytes.chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(fold(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn every_length_up_to_a_few_blocks_is_summed_whole() {
        let bytes: Vec<u8> = (0..300).map(|i| (i * 7 + 3) as u8).collect();
        for from in 0..9 {
            for to in from..bytes.len() {
                assert_eq!(fold(sum(0, &bytes[from..to])), reference(&bytes[from..to]), "{from}..{to}");
            }
        }
        assert_eq!(fold(sum(0, &[0xff; 65_535])), reference(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn pieces_of_even_length_sum_to_the_whole(bytes: Vec<u8>, at: prop::sample::Index) {
            let at = at.index(bytes.len() + 1) & !1;
            prop_assert_eq!(fold(sum(sum(0, &bytes[..at]), &bytes[at..])), fold(sum(0, &bytes)));
            prop_assert_eq!(fold(sum(0, &bytes)), reference(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 2..64), new: u16) {
            bytes[0] |= 1; // Headers never are all zero.
            bytes.extend([0x45, 0]);
            let old = u16::from_be_bytes([bytes[0], bytes[1]]);
            let before = finish(sum(0, &bytes));
            bytes[..2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), finish(sum(0, &bytes)));
        }

        #[test]
        fn a_word_left_out_counts_as_zero(mut bytes in prop::collection::vec(any::<u8>(), 2..64)) {
            bytes.extend([0x45, 0]);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let all = sum(0, &bytes);
            let word = u16::from_be_bytes([bytes[0], bytes[1]]);
            bytes[..2].fill(0);
            prop_assert_eq!(fold(without(all, word)), fold(sum(0, &bytes)));
        }
    }
}
