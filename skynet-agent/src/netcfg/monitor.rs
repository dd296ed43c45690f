//! Netlink notifications, debounced: something about links, addresses or routes changed. What it means is not
//! decided here.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

/// A DHCP renewal or an interface coming up is a burst of messages; one look at the end of it is enough.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// A machine whose routes never rest is still looked at this often.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// Reports changes of interfaces, addresses and routes, each burst once. Must be called within a tokio runtime; the
/// watching ends when the receiver is dropped.
///
/// # Errors
/// No netlink socket to be had.
pub fn watch_changes() -> io::Result<mpsc::Receiver<()>> {
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    tokio::spawn(connection);
    // One slot: a change that nobody has looked at yet covers the next one.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _handle = _handle;
        loop {
            tokio::select! {
                message = messages.next() => if message.is_none() { return },
                () = sender.closed() => return,
            }
            let quiet_at_last = async {
                while tokio::time::timeout(DEBOUNCE, messages.next()).await.is_ok_and(|m| m.is_some()) {}
            };
            let _ = tokio::time::timeout(LONGEST_DEBOUNCE, quiet_at_last).await;
            if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
    });
    Ok(receiver)
}
