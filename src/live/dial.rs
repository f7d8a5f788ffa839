//! Connecting to an endpoint, and finding out why that comes to nothing.
//!
//! A connection that breaks off says little by itself: a server that wants TLS, one that does not, and one that takes no
//! client without a certificate all just close. So where a call failed, a second connection is made only to look.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::endpoint::{Address, Endpoint};
use super::tls::Tls;
use crate::grpc::{find, tame, with_causes};

/// What begins every HTTP/2 connection, with settings that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The frame type of HTTP/2's settings, which a server sends first.
const SETTINGS: u8 = 4;

/// Bytes of a frame's header; its fourth is the type.
const FRAME_HEADER_BYTES: usize = 9;

/// How long is waited for a server's second thoughts about a client's certificate.
const SECOND_THOUGHTS: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialFault {
    /// Nobody knows the host.
    #[error("the host is not known: {0}")]
    Lookup(String),
    /// Nobody listens.
    #[error("nobody listens there: {0}")]
    Refused(String),
    /// The system refuses.
    #[error("no connection: {0}")]
    Io(String),
    /// Packets come to nothing.
    #[error("no connection within {0:?}")]
    Slow(Duration),
    /// It takes the connection, and that is all.
    #[error("it takes the connection and says nothing for {0:?}")]
    Silent(Duration),
    /// It takes the connection and closes it.
    #[error("it takes the connection and closes it without a word")]
    Closed,
    /// Something else listens.
    #[error("what listens there is no etcd: it does not speak HTTP/2")]
    NotHttp2,
    /// TLS was spoken to a plain port.
    #[error("it does not speak TLS, but plain HTTP/2")]
    SpeaksPlain,
    /// No TLS came back, and nothing else either.
    #[error("it does not speak TLS")]
    NotTls,
    /// TLS was not spoken, but is wanted.
    #[error("it speaks TLS, and was spoken to without")]
    SpeaksTls,
    /// The server's certificate is signed by somebody who is not believed.
    #[error("its certificate is signed by an authority that {}", if *.named { "--cacert does not name" } else { "this system does not know" })]
    UnknownAuthority {
        /// Whether authorities were named.
        named: bool,
    },
    /// The server's certificate is another one's.
    #[error("its certificate is not for {host:?}, but for {}", names(.presented))]
    WrongName {
        /// Who was called.
        host: String,
        /// Who answered.
        presented: Vec<String>,
    },
    /// The server's certificate is too old.
    #[error("its certificate has expired")]
    Expired,
    /// The server's certificate is too young, or this clock is wrong.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// The server's certificate is of no use.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// The server wants a certificate of the client.
    #[error("it wants a client's certificate, and none is given")]
    ClientCertificateMissing,
    /// The server does not take the client's certificate.
    #[error("it refuses the client's certificate: {0}")]
    ClientCertificateRefused(String),
    /// TLS came to nothing otherwise.
    #[error("TLS failed: {0}")]
    Handshake(String),
}

fn names(names: &[String]) -> String {
    let shown = |name: &String| tame(name);
    match names {
        [] => "nobody".to_owned(),
        names => names.iter().take(5).map(shown).collect::<Vec<_>>().join(", "),
    }
}

