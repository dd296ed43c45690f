//! A cloud's metadata service, or what else may answer in its place: a real HTTP server on 169.254.169.254.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use crate::instance::{CloudKind, Instance};
use crate::lab::Netns;

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// EC2 as documented, version 2: nothing without the token that a PUT brings.
    Ec2(Ipv4Addr),
    /// Takes connections and says nothing.
    Silent,
    /// A body without end.
    Endless,
    /// A captive portal.
    Redirect,
    /// A web page for every path.
    Page,
}

/// What answers a request: the whole reply.
type Answer = Arc<dyn Fn(&str) -> String + Send + Sync>;

#[derive(Clone)]
enum Says {
    Of(Metadata),
    Answer(Answer),
}

const TOKEN: &str = "AQAEAKpT3zJUHjd0Ww2C1n0tTokenForTheLab==";

/// The running server; dropping it ends it.
#[derive(Debug)]
pub struct MetadataService {
    requests: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetadataService {
    /// Serves the hosts behind `router`.
    ///
    /// # Errors
    /// If the address or the port cannot be had.
    pub fn start(router: &Netns, says: Metadata) -> anyhow::Result<Self> {
        Self::serve(router, Says::Of(says))
    }

    /// Serves the hosts behind `router` as this cloud does, to the letter of its documentation, what it holds of its
    /// instance.
    ///
    /// # Errors
    /// If the address or the port cannot be had.
    pub fn of_instance(router: &Netns, cloud: CloudKind, instance: Instance) -> anyhow::Result<Self> {
        Self::serve(router, Says::Answer(Arc::new(move |request| instance.answer(cloud, request))))
    }

    fn serve(router: &Netns, says: Says) -> anyhow::Result<Self> {
        router.exec(&["ip", "addr", "add", "169.254.169.254/32", "dev", "lan"])?.ok()?;
        let listener = router.run(|| TcpListener::bind("169.254.169.254:80"))?.context("metadata service")?;
        listener.set_nonblocking(true)?;
        let (requests, ended) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (log, end) = (Arc::clone(&requests), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (log, end, says) = (Arc::clone(&log), Arc::clone(&end), says.clone());
                        std::thread::spawn(move || serve(stream, &says, &log, &end));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self { requests, ended, thread: Some(thread) })
    }

    /// The first line of every request so far, and whether it showed the token.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic holds it").clone()
    }
}

impl Drop for MetadataService {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, says: &Says, log: &Mutex<Vec<String>>, ended: &AtomicBool) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut request = [0; 4_096];
    let Ok(n) = stream.read(&mut request) else { return };
    let text = String::from_utf8_lossy(&request[..n]).into_owned();
    let first = text.lines().next().unwrap_or_default().to_owned();
    log.lock().expect("no panic holds it").push(first);
    let says = match says {
        Says::Of(says) => *says,
        Says::Answer(answer) => {
            let _ = stream.write_all(answer(&text).as_bytes());
            return;
        }
    };
    let _ = match says {
        Metadata::Ec2(public) => stream.write_all(ec2(&text, public).as_bytes()),
        Metadata::Page => stream.write_all(reply("200 OK", "", "<html>Welcome</html>").as_bytes()),
        Metadata::Redirect => {
            stream.write_all(reply("302 Found", "Location: http://203.0.113.10:3478/\r\n", "").as_bytes())
        }
        Metadata::Silent => {
            while !ended.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
        Metadata::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n");
            while !ended.load(Ordering::Acquire) && stream.write_all(&[b'1'; 4_096]).is_ok() {}
            Ok(())
        }
    };
}

pub(crate) fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nServer: EC2ws\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A header of a request.
pub(crate) fn header(request: &str, name: &str) -> Option<String> {
    let mut fields = request.lines().skip(1).filter_map(|l| l.split_once(':'));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

/// IMDSv2: the token, or nothing without it; `None`: the request may be answered.
pub(crate) fn ec2_session(request: &str) -> Option<String> {
    let path = request.split(' ').nth(1).unwrap_or_default();
    if request.starts_with("PUT ") && path == "/latest/api/token" {
        let ttl: Option<u32> =
            header(request, "X-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse().ok());
        return Some(match ttl {
            Some(ttl @ 1..=21_600) => {
                let header = format!("X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {ttl}\r\n");
                reply("200 OK", &header, TOKEN)
            }
            _ => reply("400 Bad Request", "", ""),
        });
    }
    let shown = header(request, "X-aws-ec2-metadata-token");
    (shown.as_deref() != Some(TOKEN)).then(|| reply("401 Unauthorized", "", ""))
}

fn ec2(request: &str, public: Ipv4Addr) -> String {
    let path = request.split(' ').nth(1).unwrap_or_default();
    if let Some(answer) = ec2_session(request) {
        return answer;
    }
    match path {
        "/latest/meta-data/public-ipv4" => reply("200 OK", "", &public.to_string()),
        _ => reply("404 Not Found", "", ""),
    }
}
