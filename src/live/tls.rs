//! What encrypts the connection: the authorities to believe, and the certificate to show.
//!
//! Upstream: `etcd-io/etcd`, `client/pkg/transport/listener.go`; for the system's authorities Go's
//! `crypto/x509/root_linux.go`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

/// Where systems keep the authorities that they believe; the first file that is there counts.
const SYSTEM_AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// HTTP/2, without which there is no gRPC.
const HTTP2: &[u8] = b"h2";

/// The files of a TLS connection, as etcdctl's flags name them.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The authorities that may have signed the server's certificate; the system's where it is not given.
    pub cacert: Option<PathBuf>,
    /// The client's certificate, and what was signed by between.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
}

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file has not what it should have.
    #[error("{file}: {lack}")]
    Lacks {
        /// Which.
        file: String,
        /// What is missing.
        lack: &'static str,
    },
    /// A certificate without a key or the other way round.
    #[error("--cert and --key belong together; only one of them is given")]
    Half,
    /// The certificate and its key are of no use.
    #[error("{cert} and {key}: {error}")]
    Identity {
        /// The certificate.
        cert: String,
        /// The key.
        key: String,
        /// Why.
        error: rustls::Error,
    },
    /// The cryptography does not fit together.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl TlsFiles {
    /// Whether there is anything that speaks for an encrypted connection where the endpoint says nothing.
    pub fn is_given(&self) -> bool {
        self.cacert.is_some() || self.cert.is_some() || self.key.is_some() || self.insecure_skip_verify
    }
}

/// A TLS client that is ready to connect.
#[derive(Clone)]
pub(super) struct Tls {
    pub config: Arc<ClientConfig>,
    /// Whether the authorities were named, or are the system's.
    pub own_authorities: bool,
    /// Whether it can show a certificate.
    pub has_identity: bool,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = versions.map_err(TlsError::Setup)?;
        let builder = if files.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(authorities(files.cacert.as_deref())?)
        };
        let mut config = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => {
                let shown = |path: &Path| path.to_string_lossy().into_owned();
                let identity = builder.with_client_auth_cert(certificates(cert)?, private_key(key)?);
                identity.map_err(|error| TlsError::Identity { cert: shown(cert), key: shown(key), error })?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(TlsError::Half),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let has_identity = files.cert.is_some();
        Ok(Self { config: Arc::new(config), own_authorities: files.cacert.is_some(), has_identity })
    }

    /// One that believes anybody, to find out whether somebody speaks TLS at all.
    pub(super) fn credulous() -> Result<Self, TlsError> {
        Self::load(&TlsFiles { insecure_skip_verify: true, ..TlsFiles::default() })
    }
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            for certificate in certificates(file)? {
                let added = roots.add(certificate);
                let lack = "a certificate in it cannot be used as an authority";
                added.map_err(|_| TlsError::Lacks { file: file.to_string_lossy().into_owned(), lack })?;
            }
        }
        None => {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let files = named.into_iter().chain(SYSTEM_AUTHORITIES.map(PathBuf::from));
            // A system that has none makes every certificate one of an unknown authority, which is then said.
            if let Some(bytes) = files.filter_map(|file| fs::read(file).ok()).next() {
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).flatten());
            }
        }
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let bytes = fs::read(file).map(Zeroizing::new);
    bytes.map_err(|error| TlsError::Read { file: file.to_string_lossy().into_owned(), error })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let lack = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)";
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::Lacks { file: file.to_string_lossy().into_owned(), lack })
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(file)?;
    let is_encrypted = bytes.windows(9).any(|part| part == b"ENCRYPTED");
    let lack = match is_encrypted {
        true => "the private key is encrypted with a passphrase; give one that is not",
        false => "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
    };
    let key = PrivateKeyDer::from_pem_slice(&bytes);
    key.map_err(|_| TlsError::Lacks { file: file.to_string_lossy().into_owned(), lack })
}

/// Believes any certificate; that the server has its key is checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
