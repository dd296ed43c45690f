//! Bytes and types: one file per format, no state and no policy. `docs/PROTOCOL.md` is the norm.

pub mod probe;
