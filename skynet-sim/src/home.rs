//! What stands between a host and the internet, by name: the rows of the NAT matrix.

use crate::nat::NatConfig;
use crate::oracle::{self, Behaviour, Direct};
use crate::topology::NatKind;

/// A host's access to the internet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    /// The short name, as in tables.
    pub name: &'static str,
    /// The NATs on its way, its own first; without any it has no IPv4.
    pub nats: &'static [NatKind],
    /// A global IPv6 address behind a firewall that lets replies in.
    pub v6: bool,
}

const fn behind(name: &'static str, nats: &'static [NatKind]) -> Home {
    Home { name, nats, v6: false }
}

/// All of them, easiest first.
pub const HOMES: [Home; 16] = [
    behind("public", &[NatKind::Public]),
    behind("sg", &[NatKind::SecurityGroup]),
    behind("fullcone", &[NatKind::FullCone]),
    behind("addr", &[NatKind::AddressRestricted]),
    behind("port", &[NatKind::PortRestricted]),
    behind("port-np", &[NatKind::PortRestrictedRandom]),
    behind("port-in", &[NatKind::PortRestrictedAnswering]),
    behind("port/port", &[NatKind::PortRestricted, NatKind::PortRestricted]),
    behind("adm", &[NatKind::AddressDependent]),
    behind("sym-seq", &[NatKind::SymmetricSequential]),
    behind("sym", &[NatKind::Symmetric]),
    behind("port/sym", &[NatKind::PortRestricted, NatKind::Symmetric]),
    Home { name: "v6+sym", nats: &[NatKind::Symmetric], v6: true },
    Home { name: "v6+port", nats: &[NatKind::PortRestricted], v6: true },
    Home { name: "v6", nats: &[], v6: true },
    behind("udpblock", &[NatKind::UdpBlocked]),
];

impl Home {
    /// What its NATs show of it by IPv4.
    pub fn v4(&self) -> Option<Behaviour> {
        let all = self.nats.iter().map(|kind| Behaviour::from(&kind.config()));
        all.reduce(Behaviour::behind)
    }

    /// What its firewall shows of it by IPv6.
    pub fn v6(&self) -> Option<Behaviour> {
        self.v6.then(|| Behaviour::from(&NatConfig::default()))
    }
}

/// What two hosts in different homes can do, by whichever family is better.
pub fn direct(a: &Home, b: &Home) -> Direct {
    let by = |a: Option<Behaviour>, b: Option<Behaviour>| Some(oracle::direct(a?, b?));
    [by(a.v4(), b.v4()), by(a.v6(), b.v6())].into_iter().flatten().min().unwrap_or(Direct::MustNot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> &'static Home {
        HOMES.iter().find(|h| h.name == name).unwrap()
    }

    #[test]
    fn the_better_family_decides_and_none_in_common_is_hopeless() {
        assert_eq!(direct(home("sym"), home("sym")), Direct::MustNot);
        assert_eq!(direct(home("v6+sym"), home("v6+sym")), Direct::Must);
        assert_eq!(direct(home("v6"), home("public")), Direct::MustNot);
        assert_eq!(direct(home("port/sym"), home("port")), Direct::Guess);
    }
}
