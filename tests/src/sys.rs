//! The system calls no safe crate wraps; the only `unsafe` code of this crate.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::PipeReader;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicI32, Ordering};

/// Opens a TAP device called `name` in the network namespace of the calling thread: whole Ethernet frames, no
/// offloads, non-blocking. It vanishes with the returned file.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and TUNSETIFF reads and writes one `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Where `needle` first occurs in `haystack`; libc's search, fast also in a build without optimisation.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // SAFETY: both pointers are valid for the lengths given, and memmem only reads.
    let found = unsafe {
        libc::memmem(haystack.as_ptr().cast(), haystack.len(), needle.as_ptr().cast(), needle.len())
    };
    if found.is_null() { None } else { Some(found.addr() - haystack.as_ptr().addr()) }
}

/// How many packets a packet socket has missed since the last call, for want of buffer.
pub(crate) fn packets_missed(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: `tpacket_stats` is plain old data, for which all zeroes is a valid value.
    let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes into `stats`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(stats.tp_drops) }
}

/// A packet socket in the calling thread's namespace that sees every packet of the interface `index`, both ways, from
/// its IP header on, and tells whether its checksum is still to be completed.
pub(crate) fn packet_tap(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: `socket` takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `sockaddr_ll` is plain old data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a complete `sockaddr_ll` of that length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option reads one int, which lives through the call.
    let result = unsafe {
        let option = libc::PACKET_AUXDATA;
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// One packet of a [`packet_tap`]: its length in `buffer`, and whether its checksum is partial. `WouldBlock` if there
/// is none.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    // Aligned as a control message must be, and larger than the one that is asked for.
    let mut control = [0u64; 16];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is plain old data, for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to live buffers of the lengths it names.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    let mut partial = false;
    // SAFETY: the kernel has filled `control` with whole messages, between which these functions step.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(found) = header.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                let data: libc::tpacket_auxdata =
                    libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                partial |= data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, partial))
}

/// Where [`report`] writes; -1 until [`signals`] was called.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Turns SIGINT and SIGTERM into bytes, the signals' numbers, readable from the returned pipe. Of each, only the first:
/// the second has its default action, so an impatient user is obeyed. Unlike blocked signals, handlers are not inherited
/// by the processes a lab starts.
pub(crate) fn signals() -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    // Stays open until the process ends: a handler may run at any time.
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: `sigaction` is plain old data, for which all zeroes (an empty mask, no flags) is a valid value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = report as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
        // SAFETY: `action` is a complete description, and its handler only calls what is allowed in one.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(reader)
}

/// The signal handler: an atomic load and one `write`, which is async-signal-safe.
extern "C" fn report(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: the pipe is never closed, and one byte is read from a live variable.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn finds_a_needle_at_both_ends_and_nowhere_else() {
        assert_eq!(find(b"abcdef", b"abc"), Some(0));
        assert_eq!(find(b"abcdef", b"def"), Some(3));
        assert_eq!(find(b"abcdef", b"deg"), None);
        assert_eq!(find(b"", b"a"), None);
    }
}
