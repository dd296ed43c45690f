//! Writes the seeds into `fuzz/corpus`: `cargo run -p skynet-fuzz-bodies --example seeds`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in skynet_fuzz_bodies::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(dir.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}
