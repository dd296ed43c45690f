//! The documents of one network, made from the world's seed: root, registrar, manifest, one join token, its relays.

use std::net::{IpAddr, SocketAddr};

use skynet_core::crypto::hash;
use skynet_core::key::{Secret, SigningKey, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::{
    Delegation, Genesis, Ipv4Prefix, JoinToken, Manifest, Name, NamePattern, NetworkTrust, Policy,
    RelayEntry, Revocations, Rule, Tags, TokenId, TokenRelay, Verified,
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
    root: SigningKey,
    /// Signed after the manifest, the last of each kind.
    revocations: Option<Verified<Revocations>>,
    policy: Option<Verified<Policy>>,
    token_id: TokenId,
    registrar: SigningKey,
    relay_keys: Vec<StaticSecret>,
    token_relays: Vec<TokenRelay>,
    cluster_key: Secret,
    token: String,
}

impl MemberNetwork {
    /// A network with these relays, numbered from 1, each at one to four addresses; members in `10.7.0.0/16`. The first
    /// relay has the registrar.
    ///
    /// # Panics
    /// Never: the documents are made of values that hold.
    pub fn new(seed: [u8; 32], relays: &[Vec<IpAddr>]) -> Self {
        let mut rng = Rng::from_seed(seed);
        let [root, registrar, token_key] = [(); 3].map(|()| SigningKey::random(&mut rng));
        let relay_keys: Vec<StaticSecret> = relays.iter().map(|_| StaticSecret::random(&mut rng)).collect();
        let sound = "made of values that hold";
        let genesis =
            Genesis { root: root.identity(), nonce: rng.array(), created: UNIX_START, name: "sim".into() };
        let genesis = genesis.sign(&root).expect(sound);
        let network_id = genesis.root_pin().network_id();
        let pool: Ipv4Prefix = "10.7.0.0/16".parse().expect(sound);
        let entry = |((relay_no, key), ips): ((u16, &StaticSecret), &Vec<IpAddr>)| RelayEntry {
            relay_no,
            key: key.public(),
            addresses: ips.iter().map(|ip| SocketAddr::new(*ip, CONTROL_PORT)).collect(),
        };
        let entries: Vec<RelayEntry> = (1..).zip(&relay_keys).zip(relays).map(entry).collect();
        let manifest = Manifest {
            network_id,
            epoch: 2,
            issued: UNIX_START,
            next_update: UNIX_START.plus_secs(LIFETIME_SECS),
            v4: pool,
            registrars: vec![registrar.identity()],
            issuers: Vec::new(),
            relays: entries.clone(),
        };
        let old_manifest = Manifest { epoch: 1, ..manifest.clone() }.sign(&root).expect(sound);
        let manifest = manifest.sign(&root).expect(sound);
        let at = |r: &RelayEntry, address: Option<&SocketAddr>| {
            Some(TokenRelay { relay_no: r.relay_no, key: r.key, address: *address? })
        };
        let firsts = entries.iter().filter_map(|r| at(r, r.addresses.first()));
        let v6 = entries.iter().filter_map(|r| at(r, r.addresses.iter().find(|a| a.is_ipv6())));
        let token_relays = firsts.chain(v6).collect();
        let token_id = rng.array();
        let cluster_key = Secret::random(&mut rng);
        let mut network = Self {
            genesis,
            manifest,
            old_manifest,
            root,
            revocations: None,
            policy: None,
            token_id: TokenId(token_id),
            registrar,
            relay_keys,
            token_relays,
            cluster_key,
            token: String::new(),
        };
        network.token =
            network.make_token(&token_key, TokenId(token_id), (Tags::default(), false), (pool, None));
        network
    }

    /// Another join token as text: for nodes with these tags, which are forgotten when they leave or are not.
    pub fn token_for(&self, tags: &Tags, ephemeral: bool) -> String {
        let text: Vec<&str> = tags.iter().collect();
        let seed = hash(&[self.registrar.seed().expose(), text.join(",").as_bytes(), &[u8::from(ephemeral)]]);
        let mut rng = Rng::from_seed(seed);
        let place = (self.manifest.v4, None);
        self.make_token(&SigningKey::random(&mut rng), TokenId(rng.array()), (tags.clone(), ephemeral), place)
    }

    /// Another join token as text: for one name and one address, whoever's they are at a time.
    pub fn token_for_place(&self, name: &Name, address: Ipv4Prefix) -> String {
        let seed = hash(&[self.registrar.seed().expose(), name.as_str().as_bytes(), b"place"]);
        let mut rng = Rng::from_seed(seed);
        let place = (address, Some(NamePattern::Exact(name.clone())));
        self.make_token(&SigningKey::random(&mut rng), TokenId(rng.array()), (Tags::default(), false), place)
    }

    fn make_token(
        &self,
        key: &SigningKey,
        token_id: TokenId,
        (tags, ephemeral): (Tags, bool),
        (pool, names): (Ipv4Prefix, Option<NamePattern>),
    ) -> String {
        let sound = "made of values that hold";
        let delegation = Delegation {
            network_id: self.genesis.root_pin().network_id(),
            token_id,
            token_key: key.identity(),
            signer: self.root.identity(),
            not_after: UnixTime(UNIX_START.0 + LIFETIME_SECS),
            max_node_lifetime: u32::try_from(LIFETIME_SECS).expect(sound),
            max_uses: 0,
            ephemeral,
            tags,
            pool,
            names,
            renew_until: Some(UnixTime(UNIX_START.0 + 10 * LIFETIME_SECS)),
        };
        let delegation = delegation.sign(&self.root).expect(sound).into_signed();
        let relays = self.token_relays.clone();
        JoinToken::new(self.genesis.root_pin(), key.seed(), relays, delegation).encode().to_string()
    }

    /// The join token as text.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn network_id(&self) -> [u8; 8] {
        self.manifest.network_id.0
    }

    /// What the join token is called when it is taken back.
    pub const fn token_id(&self) -> TokenId {
        self.token_id
    }

    /// Signs the next policy, and returns it.
    ///
    /// # Panics
    /// If it is beyond the limits.
    pub fn set_policy(&mut self, now: UnixTime, allow_by_default: bool, rules: Vec<Rule>) -> Vec<u8> {
        let policy = Policy {
            network_id: self.manifest.network_id,
            epoch: self.policy.as_ref().map_or(0, |last| last.epoch) + 1,
            issued: now,
            signer: self.root.identity(),
            allow_by_default,
            rules,
        };
        let signed = policy.sign(&self.root).expect("within the limits");
        let bytes = signed.bytes().to_vec();
        self.policy = Some(signed);
        bytes
    }

    /// Signs the next list of revocations, changed so, and returns it.
    ///
    /// # Panics
    /// If the change breaks a limit.
    pub fn revoke(&mut self, now: UnixTime, change: impl FnOnce(&mut Revocations)) -> Vec<u8> {
        let mut list = match &self.revocations {
            Some(last) => Revocations::clone(last),
            None => Revocations {
                network_id: self.manifest.network_id,
                epoch: 0,
                issued: now,
                signer: self.root.identity(),
                nodes: Vec::new(),
                tokens: Vec::new(),
            },
        };
        (list.epoch, list.issued) = (list.epoch + 1, now);
        change(&mut list);
        list.nodes.sort_unstable();
        list.tokens.sort_unstable();
        let signed = list.sign(&self.root).expect("within the limits");
        let bytes = signed.bytes().to_vec();
        self.revocations = Some(signed);
        bytes
    }

    /// Signs the next manifest, with another list of relays, and returns it.
    ///
    /// # Panics
    /// If the change breaks a limit.
    pub fn change_relays(&mut self, now: UnixTime, change: impl FnOnce(&mut Vec<RelayEntry>)) -> Vec<u8> {
        let mut manifest = Manifest::clone(&self.manifest);
        (manifest.epoch, manifest.issued) = (manifest.epoch + 1, now);
        change(&mut manifest.relays);
        let signed = manifest.sign(&self.root).expect("within the limits");
        let bytes = signed.bytes().to_vec();
        self.manifest = signed;
        bytes
    }

    /// A manifest that was replaced by the one in force.
    pub fn old_manifest(&self) -> &[u8] {
        self.old_manifest.bytes()
    }

    /// The key the relay signs receipts with.
    pub fn registrar_key(&self) -> SigningKey {
        self.registrar.clone()
    }

    /// The registrar at the first relay, or the directory of another.
    pub(super) fn registrar(&self, relay_no: u16) -> Registrar {
        let trust = NetworkTrust::new(self.genesis.root_pin(), self.genesis.bytes(), self.manifest.bytes());
        let mut trust = trust.expect("signed by the root a moment ago");
        let (list, policy) =
            (self.revocations.as_ref().map(Verified::bytes), self.policy.as_ref().map(Verified::bytes));
        for document in [list, policy].into_iter().flatten() {
            trust.take(document).expect("signed by the root a moment ago");
        }
        match relay_no {
            1 => Registrar::new(self.registrar.clone(), trust),
            _ => Registrar::follower(trust),
        }
    }

    pub(super) fn relay_key(&self, relay_no: u16) -> StaticSecret {
        self.relay_keys[usize::from(relay_no) - 1].clone()
    }

    pub(super) fn cluster_key(&self) -> Secret {
        self.cluster_key.clone()
    }
}
