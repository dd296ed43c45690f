//! A script of mishaps, one byte each, and the property that everything works again when they end.
//!
//! The same function serves tests (scripts from a seed) and a fuzzer (any bytes): cables are cut, NATs rebooted and
//! re-addressed, the relay and agents killed, data eaten while probes pass. Then all is healed, and within
//! [`HEALING`] every pair must carry every packet, directly where the oracle says so.

use std::net::{IpAddr, Ipv4Addr};

use skynet_core::time::Duration;

use crate::host::{AgentHost, HostId};
use crate::network::Datagram;
use crate::oracle::Direct;
use crate::overlay::Overlay;
use crate::topology::{CloudId, NatKind};
use crate::world::Stop;

/// Time with traffic after the last mishap until all must be well.
pub const HEALING: Duration = Duration::from_secs(150);

/// Mishaps of one script; the rest of the bytes is ignored.
pub const MAX_STEPS: usize = 64;

/// Packets of each final flow.
const FINAL_COUNT: u64 = 40;

const AGENTS: usize = 3;

/// Kinds worth mixing: those with UDP.
const KINDS: [NatKind; 8] = [
    NatKind::PortRestricted,
    NatKind::Symmetric,
    NatKind::Public,
    NatKind::SecurityGroup,
    NatKind::AddressRestricted,
    NatKind::FullCone,
    NatKind::PortRestrictedRandom,
    NatKind::SymmetricSequential,
];

struct Chaos {
    overlay: Overlay,
    clouds: Vec<CloudId>,
    relay_stopped: bool,
    readdressed: u8,
}

/// Runs a script: three bytes choose the NATs, each further byte is a mishap.
///
/// # Errors
/// A sentence and the state of all nodes, if a run ends early or a pair does not recover.
pub fn run(seed: u64, script: &[u8]) -> Result<(), String> {
    let mut chaos = Chaos::new(seed, script);
    let joined = chaos.overlay.join_all(Duration::from_secs(10)).map_err(|e| e.to_string())?;
    chaos.demand(joined, "not everybody joined")?;
    for &byte in script.iter().skip(AGENTS).take(MAX_STEPS) {
        chaos.step(byte).map_err(|e| format!("{e}\n{}", chaos.overlay.report()))?;
    }
    chaos.heal();
    // Whoever was restarted last has its address again.
    chaos.pass(Duration::from_secs(1))?;
    // Ends a little earlier, so that nothing of it is counted below.
    chaos.talk(Duration::from_millis(500), 280)?;
    chaos.pass(HEALING)?;
    chaos.judge()
}

impl Chaos {
    fn new(seed: u64, script: &[u8]) -> Self {
        let mut overlay = Overlay::new(seed);
        let mut clouds = Vec::new();
        for i in 0..AGENTS {
            let kind = KINDS[usize::from(script.get(i).copied().unwrap_or(0)) % KINDS.len()];
            let cloud = overlay.cloud(kind);
            overlay.add_agent(cloud);
            clouds.push(cloud);
        }
        Self { overlay, clouds, relay_stopped: false, readdressed: 0 }
    }

    fn demand(&self, holds: bool, what: &str) -> Result<(), String> {
        if holds { Ok(()) } else { Err(format!("{what}\n{}", self.overlay.report())) }
    }

    fn pass(&mut self, duration: Duration) -> Result<(), String> {
        self.overlay.world_mut().run_for(duration).map_err(|e| format!("{e}\n{}", self.overlay.report()))
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        let (what, which) = (byte % 12, usize::from(byte / 12));
        let cloud = self.clouds[which % AGENTS];
        let gateway = self.overlay.topology.gateway(cloud);
        let access = self.overlay.world().network().access(gateway);
        match what {
            0 | 1 => self.pass(Duration::from_secs(1 + which as u64))?,
            2 => self.pass(Duration::from_secs(40))?,
            3 => self.talk(Duration::from_millis(200), 50)?,
            4 => self.overlay.world_mut().set_link_up(access, false),
            5 => self.overlay.world_mut().set_link_up(access, true),
            6 => self.overlay.world_mut().reboot_nat(gateway),
            7 => self.readdress(cloud),
            8 => self.stop_relay(if which.is_multiple_of(2) { Stop::Kill } else { Stop::PowerOff }),
            9 => self.start_relay(),
            10 => {
                let agent = self.overlay.agents()[which % AGENTS];
                let how = if which.is_multiple_of(2) { Stop::Kill } else { Stop::PowerOff };
                self.overlay.restart_agent(agent, how);
            }
            _ => self.eat_data(which.is_multiple_of(2)),
        }
        Ok(())
    }

