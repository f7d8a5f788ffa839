//! Containers are built here from small real snapshots; every test says in its name what holds.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// A snapshot of etcd 3.5, with its trailer.
fn snapshot() -> Vec<u8> {
    fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/versions/etcd-3.5.db")).unwrap()
}

/// The same in a smaller form, for tests that unpack it many times: two meta pages and one more.
fn small() -> Vec<u8> {
    snapshot().get(..3 * 4096).unwrap().to_vec()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An entry with a name that the tar crate would refuse to write.
fn tar_entry(name: &[u8], kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name.get_mut(..name.len()).unwrap().copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[cfg(feature = "zip")]
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default();
        match name.strip_suffix('/') {
            Some(folder) => writer.add_directory(folder, options).unwrap(),
            None => {
                writer.start_file(*name, options).unwrap();
                writer.write_all(content).unwrap();
            }
        }
    }
    writer.finish().unwrap().into_inner()
}

#[cfg(feature = "zstd")]
fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

fn content(unpacked: &Unpacked) -> Vec<u8> {
    let mut bytes = Vec::new();
    At::new(&unpacked.file).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Opens bytes as a file whose name says nothing, and looks that no temporary file has a name.
fn open_bytes(given: &[u8]) -> Result<Unpacked, ContainerError> {
    open_named(given, "given.txt")
}

fn open_named(given: &[u8], name: &str) -> Result<Unpacked, ContainerError> {
    let (home, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = home.path().join(name);
    fs::write(&path, given).unwrap();
    let options = Options { temp_dir: temp.path().to_owned(), ..Options::default() };
    let unpacked = open(Input::Path(&path), &options);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "a temporary file has a name");
    unpacked
}

/// Packed bytes come out as `expected`, and what is said about them is right.
fn check(given: &[u8], expected: &[u8], container: Option<&str>, entry: Option<&str>) -> Unpacked {
    let unpacked = open_bytes(given).unwrap();
    assert!(content(&unpacked) == expected, "the content differs");
    assert_eq!(unpacked.container().as_deref(), container);
    assert_eq!(unpacked.entry.as_deref(), entry);
    assert_eq!(unpacked.bytes, given.len() as u64);
    assert_eq!(unpacked.given_sha256, container.map(|_| sha256(given)));
    unpacked
}

fn refused(given: &[u8]) -> String {
    open_bytes(given).unwrap_err().to_string()
}

#[test]
fn a_plain_file_is_used_in_place() {
    let unpacked = check(&snapshot(), &snapshot(), None, None);
    assert_eq!(unpacked.content, Content::Bbolt);
    assert!(unpacked.file.write_at(b"x", 0).is_err(), "it is open for writing");
}

#[test]
fn a_gzip_of_one_or_several_members_is_read_whole() {
    let bytes = snapshot();
    let (one, two) = bytes.split_at(70_000);
    check(&gzip(&bytes), &bytes, Some("gzip"), None);
    check(&[gzip(one), gzip(two)].concat(), &bytes, Some("gzip"), None);
}

#[cfg(feature = "zstd")]
#[test]
fn a_zstd_of_one_or_several_frames_is_read_whole() {
    let bytes = snapshot();
    let (one, two) = bytes.split_at(70_000);
    let skippable = [&0x184D_2A51_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    check(&zstd(&bytes), &bytes, Some("zstd"), None);
    check(&[skippable, zstd(one), zstd(two)].concat(), &bytes, Some("zstd"), None);
}

#[cfg(feature = "zip")]
#[test]
fn a_zip_gives_its_only_file_and_ignores_folders() {
    let bytes = snapshot();
    check(&zip(&[("backup/", b""), ("backup/etcd", &bytes)]), &bytes, Some("zip"), Some("backup/etcd"));
    let text = open_bytes(&zip(&[("notes", b"nothing of the kind")])).unwrap();
    assert_eq!((text.content, content(&text).as_slice()), (Content::Unknown, &b"nothing of the kind"[..]));
}

#[cfg(feature = "zip")]
#[test]
fn a_compressed_snapshot_of_rke2_opens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rke2/on-demand-server-1-1763600000.zip");
    let unpacked = open(Input::Path(Path::new(path)), &Options::default()).unwrap();
    let bytes = content(&unpacked);
    assert_eq!(unpacked.content, Content::Bbolt);
    assert_eq!(unpacked.entry.as_deref(), Some("on-demand-server-1-1763600000"));
    let (database, trailer) = bytes.split_at(bytes.len() - 32);
    assert_eq!(sha256(database), trailer, "the snapshot's own digest");
}

#[test]
fn a_tar_gives_its_only_database() {
    let bytes = snapshot();
    let archive = tar(&[("config.yaml", b"kind: x"), ("backup/snap.db", &bytes), ("z/notes.txt", b"later")]);
    check(&archive, &bytes, Some("tar"), Some("backup/snap.db"));
    check(&gzip(&archive), &bytes, Some("tar+gzip"), Some("backup/snap.db"));
    #[cfg(feature = "zstd")]
    check(&zstd(&archive), &bytes, Some("tar+zstd"), Some("backup/snap.db"));
    #[cfg(feature = "zip")]
    check(&zip(&[("a", b"text"), ("b.tar", &archive)]), &bytes, Some("tar+zip"), Some("b.tar > backup/snap.db"));
}

#[test]
fn a_compressed_database_in_an_archive_is_found() {
    let bytes = snapshot();
    let archive = gzip(&tar(&[("a.txt.gz", &gzip(b"text")), ("b", &gzip(&bytes))]));
    check(&archive, &bytes, Some("gzip+tar+gzip"), Some("b"));
    #[cfg(feature = "zip")]
    check(&zip(&[("snap.db.gz", &gzip(&bytes))]), &bytes, Some("gzip+zip"), Some("snap.db.gz"));
}

#[test]
fn an_archive_without_a_database_in_an_archive_is_a_file_like_any_other() {
    let bytes = snapshot();
    let manifests = tar(&[("a.yaml", b"a"), ("b.yaml", b"b")]);
    let archive = tar(&[("manifests.tar", &manifests), ("empty.tar.gz", &gzip(&[0; 1024])), ("db", &bytes)]);
    check(&archive, &bytes, Some("tar"), Some("db"));
}

#[test]
fn the_only_file_of_an_archive_comes_out_even_if_it_is_no_database() {
    let damaged = vec![7; 100_000];
    let unpacked = check(&tar(&[("snap.db", &damaged)]), &damaged, Some("tar"), Some("snap.db"));
    assert_eq!(unpacked.content, Content::Unknown);
}

#[test]
fn a_database_with_one_damaged_meta_page_is_still_one() {
    let mut bytes = snapshot();
    bytes.get_mut(..4096).unwrap().fill(0);
    let archive = tar(&[("first", b"text"), ("second", &bytes)]);
    check(&archive, &bytes, Some("tar"), Some("second"));
}

#[test]
fn two_databases_in_one_archive_are_refused_by_name() {
    let bytes = small();
    let said = refused(&gzip(&tar(&[("node-1.db", &bytes), ("a", b"text"), ("node-2/db", &gzip(&bytes))])));
    assert!(said.contains("node-1.db, node-2/db"), "{said}");
    assert!(said.contains("tar+gzip"), "{said}");
    #[cfg(feature = "zip")]
    assert!(refused(&zip(&[("one", &bytes), ("two", &bytes)])).contains("one, two"));
}

#[test]
fn a_database_beside_an_sqlite_one_is_refused() {
    let sqlite = [b"SQLite format 3\0".to_vec(), vec![0; 4096]].concat();
    let said = refused(&tar(&[("state.db", &sqlite), ("etcd/db", &small())]));
    assert!(said.contains("state.db, etcd/db"), "{said}");
    let unpacked = check(&gzip(&sqlite), &sqlite, Some("gzip"), None);
    assert_eq!(unpacked.content, Content::Sqlite);
}

#[test]
fn several_files_and_no_database_are_refused_by_name() {
    let said = refused(&tar(&[("a.yaml", b"a"), ("b.yaml", b"b")]));
    assert!(said.contains("no database among its 2 files: a.yaml, b.yaml"), "{said}");
}

#[test]
fn an_archive_without_files_is_empty() {
    let folder = tar_entry(b"folder/", tar::EntryType::Directory, b"");
    assert!(refused(&[folder, vec![0; 1024]].concat()).contains("holds no file"));
}

#[test]
fn a_data_directory_in_an_archive_is_told_by_its_log() {
    let bytes = snapshot();
    let log = "member/wal/0000000000000000-0000000000000000.wal";
    let with = open_bytes(&tar(&[("member/snap/db", &bytes), (log, b"frames")])).unwrap();
    let without = open_bytes(&tar(&[("member/snap/db", &bytes)])).unwrap();
    assert_eq!((with.log_beside, without.log_beside), (true, false));
    assert!(content(&with) == bytes);
}

#[test]
fn the_temporary_file_is_private_and_has_no_name() {
    let metadata = open_bytes(&gzip(&small())).unwrap().file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.mode() & 0o777), (0, 0o600));
}

