//! Each rule in virtual time: a pair with one or more lanes, fed every 100 ms.

use super::*;

const TICK: Duration = Duration::from_millis(100);
const MESSAGE: u64 = 1_400;

/// What the lanes of a pair do from now on.
#[derive(Clone, Copy)]
struct Lane {
    mbit: u64,
    loss_ppm: u64,
    busy: u16,
    rtt_ms: u64,
    flows: u32,
}

const QUIET: Lane = Lane { mbit: 0, loss_ppm: 0, busy: 20, rtt_ms: 20, flows: 0 };

struct Pair {
    policy: LanePolicy,
    now: Instant,
    most: u8,
    flows: u32,
    sent: [u64; MAX_PORTS],
    arrived: [u64; MAX_PORTS],
    wanted: u8,
    /// How often flows were allowed to move.
    spreads: u32,
}

impl Pair {
    fn new(most: u8, flows: u32) -> Self {
        let (sent, arrived) = ([0; MAX_PORTS], [0; MAX_PORTS]);
        let now = Instant::from_nanos(1_000_000_000);
        Self { policy: LanePolicy::default(), now, most, flows, sent, arrived, wanted: 0, spreads: 0 }
    }

    /// Runs for `ms`; the most lanes wanted meanwhile.
    fn run(&mut self, ms: u64, lanes: &[Lane]) -> u8 {
        let mut most = 0;
        for _ in 0..ms / 100 {
            self.now = self.now + TICK;
            let mut loads = Vec::new();
            for (i, lane) in lanes.iter().enumerate() {
                let bytes = lane.mbit * 1_000_000 / 80;
                let messages = bytes / MESSAGE;
                self.sent[i] += messages;
                self.arrived[i] += messages - messages * lane.loss_ppm / 1_000_000;
                // Up to 40 messages are on their way, more or less at every look.
                let on_the_way = (self.now.as_nanos() / 100_000_000 * 17) % 40;
                loads.push(LaneLoad {
                    lane: LaneNo(i as u8 + 1),
                    bytes,
                    flows: lane.flows,
                    busy_permille: lane.busy,
                    counted: Some(Counted {
                        at: self.now,
                        sent: self.sent[i] as u32,
                        arrived: self.arrived[i].saturating_sub(on_the_way) as u32,
                    }),
                    rtt: Duration::from_millis(lane.rtt_ms),
                    least_rtt: Duration::from_millis(20),
                });
            }
            let load = PeerLoad { lanes: &loads, received: 0, flows: self.flows, most: self.most, least: 1 };
            let verdict = self.policy.handle_load(&load, self.now);
            self.wanted = verdict.lanes;
            self.spreads += u32::from(verdict.spread);
            most = most.max(self.wanted);
        }
        most
    }
}

const FULL: Lane = Lane { mbit: 2_000, loss_ppm: 0, busy: 920, rtt_ms: 20, flows: 8 };
/// Weak loss: TCP over a long way has found the rate.
const POLICED: Lane = Lane { mbit: 200, loss_ppm: 15_000, busy: 100, rtt_ms: 20, flows: 8 };
/// Plain loss: many flows over a short way.
const HARD_POLICED: Lane = Lane { mbit: 50, loss_ppm: 350_000, busy: 100, rtt_ms: 1, flows: 8 };

#[test]
fn a_quiet_pair_keeps_one_lane() {
    assert_eq!(Pair::new(4, 8).run(60_000, &[QUIET]), 1);
}

#[test]
fn a_full_core_opens_lanes_twice_as_many_each_time_up_to_what_is_agreed() {
    let mut pair = Pair::new(6, 8);
    assert_eq!(pair.run(200, &[FULL]), 1, "the first sample has no interval");
    assert_eq!(pair.run(100, &[FULL]), 2, "200 ms of a full thread");
    assert_eq!(pair.run(1_000, &[FULL; 2]), 2, "what the step brings is waited for");
    assert_eq!(pair.run(1_200, &[FULL; 2]), 4);
    assert_eq!(pair.run(10_000, &[FULL; 4]), 6, "never more than agreed");
}

