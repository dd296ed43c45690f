//! Which offloads have failed, and the words for it in `status`.

use std::collections::BTreeSet;

use skynet_core::node::PeerStatus;
use skynet_core::offload::Offloads;

use super::selfcheck::{self, tun::Verdict};
use crate::api::StatusReport;
use crate::clock;
use crate::config::{DisabledOffloads, Offload};
use crate::udp::UdpOffloads;

/// Peers that one line of `status` names.
const NAMED: usize = 3;

/// Offloads that failed their check at start. They stay off: an interface made anew has the same kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OffloadFaults(BTreeSet<Offload>);

impl OffloadFaults {
    /// Whether this one failed its check.
    pub(super) fn has(&self, offload: Offload) -> bool {
        self.0.contains(&offload)
    }

    /// Whether this one is neither disabled nor failed.
    pub(super) fn allow(&self, disabled: &DisabledOffloads, offload: Offload) -> bool {
        disabled.allows(offload) && !self.has(offload)
    }

    /// Checks the socket's offloads that are wanted; the answer leaves out those that fail.
    pub(super) fn check_udp(&mut self, wanted: UdpOffloads) -> UdpOffloads {
        let begun = clock::monotonic();
        let works = selfcheck::udp::check(wanted);
        tracing::debug!(took = ?clock::monotonic().saturating_since(begun), "socket offloads checked");
        self.note_udp(wanted, works)
    }

    fn note_udp(&mut self, wanted: UdpOffloads, works: UdpOffloads) -> UdpOffloads {
        self.note(Offload::UdpGso, works.gso || !wanted.gso);
        self.note(Offload::UdpGro, works.gro || !wanted.gro);
        works
    }

    /// What the check of the TUN device has found.
    pub(super) fn note_tun(&mut self, verdict: Verdict) {
        self.note(Offload::Tun, verdict.reading);
        self.note(Offload::CoalesceTcp, verdict.tcp);
        self.note(Offload::CoalesceUdp, verdict.udp);
    }

    fn note(&mut self, offload: Offload, works: bool) {
        if !works && self.0.insert(offload) {
            tracing::warn!(%offload, "the offload failed its self-check and is off");
        }
    }

    /// What further sockets may use of what is `wanted`: the check was made once, for all of them.
    pub(super) fn limit_udp(&self, wanted: UdpOffloads) -> UdpOffloads {
        UdpOffloads {
            gso: wanted.gso && !self.has(Offload::UdpGso),
            gro: wanted.gro && !self.has(Offload::UdpGro),
        }
    }

    /// Super-packets that may be written of those the device `takes`.
    pub(super) fn limit(&self, takes: Offloads) -> Offloads {
        let (tcp, udp) = (!self.has(Offload::CoalesceTcp), !self.has(Offload::CoalesceUdp));
        Offloads {
            tcp4: takes.tcp4 && tcp,
            tcp6: takes.tcp6 && tcp,
            udp4: takes.udp4 && udp,
            udp6: takes.udp6 && udp,
        }
    }
}

/// How one offload fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fate {
    pub(super) offload: Offload,
    pub(super) switched_off: bool,
    pub(super) failed_check: bool,
    /// Times the kernel refused at run time what it took without the offload.
    pub(super) refusals: u64,
    pub(super) works: bool,
    /// Another one it cannot do without and that is off.
    pub(super) needs: Option<Offload>,
}

impl Fate {
    /// Its name and why it is off; `None` if it is in use.
    pub(super) fn off(&self) -> Option<(String, String)> {
        let why = match self {
            Self { switched_off: true, .. } => "switched off".to_owned(),
            Self { failed_check: true, .. } => "failed its self-check at start".to_owned(),
            Self { needs: Some(other), .. } => format!("needs {other}"),
            Self { works: true, .. } => return None,
            Self { refusals: 1.., .. } => "refused by the kernel".to_owned(),
            _ => "not supported by the kernel".to_owned(),
        };
        Some((self.offload.to_string(), why))
    }

    /// Its name and how often it did not work; `None` if it always has.
    pub(super) fn fallbacks(&self) -> Option<(String, u64)> {
        let times = u64::from(self.failed_check) + self.refusals;
        (times > 0).then(|| (self.offload.to_string(), times))
    }
}

