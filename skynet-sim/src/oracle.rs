//! Which pairs must reach each other directly, derived from what their NATs do.
//!
//! The argument, for hosts x and y that both send to every endpoint they know of the other: the one an observer
//! saw (server-reflexive), and any a packet came from (peer-reflexive). Nobody guesses ports.
//!
//! 1. *x's packet gets in to y*, sent to y's server-reflexive endpoint:
//!    - y filters nothing: it gets in, whatever y's mapping; the observed mapping is there.
//!    - y's mapping is endpoint-independent, and y has sent towards x's server-reflexive endpoint. If y filters by
//!      address, that has opened the filter, since x's *address* was right even if its port was not. If y filters
//!      by port, x's port must have been right: x's mapping is endpoint-independent too.
//! 2. *y's answer gets back to x*, from y to the endpoint x's packet came from. y answers from the endpoint x sent
//!    to if y's mapping is endpoint-independent; otherwise from a new one, which x must not filter by port.
//!
//! A pair goes direct if 1 and 2 hold for either order of x and y.
//!
//! Hosts behind one and the same NAT meet on its inside if that is one network. If it is not (a carrier's NAT over two
//! homes), they see each other only from outside, and all of this holds if that NAT sends back what is for itself
//! (hairpinning), and else nothing does.

use crate::nat::{Filtering, Mapping, NatConfig};

/// What the two NATs of a pair allow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direct {
    /// Plain probing succeeds: a pair that stays relayed is a bug.
    Must,
    /// It succeeds if nothing reaches a NAT that answers unsolicited packets before its own side has sent: a matter of
    /// luck for who does not care, and a bug for who does.
    Timing,
    /// One fixed endpoint against many ports: only a guess (birthday, prediction) succeeds. A pair that goes direct
    /// without, or stays relayed although both sides guess, is a bug.
    Guess,
    /// A pair that claims to be direct is a bug.
    MustNot,
}

/// What a NAT, or a chain of them, shows to the outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behaviour {
    mapping: Mapping,
    filtering: Filtering,
    blocks_udp: bool,
    answers_unsolicited: bool,
}

impl From<&NatConfig> for Behaviour {
    fn from(nat: &NatConfig) -> Self {
        Self {
            mapping: nat.mapping,
            filtering: nat.filtering,
            blocks_udp: nat.blocks_udp,
            answers_unsolicited: nat.answers_unsolicited,
        }
    }
}

impl Behaviour {
    /// This NAT behind another one: the harder of both in each respect.
    pub fn behind(self, outer: Self) -> Self {
        Self {
            mapping: self.mapping.max(outer.mapping),
            filtering: self.filtering.max(outer.filtering),
            blocks_udp: self.blocks_udp || outer.blocks_udp,
            answers_unsolicited: self.answers_unsolicited || outer.answers_unsolicited,
        }
    }

    fn is_endpoint_independent(self) -> bool {
        self.mapping == Mapping::EndpointIndependent
    }
}

/// What a pair in different networks can do.
pub fn direct(a: Behaviour, b: Behaviour) -> Direct {
    if a.blocks_udp || b.blocks_udp {
        return Direct::MustNot;
    }
    if !(works(a, b) || works(b, a)) {
        // With one fixed endpoint, many sockets on the other side meet many guesses; with none it is hopeless.
        let hopeless = !a.is_endpoint_independent() && !b.is_endpoint_independent();
        return if hopeless { Direct::MustNot } else { Direct::Guess };
    }
    // The early-packet trap is a matter of who sends first, unless the other side hears everybody.
    let trap =
        |x: Behaviour, y: Behaviour| x.answers_unsolicited && y.filtering != Filtering::EndpointIndependent;
    if trap(a, b) || trap(b, a) { Direct::Timing } else { Direct::Must }
}

/// What a pair in two networks behind one and the same NAT can do; `a` and `b` include it.
pub fn direct_behind_one(nat: &NatConfig, a: Behaviour, b: Behaviour) -> Direct {
    if nat.hairpinning { direct(a, b) } else { Direct::MustNot }
}

/// 1 and 2 of the module, with x's packet first.
fn works(x: Behaviour, y: Behaviour) -> bool {
    let gets_in = match y.filtering {
        Filtering::EndpointIndependent => true,
        Filtering::AddressDependent => y.is_endpoint_independent(),
        Filtering::AddressAndPortDependent => y.is_endpoint_independent() && x.is_endpoint_independent(),
    };
    let gets_back = y.is_endpoint_independent() || x.filtering != Filtering::AddressAndPortDependent;
    gets_in && gets_back
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NatKind;

    /// What was measured between real NATs: D direct by plain probing, B by a birthday punch only, - not at all.
    const MEASURED: [(&str, &str); 10] = [
        ("public", "DDDDDDDDD-"),
        ("sg", ".DDDDDBBB-"),
        ("fullcone", "..DDDDDDD-"),
        ("addr", "...DDDDDD-"),
        ("port", "....DDBBB-"),
        ("port-np", ".....DBBB-"),
        ("adm", "......----"),
        ("sym-seq", ".......---"),
        ("sym", "........--"),
        ("udpblock", ".........-"),
    ];

    fn kind(name: &str) -> NatKind {
        NatKind::ALL.into_iter().find(|k| k.name() == name).unwrap()
    }

    fn between(a: NatKind, b: NatKind) -> Direct {
        direct((&a.config()).into(), (&b.config()).into())
    }

    #[test]
    fn derivation_agrees_with_every_measured_cell() {
        let mut cells = 0;
        for (row, (a, line)) in MEASURED.iter().enumerate() {
            for (column, cell) in line.chars().enumerate().skip(row) {
                let b = MEASURED[column].0;
                let expected = match cell {
                    'D' => Direct::Must,
                    'B' => Direct::Guess,
                    _ => Direct::MustNot,
                };
                assert_eq!(between(kind(a), kind(b)), expected, "{a} {b}");
                assert_eq!(between(kind(b), kind(a)), expected, "{b} {a}");
                cells += 1;
            }
        }
        assert_eq!(cells, 55);
    }

    #[test]
    fn harder_nat_of_a_chain_decides() {
        let (port, sym) = (NatKind::PortRestricted.config(), NatKind::Symmetric.config());
        let chain = Behaviour::from(&NatKind::FullCone.config()).behind((&sym).into());
        assert_eq!(direct(chain, (&port).into()), Direct::Guess);
        assert_eq!(direct(chain, (&sym).into()), Direct::MustNot);
    }

    #[test]
    fn trap_makes_a_sure_pair_a_matter_of_timing() {
        assert_eq!(between(NatKind::PortRestrictedAnswering, NatKind::PortRestricted), Direct::Timing);
        assert_eq!(between(NatKind::PortRestrictedAnswering, NatKind::FullCone), Direct::Must);
    }
}
