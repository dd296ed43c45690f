//! The command line: one file per verb. Verbs talk to the running agent over its control socket.

mod down;
mod exit;
mod format;
mod hosts;
mod netcheck;
mod ping;
mod roster_formats;
mod run;
mod spawn;
mod status;
mod up;
mod wait;
mod why;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::config::{
    BootMetadata, BootSettings, Ciphers, Config, DEFAULT_SOCKET, DnsMode, MtuChoice, NetworkName, Nice,
    Offload, Overrides, Places, ProxyEnvironment, WorkerThreads, parse_advertised, parse_birthday,
    parse_max_lanes, parse_mtu, parse_nice, parse_worker_threads,
};
use crate::secret::SecretText;
pub use exit::{Exit, Failure};

/// Printed by `--help`; also the numbers in the control socket's errors.
const EXIT_CODES: &str = "Exit codes:
  0  ok
  1  failed as asked
  2  usage
  3  no agent running
  4  not joined
  5  timeout
  6  degraded (works, but not as well as asked)

Every flag has an environment variable SKYNET_…: a flag beats it, and it beats /etc/skynet/agent.toml.
Secrets may be given as file:PATH.";

#[derive(Parser)]
#[command(name = "skynet-agent", version, about = "Joins this machine to a skynet overlay network.", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Join the network if need be and start the agent in the background; idempotent.
    Up(up::UpArgs),
    /// Run the agent in the foreground (for systemd).
    Run(run::RunArgs),
    /// Stop the agent cleanly; its identity and address stay.
    Down(down::DownArgs),
    /// This node, its relays and one line per peer; LAST is the age of the newest handshake.
    Status(status::StatusArgs),
    /// The members that are there, by role: as a table, JSON, /etc/hosts, an MPI hostfile or an Ansible inventory.
    Hosts(hosts::HostsArgs),
    /// Wait until so many members of a role are there: a barrier for scripts.
    Wait(wait::WaitArgs),
    /// Ping a peer through the overlay and name the path of each answer.
    Ping(ping::PingArgs),
    /// Say why a peer is reached as it is, directly or not, and the one change that would set it right.
    Why(why::WhyArgs),
    /// Say what the network here does to the overlay: NAT, firewall, MTU, relays; and the cure.
    Netcheck(netcheck::NetcheckArgs),
}

