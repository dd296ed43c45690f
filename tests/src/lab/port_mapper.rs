//! A router that maps ports when its hosts ask: the real miniupnpd on a cloud's NAT.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::{Lab, Netns, Process};
use crate::wait;

/// How the router can be asked; the others it does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapsBy {
    /// PCP alone.
    Pcp,
    /// NAT-PMP alone.
    NatPmp,
    /// UPnP IGD alone.
    UpnpIgd,
    /// All of them, as most routers.
    All,
}

/// A running miniupnpd.
#[derive(Debug)]
pub struct PortMapper {
    router: Netns,
    process: Process,
    /// The external address it tells.
    pub external: Ipv4Addr,
}

/// UDP to port 5351 by the first byte of its payload: version 0 is NAT-PMP, version 2 PCP.
fn deaf_to(version: u8) -> String {
    format!(
        r#"table inet mapper-deaf {{
    chain input {{
        type filter hook input priority -10;
        udp dport 5351 @th,64,8 {version} drop
    }}
}}
"#
    )
}

impl Lab {
    /// Starts miniupnpd on the router of `cloud`, which must translate. The router gets a further external address,
    /// because miniupnpd refuses the documentation ranges that labs are made of.
    ///
    /// # Errors
    /// If miniupnpd is missing, or does not listen within ten seconds.
    pub fn start_port_mapper(&self, cloud: &str, by: MapsBy) -> anyhow::Result<PortMapper> {
        let plan = &self.clouds[self.cloud_index(cloud)?];
        let router = self.router(cloud);
        let external = Ipv4Addr::new(25, 0, plan.index, 2);
        let uplink = plan.uplink_address(false, 0);
        self.internet().ip_batch(&format!("route add {external}/32 via {uplink}\n"))?;
        router.nft(
            r#"add chain inet firewall miniupnpd
insert rule inet firewall forward jump miniupnpd
table inet miniupnpd {
    chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"#,
        )?;
        match by {
            MapsBy::Pcp => router.nft(&deaf_to(0))?,
            MapsBy::NatPmp => router.nft(&deaf_to(2))?,
            MapsBy::UpnpIgd | MapsBy::All => {}
        }
        let yes = |on: bool| if on { "yes" } else { "no" };
        let config = self.logs().join(format!("miniupnpd-{cloud}.conf"));
        std::fs::create_dir_all(self.logs())?;
        std::fs::write(
            &config,
            format!(
                "ext_ifname=wan\next_ip={external}\nlistening_ip=lan\nipv6_disable=yes\nhttp_port=5000\n\
                 enable_natpmp={}\nenable_upnp={}\nminissdpdsocket=/nonexistent\nsecure_mode=yes\n\
                 upnp_table_name=firewall\nupnp_nat_table_name=miniupnpd\n\
                 uuid=0c89c452-2685-44a7-9ecb-292643cd86ce\nallow 1024-65535 0.0.0.0/0 1024-65535\n",
                yes(by != MapsBy::UpnpIgd),
                yes(matches!(by, MapsBy::UpnpIgd | MapsBy::All)),
            ),
        )?;
        let mut command = Command::new("/usr/sbin/miniupnpd");
        command
            .arg("-d")
            .arg("-f")
            .arg(&config)
            .arg("-P")
            .arg(self.logs().join(format!("miniupnpd-{cloud}.pid")));
        let process = router.spawn(command).context("miniupnpd (Debian package miniupnpd-nftables)")?;
        let mut mapper = PortMapper { router: router.clone(), process, external };
        let port = if by == MapsBy::UpnpIgd { ":1900 " } else { ":5351 " };
        wait::wait_for(Duration::from_secs(10), "miniupnpd to listen", || {
            let sockets = mapper.router.exec(&["ss", "-uln"])?.ok()?;
            anyhow::ensure!(
                mapper.process.is_running() && sockets.contains(port),
                "{}",
                mapper.process.log()
            );
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(mapper)
    }
}

impl PortMapper {
    /// The ports it maps now, as nftables has them.
    ///
    /// # Errors
    /// If nftables cannot be asked.
    pub fn rules(&self) -> anyhow::Result<Vec<String>> {
        let chain = ["nft", "list", "chain", "inet", "miniupnpd", "prerouting_miniupnpd"];
        let listed = self.router.exec(&chain)?.ok()?;
        Ok(listed.lines().filter(|line| line.contains("dnat")).map(|line| line.trim().to_owned()).collect())
    }
}
