//! The roster for whoever asks: what is watched at the relay follows from who waits here.

use skynet_core::member::Tags;
use skynet_core::node::RosterView;
use skynet_core::time::Instant;

use super::agent::Agent;
use crate::api::roster::members_with;
use crate::api::{MemberReport, ROSTER_LEASE, Reply, RosterReport};
use crate::clock;

/// Leases at a time; above, everybody is watched while one lasts.
const MAX_LEASES: usize = 16;

/// Who waits for whom.
#[derive(Default)]
pub(super) struct Interests {
    /// For good: hooks, names.
    standing: Vec<Tags>,
    /// For as long as somebody asks.
    leases: Vec<(Tags, Instant)>,
}

impl Interests {
    /// Watches these while the agent runs.
    pub(super) fn stand(&mut self, tags: Tags) {
        self.standing.push(tags);
    }

    /// Watches these until then at least.
    pub(super) fn lease(&mut self, tags: Tags, until: Instant) {
        if let Some((_, held)) = self.leases.iter_mut().find(|(held, _)| *held == tags) {
            *held = until.max(*held);
        } else if self.leases.len() < MAX_LEASES {
            self.leases.push((tags, until));
        } else if let Some((widest, held)) = self.leases.first_mut() {
            (*widest, *held) = (Tags::default(), until.max(*held));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.leases.iter().map(|(_, until)| *until).min()
    }

    /// What all of them together want: everybody if one of them does, or if they want more tags than fit.
    fn wanted(&mut self, now: Instant) -> Option<Tags> {
        self.leases.retain(|(_, until)| *until > now);
        let all: Vec<&Tags> = self.standing.iter().chain(self.leases.iter().map(|(tags, _)| tags)).collect();
        if all.is_empty() {
            return None;
        }
        if all.iter().any(|tags| tags.is_empty()) {
            return Some(Tags::default());
        }
        Some(Tags::new(all.into_iter().flat_map(Tags::iter)).unwrap_or_default())
    }
}

impl Agent {
    /// The answer to `roster`.
    pub(super) fn roster(&mut self, roles: &[String], since: Option<u64>) -> Reply {
        let tags = match Tags::new(roles) {
            Ok(tags) => tags,
            Err(e) => return Reply::error(2, &e.to_string()),
        };
        self.interests.lease(tags.clone(), clock::monotonic() + ROSTER_LEASE);
        self.tend_watch();
        let view = self.roster_view();
        let unchanged = since == Some(view.revision);
        let members = || members_with(&view, &tags).map(MemberReport::new).collect();
        Reply::ok(&RosterReport {
            schema: "hosts/1".to_owned(),
            state: self.phase,
            message: self.message.clone(),
            network: self.engine.as_ref().and_then(|e| e.node.status().network).map(|(name, _)| name),
            revision: view.revision,
            complete: view.complete,
            members: (!unchanged).then(members),
        })
    }

    pub(super) fn roster_view(&self) -> RosterView {
        let unknown = || RosterView { revision: 0, complete: false, members: Vec::new() };
        self.engine.as_ref().map_or_else(unknown, |e| e.node.roster())
    }

    /// Tells the core what is to be watched.
    pub(super) fn tend_watch(&mut self) {
        let wanted = self.interests.wanted(clock::monotonic());
        self.feed(|node, now| node.watch(wanted, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::time::Duration;

    fn tags(tags: &[&str]) -> Tags {
        Tags::new(tags).unwrap()
    }

    #[test]
    fn what_is_watched_is_what_all_who_wait_want_and_ends_with_them() {
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let mut interests = Interests::default();
        assert_eq!(interests.wanted(at(0)), None);
        interests.lease(tags(&["worker"]), at(15));
        interests.lease(tags(&["gpu"]), at(20));
        assert_eq!(interests.wanted(at(5)), Some(tags(&["gpu", "worker"])));
        interests.lease(tags(&[]), at(21));
        interests.lease(tags(&[]), at(7));
        assert_eq!(interests.wanted(at(6)), Some(tags(&[])), "everybody");
        assert_eq!(interests.poll_timeout(), Some(at(15)));
        assert_eq!(interests.wanted(at(21)), None);
        interests.stand(tags(&["worker"]));
        assert_eq!(interests.wanted(at(100)), Some(tags(&["worker"])));
    }

    #[test]
    fn leases_are_bounded_and_none_is_forgotten() {
        let mut interests = Interests::default();
        for n in 0..100 {
            interests.lease(tags(&[&format!("t{n}")]), Instant::ZERO + ROSTER_LEASE);
        }
        assert_eq!(interests.leases.len(), MAX_LEASES);
        assert_eq!(interests.wanted(Instant::ZERO), Some(Tags::default()));
    }
}
