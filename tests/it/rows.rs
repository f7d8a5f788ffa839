//! What a row says, held against what a record has.

use sha2::{Digest, Sha256};

use super::program::{Row, cell};
use super::walk::{self, Kind};

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A row has these contents in these columns.
#[track_caller]
pub fn expect(row: &Row, columns: &[(&str, &str)]) {
    for (column, expected) in columns {
        assert_eq!(cell(row, column), *expected, "{column} of {row:#?}");
    }
}

/// A row says of a record what the store has.
#[track_caller]
pub fn is_the_record(row: &Row, kind: Kind, record: &walk::Record) {
    let lease = if record.lease == 0 { String::new() } else { format!("{:016x}", record.lease) };
    expect(
        row,
        &[
            ("key", &walk::shown(&record.key)),
            ("record", kind.word()),
            ("create_revision", &record.create_revision.to_string()),
            ("mod_revision", &record.main.to_string()),
            ("version", &record.version.to_string()),
            ("lease", &lease),
            ("value_bytes", &record.value.len().to_string()),
        ],
    );
    if kind == Kind::Deleted {
        expect(row, &[("state", "empty"), ("readable", ""), ("stale", ""), ("findings", "")]);
    } else {
        expect(row, &[("value_sha256", &hex(&Sha256::digest(&record.value)))]);
    }
}
