//! What is written reads back the same: by this crate's reader, whose check finds nothing, and by an independent one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::bbolt::bucket::{Bucket, BucketRoot};
use crate::bbolt::check::{Checker, check};
use crate::bbolt::page::{LeafSizes, PageHeader, PageKind};
use crate::bbolt::{Faults, OpenError, PageFile, cursor};

pub(in crate::bbolt) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
pub(in crate::bbolt) type Buckets = BTreeMap<Vec<u8>, Pairs>;

fn write(file: &File, page_size: u32, fill: Fill, buckets: &Buckets) -> Meta {
    let mut writer = Writer::new(file, page_size, 7).unwrap();
    for (number, (name, pairs)) in buckets.iter().enumerate() {
        let mut bucket = writer.bucket(name, number as u64, fill).unwrap();
        pairs.iter().for_each(|(key, value)| bucket.push(key, value).unwrap());
        bucket.finish().unwrap();
    }
    writer.finish().unwrap()
}

pub(in crate::bbolt) fn written(page_size: u32, fill: Fill, buckets: &Buckets) -> PageFile {
    let file = tempfile::tempfile().unwrap();
    let meta = write(&file, page_size, fill, buckets);
    let pages = PageFile::open(file).unwrap();
    assert_eq!(*pages.meta(), meta);
    pages
}

/// Every page is reached, nothing is wrong, and bucket for bucket the pairs come back.
fn assert_holds(file: &PageFile, buckets: &Buckets) {
    let outcome = check(file);
    assert_eq!(outcome.faults.into_sorted(), []);
    assert_eq!((outcome.free_pages, file.file_bytes()), (0, file.used_bytes()));
    let [first, second] = file.metas().map(|meta| meta.unwrap());
    assert_eq!((first.txid, Meta { txid: 7, ..second }), (7, first));
    assert_eq!(second.txid, 6);
    let found: Buckets = read(file).into_iter().map(|(name, _, pairs)| (name, pairs)).collect();
    assert!(found == *buckets);
}

pub(in crate::bbolt) fn read(file: &PageFile) -> Vec<(Vec<u8>, Bucket, Pairs)> {
    let mut checker = Checker::new(file);
    let top_level = checker.top_level();
    let pairs = |bucket: &Bucket, checker: &mut Checker<'_>| {
        let mut pairs = Pairs::new();
        let mut insert = |pair: cursor::Pair<'_>, _: &mut Faults| {
            assert!(!pair.element.is_bucket);
            assert!(pairs.last_key_value().is_none_or(|(last, _)| last.as_slice() < pair.element.key));
            pairs.insert(pair.element.key.to_vec(), pair.element.value.to_vec());
        };
        checker.bucket(bucket, &mut insert);
        pairs
    };
    let all = top_level.into_iter().map(|(name, bucket)| {
        let pairs = pairs(&bucket, &mut checker);
        (name, bucket, pairs)
    });
    all.collect()
}

