//! Is a kine store whole?

use crate::kine::check::{Counts, FaultKind, check as check_table};
use crate::source::{Fault, Faults};

use super::{CHAIN_FAULT, COMPACTION_FAULT, KineStore, ROW_FAULT, SQLITE_FAULT};

/// Everything that can be said of a kine store without knowing what its values mean.
#[derive(Debug)]
pub struct KineReport {
    /// The greatest revision; 0 where there is no row.
    pub revision: i64,
    /// The revision up to which it was compacted.
    pub compacted: Option<i64>,
    /// Rows by kind.
    pub counts: Counts,
    /// Bytes that hold something, as kine's own status answers.
    pub total_size: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages, those in the log included.
    pub pages: u64,
    /// Pages that hold nothing.
    pub free_pages: u64,
    /// SHA-256 of the database file as given.
    pub sha256: [u8; 32],
    /// Bytes of the log beside it; none where there is none.
    pub log_bytes: Option<u64>,
    /// It is written with a log, and none was beside it.
    pub log_missing: bool,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// How many faults there are.
    pub fault_count: u64,
}

/// Checks pages, indexes and rows.
pub fn check(store: &KineStore) -> KineReport {
    let (facts, copied) = (store.facts(), store.copied());
    let (faults, counts) = store.checked().clone();
    let fault_count = faults.total();
    KineReport {
        revision: facts.revision.unwrap_or(0),
        compacted: facts.compacted,
        counts,
        total_size: facts.pages.saturating_sub(facts.free_pages).saturating_mul(facts.page_size),
        page_size: facts.page_size,
        pages: facts.pages,
        free_pages: facts.free_pages,
        sha256: copied.sha256,
        log_bytes: copied.log_bytes,
        log_missing: copied.log_missing,
        faults: faults.into_sorted(),
        fault_count,
    }
}

/// Everything that is wrong, and how many rows of what kind there are.
pub(super) fn faults(store: &KineStore) -> (Faults, Counts) {
    let mut faults = Faults::new();
    store.damage.iter().cloned().chain(store.log_fault()).for_each(|fault| faults.push(fault));
    let counts = check_table(&store.database(), store.facts(), &mut |fault| {
        let kind = match fault.kind {
            FaultKind::Integrity => SQLITE_FAULT,
            FaultKind::Row => ROW_FAULT,
            FaultKind::Chain => CHAIN_FAULT,
            FaultKind::Compaction => COMPACTION_FAULT,
        };
        faults.push(Fault::file(kind, fault.detail));
    });
    (faults, counts)
}