#[test]
fn hostile_names_in_a_tar_are_only_names() {
    let bytes = small();
    let end = vec![0; 1024];
    for (name, told) in [
        (&b"../../etc/passwd"[..], "../../etc/passwd"),
        (b"/dev/sda", "/dev/sda"),
        (b"a\x1b[31m\\\xff", "a\\x1b[31m\\\\\\xff"),
        (b".", "."),
    ] {
        let archive = [tar_entry(name, tar::EntryType::Regular, &bytes), end.clone()].concat();
        check(&archive, &bytes, Some("tar"), Some(told));
    }
}

#[test]
fn links_and_devices_in_a_tar_are_passed_by() {
    let bytes = small();
    let kinds = [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo];
    let mut archive: Vec<u8> = kinds.iter().flat_map(|kind| tar_entry(b"db", *kind, b"")).collect();
    archive.extend(tar_entry(b"db", tar::EntryType::Regular, &bytes));
    archive.extend([0; 1024]);
    check(&archive, &bytes, Some("tar"), Some("db"));
}

#[test]
fn headers_without_end_in_a_tar_are_refused() {
    let name = vec![b'a'; 1 << 20];
    let archive = [tar_entry(b"././@LongLink", tar::EntryType::GNULongName, &name), vec![0; 1024]].concat();
    assert!(refused(&archive).contains("headers of one entry are too long"));
}