impl DialFault {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Lookup(_) => "look at the host's name; an address does as well",
            Self::Refused(_) | Self::Slow(_) | Self::Io(_) => {
                "is etcd running there, and is this its port for clients (2379), not the one for peers (2380)?"
            }
            Self::Silent(_) => {
                "the member hangs, or is no etcd; leave it out, or give --dial-timeout and --command-timeout"
            }
            Self::Closed | Self::NotHttp2 => "is this etcd's port for clients (2379)?",
            Self::SpeaksPlain => "write http:// before the host, and leave --cacert, --cert and --key away",
            Self::NotTls => {
                "is this etcd's port for clients (2379)? If it is not encrypted, write http:// before the host"
            }
            Self::SpeaksTls => "write https:// before the host, and give --cacert, --cert and --key",
            Self::UnknownAuthority { named: true } => {
                "give the authority that signed it: kubeadm keeps it in /etc/kubernetes/pki/etcd/ca.crt"
            }
            Self::UnknownAuthority { named: false } => {
                "--cacert names the authority: kubeadm keeps it in /etc/kubernetes/pki/etcd/ca.crt"
            }
            Self::WrongName { .. } => "give the endpoint by a name or an address that is in the certificate",
            Self::Expired | Self::NotYetValid => {
                "look at this machine's clock; if it is right, the member needs a new certificate"
            }
            Self::Certificate(_) => "the member needs another certificate",
            Self::ClientCertificateMissing => {
                "--cert and --key name one: kubeadm keeps it in /etc/kubernetes/pki/apiserver-etcd-client.crt and .key"
            }
            Self::ClientCertificateRefused(_) => {
                "it must be signed by the authority in the member's --trusted-ca-file, be valid now, and be for clients"
            }
            Self::Handshake(_) => "is this etcd's port for clients (2379)?",
        }
    }
}

/// What bytes go through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How an endpoint is connected to.
#[derive(Clone)]
pub(super) struct Dialer {
    pub endpoint: Endpoint,
    pub tls: Option<Tls>,
    pub timeout: Duration,
}

impl Dialer {
    /// Connects, within the time that is given for that.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, DialFault> {
        let stream = self.open().await?;
        match &self.tls {
            None => Ok(stream),
            Some(tls) => Ok(Box::new(self.secure(tls, stream).await?)),
        }
    }

    async fn open(&self) -> Result<Box<dyn Stream>, DialFault> {
        let opened = match &self.endpoint.address {
            Address::Tcp(host, port) => timeout(self.timeout, tcp(host, *port)).await,
            Address::Unix(path) => timeout(self.timeout, unix(path)).await,
        };
        opened.unwrap_or(Err(DialFault::Slow(self.timeout)))
    }

    async fn secure(
        &self,
        tls: &Tls,
        stream: Box<dyn Stream>,
    ) -> Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>, DialFault> {
        let host = self.endpoint.host();
        let plain = host.split('%').next().unwrap_or_default().to_owned();
        let name = ServerName::try_from(plain);
        let name = name.map_err(|_| DialFault::Handshake(format!("{host:?} can be no certificate's name")))?;
        let handshake = TlsConnector::from(tls.config.clone()).connect(name, stream);
        match timeout(self.timeout, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(tls_fault(&error, tls, &host)),
            Err(_) => Err(DialFault::Silent(self.timeout)),
        }
    }

    /// Looks why a call came to nothing; `None` if the connection itself is in order.
    pub(super) async fn look(&self) -> Option<DialFault> {
        match &self.tls {
            None => self.look_plain().await,
            Some(tls) => self.look_encrypted(tls).await,
        }
    }

    async fn look_plain(&self) -> Option<DialFault> {
        let stream = match self.open().await {
            Ok(stream) => stream,
            Err(fault) => return Some(fault),
        };
        let fault = match first_words(stream, self.timeout).await {
            Words::Settings => return None,
            Words::None => DialFault::Silent(self.timeout),
            Words::End => DialFault::Closed,
            Words::Others => DialFault::NotHttp2,
        };
        // Somebody who wants TLS closes, waits for more, or sends an alert.
        if self.speaks_tls().await { Some(DialFault::SpeaksTls) } else { Some(fault) }
    }

    async fn speaks_tls(&self) -> bool {
        let (Ok(stream), Ok(tls)) = (self.open().await, Tls::credulous()) else { return false };
        match self.secure(&tls, stream).await {
            Ok(_) => true,
            Err(fault) => matches!(fault, DialFault::ClientCertificateMissing | DialFault::ClientCertificateRefused(_)),
        }
    }

    async fn look_encrypted(&self, tls: &Tls) -> Option<DialFault> {
        let stream = match self.open().await {
            Ok(stream) => stream,
            Err(fault) => return Some(fault),
        };
        let mut stream = match self.secure(tls, stream).await {
            Ok(stream) => stream,
            Err(fault @ (DialFault::NotTls | DialFault::Silent(_))) => {
                let plain = self.open().await.ok()?;
                let speaks_plain = first_words(plain, self.timeout).await == Words::Settings;
                return Some(if speaks_plain { DialFault::SpeaksPlain } else { fault });
            }
            Err(fault) => return Some(fault),
        };
        // Under TLS 1.3 a server judges the client's certificate when the client has already gone on.
        let mut byte = [0];
        match timeout(self.timeout.min(SECOND_THOUGHTS), stream.read(&mut byte)).await {
            Ok(Err(error)) => Some(tls_fault(&error, tls, &self.endpoint.host())),
            Ok(Ok(0)) => Some(DialFault::Closed),
            _ => None,
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<Box<dyn Stream>, DialFault> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| DialFault::Lookup(with_causes(&error)))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Without it small requests wait for each other; a system that refuses is only slower.
                let _ = stream.set_nodelay(true);
                return Ok(Box::new(stream));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| DialFault::Lookup("it has no address".to_owned()), |error| io_fault(&error)))
}

