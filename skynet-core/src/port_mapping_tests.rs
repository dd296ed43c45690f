use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const OWN: &str = "10.1.0.10";
const OUTSIDE: &str = "198.51.100.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn gateway(last: u8) -> Gateway {
    Gateway { address: IpAddr::from([10, 1, 0, last]), own: ip(OWN) }
}

fn grant(external: &str, lifetime: Duration) -> Grant {
    Grant { protocol: MappingProtocol::Pcp, external: external.parse().unwrap(), lifetime }
}

/// A host behind `gateway` whose port the relay sees at `observed`.
struct World {
    mapping: PortMapping,
    gateway: Option<Gateway>,
    observed: Option<SocketAddr>,
    local: Vec<IpAddr>,
    one_to_one: bool,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        Self {
            mapping: PortMapping::new(true, now),
            gateway: Some(gateway(1)),
            observed: Some(SocketAddr::new(ip(OUTSIDE), 5_000)),
            local: vec![ip(OWN)],
            one_to_one: false,
            now,
        }
    }

    fn look(&mut self) -> Vec<MappingAction> {
        let around = Surroundings {
            gateway: self.gateway,
            port: 41_820,
            observed: self.observed,
            local: &self.local,
            one_to_one: self.one_to_one,
        };
        self.mapping.handle_surroundings(&around, self.now);
        self.actions()
    }

    fn answer(&mut self, ask: u64, answer: Result<Grant, NoMapping>) -> Vec<MappingAction> {
        self.mapping.handle_answer(ask, answer, self.now);
        self.actions()
    }

    /// Goes on to the next timer; how long that took, and what it wants done.
    fn next(&mut self) -> (Duration, Vec<MappingAction>) {
        let before = self.now;
        self.now = self.mapping.poll_timeout().expect("a timer").max(self.now);
        self.mapping.handle_timeout(self.now);
        (self.now - before, self.actions())
    }

    fn actions(&mut self) -> Vec<MappingAction> {
        std::iter::from_fn(|| self.mapping.poll_action()).collect()
    }

    fn mapped(lifetime: Duration) -> Self {
        let mut world = Self::new();
        let asked = world.look();
        assert!(matches!(asked[..], [MappingAction::Ask { ask: 1, renews: None, .. }]), "{asked:?}");
        assert!(world.answer(1, Ok(grant("198.51.100.2:41820", lifetime))).is_empty());
        assert_eq!(world.mapping.external(), Some("198.51.100.2:41820".parse().unwrap()));
        world
    }
}

#[test]
fn a_gateway_is_asked_at_once_when_a_nat_is_seen() {
    let mut world = World::new();
    let asked = world.look();
    let expected =
        MappingAction::Ask { ask: 1, gateway: gateway(1), port: 41_820, lifetime: LIFETIME, renews: None };
    assert_eq!(asked, [expected]);
    assert_eq!(world.mapping.state(), MappingState::Asking);
    assert!(world.look().is_empty(), "once");
}