/// How the agent is to run: the same for `up` and `run`.
#[derive(Args, Clone)]
struct AgentArgs {
    /// A further network of this machine: the other flags are about it, but for those that say where the agent's things
    /// are. Its settings are in networks/NAME.toml beside agent.toml.
    #[arg(long, env = "SKYNET_NETWORK", value_name = "NAME")]
    network: Option<NetworkName>,
    /// Configuration file [default: /etc/skynet/agent.toml, if it is there].
    #[arg(long, env = "SKYNET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where identity and credentials are kept [default: /var/lib/skynet].
    #[arg(long, env = "SKYNET_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The agent's control socket [default: /run/skynet/agent.sock].
    #[arg(long, env = "SKYNET_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Join token (skj1.…), or file:PATH.
    #[arg(long, env = "SKYNET_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Name to join under [default: the host name].
    #[arg(long, env = "SKYNET_NAME")]
    name: Option<String>,
    /// Roles to join with, of those the token allows [default: all of them].
    #[arg(long = "role", env = "SKYNET_ROLE", value_name = "ROLE,…", value_delimiter = ',')]
    roles: Option<Vec<String>>,
    /// Ask the cloud's metadata service for settings that nobody else gives: auto (where the firmware names a cloud),
    /// always or never [default: auto].
    #[arg(long, env = "SKYNET_BOOT_METADATA", value_enum, hide_possible_values = true)]
    boot_metadata: Option<BootMetadata>,
    /// Name of the TUN device [default: skynet0].
    #[arg(long, env = "SKYNET_INTERFACE", value_name = "NAME")]
    interface: Option<String>,
    /// UDP port, 0 for any [default: 41820].
    #[arg(long, env = "SKYNET_PORT")]
    port: Option<u16>,
    /// Open the control channel here instead of where the token says; the relay's key stays the token's.
    #[arg(long, env = "SKYNET_RELAY", value_name = "IP:PORT")]
    relay: Option<SocketAddr>,
    /// Where the relay's TLS port is, for networks without UDP: HOST, HOST:PORT or :PORT [default: port 443 of its
    /// address].
    #[arg(long, env = "SKYNET_RELAY_TLS", value_name = "HOST:PORT")]
    relay_tls: Option<String>,
    /// HTTP proxy to reach it by, http://[USER:PASSWORD@]HOST:PORT or file:PATH; off for none [default: HTTPS_PROXY].
    #[arg(long, env = "SKYNET_PROXY", hide_env_values = true, value_name = "URL")]
    proxy: Option<String>,
    /// Switch segmentation offloads off, for kernels and devices on which they are broken.
    #[arg(long, env = "SKYNET_DISABLE_OFFLOAD", value_name = "OFFLOAD,…", value_delimiter = ',', value_enum)]
    disable_offload: Option<Vec<Offload>>,
    /// Cipher between members: auto (AES-256-GCM if both CPUs have it) or chacha20-poly1305 [default: auto].
    #[arg(long, env = "SKYNET_CIPHER", value_enum, hide_possible_values = true)]
    cipher: Option<Ciphers>,
    /// Lanes (UDP 5-tuples) per member at most, 1 to 8 [default: one per core, at least 4].
    #[arg(long, env = "SKYNET_MAX_LANES", value_name = "N", value_parser = parse_max_lanes)]
    max_lanes: Option<u8>,
    /// Lanes to open with every member at once, instead of when the load wants them [default: 1].
    #[arg(long, env = "SKYNET_MIN_LANES", value_name = "N", value_parser = parse_max_lanes)]
    min_lanes: Option<u8>,
    /// Largest packets inside the overlay, in bytes, or auto: found for each path [default: auto].
    #[arg(long, env = "SKYNET_MTU", value_name = "BYTES", value_parser = parse_mtu)]
    mtu: Option<MtuChoice>,
    /// Sockets opened at once to get through a NAT with another port for every destination, 0 to 128; 0: never
    /// [default: 32, and only for pairs that carry bulk].
    #[arg(long, env = "SKYNET_BIRTHDAY", value_name = "N", value_parser = parse_birthday)]
    birthday: Option<u8>,
    /// Threads of each worker: 2, one for each direction while it is busy, or 1 [default: 1 on a machine of one core, else 2].
    #[arg(long, env = "SKYNET_WORKER_THREADS", value_name = "N", value_parser = parse_worker_threads)]
    worker_threads: Option<WorkerThreads>,
    /// Nice value of the workers' threads, -20 to 19; 0: they take turns with any busy program [default: -10].
    #[arg(long, env = "SKYNET_NICE", value_name = "N", value_parser = parse_nice, allow_negative_numbers = true)]
    nice: Option<Nice>,
    /// Where peers reach this node, if nothing on it can know: a port forwarded by hand.
    #[arg(long, env = "SKYNET_ADVERTISE", value_name = "IP:PORT,…", value_delimiter = ',', value_parser = parse_advertised)]
    advertise: Option<Vec<SocketAddr>>,
    /// Ask the gateway for a port mapping (PCP, NAT-PMP, UPnP) where a NAT is seen [default: true].
    #[arg(long, env = "SKYNET_PORT_MAPPING", value_name = "BOOL")]
    port_mapping: Option<bool>,
    /// Ask the cloud's metadata service for the public address [default: true].
    #[arg(long, env = "SKYNET_CLOUD_METADATA", value_name = "BOOL")]
    cloud_metadata: Option<bool>,
    /// Keep the names of members in a block of this hosts file [default: nowhere].
    #[arg(long, env = "SKYNET_HOSTS_FILE", value_name = "FILE")]
    hosts_file: Option<PathBuf>,
    /// Answer DNS for the names of members at this node's overlay addresses: auto (where systemd-resolved runs, which is
    /// told to ask there), on or off [default: auto].
    #[arg(long, env = "SKYNET_DNS", value_enum, hide_possible_values = true)]
    dns: Option<DnsMode>,
    /// Its port, UDP and TCP [default: 53].
    #[arg(long, env = "SKYNET_DNS_PORT", value_name = "PORT")]
    dns_port: Option<u16>,
    /// Directory with programs to be run when members come and go.
    #[arg(long, env = "SKYNET_HOOKS", value_name = "DIR")]
    hooks: Option<PathBuf>,
}

