//! Programs of the operator's that are run when members come, go or change their roles.
//!
//! One run at a time, with everything that changed since the one before, and a pause between: a hundred members that come
//! at once are a few runs. Programs get what they need to know in the environment, which holds nothing else of the agent's;
//! names there are LDH labels, and no shell is in between.

mod program;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use skynet_core::member::{Name, Tags};
use skynet_core::node::{RosterMember, RosterView};
use skynet_core::time::Instant;
use tokio::sync::mpsc;

use super::agent::{Agent, sleep_until};
use crate::api::MemberReport;
use crate::api::roster::members_with;
use crate::clock;
use crate::config::{self, Config};

/// Between the end of a run and the beginning of the next.
const PAUSE: Duration = Duration::from_secs(1);
/// Nothing is run before the relay has told who is there, or this time is over: an older relay does not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest value of a variable: the kernel takes 128 KiB for each.
const MAX_VALUE: usize = 96 << 10;

/// What was told of a member last.
type Told = BTreeMap<Name, RosterMember>;

/// The programs, and what they know.
pub(super) struct Hooks {
    config: Option<config::Hooks>,
    /// Beside the control socket.
    roster_file: PathBuf,
    told: Told,
    done: (mpsc::Sender<()>, mpsc::Receiver<()>),
    running: Option<tokio::task::AbortHandle>,
    not_before: Instant,
    patient_until: Instant,
    /// Something may have changed that was not told.
    pending: bool,
}

impl Hooks {
    pub(super) fn new(config: &Config) -> Self {
        let now = clock::monotonic();
        Self {
            roster_file: match &config.network {
                None => config.socket.with_file_name("roster.json"),
                Some(network) => config.socket.with_file_name(format!("{network}.roster.json")),
            },
            config: config.hooks.clone(),
            told: Told::new(),
            done: mpsc::channel(1),
            running: None,
            not_before: now,
            patient_until: now + PATIENCE,
            pending: false,
        }
    }

    /// A run has ended, or a change that waited is due.
    pub(super) async fn next(&mut self) {
        let wait = self.pending && self.running.is_none();
        let due = wait.then_some(self.not_before);
        tokio::select! {
            Some(()) = self.done.1.recv() => {
                self.running = None;
                self.not_before = clock::monotonic() + PAUSE;
            }
            () = sleep_until(due) => {}
        }
    }

