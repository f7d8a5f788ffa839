//! What distributions keep of their own encryption: where its configuration lies, and where a rotation stands.
//!
//! K3s and RKE2 seal theirs into the store with the server's token ([`token`], [`bootstrap`]) and write the stage of a
//! rotation into annotations of their nodes ([`stage`], [`node`]); OpenShift keeps its keys in Secrets, and the one
//! configuration that opens those Secrets in a tarball beside the snapshot ([`openshift`]); at Alibaba's ACK the key is a
//! KMS' ([`ack`]). [`gather`] takes all of that out of a store in one pass; [`recovered`] has the configurations of
//! several moments, [`merge`] makes one of them; [`reseal`] makes a rewritten store fit its new configuration. Nothing here knows commands or forms of output.

pub mod ack;
pub mod bootstrap;
pub mod gather;
pub mod gojson;
pub mod merge;
pub mod migration;
pub mod node;
pub mod openshift;
pub mod recovered;
pub mod reseal;
pub mod secrets_encrypt;
pub mod stage;
pub mod steps;
pub mod token;

/// A distribution that keeps state of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distro {
    /// Rancher's K3s.
    K3s,
    /// Rancher's RKE2, which is K3s in all that matters here.
    Rke2,
    /// OpenShift 4.
    OpenShift,
    /// Alibaba Cloud's ACK and ASK.
    Ack,
}

impl Distro {
    /// The word that arguments and reports use; for K3s and RKE2 also the program's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::OpenShift => "openshift",
            Self::Ack => "ack",
        }
    }
}
