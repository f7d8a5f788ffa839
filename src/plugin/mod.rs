//! The socket to KMS plugins: kube-apiserver's side of the gRPC protocols v1 and v2.
//!
//! What has to be asked comes in as distinct [requests](OwnedDekRequest), what the plugins answered goes out as a
//! [`DekTable`]. A [`Plan`] says what asking would cost before anything is spent. Nothing here knows where requests come
//! from, or which resource a value belongs to.
//!
//! Everything is asked for one configuration file at a time, since the names of KMS providers are unique only within a
//! file: [`Plugins::greet`] once, then [`Plugins::ask`].
//!
//! A plugin is trusted with nothing but its own answers. It may be absent, hang, answer garbage or die half-way: no call
//! takes longer than the provider's timeout, no answer is read beyond a few mebibytes, and a plugin that has stopped to
//! answer is given up. What it has not been asked for stays out of the table, so that nothing is judged by it.
//!
//! The other way, for values that are about to be sealed, [`Plugins::mint`] has fresh DEKs wrapped; [`plan_minting`] says
//! what that costs.
//!
//! Calls run on a current-thread runtime that belongs to [`Plugins`]; its functions block and must not be called from
//! inside another tokio runtime.
//!
//! Upstream: `kubernetes/kms`, `apis/v1beta1` and `apis/v2`; `kubernetes/apiserver`,
//! `pkg/storage/value/encrypt/envelope/grpc_service.go` and `kmsv2/grpc_service.go` beside it; for health
//! `pkg/server/options/encryptionconfig/config.go`.

use std::collections::HashMap;
use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::provider::kms::{DekTable, OwnedDekRequest};
use crate::provider::spec::KmsSpec;

mod address;
mod ask;
mod client;
mod greet;
mod messages;
mod mint;
mod plan;
mod round;
mod words;

pub use address::{Address, EndpointError};
pub use ask::{AskOptions, Asked, AskedProvider};
pub use greet::{Greeting, Health, Unwell};
pub use mint::{MintError, Minted, Order, Progress};
pub use plan::{KeyPlan, Plan, ProviderPlan, plan, plan_minting};

/// How many calls are in flight unless somebody says otherwise.
pub const DEFAULT_CONCURRENCY: usize = 8;

/// The KMS plugins of one configuration file, connected and asked for their health.
pub struct Plugins {
    runtime: Runtime,
    greeted: Vec<greet::Greeted>,
}

impl Plugins {
    /// Connects to every plugin and asks v1 for its `Version` and v2 for its `Status`, all at once. That takes as long as
    /// the longest timeout at most, and costs no call of the kind that [`ask`](Self::ask) counts.
    ///
    /// `endpoints` has another endpoint for some providers, by name: for a plugin that runs elsewhere than the file says.
    ///
    /// # Errors
    ///
    /// If the system refuses a runtime. A plugin that is not well is no error here, its [`Greeting`] says so.
    pub fn greet(specs: &[KmsSpec], endpoints: &HashMap<String, String>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let greeted = runtime.block_on(greet::greet_all(specs, endpoints));
        Ok(Self { runtime, greeted })
    }

    /// How each plugin is, in the order of the file. A provider that stands in several places is told once.
    pub fn greetings(&self) -> impl Iterator<Item = &Greeting> {
        self.greeted.iter().map(|greeted| &greeted.greeting)
    }

    /// Asks for each distinct request once and tells what became of them. Blocks until all are answered or given up.
    ///
    /// A v1 plugin that is not well has refused all its requests; a v2 plugin that is not well is
    /// [`Failed`](crate::provider::kms::PluginState::Failed), as it would be to kube-apiserver.
    pub fn ask(&self, requests: Vec<OwnedDekRequest>, options: &AskOptions<'_>) -> (DekTable, Asked) {
        self.runtime.block_on(ask::ask_all(&self.greeted, requests, options))
    }

    /// Makes the DEKs that an order takes from the bytes that `fill` gives, and has the plugin wrap them. Blocks until
    /// that is done or has failed.
    ///
    /// # Errors
    ///
    /// [`MintError`]. Nothing is of use then, and what was called is spent.
    pub fn mint(
        &self,
        order: Order<'_>,
        options: &AskOptions<'_>,
        fill: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<Minted, MintError> {
        self.runtime.block_on(mint::mint(&self.greeted, order, options, fill))
    }
}
