//! `relay`: where the relay is, if not where token and manifest say, and how it is reached where UDP is dead.

use std::net::SocketAddr;

use serde::Deserialize;
use skynet_tls::{NoProxy, Proxy, Route};

use crate::secret::SecretText;

/// The section as it is written; an address alone is the whole of it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RelaySection {
    Address(SocketAddr),
    Section(Section),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Section {
    address: Option<SocketAddr>,
    tls: Option<String>,
    proxy: Option<SecretText>,
}

impl RelaySection {
    /// A secret of it is to be read from a file.
    pub(super) fn names_a_file(&self) -> bool {
        matches!(self, Self::Section(Section { proxy: Some(proxy), .. }) if proxy.is_file())
    }

    pub(super) fn split(section: Option<Self>) -> (Option<SocketAddr>, Option<String>, Option<SecretText>) {
        match section {
            None => (None, None, None),
            Some(Self::Address(address)) => (Some(address), None, None),
            Some(Self::Section(s)) => (s.address, s.tls, s.proxy),
        }
    }
}

/// What the environment says of proxies, in the words of other programs.
#[derive(Clone, Default)]
pub struct ProxyEnvironment {
    /// `https_proxy` or `HTTPS_PROXY`.
    pub proxy: Option<String>,
    /// `no_proxy` or `NO_PROXY`.
    pub exceptions: Option<String>,
}

impl std::fmt::Debug for ProxyEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The value may hold a password.
        f.debug_struct("ProxyEnvironment").field("proxy", &self.proxy.is_some()).finish_non_exhaustive()
    }
}

impl ProxyEnvironment {
    /// Of this process.
    pub fn of_process() -> Self {
        let first = |names: [&str; 2]| {
            names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        };
        Self { proxy: first(["https_proxy", "HTTPS_PROXY"]), exceptions: first(["no_proxy", "NO_PROXY"]) }
    }
}

/// How relays are reached by TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsWays {
    /// `HOST`, `HOST:PORT` or `:PORT` in place of port 443 of the relay's address.
    instead: Option<String>,
    proxy: Option<Proxy>,
    exceptions: NoProxy,
}

impl TlsWays {
    /// The configured proxy, or else the environment's; `off` is none.
    pub(super) fn new(
        instead: Option<String>,
        proxy: Option<SecretText>,
        environment: &ProxyEnvironment,
    ) -> Result<Self, (&'static str, String)> {
        if let Some(text) = &instead {
            let any = std::net::Ipv4Addr::UNSPECIFIED.into();
            Route::new(any, Some(text), None)
                .ok_or_else(|| ("relay.tls", format!("{text:?}: write HOST, HOST:PORT or :PORT")))?;
        }
        let mut ways = Self { instead, ..Self::default() };
        match proxy {
            Some(text) => {
                let text = text.resolve().map_err(|e| ("relay.proxy", e.to_string()))?;
                if !matches!(text.as_str(), "off" | "none" | "") {
                    ways.proxy = Some(
                        text.parse().map_err(|e: skynet_tls::ProxyError| ("relay.proxy", e.to_string()))?,
                    );
                }
            }
            None => match environment.proxy.as_deref().map(str::parse::<Proxy>) {
                Some(Ok(proxy)) => {
                    ways.proxy = Some(proxy);
                    ways.exceptions = NoProxy::new(environment.exceptions.as_deref().unwrap_or_default());
                }
                // It is meant for other programs as well, which may understand it.
                Some(Err(error)) => tracing::warn!("HTTPS_PROXY is not used: {error}"),
                None => {}
            },
        }
        Ok(ways)
    }

    /// For one relay of several: a host that is configured is the first relay's, a port alone is that of all.
    #[must_use]
    pub fn of(&self, is_first: bool) -> Self {
        let instead = self.instead.clone().filter(|text| is_first || text.starts_with(':'));
        Self { instead, ..self.clone() }
    }

    /// To the TLS port itself.
    pub fn direct(&self, relay: SocketAddr) -> Route {
        Route::new(relay.ip(), self.instead.as_deref(), None).expect("was tried when it was read")
    }

    /// Through the proxy, if there is one for it.
    pub fn proxied(&self, relay: SocketAddr) -> Option<Route> {
        let route = self.direct(relay);
        let proxy = self.proxy.clone().filter(|_| !self.exceptions.covers(&route.host))?;
        Some(Route { proxy: Some(proxy), ..route })
    }

    /// The proxy, to be shown.
    pub fn proxy_name(&self) -> Option<String> {
        self.proxy.as_ref().map(Proxy::authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> SocketAddr {
        "203.0.113.10:3478".parse().unwrap()
    }

    fn environment(proxy: &str, exceptions: &str) -> ProxyEnvironment {
        ProxyEnvironment { proxy: Some(proxy.to_owned()), exceptions: Some(exceptions.to_owned()) }
    }

    #[test]
    fn what_is_configured_beats_the_environment() {
        let configured = Some(SecretText::new("http://me:pw@inside:8080".to_owned()));
        let ways = TlsWays::new(None, configured, &environment("http://other:1", "*")).unwrap();
        assert_eq!(ways.proxied(relay()).unwrap().proxy.unwrap().authority(), "inside:8080");
        let off = TlsWays::new(None, Some(SecretText::new("off".to_owned())), &environment("http://p:1", ""));
        assert_eq!(off.unwrap().proxied(relay()), None);
    }

    #[test]
    fn the_environments_proxy_has_exceptions_and_a_bad_one_is_ignored() {
        let ways = TlsWays::new(None, None, &environment("p:3128", "203.0.113.0/24")).unwrap();
        assert_eq!(ways.proxied(relay()), None);
        let ways = TlsWays::new(None, None, &environment("p:3128", "example.org")).unwrap();
        assert!(ways.proxied(relay()).is_some());
        let ways = TlsWays::new(None, None, &environment("socks5://p:1", "")).unwrap();
        assert_eq!(ways.proxied(relay()), None);
    }

    #[test]
    fn a_host_is_the_first_relays_and_a_port_that_of_all() {
        let of = |text: &str, is_first| {
            let ways = TlsWays::new(Some(text.to_owned()), None, &ProxyEnvironment::default()).unwrap();
            let route = ways.of(is_first).direct(relay());
            (route.host, route.port)
        };
        let own = relay().ip().to_string();
        assert_eq!(of("relay.example:8443", true), ("relay.example".to_owned(), 8443));
        assert_eq!(of("relay.example:8443", false), (own.clone(), 443));
        assert_eq!(of(":8443", false), (own, 8443));
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let none = ProxyEnvironment::default();
        let bad = TlsWays::new(Some("a b".to_owned()), None, &none).unwrap_err();
        assert_eq!(bad.0, "relay.tls");
        let bad = TlsWays::new(None, Some(SecretText::new("https://p:1".to_owned())), &none).unwrap_err();
        assert_eq!(bad.0, "relay.proxy");
    }
}
