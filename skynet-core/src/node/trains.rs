//! What a peer's `TrainCheck` asks for: records inside the tunnel, by the path they check.

use crate::drop::DropReason;
use crate::id::PeerSlot;
use crate::node::train_check::TrainEvent;
use crate::node::{Node, NodeEvent};
use crate::path::Path;
use crate::session::sealed_len;
use crate::time::Now;
use crate::wire::record::Record;
use crate::wire::wireguard::TRANSPORT_HEADER_LEN;

impl Node {
    /// A PATTERN or REPORT of this peer.
    pub(super) fn on_train_record(
        &mut self,
        slot: PeerSlot,
        record: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let record = Record::parse(record).map_err(|_| DropReason::UnknownType)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NotMember)?;
        match record {
            Record::Pattern(pattern) => peer.trains.handle_pattern(pattern, now.mono),
            Record::Report(report) => peer.trains.handle_report(report, now.mono),
            _ => return Err(DropReason::UnexpectedRecord),
        }
        self.drain_trains(slot, now);
        Ok(())
    }

    /// Tells the check of a peer's trains which direct path there is, once the peer is known to understand records.
    pub(super) fn tend_trains(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let ready = peer.sealing.is_some() && peer.lanes.hello().is_some();
        let direct = match peer.path_mut().and_then(|p| p.selected()) {
            Some(Path::Direct { remote }) if ready => Some(remote),
            _ => None,
        };
        if let Some(path) = peer.path_mut() {
            let limit = path.size().limit;
            peer.trains.set_limit(limit);
        }
        peer.trains.handle_path(direct, now.mono);
        self.drain_trains(slot, now);
    }

    pub(super) fn drain_trains(&mut self, slot: PeerSlot, now: Now) {
        while let Some(event) = self.peers.get_mut(slot).and_then(|p| p.trains.poll_event()) {
            match event {
                TrainEvent::Train(records) => self.send_train(slot, &records, now),
                TrainEvent::Single(records) => {
                    for record in records {
                        self.send_record(slot, &record, now);
                    }
                }
                TrainEvent::Changed => self.on_trains_changed(slot),
            }
        }
    }

    fn on_trains_changed(&mut self, slot: PeerSlot) {
        self.dirty = true;
        let Some(peer) = self.peers.get(slot) else { return };
        match peer.trains.trains_arrive() {
            true => tracing::info!(peer = peer.name(), "trains of datagrams arrive again"),
            false => tracing::warn!(
                peer = peer.name(),
                "trains of datagrams do not arrive, single ones do; sending datagram by datagram"
            ),
        }
    }

    /// Seals the records, which have one length, end to end: one `sendmsg`.
    fn send_train(&mut self, slot: PeerSlot, records: &[Record], now: Now) {
        let Some(path) = self.data_path(slot) else { return };
        let Some(peer) = self.peers.get(slot) else { return };
        let Some(key) = peer.sealing.clone() else { return };
        let count = u32::try_from(records.len()).expect("eight");
        let Some(counters) = key.reserve(count, now.mono) else { return };
        let (mut bytes, mut segment) = (Vec::new(), 0);
        for (record, counter) in records.iter().zip(counters) {
            let plaintext = record.encode();
            let mut message = vec![0; sealed_len(plaintext.len())];
            message[TRANSPORT_HEADER_LEN..][..plaintext.len()].copy_from_slice(&plaintext);
            segment = key.seal(counter, &mut message, plaintext.len());
            bytes.extend_from_slice(&message[..segment]);
        }
        // That nothing comes back tells of the train, not of the peer.
        let _asleep = peer.session.activity().note_tx(now.mono, count.into(), bytes.len() as u64, true);
        self.events.push_back(NodeEvent::SendTrain {
            port: path.port,
            to: path.to,
            from: path.from,
            bytes,
            segment,
        });
    }
}