#[test]
fn lanes_for_a_core_that_bring_nothing_are_given_back_and_tried_less_and_less() {
    let mut pair = Pair::new(4, 8);
    assert_eq!(pair.run(1_600, &[FULL]), 2);
    assert_eq!(pair.wanted, 1, "what one lane carries two do not carry more of");
    assert_eq!(pair.run(29_800, &[FULL]), 1);
    assert_eq!(pair.run(1_600, &[FULL]), 2, "30 s later");
    assert_eq!(pair.wanted, 1);
    assert_eq!(pair.run(59_600, &[FULL]), 1);
    assert_eq!(pair.run(1_600, &[FULL]), 2, "60 s later");
}

#[test]
fn one_flow_alone_gains_nothing_from_a_second_core() {
    assert_eq!(Pair::new(4, 1).run(10_000, &[FULL]), 1);
}

#[test]
fn a_thread_that_is_full_for_a_moment_opens_nothing() {
    let mut pair = Pair::new(4, 8);
    for _ in 0..50 {
        pair.run(100, &[FULL]);
        pair.run(100, &[Lane { busy: 500, ..FULL }]);
    }
    assert_eq!(pair.wanted, 1);
}

#[test]
fn a_policed_lane_opens_more() {
    let mut pair = Pair::new(4, 8);
    assert_eq!(pair.run(900, &[POLICED]), 1, "a second is looked at");
    assert_eq!(pair.run(600, &[POLICED]), 2);
    assert_eq!(pair.run(2_800, &[POLICED; 2]), 4);
}

#[test]
fn where_a_cap_is_plain_all_lanes_are_opened_within_half_a_second() {
    let mut pair = Pair::new(4, 8);
    assert_eq!(pair.run(400, &[HARD_POLICED]), 1, "one interval might be a burst");
    assert_eq!(pair.run(200, &[HARD_POLICED]), 4);
    let mut pair = Pair::new(8, 8);
    assert_eq!(pair.run(400, &[Lane { loss_ppm: 60_000, ..POLICED }]), 1);
    assert_eq!(pair.run(300, &[Lane { loss_ppm: 60_000, ..POLICED }]), 8);
}

#[test]
fn loss_outside_the_limits_or_at_a_trickle_or_behind_a_queue_opens_nothing() {
    for lane in [
        Lane { loss_ppm: 0, ..POLICED },
        Lane { loss_ppm: 600_000, ..POLICED },
        Lane { mbit: 15, ..POLICED },
        Lane { rtt_ms: 60, ..POLICED },
    ] {
        assert_eq!(Pair::new(4, 8).run(20_000, &[lane]), 1);
    }
}

#[test]
fn what_is_on_its_way_is_not_loss() {
    assert_eq!(Pair::new(4, 8).run(60_000, &[Lane { loss_ppm: 0, mbit: 60, ..POLICED }]), 1);
}

#[test]
fn lanes_against_loss_that_bring_nothing_are_not_multiplied() {
    let mut pair = Pair::new(8, 8);
    let half = Lane { mbit: 100, ..POLICED };
    assert_eq!(pair.run(2_000, &[POLICED]), 2);
    assert_eq!(pair.run(29_000, &[half; 2]), 2, "no gain: 30 s of patience");
    assert_eq!(pair.run(5_000, &[half; 2]), 4, "one more try");
    let quarter = Lane { mbit: 50, ..POLICED };
    assert_eq!(pair.run(55_000, &[quarter; 4]), 4, "and then a minute");
    assert_eq!(pair.run(10_000, &[quarter; 4]), 8);
}

