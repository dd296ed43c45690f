//! A provider that gives each UDP 5-tuple so much and no more, as clouds do.

use super::Lab;

/// What a flow may send at once, in time at its rate. Less, and TCP's bursts alone keep it below.
const BURST_MILLIS: u64 = 50;
const MIN_BURST_BYTES: u64 = 64 * 1024;

/// Policing.
impl Lab {
    /// From now on the internet drops what any one UDP 5-tuple sends above `bits_per_second` (counted with IP headers).
    /// Hosts and the relay segment in software meanwhile, or a whole train would be one packet to the policer.
    ///
    /// A flow that was silent has a second's worth in hand besides the burst (nftables' limiter by bytes holds that):
    /// leave out the first seconds of a measurement.
    ///
    /// # Errors
    /// If nftables or a device refuses.
    pub fn police_udp(&self, bits_per_second: u64) -> anyhow::Result<()> {
        self.set_endpoint_offloads(false)?;
        let rate = bits_per_second / 8;
        let burst = (rate * BURST_MILLIS / 1000).max(MIN_BURST_BYTES);
        self.internet().nft(&format!(
            r#"table ip policer
delete table ip policer
table ip policer {{
    set flows {{
        type ipv4_addr . inet_service . ipv4_addr . inet_service
        flags dynamic,timeout
        timeout 60s
        size 65535
    }}
    counter dropped {{ }}
    chain forward {{
        type filter hook forward priority filter + 10;
        meta l4proto != udp accept
        update @flows {{ ip saddr . udp sport . ip daddr . udp dport limit rate over {rate} bytes/second burst {burst} bytes }} counter name "dropped" drop
    }}
}}
"#
        ))
    }

    /// Undoes [`Lab::police_udp`].
    ///
    /// # Errors
    /// If nothing was policed.
    pub fn stop_policing(&self) -> anyhow::Result<()> {
        self.internet().nft("delete table ip policer\n")?;
        self.set_endpoint_offloads(true)
    }

    /// Whether hosts and the relay hand trains to their links whole.
    fn set_endpoint_offloads(&self, on: bool) -> anyhow::Result<()> {
        let relay = self.namespaces.get("relay");
        self.hosts().chain(relay).try_for_each(|host| host.set_offloads("eth0", on))
    }
}
