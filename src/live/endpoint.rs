//! Where a member listens, as etcdctl takes it: with and without a scheme, by name, IPv4 or IPv6, or a unix socket.
//!
//! Upstream: `etcd-io/etcd`, `client/v3/internal/endpoint/endpoint.go`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use thiserror::Error;

/// The port of an endpoint that names none, which is etcd's own for clients.
const CLIENT_PORT: u16 = 2379;

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// `http://`: never.
    Plain,
    /// `https://` and `unixs://`: always.
    Tls,
    /// No scheme and `unix://`: where there is anything to encrypt with.
    AsGiven,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host, without the brackets of an IPv6 address, and a port.
    Tcp(String, u16),
    /// A unix socket; an abstract one begins with `@`.
    Unix(PathBuf),
}

/// One of the endpoints that were given. Displays as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    given: String,
    /// Whether to encrypt.
    pub security: Security,
    /// Where it is.
    pub address: Address,
}

/// Why a text is no endpoint. What may be a password is not quoted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// There is nothing.
    #[error("an endpoint is empty")]
    Empty,
    /// Another scheme.
    #[error("an endpoint begins with {0:?}; etcd is at http://, https://, unix:// or unixs://")]
    Scheme(String),
    /// `user:password@host`.
    #[error("an endpoint has a user in it; --user names one")]
    User,
    /// A path behind the port.
    #[error("the endpoint {0:?} has a path; an endpoint is a host and a port")]
    Path(String),
    /// An IPv6 address without brackets.
    #[error("the endpoint {0:?} has more than one colon; an IPv6 address stands in brackets, as in [::1]:2379")]
    Brackets(String),
    /// No number behind the colon.
    #[error("the endpoint {0:?} has no port from 1 to 65535 behind its colon")]
    Port(String),
    /// No host, or one that cannot be.
    #[error("the endpoint {0:?} has no host that can be looked up")]
    Host(String),
    /// A unix socket without a path.
    #[error("the endpoint {0:?} has no path; a socket is given as in unix:///run/kine.sock")]
    NoPath(String),
}

impl Endpoint {
    /// Reads one endpoint.
    ///
    /// # Errors
    ///
    /// [`EndpointError`].
    pub fn parse(given: &str) -> Result<Self, EndpointError> {
        let given = given.trim();
        let (security, address) = match scheme(given)? {
            ("unix", path) => (Security::AsGiven, unix(given, path)?),
            ("unixs", path) => (Security::Tls, unix(given, path)?),
            ("https", rest) => (Security::Tls, tcp(given, rest)?),
            ("http", rest) => (Security::Plain, tcp(given, rest)?),
            (_, rest) => (Security::AsGiven, tcp(given, rest)?),
        };
        Ok(Self { given: given.to_owned(), security, address })
    }

    /// Reads a list as a command line has it, several of them separated by commas.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] of the first that is none.
    pub fn parse_list(given: &str) -> Result<Vec<Self>, EndpointError> {
        given.split(',').map(Self::parse).collect()
    }