impl AgentArgs {
    fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.overrides())?)
    }

    /// With what the machine's metadata says below.
    fn load_over(&self, below: &[BootSettings]) -> Result<Config, Failure> {
        Ok(Config::load_over(self.overrides(), below)?)
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            network: self.network.clone(),
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            socket: self.socket.clone(),
            token: self.token.clone().map(SecretText::new),
            name: self.name.clone(),
            roles: self.roles.clone(),
            boot_metadata: self.boot_metadata,
            interface: self.interface.clone(),
            port: self.port,
            relay: self.relay,
            relay_tls: self.relay_tls.clone(),
            proxy: self.proxy.clone().map(SecretText::new),
            proxy_environment: ProxyEnvironment::of_process(),
            disable_offload: self.disable_offload.clone(),
            ciphers: self.cipher,
            max_lanes: self.max_lanes,
            min_lanes: self.min_lanes,
            mtu: self.mtu,
            birthday: self.birthday,
            worker_threads: self.worker_threads,
            nice: self.nice,
            advertise: self.advertise.clone(),
            port_mapping: self.port_mapping,
            cloud_metadata: self.cloud_metadata,
            hooks: self.hooks.clone(),
            hosts_file: self.hosts_file.clone(),
            dns: self.dns,
            dns_port: self.dns_port,
        }
    }

    /// The same as flags, for the background process; never the token, nor the proxy, which may have a password.
    fn to_flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        let mut push = |flag: &str, value: Option<OsString>| {
            flags.extend(value.map(|v| [OsString::from(flag), v]).into_iter().flatten());
        };
        push("--network", self.network.as_ref().map(|network| network.to_string().into()));
        push("--config", self.config.clone().map(Into::into));
        push("--state-dir", self.state_dir.clone().map(Into::into));
        push("--socket", self.socket.clone().map(Into::into));
        push("--name", self.name.clone().map(Into::into));
        push("--role", self.roles.as_ref().filter(|r| !r.is_empty()).map(|roles| roles.join(",").into()));
        let metadata = self.boot_metadata.and_then(|m| m.to_possible_value());
        push("--boot-metadata", metadata.map(|m| m.get_name().into()));
        push("--interface", self.interface.clone().map(Into::into));
        push("--port", self.port.map(|p| p.to_string().into()));
        push("--relay", self.relay.map(|r| r.to_string().into()));
        push("--relay-tls", self.relay_tls.clone().map(Into::into));
        let disabled = self.disable_offload.as_ref().filter(|list| !list.is_empty());
        push(
            "--disable-offload",
            disabled.map(|list| list.iter().map(|o| o.as_str()).collect::<Vec<_>>().join(",").into()),
        );
        let cipher = self.cipher.and_then(|c| c.to_possible_value());
        push("--cipher", cipher.map(|c| c.get_name().into()));
        push("--max-lanes", self.max_lanes.map(|n| n.to_string().into()));
        push("--min-lanes", self.min_lanes.map(|n| n.to_string().into()));
        push("--mtu", self.mtu.map(|mtu| mtu.to_string().into()));
        push("--birthday", self.birthday.map(|n| n.to_string().into()));
        push(
            "--worker-threads",
            self.worker_threads.map(|n| if n == WorkerThreads::One { "1" } else { "2" }.into()),
        );
        push("--nice", self.nice.map(|nice| nice.value().to_string().into()));
        let advertise =
            self.advertise.as_ref().map(|list| list.iter().map(SocketAddr::to_string).collect::<Vec<_>>());
        push("--advertise", advertise.map(|list| list.join(",").into()));
        push("--port-mapping", self.port_mapping.map(|on| on.to_string().into()));
        push("--cloud-metadata", self.cloud_metadata.map(|on| on.to_string().into()));
        push("--hooks", self.hooks.clone().map(Into::into));
        push("--hosts-file", self.hosts_file.clone().map(Into::into));
        let dns = self.dns.and_then(|dns| dns.to_possible_value());
        push("--dns", dns.map(|dns| dns.get_name().into()));
        push("--dns-port", self.dns_port.map(|port| port.to_string().into()));
        flags
    }
}

