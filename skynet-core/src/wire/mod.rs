//! Bytes on the wire (`docs/PROTOCOL.md`): typed messages with their parsers and encoders, nothing that decides.

pub mod address;
pub mod relay;