    /// Runs the programs if there is something to tell and it is time.
    fn offer(&mut self, view: &RosterView, node: &str) {
        let Some(config) = &self.config else { return };
        let now = clock::monotonic();
        if !view.complete && now < self.patient_until {
            self.pending = true;
            self.not_before = self.not_before.max(now + PAUSE);
            return;
        }
        self.pending = self.running.is_some() || now < self.not_before;
        if self.pending {
            return;
        }
        let here = members_with(view, &config.roles).filter(|m| m.online);
        let here: Told = here.map(|m| (m.name.clone(), m.clone())).collect();
        let Some(change) = Change::between(&self.told, &here) else { return };
        if let Err(e) = write_roster(&self.roster_file, &here) {
            tracing::warn!(file = %self.roster_file.display(), %e, "the roster is not written");
        }
        let environment = change.environment(&here, node, &self.roster_file);
        self.told = here;
        tracing::info!(joined = ?change.joined, left = ?change.left, changed = ?change.changed, "running the hooks");
        let (config, done) = (config.clone(), self.done.0.clone());
        let run = tokio::spawn(async move {
            program::run_all(&config.directory, config.timeout, &environment).await;
            // The agent is ending.
            let _ = done.send(()).await;
        });
        self.running = Some(run.abort_handle());
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

impl Agent {
    pub(super) fn run_hooks(&mut self) {
        let view = self.roster_view();
        let own = view.members.iter().find(|m| m.own).map(|m| m.name.to_string());
        // Nobody is told anything by a node that is no member yet.
        if let Some(own) = own {
            self.hooks.offer(&view, &own);
        }
    }
}

/// Who is another than was told.
#[derive(PartialEq, Eq, Debug, Default)]
struct Change {
    joined: Vec<Name>,
    left: Vec<Name>,
    changed: Vec<Name>,
}

impl Change {
    fn between(told: &Told, here: &Told) -> Option<Self> {
        let mut change = Self::default();
        let place = |m: &RosterMember| (m.v4, m.v6);
        for (name, member) in here {
            match told.get(name) {
                None => change.joined.push(name.clone()),
                Some(before) if place(before) != place(member) || before.tags != member.tags => {
                    change.changed.push(name.clone());
                }
                Some(_) => {}
            }
        }
        change.left = told.keys().filter(|name| !here.contains_key(*name)).cloned().collect();
        (change != Self::default()).then_some(change)
    }

    /// What a program is told.
    fn environment(&self, here: &Told, node: &str, file: &std::path::Path) -> Vec<(&'static str, String)> {
        let names =
            |names: &[Name]| bounded(names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" "));
        let mut roster = String::new();
        for member in here.values() {
            // Writing to a String cannot fail.
            let _ = writeln!(roster, "{} {} {} {}", member.name, member.v4, member.v6, roles(&member.tags));
        }
        vec![
            ("SKYNET_NODE", node.to_owned()),
            ("SKYNET_JOINED", names(&self.joined)),
            ("SKYNET_LEFT", names(&self.left)),
            ("SKYNET_CHANGED", names(&self.changed)),
            ("SKYNET_COUNT", here.len().to_string()),
            ("SKYNET_ROSTER", bounded(roster)),
            ("SKYNET_ROSTER_FILE", file.display().to_string()),
        ]
    }
}

/// Nothing rather than a part: who finds it empty reads the file.
fn bounded(value: String) -> String {
    if value.len() > MAX_VALUE { String::new() } else { value }
}

fn roles(tags: &Tags) -> String {
    if tags.is_empty() { "-".to_owned() } else { tags.iter().collect::<Vec<_>>().join(",") }
}

/// The same as JSON, whatever its size; the old file or the new one is there, never a part.
fn write_roster(path: &std::path::Path, here: &Told) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let members: Vec<MemberReport> = here.values().map(MemberReport::new).collect();
    let text = serde_json::to_vec(&serde_json::json!({ "schema": "roster/1", "members": members }))?;
    let temporary = path.with_extension("json.new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    std::io::Write::write_all(&mut file, &text)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(members: &[(&str, &[&str])]) -> Told {
        let member = |(name, tags): &(&str, &[&str])| {
            let name: Name = name.parse().unwrap();
            let member = RosterMember {
                name: name.clone(),
                v4: "10.7.0.9".parse().unwrap(),
                v6: "fd00::9".parse().unwrap(),
                tags: Tags::new(*tags).unwrap(),
                ephemeral: false,
                online: true,
                own: false,
            };
            (name, member)
        };
        members.iter().map(member).collect()
    }

    #[test]
    fn who_came_went_or_has_other_roles_is_told_once() {
        let before = told(&[("a", &[]), ("b", &["worker"]), ("c", &[])]);
        let after = told(&[("b", &["gpu", "worker"]), ("c", &[]), ("d", &[])]);
        let change = Change::between(&before, &after).unwrap();
        let environment: BTreeMap<_, _> =
            change.environment(&after, "c", "/run/skynet/roster.json".as_ref()).into_iter().collect();
        let get = |key| environment[key].as_str();
        let lists = [get("SKYNET_JOINED"), get("SKYNET_LEFT"), get("SKYNET_CHANGED"), get("SKYNET_COUNT")];
        assert_eq!(lists, ["d", "a", "b", "3"]);
        let lines = "b 10.7.0.9 fd00::9 gpu,worker\nc 10.7.0.9 fd00::9 -\nd 10.7.0.9 fd00::9 -\n";
        assert_eq!(get("SKYNET_ROSTER"), lines);
        assert_eq!(Change::between(&after, &after), None);
    }

    #[test]
    fn a_roster_too_long_for_the_environment_is_in_the_file_alone() {
        let names: Vec<String> = (0..4_000).map(|n| format!("a-member-with-a-long-name-{n}")).collect();
        let members: Vec<(&str, &[&str])> = names.iter().map(|n| (n.as_str(), &["worker"][..])).collect();
        let here = told(&members);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("roster.json");
        write_roster(&file, &here).unwrap();
        let change = Change::between(&Told::new(), &here).unwrap();
        let environment = change.environment(&here, "n", &file);
        assert!(environment.iter().all(|(_, value)| value.len() <= MAX_VALUE));
        assert!(environment.contains(&("SKYNET_ROSTER", String::new())));
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(read["members"].as_array().unwrap().len(), 4_000);
    }
}
