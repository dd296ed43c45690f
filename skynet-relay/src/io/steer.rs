//! Which socket of a port a datagram comes to: a classic BPF program that the kernel asks once for each datagram or
//! train. It needs no privilege.
//!
//! ```text
//!   sockets   0 … n−1  bulk of thread 0 … n−1        n … 2n−1  control of thread 0 … n−1
//!   index     hash(source address, source port) mod n   [+ n, if it is control]
//! ```
//! *Control* is what keeps sessions alive and begins them: HELLO, BIND, KEEP, STUN, and DATA of class control. Everything
//! longer than a datagram of the Internet is bulk: a train is judged by its first datagram, and none of a bulk train may
//! come in by the door of control because one probe is in front.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use skynet_core::wire::relay::{BIND, Class, DATA, HELLO, KEEP, KEEP_LEN};

/// Longest datagram, or train of small ones, that may be control.
const LONGEST: u32 = 1_500;
/// Loads from here on count from the network header, below that from the UDP payload (linux/filter.h).
const NETWORK: u32 = -0x10_0000_i32 as u32;
/// Odd numbers that addresses are multiplied by; which thread somebody gets cannot be foretold without them.
pub(super) type Salt = [u32; 4];

/// Hands the datagrams of this port to its first `threads` sockets, control to as many behind them.
///
/// # Errors
/// As `setsockopt(2)`.
pub(super) fn attach(socket: &impl AsRawFd, threads: usize, salt: Salt) -> io::Result<()> {
    let threads = u32::try_from(threads).ok().filter(|n| *n > 0).ok_or(io::ErrorKind::InvalidInput)?;
    let mut code = program(threads, salt);
    let len = u16::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    // SAFETY: `program` says how many instructions lie at `filter`, and both outlive the call; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_ABS;
const LOAD_AT_X: u32 = libc::BPF_LD | libc::BPF_IND;
const LOAD_LEN: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_LEN;
const LOAD_CONSTANT: u32 = libc::BPF_LD | libc::BPF_IMM;
const LOAD_X_KEPT: u32 = libc::BPF_LDX | libc::BPF_MEM;
const BYTE: u32 = libc::BPF_B;
const HALF: u32 = libc::BPF_H;
const WORD: u32 = libc::BPF_W;
const A_TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const RETURN_A: u32 = libc::BPF_RET | libc::BPF_A;
const WITH_X: u32 = libc::BPF_X;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;

const fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
const fn alu(op: u32, k: u32) -> libc::sock_filter {
    step(libc::BPF_ALU | op, k)
}
/// Compares with `k` and leaves out so many steps.
const fn branch(op: u32, k: u32, if_so: u8, if_not: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | op) as u16, jt: if_so, jf: if_not, k }
}

/// The whole program. A load beyond the datagram's end would end it with index 0: what is loaded is there.
fn program(threads: u32, salt: Salt) -> Vec<libc::sock_filter> {
    // Cells of the program's memory.
    const SET: u32 = 0;
    const PORT: u32 = 1;
    // Numbers of steps that are gone to; a branch leaves out those from the one behind it.
    const CONTROL: u8 = 12;
    const BULK: u8 = 14;
    const V6: u8 = 27;
    const MIX: u8 = 42;
    let equals = |k: u8, if_so, if_not| branch(libc::BPF_JEQ, k.into(), if_so, if_not);
    // a  which of the two sets
    let mut code = vec![
        step(LOAD_LEN, 0),
        branch(libc::BPF_JGE, KEEP_LEN as u32, 0, BULK - 2),
        branch(libc::BPF_JGT, LONGEST, BULK - 3, 0),
        step(LOAD | BYTE, 0),
        equals(DATA, 0, 8 - 5),
        step(LOAD | BYTE, 1),
        alu(libc::BPF_AND, 3),
        equals(Class::Control as u8, CONTROL - 8, BULK - 8),
        equals(HELLO, CONTROL - 9, 0),
        equals(BIND, CONTROL - 10, 0),
        equals(KEEP, CONTROL - 11, 0),
        // STUN begins with 0 or 1.
        branch(libc::BPF_JGT, 1, BULK - 12, 0),
        step(LOAD_CONSTANT, threads),
        step(GO, 1),
        step(LOAD_CONSTANT, 0),
        step(libc::BPF_ST, SET),
    ];
    // b  port and address of the source
    code.extend([
        step(LOAD | BYTE, NETWORK),
        alu(libc::BPF_RSH, 4),
        equals(4, 0, V6 - 19),
        step(LOAD | BYTE, NETWORK),
        alu(libc::BPF_AND, 0xf),
        alu(libc::BPF_LSH, 2),
        step(A_TO_X, 0),
        step(LOAD_AT_X | HALF, NETWORK),
        step(libc::BPF_ST, PORT),
        step(LOAD | WORD, NETWORK + 12),
        step(GO, u32::from(MIX - 27)),
        // IPv6. What stands there instead of the port if there are extension headers is the client's own affair.
        step(LOAD | HALF, NETWORK + 40),
        step(libc::BPF_ST, PORT),
        step(LOAD | WORD, NETWORK + 8),
    ]);
    for word in 1..4 {
        code.extend([alu(libc::BPF_MUL, salt[0]), step(A_TO_X, 0)]);
        code.extend([step(LOAD | WORD, NETWORK + 8 + 4 * word), alu(libc::BPF_XOR | WITH_X, 0)]);
    }
    debug_assert_eq!(code.len(), usize::from(MIX));
    // c  their hash: each round carries high bits down, where the next multiplies them
    code.extend([alu(libc::BPF_MUL, salt[1]), step(LOAD_X_KEPT, PORT), alu(libc::BPF_XOR | WITH_X, 0)]);
    for (factor, shift) in [(salt[2], 15), (salt[3], 16)] {
        code.extend([alu(libc::BPF_MUL, factor), step(A_TO_X, 0)]);
        code.extend([alu(libc::BPF_RSH, shift), alu(libc::BPF_XOR | WITH_X, 0)]);
    }
    // d  the socket
    code.extend([alu(libc::BPF_MOD, threads), step(LOAD_X_KEPT, SET), alu(libc::BPF_ADD | WITH_X, 0)]);
    code.push(step(RETURN_A, 0));
    code
}