#[test]
fn thirty_idle_seconds_give_all_but_one_back_and_a_pause_does_not() {
    let mut pair = Pair::new(4, 8);
    pair.run(1_000, &[FULL]);
    assert_eq!(pair.wanted, 2);
    pair.run(20_000, &[QUIET; 2]);
    let busy = Lane { busy: 100, ..FULL };
    pair.run(1_000, &[busy; 2]);
    let due = pair.policy.poll_timeout(1).unwrap();
    assert_eq!(due, pair.now + IDLE_AFTER);
    pair.run(29_000, &[QUIET; 2]);
    assert_eq!(pair.policy.handle_timeout(1, pair.now), 2);
    assert_eq!(pair.policy.handle_timeout(1, due), 1);
    assert_eq!(pair.policy.poll_timeout(1), None, "an idle pair has no timer");
}

#[test]
fn the_operators_least_number_is_kept_within_what_is_agreed() {
    let load = |most| PeerLoad { lanes: &[], received: 0, flows: 0, most, least: 4 };
    let mut policy = LanePolicy::default();
    assert_eq!(policy.handle_load(&load(8), Instant::ZERO).lanes, 4);
    assert_eq!(LanePolicy::default().handle_load(&load(2), Instant::ZERO).lanes, 2);
    assert_eq!(policy.handle_timeout(4, Instant::ZERO + IDLE_AFTER * 9), 4);
}

#[test]
fn counters_that_wrap_are_no_loss() {
    let mut meter = LossMeter::default();
    for i in 0..12u32 {
        let n = (u32::MAX - 5_000).wrapping_add(i * 1_000);
        let at = Instant::from_nanos(u64::from(i) * 100_000_000);
        meter.add(Some(Counted { at, sent: n, arrived: n.wrapping_sub(7) }));
    }
    assert_eq!(meter.loss_ppm(), Some(0));
}

#[test]
fn whoever_only_receives_keeps_the_lanes_its_full_core_has_opened() {
    let mut policy = LanePolicy::default();
    let mut now = Instant::ZERO + TICK;
    let lanes = [LaneLoad { lane: LaneNo(1), busy_permille: 900, ..LaneLoad::default() }];
    let mut wanted = 1;
    for _ in 0..600 {
        now = now + TICK;
        let received = 12_500_000 * u64::from(wanted);
        let load = PeerLoad { lanes: &lanes, received, flows: 4, most: 4, least: 1 };
        wanted = policy.handle_load(&load, now).lanes;
        if policy.poll_timeout(1).is_some_and(|at| at <= now) {
            policy.handle_timeout(1, now);
        }
    }
    assert_eq!(policy.handle_timeout(1, now), 4);
    assert_eq!(policy.handle_timeout(1, now + IDLE_AFTER), 1);
}

#[test]
fn flows_that_met_on_one_full_or_limited_lane_may_move() {
    for crowded in [FULL, HARD_POLICED] {
        let mut pair = Pair::new(2, 8);
        pair.run(1_300, &[crowded, QUIET]);
        assert_eq!(pair.spreads, 1, "{}", crowded.busy);
    }
    let mut pair = Pair::new(4, 8);
    pair.run(200, &[FULL, QUIET, QUIET, QUIET]);
    assert_eq!(pair.spreads, 0, "not for a moment");
}

#[test]
fn flows_stay_where_moving_gains_nothing() {
    let alone = Lane { flows: 1, ..FULL };
    let half_idle = Lane { busy: 500, ..FULL };
    let other = Lane { mbit: 1_100, busy: 400, ..FULL };
    for lanes in [[alone, QUIET], [half_idle, QUIET], [FULL, FULL], [FULL, other]] {
        let mut pair = Pair::new(2, 8);
        pair.run(60_000, &lanes);
        assert_eq!(pair.spreads, 0);
    }
}

#[test]
fn where_moving_does_not_help_it_is_tried_less_and_less_and_afresh_after_it_was_even() {
    let mut pair = Pair::new(2, 8);
    pair.run(63_500, &[FULL, QUIET]);
    assert_eq!(pair.spreads, 7, "after 0.4, then 1, 2, 4, 8, 16 and 32 s");
    pair.run(40_000, &[FULL, FULL]);
    assert_eq!(pair.spreads, 7);
    pair.run(1_500, &[FULL, QUIET]);
    assert_eq!(pair.spreads, 9);
}
