//! The node's end of a new connection, up to the stream inside: TCP or a proxy's tunnel, TLS, upgrade.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skynet_core::carrier::http::{self, Answer};
use skynet_core::control::channel::Purpose;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::{Proxy, authority, host_and_port};
use crate::verifier::AnyCertificate;
use crate::{HANDSHAKE_DEADLINE, bound_segments, head, tune};

/// The node's end of a stream.
pub type ClientStream = TlsStream<TcpStream>;

/// Where a relay's TLS port is, and through what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Name or address of the relay, without brackets.
    pub host: String,
    /// Its TLS port.
    pub port: u16,
    /// The proxy to ask, if not directly.
    pub proxy: Option<Proxy>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A name without an address.
    #[error("{0} has no address")]
    Unresolved(String),
    /// No TCP connection.
    #[error("no TCP connection to {0}: {1}")]
    Connect(String, io::Error),
    /// The proxy wants another name or password.
    #[error("the proxy {0} wants a user and password: give them in `proxy` (http://USER:PASSWORD@HOST:PORT)")]
    ProxyCredentials(String),
    /// The proxy does not open a tunnel.
    #[error("the proxy {0} refuses a tunnel to {1} (HTTP {2}): ask its operator to allow CONNECT there")]
    ProxyRefused(String, String, u16),
    /// The proxy speaks something else.
    #[error("{0} is no HTTP proxy: {1}")]
    Proxy(String, io::Error),
    /// No TLS there.
    #[error("no TLS at {0}: {1}")]
    Tls(String, io::Error),
    /// A web server, but no relay.
    #[error("{0} is no relay (HTTP {1})")]
    NoRelay(String, u16),
    /// All of it took too long.
    #[error("no answer from {0}")]
    Timeout(String),
}

impl Route {
    /// The relay of that address, or what the operator says instead: `HOST`, `HOST:PORT` or `:PORT`.
    pub fn new(relay: IpAddr, instead: Option<&str>, proxy: Option<Proxy>) -> Option<Self> {
        let (host, port) = match instead {
            None => (None, None),
            Some(text) => match text.strip_prefix(':') {
                Some(port) => (None, Some(port.parse().ok().filter(|port| *port != 0)?)),
                None => {
                    let (host, port) = host_and_port(text)?;
                    (Some(host), port)
                }
            },
        };
        let host = host.unwrap_or_else(|| relay.to_canonical().to_string());
        Some(Self { host, port: port.unwrap_or(443), proxy })
    }

    fn target(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Opens streams. Cheap to clone.
#[derive(Clone)]
pub struct Dialer(TlsConnector);

impl Dialer {
    /// One that takes any certificate.
    #[allow(clippy::new_without_default, reason = "builds a provider; nothing about it is a default")]
    pub fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![http::ALPN.to_vec()];
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Opens a stream for `purpose` within [`HANDSHAKE_DEADLINE`]. With it, what of it has come already.
    ///
    /// # Errors
    /// Where it ended, and why.
    pub async fn dial(&self, route: &Route, purpose: Purpose) -> Result<(ClientStream, Vec<u8>), DialError> {
        let late = |_| DialError::Timeout(route.target());
        tokio::time::timeout(HANDSHAKE_DEADLINE, self.begin(route, purpose)).await.map_err(late)?
    }

    /// TLS alone, on a connection that leads to the relay.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn envelope(&self, route: &Route, stream: TcpStream) -> io::Result<ClientStream> {
        let name = ServerName::try_from(route.host.clone()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }

    async fn begin(&self, route: &Route, purpose: Purpose) -> Result<(ClientStream, Vec<u8>), DialError> {
        let target = route.target();
        let stream = match &route.proxy {
            None => connect(&route.host, route.port).await?,
            Some(proxy) => tunnel(proxy, &target).await?,
        };
        let tls = |error| DialError::Tls(target.clone(), error);
        let mut stream = self.envelope(route, stream).await.map_err(tls)?;
        stream.write_all(&http::upgrade_request(purpose, &target)).await.map_err(tls)?;
        stream.flush().await.map_err(tls)?;
        let (answer, early) = head::read(&mut stream, http::parse_answer).await.map_err(tls)?;
        if !answer.is_upgrade() {
            return Err(DialError::NoRelay(target, answer.status));
        }
        Ok((stream, early))
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let place = authority(host, port);
    let failed = |error| DialError::Connect(place.clone(), error);
    let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let mut last = None;
    for address in found.take(4) {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| DialError::Unresolved(host.to_owned()), failed))
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    bound_segments(&socket);
    let stream = socket.connect(address).await?;
    tune(&stream);
    Ok(stream)
}

async fn tunnel(proxy: &Proxy, target: &str) -> Result<TcpStream, DialError> {
    let mut stream = connect(&proxy.host, proxy.port).await?;
    let name = proxy.authority();
    let failed = |error| DialError::Proxy(name.clone(), error);
    let request = http::connect_request(target, proxy.credentials.as_ref().map(|c| c.as_str()));
    stream.write_all(&request).await.map_err(failed)?;
    let (answer, early): (Answer, _) = head::read(&mut stream, http::parse_answer).await.map_err(failed)?;
    match answer.status {
        _ if answer.is_tunnel() && early.is_empty() => Ok(stream),
        407 => Err(DialError::ProxyCredentials(name)),
        status => Err(DialError::ProxyRefused(name, target.to_owned(), status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(instead: Option<&str>) -> Option<String> {
        Route::new("203.0.113.10".parse().unwrap(), instead, None).map(|route| route.target())
    }

    /// Dials through somebody who answers every connection with `says`.
    fn dial_by(says: &'static [u8]) -> DialError {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let n = client.read(&mut head).unwrap();
            client.write_all(says).unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        let proxy_route = format!("http://me:pw@127.0.0.1:{port}").parse().unwrap();
        let route = Route { host: "203.0.113.10".into(), port: 443, proxy: Some(proxy_route) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(Dialer::new().dial(&route, Purpose::Frames)).unwrap_err();
        let asked = proxy.join().unwrap();
        assert!(asked.starts_with("CONNECT 203.0.113.10:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Proxy-Authorization: Basic bWU6cHc=\r\n"), "{asked}");
        error
    }

    #[test]
    fn a_proxy_that_refuses_is_named_with_the_cure_and_without_the_password() {
        let cases: [(&[u8], &str); 5] = [
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user and password"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refuses a tunnel to 203.0.113.10:443 (HTTP 403)"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP proxy"),
            (b"", "no HTTP proxy"),
            (b"HTTP/1.1 200 OK\r\n\r\nbut no TLS behind", "refuses a tunnel"),
        ];
        for (says, expected) in cases {
            let error = dial_by(says).to_string();
            assert!(error.contains(expected) && !error.contains("pw@"), "{error}");
        }
    }

    #[test]
    fn a_relays_tls_port_is_443_of_the_same_host_unless_told() {
        assert_eq!(route(None).as_deref(), Some("203.0.113.10:443"));
        assert_eq!(route(Some(":8443")).as_deref(), Some("203.0.113.10:8443"));
        assert_eq!(route(Some("relay.example")).as_deref(), Some("relay.example:443"));
        assert_eq!(route(Some("relay.example:4433")).as_deref(), Some("relay.example:4433"));
        assert_eq!(route(Some("[2001:db8::1]:443")).as_deref(), Some("[2001:db8::1]:443"));
        for bad in ["", ":0", ":x", "a b", "a:b:c"] {
            assert_eq!(route(Some(bad)), None, "{bad:?}");
        }
    }
}
