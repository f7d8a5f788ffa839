//! What every gRPC client here needs: responses made harmless, and errors in words.
//!
//! Upstream: `grpc/grpc-go`, `codes/code_string.go`; `hyperium/tonic`, `tonic/src/status.rs`.

use std::error::Error;
use std::fmt::Write;
use std::io;

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tonic::Code;
use tonic::body::Body;

/// The most bytes that are kept of what another program says. A message can fill its header, and there may be many.
const MAX_WORDS_BYTES: usize = 1024;

/// Where `google.rpc.Status` travels, which nobody here looks at.
const DETAILS: &str = "grpc-status-details-bin";

/// Removes the details of a status, which are of no use here and which tonic does not expect to be malformed.
pub(crate) fn without_details(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(DETAILS);
    response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            frame.trailers_mut().map(|trailers: &mut HeaderMap| trailers.remove(DETAILS));
            frame
        }))
    })
}

/// The error of a type among an error and its causes.
pub(crate) fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error passes over the error that it carries when it is asked for its source.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = carried.map(|carried| carried as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// A code as Go's gRPC prints it.
pub(crate) fn code_name(code: Code) -> &'static str {
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

/// What another program says, fit for one line of a report: control characters escaped, and no longer than a line may be.
pub(crate) fn tame(words: &str) -> String {
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
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_another_program_stay_on_one_line_and_end() {
        assert_eq!(tame("refused\n\tstatus 400\u{1b}[31m"), r"refused\n\tstatus 400\u{1b}[31m");
        let long = tame(&"é".repeat(5000));
        assert!(long.len() <= MAX_WORDS_BYTES + 5 && long.ends_with("é..."), "{}", long.len());
    }

    #[test]
    fn an_error_inside_an_io_error_is_found() {
        let inner = "x".parse::<u8>().unwrap_err();
        let error = io::Error::other(io::Error::other(inner));
        assert!(find::<std::num::ParseIntError>(&error).is_some());
        assert!(find::<std::fmt::Error>(&error).is_none());
    }
}
