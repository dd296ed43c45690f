//! Whether secrets lie about: in the arguments and environment of running programs, in their logs, in what they tell.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use skynet_core::member::Credentials;

use super::Fleet;

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

impl Fleet {
    /// Looks for every secret of this fleet in everything that its running programs show to others; how many places.
    ///
    /// # Errors
    /// A secret was found: which, and where.
    pub fn scan_for_secrets(&self) -> anyhow::Result<usize> {
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
            let node = Credentials::decode(blob).context("an agent's credentials")?.node().clone();
            secrets.add(format!("the identity of {}", agent.host()), node.identity.seed().expose());
            secrets.add(format!("the session key of {}", agent.host()), node.static_secret.expose());
        }
        let mut places = vec![("the relay's log".to_owned(), self.relay().log().into_bytes())];
        let mut processes = vec![("the relay".to_owned(), self.relay().id())];
        for agent in self.agents() {
            places.push((format!("the log of {}", agent.host()), agent.log().into_bytes()));
            if let Ok(said) = agent.command(&["status", "--json"]) {
                places.push((format!("status of {}", agent.host()), said.stdout.into_bytes()));
            }
            processes.push((agent.host().to_owned(), agent.id()));
        }
        for (who, id) in processes.into_iter().filter_map(|(who, id)| Some((who, id?))) {
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
            ensure!(!whole || place == "the relay's log", "the join token is in {place}");
        }
        Ok(places.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
