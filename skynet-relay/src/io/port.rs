//! Who has the port? For the sentence a user reads when it is taken.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// The processes (name and id) with a socket on the port of `addr`, as far as this user may see them.
pub fn holders(protocol: &str, addr: SocketAddr) -> Vec<String> {
    let mut inodes = Vec::new();
    for table in [format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6")] {
        let text = fs::read_to_string(table).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| inode_on_port(line, addr.port())));
    }
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.flatten().filter_map(|process| holder(&process.path(), &inodes)).collect()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …` (proc(5)); TCP only if listening.
fn inode_on_port(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let listening = matches!(*fields.get(3)?, "0A" | "07");
    let same = u16::from_str_radix(local_port, 16).ok()? == port;
    (same && listening).then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
}

fn holder(process: &Path, inodes: &[String]) -> Option<String> {
    let id: u32 = process.file_name()?.to_str()?.parse().ok()?;
    let mut descriptors = fs::read_dir(process.join("fd")).ok()?.flatten();
    let holds = descriptors.any(|fd| {
        fs::read_link(fd.path()).is_ok_and(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
    });
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    holds.then(|| format!("{} (process {id})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_process_that_listens() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let me = format!("(process {})", std::process::id());
        for (protocol, addr) in [("tcp", tcp.local_addr().unwrap()), ("udp", udp.local_addr().unwrap())] {
            let holders = holders(protocol, addr);
            assert!(holders.iter().any(|h| h.ends_with(&me)), "{protocol}: {holders:?}");
        }
    }
}
