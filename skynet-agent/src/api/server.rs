//! The listening end: who is it, may they, hand the request to the control task, send back its answer.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{MAX_CONNECTIONS, MAX_REQUEST, Reply, Request, parse_request};

/// The group that may read.
const GROUP: &str = "skynet";
/// A connection that asks nothing is closed after this.
const IDLE: Duration = Duration::from_secs(120);

/// A request on its way to the control task, which answers through `reply`.
#[derive(Debug)]
pub struct Call {
    /// What is asked; already authorised.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// A control socket that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another agent answers on it.
    #[error(
        "another agent is running (it answers on {path}); stop it with skynet-agent down, or choose another --socket"
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in its place.
    #[error("{path} is not a socket; the cure: move it away, or choose another --socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    /// Listens at `path`. A file left behind by an agent that was killed is replaced; a running agent's is not.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
            fs::DirBuilder::new().recursive(true).create(dir).map_err(failed)?;
            // Whatever this process's mask is: the group that may read has to come by.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let group = skynet_group();
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        let restrict = || -> io::Result<()> {
            nix::unistd::chown(path, None, group)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        restrict().map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Accepts connections and forwards authorised requests to `calls` until the receiver is dropped.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!(%e, "control socket: accept failed");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = calls.closed() => return,
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(limit = MAX_CONNECTIONS, "control socket: too many connections");
                continue;
            };
            let calls = calls.clone();
            tokio::spawn(async move {
                let _slot = slot;
                if let Err(e) = converse(stream, calls).await {
                    tracing::debug!(%e, "control socket: connection ended");
                }
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = fs::remove_file(&self.path);
    }
}

fn clear_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServeError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        _ => Err(ServeError::Taken { path: path.to_owned() }),
    }
}

fn skynet_group() -> Option<Gid> {
    Group::from_name(GROUP).ok().flatten().map(|g| g.gid)
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let access = Access::of(Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(MAX_REQUEST as u64 + 1);
        let got = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
        if !matches!(got, Ok(Ok(n)) if n > 0) {
            return Ok(());
        }
        let too_long = line.len() > MAX_REQUEST;
        let reply = if too_long {
            Reply::error(2, "the request is too long")
        } else {
            answer(&line, access, &calls).await
        };
        let mut bytes = serde_json::to_vec(&reply)?;
        bytes.push(b'\n');
        write.write_all(&bytes).await?;
        if too_long {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], access: Access, calls: &mpsc::Sender<Call>) -> Reply {
    let request = match parse_request(line) {
        Ok(request) => request,
        Err(error) => return Reply::Error(error),
    };
    match access {
        Access::Change => {}
        Access::Read if !request.changes() => {}
        Access::Read => {
            return Reply::error(1, "only root may change the agent; the cure: run as root (sudo)");
        }
        Access::None => return Reply::error(1, "only root and the group skynet may talk to the agent"),
    }
    let (reply, answer) = oneshot::channel();
    let gone = || Reply::error(3, "the agent is stopping");
    if calls.send(Call { request, reply }).await.is_err() {
        return gone();
    }
    answer.await.unwrap_or_else(|_| gone())
}

/// What the other end may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Change,
    Read,
    None,
}

impl Access {
    /// By the credentials the kernel vouches for. The user the agent runs as counts as root does.
    fn of(uid: Uid, gid: Gid) -> Self {
        if uid.is_root() || uid == nix::unistd::geteuid() {
            return Self::Change;
        }
        let Some(group) = Group::from_name(GROUP).ok().flatten() else { return Self::None };
        let is_listed = || {
            let user = User::from_uid(uid).ok().flatten();
            user.is_some_and(|u| u.gid == group.gid || group.mem.contains(&u.name))
        };
        if gid == group.gid || is_listed() { Self::Read } else { Self::None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Client, ClientError};
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A server that answers every request with its debug text; runs until the returned guard is dropped.
    fn echo(path: &Path) -> (std::thread::JoinHandle<()>, oneshot::Sender<()>) {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = path.to_owned();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let server = Server::bind(&path).unwrap();
                ready.send(()).unwrap();
                let (sender, mut calls) = mpsc::channel(4);
                let serve = tokio::spawn(server.serve(sender));
                let answer = async {
                    while let Some(call) = calls.recv().await {
                        let _ = call.reply.send(Reply::ok(&format!("{:?}", call.request)));
                    }
                };
                tokio::select! { () = answer => {}, _ = stopped => {} }
                drop(calls);
                serve.await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        (thread, stop)
    }

    #[test]
    fn requests_are_answered_in_order_on_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let (thread, stop) = echo(&path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.ask::<String>(&Request::Status).unwrap(), "Status");
        assert_eq!(client.ask::<String>(&Request::Down).unwrap(), "Down");
        stop.send(()).unwrap();
        thread.join().unwrap();
        assert!(!path.exists(), "the socket file goes with the server");
        assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn a_second_agent_is_refused_and_a_stale_file_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed agent leaves");
        let (thread, stop) = echo(&path);
        runtime().block_on(async {
            assert!(matches!(Server::bind(&path), Err(ServeError::Taken { .. })));
        });
        stop.send(()).unwrap();
        thread.join().unwrap();
        fs::write(&path, b"data").unwrap();
        runtime().block_on(async {
            assert!(matches!(Server::bind(&path), Err(ServeError::NotASocket { .. })));
        });
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn long_lines_and_too_many_connections_are_cut_off() {
        use std::io::{Read, Write};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (thread, stop) = echo(&path);
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(&vec![b'x'; MAX_REQUEST + 1]).unwrap();
        let mut answer = String::new();
        // The server may close with our bytes unread, which resets the connection after its answer.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("too long"), "{answer}");

        let mut held: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| Client::connect(&path).unwrap()).collect();
        for client in &mut held {
            client.ask::<String>(&Request::Status).unwrap();
        }
        let mut one_more = Client::connect(&path).unwrap();
        assert!(one_more.ask::<String>(&Request::Status).is_err());
        drop(held);
        stop.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn strangers_may_nothing() {
        assert_eq!(Access::of(Uid::from_raw(0), Gid::from_raw(0)), Access::Change);
        assert_eq!(Access::of(Uid::from_raw(54_321), Gid::from_raw(54_321)), Access::None);
    }

    #[test]
    fn readers_may_not_change() {
        let (calls, mut received) = mpsc::channel(1);
        let line = serde_json::to_vec(&Request::Down).unwrap();
        let reply = runtime().block_on(answer(&line, Access::Read, &calls));
        assert!(matches!(reply, Reply::Error(e) if e.message.contains("root")));
        assert!(received.try_recv().is_err(), "the control task never saw it");
    }
}
