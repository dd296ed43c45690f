//! One HTTP request to a metadata service: no redirect is followed, no proxy asked, nothing read beyond the bounds.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LONG_PATIENCE, PATIENCE, Silence};

/// Of an answer's body, bytes, unless said otherwise: an address, a token, or a short list.
pub(super) const MAX_BODY: usize = 4_096;
/// Of an answer's head, bytes; the least that the parser takes.
const MAX_HEAD: usize = 8_192;
const MAX_HEADERS: usize = 32;

pub(super) enum Verb {
    Get,
    Put,
}

/// A request to be sent.
pub(super) struct Ask<'a> {
    verb: Verb,
    path: &'a str,
    header: Option<(&'a str, &'a str)>,
    max_body: usize,
    patience: Duration,
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: u16,
    /// The header `Metadata-Flavor`.
    pub(super) flavor: Option<String>,
    pub(super) text: String,
}

impl<'a> Ask<'a> {
    pub(super) fn new(verb: Verb, path: &'a str) -> Self {
        Self { verb, path, header: None, max_body: MAX_BODY, patience: PATIENCE }
    }

    pub(super) fn header(self, name: &'a str, value: &'a str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// An answer of more than an address is expected, for which somebody waits.
    pub(super) fn up_to(self, max_body: usize) -> Self {
        Self { max_body, patience: LONG_PATIENCE, ..self }
    }

    /// Sends it and reads the answer, all in the time there is.
    pub(super) async fn send(self, to: SocketAddr) -> Result<Reply, Silence> {
        let patience = self.patience;
        timeout(patience, self.exchange(to)).await.map_err(|_| Silence::Slow(patience))?
    }

    async fn exchange(self, to: SocketAddr) -> Result<Reply, Silence> {
        let request = self.request(to)?;
        let stream = TcpStream::connect(to).await.map_err(|_| Silence::Absent)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|_| Silence::Garbage)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|_| Silence::Garbage)?;
            read(response, self.max_body).await
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            reply = &mut exchange => return reply,
            // It is over; what it brought is there to be read.
            _ = connection => {}
        }
        exchange.await
    }

    fn request(&self, to: SocketAddr) -> Result<Request<Empty<Bytes>>, Silence> {
        let method = match self.verb {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
        };
        let mut request = Request::builder().method(method).uri(self.path).header(HOST, to.ip().to_string());
        if let Some((name, value)) = self.header {
            request = request.header(name, value);
        }
        request.body(Empty::new()).map_err(|_| Silence::Garbage)
    }
}

async fn read(response: Response<hyper::body::Incoming>, max_body: usize) -> Result<Reply, Silence> {
    let status = response.status().as_u16();
    let flavor = response.headers().get("Metadata-Flavor").and_then(|v| v.to_str().ok()).map(str::to_owned);
    if status != 200 {
        return Ok(Reply { status, flavor, text: String::new() });
    }
    let body = Limited::new(response.into_body(), max_body).collect().await.map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() { Silence::TooLong(max_body) } else { Silence::Garbage }
    })?;
    let text = String::from_utf8(body.to_bytes().to_vec()).map_err(|_| Silence::Garbage)?;
    Ok(Reply { status, flavor, text })
}
