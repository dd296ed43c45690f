//! Tests of the parts together; the small parts have theirs in their own files.

mod chain;
mod enrol;
mod parse;
mod revoke;
mod rotation;
