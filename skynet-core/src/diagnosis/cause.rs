//! The table of causes: what can be wrong, how it is called, and what would set it right. `why`, `netcheck` and
//! docs/TROUBLESHOOTING.md speak from this table.

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Degree {
    /// As good as it can be.
    Fine,
    /// Works, but not as well as it could.
    Degraded,
    /// Not decided yet.
    Undecided,
    /// Does not work.
    Down,
}

impl Degree {
    /// In one word.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Degraded => "degraded",
            Self::Undecided => "undecided",
            Self::Down => "down",
        }
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $degree:ident, $what:literal, $cure:literal;)+) => {
        /// Why a pair is as it is, or what a network does to a node.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Cause { $($(#[$doc])* $name,)+ }

        impl Cause {
            /// All, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name for scripts.
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)+ }
            }
            /// How bad it is.
            pub fn degree(self) -> Degree {
                match self { $(Self::$name => Degree::$degree,)+ }
            }
            /// What is the case, in general.
            pub fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)+ }
            }
            /// The one change that would set it right, in general.
            pub fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)+ }
            }
        }
    };
}

causes! {
    /// All is well.
    Direct = "direct", Fine,
        "Packets go straight to the peer.",
        "Nothing to do.";
    /// netcheck: all is well.
    NetworkFine = "network-fine", Fine,
        "This network lets peers in directly.",
        "Nothing to do.";
    /// Not tried, for want of traffic.
    Idle = "idle", Undecided,
        "Nothing was sent to the peer lately, so no path is kept.",
        "Send something: `skynet-agent ping PEER`.";
    /// Not tried to the end.
    Trying = "trying", Undecided,
        "Paths are still being tried.",
        "Ask again in a few seconds.";
    /// No membership.
    NotJoined = "not-joined", Down,
        "This machine belongs to no network.",
        "Join: `skynet-agent up --token …`.";
    /// The relay says no.
    Denied = "denied", Down,
        "The relay is there, and does not let this node in.",
        "Do what the agent's message says; `skynet-agent status` shows it.";
    /// Clocks.
    ClockWrong = "clock-wrong", Down,
        "A clock is wrong by more than the five minutes that certificates are given.",
        "Set the clock: run an NTP client (`timedatectl set-ntp true`).";
    /// Not a member.
    UnknownPeer = "unknown-peer", Down,
        "No member is called so: the name is wrong, that machine never joined, or it was revoked.",
        "Use a name that `skynet-agent status` lists, or run `skynet-agent up --token …` on that machine.";
    /// The peer's agent is away.
    PeerOffline = "peer-offline", Down,
        "The peer is a member, and its agent has no connection to the relay.",
        "Start that machine, or its agent: `skynet-agent up`.";
    /// TCP refused.
    RelayRefused = "relay-refused", Down,
        "The relay's host answers, and nothing listens on the relay's port.",
        "Start the relay, or correct its address (`--relay`, or a new token).";
    /// TCP dead.
    RelayUnreachable = "relay-unreachable", Down,
        "Nothing answers at the relay's address.",
        "See that the relay's host is up and its address right, and allow TCP and UDP to it here.";
    /// Own firewall, local.
    LocalFirewall = "local-firewall", Down,
        "The firewall of this machine refuses to send UDP.",
        "Allow outgoing UDP on this machine (nft, iptables, ufw).";
    /// Own UDP.
    UdpBlockedHere = "udp-blocked-here", Down,
        "TCP to the relay works, UDP does not come back to this machine.",
        "Allow outgoing UDP to the relay's port, and its answers, in the firewall or security group here.";
    /// The peer's UDP.
    UdpBlockedThere = "udp-blocked-there", Down,
        "The peer is online by TCP, and has no UDP to the relay.",
        "Allow outgoing UDP to the relay's port, and its answers, in the peer's firewall or security group.";
    /// UDP dead at one end, and the relay reached by TLS.
    UdpByTls = "udp-by-tls", Degraded,
        "UDP to the relay is blocked at one end, which reaches it by TLS on port 443: everything goes by the relay, and slower.",
        "Allow outgoing UDP to the relay's port, and its answers, in that end's firewall or security group.";
    /// Port held by another process.
    PortTaken = "port-taken", Down,
        "Another program has the agent's UDP port.",
        "Stop that program, or give the agent another port (`--port`).";
    /// A stock peer whose endpoint never answers.
    EndpointSilent = "endpoint-silent", Down,
        "Nobody answers at the endpoint that the configuration gives for this peer.",
        "Correct `endpoint` (or the keys) of this `[[peer]]`, and allow UDP to it.";
    /// A stock peer without endpoint.
    EndpointUnknown = "endpoint-unknown", Down,
        "The configuration gives no endpoint for this peer, and it has not spoken yet.",
        "Give `endpoint` in its `[[peer]]`, or let the peer send first.";
    /// Handshakes fail although packets go.
    NoHandshake = "no-handshake", Down,
        "Both ends reach the relay, but no handshake succeeds.",
        "Run `skynet-agent netcheck` on the peer, and see its agent's log.";
    /// A path, and no data.
    DataBlocked = "data-blocked", Down,
        "A path is there, but what is sent through it does not come back.",
        "Allow the overlay's traffic in the peer's own firewall, on interface skynet0.";
    /// Probes pass, data does not.
    DataDropped = "data-dropped", Degraded,
        "Something between the ends lets small probes pass and eats the data.",
        "Take the filter (DDoS scrubber, traffic shaper) for WireGuard off the way between the two.";
    /// Large datagrams vanish.
    MtuHole = "mtu-hole", Degraded,
        "Full-size datagrams vanish without a word on one end's uplink.",
        "Set that interface's MTU to what passes, or let ICMP \"fragmentation needed\" through.";
    /// One direction.
    OneWay = "one-way", Degraded,
        "Packets arrive directly in one direction only.",
        "Allow UDP in the direction that is blocked: out of the one end's firewall and into the other's.";
    /// Same NAT, no way inside, no hairpin.
    HairpinMissing = "hairpin-missing", Degraded,
        "Both ends are behind one NAT, which does not turn packets around, and do not reach each other inside.",
        "Let them reach each other inside: allow UDP between them in the security group, or turn client isolation off.";
    /// Hard × hard.
    BothSymmetric = "both-symmetric", Degraded,
        "Both ends are behind NATs that use another port for every destination.",
        "Open the agent's UDP port to the world on one end, with an address of its own, or give both IPv6.";
    /// Hard × filtered.
    SymmetricAndFiltered = "symmetric-and-filtered", Degraded,
        "One end's NAT uses another port for every destination, and the other end admits replies only.",
        "Open the agent's UDP port to the world on the end that admits replies only.";
    /// IPv4 meets IPv6.
    NoCommonFamily = "no-common-family", Degraded,
        "One end has only IPv4 and the other only IPv6.",
        "Give one of them the other family.";
    /// The peer told no address.
    NoCandidates = "no-candidates", Degraded,
        "The peer has no address that can be tried.",
        "Give the peer's machine an address outside its containers, and see that its agent reaches the relay by UDP.";
    /// Both easy, nothing arrives.
    BlockedBetween = "blocked-between", Degraded,
        "Both ends reach the relay by UDP, but nothing passes between the two.",
        "Allow UDP between the two in both firewalls: to any address, or at least to each other's.";
    /// A path that comes and goes.
    Unstable = "unstable", Degraded,
        "The direct path answers, and fails again and again.",
        "Look for loss on the way, and for a NAT with a short UDP timeout: `skynet-agent netcheck --timeout`.";
    /// Not enough known.
    MappingUnknown = "mapping-unknown", Degraded,
        "No check was answered, and it is not known how the ends' NATs behave.",
        "Upgrade both agents and the relay, and open UDP 3479 on the relay.";
    /// netcheck: hard NAT, unnamed.
    SymmetricNat = "symmetric-nat", Degraded,
        "The NAT uses another port for every destination: peers behind the like of it are reached by the relay only.",
        "Open the agent's UDP port inwards, or use a NAT with endpoint-independent mapping.";
    /// netcheck: hard NAT on EC2.
    AwsNatGateway = "aws-nat-gateway", Degraded,
        "This is an AWS NAT gateway: another port for every destination, idle UDP kept for 350 s.",
        "Give the instance an Elastic IP, or the other ends of its pairs an open UDP port in their security groups.";
    /// netcheck: hard NAT on Azure.
    AzureNatGateway = "azure-nat-gateway", Degraded,
        "This is Azure's outbound NAT: another port for every destination, idle UDP kept for 4 minutes.",
        "Give the VM a public IP, or the other ends of its pairs an open UDP port.";
    /// netcheck: hard NAT on Google.
    GoogleCloudNat = "google-cloud-nat", Degraded,
        "This is Google Cloud NAT with endpoint-independent mapping off: another port for every destination.",
        "Switch endpoint-independent mapping on (static port allocation), or give the VM an external IP.";
    /// netcheck: few ports.
    PortBudget = "port-budget-64", Degraded,
        "The NAT gives this machine 64 ports: many peers or lanes at once use them up.",
        "Raise the NAT's minimum of ports per VM (Google Cloud NAT: 1,024 or more).";
    /// netcheck: mappings die young.
    ShortTimeout = "short-udp-timeout", Degraded,
        "The NAT forgets idle UDP within 30 s.",
        "Raise its UDP timeout to two minutes or more (RFC 4787 REQ-5).";
    /// netcheck: TCP only by proxy.
    ProxyOnly = "proxy-only", Down,
        "The relay is not reached, and this machine has an HTTP proxy.",
        "Have the proxy allow CONNECT to the relay's port 443, or allow TCP and UDP to the relay past it.";
}

impl Cause {
    /// The exit code of the verbs.
    pub fn exit(self) -> u8 {
        match (self, self.degree()) {
            (Self::NotJoined, _) => 4,
            (_, Degree::Fine) => 0,
            (_, Degree::Degraded) => 6,
            (_, Degree::Undecided) => 5,
            (_, Degree::Down) => 1,
        }
    }
}

/// The table as Markdown, for docs/TROUBLESHOOTING.md.
pub fn table() -> String {
    let row = |c: &Cause| format!("| `{}` | {} | {} | {} |\n", c.id(), c.exit(), c.what(), c.cure());
    let rows: String = Cause::ALL.iter().map(row).collect();
    format!("| cause | exit | what is the case | the cure |\n|---|---|---|---|\n{rows}")
}
