//! The digests that etcd's own tools print, so that an administrator can compare.
//!
//! * The *snapshot digest* (`etcdutl snapshot status`): CRC-32C over every bucket's name and all its keys and values,
//!   one after another. It depends on nothing but the pairs. Upstream: `etcd-io/etcd` `etcdutl/snapshot/v3_snapshot.go`.
//! * The *key-value hash* (`etcdctl endpoint hashkv`): CRC-32C over the records of the `key` bucket as they are seen at
//!   a revision, without those that a compaction at that revision's past would have removed. Upstream:
//!   `server/storage/mvcc/hash.go`.
//!
//! Leaf pages are read in the order of the file and by several readers, so their checksums are put together afterwards:
//! the CRC of two texts one behind the other follows from the CRCs of both and the length of the second.

/// The Castagnoli polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The CRC-32C of some text, and the text's length, so that it can be joined to what stood before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc {
    /// The checksum.
    pub value: u32,
    /// The number of bytes it covers.
    pub bytes: u64,
}

impl Crc {
    /// The checksum of `text`.
    pub fn of(text: &[u8]) -> Self {
        let mut crc = Self::default();
        crc.add(text);
        crc
    }

    /// Goes on with `text`.
    pub fn add(&mut self, text: &[u8]) {
        self.value = crc32c::crc32c_append(self.value, text);
        self.bytes += text.len() as u64;
    }

    /// Goes on with a text that is only known by its checksum.
    pub fn join(&mut self, next: Self) {
        self.value = multiply(power_of_x(next.bytes), self.value) ^ next.value;
        self.bytes = self.bytes.wrapping_add(next.bytes);
    }
}

/// The product of two polynomials over GF(2) modulo [`POLYNOMIAL`], bits reflected.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        if a & (1 << bit) != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ if b & 1 != 0 { POLYNOMIAL } else { 0 };
    }
    product
}

/// x to the power of 8 times `bytes`, modulo the polynomial: what appending so many bytes multiplies a CRC with.
fn power_of_x(bytes: u64) -> u32 {
    let mut power = 1 << 31; // the polynomial 1
    for (bit, square) in SQUARES.iter().enumerate() {
        if bytes & (1 << bit) != 0 {
            power = multiply(*square, power);
        }
    }
    power
}

/// x^8, x^16, x^32 and so on: each the square of the one before.
static SQUARES: [u32; 64] = squares();

const fn squares() -> [u32; 64] {
    let mut squares = [1 << 23; 64];
    let mut index = 1;
    while index < squares.len() {
        squares[index] = multiply(squares[index - 1], squares[index - 1]);
        index += 1;
    }
    squares
}

/// What the key-value hash needs to know beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKvView {
    /// Records with a later main revision are not hashed.
    pub at: i64,
    /// The revision of the last compaction; none if there was none.
    pub compacted: Option<i64>,
}

impl HashKvView {
    /// Whether a record is hashed. `kept` says whether it is what its key has at revision [`at`](Self::at), and a put;
    /// `any_kept` whether there is any such record at all.
    pub fn hashes(&self, main: i64, tombstone: bool, kept: bool, any_kept: bool) -> bool {
        let compacted = self.compacted.unwrap_or(-1);
        let superseded = main <= compacted && any_kept && !kept;
        let deletion_at_compaction = main == compacted && tombstone;
        main <= self.at && !superseded && !deletion_at_compaction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_checksums_equal_the_checksum_of_the_whole() {
        let text: Vec<u8> = (0..5000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for cut in [0, 1, 17, 2500, 4999, 5000] {
            let mut joined = Crc::of(&text[..cut]);
            joined.join(Crc::of(&text[cut..]));
            assert_eq!(joined, Crc::of(&text), "cut at {cut}");
        }
    }

    #[test]
    fn an_empty_key_bucket_hashes_as_etcd_says() {
        assert_eq!(Crc::of(b"key").value, 1_084_519_789);
    }

    #[test]
    fn a_single_record_hashes_as_etcd_says() {
        use crate::etcd::{KeyValue, Revision, RevisionKey};
        let record = KeyValue {
            key: b"test-key",
            value: b"test-value",
            lease: 1,
            create_revision: 2,
            mod_revision: 2,
            version: 1,
        };
        let mut crc = Crc::of(b"key");
        crc.add(&RevisionKey { revision: Revision { main: 2, sub: 0 }, tombstone: false }.encode());
        crc.add(&record.encode());
        assert_eq!(crc.value, 645_561_629);
    }
}
