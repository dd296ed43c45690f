//! The UDP socket of one worker: batches in, trains out.
//!
//! Sends and receives never block for longer than a full socket buffer needs to drain. The DF bit is set on
//! everything: the overlay's MTU is found by its own probes, not by fragments. A v4-mapped address is reported as
//! the plain IPv4 address it is, and any address may be given to send to.

mod socket;
mod sys;
mod train;

pub use socket::{
    ReceiveBatch, Received, Room, SEND_WAIT, UdpFigures, UdpOffloads, UdpSocket, segments_mut, wait_for_room,
};
pub(crate) use sys::set_option;