    /// The name that a certificate must have: the host, or a socket's file name.
    pub fn host(&self) -> String {
        match &self.address {
            Address::Tcp(host, _) => host.clone(),
            Address::Unix(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }

    /// What a request says that it is for.
    pub(super) fn authority(&self) -> String {
        match &self.address {
            Address::Tcp(host, port) if host.contains(':') => {
                // The zone of an address means nothing elsewhere.
                format!("[{}]:{port}", host.split('%').next().unwrap_or_default())
            }
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

/// Takes the scheme off. What has none is a host and a port.
fn scheme(given: &str) -> Result<(&str, &str), EndpointError> {
    if given.is_empty() {
        return Err(EndpointError::Empty);
    }
    // Two slashes may be missing before a socket's path, as upstream has it.
    for scheme in ["unix", "unixs"] {
        let rest = given.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(':'));
        if let Some(rest) = rest {
            return Ok((scheme, rest.strip_prefix("//").unwrap_or(rest)));
        }
    }
    let Some((scheme, rest)) = given.split_once("://") else { return Ok(("", given)) };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(("http", rest)),
        "https" => Ok(("https", rest)),
        _ => Err(EndpointError::Scheme(format!("{}://", scheme.chars().take(16).collect::<String>()))),
    }
}

fn unix(given: &str, path: &str) -> Result<Address, EndpointError> {
    // `unix:///@name` is how an abstract name is written behind three slashes.
    let path = if path.starts_with("/@") { path.trim_start_matches('/') } else { path };
    match path {
        "" | "/" | "@" => Err(EndpointError::NoPath(given.to_owned())),
        path => Ok(Address::Unix(PathBuf::from(path))),
    }
}

fn tcp(given: &str, rest: &str) -> Result<Address, EndpointError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(EndpointError::User);
    }
    if !path.is_empty() {
        return Err(EndpointError::Path(given.to_owned()));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| EndpointError::Host(given.to_owned()))?;
            let address = host.split('%').next().unwrap_or_default();
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(EndpointError::Host(given.to_owned()));
            }
            (host, port)
        }
        None if authority.matches(':').count() > 1 => return Err(EndpointError::Brackets(given.to_owned())),
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '%');
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(EndpointError::Host(given.to_owned()));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => CLIENT_PORT,
        Some(port) => {
            let digits = port.bytes().all(|digit| digit.is_ascii_digit());
            let number = port.parse().ok().filter(|number| digits && *number != 0);
            number.ok_or_else(|| EndpointError::Port(given.to_owned()))?
        }
        None => return Err(EndpointError::Port(given.to_owned())),
    };
    Ok(Address::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcdctl_reads_them() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (given, security, address) in [
            ("127.0.0.1:2379", Security::AsGiven, tcp("127.0.0.1", 2379)),
            ("etcd-1", Security::AsGiven, tcp("etcd-1", 2379)),
            ("http://etcd-1:23790", Security::Plain, tcp("etcd-1", 23790)),
            ("HTTPS://etcd-1.example:2379/", Security::Tls, tcp("etcd-1.example", 2379)),
            ("[::1]:2379", Security::AsGiven, tcp("::1", 2379)),
            ("https://[fe80::1%eth0]", Security::Tls, tcp("fe80::1%eth0", 2379)),
            ("unix:///run/kine.sock", Security::AsGiven, Address::Unix("/run/kine.sock".into())),
            ("unix://kine.sock", Security::AsGiven, Address::Unix("kine.sock".into())),
            ("unix:kine.sock", Security::AsGiven, Address::Unix("kine.sock".into())),
            ("unix:///@kine", Security::AsGiven, Address::Unix("@kine".into())),
            ("unixs:///run/kine.sock", Security::Tls, Address::Unix("/run/kine.sock".into())),
        ] {
            let endpoint = Endpoint::parse(given).unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!((endpoint.security, &endpoint.address), (security, &address), "{given}");
            assert_eq!(endpoint.to_string(), given);
        }
        assert_eq!(Endpoint::parse_list("a:1, http://b:2").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_endpoint_is_told_why() {
        for (given, words) in [
            ("", "empty"),
            ("a,", "empty"),
            ("ftp://a", "ftp://"),
            ("http://root:secret@a:1", "--user"),
            ("http://a:1/path", "path"),
            ("::1", "brackets"),
            ("::1:2379", "brackets"),
            ("fe80::1:2379", "brackets"),
            ("[::1", "no host"),
            ("[::1]2379", "port"),
            ("a:", "port"),
            ("a:0", "port"),
            ("a:+1", "port"),
            ("a:65536", "port"),
            ("http://", "no host"),
            ("a b:1", "no host"),
            ("unix://", "no path"),
        ] {
            let error = Endpoint::parse_list(given).expect_err(given).to_string();
            assert!(error.contains(words), "{given}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_certificate_is_for_the_host_and_a_request_for_host_and_port() {
        let endpoint = Endpoint::parse("https://[fe80::1%eth0]:1").unwrap();
        assert_eq!((endpoint.host(), endpoint.authority()), ("fe80::1%eth0".into(), "[fe80::1]:1".into()));
        let endpoint = Endpoint::parse("unix:///run/kine.sock").unwrap();
        assert_eq!((endpoint.host(), endpoint.authority()), ("kine.sock".into(), "localhost".into()));
    }
}