#[test]
fn containers_in_containers_have_a_bound() {
    let bytes = small();
    let three = gzip(&gzip(&gzip(&bytes)));
    check(&three, &bytes, Some("gzip+gzip+gzip"), None);
    let said = refused(&gzip(&three));
    assert!(said.contains("packed more than 3 times over"), "{said}");
}

#[test]
fn a_name_is_never_asked() {
    let bytes = snapshot();
    for name in ["snap.zip", "snap.tar.gz", "snap.db", "snap.zst", "snap"] {
        assert!(content(&open_named(&gzip(&bytes), name).unwrap()) == bytes);
        assert_eq!(open_named(&bytes, name).unwrap().layers, []);
    }
}

#[test]
fn what_is_no_container_passes_through() {
    let nearly_tar = [vec![b'a'; 300], b"ust".to_vec()].concat();
    for given in [&b""[..], b"x", b"\x1f", b"\x1f\x8b", b"PK", b"(\xb5", b"some text", &nearly_tar, &[0; 5000]] {
        assert_eq!(check(given, given, None, None).content, Content::Unknown);
    }
}

#[test]
fn a_directory_and_a_missing_file_are_errors_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::default();
    assert!(matches!(open(Input::Path(folder.path()), &options), Err(ContainerError::Directory { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(open(Input::Path(&missing), &options), Err(ContainerError::Open { .. })));
}

#[test]
fn a_pipe_is_spooled_and_unpacked_like_a_file() {
    let bytes = snapshot();
    let folder = tempfile::tempdir().unwrap();
    for (given, container) in [(bytes.clone(), None), (gzip(&tar(&[("db", &bytes)])), Some("tar+gzip"))] {
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = std::thread::spawn({
            let (pipe, given) = (pipe.clone(), given.clone());
            move || fs::write(pipe, given).unwrap()
        });
        let unpacked = open(Input::Path(&pipe), &Options::default()).unwrap();
        writer.join().unwrap();
        fs::remove_file(&pipe).unwrap();
        assert!(content(&unpacked) == bytes);
        assert_eq!(unpacked.container().as_deref(), container);
        assert_eq!(unpacked.bytes, given.len() as u64);
        assert_eq!(unpacked.given_sha256, container.map(|_| sha256(&given)));
    }
}

#[cfg(feature = "zip")]
#[test]
fn a_zip_from_a_pipe_is_spooled_first() {
    let bytes = snapshot();
    let given = zip(&[("db", &bytes)]);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let (pipe, given) = (pipe.clone(), given.clone());
        move || fs::write(pipe, given).unwrap()
    });
    let unpacked = open(Input::Path(&pipe), &Options::default()).unwrap();
    writer.join().unwrap();
    assert!(content(&unpacked) == bytes);
    assert_eq!(unpacked.given_sha256, Some(sha256(&given)));
}

#[test]
fn the_digest_covers_what_follows_the_container() {
    let bytes = small();
    let archive = [tar(&[("db", &bytes)]), b"what tar ignores".repeat(9000)].concat();
    check(&archive, &bytes, Some("tar"), Some("db"));
    // In gzip, what follows could be a further member that is damaged: it is not ignored.
    assert!(refused(&[gzip(&bytes), b"garbage".to_vec()].concat()).contains("gzip container is"));
}

#[test]
fn progress_counts_the_given_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given");
    let given = gzip(&snapshot());
    fs::write(&path, &given).unwrap();
    let told = Cell::new(0);
    let progress = |bytes| {
        assert!(bytes >= told.get());
        told.set(bytes);
    };
    open(Input::Path(&path), &Options { progress: &progress, ..Options::default() }).unwrap();
    assert_eq!(told.get(), given.len() as u64);
}

