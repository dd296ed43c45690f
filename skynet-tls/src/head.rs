//! Reads the head of an HTTP message off a stream.

use std::io;

use skynet_core::carrier::http::{HeadError, MAX_HEAD};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What came: the head as `parse` understood it, and the bytes behind it.
pub(crate) async fn read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, HeadError>,
) -> io::Result<(T, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        match parse(&bytes) {
            Ok(Some((head, len))) => return Ok((head, bytes.split_off(len))),
            Ok(None) if bytes.len() < MAX_HEAD => {}
            Ok(None) => return Err(invalid(HeadError::TooLong)),
            Err(error) => return Err(invalid(error)),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(error: HeadError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