    fn readdress(&mut self, cloud: CloudId) {
        let gateway = self.overlay.topology.gateway(cloud);
        let shared = self.overlay.world().network().nat(gateway).is_shared();
        if shared && self.readdressed < u8::MAX {
            self.readdressed += 1;
            let ip = IpAddr::V4(Ipv4Addr::new(20, 200, 0, self.readdressed));
            self.overlay.world_mut().readdress_nat(gateway, ip);
        }
    }

    fn stop_relay(&mut self, how: Stop) {
        if !self.relay_stopped {
            self.relay_stopped = true;
            self.overlay.stop_relay(how);
        }
    }

    fn start_relay(&mut self) {
        if self.relay_stopped {
            self.relay_stopped = false;
            self.overlay.start_relay();
        }
    }

    /// Bare transport data vanishes on the internet, everything else passes.
    fn eat_data(&mut self, on: bool) {
        let internet = self.overlay.topology.internet();
        let passes = |d: &Datagram| d.bytes.first() != Some(&4);
        let middlebox = on.then(|| Box::new(passes) as crate::network::Middlebox);
        self.overlay.world_mut().network_mut().set_middlebox(internet, middlebox);
    }

    fn heal(&mut self) {
        self.start_relay();
        self.eat_data(false);
        for cloud in self.clouds.clone() {
            let gateway = self.overlay.topology.gateway(cloud);
            let access = self.overlay.world().network().access(gateway);
            self.overlay.world_mut().set_link_up(access, true);
        }
    }

    fn pairs(&self) -> Vec<(HostId, HostId)> {
        let agents = self.overlay.agents();
        let ordered =
            |a: &HostId| agents.iter().filter(move |b| *b != a).map(|b| (*a, *b)).collect::<Vec<_>>();
        agents.iter().flat_map(ordered).collect()
    }

    /// Everybody sends to everybody it knows an address of; an agent that was just restarted has none yet.
    fn talk(&mut self, every: Duration, count: u64) -> Result<(), String> {
        for (from, to) in self.pairs() {
            if self.overlay.agent(to).addresses().is_some() {
                self.overlay.flow(from, to, every, count).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        self.demand(self.overlay.all_joined(), "a node lost its membership")?;
        for agent in self.overlay.agents().to_vec() {
            let forget = |host: &mut AgentHost, _| host.application_mut().forget();
            self.overlay.world_mut().with_host(agent, forget).map_err(|e| e.to_string())?;
        }
        self.talk(Duration::from_millis(200), FINAL_COUNT)?;
        self.pass(Duration::from_secs(15))?;
        for (from, to) in self.pairs() {
            let arrived = self.overlay.received(from, to).map_or(0, |book| book.distinct());
            let what = format!("{from:?} → {to:?}: {arrived} of {FINAL_COUNT} packets");
            self.demand(arrived as u64 >= FINAL_COUNT, &what)?;
            let (direct, claimed) = (self.overlay.is_direct(from, to), self.overlay.claims_direct(from, to));
            match self.overlay.expected(from, to) {
                Direct::Must => self.demand(direct, &format!("{from:?} → {to:?} is not direct again"))?,
                Direct::MustNot => {
                    self.demand(!claimed, &format!("{from:?} → {to:?} claims to be direct"))?
                }
                Direct::Timing | Direct::Guess => {}
            }
        }
        Ok(())
    }
}
