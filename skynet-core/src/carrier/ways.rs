//! In which order a host tries to reach its relay by TCP.

use crate::time::Duration;

/// A way by which streams reach a relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// TCP to the relay's port: the control channel alone.
    Tcp,
    /// TLS to port 443.
    Tls,
    /// The same through an HTTP proxy.
    Proxy,
}

/// So long the plain connection is waited for before the others begin as well. It is the cheapest, and nearly always
/// there: a round trip and one retransmission of its SYN fit.
const HEAD_START: Duration = Duration::from_secs(1);

/// Which ways to try for the control channel, and how long after the beginning each; the first that opens is used.
///
/// The one that was used last begins at once beside the plain one. One that was opened and then closed without a word
/// leads to somebody else (a captive portal, a proxy that answers for everybody) and waits for the others.
pub fn ways(has_proxy: bool, last: Option<Way>, mute: Option<Way>) -> Vec<(Way, Duration)> {
    let all = [Way::Tcp, Way::Tls, Way::Proxy];
    let begins = |way: Way| match way {
        _ if mute == Some(way) => HEAD_START * 2,
        Way::Tcp => Duration::ZERO,
        _ if last == Some(way) || mute == Some(Way::Tcp) => Duration::ZERO,
        _ => HEAD_START,
    };
    all.into_iter().filter(|way| has_proxy || *way != Way::Proxy).map(|way| (way, begins(way))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn plain_tcp_has_a_second_before_tls_is_tried() {
        assert_eq!(ways(false, None, None), [(Way::Tcp, NOW), (Way::Tls, HEAD_START)]);
        let with_proxy = [(Way::Tcp, NOW), (Way::Tls, HEAD_START), (Way::Proxy, HEAD_START)];
        assert_eq!(ways(true, None, None), with_proxy);
        assert_eq!(ways(true, Some(Way::Tcp), None), with_proxy);
    }

    #[test]
    fn the_way_that_worked_last_begins_at_once() {
        let expected = [(Way::Tcp, NOW), (Way::Tls, HEAD_START), (Way::Proxy, NOW)];
        assert_eq!(ways(true, Some(Way::Proxy), None), expected);
    }

    #[test]
    fn a_way_that_leads_to_somebody_else_lets_the_others_go_first() {
        assert_eq!(
            ways(false, Some(Way::Tcp), Some(Way::Tcp)),
            [(Way::Tcp, HEAD_START * 2), (Way::Tls, NOW)]
        );
        assert_eq!(
            ways(false, Some(Way::Tls), Some(Way::Tls)),
            [(Way::Tcp, NOW), (Way::Tls, HEAD_START * 2)]
        );
    }
}
