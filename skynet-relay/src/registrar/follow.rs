//! The directory of a relay without a registrar: it knows whom another's registrar has admitted, and admits nobody.
//!
//! A node that shows its receipt is let in, for the receipt is a registrar's word and peers check it themselves. So a
//! network goes on by any of its relays while the registrar's is away. What needs the registrar: admitting a new node,
//! renewing a receipt, leaving. Whatever was admitted later wins: an address or name that the registrar has given to
//! somebody else meanwhile is not held against them.

use skynet_core::key::PublicKey;
use skynet_core::member::chain::ChainError;
use skynet_core::member::document::Kind;
use skynet_core::member::{Bundle, Member};
use skynet_core::time::UnixTime;

use super::{
    DenyCode, JoinPlan, Refusal, Registrar, check_proven, claims, identity_at, is_news, keep_the_newest,
    node_key, stored_node,
};
use crate::store::{Store, Transaction, View};

/// The answer to what only the registrar can do.
pub(super) fn needs_registrar(what: &str) -> Refusal {
    let text =
        format!("{what} needs the relay with the registrar, which is the network's first; try that one");
    Refusal::denied(DenyCode::TryLater, text)
}

impl Registrar {
    /// Takes over what another relay's directory says of a member. Checked like a peer would; older documents change
    /// nothing.
    ///
    /// # Errors
    /// The documents do not hold, or the store does not answer.
    pub fn learn(&self, bundle: &[u8], store: &dyn Store, now: UnixTime) -> Result<(), Refusal> {
        super::retry(store, || {
            self.prepare_known(bundle, None, store, now).map(|plan| (plan.transaction, ()))
        })
    }

    /// Decides about a node that was admitted elsewhere.
    pub(super) fn prepare_known(
        &self,
        bundle: &[u8],
        proven: Option<&PublicKey>,
        view: &dyn View,
        now: UnixTime,
    ) -> Result<JoinPlan, Refusal> {
        let mut bundle = Bundle::parse(bundle)?;
        if let Some(proven) = proven {
            check_proven(&bundle, proven)?;
        }
        // A node whose new key the registrar has admitted may have missed the answer.
        let known = stored_node(view, &bundle.certificate.unverified().identity)?;
        if let (None, Some((_, old))) = (&bundle.receipt, &known)
            && old.binding.bytes() == bundle.binding.bytes()
        {
            bundle.receipt.clone_from(&old.receipt);
        }
        let member = self.trust.verify_member(&bundle, now).map_err(|error| match error {
            ChainError::NoReceipt => needs_registrar("joining for the first time"),
            ChainError::Expired(Kind::Receipt) => needs_registrar("joining after a long time"),
            ChainError::Expired(Kind::Certificate) if self.trust.verify_candidate(&bundle, now).is_ok() => {
                needs_registrar("prolonging a certificate")
            }
            error => error.into(),
        })?;
        if let Some((_, old)) = &known {
            keep_the_newest(&mut bundle, old)?;
            keep_newer_receipt(&mut bundle, old);
        }
        let mut transaction = Transaction::default();
        let stored = known.as_ref().map(|(stored, _)| stored);
        transaction.unchanged(node_key(&member.identity()), stored);
        self.take_over(&mut transaction, &bundle, &member, view)?;
        for key in known.iter().flat_map(|(_, old)| claims(&self.trust, old)) {
            if !claims(&self.trust, &bundle).contains(&key) {
                transaction.delete(key);
            }
        }
        let bytes = bundle.encode();
        if stored.is_some_and(|stored| stored.value == bytes) {
            transaction = Transaction::default();
        } else {
            transaction.put(node_key(&member.identity()), bytes.as_slice());
        }
        let receipt = bundle.receipt.as_ref().map(|r| r.bytes().to_vec()).unwrap_or_default();
        Ok(JoinPlan {
            transaction,
            identity: member.identity(),
            node_no: member.node_no(),
            tags: member.tags().clone(),
            receipt,
            is_news: is_news(&bundle, known.as_ref().map(|(_, old)| old)),
            bundle: bytes,
            new: false,
        })
    }

    /// Claims what the receipt says is this node's, from whoever was admitted before it.
    fn take_over(
        &self,
        transaction: &mut Transaction,
        bundle: &Bundle,
        member: &Member,
        view: &dyn View,
    ) -> Result<(), Refusal> {
        let (mut taken, mut displaced) = (Vec::new(), Vec::new());
        for key in claims(&self.trust, bundle) {
            let holder = identity_at(view, &key)?;
            if holder == Some(member.identity()) {
                continue;
            }
            taken.push(key);
            if let Some(holder) = holder
                && !displaced.contains(&holder)
                && let Some((stored, other)) = stored_node(view, &holder)?
            {
                let issued = |b: &Bundle| b.receipt.as_ref().map(|r| r.unverified().issued);
                if issued(&other) > issued(bundle) {
                    let text = "its address or name was given to another node since";
                    return Err(Refusal::denied(DenyCode::NotProven, text));
                }
                transaction.unchanged(node_key(&holder), Some(&stored));
                transaction.delete(node_key(&holder));
                claims(&self.trust, &other).into_iter().for_each(|claim| transaction.delete(claim));
                displaced.push(holder);
            }
        }
        // After all that goes: one node may have held several of these.
        taken.into_iter().for_each(|key| transaction.put(key, *member.identity().as_bytes()));
        Ok(())
    }
}

fn keep_newer_receipt(bundle: &mut Bundle, old: &Bundle) {
    let issued = |b: &Bundle| b.receipt.as_ref().map(|r| r.unverified().issued);
    if issued(old) > issued(bundle) {
        bundle.receipt.clone_from(&old.receipt);
    }
}
