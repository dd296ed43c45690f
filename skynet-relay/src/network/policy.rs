//! The policy as an operator writes it: a file with rules and the file's own tests, and what is signed of it.
//!
//! ```toml
//! default = "deny"                          # what no rule is about; "allow" if left out
//!
//! [[rule]]                                  # the first that matches decides
//! action = "allow"                          # or "deny"
//! from = ["web"]                            # who begins: nodes with one of these tags; left out: any
//! to = ["db"]                               # with whom
//! services = ["tcp/5432", "icmp"]           # about what; left out: anything
//!
//! [[test]]                                  # what must come of it, or it is not signed
//! from = ["web"]                            # the tags of the one
//! to = ["db"]                               # and of the other
//! allow = ["tcp/5432"]
//! deny = ["tcp/22"]
//! ```

use std::path::Path;

use serde::Deserialize;
use skynet_core::key::Identity;
use skynet_core::member::document::{Content as _, Kind};
use skynet_core::member::{NetworkId, Policy, Rule, Service, Tags};
use skynet_core::policy::Rules;
use skynet_core::time::UnixTime;

use super::NetworkError;
use super::documents::{keep_document, load_operator};
use super::files::lock_directory;

/// The file, read and understood.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    allow_by_default: bool,
    rules: Vec<Rule>,
    tests: Vec<Test>,
}

#[derive(Clone, Debug)]
struct Test {
    from: Tags,
    to: Tags,
    expected: Vec<(Service, bool)>,
}

/// What is wrong with a policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file as a whole; the message has line and column.
    #[error("not a policy: {0}")]
    Syntax(#[from] toml::de::Error),
    /// One entry.
    #[error("{what} {number}: {problem}")]
    Entry {
        /// `rule` or `test`.
        what: &'static str,
        /// From 1.
        number: usize,
        /// In a sentence.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: Action,
    #[serde(default)]
    rule: Vec<RuleText>,
    #[serde(default)]
    test: Vec<TestText>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    action: Action,
    #[serde(default)]
    from: Vec<String>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestText {
    #[serde(default)]
    from: Vec<String>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
}

/// `*` among tags stands for any node, as no tags do.
fn selector(tags: &[String]) -> Result<Tags, String> {
    if tags.iter().any(|tag| tag == "*") {
        return if tags.len() == 1 { Ok(Tags::default()) } else { Err("`*` stands alone".into()) };
    }
    Tags::new(tags).map_err(|e| e.to_string())
}

fn services(texts: &[String]) -> Result<Vec<Service>, String> {
    texts.iter().map(|text| text.parse().map_err(|e| format!("{text:?}: {e}"))).collect()
}

impl PolicyFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`PolicyError`], with the line or the number of the entry.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: File = toml::from_str(text)?;
        let entry =
            |what, index: usize| move |problem| PolicyError::Entry { what, number: index + 1, problem };
        let rule = |(index, rule): (usize, &RuleText)| {
            let build = || {
                Ok(Rule {
                    allow: rule.action == Action::Allow,
                    from: selector(&rule.from)?,
                    to: selector(&rule.to)?,
                    services: services(&rule.services)?,
                })
            };
            build().map_err(entry("rule", index))
        };
        let test = |(index, test): (usize, &TestText)| {
            let build = || {
                let expect = |texts: &[String], allow: bool| {
                    services(texts).map(|list| list.into_iter().map(move |service| (service, allow)))
                };
                Ok(Test {
                    from: Tags::new(&test.from).map_err(|e| e.to_string())?,
                    to: Tags::new(&test.to).map_err(|e| e.to_string())?,
                    expected: expect(&test.allow, true)?.chain(expect(&test.deny, false)?).collect(),
                })
            };
            build().map_err(entry("test", index))
        };
        Ok(Self {
            allow_by_default: file.default == Action::Allow,
            rules: file.rule.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
            tests: file.test.iter().enumerate().map(test).collect::<Result<_, _>>()?,
        })
    }

    /// As a policy nobody has signed, for asking what it means.
    pub fn to_policy(&self) -> Policy {
        Policy {
            network_id: NetworkId([0; 8]),
            epoch: 0,
            issued: UnixTime(0),
            signer: Identity([0; 32]),
            allow_by_default: self.allow_by_default,
            rules: self.rules.clone(),
        }
    }

    /// How many expectations the file has of itself.
    pub fn expectations(&self) -> usize {
        self.tests.iter().map(|test| test.expected.len()).sum()
    }

    /// Runs the file's own tests: a sentence for each expectation that is not met.
    pub fn check(&self) -> Vec<String> {
        let policy = self.to_policy();
        let mut failed = Vec::new();
        for (index, test) in self.tests.iter().enumerate() {
            for (service, expected) in &test.expected {
                let Explained { allowed, why } = explain(&policy, &test.from, &test.to, service);
                if allowed != *expected {
                    let words = |allow| if allow { "allowed" } else { "denied" };
                    failed.push(format!(
                        "test {}: {service} is {}, and should be {}: {why}",
                        index + 1,
                        words(allowed),
                        words(*expected)
                    ));
                }
            }
        }
        failed
    }
}