#[test]
fn nobody_is_asked_without_a_nat_a_gateway_or_permission() {
    type Change = (&'static str, fn(&mut World));
    let changes: [Change; 6] = [
        ("public host", |w| w.local.push(ip(OUTSIDE))),
        ("no gateway", |w| w.gateway = None),
        ("nobody says how we are seen", |w| w.observed = None),
        ("a cloud translates one to one", |w| w.one_to_one = true),
        ("switched off", |w| w.mapping = PortMapping::new(false, w.now)),
        ("seen by IPv6, public IPv4", |w| {
            w.observed = Some("[2001:db8::1]:41820".parse().unwrap());
            w.gateway = Some(Gateway { own: ip("192.0.2.2"), ..gateway(1) });
        }),
    ];
    for (why, change) in changes {
        let mut world = World::new();
        change(&mut world);
        assert!(world.look().is_empty(), "{why}");
        assert_eq!(world.mapping.poll_timeout(), None, "{why}");
    }
    let mut world = World::new();
    world.observed = Some("[2001:db8::1]:41820".parse().unwrap());
    assert_eq!(world.look().len(), 1, "seen by IPv6, private IPv4");
}

#[test]
fn a_mapping_is_renewed_at_half_life_for_ever() {
    let mut world = World::mapped(HOUR);
    for round in 0..50 {
        let (after, actions) = world.next();
        assert_eq!(after, HOUR / 2);
        let lease = round + 1;
        assert!(
            matches!(actions[..], [MappingAction::Ask { ask, renews: Some(id), .. }] if ask == lease + 1 && id == lease)
        );
        world.answer(lease + 1, Ok(grant("198.51.100.2:41820", HOUR)));
        assert!(world.mapping.external().is_some());
    }
}

#[test]
fn an_unanswered_renewal_is_repeated_at_half_of_what_is_left_and_ends_with_the_lifetime() {
    let mut world = World::mapped(HOUR);
    let begun = world.now;
    let mut at = Vec::new();
    while world.mapping.external().is_some() {
        let (_, actions) = world.next();
        if let [MappingAction::Ask { ask, renews: Some(1), .. }] = actions[..] {
            at.push((world.now - begun).as_secs());
            world.answer(ask, Err(NoMapping::Silent));
        }
    }
    assert_eq!(at[..4], [1_800, 2_700, 3_150, 3_375], "1/2, 3/4, 7/8, 15/16");
    assert_eq!(world.now - begun, HOUR);
    assert!(at.len() < 15, "{at:?}");
    assert_eq!(world.mapping.state(), MappingState::Asking);
}

#[test]
fn an_infinite_lifetime_is_believed_for_two_hours() {
    let mut world = World::mapped(Duration::from_secs(u32::MAX.into()));
    assert_eq!(world.next().0, HOUR);
}

#[test]
fn a_silent_gateway_is_asked_ever_more_rarely() {
    let mut world = World::new();
    let mut asked = world.look();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let [MappingAction::Ask { ask, .. }] = asked[..] else { panic!("{asked:?}") };
        world.answer(ask, Err(NoMapping::Silent));
        assert!(matches!(world.mapping.state(), MappingState::None(NoMapping::Silent, _)));
        let (after, next) = world.next();
        waits.push(after.as_secs() / 60);
        asked = next;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
}

#[test]
fn a_question_that_is_never_answered_counts_as_silence() {
    let mut world = World::new();
    world.look();
    assert_eq!(world.next().0, ANSWER_BY);
    assert!(matches!(world.mapping.state(), MappingState::None(NoMapping::Silent, _)));
    // The answer of a question that was given up: what it got is given back.
    let late = world.answer(1, Ok(grant("198.51.100.2:41820", HOUR)));
    assert_eq!(late, [MappingAction::Release { lease: 1 }]);
    assert_eq!(world.mapping.external(), None);
}

#[test]
fn another_gateway_ends_the_mapping_and_is_asked_itself() {
    let mut world = World::mapped(HOUR);
    world.now = world.now + GAP;
    world.gateway = Some(gateway(2));
    world.observed = Some("203.0.113.99:41820".parse().unwrap());
    let actions = world.look();
    assert_eq!(actions[0], MappingAction::Release { lease: 1 });
    assert!(matches!(actions[1], MappingAction::Ask { gateway: g, renews: None, .. } if g == gateway(2)));
    assert_eq!(world.mapping.external(), None);
}

#[test]
fn a_route_that_flaps_is_not_asked_more_often_than_every_ten_seconds() {
    let mut world = World::new();
    let mut asked = 0;
    let end = world.now + Duration::from_secs(100);
    let mut last = 1;
    while world.now < end {
        world.now = world.now + Duration::from_millis(500);
        last = 3 - last;
        world.gateway = Some(gateway(last));
        let asks = world.look();
        asked += asks.iter().filter(|a| matches!(a, MappingAction::Ask { .. })).count();
    }
    assert!((9..=11).contains(&asked), "{asked} in 100 s");
}

#[test]
fn a_relay_that_is_gone_for_a_while_ends_no_mapping() {
    let mut world = World::mapped(HOUR);
    world.observed = None;
    assert!(world.look().is_empty());
    assert!(world.mapping.external().is_some());
}

#[test]
fn being_seen_elsewhere_has_the_mapping_renewed_soon() {
    let mut world = World::mapped(2 * HOUR);
    world.observed = Some(SocketAddr::new(ip(OUTSIDE), 5_001));
    assert!(world.look().is_empty(), "asked too short a time ago");
    let (after, actions) = world.next();
    assert_eq!(after, GAP);
    assert!(matches!(actions[..], [MappingAction::Ask { renews: Some(1), .. }]), "{actions:?}");
}

#[test]
fn becoming_public_gives_the_mapping_back() {
    let mut world = World::mapped(HOUR);
    world.one_to_one = true;
    assert_eq!(world.look(), [MappingAction::Release { lease: 1 }]);
    assert_eq!(world.mapping.state(), MappingState::NotNeeded);
}

#[test]
fn a_clean_stop_gives_back_what_there_is_and_what_still_comes() {
    let mut world = World::mapped(HOUR);
    world.mapping.stop();
    assert_eq!(world.actions(), [MappingAction::Release { lease: 1 }]);
    assert!(world.look().is_empty() && world.mapping.poll_timeout().is_none());

    let mut world = World::new();
    world.look();
    world.mapping.stop();
    assert!(world.actions().is_empty());
    let late = world.answer(1, Ok(grant("198.51.100.2:41820", HOUR)));
    assert_eq!(late, [MappingAction::Release { lease: 1 }]);
}

#[test]
fn what_a_gateway_says_is_believed_only_if_it_can_be() {
    for (external, lifetime, why) in [
        ("127.0.0.1:41820", HOUR, NoMapping::Implausible),
        ("0.0.0.0:41820", HOUR, NoMapping::Implausible),
        ("169.254.169.254:80", HOUR, NoMapping::Implausible),
        ("224.0.0.1:41820", HOUR, NoMapping::Implausible),
        ("255.255.255.255:41820", HOUR, NoMapping::Implausible),
        ("[::1]:41820", HOUR, NoMapping::Implausible),
        ("198.51.100.2:0", HOUR, NoMapping::Implausible),
        ("198.51.100.2:41820", Duration::ZERO, NoMapping::Implausible),
        ("198.51.100.2:41820", Duration::from_secs(59), NoMapping::Implausible),
        ("192.168.1.2:41820", HOUR, NoMapping::DoubleNat(ip("192.168.1.2"))),
        ("100.64.3.4:41820", HOUR, NoMapping::DoubleNat(ip("100.64.3.4"))),
        ("[::ffff:10.0.0.1]:41820", HOUR, NoMapping::DoubleNat(ip("::ffff:10.0.0.1"))),
    ] {
        let mut world = World::new();
        world.look();
        let actions = world.answer(1, Ok(grant(external, lifetime)));
        assert_eq!(actions, [MappingAction::Release { lease: 1 }], "{external}");
        assert!(matches!(world.mapping.state(), MappingState::None(got, _) if got == why), "{external}");
        assert_eq!(world.mapping.external(), None);
    }
    let mut world = World::mapped(HOUR);
    world.next();
    let actions = world.answer(2, Ok(grant("10.0.0.1:41820", HOUR)));
    assert_eq!(actions, [MappingAction::Release { lease: 2 }], "also when it is renewed");
    assert_eq!(world.mapping.external(), None);
}

/// What gateways hold of us while anything happens in any order.
struct Model {
    world: World,
    /// Questions on their way, each with what it renews.
    asked: Vec<(u64, Option<u64>)>,
    held: std::collections::BTreeSet<u64>,
    last_ask: Option<Instant>,
}

impl Model {
    fn step(&mut self, dice: u64) {
        let some = |n: u64| (dice >> 8) % n;
        let world = &mut self.world;
        let actions = match dice % 8 {
            0 => {
                world.gateway = (some(4) != 0).then(|| gateway(some(3) as u8 + 1));
                world.look()
            }
            1 => {
                world.observed = (some(4) != 0).then(|| SocketAddr::new(ip(OUTSIDE), some(3) as u16 + 1));
                world.look()
            }
            2 => {
                world.one_to_one = some(4) == 0;
                world.look()
            }
            3 | 4 if !self.asked.is_empty() => {
                let which = some(self.asked.len() as u64) as usize;
                self.answered(which, dice >> 16)
            }
            5 => {
                world.now = world.now + Duration::from_millis(some(40_000));
                world.look()
            }
            _ if world.mapping.poll_timeout().is_some() => world.next().1,
            _ => Vec::new(),
        };
        self.take(actions);
    }

    fn answered(&mut self, which: usize, dice: u64) -> Vec<MappingAction> {
        let (ask, renews) = self.asked.remove(which);
        let answer = match dice % 5 {
            0 => Err(NoMapping::Refused),
            1 => Ok(grant("10.0.0.1:1", HOUR)),
            _ => Ok(grant("198.51.100.2:41820", Duration::from_secs(dice % 9_000))),
        };
        if answer.is_ok() {
            // As the shell keeps them: what is renewed goes on under the new number.
            renews.map(|id| self.held.remove(&id));
            self.held.insert(ask);
        }
        self.world.answer(ask, answer)
    }

    fn take(&mut self, actions: Vec<MappingAction>) {
        for action in actions {
            match action {
                MappingAction::Ask { ask, renews, .. } => {
                    let now = self.world.now;
                    assert!(self.last_ask.is_none_or(|at| now - at >= GAP));
                    self.last_ask = Some(now);
                    self.asked.push((ask, renews));
                }
                // Nothing happens if it was renewed while this was decided.
                MappingAction::Release { lease } => {
                    self.held.remove(&lease);
                }
            }
        }
    }
}

#[test]
fn whatever_happens_a_gateway_is_left_with_nothing_and_questions_keep_their_distance() {
    for seed in 0..200 {
        let mut rng = crate::rng::Rng::from_seed([seed; 32]);
        let world = World::new();
        let mut model = Model { world, asked: Vec::new(), held: Default::default(), last_ask: None };
        for _ in 0..500 {
            model.step(rng.below(u64::MAX));
            assert!(model.held.len() <= 1, "seed {seed}: {:?}", model.held);
        }
        model.world.mapping.stop();
        let actions = model.world.actions();
        model.take(actions);
        while !model.asked.is_empty() {
            let actions = model.answered(0, 2);
            model.take(actions);
        }
        assert!(model.held.is_empty(), "seed {seed}: {:?} is left behind", model.held);
    }
}
