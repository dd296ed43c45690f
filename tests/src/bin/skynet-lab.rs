//! A lab to look around in: three clouds of two hosts behind a port-restricted, a symmetric and no NAT.

use std::net::Ipv4Addr;

use clap::{Parser, Subcommand};
use skynet_tests::lab::{self, Lab, NatKind};

/// The namespace lab of skynet, by hand.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes a lab and removes it at Ctrl-C.
    Up {
        /// Leave it in place and return.
        #[arg(long)]
        keep: bool,
    },
    /// Removes all labs whose owner no longer runs, kept ones too.
    Clean,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().verb {
        Verb::Up { keep } => up(keep),
        Verb::Clean => {
            for prefix in lab::cleanup_all_stale() {
                println!("removed {prefix}");
            }
            Ok(())
        }
    }
}

fn up(keep: bool) -> anyhow::Result<()> {
    lab::remove_labs_on_signals()?;
    let lab = Lab::builder("by hand")
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .cloud("b", NatKind::Symmetric, 2)
        .cloud("c", NatKind::Public, 2)
        .build()?;
    for namespace in lab.all() {
        let addresses: Vec<_> = namespace.addresses().iter().map(Ipv4Addr::to_string).collect();
        println!("{:16} {}", namespace.name(), addresses.join(", "));
    }
    println!(
        "\nup in {:.0?}; look around with: ip netns exec {} bash",
        lab.setup_time(),
        lab.host("a1").name()
    );
    if keep {
        let prefix = lab.leak()?;
        println!("kept; `skynet-lab clean` removes {prefix}");
        return Ok(());
    }
    println!("Ctrl-C removes it");
    loop {
        std::thread::park();
    }
}
