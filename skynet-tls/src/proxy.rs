//! Which HTTP proxy, and for which hosts none.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use skynet_core::carrier::http::is_authority;
use zeroize::Zeroizing;

/// What nearly every proxy listens on if nothing is said.
const DEFAULT_PORT: u16 = 3128;

/// An HTTP proxy that opens tunnels (CONNECT).
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `user:password` for Basic.
    pub(crate) credentials: Option<Zeroizing<String>>,
}

/// A text that names no proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme than `http`.
    #[error("only http:// proxies are supported; TLS to the relay runs inside")]
    Scheme,
    /// Not host and port.
    #[error("no proxy: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    Malformed,
}

impl Proxy {
    /// Host and port, to be shown: never the credentials.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Host and port as HTTP writes them.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.credentials.is_some() { "…@" } else { "" };
        write!(f, "{secret}{}", self.authority())
    }
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let text = text.trim();
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => text,
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // A password may hold an `@` that nobody has escaped.
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(unescape(credentials).ok_or(ProxyError::Malformed)?), place),
            None => (None, rest),
        };
        let (host, port) = host_and_port(place).ok_or(ProxyError::Malformed)?;
        Ok(Self { host, port: port.unwrap_or(DEFAULT_PORT), credentials })
    }
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
pub(crate) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if !is_authority(text) {
        return None;
    }
    if let Ok(IpAddr::V6(ip)) = text.parse() {
        return Some((ip.to_string(), None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port =
        port.map(|port| port.parse().ok().filter(|port| *port != 0)).map_or(Some(None), |p| p.map(Some))?;
    (!host.is_empty() && !host.contains(['[', ']'])).then(|| (host.to_owned(), port))
}

/// Percent-encoding (RFC 3986 §2.1) undone.
fn unescape(text: &str) -> Option<Zeroizing<String>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(core::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out.to_vec()).ok().map(Zeroizing::new)
}

/// Hosts that are reached without a proxy, as `NO_PROXY` lists them: names with everything below them, addresses,
/// prefixes, or `*` for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NoProxy(Vec<String>);

impl NoProxy {
    /// Of a list with commas.
    pub fn new(list: &str) -> Self {
        Self(
            list.split(',')
                .map(|entry| entry.trim().to_ascii_lowercase())
                .filter(|e| !e.is_empty())
                .collect(),
        )
    }

    /// Whether `host` is one of them.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        self.0.iter().any(|entry| match (entry.as_str(), ip) {
            ("*", _) => true,
            (entry, Some(ip)) => entry.parse() == Ok(ip) || in_prefix(entry, ip),
            (entry, None) => {
                let name = entry.trim_start_matches("*.").trim_start_matches('.');
                host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
            }
        })
    }
}

fn in_prefix(entry: &str, ip: IpAddr) -> bool {
    let Some((base, len)) = entry.split_once('/') else { return false };
    let (Ok(base), Ok(len)) = (base.parse::<IpAddr>(), len.parse::<u32>()) else { return false };
    let (base, ip, width) = match (base, ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => (u128::from(u32::from(base)), u128::from(u32::from(ip)), 32),
        (IpAddr::V6(base), IpAddr::V6(ip)) => (u128::from(base), u128::from(ip), 128),
        _ => return false,
    };
    len <= width && (len == 0 || (base ^ ip) >> (width - len) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>) {
        let proxy: Proxy = text.parse().unwrap();
        (proxy.authority(), proxy.credentials.map(|c| c.to_string()))
    }

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parsed("http://proxy.example:8080"), ("proxy.example:8080".into(), None));
        assert_eq!(parsed(" HTTP://proxy.example/ "), ("proxy.example:3128".into(), None));
        assert_eq!(parsed("10.0.0.1:3128"), ("10.0.0.1:3128".into(), None));
        assert_eq!(parsed("http://[2001:db8::1]:80"), ("[2001:db8::1]:80".into(), None));
        let with = |c: &str| ("p:1".to_owned(), Some(c.to_owned()));
        assert_eq!(parsed("http://me:s3cret@p:1"), with("me:s3cret"));
        assert_eq!(parsed("http://me:a%40b%3a@p:1"), with("me:a@b:"));
        assert_eq!(parsed("http://me:a@b@p:1"), with("me:a@b"));
    }

    #[test]
    fn refuses_what_is_no_proxy() {
        for text in [
            "",
            "http://",
            "http://:80",
            "p:0",
            "p:99999",
            "a b:80",
            "http://p:1\r\nX: y",
            "[::1",
            "http://a%zz@p:1",
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(ProxyError::Malformed), "{text:?}");
        }
        assert_eq!("https://p:443".parse::<Proxy>(), Err(ProxyError::Scheme));
        assert_eq!("socks5://p:1080".parse::<Proxy>(), Err(ProxyError::Scheme));
    }

    #[test]
    fn credentials_are_not_shown() {
        let proxy: Proxy = "http://me:s3cret@p:1".parse().unwrap();
        assert_eq!(format!("{proxy:?} {}", proxy.authority()), "…@p:1 p:1");
    }

    #[test]
    fn some_hosts_need_no_proxy() {
        let list = NoProxy::new("localhost, .example.org,relay.net,10.0.0.0/8,2001:db8::/32,192.0.2.7");
        for host in [
            "localhost",
            "a.example.org",
            "example.org",
            "relay.net",
            "x.relay.net",
            "10.9.8.7",
            "2001:db8::9",
            "192.0.2.7",
        ] {
            assert!(list.covers(host), "{host}");
        }
        for host in ["myrelay.net", "example.com", "11.0.0.1", "192.0.2.70", "2001:db9::1"] {
            assert!(!list.covers(host), "{host}");
        }
        assert!(NoProxy::new("*").covers("anything") && !NoProxy::new("").covers("anything"));
        assert!(
            NoProxy::new("0.0.0.0/0").covers("198.51.100.1")
                && !NoProxy::new("10.0.0.0/99").covers("10.0.0.1")
        );
    }
}
