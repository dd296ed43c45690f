//! `skynet-micro STEP COUNT`: one step of a packet's way, so often, and nothing else that depends on the count.
//!
//! `skynet-bench micro` runs it twice under valgrind, with two counts, and divides the difference. What a step needs is
//! made for the largest count always, so that it cancels out.

mod steps;
mod world;

use std::process::ExitCode;

use steps::{MAX_COUNT, STEPS};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => {
            let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
            println!("{profile}");
            for step in STEPS {
                println!("{} {}", step.name, step.payload_bytes);
            }
            ExitCode::SUCCESS
        }
        [name, count] => run(name, count),
        _ => {
            eprintln!("usage: skynet-micro list | skynet-micro STEP COUNT (at most {MAX_COUNT})");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, count: &str) -> ExitCode {
    let step = STEPS.iter().find(|step| step.name == name);
    let count = count.parse::<usize>().ok().filter(|count| *count <= MAX_COUNT);
    let (Some(step), Some(count)) = (step, count) else {
        eprintln!("no step {name:?}, or no count up to {MAX_COUNT}");
        return ExitCode::FAILURE;
    };
    let mut once = (step.prepare)();
    for _ in 0..count {
        once();
    }
    ExitCode::SUCCESS
}
