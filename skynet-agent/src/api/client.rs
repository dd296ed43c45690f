//! The other end of the control socket: what the verbs use. Blocking; a verb does nothing else meanwhile.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{ErrorReply, MAX_REQUEST, Reply, Request};

/// The agent answers from memory; longer than this means it hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A question that got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent is running ({path}); the cure: skynet-agent up")]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody listens, but not for this user.
    #[error("{path}: not for this user; the cure: run as root, or join the group skynet to read the status")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke, or the answer made no sense.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] ErrorReply),
}

/// A connection to a running agent.
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent listening at `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        });
        let path = path.to_owned();
        match connected {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(e) => Err(match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { path }
                }
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path },
                _ => ClientError::Io { path, source: e },
            }),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        match self.exchange(request) {
            Ok(Reply::Ok(value)) => serde_json::from_value(value).map_err(|e| self.failed(e.into())),
            Ok(Reply::Error(error)) => Err(error.into()),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        let limit = (MAX_REQUEST * 1024) as u64;
        Read::by_ref(&mut self.stream).take(limit).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent closed the connection"));
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    fn failed(&self, source: io::Error) -> ClientError {
        ClientError::Io { path: self.path.clone(), source }
    }
}
