//! Two checks and a way between them that loses trains, packets, or answers.

use super::*;
use crate::rng::Rng;

const MS: Duration = Duration::from_millis(1);

fn path(port: u16) -> Option<SocketAddr> {
    Some(([198, 51, 100, 7], port).into())
}

/// Which datagrams of what was sent arrive. True: a train.
type Way<'a> = dyn FnMut(bool, usize) -> bool + 'a;

struct Pair {
    sender: TrainCheck,
    peer: TrainCheck,
    now: Instant,
    trains: usize,
    singles: usize,
    changes: usize,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let (sender, peer) = (TrainCheck::new(), TrainCheck::new());
        Self { sender, peer, now, trains: 0, singles: 0, changes: 0 }
    }

    /// The sender has this path, and `way` lies between the two for so long.
    fn run(&mut self, to: Option<SocketAddr>, seconds: u64, way: &mut Way<'_>) {
        let end = self.now + Duration::from_secs(seconds);
        self.sender.handle_path(to, self.now);
        loop {
            while let Some(event) = self.sender.poll_event() {
                let (train, records) = match event {
                    TrainEvent::Train(records) => (true, records),
                    TrainEvent::Single(records) => (false, records),
                    TrainEvent::Changed => {
                        self.changes += 1;
                        continue;
                    }
                };
                *if train { &mut self.trains } else { &mut self.singles } += records.len();
                for (i, record) in records.into_iter().enumerate().filter(|(i, _)| way(train, *i)) {
                    let Record::Pattern(pattern) = record else { panic!("{i}: the sender reports nothing") };
                    self.peer.handle_pattern(pattern, self.now);
                }
            }
            while let Some(event) = self.peer.poll_event() {
                let TrainEvent::Single(records) = event else { panic!("the peer checks nothing") };
                for record in records {
                    let Record::Report(report) = record else { panic!("the peer checks nothing") };
                    if way(false, 0) {
                        self.sender.handle_report(report, self.now);
                    }
                }
            }
            let next = earliest(self.sender.poll_timeout(), self.peer.poll_timeout());
            let busy = !self.sender.events.is_empty() || !self.peer.events.is_empty();
            match next.filter(|at| *at <= end) {
                _ if busy => {}
                Some(at) => {
                    self.now = self.now.max(at);
                    self.sender.handle_timeout(self.now);
                    self.peer.handle_timeout(self.now);
                }
                None => break,
            }
        }
        self.now = end;
    }
}

#[test]
fn a_path_on_which_trains_arrive_costs_one_train() {
    let mut pair = Pair::new();
    pair.run(path(1), 1_000, &mut |_, _| true);
    assert!(pair.sender.trains_arrive());
    assert_eq!((pair.trains, pair.singles, pair.changes), (8, 0, 0));
}

#[test]
fn a_path_that_loses_all_or_a_part_of_every_train_gets_none_any_more() {
    for survives in [0u8, 0x01, 0x80, 0x7f, 0xfe, 0x55] {
        let mut pair = Pair::new();
        pair.run(path(1), 1_000, &mut |train, i| !train || survives >> i & 1 == 1);
        assert!(!pair.sender.trains_arrive(), "{survives:#x}");
        assert_eq!((pair.trains, pair.singles), (24, 16));
        assert_eq!((pair.changes, pair.sender.failures()), (1, 1));
    }
}

#[test]
fn a_peer_that_never_answers_changes_nothing() {
    let mut pair = Pair::new();
    pair.run(path(1), 1_000, &mut |_, _| false);
    assert!(pair.sender.trains_arrive());
    assert_eq!((pair.trains, pair.singles), (24, 8));
}

#[test]
fn different_losses_in_each_train_are_the_paths() {
    let mut pair = Pair::new();
    let mut n = 0;
    pair.run(path(1), 1_000, &mut |train, i| {
        n += usize::from(train && i == 0);
        !train || i != n
    });
    assert!(pair.sender.trains_arrive());
    assert_eq!((pair.trains, pair.singles), (16, 0));
}

