//! The `skynet-agent` binary: see `skynet-agent --help`.

fn main() -> std::process::ExitCode {
    skynet_agent::cli::main()
}
