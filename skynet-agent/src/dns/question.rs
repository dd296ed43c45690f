//! A query's bytes to a [`Question`], and an answer's parts to bytes.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{MAX_QUERY, TTL};

/// Bytes of a DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Bit QR: it is a response.
const RESPONSE: u8 = 0x80;

/// What came.
#[derive(Debug)]
pub enum Parsed {
    /// One question, to be answered from the zone.
    Ask(Question),
    /// Nothing of the zone is wanted: this is the answer.
    Reply(Vec<u8>),
    /// Not a query: no answer, or two servers would talk to each other.
    Silence,
}

/// One question for one name.
#[derive(Clone, Debug)]
pub struct Question {
    metadata: Metadata,
    query: Query,
    edns: bool,
}

impl Question {
    /// Never panics.
    pub fn parse(bytes: &[u8]) -> Parsed {
        if bytes.len() < HEADER || bytes.len() > MAX_QUERY || bytes[2] & RESPONSE != 0 {
            return Parsed::Silence;
        }
        let Ok(mut message) = Message::from_vec(bytes) else {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            return refuse(
                Metadata::new(id, MessageType::Query, OpCode::Query),
                false,
                ResponseCode::FormErr,
            );
        };
        let (metadata, edns) = (message.metadata, message.edns.is_some());
        if metadata.op_code != OpCode::Query {
            return refuse(metadata, edns, ResponseCode::NotImp);
        }
        if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return refuse(metadata, edns, ResponseCode::BADVERS);
        }
        match message.queries.pop() {
            Some(query) if message.queries.is_empty() => Parsed::Ask(Self { metadata, query, edns }),
            _ => refuse(metadata, edns, ResponseCode::FormErr),
        }
    }

    /// Whose it is about.
    pub fn name(&self) -> &Name {
        &self.query.name
    }

    /// What is asked of it; `None` for a class other than the internet's.
    pub fn kind(&self) -> Option<RecordType> {
        matches!(self.query.query_class, DNSClass::IN | DNSClass::ANY).then_some(self.query.query_type)
    }

    /// Not known here, whatever it is.
    pub fn refused(&self) -> Vec<u8> {
        self.reply(ResponseCode::Refused, Vec::new(), None)
    }

    /// Not known now.
    pub fn failed(&self) -> Vec<u8> {
        self.reply(ResponseCode::ServFail, Vec::new(), None)
    }

    /// What the zone has, or its start of authority with the owner's name (RFC 2308 §2).
    pub(super) fn answered(&self, exists: bool, answers: Vec<RData>, soa: Option<(Name, RData)>) -> Vec<u8> {
        let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        self.reply(code, answers, soa)
    }

    fn reply(&self, code: ResponseCode, answers: Vec<RData>, soa: Option<(Name, RData)>) -> Vec<u8> {
        let mut message = begin(self.metadata, self.edns, code);
        message.metadata.authoritative = !matches!(code, ResponseCode::Refused | ResponseCode::ServFail);
        // As it was asked, letter by letter: whoever asks may have hidden a nonce in their case.
        message.add_query(self.query.clone());
        let owner = self.name();
        message.add_answers(answers.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL, data)));
        message.add_authorities(soa.map(|(owner, data)| Record::from_rdata(owner, TTL, data)));
        encode(&message)
    }
}

fn begin(query: Metadata, edns: bool, code: ResponseCode) -> Message {
    let mut message = Message::response(query.id, query.op_code);
    message.metadata = Metadata::response_from_request(&query);
    message.metadata.response_code = code;
    if edns {
        let mut own = Edns::new();
        own.set_max_payload(u16::try_from(MAX_QUERY).expect("a small constant"));
        message.set_edns(own);
    }
    message
}

fn refuse(query: Metadata, edns: bool, code: ResponseCode) -> Parsed {
    Parsed::Reply(encode(&begin(query, edns, code)))
}

/// The only failure is a message too long for DNS; ours have a record or two.
fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}
