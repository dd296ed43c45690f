//! The path to a stock WireGuard peer: configured, and roaming as the paper's §2.1 says.

use std::net::SocketAddr;

use super::candidate::canonical;

/// One endpoint, replaced by the source of the last *authenticated* message. No probes: the peer knows none.
#[derive(Clone, Debug, Default)]
pub struct StockPath {
    endpoint: Option<SocketAddr>,
}

impl StockPath {
    /// Starts at the configured endpoint, if there is one; else the peer must speak first.
    pub fn new(configured: Option<SocketAddr>) -> Self {
        Self { endpoint: configured.map(canonical) }
    }

    /// An authenticated message came from `source`. True if the endpoint moved.
    pub fn handle_authenticated(&mut self, source: SocketAddr) -> bool {
        let source = canonical(source);
        self.endpoint.replace(source) != Some(source)
    }

    /// Where to send.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_last_authenticated_source() {
        let mut path = StockPath::new(None);
        assert_eq!(path.endpoint(), None);
        let source = "198.51.100.2:51820".parse().unwrap();
        assert!(path.handle_authenticated(source));
        assert!(!path.handle_authenticated("[::ffff:198.51.100.2]:51820".parse().unwrap()));
        assert_eq!(path.endpoint(), Some(source));
    }
}