/// What comes of a question, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// Whether such a flow may begin. Of a range of ports: whether at all of them.
    pub allowed: bool,
    /// The rule that decides, in words.
    pub why: String,
}

/// Whether a node with tags `from` may begin this with one with tags `to`.
pub fn explain(policy: &Policy, from: &Tags, to: &Tags, service: &Service) -> Explained {
    let rules = Rules::between(policy, from, to);
    // Where a range is cut by rules, the first port that is denied decides.
    let mut ports = service.first..=service.last;
    let (allowed, rule) = ports
        .clone()
        .map(|port| rules.decide(service.protocol, Some(port)))
        .find(|(allowed, _)| !allowed)
        .or_else(|| ports.next().map(|port| rules.decide(service.protocol, Some(port))))
        .expect("a range of ports has one at least");
    let why = match rule.and_then(|index| Some((index, policy.rules.get(index)?))) {
        Some((index, rule)) => format!("rule {}, {}", index + 1, render(rule)),
        None => format!("no rule is about it, and the default is to {}", verb(policy.allow_by_default)),
    };
    Explained { allowed, why }
}

/// A rule in one line.
pub fn render(rule: &Rule) -> String {
    let tags = |tags: &Tags| match tags.iter().collect::<Vec<_>>() {
        list if list.is_empty() => "*".to_owned(),
        list => list.join(","),
    };
    let services: Vec<String> = rule.services.iter().map(ToString::to_string).collect();
    let services = if services.is_empty() { "*".to_owned() } else { services.join(",") };
    format!("{} {} -> {} : {services}", verb(rule.allow), tags(&rule.from), tags(&rule.to))
}

const fn verb(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// Signs this as the network's next policy. Its epoch.
///
/// # Errors
/// No root key here, a policy beyond its limits, or a file.
pub fn set_policy(dir: &Path, file: &PolicyFile, now: UnixTime) -> Result<u64, NetworkError> {
    let _lock = lock_directory(dir)?;
    let (root, trust) = load_operator(dir)?;
    let policy = Policy {
        network_id: trust.network_id(),
        epoch: trust.policy().map_or(0, |held| held.epoch) + 1,
        issued: now,
        signer: root.identity(),
        ..file.to_policy()
    };
    keep_document(dir, Kind::Policy, policy.sign(&root)?.bytes())?;
    Ok(policy.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        default = "deny"
        [[rule]]
        action = "deny"
        from = ["guest"]
        to = ["*"]
        services = ["tcp/22", "udp/1000-2000"]
        [[rule]]
        action = "allow"
        from = ["web", "guest"]
        to = ["db"]
        [[test]]
        from = ["web"]
        to = ["db", "linux"]
        allow = ["tcp/22", "icmp", "47"]
        [[test]]
        from = ["guest"]
        to = ["db"]
        allow = ["tcp/23", "udp/999"]
        deny = ["tcp/22", "udp/2000"]
        [[test]]
        from = ["db"]
        to = ["web"]
        deny = ["tcp"]
    "#;

    #[test]
    fn a_file_that_meets_its_own_tests_does_and_one_that_does_not_says_which() {
        let file = PolicyFile::parse(FILE).unwrap();
        assert_eq!((file.check(), file.expectations()), (vec![], 8));
        let wrong = PolicyFile::parse(&FILE.replace("deny = [\"tcp\"]", "allow = [\"tcp\"]")).unwrap();
        let said = wrong.check();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("test 3: tcp is denied") && said[0].contains("default is to deny"),
            "{said:?}"
        );
    }

    #[test]
    fn an_explanation_names_the_rule() {
        let policy = PolicyFile::parse(FILE).unwrap().to_policy();
        let tags = |list: &[&str]| Tags::new(list).unwrap();
        let ask = |from: &str, service: &str| {
            explain(&policy, &tags(&[from]), &tags(&["db"]), &service.parse().unwrap())
        };
        assert_eq!(ask("guest", "tcp/22").why, "rule 1, deny guest -> * : tcp/22,udp/1000-2000");
        assert_eq!(ask("web", "tcp/22").why, "rule 2, allow guest,web -> db : *");
        assert!(!ask("guest", "udp/900-1100").allowed, "a range of which a part is denied");
        assert!(ask("guest", "udp/900-999").allowed);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, said) in [
            ("defualt = \"deny\"", "defualt"),
            ("default = \"maybe\"", "maybe"),
            ("[[rule]]\naction = \"allow\"\nservices = [\"tcp/0-99999\"]", "rule 1"),
            ("[[rule]]\naction = \"allow\"\nservices = [\"http\"]", "http"),
            ("[[rule]]\naction = \"allow\"\nfrom = [\"*\", \"web\"]", "stands alone"),
            ("[[rule]]\naction = \"allow\"\nfrom = [\"Web!\"]", "Web!"),
            ("[[rule]]\nfrom = [\"web\"]", "action"),
            ("[[test]]\nallow = [\"icmp/8\"]", "test 1"),
        ] {
            let error = PolicyFile::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
