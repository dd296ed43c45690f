//! What operators do to an installation that runs: relays that stop, start and drain, documents that are signed anew.

use std::sync::Arc;

use skynet_core::member::{RelayEntry, Revocations, Rule};
use skynet_core::time::UnixTime;

use super::Overlay;
use crate::host::{MemberNetwork, RelayHost};
use crate::world::{RunError, Stop};

impl Overlay {
    /// Stops the first relay.
    pub fn stop_relay(&mut self, how: Stop) {
        self.stop_relay_no(1, how);
    }

    /// Stops relay `relay_no`.
    pub fn stop_relay_no(&mut self, relay_no: u16, how: Stop) {
        let relay = self.relay_host(relay_no);
        self.world_mut().stop_host(relay, how);
    }

    /// Starts the first relay again in its place, with its store and fresh randomness.
    pub fn start_relay(&mut self) {
        self.start_relay_as(|honest| honest);
    }

    /// The same, made into another.
    pub fn start_relay_as(&mut self, make: impl FnOnce(RelayHost) -> RelayHost) {
        self.start_relay_no_as(1, make);
    }

    /// What the operator and the relays hold.
    pub const fn network(&self) -> &MemberNetwork {
        &self.network
    }

    /// Starts relay `relay_no` again in its place, with its store and fresh randomness.
    pub fn start_relay_no(&mut self, relay_no: u16) {
        self.start_relay_no_as(relay_no, |honest| honest);
    }

    fn start_relay_no_as(&mut self, relay_no: u16, make: impl FnOnce(RelayHost) -> RelayHost) {
        let seed = self.next_seed();
        let place = &self.relays[usize::from(relay_no) - 1];
        let (network, store) = (self.network.clone(), Arc::clone(&place.store));
        let host = RelayHost::new(network, relay_no, place.address, seed, store);
        let (relay, host) = (place.host, Box::new(make(host.with_limits(self.limits.clone()))));
        self.world_mut().start_host(relay, host);
    }

    /// Somebody drains relay `relay_no`.
    ///
    /// # Errors
    /// What ended the run.
    pub fn drain_relay(&mut self, relay_no: u16) -> Result<(), RunError> {
        let relay = self.relay_host(relay_no);
        self.world_mut().with_host(relay, |relay: &mut RelayHost, now| relay.drain(now))
    }

    /// The operator signs another list of revocations, changed so, and the first relay, if it runs, is told. The list.
    ///
    /// # Errors
    /// What ended the run.
    pub fn revoke(&mut self, change: impl FnOnce(&mut Revocations)) -> Result<Vec<u8>, RunError> {
        self.sign(|network, now| network.revoke(now, change))
    }

    /// The operator signs another list of relays, and the first relay is told.
    ///
    /// # Errors
    /// What ended the run.
    pub fn change_relays(&mut self, change: impl FnOnce(&mut Vec<RelayEntry>)) -> Result<(), RunError> {
        self.sign(|network, now| network.change_relays(now, change)).map(drop)
    }

    /// The operator signs another policy, and the first relay is told.
    ///
    /// # Errors
    /// What ended the run.
    pub fn set_policy(&mut self, allow_by_default: bool, rules: Vec<Rule>) -> Result<(), RunError> {
        self.sign(|network, now| network.set_policy(now, allow_by_default, rules)).map(drop)
    }

    fn sign(
        &mut self,
        document: impl FnOnce(&mut MemberNetwork, UnixTime) -> Vec<u8>,
    ) -> Result<Vec<u8>, RunError> {
        let relay = self.relay();
        let now = self.world().host_now(relay).unix;
        let document = document(&mut self.network, now);
        let told = document.clone();
        self.world_mut().with_host(relay, |relay: &mut RelayHost, now| relay.adopt(told, now))?;
        Ok(document)
    }
}
