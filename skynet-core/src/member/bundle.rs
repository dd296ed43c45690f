//! A member's documents as they travel: delegation, certificate, binding, receipt, record.

use super::certificate::{Certificate, Delegation};
use super::document::{Content, DocumentError, Kind, Signed, kind_of};
use super::record::{Binding, Receipt, Record};
use super::tlv::Cursor;

/// Longest bundle in bytes.
pub const MAX_BUNDLE: usize = 4_096;

/// `u8 count | count × { u16 length, document }`, in the order of the fields below. Parsed, not verified.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What the token allows.
    pub delegation: Signed<Delegation>,
    /// Who the node is.
    pub certificate: Signed<Certificate>,
    /// Its session key.
    pub binding: Signed<Binding>,
    /// The registrar's word; a node that joins for the first time has none.
    pub receipt: Option<Signed<Receipt>>,
    /// Where it can be reached.
    pub record: Option<Signed<Record>>,
}

impl Bundle {
    /// Parses exactly one bundle.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(DocumentError::Length);
        }
        let mut cursor = Cursor::new(bytes);
        let count = cursor.u8().ok_or(DocumentError::Length)?;
        let mut documents = Vec::new();
        for _ in 0..count.min(6) {
            let length = cursor.u16().ok_or(DocumentError::Length)?;
            documents.push(cursor.take(usize::from(length)).ok_or(DocumentError::Length)?);
        }
        if !cursor.is_empty() {
            return Err(DocumentError::Length);
        }
        let mut documents = documents.into_iter().peekable();
        let bundle = Self {
            delegation: required(documents.next())?,
            certificate: required(documents.next())?,
            binding: required(documents.next())?,
            receipt: documents
                .next_if(|d| kind_of(d) == Some(Kind::Receipt))
                .map(Signed::parse)
                .transpose()?,
            record: documents.next().map(Signed::parse).transpose()?,
        };
        if documents.next().is_some() { Err(DocumentError::Length) } else { Ok(bundle) }
    }

    /// The bundle's bytes. Documents of the maximal size would not fit [`MAX_BUNDLE`]; legal content does.
    pub fn encode(&self) -> Vec<u8> {
        let mut documents = vec![self.delegation.bytes(), self.certificate.bytes(), self.binding.bytes()];
        documents.extend(self.receipt.as_ref().map(Signed::bytes));
        documents.extend(self.record.as_ref().map(Signed::bytes));
        let mut out = vec![u8::try_from(documents.len()).expect("at most five")];
        for document in documents {
            let length = u16::try_from(document.len()).expect("a document has at most 1,024 bytes");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(document);
        }
        out
    }
}

fn required<T: Content>(document: Option<&[u8]>) -> Result<Signed<T>, DocumentError> {
    Signed::parse(document.ok_or(DocumentError::Length)?)
}
