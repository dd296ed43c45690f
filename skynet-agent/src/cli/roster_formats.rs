//! The roster as other programs want it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::ValueEnum;
use comfy_table::{Table, presets};

use crate::api::MemberReport;
use crate::dns::domain;

/// For whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// People.
    Table,
    /// Programs.
    Json,
    /// /etc/hosts.
    Hosts,
    /// Open MPI, MPICH and others: an address a line.
    Mpi,
    /// An Ansible inventory with a group for each role.
    Ansible,
}

pub(super) fn table(members: &[MemberReport]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["NAME", "ADDRESS", "IPV6", "ROLES", "STATE"]);
    for m in members {
        let roles = if m.roles.is_empty() { "-".to_owned() } else { list(&m.roles, ",") };
        let state = match (m.online, m.own) {
            (true, true) => "this node",
            (true, false) => "here",
            (false, _) => "away",
        };
        let ephemeral = if m.ephemeral { ", ephemeral" } else { "" };
        table.add_row([m.name.clone(), m.ipv4.clone(), m.ipv6.clone(), roles, format!("{state}{ephemeral}")]);
    }
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Each address with the member's full name and its short one.
pub(super) fn hosts(members: &[MemberReport], network: &str) -> String {
    let domain = domain(network);
    let line = |m: &MemberReport| {
        let name = &m.name;
        format!("{} {name}.{domain} {name}\n{} {name}.{domain} {name}\n", m.ipv4, m.ipv6)
    };
    members.iter().map(line).collect()
}

/// Addresses, for names may not resolve everywhere.
pub(super) fn mpi(members: &[MemberReport], slots: Option<u16>) -> String {
    let slots = slots.map(|n| format!(" slots={n}")).unwrap_or_default();
    members.iter().map(|m| format!("{}{slots}\n", m.ipv4)).collect()
}

pub(super) fn ansible(members: &[MemberReport]) -> String {
    let mut groups: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut text = "[all]\n".to_owned();
    for m in members {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} ansible_host={}", m.name, m.ipv4);
        for role in &m.roles {
            groups.entry(group(role)).or_default().insert(&m.name);
        }
    }
    for (group, names) in groups {
        let _ = write!(text, "\n[{group}]\n");
        names.into_iter().for_each(|name| text += &format!("{name}\n"));
    }
    text
}

/// Ansible takes names of variables for groups, and two of them are its own.
fn group(role: &str) -> String {
    let name = role.replace('-', "_");
    let taken =
        matches!(name.as_str(), "all" | "ungrouped") || name.starts_with(|c: char| c.is_ascii_digit());
    if taken { format!("role_{name}") } else { name }
}

pub(super) fn list(words: &BTreeSet<String>, between: &str) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<MemberReport> {
        let member = |name: &str, n: u8, roles: &[&str], online| MemberReport {
            name: name.to_owned(),
            ipv4: format!("10.7.0.{n}"),
            ipv6: format!("fd00::{n}"),
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            ephemeral: n == 3,
            online,
            own: n == 1,
        };
        vec![
            member("head", 1, &["all", "slurm-ctl"], true),
            member("w-1", 2, &["1gpu", "worker"], true),
            member("w-2", 3, &["worker"], false),
        ]
    }

    #[test]
    fn people_see_who_is_there() {
        let expected = concat!(
            " NAME  ADDRESS   IPV6     ROLES          STATE\n",
            " head  10.7.0.1  fd00::1  all,slurm-ctl  this node\n",
            " w-1   10.7.0.2  fd00::2  1gpu,worker    here\n",
            " w-2   10.7.0.3  fd00::3  worker         away, ephemeral",
        );
        assert_eq!(table(&members()), expected);
    }

    #[test]
    fn etc_hosts_has_both_families_and_both_names() {
        let text = hosts(&members()[..1], "My Net.work");
        assert_eq!(text, "10.7.0.1 head.my-net-work.internal head\nfd00::1 head.my-net-work.internal head\n");
    }

    #[test]
    fn mpi_gets_addresses_and_slots_if_they_are_given() {
        assert_eq!(mpi(&members()[1..], None), "10.7.0.2\n10.7.0.3\n");
        assert_eq!(mpi(&members()[1..2], Some(16)), "10.7.0.2 slots=16\n");
    }

    #[test]
    fn ansible_gets_groups_it_takes() {
        let expected = "\
[all]
head ansible_host=10.7.0.1
w-1 ansible_host=10.7.0.2
w-2 ansible_host=10.7.0.3

[role_1gpu]
w-1

[role_all]
head

[slurm_ctl]
head

[worker]
w-1
w-2
";
        assert_eq!(ansible(&members()), expected);
    }
}
