//! A small network for tests: root, registrar, one token.

use super::*;
use crate::key::SigningKey;
use crate::rng::Rng;
use crate::time::UnixTime;
use document::Content;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const DAY: u64 = 86_400;

pub(crate) struct Network {
    pub(crate) root: SigningKey,
    pub(crate) registrar: SigningKey,
    pub(crate) token_key: SigningKey,
    pub(crate) genesis: Verified<Genesis>,
    pub(crate) manifest: Manifest,
    pub(crate) delegation: Delegation,
    pub(crate) rng: Rng,
}

impl Network {
    pub(crate) fn new() -> Self {
        let mut rng = Rng::from_seed([7; 32]);
        let [root, registrar, token_key] = [(); 3].map(|()| SigningKey::random(&mut rng));
        let genesis =
            Genesis { root: root.identity(), nonce: rng.array(), created: NOW, name: "test".into() }
                .sign(&root)
                .unwrap();
        let network_id = genesis.root_pin().network_id();
        let manifest = Manifest {
            network_id,
            epoch: 1,
            issued: NOW,
            next_update: NOW.plus_secs(30 * DAY),
            v4: "10.7.0.0/16".parse().unwrap(),
            registrars: vec![registrar.identity()],
            issuers: vec![],
            relays: vec![RelayEntry {
                relay_no: 1,
                key: crate::key::PublicKey([9; 32]),
                addresses: vec!["192.0.2.1:3478".parse().unwrap(), "[2001:db8::1]:3478".parse().unwrap()],
            }],
        };
        let delegation = Delegation {
            network_id,
            token_id: TokenId([3; 8]),
            token_key: token_key.identity(),
            signer: root.identity(),
            not_after: NOW.plus_secs(DAY),
            max_node_lifetime: 90 * DAY as u32,
            max_uses: 0,
            ephemeral: false,
            tags: Tags::new(["web", "gpu"]).unwrap(),
            pool: "10.7.4.0/22".parse().unwrap(),
            names: Some("web-*".parse().unwrap()),
            renew_until: None,
        };
        Self { root, registrar, token_key, genesis, manifest, delegation, rng }
    }

    pub(crate) fn trust(&self) -> NetworkTrust {
        let manifest = self.manifest.sign(&self.root).unwrap();
        NetworkTrust::new(self.genesis.root_pin(), self.genesis.bytes(), manifest.bytes()).unwrap()
    }

    pub(crate) fn token(&self) -> JoinToken {
        let relay = TokenRelay {
            relay_no: 1,
            key: crate::key::PublicKey([9; 32]),
            address: "192.0.2.1:3478".parse().unwrap(),
        };
        let delegation = self.delegation.sign(&self.root).unwrap().into_signed();
        JoinToken::new(self.genesis.root_pin(), self.token_key.seed(), vec![relay], delegation)
    }

    pub(crate) fn enrolment(&mut self) -> Enrolment {
        self.enrolment_named("web-1")
    }

    pub(crate) fn enrolment_named(&mut self, name: &str) -> Enrolment {
        let node = NodeIdentity::random(Some([1; 16]), &mut self.rng);
        Enrolment::new(self.token(), node, name.parse().unwrap(), NOW, &mut self.rng).unwrap()
    }

    /// The receipt an honest registrar would give for `bundle`.
    pub(crate) fn receipt(&self, bundle: &Bundle) -> Receipt {
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
            registrar: self.registrar.identity(),
            certificate_until: None,
        }
    }

    /// A policy of two rules.
    pub(crate) fn policy(&self) -> Policy {
        let tags = |tag| Tags::new([tag]).unwrap();
        let services = ["tcp/22", "udp/1000-2000", "icmp"].map(|service| service.parse().unwrap()).to_vec();
        Policy {
            network_id: self.manifest.network_id,
            epoch: 1,
            issued: NOW,
            signer: self.root.identity(),
            allow_by_default: false,
            rules: vec![
                Rule { allow: false, from: tags("web"), to: tags("gpu"), services },
                Rule { allow: true, from: Tags::default(), to: tags("web"), services: vec![] },
            ],
        }
    }

    /// A list with a node and a token of nobody.
    pub(crate) fn revocations(&self) -> Revocations {
        let until = NOW.plus_secs(90 * DAY);
        Revocations {
            network_id: self.manifest.network_id,
            epoch: 1,
            issued: NOW,
            signer: self.root.identity(),
            nodes: vec![RevokedNode { identity: crate::key::Identity([6; 32]), until }],
            tokens: vec![RevokedToken { token_id: TokenId([6; 8]), extent: Extent::New, since: NOW, until }],
        }
    }

    pub(crate) fn credentials(&mut self) -> Credentials {
        self.credentials_named("web-1")
    }

    pub(crate) fn credentials_named(&mut self, name: &str) -> Credentials {
        let enrolment = self.enrolment_named(name);
        let receipt = self.receipt(enrolment.bundle()).sign(&self.registrar).unwrap();
        let manifest = self.manifest.sign(&self.root).unwrap();
        enrolment.complete(self.genesis.bytes(), manifest.bytes(), receipt.bytes(), NOW).unwrap()
    }
}
