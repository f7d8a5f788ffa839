//! Errors in the words in which kube-apiserver would tell them, which are those of Go's gRPC.
//!
//! Upstream: `grpc/grpc-go`, `codes/code_string.go` and `internal/status`; `k8s.io/apimachinery`, `pkg/util/errors`.

use std::error::Error;
use std::fmt::Write;
use std::io;

use tonic::Code;

/// The most bytes that are kept of what a plugin says. A message can fill its header, and there may be one for each DEK.
const MAX_WORDS_BYTES: usize = 1024;

/// An error as Go's gRPC prints it.
pub(super) fn rpc_error(code: Code, words: &str) -> String {
    format!("rpc error: code = {} desc = {words}", code_name(code))
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// What a plugin says, fit for one line of a report: control characters escaped, and no longer than a line may be.
pub(super) fn tame(words: &str) -> String {
    let mut tamed = String::new();
    for character in words.chars() {
        if tamed.len() >= MAX_WORDS_BYTES {
            tamed.push_str("...");
            break;
        }
        if character.is_control() {
            tamed.extend(character.escape_default());
        } else {
            tamed.push(character);
        }
    }
    tamed
}

/// An error with all its causes, unless the text before has told them already.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.ends_with(&text) {
            // Writing to a string does not fail.
            let _ = write!(told, ": {text}");
        }
        cause = error.source();
    }
    tame(&told)
}

/// An error of the system in Go's form: no number, no capital.
pub(super) fn system_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

/// Several complaints as upstream's `Aggregate` prints them.
pub(super) fn aggregate(complaints: &[String]) -> String {
    match complaints {
        [single] => single.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_read_as_gos() {
        assert_eq!(system_error(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(system_error(&io::Error::other("Strange")), "strange");
    }

    #[test]
    fn words_of_a_plugin_stay_on_one_line_and_end() {
        assert_eq!(tame("refused\n\tstatus 400\u{1b}[31m"), r"refused\n\tstatus 400\u{1b}[31m");
        let long = tame(&"é".repeat(5000));
        assert!(long.len() <= MAX_WORDS_BYTES + 5 && long.ends_with("é..."), "{}", long.len());
    }
}
