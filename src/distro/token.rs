//! The server's token of K3s and RKE2, and the passphrase in it.
//!
//! ```text
//! token := "K10" <64 hex digits, SHA-256 of the CA bundle, or nothing> "::" rest | rest
//! rest  := <user> ":" <password> | <password>
//! ```
//!
//! The passphrase that seals the bootstrap record is the password. Early releases took the token as a whole, so that is
//! tried as well. A token is as secret as everything it opens: it is wiped, and never printed.
//!
//! Upstream: `k3s-io/k3s`, `pkg/clientaccess/token.go` and `pkg/util/token.go`.

use std::fmt;

use zeroize::Zeroizing;

/// No token is longer.
pub const MAX_BYTES: u64 = 64 << 10;

/// What a full token begins with.
const FULL_PREFIX: &str = "K10";

/// Hexadecimal digits of the CA bundle's hash in a full token.
const HASH_DIGITS: usize = 64;

/// The user of the servers' token, and of the agents'.
const SERVER: &str = "server";
const AGENT: &str = "node";

/// What a bootstrap record may be sealed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The passphrase of a server that was started without a token (CVE-2021-32001).
    pub fn empty() -> Self {
        Self(Zeroizing::new(String::new()))
    }

    /// Takes a passphrase over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The bytes, for the derivation of a key and nothing else.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// A token that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub holder: Holder,
    /// What it may have sealed with, likeliest first.
    pub passphrases: Vec<Passphrase>,
}

/// Whose a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A server's, or one that does not say.
    Server,
    /// An agent's, which is to open nothing.
    Agent,
}

/// Why a text is no server's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing.
    #[error("the token is empty")]
    Empty,
    /// It is longer than [`MAX_BYTES`].
    #[error("this is no token: it is longer than {} KiB", MAX_BYTES >> 10)]
    TooLong,
    /// It is no text of one line.
    #[error("this is no token: a token is one line of text")]
    NoLine,
    /// It begins as a full one does and does not go on so.
    #[error(
        "this is no whole token: behind K10 come 64 hexadecimal digits, two colons, a user, a colon and the password"
    )]
    NotWhole,
    /// A token of kubeadm's form joins agents, and seals nothing.
    #[error("this is a bootstrap token (ID.SECRET), with which agents join; it seals nothing")]
    Kubeadm,
}

impl Token {
    /// Reads a token as it stands in `server/token` or a configuration.
    ///
    /// # Errors
    ///
    /// [`TokenError`], which repeats nothing of the text.
    pub fn parse(bytes: &[u8]) -> Result<Self, TokenError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| TokenError::NoLine)?.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(TokenError::NoLine);
        }
        let rest = match text.strip_prefix(FULL_PREFIX) {
            Some(full) => whole(full)?,
            None => text,
        };
        if is_kubeadm(rest) {
            return Err(TokenError::Kubeadm);
        }
        let (user, password) = rest.split_once(':').unwrap_or((SERVER, rest));
        if password.is_empty() {
            return Err(if text == rest { TokenError::Empty } else { TokenError::NotWhole });
        }
        let holder = if user == AGENT { Holder::Agent } else { Holder::Server };
        let mut passphrases = vec![Passphrase::new(password.to_owned())];
        if text != password {
            passphrases.push(Passphrase::new(text.to_owned()));
        }
        Ok(Self { holder, passphrases })
    }
}

/// What follows the hash of a full token.
fn whole(full: &str) -> Result<&str, TokenError> {
    let (hash, rest) = full.split_once("::").ok_or(TokenError::NotWhole)?;
    let is_hash = hash.len() == HASH_DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash || hash.is_empty() { Ok(rest) } else { Err(TokenError::NotWhole) }
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`
fn is_kubeadm(text: &str) -> bool {
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrases(text: &str) -> Vec<String> {
        let token = Token::parse(text.as_bytes()).expect("a token");
        token.passphrases.iter().map(|one| String::from_utf8(one.expose().to_vec()).expect("text")).collect()
    }

    #[test]
    fn the_password_is_taken_out_of_every_form() {
        let hash = "0123456789abcdef".repeat(4);
        let full = format!("K10{hash}::server:abc");
        assert_eq!(passphrases(&format!("{full}\n")), ["abc", &full]);
        assert_eq!(passphrases("K10::server:a:b"), ["a:b", "K10::server:a:b"]);
        assert_eq!(passphrases(&format!("K10{hash}::abc"))[0], "abc");
        assert_eq!(passphrases("server:abc"), ["abc", "server:abc"]);
        assert_eq!(passphrases("  abc\t"), ["abc"]);
    }

    #[test]
    fn an_agents_token_is_told_from_a_servers() {
        assert_eq!(Token::parse(b"K10::node:abc").map(|token| token.holder), Ok(Holder::Agent));
        assert_eq!(Token::parse(b"K10::server:node").map(|token| token.holder), Ok(Holder::Server));
        assert_eq!(Token::parse(b"abc").map(|token| token.holder), Ok(Holder::Server));
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_reason() {
        let kubeadm = format!("K10{}::abcdef.0123456789abcdef", "0".repeat(64));
        for (text, error) in [
            ("", TokenError::Empty),
            (" \n", TokenError::Empty),
            ("server:", TokenError::Empty),
            ("K10::server:", TokenError::NotWhole),
            ("K10abc", TokenError::NotWhole),
            ("K10abc::server:x", TokenError::NotWhole),
            ("a\nb", TokenError::NoLine),
            ("abcdef.0123456789abcdef", TokenError::Kubeadm),
            (&kubeadm, TokenError::Kubeadm),
        ] {
            assert_eq!(Token::parse(text.as_bytes()), Err(error), "{text:?}");
        }
        assert_eq!(Token::parse(&[0xff, 0xfe]), Err(TokenError::NoLine));
        assert_eq!(Token::parse(&vec![b'a'; 65_537]), Err(TokenError::TooLong));
    }

    #[test]
    fn a_passphrase_never_prints() {
        let token = Token::parse(b"K10::server:abc");
        assert!(!format!("{token:?}").contains("abc"));
    }
}
