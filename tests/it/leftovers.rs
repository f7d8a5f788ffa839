//! What lies outside the tree and looks like a record, or nearly.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};

use super::made::{Put, secret, secret_key, store};
use super::program::{atrest, audit, cell, temporary};

/// Bytes without meaning, always the same ones for a seed; every eighth is the separator within revisions.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(8) { b'_' } else { (state >> 32) as u8 }
    };
    (0..bytes).map(|_| next()).collect()
}

fn encoded(put: &Put) -> Vec<u8> {
    let (revision, record) = put.encoded();
    [revision, record].concat()
}

/// Adds whole pages behind a file's last one, and gives the revisions that count as left behind.
fn left_in(path: &str, pages: &[Vec<u8>]) -> Vec<(String, String)> {
    let mut file = File::options().append(true).open(path).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    for page in pages {
        let mut page = page.clone();
        page.resize(page.len().next_multiple_of(4096), 0);
        file.write_all(&page).unwrap();
    }
    let rows = audit(path, &[], &["-o", "csv", "--residue"]).rows();
    let left = rows.iter().filter(|row| cell(row, "record") == "residue");
    left.map(|row| (cell(row, "name").to_owned(), cell(row, "mod_revision").to_owned())).collect()
}

fn puts() -> Vec<Put> {
    let put = |revision: i64| {
        let name = format!("s-{revision}");
        Put::new(revision, secret_key(&name), secret(&name, &"eHh4".repeat(40)))
    };
    (2..60).map(put).collect()
}

#[test]
fn noise_and_half_records_are_none() {
    let folder = temporary();
    let whole = encoded(&Put::new(99, secret_key("gone"), secret("gone", "eA==")));
    let mut pages: Vec<_> = (0..64).map(|seed| noise(seed, 4096)).collect();
    for cut in 1..whole.len() {
        // The end of one, and the beginning of one before noise.
        pages.push([&noise(cut as u64, 40)[..], &whole[cut..]].concat());
        pages.push([&whole[..cut], &noise(cut as u64, 3000)].concat());
    }
    // A record of another revision than the key before it says, one that is older than its key, one without a key.
    let (revision, _) = Put::new(100, secret_key("a"), b"x").encoded();
    let (_, record) = Put::new(101, secret_key("a"), b"x").encoded();
    pages.push([revision, record].concat());
    pages.push(encoded(&Put::new(100, secret_key("a"), b"x").again(101, 1)));
    pages.push(encoded(&Put::new(100, b"", b"x")));
    let path = store(&folder, "store.db", &puts(), &[]);
    assert_eq!(left_in(&path, &pages), []);
}

#[test]
fn copies_of_what_the_tree_has_are_no_residue_and_copies_of_what_it_has_not_count_once() {
    let folder = temporary();
    let all = puts();
    let mut pages: Vec<_> = all.iter().map(encoded).collect();
    let gone = Put::new(1000, secret_key("gone"), secret("gone", "eA=="));
    pages.extend((0..10).map(|copy| [noise(copy, 50), encoded(&gone)].concat()));
    // Another key's record at a revision that the tree has for one of its own is left from another life of the store.
    let other = Put::new(10, secret_key("other-life"), secret("other-life", "eA=="));
    pages.push(encoded(&other));
    let path = store(&folder, "store.db", &all, &[]);
    let expected = [("gone", "1000"), ("other-life", "10")].map(|(name, at)| (name.to_owned(), at.to_owned()));
    assert_eq!(left_in(&path, &pages), expected);
}

#[test]
fn pages_that_were_branches_leaves_of_other_trees_or_freelists_hold_no_records_of_their_own() {
    let folder = temporary();
    let path = store(&folder, "store.db", &puts(), &[]);
    let bytes = fs::read(&path).unwrap();
    let mut pages = Vec::new();
    for page in bytes.chunks(4096) {
        for flags in [1_u16, 2, 0x10, 0xffff] {
            for count in [0_u16, 1, 7, 0xffff] {
                let mut page = page.to_vec();
                page[8..10].copy_from_slice(&flags.to_le_bytes());
                page[10..12].copy_from_slice(&count.to_le_bytes());
                page[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
                pages.push(page);
            }
        }
    }
    // A freelist that claims every page of the tree, and one longer than the file.
    let ids: Vec<u8> = (0..500_u64).flat_map(u64::to_le_bytes).collect();
    pages.push([&[0; 8][..], &0x10_u16.to_le_bytes(), &0xffff_u16.to_le_bytes(), &[0; 4], &ids].concat());
    assert_eq!(left_in(&path, &pages), [], "all of it is in the tree");
    let code = atrest(&["keys", &path]).code;
    assert_eq!(code, 0, "{code}");
}
