//! A member with a valid certificate that does as it likes: it joins as everybody does, and then tells in its record and in
//! its CALLs whatever addresses it wants others to probe.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use skynet_core::control::message::{Lookup, Welcome};
use skynet_core::control::{ControlClient, ControlConfig, ControlEvent, ControlTarget};
use skynet_core::id::PortNo;
use skynet_core::member::{Bundle, Credentials, Endpoint, Enrolment, JoinToken, Member, NodeIdentity};
use skynet_core::path::{NonceSource, PairKeys};
use skynet_core::relay::{RelayClient, RelayClientConfig, RelayClock};
use skynet_core::rng::Rng;
use skynet_core::wire::probe::{Body, CALL_ANSWER_WANTED, CALL_OPENER_SENT, Call, CallCandidate, Ping};
use skynet_core::wire::relay::Class;
use skynet_relay::clock::{Clock, os_rng};

use crate::lab::Netns;
use crate::raw;

const PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(20);

/// The member.
pub struct Mallory {
    namespace: Netns,
    clock: Clock,
    rng: Rng,
    stream: TcpStream,
    control: ControlClient,
    udp: UdpSocket,
    relay: SocketAddr,
    session: RelayClient,
    credentials: Credentials,
    pairs: BTreeMap<u32, (PairKeys, NonceSource)>,
}

impl Mallory {
    /// Joins from `namespace` and binds at the relay.
    ///
    /// # Errors
    /// If the relay does not let it in.
    pub fn join(namespace: &Netns, token: &str, name: &str) -> anyhow::Result<Self> {
        let (clock, mut rng) = (Clock::new(), os_rng()?);
        let token = JoinToken::parse(token)?;
        let relay = *token.relays().first().context("the token names no relay")?;
        let node = NodeIdentity::random(None, &mut rng);
        let enrolment = Enrolment::new(token, node, name.parse()?, clock.now().unix, &mut rng)?;
        let config = ControlConfig {
            local: enrolment.node().static_secret.clone(),
            targets: vec![ControlTarget {
                relay_no: relay.relay_no,
                relay: relay.key,
                address: relay.address,
            }],
        };
        let mut control = ControlClient::new(config, rng.fork(), clock.now().mono);
        let stream = namespace.run(|| TcpStream::connect(relay.address))??;
        stream.set_read_timeout(Some(GLANCE))?;
        control.handle_connected(clock.now().mono);
        control.join(enrolment.bundle().encode(), clock.now().mono);
        let udp = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        udp.set_read_timeout(Some(GLANCE))?;
        let welcome = wait(clock, &stream, &mut control, |event| match event {
            ControlEvent::Joined(welcome) => Some(welcome),
            _ => None,
        })?;
        let session = session(&welcome, rng.fork(), clock);
        let now = clock.now().unix;
        let credentials = enrolment.complete(&welcome.genesis, &welcome.manifest, &welcome.receipt, now)?;
        let (namespace, relay, pairs) = (namespace.clone(), relay.address, BTreeMap::new());
        let mut mallory =
            Self { namespace, clock, rng, stream, control, udp, relay, session, credentials, pairs };
        mallory.bind()?;
        Ok(mallory)
    }

    /// Its address in the overlay.
    ///
    /// # Errors
    /// Never, after joining.
    pub fn overlay_address(&self) -> anyhow::Result<Ipv4Addr> {
        Ok(self.credentials.member(self.clock.now().unix)?.v4())
    }

    /// The network's IPv6 prefix and IPv4 base: what nobody may probe either.
    pub fn overlay(&self) -> [std::net::IpAddr; 2] {
        let trust = self.credentials.trust();
        [trust.manifest().v4.base().into(), trust.root_pin().v6_prefix().into()]
    }

    fn bind(&mut self) -> anyhow::Result<()> {
        let start = crate::clock::now();
        let mut buffer = [0; 2048];
        while !self.session.is_up() {
            ensure!(start.elapsed() < PATIENCE, "the relay does not bind it");
            self.session.handle_timeout(self.clock.now().mono);
            while let Some(bytes) = self.session.poll_transmit() {
                self.udp.send_to(&bytes, self.relay)?;
            }
            if let Ok((n, from)) = self.udp.recv_from(&mut buffer)
                && from == self.relay
            {
                self.session.handle_datagram(&buffer[..n], self.clock.now().mono);
            }
        }
        Ok(())
    }

    /// Tells the directory that it can be reached at these addresses.
    ///
    /// # Errors
    /// If the relay does not take the record.
    pub fn publish(&mut self, addresses: &[SocketAddr]) -> anyhow::Result<()> {
        let endpoints = addresses.iter().map(|&address| Endpoint { kind: 4, address }).collect();
        let record = self.credentials.sign_record(endpoints, Vec::new(), self.clock.now().unix)?;
        let id = self.control.update(record.bytes().to_vec(), self.clock.now().mono);
        let id = id.context("the control channel is not ready")?;
        self.wait(|event| match event {
            ControlEvent::Acknowledged(got, _) if got == id => Some(()),
            _ => None,
        })
    }

