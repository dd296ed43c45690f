//! systemd-resolved, the real one, on a host of the lab. Its package takes `resolv.conf` over where it is installed, so it is
//! only unpacked, and laid over `/usr` in a mount namespace that it shares with the agent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use skynet_tests::fleet::{Agent, Binaries, Relay};
use skynet_tests::{Lab, NatKind, wait_for};

use crate::JOIN;

/// The agent's program on that host: `run` begins in a world with D-Bus and resolved, other verbs are asked as ever.
const PROGRAM: &str = r#"#!/bin/sh
[ "$1" = run ] || exec AGENT "$@"
[ -n "$SKYNET_WORLD" ] || SKYNET_WORLD=1 exec unshare --mount --propagation private "$0" "$@"
unset SKYNET_WORLD
mount -t overlay overlay -o lowerdir=ROOT/usr:/usr /usr || exit
for file in passwd group; do mount --bind ROOT/$file /etc/$file || exit; done
mount -t tmpfs none /run && mkdir -p /run/dbus /run/systemd/resolve && chown 991:991 /run/systemd/resolve || exit
dbus-daemon --system --nofork --nopidfile &
until [ -e /run/dbus/system_bus_socket ]; do sleep 0.05; done
/usr/lib/systemd/systemd-resolved &
until [ -e /run/systemd/resolve/io.systemd.Resolve ]; do sleep 0.05; done
exec AGENT "$@"
"#;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Unpacks the package below `root`, with the user that it wants.
fn unpack(root: &Path) {
    std::fs::create_dir_all(root.join("usr/lib/systemd")).unwrap();
    // apt has a user of its own for downloads, which may not write everywhere.
    let apt = ["-o", "APT::Sandbox::User=root", "download", "systemd-resolved"];
    run(Command::new("apt-get").args(apt).current_dir(root));
    run(Command::new("sh").args(["-c", "dpkg -x *.deb ."]).current_dir(root));
    let moved = root.join("lib/systemd/systemd-resolved");
    if moved.exists() {
        std::fs::rename(moved, root.join("usr/lib/systemd/systemd-resolved")).unwrap();
    }
    for (file, line) in [
        ("passwd", "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n"),
        ("group", "systemd-resolve:x:991:\n"),
    ] {
        let text = std::fs::read_to_string(Path::new("/etc").join(file)).unwrap();
        std::fs::write(root.join(file), text + line).unwrap();
    }
}

#[test]
#[ignore = "for ./x soak: downloads a Debian package"]
fn resolved_asks_the_agent_for_the_overlays_names_and_nobody_is_told_to() {
    let lab = Lab::builder("resolved").relay().cloud("a", NatKind::PortRestricted, 2).build().unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let root = lab.logs().join("root");
    unpack(&root);
    let program = lab.logs().join("agent.sh");
    let agent = binaries.agent.display().to_string();
    std::fs::write(&program, PROGRAM.replace("AGENT", &agent).replace("ROOT", &root.display().to_string()))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let in_world = Binaries { agent: program, relay: binaries.relay.clone() };
    let mut asking = Agent::start(&lab, "a1", &in_world, relay.token()).unwrap();
    let other = Agent::start(&lab, "a2", &binaries, relay.token()).unwrap();
    for agent in [&asking, &other] {
        agent.wait_joined(2 * JOIN).unwrap();
    }
    let id = asking.id().unwrap().to_string();
    let resolvectl = |arguments: &[&str]| {
        let argv = [&["nsenter", "-t", &id, "--mount", "resolvectl"], arguments].concat();
        let output = asking.namespace().exec(&argv).unwrap();
        output.stdout + &output.stderr
    };
    wait_for(Duration::from_secs(10), "resolved to be told", || {
        let status = asking.command(&["status"])?.stdout;
        anyhow::ensure!(status.contains("systemd-resolved asks here"), "{status}");
        Ok(())
    })
    .unwrap();
    let address = other.overlay_address().unwrap().to_string();
    let told = resolvectl(&["query", "a2.vm.internal"]);
    println!("{told}");
    assert!(
        told.contains(&format!("a2.vm.internal: {address}")) || told.contains(&format!(" {address} ")),
        "{told}"
    );
    let told = resolvectl(&["query", &address]);
    assert!(told.contains(&format!("{address}: a2.vm.internal")), "{told}");
    let told = resolvectl(&["query", "nobody.vm.internal"]);
    assert!(told.contains("not found"), "{told}");
    let link = resolvectl(&["status", "skynet0"]);
    assert!(link.contains("-DefaultRoute") && link.contains("~vm.internal"), "{link}");
    // Killed, it takes its interface along, and with that whatever resolved was told.
    asking.kill().unwrap();
    asking.namespace().end_processes();
    drop((asking, other, relay));
    lab.remove().unwrap();
}
