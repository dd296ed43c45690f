//! Whom the relay runs as. The root key belongs to the operator; the daemon must not be able to read it, so a relay
//! started by root becomes the user its files were given to before it opens any of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};
use skynet_relay::network::Owner;
use tracing::warn;

/// Who gets the files of a new network; `None` leaves them with the user who creates it.
pub(super) fn daemon_user(asked: Option<&str>) -> anyhow::Result<Option<Owner>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = match asked {
        Some(asked) => find(asked)?
            .with_context(|| format!("there is no user {asked}; create it, or name another --user"))?,
        None => match find("skynet")? {
            Some(user) => user,
            None => {
                find("nobody")?.context("there is neither a user skynet nor nobody; name one with --user")?
            }
        },
    };
    Ok((!user.uid.is_root()).then_some(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}

fn find(name: &str) -> anyhow::Result<Option<User>> {
    let user = match name.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    user.with_context(|| format!("looking up the user {name}"))
}

/// Becomes the owner of `dir` for good, if root runs this and the owner is not root.
pub(super) fn give_up_root(dir: &Path) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(dir).with_context(|| format!("{} cannot be examined", dir.display()))?;
    if owner.uid() == 0 {
        warn!("the relay runs as root and could read the network's root key");
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    setgroups(&[]).context("dropping root's groups")?;
    setresgid(gid, gid, gid).with_context(|| format!("becoming group {gid}"))?;
    setresuid(uid, uid, uid).with_context(|| format!("becoming user {uid}"))?;
    if fs::read_dir(dir).is_err() {
        bail!(
            "user {uid} cannot enter {}; choose a --dir whose parents others may pass, or another --user",
            dir.display()
        );
    }
    if fs::read_dir(dir.join("operator")).is_ok() {
        bail!(
            "user {uid} can read {}/operator, where the root key is; run chown -R root on it",
            dir.display()
        );
    }
    Ok(())
}
