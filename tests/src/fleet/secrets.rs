//! Whether secrets lie about: in the arguments and environment of running programs and of what these have started, in their
//! logs, in what they tell and measure, and in what else they have written.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use skynet_core::member::Credentials;

use super::Fleet;
use crate::lab::Lab;

/// Of a file in an agent's state directory.
const STATE_HEADER: usize = 14 + 1 + 32;

/// Secrets of 32 bytes by what they are.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    fn add(&mut self, what: impl Into<String>, bytes: &[u8]) {
        self.0.insert(what.into(), bytes.to_vec());
    }

    /// What of it is in `text`, in any of the spellings that somebody might print.
    fn find_in(&self, haystack: &[u8]) -> Option<&str> {
        let has = |needle: &[u8]| haystack.windows(needle.len()).any(|window| window == needle);
        self.0
            .iter()
            .find(|(_, secret)| {
                let spelled = [
                    HEXLOWER.encode(secret),
                    BASE64.encode(secret).trim_end_matches('=').to_owned(),
                    BASE64URL_NOPAD.encode(secret),
                    format!("{secret:?}").trim_matches(['[', ']']).to_owned(),
                ];
                has(secret) || spelled.iter().any(|text| has(text.as_bytes()))
            })
            .map(|(what, _)| what.as_str())
    }
}

/// The operator's and the relay's keys, from their files; the last line of each is not a key.
fn keys_in(directory: &Path, secrets: &mut Secrets) -> anyhow::Result<()> {
    for name in ["operator/root.key", "registrar.key", "relay.key", "cluster.key"] {
        let path = directory.join(name);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let key = text
            .split_whitespace()
            .find_map(|word| HEXLOWER.decode(word.as_bytes()).ok().filter(|bytes| bytes.len() == 32));
        secrets.add(name, &key.with_context(|| format!("no key in {}", path.display()))?);
    }
    Ok(())
}

/// Prints its first token once, for the operator.
const RELAY_LOG: &str = "the relay's log";
/// What keeps secrets, or was given one by the story.
const KEEPERS: [&str; 4] = ["state", "token", "invitation", "relay-"];
/// Longer files are cut: a log of a story is shorter.
const MOST: usize = 16 << 20;

/// Every file below the directory of a lab but those that keep secrets: logs of processes that have ended, what hooks wrote.
fn written_in(directory: &Path, places: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
        // A process of the relay's host is logged under its name, and may be the one with the first token.
        if KEEPERS.iter().any(|keeper| name.starts_with(keeper)) || name.contains("relay") {
            continue;
        }
        let path = entry.path();
        if kind.is_dir() {
            written_in(&path, places)?;
        } else if kind.is_file()
            && let Ok(mut bytes) = std::fs::read(&path)
        {
            bytes.truncate(MOST);
            places.push((path.display().to_string(), bytes));
        }
    }
    Ok(())
}

/// These processes, and all that they and theirs have started and that still run.
fn with_children(mut processes: Vec<(String, u32)>) -> Vec<(String, u32)> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name may hold anything; behind it: state, parent.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let mut at = 0;
    while let Some((who, id)) = processes.get(at).cloned() {
        let children = parents.iter().filter(|(_, parent)| *parent == id);
        processes.extend(children.map(|(child, _)| (format!("a child of {who}"), *child)));
        at += 1;
    }
    processes
}

