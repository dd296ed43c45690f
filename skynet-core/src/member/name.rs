//! Names of nodes, the patterns a token allows, and tags.

use core::fmt;
use core::str::FromStr;

use super::tlv::Cursor;

/// A text that is not a name, a name pattern or a tag.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Not an LDH label.
    #[error("{0:?} is not a name: use 1 to 63 of a-z, 0-9 and -, not at the ends")]
    Name(String),
    /// Neither a name nor a prefix and `*`.
    #[error("{0:?} is not a name pattern: use a name, or its beginning followed by *")]
    Pattern(String),
    /// Not a tag.
    #[error("{0:?} is not a tag: use 1 to 32 of a-z, 0-9 and -")]
    Tag(String),
    /// More than sixteen.
    #[error("at most 16 tags are allowed")]
    TooManyTags,
}

fn is_ldh(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// An LDH label (RFC 5890 §2.3.1) of 1–63 characters, lower case: a node's name within its network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Longest name, the longest label of DNS (RFC 1035 §2.3.4).
    pub const MAX: usize = 63;

    /// The name a machine with this host name asks for: the first label, in lower case, other characters as `-`;
    /// `node` if nothing is left.
    pub fn from_hostname(hostname: &str) -> Self {
        let label = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mapped: String = label
            .chars()
            .map(|c| if c.is_ascii() && is_ldh(c as u8) { c } else { '-' })
            .take(Self::MAX)
            .collect();
        let trimmed = mapped.trim_matches('-');
        Self(if trimmed.is_empty() { "node" } else { trimmed }.to_owned())
    }

    /// This name with `-n` behind it, shortened so that it stays a label: what a node asks for when its name is
    /// taken (`-2`, `-3`, …).
    pub fn with_suffix(&self, n: u32) -> Self {
        let suffix = format!("-{n}");
        let stem = &self.0[..self.0.len().min(Self::MAX - suffix.len())];
        Self(format!("{}{suffix}", stem.trim_end_matches('-')))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let ok = (1..=Self::MAX).contains(&s.len())
            && s.bytes().all(is_ldh)
            && !s.starts_with('-')
            && !s.ends_with('-');
        if ok { Ok(Self(s.to_owned())) } else { Err(NameError::Name(s.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which names a token may give: one name, or all that start with a prefix (`web-*`, `*`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamePattern {
    /// Exactly this name.
    Exact(Name),
    /// Every name that starts with this text, possibly empty.
    Prefix(String),
}

impl NamePattern {
    /// Whether the pattern allows `name`.
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.0.starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for NamePattern {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let Some(prefix) = s.strip_suffix('*') else {
            return s.parse().map(Self::Exact).map_err(|_| NameError::Pattern(s.to_owned()));
        };
        if prefix.len() < Name::MAX && prefix.bytes().all(is_ldh) && !prefix.starts_with('-') {
            Ok(Self::Prefix(prefix.to_owned()))
        } else {
            Err(NameError::Pattern(s.to_owned()))
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// At most 16 tags of 1–32 characters `[a-z0-9-]`, sorted, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags(Vec<String>);

impl Tags {
    /// Most tags of one node.
    pub const MAX: usize = 16;

    /// Sorts and checks `tags`; repetitions count once.
    pub fn new<S: AsRef<str>>(tags: impl IntoIterator<Item = S>) -> Result<Self, NameError> {
        let mut sorted = Vec::new();
        for tag in tags {
            let tag = tag.as_ref();
            if !is_tag(tag.as_bytes()) {
                return Err(NameError::Tag(tag.to_owned()));
            }
            sorted.push(tag.to_owned());
        }
        sorted.sort();
        sorted.dedup();
        if sorted.len() > Self::MAX { Err(NameError::TooManyTags) } else { Ok(Self(sorted)) }
    }

    /// The tags in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `tag` is one of them.
    pub fn contains(&self, tag: &str) -> bool {
        self.0.iter().any(|t| t == tag)
    }

    /// Whether every tag is also one of `other`'s.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|tag| other.contains(tag))
    }

    /// `n × {u8 length, text}`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for tag in &self.0 {
            out.push(u8::try_from(tag.len()).expect("a tag has at most 32 characters"));
            out.extend_from_slice(tag.as_bytes());
        }
        out
    }

    /// The inverse of [`Tags::encode`]; refuses what is not sorted.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let mut tags: Vec<String> = Vec::new();
        while !cursor.is_empty() {
            let length = cursor.u8()?;
            let text = cursor.take(usize::from(length))?;
            let tag = core::str::from_utf8(text).ok()?;
            if !is_tag(text)
                || tags.len() == Self::MAX
                || tags.last().is_some_and(|last| last.as_str() >= tag)
            {
                return None;
            }
            tags.push(tag.to_owned());
        }
        Some(Self(tags))
    }
}

fn is_tag(tag: &[u8]) -> bool {
    (1..=32).contains(&tag.len()) && tag.iter().all(|&b| is_ldh(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ldh_labels_are_names() {
        for good in ["a", "web-1", "0", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_name_becomes_a_name() {
        assert_eq!(Name::from_hostname("Web_01.example.org").as_str(), "web-01");
        assert_eq!(Name::from_hostname("--.x").as_str(), "node");
        assert_eq!(Name::from_hostname("").as_str(), "node");
        let long = Name::from_hostname(&"é".repeat(100));
        assert_eq!(long.as_str(), "node");
    }

    #[test]
    fn a_suffix_never_makes_a_name_too_long() {
        let name: Name = "a".repeat(63).parse().unwrap();
        let next = name.with_suffix(12);
        assert_eq!(next.as_str().len(), 63);
        assert!(next.as_str().ends_with("-12"));
        assert!(next.as_str().parse::<Name>().is_ok());
        let hyphen: Name = format!("{}-{}", "a".repeat(60), "bb").parse().unwrap();
        assert!(hyphen.with_suffix(2).as_str().parse::<Name>().is_ok());
    }

    #[test]
    fn a_pattern_allows_its_name_or_its_prefix() {
        let web: NamePattern = "web-*".parse().unwrap();
        assert!(web.matches(&"web-7".parse().unwrap()));
        assert!(!web.matches(&"db-7".parse().unwrap()));
        let all: NamePattern = "*".parse().unwrap();
        assert!(all.matches(&"x".parse().unwrap()));
        let exact: NamePattern = "db".parse().unwrap();
        assert!(!exact.matches(&"db-2".parse().unwrap()));
        assert!("a*b".parse::<NamePattern>().is_err());
        assert!("".parse::<NamePattern>().is_err());
    }

    #[test]
    fn tags_are_sorted_and_have_one_encoding() {
        let tags = Tags::new(["web", "gpu", "web"]).unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["gpu", "web"]);
        assert_eq!(Tags::decode(&tags.encode()), Some(tags));
        assert_eq!(Tags::decode(b"\x01b\x01a"), None, "not sorted");
        assert_eq!(Tags::decode(b"\x01a\x01a"), None, "repeated");
        assert_eq!(Tags::decode(b"\x00"), None, "empty");
        assert_eq!(Tags::decode(b"\x02a"), None, "truncated");
        assert!(Tags::new((0..17).map(|n| n.to_string())).is_err());
        assert!(Tags::new(["a b"]).is_err());
    }
}
