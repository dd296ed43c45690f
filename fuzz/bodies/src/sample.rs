//! Fixed samples every target starts from: one small network, two members, three probes. Made once, always the same.

use std::sync::OnceLock;

use skynet_core::key::{Secret, SigningKey, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::{
    Bundle, Credentials, Delegation, Endpoint, Enrolment, Extent, Genesis, JoinToken, Manifest, NetworkTrust,
    NodeIdentity, Policy, Receipt, RelayEntry, RelayRtt, Revocations, RevokedNode, RevokedToken, Rule, Tags,
    TokenId, TokenRelay, Verified,
};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use skynet_core::wire::probe::{self, Body, Call, CallCandidate, Nonce, Ping, Pong, ProbeKey};

/// The wall clock of all samples.
pub const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

/// A network with two members, and every key of it.
pub struct Network {
    /// The operator's key.
    pub root: SigningKey,
    /// The key that signs receipts.
    pub registrar: SigningKey,
    /// The key of the one token.
    pub token_key: SigningKey,
    /// The genesis document.
    pub genesis: Verified<Genesis>,
    /// The manifest.
    pub manifest: Verified<Manifest>,
    /// The one token.
    pub token: JoinToken,
    /// What one member keeps.
    pub credentials: Credentials,
    /// The documents of another member.
    pub other: Bundle,
    /// Documents of which one at a time holds, in the order of their kinds.
    pub issued: Vec<Vec<u8>>,
}

/// The key of the network's one relay.
pub fn relay_secret() -> StaticSecret {
    StaticSecret::from_bytes([9; 32])
}

/// The network.
pub fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(make_network)
}

fn make_network() -> Network {
    let mut rng = Rng::from_seed([7; 32]);
    let [root, registrar, token_key] = [(); 3].map(|()| SigningKey::random(&mut rng));
    let genesis = Genesis { root: root.identity(), nonce: rng.array(), created: NOW, name: "sample".into() };
    let genesis = genesis.sign(&root).expect("within limits");
    let network_id = genesis.root_pin().network_id();
    let relay = TokenRelay {
        relay_no: 1,
        key: relay_secret().public(),
        address: "192.0.2.1:3478".parse().expect("an address"),
    };
    let manifest = Manifest {
        network_id,
        epoch: 1,
        issued: NOW,
        next_update: NOW.plus_secs(30 * DAY),
        v4: "10.7.0.0/16".parse().expect("a prefix"),
        registrars: vec![registrar.identity()],
        issuers: vec![],
        relays: vec![RelayEntry { relay_no: 1, key: relay.key, addresses: vec![relay.address] }],
    };
    let manifest = manifest.sign(&root).expect("within limits");
    let delegation = Delegation {
        network_id,
        token_id: TokenId([3; 8]),
        token_key: token_key.identity(),
        signer: root.identity(),
        not_after: NOW.plus_secs(DAY),
        max_node_lifetime: 7_776_000,
        max_uses: 0,
        ephemeral: false,
        tags: Tags::new(["web", "gpu"]).expect("two tags"),
        pool: "10.7.4.0/22".parse().expect("a prefix"),
        names: Some("web-*".parse().expect("a pattern")),
        renew_until: Some(NOW.plus_secs(3_650 * DAY)),
    };
    let delegation = delegation.sign(&root).expect("within limits").into_signed();
    let token = JoinToken::new(genesis.root_pin(), token_key.seed(), vec![relay], delegation);
    let mut enrol = |name| enrol(&token, name, (&genesis, &manifest), &registrar, &mut rng);
    let (credentials, other) = (enrol("web-1"), enrol("web-2").bundle().clone());
    let issued = issued(credentials.trust(), &root, &registrar);
    Network { root, registrar, token_key, genesis, manifest, token, credentials, other, issued }
}