impl Fleet {
    /// Looks for every secret of this fleet in everything that its running programs show to others; how many places.
    ///
    /// # Errors
    /// A secret was found: which, and where.
    pub fn scan_for_secrets(&self, lab: &Lab) -> anyhow::Result<usize> {
        let mut secrets = Secrets::default();
        keys_in(self.relay().directory(), &mut secrets)?;
        // PROTOCOL §3.4: the seed follows the root's pin.
        let token = self.relay().token().strip_prefix("skj1.").context("the fleet's token")?;
        let token = BASE64URL_NOPAD.decode(token.as_bytes())?;
        secrets.add("the join token's seed", token.get(32..64).context("a token without a seed")?);
        for agent in self.agents() {
            // Not there if it never joined.
            let Ok(blob) = std::fs::read(agent.state_directory().join("credentials")) else { continue };
            // Behind the file's own header: magic, kind, check value.
            let blob = blob.get(STATE_HEADER..).unwrap_or_default();
            let credentials = Credentials::decode(blob).context("an agent's credentials")?;
            let node = credentials.node();
            secrets.add(format!("the identity of {}", agent.host()), node.identity.seed().expose());
            secrets.add(format!("the session key of {}", agent.host()), node.static_secret.expose());
            let previous = credentials.previous_key().map(|(secret, _)| secret);
            for (which, secret) in [("next", credentials.next_key()), ("previous", previous)] {
                if let Some(secret) = secret {
                    secrets.add(format!("the {which} session key of {}", agent.host()), secret.expose());
                }
            }
        }
        let mut places = vec![(RELAY_LOG.to_owned(), self.relay().log().into_bytes())];
        // Not there if the story ends without its relay.
        if let Ok(metrics) = self.relay().metrics() {
            places.push(("the relay's metrics".to_owned(), metrics.into_bytes()));
        }
        for verb in [&["status"][..], &["node", "list"], &["token", "list"], &["network", "show"]] {
            if let Ok(said) = self.relay().command(&[verb, &["--json"]].concat()) {
                places.push((format!("what the relay says to {}", verb.join(" ")), said.into_bytes()));
            }
        }
        written_in(lab.logs(), &mut places)?;
        let mut processes = vec![("the relay".to_owned(), self.relay().id())];
        for agent in self.agents() {
            places.push((format!("the log of {}", agent.host()), agent.log().into_bytes()));
            for verb in [&["status", "--json"][..], &["status"], &["hosts", "--format", "json"]] {
                if let Ok(said) = agent.command(verb) {
                    let place = format!("{} of {}", verb.join(" "), agent.host());
                    places.push((place, [said.stdout, said.stderr].concat().into_bytes()));
                }
            }
            processes.push((agent.host().to_owned(), agent.id()));
        }
        let processes: Vec<(String, u32)> =
            processes.into_iter().filter_map(|(who, id)| Some((who, id?))).collect();
        for (who, id) in with_children(processes) {
            for file in ["cmdline", "environ"] {
                // It may have ended just now.
                let Ok(bytes) = std::fs::read(format!("/proc/{id}/{file}")) else { continue };
                places.push((format!("{file} of {who}"), bytes));
            }
        }
        for (place, bytes) in &places {
            let found = secrets.find_in(bytes);
            ensure!(found.is_none(), "{} is in {place}", found.unwrap_or_default());
            let text = self.relay().token().as_bytes();
            let whole = bytes.windows(text.len()).any(|window| window == text);
            // The relay prints its first token once, for the operator.
            ensure!(!whole || place == RELAY_LOG, "the join token is in {place}");
        }
        Ok(places.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_children_are_looked_at() {
        let mut command = std::process::Command::new("sh");
        let mut shell = command.args(["-c", "sh -c 'sleep 5; true' & wait"]).spawn().unwrap();
        let found = || with_children(vec![("it".to_owned(), shell.id())]);
        let all = crate::wait_for(std::time::Duration::from_secs(5), "two generations", || {
            let all = found();
            ensure!(all.iter().any(|(who, _)| who == "a child of a child of it"), "{all:?}");
            Ok(all)
        });
        for (_, id) in all.unwrap().iter().skip(1) {
            let _ = std::process::Command::new("kill").arg(id.to_string()).status();
        }
        shell.wait().unwrap();
    }

    #[test]
    fn a_secret_is_found_in_every_spelling_and_nothing_else_is() {
        let mut secrets = Secrets::default();
        let key: Vec<u8> = (40..72).collect();
        secrets.add("a key", &key);
        let spelled = [
            key.clone(),
            HEXLOWER.encode(&key).into_bytes(),
            BASE64.encode(&key).into_bytes(),
            BASE64URL_NOPAD.encode(&key).into_bytes(),
            format!("seed: {key:?}").into_bytes(),
        ];
        for text in &spelled {
            let among = [b"level=INFO ", &text[..], b" more"].concat();
            assert_eq!(secrets.find_in(&among), Some("a key"));
            let mut other = among.clone();
            // A byte of the key itself, whatever stands around it.
            other[11 + text.len() / 2] ^= 1;
            assert_eq!(secrets.find_in(&other), None);
        }
    }
}