    /// Looks a member up.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn look_up(&mut self, name: &str) -> anyhow::Result<Member> {
        let id = self.control.get(Lookup::Name(name.to_owned()), self.clock.now().mono);
        let id = id.context("the control channel is not ready")?;
        let found = self.wait(|event| match event {
            ControlEvent::Peer(got, found) if got == id => Some(found),
            _ => None,
        })?;
        let bundle = Bundle::parse(&found.bundle)?;
        Ok(self.credentials.trust().verify_member(&bundle, self.clock.now().unix)?)
    }

    /// Calls a member by the relay: it is to be reached at these addresses, at most 16.
    ///
    /// # Errors
    /// If the call cannot be sent.
    pub fn call(&mut self, victim: &Member, addresses: &[SocketAddr]) -> anyhow::Result<()> {
        let kinds = (0..6).cycle();
        let candidates = addresses
            .iter()
            .zip(kinds)
            .map(|(&addr, kind)| CallCandidate { kind, prio: 255, addr })
            .collect();
        let call = Call {
            txid: u64::from_be_bytes(self.rng.array()),
            round: 1,
            flags: CALL_OPENER_SENT | CALL_ANSWER_WANTED,
            mapping: 0,
            filtering: 0,
            port_delta: 0,
            candidates,
            relays: Vec::new(),
        };
        let probe = self.seal(victim, &Body::Call(call))?;
        let header = self.session.data_header(victim.node_no(), Class::Control, 0);
        let header = header.context("the session at the relay is down")?;
        self.udp.send_to(&[&header[..], &probe].concat(), self.relay)?;
        Ok(())
    }

    /// Sends a member an authentic PING as if it came from `source`.
    ///
    /// # Errors
    /// If it cannot be sent: the kernel refuses some sources.
    pub fn ping_as(&mut self, source: SocketAddrV4, victim: &Member, at: SocketAddrV4) -> anyhow::Result<()> {
        let txid = u64::from_be_bytes(self.rng.array());
        let ping = Ping { txid, t_us: 0, path_id: 1, wire_size: 0, tx_data: 0, rx_data: 0 };
        let probe = self.seal(victim, &Body::Ping(ping))?;
        let socket = self.namespace.run(raw::open)??;
        raw::send_udp(&socket, source, at, &probe)?;
        Ok(())
    }

    fn seal(&mut self, victim: &Member, body: &Body) -> anyhow::Result<Vec<u8>> {
        let now = self.clock.now().unix;
        if !self.pairs.contains_key(&victim.node_no()) {
            let pin = self.credentials.trust().root_pin();
            let secret = &self.credentials.node().static_secret;
            let keys = PairKeys::new(&pin.0, secret, &victim.x25519(), PortNo(0)).context("a key")?;
            let nonces = NonceSource::new(u32::try_from(now.0)?, &mut self.rng);
            self.pairs.insert(victim.node_no(), (keys, nonces));
        }
        let (keys, nonces) = self.pairs.get_mut(&victim.node_no()).context("just made")?;
        let nonce = nonces.next_nonce().context("nonces are used up")?;
        Ok(keys.seal(0, now, nonce, body, 0))
    }

    fn wait<T>(&mut self, wanted: impl FnMut(ControlEvent) -> Option<T>) -> anyhow::Result<T> {
        wait(self.clock, &self.stream, &mut self.control, wanted)
    }

    /// Asks for the list of members `times` times and reads nothing.
    ///
    /// # Errors
    /// If the connection has ended before.
    pub fn ask_without_reading(&mut self, times: usize) -> anyhow::Result<()> {
        for _ in 0..times {
            let _ = self.control.list(0, 64, self.clock.now().mono);
            while let Some(bytes) = self.control.poll_bytes() {
                self.stream.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

fn session(welcome: &Welcome, rng: Rng, clock: Clock) -> RelayClient {
    let now = clock.now().mono;
    let config = RelayClientConfig {
        relay_no: welcome.relay_no,
        lane: 0,
        ticket: welcome.ticket,
        bind_key: welcome.bind_key.clone(),
        clock: RelayClock::new(welcome.relay_unix_ms, now),
    };
    RelayClient::new(config, rng, now)
}

/// Moves bytes until the event comes.
fn wait<T>(
    clock: Clock,
    mut stream: &TcpStream,
    control: &mut ControlClient,
    mut wanted: impl FnMut(ControlEvent) -> Option<T>,
) -> anyhow::Result<T> {
    let start = crate::clock::now();
    let mut buffer = [0; 16_384];
    while start.elapsed() < PATIENCE {
        while let Some(bytes) = control.poll_bytes() {
            stream.write_all(&bytes)?;
        }
        while let Some(event) = control.poll_event() {
            if let ControlEvent::Denied(_, code, text) = &event {
                bail!("the relay refuses ({code}): {text}");
            }
            if let Some(found) = wanted(event) {
                return Ok(found);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the relay has closed the connection"),
            Ok(n) => control.handle_bytes(&buffer[..n], clock.now().mono),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
        control.handle_timeout(clock.now().mono);
    }
    bail!("no answer of the relay within {PATIENCE:?}")
}