#[test]
fn loss_is_seldom_mistaken_for_lost_trains() {
    for (percent, limit) in [(1, 0), (10, 20), (30, 10), (60, 2)] {
        let mut rng = Rng::from_seed([percent; 32]);
        let mut wrong = 0;
        for _ in 0..2_000 {
            let mut pair = Pair::new();
            pair.run(path(1), 30, &mut |_, _| u32::from_be_bytes(rng.array()) % 100 >= u32::from(percent));
            wrong += usize::from(!pair.sender.trains_arrive());
        }
        assert!(wrong <= limit, "{wrong} of 2,000 at {percent} %");
    }
}

#[test]
fn lost_trains_are_found_on_a_path_that_also_loses_packets() {
    let mut rng = Rng::from_seed([7; 32]);
    let mut found = 0;
    for _ in 0..100 {
        let mut pair = Pair::new();
        pair.run(path(1), 30, &mut |train, _| !train && u32::from_be_bytes(rng.array()) % 100 >= 1);
        found += usize::from(!pair.sender.trains_arrive());
    }
    assert!(found > 70, "{found}");
}

#[test]
fn each_new_path_is_checked_once_and_no_more_often_than_the_interval() {
    let mut pair = Pair::new();
    for i in 0..100 {
        pair.run(path(i % 2), 1, &mut |_, _| true);
        pair.run(path(i % 2), 1, &mut |_, _| true);
    }
    // 200 seconds: at 0, 60, 120, 180.
    assert_eq!(pair.trains, 4 * 8);
    pair.run(path(9), 1, &mut |_, _| true);
    pair.run(None, 100, &mut |_, _| true);
    let before = pair.trains;
    pair.run(None, 1_000, &mut |_, _| true);
    assert_eq!(pair.trains, before, "nothing without a path");
}

#[test]
fn what_was_found_broken_stays_off_until_a_train_arrives_on_a_new_path() {
    let mut pair = Pair::new();
    pair.run(path(1), 30, &mut |train, _| !train);
    pair.run(path(2), 10, &mut |_, _| true);
    assert!(!pair.sender.trains_arrive(), "the interval is not over");
    pair.run(path(2), 60, &mut |_, _| true);
    assert!(pair.sender.trains_arrive());
    assert_eq!((pair.changes, pair.sender.failures()), (2, 1));
}

#[test]
fn a_path_that_goes_in_the_middle_of_a_check_leaves_nothing_behind() {
    let mut pair = Pair::new();
    pair.run(path(1), 0, &mut |_, _| false);
    pair.run(path(2), 30, &mut |_, _| true);
    assert!(pair.sender.trains_arrive());
    assert_eq!((pair.trains, pair.singles), (16, 0));
}

#[test]
fn reports_of_other_trains_and_repeated_records_change_nothing() {
    let mut check = TrainCheck::new();
    let now = Instant::from_nanos(1);
    check.handle_report(Report { id: 0, arrived: 0 }, now);
    check.handle_path(path(1), now);
    while check.poll_event().is_some() {}
    for id in 1..100 {
        check.handle_report(Report { id, arrived: ALL }, now);
    }
    assert!(check.poll_event().is_none() && check.round.is_some_and(|r| r.trains == 1));
    // A flood of records leaves one collection; a report goes out per whole train, or after a pause.
    for id in 0..1_000 {
        check.handle_pattern(Pattern { id, i: 3, fill: 1 }, now);
        check.handle_pattern(Pattern { id, i: 3, fill: 1 }, now);
    }
    assert!(check.poll_event().is_none());
    check.handle_timeout(now + 200 * MS);
    let report = Record::Report(Report { id: 999, arrived: 8 });
    assert_eq!(check.poll_event(), Some(TrainEvent::Single(vec![report])));
}
