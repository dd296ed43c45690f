//! nebula, as Debian packages it: its own certificates, addresses of both hosts in both configurations, no lighthouse.

use super::{daemon, package};
use crate::link::{End, Link};
use crate::peer::{Peer, Running};

/// `nebula`.
pub(super) struct Nebula;

const PROGRAMS: [(&str, &str); 2] = [("nebula", "nebula"), ("nebula-cert", "nebula")];
const DEVICE: &str = "nebula0";

impl Peer for Nebula {
    fn name(&self) -> &str {
        "nebula"
    }

    fn describe(&self) -> String {
        format!(
            "nebula {}; AES-256-GCM, MTU 1300 (its defaults)",
            package::first_line("nebula", &["-version"])
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
        let cert = package::path("nebula-cert")?;
        let ca = left.directory(link, "nebula-ca")?;
        let (crt, key) = (ca.join("ca.crt").display().to_string(), ca.join("ca.key").display().to_string());
        if !ca.join("ca.crt").exists() {
            let argv = [&cert, "ca", "-name", "bench", "-out-crt", &crt, "-out-key", &key];
            left.namespace.exec(&argv)?.ok()?;
        }
        let mut running = Running::at(right.overlay);
        for (here, there) in [(&left, &right), (&right, &left)] {
            let directory = here.directory(link, "nebula")?;
            let file = |name: &str| directory.join(name).display().to_string();
            let (own_crt, own_key, config) = (file("own.crt"), file("own.key"), file("config.yml"));
            if !directory.join("own.crt").exists() {
                let address = format!("{}/24", here.overlay);
                let argv = [&cert, "sign", "-ca-crt", &crt, "-ca-key", &key, "-ip", &address];
                let argv = [&argv[..], &["-name", here.namespace.role()]].concat();
                let argv = [&argv[..], &["-out-crt", &own_crt, "-out-key", &own_key]].concat();
                here.namespace.exec(&argv)?.ok()?;
            }
            std::fs::write(&config, text(here, there, [&crt, &own_crt, &own_key]))?;
            let process = daemon::start(here, "nebula", &["-config", &config])?;
            daemon::await_device(here, process, DEVICE, &mut running)?;
        }
        Ok(running)
    }
}

fn text(here: &End, there: &End, [ca, crt, key]: [&str; 3]) -> String {
    format!(
        r#"pki: {{ca: "{ca}", cert: "{crt}", key: "{key}"}}
static_host_map: {{"{overlay}": ["{underlay}"]}}
lighthouse: {{am_lighthouse: false, hosts: []}}
listen: {{host: "{own}", port: {port}}}
tun: {{dev: {DEVICE}}}
logging: {{level: error}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"#,
        overlay = there.overlay,
        underlay = there.socket(),
        own = here.underlay,
        port = here.socket().port(),
    )
}
