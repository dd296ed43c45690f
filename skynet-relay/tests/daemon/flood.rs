//! One member sends far more than the relay's thread comes to; another lives by a KEEP now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use skynet_core::time::Instant;
use skynet_core::wire::relay::Keep;

use super::*;

const KEEPS: u64 = 200;
/// A KEEP that is not answered after this is lost: a full buffer is worked off in less.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// A KEEP every ten milliseconds: how long each was on its way, in order of length.
fn keep(bound: &Bound) -> Vec<Duration> {
    let (mut answered, mut sent) = (Vec::new(), Vec::new());
    let since = |at: Instant| bound.clock.now().mono.saturating_since(at);
    let gen_no = bound.client.gen_no().unwrap();
    let take = |sent: &[Instant], answered: &mut Vec<Duration>| {
        let mut buffer = [0; 2048];
        if let Ok(len) = bound.socket.recv(&mut buffer)
            && let Ok(Frame::Keep(echo)) = Frame::parse(&buffer[..len])
            && let Some(sent) = usize::try_from(echo.t).ok().and_then(|t| sent.get(t))
        {
            answered.push(since(*sent));
        }
    };
    bound.socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    for t in 0..KEEPS {
        let now = bound.clock.now().mono;
        sent.push(now);
        bound.socket.send(&Keep { flags: 0, gen_no, t }.encode()).unwrap();
        while since(now) < Duration::from_millis(10) {
            take(&sent, &mut answered);
        }
    }
    while answered.len() < sent.len() && since(sent[sent.len() - 1]) < LOST_AFTER {
        take(&sent, &mut answered);
    }
    answered.sort();
    answered
}

#[test]
fn a_flood_of_bulk_costs_no_keep_of_others() {
    let parent = passable_directory();
    let dir = parent.path().join("relay");
    let relay = Relay::up_with(&dir, &["--threads", "1", "--tls-listen", "off"]);
    let token = relay.up["token"].as_str().unwrap();
    let [hog, other] = ["hog", "other"].map(|name| join(token, name));
    let (hog, other, to) =
        (Bound::new(&hog, relay.addr()), Bound::new(&other, relay.addr()), node_no(&other));
    let stop = AtomicBool::new(false);
    // To nobody, so that no other buffer is full than the relay's; and no larger than a KEEP to the kernel, which still finds
    // room for something small where a large one has none.
    let frame = [&hog.client.data_header(to ^ 1, Class::Bulk, 0).unwrap()[..], &[0; 100]].concat();
    let flood = || {
        while !stop.load(Ordering::Relaxed) {
            let _refused = hog.socket.send(&frame);
        }
    };
    let answered = thread::scope(|scope| {
        let floods = [scope.spawn(flood), scope.spawn(flood)];
        thread::sleep(Duration::from_millis(300));
        let answered = keep(&other);
        stop.store(true, Ordering::Relaxed);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        answered
    });
    // Figures are a second old at most.
    thread::sleep(Duration::from_millis(1_500));
    let status = json(&output(&dir, &["status", "--json"]).stdout);
    let figure = |name: &str| status[name].as_u64().unwrap();
    let (received, lost) = (figure("datagrams_received"), figure("datagrams_overflowed"));
    let at = |n: usize| answered.get(answered.len() * n / 100).or(answered.last());
    println!(
        "{} of {KEEPS} KEEPs answered, p50 {:?}, p99 {:?}; the thread took {received} datagrams, {lost} of bulk and {} of control were lost",
        answered.len(),
        at(50),
        at(99),
        figure("control_overflowed"),
    );
    assert!(lost > 10_000, "no flood: {status}");
    assert_eq!((answered.len() as u64, figure("control_overflowed")), (KEEPS, 0));
}
