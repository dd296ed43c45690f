//! JOIN: new nodes, nodes that come again, and nodes that changed their key, name or address.

use std::collections::BTreeSet;

use skynet_core::key::{Identity, PublicKey, SigningKey};
use skynet_core::member::chain::Candidate;
use skynet_core::member::document::Content as _;
use skynet_core::member::{Bundle, Receipt, Signed, Tags, TokenId};
use skynet_core::time::UnixTime;

use super::{DenyCode, Refusal, Registrar, check_proven, claims, hex, identity_at, node_key, stored_node};
use crate::store::{Transaction, Versioned, View};

/// Life of an admission receipt in seconds: 14 days, renewed at half of it.
pub const RECEIPT_LIFETIME: u64 = 14 * 86_400;

/// What to commit, and what to answer once it is durable.
#[derive(Clone, Debug)]
pub struct JoinPlan {
    /// Empty if the directory already says all of this.
    pub transaction: Transaction,
    /// Who joins.
    pub identity: Identity,
    /// Its number at the relay.
    pub node_no: u32,
    /// Its certificate's tags.
    pub tags: Tags,
    /// The receipt for WELCOME.
    pub receipt: Vec<u8>,
    /// The node's documents as the directory then holds them, the receipt included.
    pub bundle: Vec<u8>,
    /// Whether a use of the token was consumed.
    pub new: bool,
    /// Whether the directory had another certificate of this node, or none.
    pub is_news: bool,
}

/// Whether `bundle` certifies anything that `known` does not.
pub(super) fn is_news(bundle: &Bundle, known: Option<&Bundle>) -> bool {
    known.is_none_or(|known| known.certificate.bytes() != bundle.certificate.bytes())
}

/// What the directory knows of the node.
struct Known {
    stored: Option<Versioned>,
    bundle: Option<Bundle>,
}

impl Registrar {
    /// Decides about a JOIN by everything in `view`; nothing is changed. All that was read is compared again by the
    /// transaction, so a plan that commits was right.
    pub fn prepare_join(
        &self,
        signer: &SigningKey,
        bundle: &[u8],
        proven: &PublicKey,
        view: &dyn View,
        now: UnixTime,
    ) -> Result<JoinPlan, Refusal> {
        let mut bundle = Bundle::parse(bundle)?;
        let candidate = self.trust.verify_candidate(&bundle, now)?;
        check_proven(&bundle, proven)?;
        let identity = candidate.certificate().identity;
        let known = match stored_node(view, &identity)? {
            Some((stored, bundle)) => Known { stored: Some(stored), bundle: Some(bundle) },
            None => Known { stored: None, bundle: None },
        };
        if let Some(old) = &known.bundle {
            keep_the_newest(&mut bundle, old)?;
        }

        let mut transaction = Transaction::default();
        transaction.unchanged(node_key(&identity), known.stored.as_ref());
        self.claim(&mut transaction, &bundle, known.bundle.as_ref(), view)?;
        let (use_number, new) = self.count_use(&mut transaction, &candidate, &bundle, &known, view, now)?;
        let receipt = self.receipt(signer, &candidate, &bundle, &known, use_number, now)?;
        let receipt_bytes = receipt.bytes().to_vec();
        bundle.receipt = Some(receipt);

        let bytes = bundle.encode();
        if known.stored.as_ref().is_some_and(|stored| stored.value == bytes) {
            transaction = Transaction::default();
        } else {
            transaction.put(node_key(&identity), bytes.as_slice());
        }
        Ok(JoinPlan {
            transaction,
            identity,
            node_no: candidate.certificate().v4.to_bits(),
            tags: candidate.certificate().tags.clone(),
            receipt: receipt_bytes,
            is_news: is_news(&bundle, known.bundle.as_ref()),
            bundle: bytes,
            new,
        })
    }

    /// Claims address, name, key and IPv6 address, and gives up what an earlier JOIN claimed otherwise.
    fn claim(
        &self,
        transaction: &mut Transaction,
        bundle: &Bundle,
        old: Option<&Bundle>,
        view: &dyn View,
    ) -> Result<(), Refusal> {
        let identity = bundle.certificate.unverified().identity;
        let wanted = claims(&self.trust, bundle);
        let displaced = self.displace(transaction, bundle, &wanted, view)?;
        for (index, key) in wanted.iter().enumerate() {
            match identity_at(view, key)? {
                Some(holder) if holder == identity => {}
                Some(holder) if displaced.contains(&holder) => {
                    transaction.put(key, *identity.as_bytes());
                }
                Some(_) => {
                    return Err(match index {
                        0 => Refusal::AddressTaken,
                        1 => Refusal::NameTaken,
                        _ => Refusal::denied(DenyCode::NotProven, "this key belongs to another node"),
                    });
                }
                None => {
                    transaction.unchanged(key, None);
                    transaction.put(key, *identity.as_bytes());
                }
            }
        }
        for key in old.map(|old| claims(&self.trust, old)).into_iter().flatten() {
            if !wanted.contains(&key) {
                transaction.delete(key);
            }
        }
        Ok(())
    }

    /// Who gives way: nodes in this one's place that joined with the same token, if the issuer made that for one name or one
    /// address. A machine that was made anew takes its predecessor's place.
    fn displace(
        &self,
        transaction: &mut Transaction,
        bundle: &Bundle,
        wanted: &[String; 4],
        view: &dyn View,
    ) -> Result<BTreeSet<Identity>, Refusal> {
        let (delegation, identity) =
            (bundle.delegation.unverified(), bundle.certificate.unverified().identity);
        let mut displaced = BTreeSet::new();
        // Address and name; a key or an IPv6 address is nobody else's.
        for key in wanted.iter().take(2).filter(|_| delegation.is_pinned()) {
            let Some(holder) = identity_at(view, key)?.filter(|holder| *holder != identity) else { continue };
            let Some((stored, other)) = stored_node(view, &holder)? else { continue };
            let same_token = other.certificate.unverified().token_id == delegation.token_id;
            if same_token && displaced.insert(holder) {
                transaction.unchanged(node_key(&holder), Some(&stored));
                transaction.delete(node_key(&holder));
                claims(&self.trust, &other).into_iter().for_each(|claim| transaction.delete(claim));
            }
        }
        Ok(displaced)
    }

