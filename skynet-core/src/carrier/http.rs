//! The few lines of HTTP/1.1 around a carrier: the request that asks for an upgrade (RFC 9110 §7.8) and its answer, the
//! page everybody else gets, and CONNECT for proxies (RFC 9110 §9.3.6).
//!
//! Heads are read by `httparse` within [`MAX_HEAD`] bytes and [`MAX_HEADERS`] fields. A parse says how long the head
//! was: what follows belongs to the stream.

use core::fmt::Write as _;

use data_encoding::BASE64;

use crate::control::channel::Purpose;

/// Longest head of a request or an answer, bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// Most header fields: more than any proxy adds.
pub const MAX_HEADERS: usize = 64;
/// The token in `Upgrade`.
const UPGRADE: &str = "skynet/1";
/// ALPN's name of the protocol (RFC 7301).
pub const ALPN: &[u8] = b"http/1.1";

/// Why bytes are no head of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`MAX_HEAD`], or with more fields than [`MAX_HEADERS`].
    #[error("HTTP head too long")]
    TooLong,
    /// Not HTTP/1.
    #[error("not HTTP")]
    Malformed,
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        if error == httparse::Error::TooManyHeaders { Self::TooLong } else { Self::Malformed }
    }
}

/// What a client of the relay's TLS port wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A stream for this.
    Upgrade(Purpose),
    /// Anything else a web server is asked: gets an answer of a web server.
    Page {
        /// The status of the answer.
        status: Status,
        /// HEAD: the answer has no body.
        head_only: bool,
    },
}

/// The status of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// 200.
    Ok,
    /// 400.
    BadRequest,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
}

/// The head of an answer, of a relay or a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// It switches to our protocol.
    pub upgraded: bool,
}

impl Answer {
    /// Whether a relay has let us in.
    pub fn is_upgrade(&self) -> bool {
        self.status == 101 && self.upgraded
    }
    /// Whether a proxy has opened the tunnel.
    pub fn is_tunnel(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Reads the head of a request; `None` if it is not complete. With its length.
///
/// # Errors
/// Bytes that no more bytes make a head.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    let Some(len) = complete(head.parse(bytes)?, bytes)? else { return Ok(None) };
    let (method, path) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let upgrade = purpose_of(path).filter(|_| method == "GET" && asks_for_us(head.headers));
    let status = match (method, path) {
        ("GET" | "HEAD", "/" | "/index.html") => Status::Ok,
        ("GET" | "HEAD", _) => Status::NotFound,
        _ => Status::MethodNotAllowed,
    };
    let page = Request::Page { status, head_only: method == "HEAD" };
    Ok(Some((upgrade.map_or(page, Request::Upgrade), len)))
}

/// Reads the head of an answer; `None` if it is not complete. With its length.
///
/// # Errors
/// Bytes that no more bytes make a head.
pub fn parse_answer(bytes: &[u8]) -> Result<Option<(Answer, usize)>, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut fields);
    let Some(len) = complete(head.parse(bytes)?, bytes)? else { return Ok(None) };
    let answer = Answer { status: head.code.unwrap_or(0), upgraded: asks_for_us(head.headers) };
    Ok(Some((answer, len)))
}

fn complete(status: httparse::Status<usize>, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    match status {
        httparse::Status::Complete(len) if len <= MAX_HEAD => Ok(Some(len)),
        httparse::Status::Partial if bytes.len() < MAX_HEAD => Ok(None),
        _ => Err(HeadError::TooLong),
    }
}

/// `Upgrade: skynet/1`, alone or in a list.
fn asks_for_us(fields: &[httparse::Header<'_>]) -> bool {
    let named = |f: &&httparse::Header<'_>| f.name.eq_ignore_ascii_case("upgrade");
    let ours = |f: &httparse::Header<'_>| {
        core::str::from_utf8(f.value)
            .is_ok_and(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case(UPGRADE)))
    };
    fields.iter().filter(named).any(ours)
}

fn path_of(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Control => "/skynet/v1/control",
        Purpose::Frames => "/skynet/v1/frames",
    }
}

fn purpose_of(path: &str) -> Option<Purpose> {
    [Purpose::Control, Purpose::Frames].into_iter().find(|purpose| path_of(*purpose) == path)
}

/// The node's request for a stream. `host` is an authority ([`is_authority`]).
pub fn upgrade_request(purpose: Purpose, host: &str) -> Vec<u8> {
    let path = path_of(purpose);
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n").into()
}

/// The relay's answer to it.
pub fn upgrade_answer() -> Vec<u8> {
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n").into()
}

/// Asks a proxy for a tunnel to `target`, an authority with a port; with credentials for Basic (RFC 7617) if it wants
/// some.
pub fn connect_request(target: &str, credentials: Option<&str>) -> Vec<u8> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = credentials {
        let encoded = BASE64.encode(credentials.as_bytes());
        write!(head, "Proxy-Authorization: Basic {encoded}\r\n").expect("a string takes what is written");
    }
    head.push_str("\r\n");
    head.into()
}

/// Whether a text can stand where HTTP wants a host and port: no blank, no control character, nothing of a URL's other
/// parts.
pub fn is_authority(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]%".contains(&b);
    !text.is_empty() && text.len() <= 300 && text.bytes().all(allowed)
}

/// What everybody else is answered, to the end of the connection.
pub fn page(status: Status, head_only: bool) -> Vec<u8> {
    let (line, text) = match status {
        Status::Ok => ("200 OK", "It works."),
        Status::BadRequest => ("400 Bad Request", "Bad request."),
        Status::NotFound => ("404 Not Found", "Not found."),
        Status::MethodNotAllowed => ("405 Method Not Allowed", "Method not allowed."),
    };
    let body = format!("<!doctype html><html lang=en><title>{line}</title><p>{text}</p></html>\n");
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {line}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len}\r\n{allow}Connection: close\r\n\r\n"
    );
    (if head_only { head } else { head + &body }).into()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
