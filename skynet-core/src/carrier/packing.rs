//! Frames in the plaintext of one message of a stream.
//!
//! ```text
//! n × { u16 length | relay frame (PROTOCOL §4) }
//! ```

/// Bytes in front of each frame.
pub(super) const LENGTH: usize = 2;

/// Why the plaintext of a message is no list of frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum PackingError {
    /// A frame without a byte.
    #[error("empty frame")]
    Empty,
    /// More bytes announced than are there.
    #[error("frame cut short")]
    Short,
}

/// The frames of a message, one after the other. The first error is the last item.
#[derive(Clone, Debug)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// Those in the plaintext of one message.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<&'a [u8], PackingError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = core::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else {
            return Some(Err(PackingError::Short));
        };
        match usize::from(u16::from_be_bytes(*length)) {
            0 => Some(Err(PackingError::Empty)),
            len if len > rest.len() => Some(Err(PackingError::Short)),
            len => {
                let (frame, rest) = rest.split_at(len);
                self.0 = rest;
                Some(Ok(frame))
            }
        }
    }
}

/// Appends one frame of 1 to 65,535 bytes.
pub(super) fn pack(frame: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(frame.len()).expect("the queue takes no longer ones");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(frames: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| pack(frame, &mut out));
        out
    }

    #[test]
    fn gives_back_what_was_packed() {
        let frames: [&[u8]; 3] = [&[0xA1; 8], &[0xAC; 16], &[0xA1; 1500]];
        let bytes = packed(&frames);
        assert_eq!(Frames::of(&bytes).collect::<Result<Vec<_>, _>>().unwrap(), frames);
        assert_eq!(Frames::of(&[]).next(), None);
    }

    #[test]
    fn every_cut_is_an_error_or_fewer_frames() {
        let bytes = packed(&[&[1; 5], &[2; 9]]);
        for end in 0..bytes.len() {
            let result: Result<Vec<_>, _> = Frames::of(&bytes[..end]).collect();
            match end {
                0 | 7 => assert!(result.is_ok(), "{end}"),
                _ => assert_eq!(result, Err(PackingError::Short), "{end}"),
            }
        }
    }

    #[test]
    fn no_flipped_bit_reads_beyond_the_message() {
        let bytes = packed(&[&[1; 5], &[2; 9], &[3; 1]]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read: usize = Frames::of(&flipped).map_while(Result::ok).map(|f| f.len() + LENGTH).sum();
            assert!(read <= flipped.len());
            assert!(Frames::of(&flipped).count() <= flipped.len());
        }
        assert_eq!(Frames::of(&[0, 0]).next(), Some(Err(PackingError::Empty)));
    }
}
