//! What `node` and `token` share: the directory as the running relay, or the file, has it, and telling the relay of what was
//! signed.

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skynet_relay::io::describe;
use skynet_relay::network::load_network;
use skynet_relay::store::RedbStore;

use super::{Common, Failure, status};

/// The directory of the running relay; the file's, if none runs.
pub(super) fn read(common: &Common) -> Result<Value, Failure> {
    let value: Value = match status::ask_for(common, "directory") {
        Ok(text) => serde_json::from_str(&text).context("the relay's answer is no JSON")?,
        Err(Failure::NotRunning(_)) => {
            let network = load_network(&common.dir)?;
            // A network in which nobody has joined yet may have no file.
            if !network.directory.exists() {
                return Ok(Value::Null);
            }
            describe::directory(&RedbStore::open(&network.directory)?)?
        }
        Err(other) => return Err(other),
    };
    match value["error"].as_str() {
        Some(error) => Err(Failure::Failed(anyhow::anyhow!("{error}"))),
        None => Ok(value),
    }
}

/// Has the running relay read the network's documents anew. What it does with them is for people.
pub(super) fn tell_relay(common: &Common) -> Result<&'static str, Failure> {
    let text = match status::ask(common) {
        Err(Failure::NotRunning(_)) => return Ok("No relay runs here; it holds as soon as one does."),
        text => text?,
    };
    let value: Value = serde_json::from_str(&text).context("the relay's answer is no JSON")?;
    let pid = value["process"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let pid = Pid::from_raw(pid.context("the relay does not say its process")?);
    let told = kill(pid, Signal::SIGHUP);
    told.with_context(|| format!("process {pid} cannot be told; run this as root, or restart the relay"))?;
    Ok("The relay tells every member that is online now.")
}
