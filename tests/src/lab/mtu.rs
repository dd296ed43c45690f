//! MTU holes: larger packets vanish and nobody says so.

use super::Lab;

/// What routers would say about packets that are too large is eaten where it leaves them.
const SILENCE: &str = r#"table inet silence
delete table inet silence
table inet silence {
    chain output {
        type filter hook output priority filter; policy accept;
        icmp type destination-unreachable icmp code frag-needed drop
        icmpv6 type packet-too-big drop
    }
}
"#;

/// Sizes.
impl Lab {
    /// From now on routers drop what is too large without a word.
    ///
    /// # Errors
    /// If nftables fails.
    pub fn silence_routers(&self) -> anyhow::Result<()> {
        self.internet().nft(SILENCE)?;
        self.clouds.iter().try_for_each(|cloud| self.router(&cloud.name).nft(SILENCE))
    }

    /// The MTU of a cloud's uplink, at both ends; hosts and their router still believe in theirs.
    ///
    /// # Errors
    /// If there is no such cloud, or a device refuses.
    pub fn set_uplink_mtu(&self, cloud: &str, bytes: u16) -> anyhow::Result<()> {
        let interface = self.clouds[self.cloud_index(cloud)?].internet_interface();
        self.internet().ip_batch(&format!("link set {interface} mtu {bytes}\n"))?;
        self.router(cloud).ip_batch(&format!("link set wan mtu {bytes}\n"))
    }

    /// The MTU of everything inside a cloud: hosts, bridge and its ports.
    ///
    /// # Errors
    /// If there is no such cloud, or a device refuses.
    pub fn set_cloud_mtu(&self, cloud: &str, bytes: u16) -> anyhow::Result<()> {
        let plan = &self.clouds[self.cloud_index(cloud)?];
        let mut lines = String::new();
        for k in 0..plan.hosts {
            self.host(&plan.host_name(k)).ip_batch(&format!("link set eth0 mtu {bytes}\n"))?;
            lines += &format!("link set {} mtu {bytes}\n", super::setup::port_name(k));
        }
        self.router(cloud).ip_batch(&(lines + &format!("link set lan mtu {bytes}\n")))
    }
}
