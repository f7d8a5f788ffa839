//! Where a plugin listens: what an endpoint's URL comes to as the address of a unix socket.
//!
//! Upstream: `ParseEndpoint` of `kubernetes/apiserver`, `pkg/storage/value/encrypt/envelope/util`. Only the URL's path
//! counts: `unix:///run/kms.sock` is `/run/kms.sock`, `unix:///@kms` the abstract name `kms`, and of
//! `unix://run/kms.sock` the host `run` is dropped without a word.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Why an endpoint is no address. The endpoint itself is not quoted: somebody may have put a secret into the wrong field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// It has another scheme, or none.
    #[error("the endpoint is not of the form unix:///path or unix:///@name")]
    Scheme,
    /// A percent sign without two hexadecimal digits.
    #[error("the endpoint has an invalid URL escape")]
    Escape,
    /// Nothing is left as a path; of `unix://name` everything is a host.
    #[error("the endpoint has no path: it takes three slashes, as in unix:///path")]
    NoPath,
}

/// The address of a unix socket. Displays as the endpoint that leads there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    // As Go has it: an abstract name begins with `@`.
    path: PathBuf,
}

impl Address {
    /// Takes the address from an endpoint.
    ///
    /// # Errors
    ///
    /// [`EndpointError`].
    pub fn parse(endpoint: &str) -> Result<Self, EndpointError> {
        let (endpoint, _fragment) = endpoint.split_once('#').unwrap_or((endpoint, ""));
        let (scheme, rest) = endpoint.split_once(':').ok_or(EndpointError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("unix") {
            return Err(EndpointError::Scheme);
        }
        let (rest, _query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match rest.strip_prefix("//") {
            Some(authority) => authority.find('/').and_then(|at| authority.get(at..)).unwrap_or_default(),
            // What follows the scheme without a slash is opaque to Go, and no path.
            None if rest.starts_with('/') => rest,
            None => "",
        };
        if path.is_empty() {
            return Err(EndpointError::NoPath);
        }
        let mut bytes = unescape(path)?;
        if bytes.starts_with(b"/@") {
            bytes.remove(0);
        }
        Ok(Self { path: OsString::from_vec(bytes).into() })
    }

    /// What to connect to, as tokio wants it: an abstract name begins with NUL.
    pub(super) fn socket(&self) -> PathBuf {
        match self.path.as_os_str().as_bytes().split_first() {
            Some((b'@', name)) => OsString::from_vec([b"\0", name].concat()).into(),
            _ => self.path.clone(),
        }
    }

    /// The path as Go's errors show it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.path.as_os_str().as_bytes().starts_with(b"@") { "/" } else { "" };
        write!(f, "unix://{slash}{}", self.path.display())
    }
}

fn unescape(path: &str) -> Result<Vec<u8>, EndpointError> {
    let escapes = path.split('%').skip(1);
    let digits = |escape: &str| escape.bytes().take(2).filter(u8::is_ascii_hexdigit).count();
    if escapes.map(digits).any(|digits| digits < 2) {
        return Err(EndpointError::Escape);
    }
    Ok(percent_decode_str(path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_an_endpoint_counts() {
        for (endpoint, path) in [
            ("unix:///run/kms.sock", "/run/kms.sock"),
            ("UNIX:///run/kms.sock?a=b#c", "/run/kms.sock"),
            ("unix:/run/kms.sock", "/run/kms.sock"),
            ("unix://run/kms.sock", "/kms.sock"),
            ("unix://user@host:1/kms.sock", "/kms.sock"),
            ("unix:///@kms", "@kms"),
            ("unix:///a%20b%2f%C3%A9", "/a b/é"),
        ] {
            assert_eq!(Address::parse(endpoint).unwrap().path(), Path::new(path), "{endpoint}");
        }
        for (endpoint, error) in [
            ("", EndpointError::Scheme),
            ("/run/kms.sock", EndpointError::Scheme),
            ("https://localhost/kms", EndpointError::Scheme),
            ("unix:", EndpointError::NoPath),
            ("unix:kms.sock", EndpointError::NoPath),
            ("unix://@kms", EndpointError::NoPath),
            ("unix:///a%2", EndpointError::Escape),
            ("unix:///%zz", EndpointError::Escape),
            ("unix:///%é", EndpointError::Escape),
        ] {
            assert_eq!(Address::parse(endpoint), Err(error), "{endpoint}");
        }
    }

    #[test]
    fn an_abstract_name_begins_with_nul_on_the_socket_and_with_a_slash_in_the_endpoint() {
        let address = Address::parse("unix:///@kms/a").unwrap();
        assert_eq!(address.socket(), Path::new("\0kms/a"));
        assert_eq!(address.to_string(), "unix:///@kms/a");
        let address = Address::parse("unix:///kms/@a").unwrap();
        assert_eq!(address.socket(), Path::new("/kms/@a"));
        assert_eq!(address.to_string(), "unix:///kms/@a");
    }
}
