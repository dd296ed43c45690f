//! The relay's end of a new connection, up to the stream inside: TLS, one request, its answer.

use std::io;

use skynet_core::carrier::http::{self, Request, Status};
use skynet_core::control::channel::Purpose;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{HANDSHAKE_DEADLINE, head, tune};

/// The relay's end of a stream.
pub type ServerStream = TlsStream<TcpStream>;

/// What became of a connection.
pub enum Accepted {
    /// A stream for this purpose, and what of it came together with the request.
    Stream(Purpose, Box<ServerStream>, Vec<u8>),
    /// Somebody who wanted a web server has been answered as one.
    Page,
}

/// Does the handshake and answers the request, within [`HANDSHAKE_DEADLINE`].
///
/// # Errors
/// No TLS, no request in time, or the connection broke.
pub async fn accept(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<Accepted> {
    tune(&stream);
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(HANDSHAKE_DEADLINE, begin(acceptor, stream)).await.map_err(late)?
}

async fn begin(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<Accepted> {
    let mut stream = acceptor.accept(stream).await?;
    let (status, head_only) = match head::read(&mut stream, http::parse_request).await {
        Ok((Request::Upgrade(purpose), early)) => {
            stream.write_all(&http::upgrade_answer()).await?;
            stream.flush().await?;
            return Ok(Accepted::Stream(purpose, Box::new(stream), early));
        }
        Ok((Request::Page { status, head_only }, _)) => (status, head_only),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => (Status::BadRequest, false),
        Err(error) => return Err(error),
    };
    stream.write_all(&http::page(status, head_only)).await?;
    stream.shutdown().await?;
    Ok(Accepted::Page)
}
