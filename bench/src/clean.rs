//! What a run that was killed with SIGKILL leaves behind.

/// Removes it and says what it was.
pub(crate) fn run() -> anyhow::Result<()> {
    let removed = skynet_tests::fleet::remove_all_stale()?;
    println!("removed {} labs {}", removed.len(), removed.join(" "));
    Ok(())
}
