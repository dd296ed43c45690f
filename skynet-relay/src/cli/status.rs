//! `status`: what the running relay says over its socket.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;

use super::{Common, Failure};

/// What the running relay says, as it says it.
pub(super) fn ask(common: &Common) -> Result<String, Failure> {
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
    let mut text = String::new();
    stream.read_to_string(&mut text).context("the relay does not answer")?;
    Ok(text)
}

pub(super) fn execute(common: &Common) -> Result<(), Failure> {
    let text = ask(common)?;
    if common.json {
        say!("{text}");
        return Ok(());
    }
    let value: serde_json::Value = serde_json::from_str(&text).context("the relay's answer is no JSON")?;
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "schema") {
        match value {
            serde_json::Value::Object(map) => {
                for (reason, n) in map {
                    say!("{key}.{reason:<22} {n}");
                }
            }
            value => say!("{key:<28} {}", value.to_string().trim_matches('"')),
        }
    }
    Ok(())
}
