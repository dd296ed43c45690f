//! `[paths]`: how hard direct paths are tried for.

use serde::Deserialize;
use skynet_core::path::{Guessing, MAX_GUESS_SOCKETS_EACH};

/// The section as it is written.
#[derive(Clone, Copy, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Paths {
    pub(super) birthday: Option<u8>,
}

/// What a number of sockets, given by the operator or not, means: who gives one wants the direct path for every pair, and
/// not only for those that carry bulk.
pub(super) fn guessing(birthday: Option<u8>) -> Guessing {
    birthday.map_or_else(Guessing::default, |sockets| Guessing { sockets, bulk_only: false })
}

/// A number of sockets, if it is one.
///
/// # Errors
/// What is allowed.
pub fn check_birthday(sockets: u8) -> Result<u8, String> {
    if sockets <= MAX_GUESS_SOCKETS_EACH {
        Ok(sockets)
    } else {
        Err(format!("0 to {MAX_GUESS_SOCKETS_EACH} sockets"))
    }
}

/// [`check_birthday`] of a text.
///
/// # Errors
/// What is allowed.
pub fn parse_birthday(text: &str) -> Result<u8, String> {
    check_birthday(text.parse().map_err(|_| format!("0 to {MAX_GUESS_SOCKETS_EACH} sockets"))?)
}
