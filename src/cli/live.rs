//! The arguments of a running etcd: etcdctl's flags and environment.
//!
//! A password on the command line shows in the list of processes, so the environment or a prompt is better; etcdctl's
//! flags are taken all the same.

use std::env;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::config::duration;
use crate::live::{ConnectError, Endpoint, Live, Settings, TlsFiles, Unanswered, User};

use super::Failure;

/// The variable whose endpoints count where no source and no endpoint is given.
const ENDPOINTS: &str = "ETCDCTL_ENDPOINTS";

/// A running etcd, or kine.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "A running etcd")]
pub struct LiveArgs {
    /// Read a running etcd: HOST:PORT, http(s)://HOST:PORT or unix://PATH, several separated by commas
    #[arg(long, value_name = "ENDPOINT", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// The authorities that may have signed the server's certificate, PEM
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT")]
    pub cacert: Option<PathBuf>,
    /// The client's certificate, PEM
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CERT")]
    pub cert: Option<PathBuf>,
    /// The client certificate's private key, PEM
    #[arg(long = "key", id = "client_key", value_name = "FILE", env = "ETCDCTL_KEY")]
    pub key: Option<PathBuf>,
    /// Believe any certificate of the server
    #[arg(long, env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY", value_parser = clap::builder::BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true)]
    pub insecure_skip_tls_verify: bool,
    /// The user, where the server has users; without a password here it comes from --password, or is asked for
    #[arg(long, value_name = "NAME[:PASSWORD]", env = "ETCDCTL_USER", hide_env_values = true)]
    pub user: Option<String>,
    /// The user's password; better in ETCDCTL_PASSWORD, where the list of processes does not show it
    #[arg(long, value_name = "PASSWORD", env = "ETCDCTL_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// How long a connection may take
    #[arg(long, value_name = "DURATION", env = "ETCDCTL_DIAL_TIMEOUT", default_value = "2s", value_parser = timeout)]
    pub dial_timeout: Duration,
    /// How long a single call may take
    #[arg(long, value_name = "DURATION", env = "ETCDCTL_COMMAND_TIMEOUT", default_value = "5s",
        value_parser = timeout)]
    pub command_timeout: Duration,
}

impl LiveArgs {
    /// Whether endpoints were spelled out.
    pub fn is_given(&self) -> bool {
        !self.endpoints.is_empty()
    }

    /// The endpoints that count where there is no other source: those that were spelled out, or the environment's.
    pub fn or_from_environment(&self) -> Vec<String> {
        if self.is_given() {
            return self.endpoints.clone();
        }
        let named = env::var(ENDPOINTS).unwrap_or_default();
        named.split(',').filter(|endpoint| !endpoint.trim().is_empty()).map(str::to_owned).collect()
    }

    /// Connects to these endpoints.
    pub fn connect(&self, endpoints: &[String]) -> Result<Live, Failure> {
        let settings = self.settings(endpoints)?;
        Live::connect(&settings).map_err(Failure::from)
    }

    /// How to connect to these endpoints; asks for a password where one is wanted and none is given.
    pub fn settings(&self, endpoints: &[String]) -> Result<Settings, Failure> {
        let parsed: Result<Vec<_>, _> = endpoints.iter().map(|endpoint| Endpoint::parse(endpoint)).collect();
        let endpoints = parsed.map_err(|error| Failure::usage(error.to_string()))?;
        if self.cert.is_some() != self.key.is_some() {
            return Err(Failure::usage("--cert and --key belong together, and only one of them is given"));
        }
        let tls = TlsFiles {
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            insecure_skip_verify: self.insecure_skip_tls_verify,
        };
        let (dial_timeout, command_timeout) = (self.dial_timeout, self.command_timeout);
        Ok(Settings { endpoints, tls, user: self.who()?, dial_timeout, command_timeout })
    }

    fn who(&self) -> Result<Option<User>, Failure> {
        let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) else { return Ok(None) };
        // With --password all of --user is the name, as with etcdctl.
        let (name, password) = match (&self.password, user.split_once(':')) {
            (Some(password), _) => (user, Zeroizing::new(password.clone())),
            (None, Some((name, password))) => (name, Zeroizing::new(password.to_owned())),
            (None, None) => (user, ask(user)?),
        };
        Ok(Some(User { name: name.to_owned(), password }))
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let nanos = duration(text).map_err(str::to_owned)?;
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
    nanos.map(Duration::from_nanos).ok_or_else(|| "a timeout is more than nothing, as in 5s".to_owned())
}

/// Asks for a password on the terminal, without showing it.
fn ask(user: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let failure = Failure::usage(format!("--user {} has no password", crate::report::text::harmless(user)));
        return Err(failure.hint("put it into ETCDCTL_PASSWORD, or run this on a terminal to be asked"));
    }
    let broken = |error: std::io::Error| Failure::usage(format!("the password cannot be read: {error}"));
    eprint!("Password of {}: ", crate::report::text::harmless(user));
    // Whether the question could be shown changes nothing about the answer.
    let _ = std::io::stderr().flush();
    let shown = tcgetattr(&stdin).map_err(|error| broken(error.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| broken(error.into()))?;
    let mut line = Zeroizing::new(String::with_capacity(1024));
    let read = stdin.lock().read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &shown);
    eprintln!();
    read.map_err(broken)?;
    restored.map_err(|error| broken(error.into()))?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unanswered(error) => error.into(),
            error => Self::input(crate::report::text::harmless(&error.to_string())),
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Self {
        let failure = Self::input(crate::report::text::harmless(&error.to_string()));
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_gos_durations_and_more_than_nothing() {
        assert_eq!(timeout("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("100ms"), Ok(Duration::from_millis(100)));
        for wrong in ["", "5", "0s", "-1s", "soon"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
