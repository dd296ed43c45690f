//! A policer as clouds have them: each UDP 5-tuple gets a rate, and what exceeds it is dropped.

use super::Netns;

/// The largest packet a router may meet whole: a train of segments that nobody has cut.
const LARGEST_PACKET_BYTES: u64 = 64 * 1024;
/// How much may come at once, in time at the rate; below, TCP would never reach the rate.
const BURST_MILLISECONDS: u64 = 10;
/// What counts as a full packet: a little below what tunnels send, so that the limit by packets never binds for long.
const FULL_PACKET_BYTES: u64 = 1360;

impl Netns {
    /// Polices what this namespace forwards: every UDP 5-tuple, each direction of it on its own, to `megabits_per_second`
    /// of IP packets. Replaces an earlier policer. Where senders hand over trains (`tso`, `gso`), a train is one packet
    /// and dropped as one.
    ///
    /// # Errors
    /// If nftables fails.
    pub fn police_udp_flows(&self, megabits_per_second: u32) -> anyhow::Result<()> {
        self.nft(&ruleset(megabits_per_second))
    }

    /// Undoes [`Netns::police_udp_flows`].
    ///
    /// # Errors
    /// If nftables fails.
    pub fn unpolice(&self) -> anyhow::Result<()> {
        self.nft("table inet police\ndelete table inet police\n")
    }
}

fn ruleset(megabits_per_second: u32) -> String {
    let bytes_per_second = u64::from(megabits_per_second) * 1_000_000 / 8;
    let burst = (bytes_per_second * BURST_MILLISECONDS / 1000).max(2 * LARGEST_PACKET_BYTES);
    // A bucket of nftables that counts bytes holds a whole second of the rate besides its burst, so a flow would begin
    // with a second for free. One that counts packets does not: it bounds how fast that second can be used up.
    let packets_per_second = bytes_per_second / FULL_PACKET_BYTES;
    let packets = packets_per_second * BURST_MILLISECONDS / 1000 + 16;
    // Each set holds a token bucket per flow; a flow that was silent for a minute begins with a full one.
    format!(
        r#"table inet police
delete table inet police
table inet police {{
    set bytes {{
        type ipv4_addr . inet_service . ipv4_addr . inet_service
        flags dynamic,timeout
        timeout 1m
        size 4096
    }}
    set packets {{
        type ipv4_addr . inet_service . ipv4_addr . inet_service
        flags dynamic,timeout
        timeout 1m
        size 4096
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        meta l4proto udp update @bytes {{ ip saddr . udp sport . ip daddr . udp dport limit rate over {bytes_per_second} bytes/second burst {burst} bytes }} counter drop
        meta l4proto udp meta length > 1000 update @packets {{ ip saddr . udp sport . ip daddr . udp dport limit rate over {packets_per_second}/second burst {packets} packets }} counter drop
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_ten_milliseconds_but_never_less_than_two_trains() {
        assert!(ruleset(200).contains("limit rate over 25000000 bytes/second burst 250000 bytes"));
        assert!(ruleset(1).contains("limit rate over 125000 bytes/second burst 131072 bytes"));
        assert!(ruleset(200).contains("limit rate over 18382/second burst 199 packets"));
    }
}
