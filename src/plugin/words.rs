//! Errors in the words in which kube-apiserver would tell them, which are those of Go's gRPC.
//!
//! Upstream: `grpc/grpc-go`, `codes/code_string.go` and `internal/status`; `k8s.io/apimachinery`, `pkg/util/errors`.

use std::io;

use tonic::Code;

use crate::grpc::code_name;

/// An error as Go's gRPC prints it.
pub(super) fn rpc_error(code: Code, words: &str) -> String {
    format!("rpc error: code = {} desc = {words}", code_name(code))
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
}
