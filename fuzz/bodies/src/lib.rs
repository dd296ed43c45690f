//! What every fuzz target does with its bytes.
//!
//! ```text
//! fuzz/fuzz_targets/NAME.rs ─┐  libFuzzer, nightly, ./x fuzz
//!                            ├──▶ TARGETS[NAME].run(bytes) ──▶ assertions
//! tests/replay.rs ───────────┘  stable, every file of fuzz/corpus/NAME, on every test run
//! ```
//!
//! A body panics if a promise of the code under test is broken, and says whether the input got past the last check
//! the code makes: the replay test demands that of the seeds, so they cannot go stale unseen. Bodies know the keys
//! and rebuild MACs, seals and signatures around the fuzzer's bytes where a random search would never pass them.

pub mod agent;
pub mod carrier;
pub mod chunk;
pub mod control;
pub mod hostile_relay;
pub mod member;
pub mod node;
pub mod offload;
pub mod path;
pub mod policy;
pub mod relay;
pub mod sample;
pub mod seeds;
pub mod store;
pub mod wire;

/// One fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of the file in `fuzz_targets`, and of its directory in `corpus`.
    pub name: &'static str,
    /// Does it; returns whether the input was accepted by all there is to accept it.
    pub run: fn(&[u8]) -> bool,
    /// Small valid inputs: name and bytes.
    pub seeds: fn() -> Vec<Seed>,
}

/// The name and the bytes of a file in the corpus.
pub type Seed = (String, Vec<u8>);

/// All of them, by name.
pub const TARGETS: &[Target] = &[
    Target { name: "binding", run: wire::binding, seeds: seeds::binding },
    Target { name: "bundle", run: member::bundle, seeds: seeds::bundle },
    Target { name: "carrier_head", run: carrier::head, seeds: seeds::carrier_head },
    Target { name: "carrier_stream", run: carrier::stream, seeds: seeds::carrier_stream },
    Target { name: "chain", run: member::chain, seeds: seeds::chain },
    Target { name: "chunk", run: chunk::chunk, seeds: seeds::chunk },
    Target { name: "control_channel", run: control::channel, seeds: seeds::control_channel },
    Target { name: "control_message", run: control::message, seeds: seeds::control_message },
    Target { name: "credentials", run: member::credentials, seeds: seeds::credentials },
    Target { name: "dns", run: agent::dns, seeds: seeds::dns },
    Target { name: "document", run: member::document, seeds: seeds::document },
    Target { name: "hostile_relay", run: hostile_relay::hostile_relay, seeds: seeds::hostile_relay },
    Target { name: "invitation", run: member::invitation, seeds: seeds::invitation },
    Target { name: "ip", run: wire::ip, seeds: seeds::ip },
    Target { name: "kept_members", run: member::kept_members, seeds: seeds::kept_members },
    Target { name: "node", run: node::node, seeds: seeds::node },
    Target { name: "offload_coalesce", run: offload::coalesce, seeds: seeds::offload_coalesce },
    Target { name: "offload_split", run: offload::split, seeds: seeds::offload_split },
    Target { name: "path", run: path::path, seeds: seeds::path },
    Target { name: "policy", run: policy::policy, seeds: seeds::policy },
    Target { name: "probe", run: wire::probe, seeds: seeds::probe },
    Target { name: "record", run: wire::record, seeds: seeds::record },
    Target { name: "relay_forwarder", run: relay::forwarder, seeds: seeds::relay_forwarder },
    Target { name: "relay_frame", run: wire::relay_frame, seeds: seeds::relay_frame },
    Target { name: "store", run: store::store, seeds: seeds::store },
    Target { name: "token", run: member::token, seeds: seeds::token },
    Target { name: "user_data", run: agent::user_data, seeds: seeds::user_data },
    Target { name: "wireguard", run: wire::wireguard, seeds: seeds::wireguard },
];

/// Takes small numbers and slices off the front of the fuzzer's bytes; zeros and short slices at the end of them.
#[derive(Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte, 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }
    /// The next two bytes, big-endian.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }
    /// The next `n` bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }
    /// A slice behind its length in two bytes.
    pub fn slice(&mut self) -> &'a [u8] {
        let n = usize::from(self.short());
        self.take(n)
    }
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes `Input` reads back as slices.
pub fn slices(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend(u16::try_from(part.len()).expect("a seed is short").to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}
