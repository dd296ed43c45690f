//! The documents of one network, made from the world's seed: root, registrar, manifest, one join token, one relay.

use std::net::{IpAddr, SocketAddr};

use skynet_core::key::{Secret, SigningKey, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::{
    Delegation, Genesis, Ipv4Prefix, JoinToken, Manifest, NetworkTrust, RelayEntry, Tags, TokenId,
    TokenRelay, Verified,
};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use skynet_relay::registrar::Registrar;

use super::{CONTROL_PORT, UNIX_START};

/// Life of everything signed here: longer than any simulation.
const LIFETIME_SECS: u64 = 365 * 86_400;

/// Everything an operator holds of a network.
#[derive(Clone, Debug)]
pub struct MemberNetwork {
    genesis: Verified<Genesis>,
    manifest: Verified<Manifest>,
    old_manifest: Verified<Manifest>,
    registrar: SigningKey,
    relay_key: StaticSecret,
    cluster_key: Secret,
    token: String,
}

impl MemberNetwork {
    /// A network with one relay at three addresses, the last one IPv6; members in `10.7.0.0/16`.
    ///
    /// # Panics
    /// Never: the documents are made of values that hold.
    pub fn new(seed: [u8; 32], [relay, second, v6]: [IpAddr; 3]) -> Self {
        let mut rng = Rng::from_seed(seed);
        let [root, registrar, token_key] = [(); 3].map(|()| SigningKey::random(&mut rng));
        let relay_key = StaticSecret::random(&mut rng);
        let sound = "made of values that hold";
        let genesis =
            Genesis { root: root.identity(), nonce: rng.array(), created: UNIX_START, name: "sim".into() };
        let genesis = genesis.sign(&root).expect(sound);
        let network_id = genesis.root_pin().network_id();
        let pool: Ipv4Prefix = "10.7.0.0/16".parse().expect(sound);
        let addresses = [relay, second, v6].map(|ip| SocketAddr::new(ip, CONTROL_PORT)).to_vec();
        let manifest = Manifest {
            network_id,
            epoch: 2,
            issued: UNIX_START,
            next_update: UNIX_START.plus_secs(LIFETIME_SECS),
            v4: pool,
            registrars: vec![registrar.identity()],
            issuers: Vec::new(),
            relays: vec![RelayEntry { relay_no: 1, key: relay_key.public(), addresses }],
        };
        let old_manifest = Manifest { epoch: 1, ..manifest.clone() }.sign(&root).expect(sound);
        let manifest = manifest.sign(&root).expect(sound);
        let delegation = Delegation {
            network_id,
            token_id: TokenId(rng.array()),
            token_key: token_key.identity(),
            signer: root.identity(),
            not_after: UnixTime(UNIX_START.0 + LIFETIME_SECS),
            max_node_lifetime: u32::try_from(LIFETIME_SECS).expect(sound),
            max_uses: 0,
            ephemeral: false,
            tags: Tags::default(),
            pool,
            names: None,
        };
        let at = |ip| TokenRelay {
            relay_no: 1,
            key: relay_key.public(),
            address: SocketAddr::new(ip, CONTROL_PORT),
        };
        let relays = vec![at(relay), at(v6)];
        let delegation = delegation.sign(&root).expect(sound).into_signed();
        let token = JoinToken::new(genesis.root_pin(), token_key.seed(), relays, delegation);
        let token = token.encode().to_string();
        Self {
            genesis,
            manifest,
            old_manifest,
            registrar,
            relay_key,
            cluster_key: Secret::random(&mut rng),
            token,
        }
    }

    /// The join token as text.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A manifest that was replaced by the one in force.
    pub fn old_manifest(&self) -> &[u8] {
        self.old_manifest.bytes()
    }

    /// The key the relay signs receipts with.
    pub fn registrar_key(&self) -> SigningKey {
        self.registrar.clone()
    }

    pub(super) fn registrar(&self) -> Registrar {
        let trust = NetworkTrust::new(self.genesis.root_pin(), self.genesis.bytes(), self.manifest.bytes());
        Registrar::new(self.registrar.clone(), trust.expect("signed by the root a moment ago"))
    }

    pub(super) fn relay_key(&self) -> StaticSecret {
        self.relay_key.clone()
    }

    pub(super) fn cluster_key(&self) -> Secret {
        self.cluster_key.clone()
    }
}
