//! How long a NAT keeps an idle UDP mapping: as many sockets as times to try, each silent until its time, when the relay
//! is asked through another socket to send to it (RFC 5780 §4.6).

use std::net::SocketAddr;
use std::time::Duration;

use skynet_core::wire::binding::{Answer, Request};

use super::exchange::{Looker, Question};
use super::measure::above;
use crate::clock;

/// Seconds tried.
const TIMES_S: [u32; 12] = [5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300];
/// A mapping that has seen traffic both ways for more than two seconds counts as a stream in Linux, as every path of the
/// overlay does.
const WARM_UP: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1_300), Duration::from_millis(1_300)];
const ANSWER: Duration = Duration::from_millis(400);
const TRIES: usize = 3;

/// The longest time after which a mapping still stood, and the shortest after which it did not; nothing longer than
/// `most` is tried.
pub(super) fn measure(relay: SocketAddr, most: Duration) -> Option<(u32, Option<u32>)> {
    let to = above(relay);
    let times = TIMES_S.iter().copied().filter(|s| Duration::from_secs((*s).into()) <= most);
    let mut sleepers = Vec::new();
    for seconds in times {
        let looker = Looker::towards(relay).ok()?;
        sleepers.push((seconds, looker));
    }
    let mut mapped = vec![None; sleepers.len()];
    for pause in WARM_UP {
        std::thread::sleep(pause);
        for ((_, looker), mapped) in sleepers.iter().zip(&mut mapped) {
            let seen =
                looker.ask(&[Question::plain(to)], Duration::from_secs(1)).first().and_then(|r| r.mapped);
            *mapped = seen.map(|(addr, _)| addr).or(*mapped);
        }
    }
    let start = clock::monotonic();
    let asker = Looker::towards(relay).ok()?;
    let (mut alive, mut dead) = (0, None);
    for ((seconds, sleeper), mapped) in sleepers.iter().zip(mapped) {
        let due = start + Duration::from_secs((*seconds).into());
        std::thread::sleep(due.saturating_since(clock::monotonic()));
        if is_alive(&asker, sleeper, to, mapped?) {
            alive = *seconds;
        } else {
            dead = Some(*seconds);
            break;
        }
    }
    (!sleepers.is_empty()).then_some((alive, dead))
}

fn is_alive(asker: &Looker, sleeper: &Looker, to: SocketAddr, mapped: SocketAddr) -> bool {
    let request = Request { response_port: Some(mapped.port()), ..Request::default() };
    let Ok(seed) = crate::entropy::seed() else { return false };
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&seed[..12]);
    let bytes = request.encode(transaction);
    (0..TRIES).any(|_| {
        let _ = asker.socket.send_to(&bytes, to);
        let mut buffer = [0; 256];
        let _ = sleeper.socket.set_read_timeout(Some(ANSWER));
        let heard =
            sleeper.socket.recv_from(&mut buffer).ok().and_then(|(len, _)| Answer::parse(&buffer[..len]));
        heard.is_some_and(|a| a.transaction == transaction)
    })
}
