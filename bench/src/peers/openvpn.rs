//! OpenVPN in user space, as Debian packages it: point to point over UDP, TLS with a self-signed certificate per end that
//! the other end knows by its fingerprint.

use anyhow::Context as _;

use super::{daemon, package};
use crate::link::{End, Link};
use crate::peer::{Peer, Running};

/// `openvpn`.
pub(super) struct OpenVpn;

const PROGRAMS: [(&str, &str); 2] = [("openvpn", "openvpn"), ("openssl", "openssl")];
const DEVICE: &str = "ovpn0";

impl Peer for OpenVpn {
    fn name(&self) -> &str {
        "openvpn"
    }

    fn describe(&self) -> String {
        let version = package::first_line("openvpn", &["--version"]);
        let version = version.split(" [").next().unwrap_or_default();
        format!("{version}; AES-256-GCM, MTU 1500 (its defaults)")
    }

    fn missing(&self) -> Option<String> {
        package::need(&PROGRAMS)
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&PROGRAMS)
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let (left, right) = (link.left(), link.right());
        let fingerprints = [certify(link, &left)?, certify(link, &right)?];
        let mut running = Running::at(right.overlay);
        // The server first: a client that finds nobody waits before it tries again.
        for (here, there, role, expected) in [
            (&right, &left, "--tls-server", &fingerprints[0]),
            (&left, &right, "--tls-client", &fingerprints[1]),
        ] {
            let file =
                |name: &str| here.directory(link, "openvpn").map(|d| d.join(name).display().to_string());
            let port = here.socket().port().to_string();
            let (own, other) = (here.overlay.to_string(), there.overlay.to_string());
            let (crt, key) = (file("own.crt")?, file("own.key")?);
            let (local, remote) = (here.underlay.to_string(), there.underlay.to_string());
            let mut arguments = vec!["--dev", DEVICE, "--dev-type", "tun", "--topology", "p2p"];
            arguments.extend(["--proto", "udp", "--local", &local, "--remote", &remote, "--port", &port]);
            arguments.extend(["--ifconfig", &own, &other, role, "--dh", "none"]);
            arguments.extend(["--cert", &crt, "--key", &key, "--peer-fingerprint", expected]);
            arguments.extend(["--data-ciphers", "AES-256-GCM", "--verb", "1"]);
            let process = daemon::start(here, "openvpn", &arguments)?;
            daemon::await_device(here, process, DEVICE, &mut running)?;
        }
        Ok(running)
    }
}

/// Makes an end's certificate, the first time, and returns its SHA-256 fingerprint.
fn certify(link: &Link, end: &End) -> anyhow::Result<String> {
    let directory = end.directory(link, "openvpn")?;
    let file = |name: &str| directory.join(name).display().to_string();
    let (crt, key, openssl) = (file("own.crt"), file("own.key"), package::path("openssl")?);
    if !directory.join("own.crt").exists() {
        let subject = format!("/CN={}", end.namespace.role());
        let mut argv = vec![openssl.as_str(), "req", "-x509", "-newkey", "ec", "-pkeyopt"];
        argv.extend(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", &subject]);
        argv.extend(["-keyout", &key, "-out", &crt]);
        end.namespace.exec(&argv)?.ok()?;
    }
    let argv = [&openssl, "x509", "-noout", "-fingerprint", "-sha256", "-in", &crt];
    let printed = end.namespace.exec(&argv)?.ok()?;
    let (_, fingerprint) = printed.trim().split_once('=').context("no fingerprint")?;
    Ok(fingerprint.to_owned())
}
