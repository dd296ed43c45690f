//! Whoever is revoked leaves the directory, with all it claimed. It is remembered as ousted for as long as a ticket of its
//! may be shown to a relay.

use skynet_core::key::Identity;
use skynet_core::member::Freshness;
use skynet_core::member::document::Content as _;
use skynet_core::time::UnixTime;

use super::{Refusal, Registrar, claims, each_node, hex, node_key, retry};
use crate::store::{Store, StoreError, Transaction, View};

const OUSTED: &str = "revoked/";
const REVOCATIONS_KEY: &str = "doc/8";
/// Tickets are good for 14 days; with a day for clocks.
const REMEMBERED: u64 = 15 * 86_400;
/// A word on what is in force is renewed at this age, in seconds: it is an assurance for a day.
const WORD_AGE: u64 = 3_600;
/// Ousted nodes that are forgotten at once.
const MOST_FORGOTTEN: usize = 64;

/// A node that was in the directory and was revoked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ousted {
    /// Who.
    pub identity: Identity,
    /// The number it had at the relay.
    pub node_no: u32,
}

impl Registrar {
    /// Takes everybody out of the directory whom the revocations in force name. Reads the whole directory once for each
    /// new list; a list that was gone through before costs one look.
    pub fn oust(&self, store: &dyn Store, now: UnixTime) -> Result<(), Refusal> {
        let Some(revocations) = self.trust.revocations() else { return Ok(()) };
        if store.get(REVOCATIONS_KEY)?.is_some_and(|done| done.value == revocations.bytes()) {
            return Ok(());
        }
        each_node(store, |key, bundle| {
            let identity = bundle.certificate.unverified().identity;
            if key != node_key(&identity) {
                return Ok(());
            }
            retry(store, || self.prepare_oust(&identity, store, now).map(|t| (t, ())))
        })?;
        // Last: with it the list counts as gone through.
        retry(store, || {
            let mut transaction = Transaction::default();
            transaction.unchanged(REVOCATIONS_KEY, store.get(REVOCATIONS_KEY)?.as_ref());
            transaction.put(REVOCATIONS_KEY, revocations.bytes());
            Ok((transaction, ()))
        })
    }

    fn prepare_oust(
        &self,
        identity: &Identity,
        view: &dyn View,
        now: UnixTime,
    ) -> Result<Transaction, Refusal> {
        let mut transaction = Transaction::default();
        let Some((stored, bundle)) = super::stored_node(view, identity)? else { return Ok(transaction) };
        let certificate = bundle.certificate.unverified();
        if !self.trust.is_revoked(certificate) {
            return Ok(transaction);
        }
        transaction.unchanged(node_key(identity), Some(&stored));
        transaction.delete(node_key(identity));
        for key in claims(&self.trust, &bundle) {
            transaction.delete(key);
        }
        let mut ousted = now.0.to_be_bytes().to_vec();
        ousted.extend_from_slice(&certificate.v4.octets());
        transaction.put(ousted_key(identity), ousted);
        Ok(transaction)
    }

    /// Whoever was ousted lately; what is older is forgotten.
    pub fn ousted(&self, store: &dyn Store, now: UnixTime) -> Result<Vec<Ousted>, StoreError> {
        let mut ousted = Vec::new();
        let mut forgotten = Transaction::default();
        for (key, stored) in store.range(OUSTED, None, usize::MAX)? {
            match decode(&key, &stored.value) {
                Some((at, one)) if at.plus_secs(REMEMBERED) > now => ousted.push(one),
                _ if forgotten.writes.len() < MOST_FORGOTTEN => forgotten.delete(key),
                _ => {}
            }
        }
        if !forgotten.is_empty() {
            store.commit(forgotten)?;
        }
        Ok(ousted)
    }

    /// Says anew which documents are in force, if the last word on it is old or says otherwise. A relay without a
    /// registrar passes on what it was told.
    pub fn confirm_documents(&mut self, now: UnixTime) {
        let Some(key) = &self.key else { return };
        let last = self.trust.freshness().map(|word| word.issued);
        let issued = last.map_or(now, |last| now.max(last.plus_secs(1)));
        let word = self.trust.freshness_of(key.identity(), issued);
        let is_good = self.trust.freshness().is_some_and(|held| {
            let same = Freshness { issued: held.issued, ..word.clone() } == **held;
            same && now.0 < held.issued.0.saturating_add(WORD_AGE)
        });
        if !is_good && let Ok(word) = word.sign(key) {
            // Our own word, on our own documents: it holds.
            let _taken = self.trust.take(word.bytes());
        }
    }
}

fn ousted_key(identity: &Identity) -> String {
    format!("{OUSTED}{}", hex(identity.as_bytes()))
}

fn decode(key: &str, value: &[u8]) -> Option<(UnixTime, Ousted)> {
    let digits = key.strip_prefix(OUSTED)?;
    let mut identity = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, at) in identity.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    let (at, node_no) = value.split_first_chunk::<8>()?;
    let node_no = u32::from_be_bytes(node_no.try_into().ok()?);
    Some((UnixTime(u64::from_be_bytes(*at)), Ousted { identity: Identity(identity), node_no }))
}
