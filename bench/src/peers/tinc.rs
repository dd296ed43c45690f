//! tinc 1.0, as Debian packages it: router mode, keys of its own making, its default cipher.

use std::path::Path;

use super::{daemon, package};
use crate::link::{End, Link};
use crate::peer::{Peer, Running};

/// `tincd`.
pub(super) struct Tinc;

const PROGRAMS: [(&str, &str); 1] = [("tincd", "tinc")];
const DEVICE: &str = "tinc0";

impl Peer for Tinc {
    fn name(&self) -> &str {
        "tinc"
    }

    fn describe(&self) -> String {
        format!(
            "{}; AES-256-CBC and HMAC-SHA256 (its defaults)",
            package::first_line("tincd", &["--version"])
        )
    }

    fn missing(&self) -> Option<String> {
        package::need(&PROGRAMS)
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&PROGRAMS)
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let (left, right) = (link.left(), link.right());
        for (here, there) in [(&left, &right), (&right, &left)] {
            prepare(link, here, there)?;
        }
        for (here, there) in [(&left, &right), (&right, &left)] {
            let name = here.namespace.role();
            let (from, to) = (here.directory(link, "tinc")?, there.directory(link, "tinc")?);
            std::fs::copy(from.join("hosts").join(name), to.join("hosts").join(name))?;
        }
        let mut running = Running::at(right.overlay);
        for here in [&left, &right] {
            let directory = here.directory(link, "tinc")?;
            let (config, pid_file) = (directory.display().to_string(), directory.join("pid"));
            let pid_file = format!("--pidfile={}", pid_file.display());
            let process = daemon::start(here, "tincd", &["-c", &config, "-D", &pid_file])?;
            daemon::await_device(here, process, DEVICE, &mut running)?;
            daemon::configure(here, DEVICE)?;
        }
        Ok(running)
    }
}

/// Writes an end's configuration and, the first time, makes its key pair.
fn prepare(link: &Link, here: &End, there: &End) -> anyhow::Result<()> {
    let directory = here.directory(link, "tinc")?;
    let (own, other) = (here.namespace.role(), there.namespace.role());
    if directory.join("hosts").join(own).exists() {
        return Ok(());
    }
    std::fs::create_dir_all(directory.join("hosts"))?;
    let config = format!(
        "Name = {own}\nConnectTo = {other}\nInterface = {DEVICE}\nDeviceType = tun\nMode = router\n\
         AddressFamily = ipv4\n"
    );
    std::fs::write(directory.join("tinc.conf"), config)?;
    let (underlay, port) = (here.underlay, here.socket().port());
    let host = format!("Address = {underlay}\nPort = {port}\nSubnet = {}/32\n", here.overlay);
    std::fs::write(directory.join("hosts").join(own), host)?;
    make_key(here, &directory)
}

/// Appends the public key to the host's own file; it asks nothing when the input is no terminal.
fn make_key(here: &End, directory: &Path) -> anyhow::Result<()> {
    let (program, directory) = (package::path("tincd")?, directory.display().to_string());
    here.namespace.exec(&[&program, "-c", &directory, "-K2048"])?.ok()?;
    Ok(())
}
