//! WANT and DOCUMENT: documents of the whole network, from one member to another inside the tunnel (PROTOCOL §2.1).

use crate::member::document::Kind;
use crate::member::tlv::{Reader, TlvError, Writer};

/// Longest document that is passed on: the largest there may be of any kind.
pub const MAX_PASSED_ON: u16 = 12_288;
/// Bytes of it in one record: fits every path with room.
pub const PART: usize = 400;

/// Whether documents of this kind are passed on: what holds for the whole network, and is compared in HELLO.
pub fn is_passed_on(kind: Kind) -> bool {
    matches!(kind, Kind::Manifest | Kind::Revocations | Kind::Policy)
}

/// A part of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Of which kind.
    pub kind: Kind,
    /// Bytes of the whole document.
    pub total: u16,
    /// Where in it the part begins: a multiple of [`PART`].
    pub at: u16,
    /// [`PART`] bytes, or what is left.
    pub bytes: Vec<u8>,
}

impl Part {
    /// A document in parts; none if it is too long.
    pub fn of(kind: Kind, document: &[u8]) -> Vec<Self> {
        let Some(total) = u16::try_from(document.len()).ok().filter(|total| *total <= MAX_PASSED_ON) else {
            return Vec::new();
        };
        (0..total)
            .step_by(PART)
            .zip(document.chunks(PART))
            .map(|(at, bytes)| Self { kind, total, at, bytes: bytes.to_vec() })
            .collect()
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(0x81, self.kind as u8);
        w.bytes(0x82, &self.total.to_be_bytes());
        w.bytes(0x83, &self.at.to_be_bytes());
        w.bytes(0x84, &self.bytes);
        w.finish()
    }

    pub(super) fn parse_body(body: &[u8]) -> Result<Self, TlvError> {
        let mut r = Reader::new(body);
        let kind = read_kind(&mut r)?;
        let total = u16::from_be_bytes(r.array(0x82)?);
        let at = u16::from_be_bytes(r.array(0x83)?);
        let bytes = r.required(0x84)?.to_vec();
        r.finish()?;
        let left = usize::from(total).checked_sub(usize::from(at)).filter(|left| *left > 0);
        let fits = left.is_some_and(|left| bytes.len() == left.min(PART));
        if total > MAX_PASSED_ON || usize::from(at) % PART != 0 || !fits {
            return Err(TlvError::Value(0x84));
        }
        Ok(Self { kind, total, at, bytes })
    }
}

pub(super) fn want_body(kind: Kind) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(0x81, kind as u8);
    w.finish()
}

pub(super) fn parse_want(body: &[u8]) -> Result<Kind, TlvError> {
    let mut r = Reader::new(body);
    let kind = read_kind(&mut r)?;
    r.finish()?;
    Ok(kind)
}

fn read_kind(r: &mut Reader<'_>) -> Result<Kind, TlvError> {
    Kind::from_u8(r.u8(0x81)?).filter(|kind| is_passed_on(*kind)).ok_or(TlvError::Value(0x81))
}

/// The parts of one document, in whatever order they come.
#[derive(Debug)]
pub struct Joiner {
    kind: Kind,
    bytes: Vec<u8>,
    /// Which parts have come, a bit each.
    come: u64,
}

impl Joiner {
    /// For a document of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { kind, bytes: Vec::new(), come: 0 }
    }

    /// Takes a part; the document, if it was the last. A part of another length begins anew: the peer has a newer one.
    pub fn take(&mut self, part: &Part) -> Option<Vec<u8>> {
        if part.kind != self.kind {
            return None;
        }
        let total = usize::from(part.total);
        if self.bytes.len() != total {
            (self.bytes, self.come) = (vec![0; total], 0);
        }
        let at = usize::from(part.at);
        self.bytes.get_mut(at..at + part.bytes.len())?.copy_from_slice(&part.bytes);
        self.come |= 1 << (at / PART);
        let is_whole = (0..total.div_ceil(PART)).all(|part| self.come & 1 << part != 0);
        is_whole.then(|| core::mem::take(&mut self.bytes))
    }
}

const _: () = assert!((MAX_PASSED_ON as usize).div_ceil(PART) <= 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_whole_whatever_order_its_parts_come_in() {
        let document: Vec<u8> = (0..1_234u32).map(|n| n.to_be_bytes()[3]).collect();
        let parts = Part::of(Kind::Policy, &document);
        assert_eq!(parts.len(), 4);
        let mut joiner = Joiner::new(Kind::Policy);
        for part in [&parts[2], &parts[0], &parts[2], &parts[3]] {
            assert_eq!(joiner.take(part), None);
            assert_eq!(Part::parse_body(&part.body()).as_ref(), Ok(part));
        }
        assert_eq!(joiner.take(&parts[1]), Some(document));
        assert_eq!(Joiner::new(Kind::Manifest).take(&parts[0]), None, "another kind");
    }

    #[test]
    fn a_part_that_does_not_fit_is_refused() {
        let good = Part { kind: Kind::Policy, total: 800, at: 400, bytes: vec![1; 400] };
        assert!(Part::parse_body(&good.body()).is_ok());
        let bad = [
            Part { at: 401, ..good.clone() },
            Part { at: 800, ..good.clone() },
            Part { total: 700, ..good.clone() },
            Part { total: 12_289, at: 12_288, bytes: vec![1], ..good.clone() },
            Part { kind: Kind::Receipt, ..good.clone() },
            Part { bytes: vec![], ..good },
        ];
        for part in bad {
            assert!(Part::parse_body(&part.body()).is_err(), "{part:?}");
        }
        assert!(Part::of(Kind::Policy, &[0; 12_289]).is_empty());
    }
}
