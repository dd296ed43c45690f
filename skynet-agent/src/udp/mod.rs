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

use std::io;
use std::os::fd::BorrowedFd;

/// Sets DF on everything this socket sends, and ignores what ICMP claims about the path.
///
/// # Errors
/// The kernel's.
pub(crate) fn never_fragment(socket: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    let (level, option, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    };
    set_option(socket, level, option, value)
}
