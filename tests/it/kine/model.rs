//! Random histories, written row by row as kine does in either generation, and what must be said of each row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use atrest::source::kine::KineStore;
use atrest::source::residue::Stray;
use atrest::source::scan::Visitor;
use atrest::source::snapshot::PassOptions;
use atrest::source::{Record, Store};
use rusqlite::{Connection, params};

use super::super::damage::harm::Random;
use super::super::program::temporary;
use super::compact;

const SCHEMA: &str = "\
    CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER, \
        create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB); \
    CREATE INDEX kine_name_id_index ON kine (name,id); \
    CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision); \
    INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, 0, 0, 0, x'', NULL);";

/// A key as kine's clients see it.
#[derive(Clone, Default)]
struct Key {
    last: i64,
    create: i64,
    value: Option<Vec<u8>>,
    /// What the last deletion deleted.
    deleted: Option<Vec<u8>>,
}

/// Revision, key, whether it is a deletion, revision of creation, value.
type SeenRecord = (i64, Vec<u8>, bool, i64, Vec<u8>);

/// The records and strays of a store, without an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Revision, key, tombstone, create revision, value.
    pub records: BTreeSet<SeenRecord>,
    /// Revision and bytes.
    pub strays: BTreeSet<(i64, Vec<u8>)>,
}

impl Visitor for Seen {
    const STRAYS: bool = true;

    fn record(&mut self, record: &Record<'_>) {
        let (kv, revision) = (&record.kv, record.revision);
        let place = i64::from(record.place.leaf) << 16 | i64::from(record.place.index);
        assert_eq!((place, kv.mod_revision), (revision.revision.main, revision.revision.main));
        let row = (place, kv.key.to_vec(), revision.tombstone, kv.create_revision, kv.value.to_vec());
        assert!(self.records.insert(row), "one record for each revision");
    }

    fn stray(&mut self, stray: &Stray<'_>) {
        self.strays.insert((stray.revision.main, stray.kv.value.to_vec()));
    }
}

/// Reads a store; also how many faults were told.
pub fn read(path: &Path) -> Option<(Seen, u64)> {
    let store = KineStore::open(path, &File::open(path).unwrap()).ok()?;
    let options = PassOptions { digest: true, threads: 2, progress: &|_| () };
    let pass = Store::Kine(store).pass(options, |_| (), |()| Seen::default()).unwrap();
    let mut all = Seen::default();
    for seen in pass.visitors {
        all.records.extend(seen.records);
        all.strays.extend(seen.strays);
    }
    Some((all, pass.faults.total()))
}

/// Writes a random history, and says what each row is as long as no row is taken out.
fn written(connection: &Connection, random: &mut Random, old: bool) -> (Seen, BTreeMap<i64, Vec<u8>>) {
    let (mut keys, mut seen) = (vec![Key::default(); 6], Seen::default());
    let mut values = BTreeMap::new();
    let insert = "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) \
                  VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)";
    for _ in 0..random.below(60) + 20 {
        let number = random.below(keys.len());
        let name = format!("/registry/configmaps/default/k{number}");
        let key = &mut keys[number];
        let new = (random.below(4) > 0 || key.value.is_none()).then(|| {
            let most = random.pick(&[40, 40, 40, 40, 40, 40, 40, 40, 20_000]);
            let bytes = random.below(most);
            random.bytes(bytes)
        });
        let (created, deleted) = (key.value.is_none(), new.is_none());
        let old_value = match (&key.value, old) {
            (Some(value), _) => Some(value.clone()),
            // Before 0.16 a key that is created anew keeps what was deleted.
            (None, true) => key.deleted.clone(),
            (None, false) => None,
        };
        let value = if deleted && old { key.value.clone() } else { new.clone() };
        let create = if created { if old { Some(0) } else { None } } else { Some(key.create) };
        connection.execute(insert, params![name, created, deleted, create, key.last, value, old_value]).unwrap();
        let id = connection.last_insert_rowid();
        let create = if created { id } else { key.create };
        seen.records.insert((id, name.into_bytes(), deleted, create, new.clone().unwrap_or_default()));
        values.insert(id, new.clone().unwrap_or_default());
        let deleted = if deleted { key.value.clone() } else { None };
        *key = Key { last: id, create, value: new, deleted };
        if random.below(12) == 0 {
            let id = id + 1;
            let gap = "INSERT INTO kine VALUES (?1, ?2, 0, 1, 0, 0, 0, NULL, NULL)";
            connection.execute(gap, params![id, format!("gap-{id}")]).unwrap();
        }
    }
    (seen, values)
}