/// Opens with only so much room in the temporary directory.
fn open_with_room(given: &[u8], room: fn(&Path) -> io::Result<Room>) -> Result<Unpacked, ContainerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given");
    fs::write(&path, given).unwrap();
    Opener { options: &Options::default(), room }.open(Input::Path(&path))
}

#[test]
fn a_length_that_the_container_tells_is_checked_before_writing() {
    let archive = tar(&[("db", &snapshot())]);
    let error = open_with_room(&archive, |_| Ok(Room { available: 200_735 })).unwrap_err();
    assert!(error.to_string().contains("needs 200736 bytes, and 200735 are free"), "{error}");
    open_with_room(&archive, |_| Ok(Room { available: 200_736 })).unwrap();
}

#[test]
fn a_length_that_is_not_told_is_checked_while_writing() {
    let bomb = gzip(&vec![0; 4 << 20]);
    let error = open_with_room(&bomb, |_| Ok(Room { available: 100 })).unwrap_err();
    let ContainerError::NoRoom { needed, exact, .. } = error else { panic!("{error}") };
    assert!((256 << 10..1 << 20).contains(&needed) && !exact, "{needed}");
    assert!(open_with_room(&snapshot(), |_| Ok(Room { available: 0 })).is_ok(), "a plain file needs no room");
}

/// The forms that can be damaged, each with the length of what is in it.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = small();
    vec![
        ("gzip", gzip(&bytes)),
        ("tar", tar(&[("db", &bytes)])),
        ("gzip", gzip(&tar(&[("a", b"text"), ("db", &bytes)]))),
        #[cfg(feature = "zstd")]
        ("zstd", zstd(&bytes)),
        #[cfg(feature = "zip")]
        ("zip", zip(&[("db", &bytes)])),
    ]
}

#[test]
fn a_container_that_is_cut_off_is_an_error_with_its_place() {
    for (name, given) in forms() {
        let kept = if name == "tar" { given.len() - 1024 } else { given.len() };
        for end in (600..kept).step_by(97).chain([kept - 1]) {
            let said = refused(given.get(..end).unwrap());
            assert!(said.contains(&format!("the {name} container")), "{name} cut at {end}: {said}");
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_never_change_the_length_unseen() {
    let forms = forms();
    let expected = small();
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let strategy = (0..forms.len(), proptest::collection::vec((0.0..1.0_f64, 0..8_u32), 1..4));
    runner
        .run(&strategy, |(form, flips)| {
            let mut given = forms.get(form).unwrap().1.clone();
            for (at, bit) in flips {
                let at = (at * given.len() as f64) as usize;
                *given.get_mut(at).unwrap() ^= 1 << bit;
            }
            if let Ok(unpacked) = open_bytes(&given) {
                // A flip in the first bytes leaves something that is no container any more.
                assert!(unpacked.layers.is_empty() || content(&unpacked).len() == expected.len());
            }
            Ok(())
        })
        .unwrap();
}

#[cfg(feature = "zip")]
#[test]
fn a_zip_that_claims_a_billion_entries_is_refused() {
    let mut given = zip(&[("db", &small())]);
    let end = given.len() - 22;
    let (start, count) = (end as u64, 1_u64 << 30);
    let mut record = [&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8]].concat();
    record.extend([count, count, count * 46, 100].iter().flat_map(|number| number.to_le_bytes()));
    let locator = [&b"PK\x06\x07"[..], &[0; 4], &start.to_le_bytes(), &1_u32.to_le_bytes()].concat();
    let mut last = given.split_off(end);
    last.get_mut(8..20).unwrap().fill(0xff);
    given.extend([record, locator, last].concat());
    assert!(refused(&given).contains("entries"), "{}", refused(&given));
}

#[cfg(feature = "zip")]
#[test]
fn a_zip_with_a_password_says_so() {
    let mut given = zip(&[("db", &small())]);
    // The lowest bit of the flags, in the file's header and in the table of contents.
    let table = given.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    *given.get_mut(6).unwrap() |= 1;
    *given.get_mut(table + 8).unwrap() |= 1;
    assert!(refused(&given).contains("password"), "{}", refused(&given));
}

#[cfg(not(feature = "zip"))]
#[test]
fn a_build_without_zip_names_the_feature() {
    assert!(refused(b"PK\x03\x04 and so on").contains("feature `zip`"));
}

#[cfg(not(feature = "zstd"))]
#[test]
fn a_build_without_zstd_names_the_feature() {
    assert!(refused(b"\x28\xb5\x2f\xfd and so on").contains("feature `zstd`"));
}
