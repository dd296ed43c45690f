//! `status`: what the running relay says over its socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::{Common, Failure};

/// Peers shown to people unless they ask for all.
const PEERS: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct StatusVerb {
    /// Show all peers, not only the first 20
    #[arg(long)]
    peers: bool,
}

/// What the running relay says of itself, as it says it.
pub(super) fn ask(common: &Common) -> Result<String, Failure> {
    ask_for(common, "status")
}

/// The same of something else.
pub(super) fn ask_for(common: &Common, what: &str) -> Result<String, Failure> {
    let path = common.status_socket();
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::NotRunning(format!(
            "no relay runs in {}; start it with `skynet-relay up`, or name its directory with --dir",
            common.dir.display()
        )),
        _ => {
            Failure::Failed(anyhow::anyhow!("{}: {error}; run this as the user of the relay", path.display()))
        }
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    writeln!(stream, "{what}").context("the relay does not listen")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("the relay does not answer")?;
    Ok(text)
}

pub(super) fn execute(common: &Common, verb: &StatusVerb) -> Result<(), Failure> {
    let text = ask(common)?;
    if common.json {
        say!("{text}");
        return Ok(());
    }
    let value: Value = serde_json::from_str(&text).context("the relay's answer is no JSON")?;
    for line in lines(&value, if verb.peers { usize::MAX } else { PEERS }) {
        say!("{line}");
    }
    Ok(())
}

/// What people read: figures, then a table for each list.
fn lines(value: &Value, most_peers: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        if !(value.is_array() || value.is_object() || key == "schema") {
            lines.push(format!("{key:<28} {}", plain(value)));
        }
    }
    table(&mut lines, value, "threads", usize::MAX);
    table(&mut lines, value, "networks", usize::MAX);
    table(&mut lines, value, "peers", most_peers);
    lines.push("\ndrops".into());
    for (reason, n) in value["drops"].as_object().into_iter().flatten() {
        lines.push(format!("  {reason:<26} {n}"));
    }
    lines
}

/// A list of objects with the same keys.
fn table(lines: &mut Vec<String>, value: &Value, name: &str, most: usize) {
    let rows: Vec<_> = value[name].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let Some(first) = rows.first() else { return };
    let head: Vec<String> = first.keys().cloned().collect();
    let cell =
        |row: &serde_json::Map<String, Value>, key: &String| row.get(key).map(plain).unwrap_or_default();
    let shown: Vec<Vec<String>> =
        rows.iter().take(most).map(|row| head.iter().map(|key| cell(row, key)).collect()).collect();
    let width = |column: usize| {
        shown.iter().map(|row| row[column].len()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column)));
        format!("  {}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.push(format!("\n{name}"));
    lines.push(line(&head));
    lines.extend(shown.iter().map(|row| line(row)));
    if rows.len() > shown.len() {
        lines.push(format!("  and {} more: --peers", rows.len() - shown.len()));
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_become_tables_and_long_ones_are_cut() {
        let peer = |n: u32| json!({ "node": format!("10.0.0.{n}"), "lane": 0, "transport": "udp" });
        let value = json!({
            "schema": "x", "sessions": 3,
            "peers": (1..=30).map(peer).collect::<Vec<_>>(),
            "drops": { "no_session": 4 },
        });
        let text = lines(&value, PEERS).join("\n");
        assert!(text.contains("sessions                     3"), "{text}");
        assert!(!text.contains("schema"), "{text}");
        assert!(text.contains("  10.0.0.20") && !text.contains("10.0.0.21"), "{text}");
        assert!(text.contains("and 10 more: --peers"), "{text}");
        assert!(text.contains("  no_session                 4"), "{text}");
        assert!(lines(&value, usize::MAX).join("\n").contains("10.0.0.30"));
    }
}
