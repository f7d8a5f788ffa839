//! The library in one page: opens a snapshot and a configuration, and prints how each resource is stored.
//!
//! ```console
//! cargo run --example audit testdata/kubeadm/snapshot.db testdata/kubeadm/encryption-config.yaml
//! ```

use std::error::Error;
use std::path::Path;

use atrest::audit::rules::Rules;
use atrest::audit::run::{Options, audit};
use atrest::config::{self, ApiServers};
use atrest::report::text::harmless;
use atrest::source::container::{self, Input};
use atrest::source::{Snapshot, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [snapshot, config] = arguments.as_slice() else { return Err("usage: audit SNAPSHOT CONFIG".into()) };
    print_coverage(snapshot, config)
}

fn print_coverage(snapshot: &str, config: &str) -> Result<(), Box<dyn Error>> {
    let file = config::read_file(Path::new(config))?;
    let servers = ApiServers::new(vec![(config.to_owned(), config::load(&file.bytes)?)])?;

    // Whatever the snapshot is packed in, what comes out is a file for positioned reads. It is never written to.
    let unpacked = container::open(Input::Path(Path::new(snapshot)), &container::Options::default())?;
    let mut store = Store::File(Snapshot::open(unpacked.file)?);
    let options = Options { log_beside: unpacked.log_beside, ..Options::default() };
    let audit = audit(&mut store, Rules::new(servers)?, &options)?;

    for row in &audit.summary.coverage {
        let resource = row.scope.group_resource().to_string();
        // Names come from the store, so they may be anything. Without this they could write to the terminal.
        let (resource, namespace, key) = (harmless(&resource), harmless(&row.scope.namespace), harmless(&row.key_name));
        println!("{resource} {namespace:?} {} {key:?}: {} entries", row.provider, row.entries);
    }
    let totals = audit.summary.totals;
    println!("{}: {} of {} readable", audit.summary.answer.word(), totals.readable, totals.entries);
    Ok(())
}