    /// The number of this use of the token, and whether it is a new one. A node the directory knows, or that shows
    /// a valid receipt of its own, consumes none and may come after the token's end.
    fn count_use(
        &self,
        transaction: &mut Transaction,
        candidate: &Candidate,
        bundle: &Bundle,
        known: &Known,
        view: &dyn View,
        now: UnixTime,
    ) -> Result<(u32, bool), Refusal> {
        let delegation = candidate.delegation();
        let earlier = known.bundle.as_ref().and_then(|old| old.receipt.as_ref()).map(|r| r.unverified());
        if let Some(earlier) = earlier.filter(|earlier| earlier.token_id == delegation.token_id) {
            return Ok((earlier.use_number, false));
        }
        let key = token_key(&delegation.token_id);
        let stored = view.get(&key)?;
        let count = uses(stored.as_ref());
        if let Ok(member) = self.trust.verify_member(bundle, now) {
            // Admitted before, and this directory forgot it: a restored backup, or another relay's member.
            let used = member.receipt().use_number;
            if used > count {
                transaction.unchanged(&key, stored.as_ref());
                transaction.put(key, used.to_be_bytes());
            }
            return Ok((used, false));
        }
        if self.trust.is_token_revoked(&delegation.token_id) {
            return Err(Refusal::denied(DenyCode::Revoked, "the join token was revoked, ask for a new one"));
        }
        if now > delegation.not_after {
            return Err(Refusal::denied(DenyCode::Expired, "the join token has expired, ask for a new one"));
        }
        if delegation.max_uses != 0 && count >= delegation.max_uses {
            let plural = if delegation.max_uses == 1 { "" } else { "s" };
            let text = format!(
                "the join token is used up: it was good for {} node{plural}, ask for a new one",
                delegation.max_uses
            );
            return Err(Refusal::denied(DenyCode::UsedUp, text));
        }
        let use_number = count
            .checked_add(1)
            .ok_or_else(|| Refusal::denied(DenyCode::UsedUp, "the join token was used 2^32 times"))?;
        transaction.unchanged(&key, stored.as_ref());
        transaction.put(key, use_number.to_be_bytes());
        Ok((use_number, true))
    }

    /// The receipt there is, if it fits and is in the first half of its life; else a fresh one.
    fn receipt(
        &self,
        signer: &SigningKey,
        candidate: &Candidate,
        bundle: &Bundle,
        known: &Known,
        use_number: u32,
        now: UnixTime,
    ) -> Result<Signed<Receipt>, Refusal> {
        let held = known.bundle.as_ref().and_then(|old| old.receipt.clone());
        if let Some(receipt) = held.or_else(|| bundle.receipt.clone()) {
            let renew_at = receipt.unverified().issued.plus_secs(RECEIPT_LIFETIME / 2);
            let with = Bundle { receipt: Some(receipt.clone()), ..bundle.clone() };
            if now < renew_at && self.trust.verify_member(&with, now).is_ok() {
                return Ok(receipt);
            }
        }
        let certificate = candidate.certificate();
        let receipt = Receipt {
            network_id: certificate.network_id,
            identity: certificate.identity,
            x25519: candidate.binding().x25519,
            name: certificate.name.clone(),
            v4: certificate.v4,
            token_id: certificate.token_id,
            use_number,
            issued: now,
            not_after: now.plus_secs(RECEIPT_LIFETIME),
            registrar: signer.identity(),
            certificate_until: prolonged(candidate, now),
        };
        Ok(receipt.sign(signer)?.into_signed())
    }
}

/// Refuses a key binding that is not the newest, and keeps the stored record if it is the newer one.
pub(super) fn keep_the_newest(bundle: &mut Bundle, old: &Bundle) -> Result<(), Refusal> {
    let (new, held) = (bundle.binding.unverified(), old.binding.unverified());
    let forked = new.sequence == held.sequence && new != held;
    if new.sequence < held.sequence || forked {
        let text = format!("this key was replaced: the directory has key binding {}", held.sequence);
        return Err(Refusal::denied(DenyCode::NotProven, text));
    }
    let version = |b: &Bundle| b.record.as_ref().map_or(0, |r| r.unverified().version);
    if version(bundle) <= version(old) {
        bundle.record = old.record.clone();
    }
    Ok(())
}

/// From half of its life on a certificate is prolonged by as much as its token gave it at first, as far as that lets it.
fn prolonged(candidate: &Candidate, now: UnixTime) -> Option<UnixTime> {
    let (delegation, certificate) = (candidate.delegation(), candidate.certificate());
    let last = delegation.renew_until.filter(|last| *last > certificate.not_after)?;
    let half = UnixTime(certificate.not_before.0.midpoint(certificate.not_after.0));
    (now >= half).then(|| last.min(now.plus_secs(u64::from(delegation.max_node_lifetime))))
}

fn token_key(token_id: &TokenId) -> String {
    format!("token/{}", hex(&token_id.0))
}

fn uses(stored: Option<&Versioned>) -> u32 {
    // A counter that cannot be read counts as full: it must never let more nodes in.
    stored.map_or(0, |v| v.value.as_slice().try_into().map_or(u32::MAX, u32::from_be_bytes))
}