/// Which agent to talk to, and how to print.
#[derive(Args, Clone)]
struct AskArgs {
    /// The network of this machine that is meant, if it has several [default: the first].
    #[arg(long, env = "SKYNET_NETWORK", value_name = "NAME")]
    network: Option<NetworkName>,
    /// The agent's control socket [default: /run/skynet/agent.sock].
    #[arg(long, env = "SKYNET_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON with a "schema" field.
    #[arg(long)]
    json: bool,
}

impl AskArgs {
    fn socket(&self) -> PathBuf {
        // A file this user may not read, or that is wrong, is the agent's matter and not this verb's.
        let configured = || Config::load(Overrides::default()).ok().map(|c| c.socket);
        let socket = self.socket.clone().or_else(configured).unwrap_or_else(|| DEFAULT_SOCKET.into());
        let of = |network| Places { socket: socket.clone(), ..Places::default() }.of(network).socket;
        self.network.as_ref().map_or_else(|| socket.clone(), of)
    }
}

/// How a client wants a further network to run: the flags of `up`, without the environment of this process, which is about
/// the network that it was started for.
fn parse_flags(flags: &[String]) -> Result<AgentArgs, clap::Error> {
    let command = AgentArgs::augment_args(clap::Command::new("up").no_binary_name(true));
    let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    AgentArgs::from_arg_matches(&command.try_get_matches_from(flags)?)
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (schema, json, result) = match cli.verb {
        Verb::Up(args) => ("up/1", args.json, up::run(&args)),
        Verb::Run(args) => ("run/1", args.json, run::run(&args)),
        Verb::Down(args) => ("down/1", args.ask.json, down::run(&args)),
        Verb::Status(args) => ("status/1", args.ask.json, status::run(&args)),
        Verb::Hosts(args) => ("hosts/1", args.is_json(), hosts::run(&args)),
        Verb::Wait(args) => ("wait/1", args.ask.json, wait::run(&args)),
        Verb::Ping(args) => ("ping/1", args.ask.json, ping::run(&args)),
        Verb::Why(args) => ("why/1", args.ask.json, why::run(&args)),
        Verb::Netcheck(args) => ("netcheck/1", args.ask.json, netcheck::run(&args)),
    };
    let exit = result.unwrap_or_else(|failure| {
        if json {
            format::print_json(&serde_json::json!({
                "schema": schema,
                "error": { "code": failure.exit as u8, "message": failure.message },
            }));
        } else {
            eprintln!("skynet-agent: {}", failure.message);
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_lists_the_exit_codes() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("3  no agent running") && help.contains("6  degraded"), "{help}");
    }

    #[test]
    fn flags_survive_the_way_to_the_background_process_and_the_token_does_not() {
        let addresses = "203.0.113.7:41820,[2001:db8::7]:41820";
        let line = [
            "skynet-agent",
            "up",
            "--token",
            "skj1.x",
            "--port",
            "7",
            "--name",
            "a",
            "--advertise",
            addresses,
        ]
        .into_iter()
        .chain(["--port-mapping", "false"]);
        let Verb::Up(args) = Cli::try_parse_from(line).unwrap().verb else { panic!("not up") };
        let flags: Vec<_> = args.agent.to_flags().into_iter().map(|f| f.into_string().unwrap()).collect();
        assert!(!flags.iter().any(|f| f.contains("skj1")));
        let again = ["skynet-agent".to_owned(), "run".to_owned()].into_iter().chain(flags);
        let told: Vec<String> = again.clone().skip(2).collect();
        assert_eq!(parse_flags(&told).unwrap().name.as_deref(), Some("a"));
        let Verb::Run(run) = Cli::try_parse_from(again).unwrap().verb else { panic!("not run") };
        assert_eq!(run.agent.port, args.agent.port);
        assert_eq!(run.agent.name.as_deref(), Some("a"));
        assert_eq!(run.agent.advertise.map(|a| a.len()), Some(2));
        assert_eq!((run.agent.port_mapping, run.agent.cloud_metadata), (Some(false), None));
    }
}
