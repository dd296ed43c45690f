//! The control channel (`docs/PROTOCOL.md` §4.1): typed messages inside Noise IK inside any byte stream.
//!
//! [`channel`] turns a byte stream into messages both ways, [`message`] gives them types, [`client`] is the node's
//! side of the conversation. Sockets belong to the shells.

pub mod channel;
pub mod client;
pub mod message;
pub mod roll;

pub use channel::{Channel, ChannelError};
pub use client::{
    ControlClient, ControlConfig, ControlEvent, ControlTarget, ControlTimer, DownCause, RequestId,
};
pub use message::{DeniedCode, Message, MessageError};