pub(in crate::bbolt) fn bytes_of(file: &PageFile) -> Vec<u8> {
    let mut bytes = vec![0; file.file_bytes() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

pub(in crate::bbolt) fn numbered(count: u32, key_bytes: usize, value_bytes: usize) -> Pairs {
    let key = |number: u32| {
        let mut key = vec![b'k'; key_bytes - 4];
        key.extend(number.to_be_bytes());
        key
    };
    (0..count).map(|number| (key(number), vec![number as u8; value_bytes])).collect()
}

/// A file of these bytes.
pub(in crate::bbolt) fn file_of(bytes: &[u8]) -> Result<PageFile, OpenError> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    PageFile::open(file)
}

/// The crate `nut`, a port of boltdb, needs a freelist page, which etcd's files do not have; so it is given one.
fn read_with_nut(file: &PageFile) -> Buckets {
    let (folder, meta) = (tempfile::tempdir().unwrap(), *file.meta());
    let path = folder.path().join("copy.db");
    let mut bytes = bytes_of(file);
    let freelist = PageHeader { id: meta.high_water_mark, kind: PageKind::Freelist, count: 0, overflow: 0 };
    let start = bytes.len();
    bytes.extend(freelist.encode());
    finish_page(&mut bytes, start, meta.page_size as usize);
    let mark = meta.high_water_mark + 1;
    for (page, txid) in [(0, meta.txid), (1, meta.txid - 1)] {
        let meta = Meta { freelist: meta.high_water_mark, high_water_mark: mark, txid, ..meta };
        let at = page as usize * meta.page_size as usize;
        bytes[at..at + 80].copy_from_slice(&meta.encode(page));
    }
    fs::write(&path, bytes).unwrap();
    let database = nut::DBBuilder::new(&path).read_only(true).build().unwrap();
    let transaction = database.begin_tx().unwrap();
    let mut found = Buckets::new();
    for name in transaction.try_buckets().unwrap() {
        let bucket = transaction.bucket(&name).unwrap();
        let pairs = found.entry(name.clone()).or_default();
        let insert = |key: &[u8], value: Option<&[u8]>| {
            pairs.insert(key.to_vec(), value.unwrap_or_default().to_vec());
            Ok::<(), String>(())
        };
        bucket.for_each(Box::new(insert)).unwrap();
    }
    found
}

fn any_pairs() -> impl Strategy<Value = Pairs> {
    let key = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..20),
        2 => prop::collection::vec(any::<u8>(), 1..600),
    ];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        3 => prop::collection::vec(any::<u8>(), 0..2000),
        1 => prop::collection::vec(any::<u8>(), 4000..20_000),
    ];
    prop::collection::btree_map(key, value, 0..120)
}

fn any_buckets() -> impl Strategy<Value = Buckets> {
    prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..30), any_pairs(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(
        buckets in any_buckets(),
        page_size in prop::sample::select(vec![4096_u32, 8192, 16_384, 32_768, 65_536]),
        fill in 0.0..1.1_f64,
    ) {
        let file = written(page_size, Fill::new(fill), &buckets);
        assert_holds(&file, &buckets);
        prop_assert!(read_with_nut(&file) == buckets);
    }

    #[test]
    fn pairs_that_come_many_at_once_are_packed_as_if_they_came_one_by_one(
        pairs in any_pairs(),
        cuts in prop::collection::vec(0..130_usize, 0..8),
        fill in 0.25..1.0_f64,
    ) {
        let (mut single, mut many) = (Packer::new(4096, Fill::new(fill)), Packer::new(4096, Fill::new(fill)));
        let all: Vec<_> = pairs.iter().collect();
        let mut cuts = cuts;
        cuts.extend([0, all.len()]);
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(all.len()));
        cuts.sort_unstable();
        for (place, cut) in cuts.windows(2).enumerate() {
            let run = &all[cut[0]..cut[1]];
            run.iter().for_each(|(key, value)| single.push(key, value).unwrap());
            let sizes = |(key, value): &(&Vec<u8>, &Vec<u8>)| LeafSizes {
                is_bucket: false,
                key_bytes: key.len() as u32,
                value_bytes: value.len() as u32,
            };
            let data: Vec<u8> = run.iter().flat_map(|(key, value)| [key.as_slice(), value].concat()).collect();
            match place % 3 {
                2 => run.iter().for_each(|(key, value)| many.push(key, value).unwrap()),
                _ => many.push_all(&run.iter().map(sizes).collect::<Vec<_>>(), &data).unwrap(),
            }
            prop_assert_eq!(many.packed_bytes(), single.packed_bytes());
        }
        let (single, many) = (single.finish(), many.finish());
        prop_assert_eq!((many.firsts, many.last), (single.firsts, single.last));
        prop_assert!(many.bytes == single.bytes);
    }

    #[test]
    fn leaves_that_are_packed_apart_read_back(pairs in any_pairs(), chunk in 1..40_usize, fill in 0.25..1.0_f64) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file, 4096, 7).unwrap();
        let mut bucket = writer.bucket(b"key", 0, Fill::new(fill)).unwrap();
        let all: Vec<_> = pairs.iter().collect();
        let mut placed = Vec::new();
        for chunk in all.chunks(chunk) {
            let mut packer = bucket.packer();
            chunk.iter().for_each(|(key, value)| packer.push(key, value).unwrap());
            placed.push(bucket.place(packer.finish()).unwrap());
        }
        bucket.finish().unwrap();
        let meta = writer.finish().unwrap();
        // Each is written when it comes to it, and that may be last.
        placed.iter().rev().for_each(|placed| placed.write(&file).unwrap());
        let pages = PageFile::open(file).unwrap();
        prop_assert_eq!(*pages.meta(), meta);
        assert_holds(&pages, &Buckets::from([(b"key".to_vec(), pairs)]));
    }
}