/// What the check of each path has found: where trains do not arrive, segmentation is off towards that peer.
pub(super) fn add_paths(peers: &[PeerStatus], report: &mut StatusReport) {
    let name = Offload::UdpGso.to_string();
    let failures: u64 = peers.iter().map(|p| u64::from(p.train_failures)).sum();
    if failures > 0 {
        *report.offload_fallbacks.entry(name.clone()).or_default() += failures;
    }
    let failed: Vec<&str> = peers.iter().filter(|p| !p.trains_arrive).map(|p| p.name.as_str()).collect();
    if let Some(why) = towards(&failed) {
        // If it is off altogether, that says more.
        report.offloads_off.entry(name).or_insert(why);
    }
}

fn towards(peers: &[&str]) -> Option<String> {
    let (named, others) = peers.split_at(peers.len().min(NAMED));
    let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    (!named.is_empty()).then(|| format!("failed towards {}{others}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_towards_which_trains_fail_are_named_but_not_without_end() {
        assert_eq!(towards(&[]), None);
        assert_eq!(towards(&["b1"]).unwrap(), "failed towards b1");
        assert_eq!(towards(&["b1", "c1", "d1", "e1", "f1"]).unwrap(), "failed towards b1, c1, d1 and 2 more");
    }

    #[test]
    fn what_fails_its_check_is_left_out_and_nothing_else() {
        let mut faults = OffloadFaults::default();
        let works = UdpOffloads { gso: false, gro: true };
        assert_eq!(faults.note_udp(UdpOffloads::ALL, works), works);
        faults.note_tun(Verdict { reading: true, tcp: true, udp: false });
        let failed: Vec<_> = Offload::ALL.into_iter().filter(|o| faults.has(*o)).collect();
        assert_eq!(failed, [Offload::UdpGso, Offload::CoalesceUdp]);
        assert_eq!(faults.limit_udp(UdpOffloads::ALL), works);
        let limited = faults.limit(Offloads::ALL);
        assert_eq!(limited, Offloads { udp4: false, udp6: false, ..Offloads::ALL });
        let disabled: DisabledOffloads = [Offload::UdpGro].into_iter().collect();
        let allowed: Vec<_> = Offload::ALL.into_iter().filter(|o| faults.allow(&disabled, *o)).collect();
        assert_eq!(allowed, [Offload::Tun, Offload::CoalesceTcp, Offload::Chunks]);
    }

    #[test]
    fn an_offload_that_is_not_wanted_has_not_failed() {
        let mut faults = OffloadFaults::default();
        let off = UdpOffloads { gso: false, gro: false };
        faults.note_udp(off, off);
        assert_eq!(faults, OffloadFaults::default());
    }

    #[test]
    fn each_reason_has_its_words_and_the_first_that_holds_is_told() {
        let fine = Fate {
            offload: Offload::CoalesceTcp,
            switched_off: false,
            failed_check: false,
            refusals: 0,
            works: true,
            needs: None,
        };
        let off = Fate { works: false, ..fine };
        let why = |fate: Fate| fate.off().map(|(name, why)| format!("{name}: {why}"));
        assert_eq!((why(fine), fine.fallbacks()), (None, None));
        let refused = Fate { refusals: 3, ..off };
        assert_eq!(why(refused).unwrap(), "coalesce-tcp: refused by the kernel");
        assert_eq!(refused.fallbacks(), Some(("coalesce-tcp".to_owned(), 3)));
        assert_eq!(why(off).unwrap(), "coalesce-tcp: not supported by the kernel");
        assert_eq!(why(Fate { needs: Some(Offload::Tun), ..off }).unwrap(), "coalesce-tcp: needs tun");
        let failed = Fate { failed_check: true, ..refused };
        assert_eq!(why(failed).unwrap(), "coalesce-tcp: failed its self-check at start");
        assert_eq!(failed.fallbacks().unwrap().1, 4);
        assert_eq!(why(Fate { switched_off: true, ..failed }).unwrap(), "coalesce-tcp: switched off");
    }
}
