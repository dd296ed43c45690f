//! Kernels that refuse, at every place of a batch: no datagram is lost, doubled or out of order.

use std::cell::RefCell;

use super::*;

/// A kernel whose answers are written down, and what it sent.
#[derive(Default)]
struct Kernel {
    /// Answer to the nth segmented call, if not success.
    refuse_train: Option<(usize, i32)>,
    /// Answer to every datagram longer than this.
    mtu: Option<(usize, i32)>,
    trains: RefCell<usize>,
    sent: RefCell<Vec<Vec<u8>>>,
}

impl SendMessage for Kernel {
    fn send_message(&mut self, _to: SocketAddr, bytes: &[u8], options: SendOptions) -> io::Result<()> {
        let segment = options.segment.map_or(bytes.len(), usize::from);
        if options.segment.is_some() {
            let train = self.trains.replace_with(|n| *n + 1);
            if let Some((_, errno)) = self.refuse_train.filter(|(from, _)| train >= *from) {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        if let Some((_, errno)) = self.mtu.filter(|(mtu, _)| segment > *mtu) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.sent.borrow_mut().extend(bytes.chunks(segment).map(<[u8]>::to_vec));
        Ok(())
    }
}

fn to() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

/// `n` datagrams of 1,000 bytes and one of 7, each with its number in it.
fn batch(n: usize) -> Vec<u8> {
    (0..n * 1000 + 7).map(|i| (i / 1000) as u8).collect()
}

fn datagrams(batch: &[u8]) -> Vec<Vec<u8>> {
    batch.chunks(1000).map(<[u8]>::to_vec).collect()
}

#[test]
fn a_refused_train_is_sent_again_datagram_by_datagram_whichever_it_is() {
    for errno in [libc::EIO, libc::EINVAL] {
        // 200 datagrams are four trains; the one refused first is each in turn.
        for from in 0..4 {
            let mut kernel = Kernel { refuse_train: Some((from, errno)), ..Kernel::default() };
            let trains = Trains::new(true);
            let batch = batch(200);
            trains.send(&mut kernel, to(), 0, &batch, 1000).unwrap();
            assert_eq!(*kernel.sent.borrow(), datagrams(&batch), "errno {errno}, train {from}");
            assert_eq!((trains.segments(), trains.refusals(), trains.dropped()), (false, 1, 0));
            // Off for good: the kernel is not asked again.
            let asked = *kernel.trains.borrow();
            trains.send(&mut kernel, to(), 0, &batch, 1000).unwrap();
            assert_eq!((*kernel.trains.borrow(), trains.refusals()), (asked, 1));
            assert_eq!(kernel.sent.borrow().len(), 2 * 201);
        }
    }
}

#[test]
fn segments_above_the_mtu_are_counted_drops_and_segmentation_stays() {
    // Linux has answered this with EINVAL and later with EMSGSIZE.
    for train_errno in [libc::EINVAL, libc::EMSGSIZE] {
        let mut kernel = Kernel {
            refuse_train: Some((0, train_errno)),
            mtu: Some((900, libc::EMSGSIZE)),
            ..Kernel::default()
        };
        let trains = Trains::new(true);
        let batch = batch(10);
        let error = trains.send(&mut kernel, to(), 0, &batch, 1000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!((trains.segments(), trains.refusals()), (true, 0));
        // Of a train that was refused whole, datagram by datagram, the short one fits.
        let fitted = kernel.sent.borrow().len();
        assert_eq!(trains.dropped() as usize + fitted, 11);
    }
}

#[test]
fn no_other_error_turns_segmentation_off() {
    for errno in [libc::EAGAIN, libc::ENOBUFS, libc::ENETUNREACH, libc::EPERM, libc::ECONNREFUSED] {
        let mut kernel = Kernel { refuse_train: Some((0, errno)), ..Kernel::default() };
        let trains = Trains::new(true);
        assert!(trains.send(&mut kernel, to(), 0, &batch(10), 1000).is_err());
        assert_eq!((trains.segments(), trains.refusals(), trains.dropped()), (true, 0, 11));
    }
}
