//! Tag, length, value (docs/PROTOCOL.md §3.1): `u8 tag | u16 length | value`.
//!
//! The low seven bits of a tag are its number; numbers rise strictly, so one content has one encoding. Bit 7 is the
//! critical bit: a reader that does not know a critical tag refuses the whole document.

use core::net::SocketAddr;

use crate::wire::address;

const CRITICAL: u8 = 0x80;

/// Why a sequence of fields is refused. Always the fault of whoever wrote the document.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlvError {
    /// The bytes end inside a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A tag's number is not above the one before it.
    #[error("field {0:#04x} is out of order or repeated")]
    OutOfOrder(u8),
    /// A tag with the critical bit that this version does not know.
    #[error("it needs field {0:#04x}, which this version does not know: upgrade skynet")]
    UnknownCritical(u8),
    /// A required field is not there.
    #[error("field {0:#04x} is missing")]
    Missing(u8),
    /// A field whose length or content is not allowed.
    #[error("field {0:#04x} has a length or value that is not allowed")]
    Value(u8),
}

/// Appends fields in rising order of their numbers.
#[derive(Default, Debug)]
pub struct Writer {
    out: Vec<u8>,
    last: Option<u8>,
}

impl Writer {
    /// An empty sequence.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one field. Panics if the order is wrong or the value longer than 65,535 bytes: both are constants of
    /// the caller, never input.
    pub fn bytes(&mut self, tag: u8, value: &[u8]) {
        let number = tag & !CRITICAL;
        assert!(self.last.is_none_or(|last| last < number), "callers write tags in rising order");
        self.last = Some(number);
        self.out.push(tag);
        let length = u16::try_from(value.len()).expect("callers bound their values");
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(value);
    }

    /// Appends a list, or nothing if it is empty: optional lists have one encoding of "none".
    pub fn optional(&mut self, tag: u8, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(tag, value);
        }
    }

    /// Appends a `u8`.
    pub fn u8(&mut self, tag: u8, value: u8) {
        self.bytes(tag, &[value]);
    }

    /// Appends a `u16`, big-endian.
    pub fn u16(&mut self, tag: u8, value: u16) {
        self.bytes(tag, &value.to_be_bytes());
    }

    /// Appends a `u32`, big-endian.
    pub fn u32(&mut self, tag: u8, value: u32) {
        self.bytes(tag, &value.to_be_bytes());
    }

    /// Appends a `u64`, big-endian.
    pub fn u64(&mut self, tag: u8, value: u64) {
        self.bytes(tag, &value.to_be_bytes());
    }

    /// The encoded fields.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads fields in rising order of their numbers; whoever reads a tag says that he knows it.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    last: Option<u8>,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which hold fields and nothing else.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, last: None }
    }

    /// The field `tag` if it is there. Unknown fields before it are skipped, or refused if critical.
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, TlvError> {
        while let Some((found, value, rest)) = self.peek()? {
            if found & !CRITICAL > tag & !CRITICAL {
                return Ok(None);
            }
            if found != tag && found & CRITICAL != 0 {
                return Err(TlvError::UnknownCritical(found));
            }
            self.last = Some(found & !CRITICAL);
            self.rest = rest;
            if found == tag {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The field `tag`, which must be there.
    pub fn required(&mut self, tag: u8) -> Result<&'a [u8], TlvError> {
        self.optional(tag)?.ok_or(TlvError::Missing(tag))
    }

    /// A required field of exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, tag: u8) -> Result<[u8; N], TlvError> {
        self.required(tag)?.try_into().map_err(|_| TlvError::Value(tag))
    }

    /// An optional field of exactly `N` bytes.
    pub fn optional_array<const N: usize>(&mut self, tag: u8) -> Result<Option<[u8; N]>, TlvError> {
        self.optional(tag)?.map(|v| v.try_into().map_err(|_| TlvError::Value(tag))).transpose()
    }

    /// A required `u8`.
    pub fn u8(&mut self, tag: u8) -> Result<u8, TlvError> {
        Ok(self.array::<1>(tag)?[0])
    }

    /// A required `u32`.
    pub fn u32(&mut self, tag: u8) -> Result<u32, TlvError> {
        self.array(tag).map(u32::from_be_bytes)
    }

    /// A required `u64`.
    pub fn u64(&mut self, tag: u8) -> Result<u64, TlvError> {
        self.array(tag).map(u64::from_be_bytes)
    }

    /// A required text of at most `max` bytes: UTF-8 without control characters.
    pub fn text(&mut self, tag: u8, max: usize) -> Result<&'a str, TlvError> {
        let text = core::str::from_utf8(self.required(tag)?).map_err(|_| TlvError::Value(tag))?;
        if text.len() > max || text.chars().any(char::is_control) {
            return Err(TlvError::Value(tag));
        }
        Ok(text)
    }

    /// A required list of items read one after the other by `item`, at most `max` of them.
    pub fn list<T>(
        &mut self,
        tag: u8,
        max: usize,
        item: impl FnMut(&mut Cursor<'a>) -> Option<T>,
    ) -> Result<Vec<T>, TlvError> {
        let value = self.required(tag)?;
        read_list(value, max, item).ok_or(TlvError::Value(tag))
    }

    /// Like [`Reader::list`], but absent means empty, and present means not empty.
    pub fn optional_list<T>(
        &mut self,
        tag: u8,
        max: usize,
        item: impl FnMut(&mut Cursor<'a>) -> Option<T>,
    ) -> Result<Vec<T>, TlvError> {
        match self.optional(tag)? {
            None => Ok(Vec::new()),
            Some([]) => Err(TlvError::Value(tag)),
            Some(value) => read_list(value, max, item).ok_or(TlvError::Value(tag)),
        }
    }

    /// Checks what is left: unknown fields that are not critical, in order, and nothing behind them.
    pub fn finish(mut self) -> Result<(), TlvError> {
        while let Some((found, _, rest)) = self.peek()? {
            if found & CRITICAL != 0 {
                return Err(TlvError::UnknownCritical(found));
            }
            self.last = Some(found);
            self.rest = rest;
        }
        Ok(())
    }

    fn peek(&self) -> Result<Option<Field<'a>>, TlvError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut cursor = Cursor::new(self.rest);
        let tag = cursor.u8().ok_or(TlvError::Truncated)?;
        if self.last.is_some_and(|last| tag & !CRITICAL <= last) {
            return Err(TlvError::OutOfOrder(tag));
        }
        let length = cursor.u16().ok_or(TlvError::Truncated)?;
        let value = cursor.take(usize::from(length)).ok_or(TlvError::Truncated)?;
        Ok(Some((tag, value, cursor.rest())))
    }
}