fn issued(trust: &NetworkTrust, root: &SigningKey, registrar: &SigningKey) -> Vec<Vec<u8>> {
    let until = NOW.plus_secs(90 * DAY);
    let revocations = Revocations {
        network_id: trust.network_id(),
        epoch: 1,
        issued: NOW,
        signer: root.identity(),
        nodes: vec![RevokedNode { identity: registrar.identity(), until }],
        tokens: vec![RevokedToken { token_id: TokenId([8; 8]), extent: Extent::New, since: NOW, until }],
    };
    let revocations = revocations.sign(root).expect("within limits").bytes().to_vec();
    let freshness = trust.freshness_of(registrar.identity(), NOW).sign(registrar);
    let policy = Policy {
        network_id: trust.network_id(),
        epoch: 1,
        issued: NOW,
        signer: root.identity(),
        allow_by_default: true,
        rules: vec![Rule {
            allow: false,
            from: Tags::new(["web"]).expect("a tag"),
            to: Tags::default(),
            services: vec!["tcp/22".parse().expect("a service"), "icmp".parse().expect("a service")],
        }],
    };
    let policy = policy.sign(root).expect("within limits").bytes().to_vec();
    vec![revocations, policy, freshness.expect("within limits").bytes().to_vec()]
}

fn enrol(
    token: &JoinToken,
    name: &str,
    (genesis, manifest): (&Verified<Genesis>, &Verified<Manifest>),
    registrar: &SigningKey,
    rng: &mut Rng,
) -> Credentials {
    let node = NodeIdentity::random(Some([1; 16]), rng);
    let name = name.parse().expect("a name");
    let enrolment = Enrolment::new(token.clone(), node, name, NOW, rng).expect("the token allows it");
    let receipt = receipt(enrolment.bundle(), registrar).sign(registrar).expect("within limits");
    let mut credentials = enrolment
        .complete(genesis.bytes(), manifest.bytes(), receipt.bytes(), NOW)
        .expect("the documents are in order");
    let endpoint = Endpoint { kind: 1, address: "198.51.100.4:4000".parse().expect("an address") };
    let rtt = RelayRtt { relay_no: 1, rtt_ms: 20 };
    credentials.sign_record(vec![endpoint], vec![rtt], NOW).expect("within limits");
    credentials
}

/// The receipt an honest registrar gives for `bundle`.
fn receipt(bundle: &Bundle, registrar: &SigningKey) -> Receipt {
    let (c, b) = (bundle.certificate.unverified(), bundle.binding.unverified());
    Receipt {
        network_id: c.network_id,
        identity: c.identity,
        x25519: b.x25519,
        name: c.name.clone(),
        v4: c.v4,
        token_id: c.token_id,
        use_number: 1,
        issued: NOW,
        not_after: NOW.plus_secs(14 * DAY),
        registrar: registrar.identity(),
        certificate_until: Some(NOW.plus_secs(180 * DAY)),
    }
}

/// The member's documents in the order of a bundle.
pub fn documents() -> [&'static [u8]; 5] {
    let bundle = network().credentials.bundle();
    [
        bundle.delegation.bytes(),
        bundle.certificate.bytes(),
        bundle.binding.bytes(),
        bundle.receipt.as_ref().map(|d| d.bytes()).expect("it was admitted"),
        bundle.record.as_ref().map(|d| d.bytes()).expect("it has a record"),
    ]
}

/// The nonce of the sample probes.
pub const PROBE_NONCE: Nonce = Nonce { start: 5, random: 6, counter: 7 };

/// The key of the sample probes.
pub fn probe_secret() -> Secret {
    Secret::from_bytes([8; 32])
}

/// A body of each kind.
pub fn probe_bodies() -> [Body; 3] {
    let seen = "203.0.113.7:4500".parse().expect("an address");
    let candidate = CallCandidate { kind: 1, prio: 200, addr: seen };
    [
        Body::Ping(Ping { txid: 1, t_us: 2, path_id: 3, wire_size: 100, tx_data: 4, rx_data: 5 }),
        Body::Pong(Pong { txid: 1, t_us: 2, path_id: 3, received_size: 100, tx_data: 4, rx_data: 5, seen }),
        Body::Call(Call {
            txid: 1,
            round: 2,
            flags: probe::CALL_ANSWER_WANTED,
            mapping: 1,
            filtering: 3,
            port_delta: -1,
            candidates: vec![candidate; 2],
            relays: vec![probe::RelayRtt { relay_no: 1, rtt_ms: 30 }],
        }),
    ]
}

/// The bodies sealed.
pub fn probes() -> &'static [Vec<u8>; 3] {
    static PROBES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    PROBES.get_or_init(|| {
        let key = ProbeKey::new(&probe_secret());
        probe_bodies().map(|body| probe::seal(&key, 0, [7; 8], PROBE_NONCE, &body, 0))
    })
}
