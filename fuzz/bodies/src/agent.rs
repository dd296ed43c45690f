//! What an agent reads of others' texts: user-data of its cloud, queries of programs.

use std::sync::LazyLock;

use skynet_agent::boot::settings_in;
use skynet_agent::dns::{Found, MAX_GROWTH, Parsed, Question, Zone};
use skynet_core::member::Tags;
use skynet_core::node::{RosterMember, RosterView};

/// Settings among user-data. True if there are some.
pub fn user_data(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some(found) = settings_in(&text) else { return false };
    assert!(!found.trim().is_empty() && found.len() <= 64 << 10);
    for line in found.lines() {
        assert!(text.contains(line), "nobody wrote {line:?}");
    }
    true
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let member = |name: &str, n: u8| RosterMember {
        name: name.parse().expect("a name"),
        v4: [10, 44, 1, n].into(),
        v6: [0xfd00, 1, 2, 0, 0, 0, 0, n.into()].into(),
        tags: Tags::default(),
        ephemeral: false,
        online: true,
        own: n == 1,
    };
    let members = vec![member("head", 1), member("w-1", 2)];
    let prefixes = ["10.44.0.0/16", "fd00:1:2::/48"].map(|p| p.parse().expect("a prefix"));
    Zone::new(&RosterView { revision: 1, complete: true, members }, "lab", &prefixes).expect("a zone")
});

/// A query. True if it was for a name that is there.
pub fn dns(bytes: &[u8]) -> bool {
    let (found, reply) = match Question::parse(bytes) {
        Parsed::Ask(question) => ZONE.answer(&question),
        Parsed::Reply(reply) => (Found::NotOurs, reply),
        Parsed::Silence => return false,
    };
    assert!(
        reply.len() >= 12 && reply.len() <= bytes.len() + MAX_GROWTH,
        "{} of {}",
        reply.len(),
        bytes.len()
    );
    assert_eq!(reply[..2], bytes[..2], "another's number");
    assert!(matches!(Question::parse(&reply), Parsed::Silence), "an answer that would be answered");
    found == Found::Here
}
