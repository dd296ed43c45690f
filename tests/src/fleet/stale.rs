//! What programs that make labs do so that nothing of them remains.

use std::path::Path;

use crate::lab;

/// On SIGINT and SIGTERM as [`lab::remove_labs_on_signals`], and on a panic too: a release build ends at a panic without
/// dropping anything. Call it first in `main`.
///
/// # Errors
/// If the signals cannot be taken over.
pub fn remove_labs_on_signals_and_panics() -> anyhow::Result<()> {
    lab::remove_labs_on_signals()?;
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        lab::cleanup_own();
    }));
    Ok(())
}

/// Removes every lab whose owner is gone, kept ones too, and the directories of such labs. Returns their prefixes.
///
/// # Errors
/// If a directory cannot be removed.
pub fn remove_all_stale() -> anyhow::Result<Vec<String>> {
    let mut removed = lab::cleanup_all_stale();
    for entry in std::fs::read_dir(std::env::temp_dir().join("skynet-lab")).into_iter().flatten() {
        let entry = entry?;
        let Ok(prefix) = entry.file_name().into_string() else { continue };
        if owner(&prefix).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            std::fs::remove_dir_all(entry.path())?;
            removed.push(prefix);
        }
    }
    removed.sort();
    removed.dedup();
    Ok(removed)
}

/// The process whose lab has this prefix: `sk<pid in hex>n<serial>`.
fn owner(prefix: &str) -> Option<u32> {
    let (pid, _serial) = prefix.strip_prefix("sk")?.split_once('n')?;
    u32::from_str_radix(pid, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn knows_the_owner_of_a_lab() {
        assert_eq!(owner("sk1fn0"), Some(31));
        assert_eq!(owner("other"), None);
    }
}