#[test]
fn random_histories_come_out_right_before_and_after_a_compaction() {
    let (mut told, mut removed, mut recovered, mut found_more, mut whole, mut strange) = (0, 0, 0, 0, 0, 0);
    for seed in 0..120 {
        let (folder, mut random) = (temporary(), Random::new(seed));
        let path = folder.path().join("state.db");
        let connection = Connection::open(&path).unwrap();
        let mode = if seed % 3 == 0 { "DELETE" } else { "WAL" };
        connection.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF; {SCHEMA}")).unwrap();
        let (mut expected, values) = written(&connection, &mut random, seed % 2 == 0);
        assert!(read(&path) == Some((expected.clone(), 0)), "seed {seed}");
        // What a compaction takes out is still kept by the rows behind it.
        let last = connection.query_row("SELECT MAX(id) FROM kine", [], |row| row.get::<_, i64>(0)).unwrap();
        compact(&connection, 1 + random.below(last as usize) as i64);
        let mut left = connection.prepare("SELECT id, name, prev_revision, old_value FROM kine WHERE id > 1").unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(2)?, row.get::<_, Option<Vec<u8>>>(3)?.unwrap_or_default()))
        };
        let left: Vec<_> = left.query_map([], row).unwrap().map(Result::unwrap).collect();
        let ids: BTreeSet<_> = left.iter().map(|(id, ..)| *id).collect();
        expected.records.retain(|(id, ..)| ids.contains(id));
        for (_, prev, old_value) in left.iter().filter(|(_, prev, old)| !ids.contains(prev) && !old.is_empty()) {
            expected.strays.insert((*prev, old_value.clone()));
            // Of a key that was created anew it is what was deleted, of all others the value itself.
            assert!(values[prev] == *old_value || values[prev].is_empty(), "seed {seed}");
        }
        told += expected.strays.len();
        let (found, faults) = read(&path).unwrap();
        assert_eq!((&found.records, faults), (&expected.records, 0), "seed {seed}");
        assert!(found.strays.is_superset(&expected.strays), "seed {seed}");
        // Beside that, what was taken out is told from the pages that it was on, and nothing else.
        let gone: BTreeSet<_> = values.iter().filter(|(id, value)| !ids.contains(id) && !value.is_empty()).collect();
        let kept = |value: &Vec<u8>| left.iter().any(|(.., old_value)| old_value == value);
        let in_table = |value: &Vec<u8>| kept(value) || found.records.iter().any(|(.., stored)| stored == value);
        for (main, value) in found.strays.difference(&expected.strays) {
            assert!(value.len() < 4 || !in_table(value), "seed {seed}: {main} is in the table");
            // What is created anew kept what was deleted, under the deletion's revision. A part may have been written over.
            let alike = |written: &Vec<u8>| written.len() == value.len() && written.first() == value.first();
            let of = values.get(main).map_or(*main == 0, |written| alike(written) || written.is_empty());
            strange += usize::from(!of || !values.values().any(alike));
            whole += usize::from(values.values().any(|written| written == value));
            found_more += 1;
        }
        for (id, value) in gone.into_iter().filter(|(_, value)| !in_table(value)) {
            removed += 1;
            let is_found = found.strays.iter().any(|(_, left)| left == value);
            recovered += usize::from(is_found);
            // The log has all pages as they were before.
            assert!(is_found || mode == "DELETE", "seed {seed}: {id} is in the log and was not found");
        }
    }
    assert!(told > 300, "only {told} old values were left behind");
    // Bytes that were written over in part cannot always be told from those that were not.
    assert!(10 * whole > 9 * found_more && 50 * strange < found_more, "{whole} and not {strange} of {found_more}");
    assert!(removed > 100 && 3 * recovered > 2 * removed, "{recovered} of {removed}");
}
