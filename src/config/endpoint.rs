//! Whether a KMS endpoint is a URL of the scheme `unix`, as Go's `net/url` judges it.
//!
//! An endpoint is quoted nowhere: somebody may have put a secret into the wrong field.

use std::net::Ipv6Addr;

use super::complaint::quotable;

/// The reason why upstream refuses the endpoint.
pub(super) fn judge(endpoint: &str) -> Result<(), String> {
    if endpoint.is_empty() {
        return Err("endpoint is a mandatory field for a kms".to_owned());
    }
    let scheme = parse(endpoint)
        .map_err(|reason| format!("invalid endpoint for kms provider, error: parse \"REDACTED\": {reason}"))?;
    if scheme == "unix" {
        return Ok(());
    }
    Err(format!("unsupported scheme \"{}\" for KMS provider, only unix is supported", quotable(&scheme)))
}

/// Go's `url.Parse`, of which only the scheme is of use here.
fn parse(url: &str) -> Result<String, String> {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    if url.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if url == "*" {
        return unescape(fragment, Part::Path).map(|()| String::new());
    }
    let (scheme, rest) = scheme(url)?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !rest.starts_with('/') {
        // A path without root is opaque where there is a scheme.
        if scheme.is_empty() && rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
        if scheme.is_empty() {
            unescape(rest, Part::Path)?;
        }
    } else if let Some(rest) = rest.strip_prefix("//")
        && (!scheme.is_empty() || !rest.starts_with('/'))
    {
        let (host, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
        authority(host)?;
        unescape(path, Part::Path)?;
    } else {
        unescape(rest, Part::Path)?;
    }
    unescape(fragment, Part::Path)?;
    Ok(scheme)
}

fn scheme(url: &str) -> Result<(&str, &str), String> {
    for (at, byte) in url.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok(url.split_once(':').unwrap_or(("", url))),
            _ => break,
        }
    }
    Ok(("", url))
}

fn authority(text: &str) -> Result<(), String> {
    let (user, host_port) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    host(host_port)?;
    let Some(user) = user else { return Ok(()) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !user.bytes().all(allowed) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    unescape(user, Part::Path)
}

fn host(text: &str) -> Result<(), String> {
    match text.rfind('[') {
        Some(0) => {
            let Some((inside, port)) = text.get(1..).and_then(|inside| inside.rsplit_once(']')) else {
                return Err("missing ']' in host".to_owned());
            };
            check_port(port)?;
            unescape(port, Part::Host)?;
            let address = inside.split_once("%25").map_or(inside, |(address, _)| address);
            unescape(address, Part::Host)?;
            address.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| "invalid host".to_owned())
        }
        Some(_) => Err("invalid IP-literal".to_owned()),
        None => {
            if let Some(port) = text.rfind(':').and_then(|at| text.get(at..)) {
                check_port(port)?;
            }
            unescape(text, Part::Host)
        }
    }
}

fn check_port(text: &str) -> Result<(), String> {
    let valid = match text.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    };
    if valid { Ok(()) } else { Err(format!("invalid port \"{}\" after host", quotable(text))) }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Host,
}

/// Checks what Go would unescape. In a host only bytes beyond ASCII (and `%25`) may be escaped.
fn unescape(text: &str, part: Part) -> Result<(), String> {
    for (at, character) in text.char_indices() {
        if character != '%' {
            let plain = character.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]<>\"".contains(character);
            if part == Part::Host && character.is_ascii() && !plain {
                return Err(format!("invalid character \"{}\" in host name", quotable(&character.to_string())));
            }
            continue;
        }
        // Go counts bytes here, and may cut a character in two.
        let escape = text.as_bytes().get(at..).map(|rest| rest.get(..3).unwrap_or(rest)).unwrap_or_default();
        let digit = |index: usize| escape.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        let allowed = match (digit(1), digit(2)) {
            (Some(high), Some(_)) => part == Part::Path || high >= 8 || escape == b"%25",
            _ => false,
        };
        if !allowed {
            return Err(format!("invalid URL escape \"{}\"", go_quoted(escape)));
        }
    }
    Ok(())
}

/// Bytes as Go's `%q` shows them.
fn go_quoted(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&quotable(chunk.valid()));
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_judged_as_go_judges_them() {
        for good in [
            "unix:",
            "unix:foo",
            "unix://",
            "unix:///a b",
            "unix://@name",
            "unix:///@abstract",
            "UNIX:///a",
            "unix:///a?%zz",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        for (bad, reason) in [
            ("", "mandatory"),
            (":", "missing protocol scheme"),
            ("1a:b", "first path segment in URL cannot contain colon"),
            ("unix:///\n", "net/url: invalid control character in URL"),
            ("unix://a b/c", "invalid character \" \" in host name"),
            ("unix://a:x/c", "invalid port \":x\" after host"),
            ("unix://[a/c", "missing ']' in host"),
            ("unix:///%zz", "invalid URL escape \"%zz\""),
            ("unix:///#%z", "invalid URL escape \"%z\""),
            ("unix://%41/", "invalid URL escape \"%41\""),
            ("https://a", "unsupported scheme \"https\""),
            ("/a/b", "unsupported scheme \"\""),
        ] {
            assert!(judge(bad).is_err_and(|found| found.contains(reason)), "{bad}: {:?}", judge(bad));
        }
    }
}