/// Tag, value, and what follows.
type Field<'a> = (u8, &'a [u8], &'a [u8]);

fn read_list<'a, T>(
    value: &'a [u8],
    max: usize,
    mut item: impl FnMut(&mut Cursor<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut cursor = Cursor::new(value);
    let mut items = Vec::new();
    while !cursor.is_empty() {
        if items.len() == max {
            return None;
        }
        items.push(item(&mut cursor)?);
    }
    Some(items)
}

/// Reads fixed-size fields from the front of a slice; `None` when it ends too early.
#[derive(Clone, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }
    /// The next two bytes, big-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    /// The next eight bytes, big-endian.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    /// The next 18 bytes as an address and port (`addr18`).
    pub fn addr18(&mut self) -> Option<SocketAddr> {
        self.array().map(|b| address::decode(&b))
    }
    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(u8, Option<Vec<u8>>), TlvError> {
        let mut r = Reader::new(bytes);
        let a = r.u8(0x81)?;
        let b = r.optional(0x04)?.map(<[u8]>::to_vec);
        r.finish()?;
        Ok((a, b))
    }

    #[test]
    fn an_unknown_field_is_skipped_and_an_unknown_critical_one_refused() {
        assert_eq!(read(&[0x81, 0, 1, 7, 2, 0, 0, 4, 0, 1, 9, 5, 0, 0]), Ok((7, Some(vec![9]))));
        assert_eq!(read(&[0x81, 0, 1, 7, 0x82, 0, 0]), Err(TlvError::UnknownCritical(0x82)));
        assert_eq!(read(&[0x81, 0, 1, 7, 4, 0, 0, 0x85, 0, 0]), Err(TlvError::UnknownCritical(0x85)));
    }

    #[test]
    fn a_number_appears_once_whatever_its_critical_bit() {
        assert_eq!(read(&[0x81, 0, 1, 7, 0x01, 0, 0]), Err(TlvError::OutOfOrder(1)));
        assert_eq!(read(&[0x01, 0, 0, 0x81, 0, 1, 7]), Err(TlvError::OutOfOrder(0x81)));
        assert_eq!(read(&[0x84, 0, 0]), Err(TlvError::Missing(0x81)));
    }

    #[test]
    fn truncation_and_wrong_lengths_are_refused() {
        let whole = [0x81, 0, 1, 7, 4, 0, 2, 8, 9];
        assert!(read(&whole).is_ok());
        for n in [1, 2, 3, 5, 6, 7, 8] {
            assert_eq!(read(&whole[..n]), Err(TlvError::Truncated), "{n}");
        }
        assert_eq!(read(&[]), Err(TlvError::Missing(0x81)));
        assert_eq!(read(&[0x81, 0, 2, 7, 7]), Err(TlvError::Value(0x81)));
    }

    #[test]
    fn the_writer_yields_what_the_reader_expects() {
        let mut w = Writer::new();
        w.u8(0x81, 7);
        w.optional(0x03, &[]);
        w.bytes(0x04, &[1]);
        assert_eq!(read(&w.finish()), Ok((7, Some(vec![1]))));
    }
}
