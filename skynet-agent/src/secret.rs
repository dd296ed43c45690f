//! Secrets in the configuration: given in place or as `file:PATH`, erased on drop, never printed.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::BASE64;
use skynet_core::key::{Secret, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

/// Longest secret file: a join token is at most 2,048 characters.
const MAX_FILE: u64 = 4_096;

/// A secret as the operator wrote it: the text itself, or `file:PATH`.
#[derive(Clone, serde::Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file named cannot be read.
    #[error("the secret file {path} cannot be read: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// More than a secret can be.
    #[error("{path}: longer than 4096 bytes: not a secret")]
    TooLong {
        /// The file.
        path: String,
    },
    /// Not 32 bytes in base64.
    #[error("not a key: expected 44 characters of base64 (32 bytes)")]
    NotAKey,
}

impl SecretText {
    /// Takes the text as given on the command line or in the environment.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Whether it is to be read from a file.
    pub fn is_file(&self) -> bool {
        self.0.starts_with("file:")
    }

    /// The secret itself, read from its file if it is one; white space around it is dropped.
    ///
    /// # Errors
    /// The file's.
    pub fn resolve(&self) -> Result<Zeroizing<String>, SecretError> {
        match self.0.strip_prefix("file:") {
            None => Ok(Zeroizing::new(self.0.trim().to_owned())),
            Some(path) => read(path),
        }
    }

    /// The secret as a 32-byte key in base64, as `wg genkey` and `wg genpsk` print it.
    ///
    /// # Errors
    /// The file's, or not a key.
    pub fn resolve_key(&self) -> Result<Secret, SecretError> {
        let text = self.resolve()?;
        let mut bytes = BASE64.decode(text.as_bytes()).map_err(|_| SecretError::NotAKey)?;
        let key = <[u8; 32]>::try_from(&bytes[..]).map(Secret::from_bytes);
        bytes.zeroize();
        key.map_err(|_| SecretError::NotAKey)
    }

    /// The secret as an X25519 private key.
    ///
    /// # Errors
    /// The file's, or not a key.
    pub fn resolve_static(&self) -> Result<StaticSecret, SecretError> {
        Ok(StaticSecret::from_bytes(*self.resolve_key()?.expose()))
    }
}

fn read(path: &str) -> Result<Zeroizing<String>, SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(Path::new(path)).map_err(failed)?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(SecretError::TooLong { path: path.to_owned() });
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.strip_prefix("file:") {
            Some(path) => write!(f, "file:{path}"),
            None => f.write_str("***"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_its_file_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "skj1.abc\n").unwrap();
        let secret = SecretText::new(format!("file:{}", path.display()));
        assert_eq!(*secret.resolve().unwrap(), "skj1.abc");
        assert_eq!(format!("{:?}", SecretText::new("skj1.abc".to_owned())), "***");
        std::fs::write(&path, [b'x'; 5000]).unwrap();
        assert!(matches!(secret.resolve(), Err(SecretError::TooLong { .. })));
        assert!(
            SecretText::new("file:/nonexistent".to_owned())
                .resolve()
                .unwrap_err()
                .to_string()
                .contains("/nonexistent")
        );
    }

    #[test]
    fn a_key_is_44_characters_of_base64() {
        let text = BASE64.encode(&[7; 32]);
        assert_eq!(SecretText::new(text).resolve_key().unwrap().expose(), &[7; 32]);
        for bad in ["", "abc", "QUJD", &BASE64.encode(&[7; 31])] {
            assert!(
                matches!(SecretText::new(bad.to_owned()).resolve_key(), Err(SecretError::NotAKey)),
                "{bad}"
            );
        }
    }
}
