//! Control records inside the tunnel (PROTOCOL §2.1).
//!
//! ```text
//! 0  0x10 control record    1  type: 1 HELLO    2  u16 length of body    4  body (TLV)    …  padding
//! ```

use crate::member::tlv::{Reader, TlvError, Writer};

/// First byte of a control record.
pub const CONTROL_RECORD: u8 = 0x10;
const TYPE_HELLO: u8 = 1;
/// The version this code speaks.
pub const HELLO_VERSION: u8 = 1;
/// ChaCha20-Poly1305 in [`Hello::suites`].
pub const SUITE_CHACHA20_POLY1305: u32 = 1;

/// What a node can do, told to a peer inside the tunnel, once per session and direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Cipher suites for lanes 1 and up, a bit each.
    pub suites: u32,
    /// The largest number of lanes.
    pub max_lanes: u8,
    /// The largest inner packet accepted, in bytes.
    pub max_packet: u16,
    /// Epoch of the manifest held.
    pub manifest_epoch: u64,
    /// HASH of the manifest held: the same epoch with another hash is an alarm.
    pub manifest_hash: [u8; 32],
}

/// Why bytes are not a record we know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Too short, or its length does not fit.
    #[error("malformed record")]
    Malformed,
    /// A type or version this code does not know.
    #[error("unknown record type or version")]
    Unknown,
    /// Its body.
    #[error(transparent)]
    Body(#[from] TlvError),
}

impl Hello {
    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let mut manifest = self.manifest_epoch.to_be_bytes().to_vec();
        manifest.extend(self.manifest_hash);
        let mut w = Writer::new();
        w.bytes(0x81, &[HELLO_VERSION]);
        w.bytes(0x02, &self.suites.to_be_bytes());
        w.bytes(0x03, &[self.max_lanes]);
        w.bytes(0x04, &self.max_packet.to_be_bytes());
        w.bytes(0x05, &manifest);
        let body = w.finish();
        let len = u16::try_from(body.len()).expect("a HELLO has some 70 bytes");
        let mut record = vec![CONTROL_RECORD, TYPE_HELLO];
        record.extend(len.to_be_bytes());
        record.extend(body);
        record
    }

    /// Reads a record; what follows it is padding.
    ///
    /// # Errors
    /// [`RecordError`]: a counted drop, no reply.
    pub fn parse(record: &[u8]) -> Result<Self, RecordError> {
        let [CONTROL_RECORD, kind, high, low, rest @ ..] = record else { return Err(RecordError::Malformed) };
        if *kind != TYPE_HELLO {
            return Err(RecordError::Unknown);
        }
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (body, padding) = rest.split_at_checked(len).ok_or(RecordError::Malformed)?;
        if padding.len() >= 16 || padding.iter().any(|b| *b != 0) {
            return Err(RecordError::Malformed);
        }
        let mut r = Reader::new(body);
        if r.u8(0x81)? != HELLO_VERSION {
            return Err(RecordError::Unknown);
        }
        let suites =
            u32::from_be_bytes(r.optional_array(0x02)?.unwrap_or(SUITE_CHACHA20_POLY1305.to_be_bytes()));
        let [max_lanes] = r.optional_array(0x03)?.unwrap_or([1]);
        let max_packet = u16::from_be_bytes(r.optional_array(0x04)?.unwrap_or(1280u16.to_be_bytes()));
        let manifest: [u8; 40] = r.optional_array(0x05)?.unwrap_or([0; 40]);
        r.finish()?;
        let (epoch, hash) = manifest.split_at(8);
        Ok(Self {
            suites,
            max_lanes,
            max_packet,
            manifest_epoch: u64::from_be_bytes(epoch.try_into().expect("8 of 40 bytes")),
            manifest_hash: hash.try_into().expect("32 of 40 bytes"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Hello {
        Hello { suites: 3, max_lanes: 4, max_packet: 1360, manifest_epoch: 7, manifest_hash: [9; 32] }
    }

    #[test]
    fn survives_its_bytes_and_the_padding_of_transport_data() {
        let mut bytes = sample().encode();
        assert_eq!(Hello::parse(&bytes), Ok(sample()));
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        assert_eq!(Hello::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn no_flip_truncation_or_extension_panics_and_none_is_taken_for_the_same() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Hello::parse(&flipped), Ok(sample()), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Hello::parse(&bytes[..len]).is_err(), "{len}");
        }
        let mut longer = bytes.clone();
        longer.push(1);
        assert!(Hello::parse(&longer).is_err());
    }

    #[test]
    fn another_version_or_record_type_is_unknown() {
        let mut bytes = sample().encode();
        bytes[7] = 2;
        assert_eq!(Hello::parse(&bytes), Err(RecordError::Unknown));
        bytes[1] = 9;
        assert_eq!(Hello::parse(&bytes), Err(RecordError::Unknown));
    }
}
