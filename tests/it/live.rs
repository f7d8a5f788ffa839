//! A running etcd as a source: each test has servers of its own, which end with it.

mod audit;
mod connect;
mod diff;
mod faults;
mod members;
mod proxy;
pub mod server;
mod snapshot;
mod tls;
mod users;
