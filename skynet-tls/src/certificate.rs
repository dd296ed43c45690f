//! The relay's certificate: the operator's, or one signed by itself. Nobody's trust rests on it; a scanner, a proxy or a
//! load balancer wants to see one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use skynet_core::carrier::http::ALPN;
use tokio_rustls::TlsAcceptor;

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is no PEM.
    #[error("{path}: {what}; it must be a PEM file with {expected}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Both are fine, together they are not.
    #[error(
        "certificate and key do not go together: {0}; give the chain with --tls-cert and its key with --tls-key"
    )]
    Pair(#[from] rustls::Error),
    /// One's own cannot be made.
    #[error("no self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// A chain and its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// The operator's, of two PEM files.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let wrong = |path: &Path, what: String, expected| CertificateError::File {
            path: path.to_owned(),
            what,
            expected,
        };
        let certificates =
            CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|e| wrong(chain, e.to_string(), "the certificate chain"))?;
        if certificates.is_empty() {
            return Err(wrong(chain, "no certificate in it".into(), "the certificate chain"));
        }
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| wrong(key, e.to_string(), "the private key (PKCS#8, PKCS#1 or SEC1)"))?;
        Ok(Self { chain: certificates, key })
    }

    /// One for these addresses and names, of a fresh key.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn self_signed(names: Vec<String>) -> Result<Self, CertificateError> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        Ok(Self { chain: vec![cert.into()], key: key.into() })
    }

    /// What serves TLS 1.3 with it.
    ///
    /// # Errors
    /// The key is not the certificate's.
    pub fn acceptor(self) -> Result<TlsAcceptor, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Nobody resumes: connections are few and long.
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
