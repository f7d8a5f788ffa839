//! Tells what a content is by how it begins.

use super::{Content, Layer};

/// How much of a content is looked at: the second meta page of a bbolt database begins one page after the first, and
/// a page has at most 64 KiB.
pub(super) const HEAD_BYTES: u64 = 65_536 + 64;

/// bbolt's magic, as it stands in a meta page after the page header (bbolt `internal/common/meta.go`).
const BBOLT_MAGIC: u32 = 0xED0C_DAED;
const BBOLT_MAGIC_OFFSET: usize = 16;
const BBOLT_PAGE_SIZES: [usize; 7] = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Its last bit says in which byte order checksums were made.
const SQLITE_LOG_MAGICS: [&[u8]; 2] = [&[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83]];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 0x08];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A zip begins with a file, or with the table of contents where it has none.
const ZIP_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
const TAR_HEADER_BYTES: usize = 512;
const TAR_CHECKSUM: std::ops::Range<usize> = 148..156;
const TAR_MAGIC: std::ops::Range<usize> = 257..262;

/// What a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Others are packed in it.
    Packed(Layer),
    /// There is nothing to unpack.
    Plain(Content),
}

/// Tells what begins with `head`.
pub(super) fn format(head: &[u8]) -> Format {
    // Containers come first: what they hold may show its own magic where a second meta page would have it.
    if head.starts_with(GZIP_MAGIC) {
        Format::Packed(Layer::Gzip)
    } else if head.starts_with(ZSTD_MAGIC) || is_zstd_skippable(head) {
        Format::Packed(Layer::Zstd)
    } else if ZIP_MAGICS.iter().any(|magic| head.starts_with(magic)) {
        Format::Packed(Layer::Zip)
    } else if is_tar(head) {
        Format::Packed(Layer::Tar)
    } else if is_bbolt(head) {
        Format::Plain(Content::Bbolt)
    } else if head.starts_with(SQLITE_MAGIC) {
        Format::Plain(Content::Sqlite)
    } else if SQLITE_LOG_MAGICS.iter().any(|magic| head.starts_with(magic)) {
        Format::Plain(Content::SqliteLog)
    } else {
        Format::Plain(Content::Unknown)
    }
}

/// One of the two meta pages is enough, so that a damaged database is still one.
fn is_bbolt(head: &[u8]) -> bool {
    // bbolt writes in the byte order of its machine.
    let magic_at = |page: usize| {
        let bytes = head.get(page + BBOLT_MAGIC_OFFSET..)?.first_chunk::<4>()?;
        Some([u32::from_le_bytes(*bytes), u32::from_be_bytes(*bytes)].contains(&BBOLT_MAGIC))
    };
    magic_at(0) == Some(true) || BBOLT_PAGE_SIZES.iter().any(|page| magic_at(*page) == Some(true))
}

/// Some writers begin with a frame that carries no content (RFC 8878, 3.1.2).
fn is_zstd_skippable(head: &[u8]) -> bool {
    head.first_chunk::<4>().is_some_and(|magic| u32::from_le_bytes(*magic) & 0xffff_fff0 == 0x184D_2A50)
}

/// The magic alone is enough, so that a damaged header is reported as one; older archives have only the checksum.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<TAR_HEADER_BYTES>() else {
        return head.get(TAR_MAGIC) == Some(b"ustar");
    };
    if header.get(TAR_MAGIC) == Some(b"ustar") {
        return true;
    }
    let sum: u32 =
        (0..).zip(header).map(|(at, byte)| if TAR_CHECKSUM.contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let written = header.get(TAR_CHECKSUM).and_then(octal);
    header.first() != Some(&0) && written == Some(sum)
}

fn octal(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u32::from_str_radix(text, 8).ok()
}

/// The length that a zstd frame announces for its content. Where more frames follow, the whole is longer.
pub(super) fn zstd_content_bytes(head: &[u8]) -> Option<u64> {
    #[cfg(feature = "zstd")]
    return zstd::zstd_safe::get_frame_content_size(head).ok().flatten().filter(|bytes| *bytes > 0);
    #[cfg(not(feature = "zstd"))]
    {
        let _ = head;
        None
    }
}
