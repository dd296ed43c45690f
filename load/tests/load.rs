//! The generator itself, with a tenth of the nodes: the bars are those of all of them.

use std::path::Path;
use std::process::Command;

#[test]
fn a_thousand_nodes_join_come_back_after_a_crash_and_one_more_costs_them_nothing() {
    let generator = Path::new(env!("CARGO_BIN_EXE_skynet-load"));
    let relay = generator.with_file_name("skynet-relay");
    assert!(relay.is_file(), "build it first: cargo test --workspace --no-run --test daemon");
    let output = Command::new(generator)
        .args([
            "--nodes", "1000", "--rate", "400", "--known", "0", "--idle", "1", "--settle", "1", "--pairs",
            "20",
        ])
        .args(["--json", "--check"])
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{failed}");
    assert!(output.status.success());
}
