//! A provider that gives each UDP 5-tuple so much and no more, between all clouds.

use super::Lab;

/// Policing.
impl Lab {
    /// From now on the internet drops what any one UDP 5-tuple sends above this rate
    /// ([`Netns::police_udp_flows`](super::Netns::police_udp_flows)). Hosts and the relay segment in software
    /// meanwhile, or a whole train would be one packet to the policer.
    ///
    /// # Errors
    /// If nftables or a device refuses.
    pub fn police_udp(&self, megabits_per_second: u32) -> anyhow::Result<()> {
        self.set_endpoint_offloads(false)?;
        self.internet().police_udp_flows(megabits_per_second)
    }

    /// Undoes [`Lab::police_udp`].
    ///
    /// # Errors
    /// If nftables or a device refuses.
    pub fn stop_policing(&self) -> anyhow::Result<()> {
        self.internet().unpolice()?;
        self.set_endpoint_offloads(true)
    }

    /// Whether hosts and the relay hand trains to their links whole, with checksums left to be completed.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn set_endpoint_offloads(&self, on: bool) -> anyhow::Result<()> {
        let relay = self.namespaces.get("relay");
        self.hosts().chain(relay).try_for_each(|host| host.set_offloads("eth0", on))
    }
}
