//! Every protocol decision of skynet, sans-IO.
//!
//! Time, randomness and storage are arguments. Nothing in here opens a socket or a file, starts a thread, awaits,
//! reads a clock or asks the operating system for random bytes; that is what lets a test run a thousand nodes and
//! a day in a second.

#![forbid(unsafe_code)]

pub mod allowed_ips;
pub mod batch;
pub mod carrier;
pub mod chunk;
pub mod constants;
pub mod control;
pub mod crypto;
pub mod diagnosis;
pub mod drop;
pub mod filter;
pub mod flows;
pub mod forwarder;
pub mod forwarding;
pub mod id;
pub mod key;
pub mod lane_policy;
pub mod member;
pub mod node;
mod noise;
pub mod offload;
pub mod path;
pub mod policy;
pub mod port_mapping;
pub mod reasons;
pub mod receive;
pub mod relay;
pub mod rng;
pub mod send;
pub mod session;
pub mod time;
mod too_big;
pub mod wire;
pub mod worker;