#[test]
fn a_file_without_buckets_is_a_file() {
    let file = written(4096, Fill::ANYWHERE, &Buckets::new());
    assert_eq!(file.used_bytes(), 3 * 4096);
    assert_holds(&file, &Buckets::new());
}

#[test]
fn trees_of_many_levels_hold() {
    let deep = Buckets::from([
        (b"deep".to_vec(), numbered(3000, 900, 1000)),
        (b"key".to_vec(), numbered(30_000, 17, 90)),
        (b"long keys".to_vec(), numbered(40, MAX_KEY_BYTES, 3)),
    ]);
    for (page_size, fill) in [(4096, Fill::APPENDED), (4096, Fill::ANYWHERE), (65_536, Fill::FULL)] {
        let file = written(page_size, fill, &deep);
        assert_holds(&file, &deep);
    }
    assert!(read_with_nut(&written(4096, Fill::APPENDED, &deep)) == deep);
}

#[test]
fn the_top_level_may_need_a_tree_too() {
    let many: Buckets =
        (0..500_u32).map(|number| (number.to_be_bytes().to_vec(), numbered(number % 9, 8, 70))).collect();
    let file = written(4096, Fill::ANYWHERE, &many);
    assert_holds(&file, &many);
    assert!(read_with_nut(&file) == many);
}

#[test]
fn a_bucket_of_up_to_a_quarter_page_stands_inline() {
    // A page header and four elements of sixteen bytes each, four keys of eight bytes.
    for (value_bytes, inline) in [(4 * 228, true), (4 * 228 + 4, false)] {
        let buckets = Buckets::from([(b"b".to_vec(), numbered(4, 12, value_bytes / 4 - 4))]);
        let file = written(4096, Fill::ANYWHERE, &buckets);
        let (_, bucket, _) = read(&file).remove(0);
        assert_eq!(matches!(bucket.root, BucketRoot::Inline(_)), inline, "{value_bytes}");
    }
}