async fn unix(path: &Path) -> Result<Box<dyn Stream>, DialFault> {
    // On the socket an abstract name begins with NUL.
    let socket = match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => PathBuf::from(OsString::from_vec([b"\0", name].concat())),
        None => path.to_owned(),
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| io_fault(&error))?;
    Ok(Box::new(stream))
}

fn io_fault(error: &io::Error) -> DialFault {
    let words = with_causes(error);
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => DialFault::Refused(words),
        _ => DialFault::Io(words),
    }
}

/// What a server says first to somebody who speaks HTTP/2 without TLS.
#[derive(PartialEq, Eq)]
enum Words {
    Settings,
    Others,
    None,
    End,
}

async fn first_words(mut stream: Box<dyn Stream>, patience: Duration) -> Words {
    let mut header = [0; FRAME_HEADER_BYTES];
    let exchange = async {
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        stream.read_exact(&mut header).await
    };
    match timeout(patience, exchange).await {
        Ok(Ok(_)) if header.get(3) == Some(&SETTINGS) => Words::Settings,
        Ok(Ok(_)) => Words::Others,
        // An alert is shorter than a frame's header.
        Ok(Err(_)) if header.first() != Some(&0) => Words::Others,
        Ok(Err(_)) => Words::End,
        Err(_) => Words::None,
    }
}

/// Tells the errors of TLS apart.
fn tls_fault(error: &io::Error, tls: &Tls, host: &str) -> DialFault {
    let Some(error) = find::<rustls::Error>(error) else {
        // Somebody who expects something else than a handshake closes.
        return DialFault::NotTls;
    };
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_fault(error, tls, host),
        rustls::Error::AlertReceived(alert) => alert_fault(*alert, tls),
        rustls::Error::InvalidMessage(_) => DialFault::NotTls,
        error => DialFault::Handshake(with_causes(error)),
    }
}

fn certificate_fault(error: &CertificateError, tls: &Tls, host: &str) -> DialFault {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            DialFault::UnknownAuthority { named: tls.own_authorities }
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let presented = presented.iter().map(|name| plain_name(name)).collect();
            DialFault::WrongName { host: host.to_owned(), presented }
        }
        CertificateError::NotValidForName => DialFault::WrongName { host: host.to_owned(), presented: Vec::new() },
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => DialFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => DialFault::NotYetValid,
        error => DialFault::Certificate(tame(&error.to_string())),
    }
}

/// `DnsName("etcd-1")` is how names come; the name alone is told.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

fn alert_fault(alert: AlertDescription, tls: &Tls) -> DialFault {
    use AlertDescription as Alert;
    let about_the_client = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    );
    match (about_the_client, tls.has_identity) {
        (true, false) => DialFault::ClientCertificateMissing,
        (true, true) => DialFault::ClientCertificateRefused(alert_words(alert)),
        _ => DialFault::Handshake(format!("the server says {alert:?}")),
    }
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "it does not know the authority that signed it".to_owned(),
        AlertDescription::CertificateExpired => "it has expired".to_owned(),
        AlertDescription::CertificateRevoked => "it was revoked".to_owned(),
        alert => format!("{alert:?}"),
    }
}
