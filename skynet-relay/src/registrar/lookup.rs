//! GET and LIST: documents of members. Whoever receives them checks them; nothing here vouches for anything.

use std::net::{Ipv4Addr, Ipv6Addr};

use skynet_core::key::{Identity, PublicKey};
use skynet_core::member::{Bundle, Name};

use super::{identity_at, name_key, node_key, session_key, v4_key, v6_key};
use crate::store::{StoreError, View};

/// Most members in one answer to LIST.
pub const MAX_LIST: usize = 64;

/// Nodes read at once.
const PAGE: usize = 256;

/// How GET names a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GetBy {
    /// By session key.
    Key(PublicKey),
    /// By identity.
    Identity(Identity),
    /// By name.
    Name(Name),
    /// By IPv4 address.
    V4(Ipv4Addr),
    /// By IPv6 address.
    V6(Ipv6Addr),
}

impl GetBy {
    /// Parses the body of GET: `u8 by | value`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (by, value) = body.split_first()?;
        Some(match by {
            1 => Self::Key(PublicKey(value.try_into().ok()?)),
            2 => Self::Identity(Identity(value.try_into().ok()?)),
            3 => Self::Name(std::str::from_utf8(value).ok()?.parse().ok()?),
            4 => Self::V4(<[u8; 4]>::try_from(value).ok()?.into()),
            6 => Self::V6(<[u8; 16]>::try_from(value).ok()?.into()),
            _ => return None,
        })
    }
}

/// The bundle of one member.
pub fn find(view: &dyn View, by: &GetBy) -> Result<Option<Vec<u8>>, StoreError> {
    let identity = match by {
        GetBy::Identity(identity) => Some(*identity),
        GetBy::Key(key) => identity_at(view, &session_key(key))?,
        GetBy::Name(name) => identity_at(view, &name_key(name.as_str()))?,
        GetBy::V4(address) => identity_at(view, &v4_key(address.to_bits()))?,
        GetBy::V6(address) => identity_at(view, &v6_key(address))?,
    };
    let Some(identity) = identity else { return Ok(None) };
    Ok(view.get(&node_key(&identity))?.map(|stored| stored.value))
}

/// A page of LIST: (node_no, bundle) in rising order, and whether there are more.
pub type Page = (Vec<(u32, Vec<u8>)>, bool);

/// Bundles of members above `after`, at most `limit` (and [`MAX_LIST`]) of them and `max_bytes` in sum; at least
/// one, if there is one.
pub fn list(view: &dyn View, after: u32, limit: usize, max_bytes: usize) -> Result<Page, StoreError> {
    let limit = limit.clamp(1, MAX_LIST);
    let claims = view.range("v4/", Some(&v4_key(after)), limit + 1)?;
    let mut more = claims.len() > limit;
    let mut page = Vec::new();
    let mut bytes = 0;
    for (key, claim) in claims.into_iter().take(limit) {
        let Some(node_no) = key.strip_prefix("v4/").and_then(|n| u32::from_str_radix(n, 16).ok()) else {
            continue;
        };
        let Ok(identity) = claim.value.try_into().map(Identity) else { continue };
        // Absent if it left between the two reads.
        let Some(stored) = view.get(&node_key(&identity))? else { continue };
        bytes += stored.value.len();
        if bytes > max_bytes && !page.is_empty() {
            more = true;
            break;
        }
        page.push((node_no, stored.value));
    }
    Ok((page, more))
}

/// Shows every node's documents with the key they are under, a page of the store at a time. What is no bundle is left out.
///
/// # Errors
/// The store does not answer; or what `show` says, which ends it.
pub fn each_node<E: From<StoreError>>(
    view: &dyn View,
    mut show: impl FnMut(&str, Bundle) -> Result<(), E>,
) -> Result<(), E> {
    let mut after: Option<String> = None;
    loop {
        let page = view.range("nodes/", after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, stored) in &page {
            if let Ok(bundle) = Bundle::parse(&stored.value) {
                show(key, bundle)?;
            }
        }
    }
}