#[test]
fn sequences_are_kept() {
    let buckets: Buckets =
        [(b"a".to_vec(), numbered(1, 8, 1)), (b"b".to_vec(), numbered(900, 8, 8)), (b"c".to_vec(), Pairs::new())]
            .into();
    let file = written(4096, Fill::ANYWHERE, &buckets);
    assert_eq!(read(&file).iter().map(|(_, bucket, _)| bucket.sequence).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn pages_are_filled_as_asked_for() {
    let buckets = Buckets::from([(b"key".to_vec(), numbered(20_000, 17, 83))]);
    for (fill, expected) in [(Fill::APPENDED, 31), (Fill::ANYWHERE, 17), (Fill::FULL, 35)] {
        let file = written(4096, fill, &buckets);
        let mut counts = BTreeMap::new();
        for page in bytes_of(&file).chunks(4096) {
            let header = PageHeader::decode(page).unwrap();
            if header.kind == PageKind::Leaf && header.count > 1 {
                *counts.entry(header.count).or_insert(0) += 1;
            }
        }
        // All leaves but the last are alike.
        let (most, _) = counts.iter().max_by_key(|(_, pages)| **pages).unwrap();
        assert_eq!((*most, counts.len() <= 2), (expected, true), "{fill:?} {counts:?}");
    }
}

#[test]
fn the_same_pairs_give_the_same_bytes_whatever_the_file_held() {
    let buckets = Buckets::from([(b"a".to_vec(), numbered(9, 9, 9)), (b"key".to_vec(), numbered(5000, 17, 300))]);
    let clean = bytes_of(&written(4096, Fill::APPENDED, &buckets));
    let used = tempfile::tempfile().unwrap();
    used.write_all_at(&vec![0xAA; 4 << 20], 0).unwrap();
    write(&used, 4096, Fill::APPENDED, &buckets);
    let mut bytes = Vec::new();
    let mut reader = &used;
    std::io::Seek::rewind(&mut reader).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == clean);
    // Behind its record a meta page is empty. What stands on other pages beside their elements the check would tell.
    assert!([&clean[80..4096], &clean[4096 + 80..8192]].concat().iter().all(|byte| *byte == 0));
}

#[test]
fn what_bbolt_would_not_take_is_refused() {
    let file = tempfile::tempfile().unwrap();
    for page_size in [0, 512, 2048, 4097, 12_288, 1 << 17] {
        assert!(matches!(Writer::new(&file, page_size, 1), Err(WriteError::PageSize(_))), "{page_size}");
    }
    assert!(matches!(Writer::new(&file, 4096, 0), Err(WriteError::Transaction)));
    let mut writer = Writer::new(&file, 4096, 1).unwrap();
    assert!(matches!(writer.bucket(b"", 0, Fill::FULL), Err(WriteError::Key(0))));
    let mut bucket = writer.bucket(b"b", 0, Fill::FULL).unwrap();
    assert!(matches!(bucket.push(b"", b"x"), Err(WriteError::Key(0))));
    assert!(matches!(bucket.push(&vec![1; MAX_KEY_BYTES + 1], b"x"), Err(WriteError::Key(_))));
    bucket.push(b"k", b"x").unwrap();
    for key in [&b"k"[..], b"a"] {
        assert!(matches!(bucket.push(key, b"x"), Err(WriteError::Order { number: 1 })));
    }
    let mut packer = bucket.packer();
    packer.push(b"k", b"x").unwrap();
    assert!(matches!(bucket.place(packer.finish()), Err(WriteError::Order { .. })));
    let mut packer = bucket.packer();
    let pair = |key_bytes| LeafSizes { is_bucket: false, key_bytes, value_bytes: 1 };
    assert!(matches!(packer.push_all(&[pair(1), pair(1)], b"lxkx"), Err(WriteError::Order { number: 1 })));
    assert!(matches!(bucket.packer().push_all(&[pair(0)], b"x"), Err(WriteError::Key(0))));
    let mut packer = bucket.packer();
    packer.push(b"l", b"x").unwrap();
    bucket.place(packer.finish()).unwrap().write(&file).unwrap();
    assert!(matches!(bucket.push(b"l", b"x"), Err(WriteError::Order { .. })));
    bucket.push(b"m", b"x").unwrap();
    bucket.finish().unwrap();
    assert!(matches!(writer.bucket(b"b", 0, Fill::FULL), Err(WriteError::Order { .. })));
    assert!(matches!(writer.bucket(b"a", 0, Fill::FULL), Err(WriteError::Order { .. })));
    let meta = writer.finish().unwrap();
    let pages = PageFile::open(file).unwrap();
    assert_eq!((meta.txid, check(&pages).faults.into_sorted()), (1, Vec::new()));
    assert_eq!(read(&pages)[0].2.keys().collect::<Vec<_>>(), [b"k", b"l", b"m"]);
}
