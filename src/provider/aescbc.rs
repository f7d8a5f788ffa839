//! AES-CBC with PKCS #7 padding and no authentication.
//!
//! ```text
//! body := IV (16 bytes) || AES-CBC(plaintext || padding)
//! ```
//!
//! Sealing is serial within a value, since each block goes into the next one. [`AesCbc::seal_all`] therefore seals many values
//! side by side, a block of each at a time.
//!
//! Nothing binds a value to its etcd key, and a wrong key passes the padding check about once in 255 times, so an opened
//! value is proved only by what it holds. Upstream takes padding lengths up to 255, and so does this reader.
//!
//! Upstream: `kubernetes/apiserver`, `pkg/storage/value/encrypt/aes/aes.go`, type `cbc`.

use aes::{Aes128, Aes192, Aes256};
use cbc::Encryptor;
use cbc::cipher::array::Array;
use cbc::cipher::consts::U16;
use cbc::cipher::typenum::Unsigned;
use cbc::cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeEncrypt,
    BlockSizeUser, InnerIvInit, KeyInit, ParBlocks,
};

use super::fault::Fault;
use super::plaintext::Plaintext;

/// The length of the IV in front of the blocks.
pub const IV_BYTES: usize = 16;

/// The length of a block.
const BLOCK_BYTES: usize = 16;

/// So many values are sealed side by side: what the cipher takes at once with AVX-512, and eight times what it takes with the
/// plain AES instructions.
const LANES: usize = 64;

type Block = Array<u8, U16>;

/// Room behind an opened value, so that its last blocks can be decrypted as many at once as the processor takes: 64 with
/// AVX-512.
const SPARE_BYTES: usize = 64 * BLOCK_BYTES;

/// A key with its schedule computed.
pub struct AesCbc(Schedule);

enum Schedule {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl AesCbc {
    /// `None` if the key has not 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let schedule = match key.len() {
            16 => Schedule::Aes128(Aes128::new_from_slice(key).ok()?),
            24 => Schedule::Aes192(Aes192::new_from_slice(key).ok()?),
            32 => Schedule::Aes256(Aes256::new_from_slice(key).ok()?),
            _ => return None,
        };
        Some(Self(schedule))
    }

    /// Opens a body into `scratch` and tells how many bytes there are plaintext.
    ///
    /// # Errors
    ///
    /// In upstream's order: too short, not whole blocks, no block, no padding length, uneven padding.
    pub fn open(&self, body: &[u8], scratch: &mut Plaintext) -> Result<usize, Fault> {
        let (iv, sealed) = body.split_first_chunk::<IV_BYTES>().ok_or(Fault::TooShort)?;
        let (sealed_blocks, torn) = Block::slice_as_chunks(sealed);
        if !torn.is_empty() {
            return Err(Fault::NotBlocks);
        }
        if sealed_blocks.is_empty() {
            return Err(Fault::NoBlocks);
        }
        let opened = scratch.room(sealed.len() + SPARE_BYTES);
        match &self.0 {
            Schedule::Aes128(aes) => decrypt(aes, iv, sealed, opened),
            Schedule::Aes192(aes) => decrypt(aes, iv, sealed, opened),
            Schedule::Aes256(aes) => decrypt(aes, iv, sealed, opened),
        }
        without_padding(opened.get(..sealed.len()).unwrap_or_default())
    }

    /// Appends the body for `plaintext` to `out`. An IV must be random and never serve twice.
    pub fn seal(&self, plaintext: &[u8], iv: &[u8; IV_BYTES], out: &mut Vec<u8>) {
        let Unsealed { start, .. } = frame(plaintext, iv, out);
        let (blocks, _) = Block::slice_as_chunks_mut(out.get_mut(start + IV_BYTES..).unwrap_or_default());
        match &self.0 {
            Schedule::Aes128(aes) => encrypt(aes, iv, blocks),
            Schedule::Aes192(aes) => encrypt(aes, iv, blocks),
            Schedule::Aes256(aes) => encrypt(aes, iv, blocks),
        }
    }

    /// Seals what [`frame`] appended to `buffer`, side by side. `bodies` ascend, as they were framed.
    pub fn seal_all(&self, buffer: &mut [u8], bodies: &[Unsealed]) {
        let mut rest = buffer;
        let mut taken = 0;
        let lanes = bodies.iter().filter_map(move |Unsealed { start, bytes }| {
            let behind = std::mem::take(&mut rest).split_at_mut_checked(start.checked_sub(taken)?)?.1;
            let (body, behind) = behind.split_at_mut_checked(*bytes)?;
            (rest, taken) = (behind, start + bytes);
            let (iv, blocks) = body.split_first_chunk_mut::<IV_BYTES>()?;
            Some((Block::from(*iv), Lane { blocks: Block::slice_as_chunks_mut(blocks).0 }))
        });
        match &self.0 {
            Schedule::Aes128(aes) => encrypt_all(aes, lanes),
            Schedule::Aes192(aes) => encrypt_all(aes, lanes),
            Schedule::Aes256(aes) => encrypt_all(aes, lanes),
        }
    }
}

/// Bytes of a body: IV, plaintext and padding.
pub fn body_bytes(plaintext: usize) -> usize {
    IV_BYTES + plaintext + (BLOCK_BYTES - plaintext % BLOCK_BYTES)
}

/// A body that was framed and whose blocks are still plaintext.
#[derive(Clone, Copy, Debug)]
pub struct Unsealed {
    /// Where it starts in its buffer, with the IV.
    start: usize,
    /// Bytes of IV, plaintext and padding.
    bytes: usize,
}

/// Appends IV, plaintext and padding to `out`, to be sealed by [`AesCbc::seal_all`].
pub fn frame(plaintext: &[u8], iv: &[u8; IV_BYTES], out: &mut Vec<u8>) -> Unsealed {
    let (start, bytes) = (out.len(), body_bytes(plaintext.len()));
    let padding = bytes - IV_BYTES - plaintext.len();
    // Reserved beforehand, since a buffer that moves would leave plaintext behind.
    out.reserve(bytes);
    out.extend_from_slice(iv);
    out.extend_from_slice(plaintext);
    out.extend(std::iter::repeat_n(padding as u8, padding));
    Unsealed { start, bytes }
}

/// What of a body is not sealed yet.
struct Lane<'b> {
    blocks: &'b mut [Block],
}

/// Seals bodies side by side, each a lane, given with its IV. As long as no lane ends, nothing is looked after but blocks; one
/// that ends makes room for the next body, and at the end fewer and fewer are left.
fn encrypt_all<'b, C>(aes: &C, mut bodies: impl Iterator<Item = (Block, Lane<'b>)>)
where
    C: BlockCipherEncrypt<BlockSize = U16>,
{
    let mut lanes: Vec<Lane<'b>> = Vec::with_capacity(LANES);
    // Of each lane the block that was sealed last; at first the IV.
    let mut chained: Vec<Block> = Vec::with_capacity(LANES);
    loop {
        while lanes.len() < LANES
            && let Some((iv, lane)) = bodies.next()
        {
            chained.push(iv);
            lanes.push(lane);
        }
        if lanes.is_empty() {
            return;
        }
        let steps = lanes.iter().map(|lane| lane.blocks.len()).min().unwrap_or(0);
        for step in 0..steps {
            for (block, lane) in chained.iter_mut().zip(&lanes) {
                if let Some(plaintext) = lane.blocks.get(step) {
                    *block = (u128::from_ne_bytes(block.0) ^ u128::from_ne_bytes(plaintext.0)).to_ne_bytes().into();
                }
            }
            aes.encrypt_blocks(&mut chained);
            for (sealed, lane) in chained.iter().zip(&mut lanes) {
                if let Some(place) = lane.blocks.get_mut(step) {
                    *place = *sealed;
                }
            }
        }
        let mut lane = 0;
        while let Some(Lane { blocks }) = lanes.get_mut(lane) {
            *blocks = std::mem::take(blocks).get_mut(steps..).unwrap_or_default();
            if blocks.is_empty() {
                lanes.swap_remove(lane);
                chained.swap_remove(lane);
            } else {
                lane += 1;
            }
        }
    }
}

/// Opens whole blocks into the start of `opened`, which has [`SPARE_BYTES`] more.
fn decrypt<C: BlockCipherDecrypt<BlockSize = U16>>(aes: &C, iv: &[u8; IV_BYTES], sealed: &[u8], opened: &mut [u8]) {
    let (sealed_blocks, _) = Block::slice_as_chunks(sealed);
    let (opened_blocks, _) = Block::slice_as_chunks_mut(opened);
    aes.decrypt_with_backend(Blocks { iv: (*iv).into(), sealed: sealed_blocks, opened: opened_blocks });
}

/// Mixes texts block by block, as far as the shorter one goes.
#[inline(always)]
fn mix(text: &mut [Block], other: &[Block]) {
    for (block, other) in text.iter_mut().zip(other) {
        *block = (u128::from_ne_bytes(block.0) ^ u128::from_ne_bytes(other.0)).to_ne_bytes().into();
    }
}

/// Blocks to be decrypted, each for itself, and where they go.
///
/// The crates decrypt a number of blocks at once that depends on the processor, up to 64, and what is left of a value one
/// after another. Most values are shorter than 64 blocks, so here the rest goes as a whole, too, filled up with whatever
/// stands in the room behind it.
///
/// They are mixed here, too, where the compiler knows the processor.
struct Blocks<'b> {
    iv: Block,
    sealed: &'b [Block],
    opened: &'b mut [Block],
}

impl BlockSizeUser for Blocks<'_> {
    type BlockSize = U16;
}

impl BlockCipherDecClosure for Blocks<'_> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, backend: &B) {
        let at_once = B::ParBlocksSize::USIZE;
        let (batches, rest) = ParBlocks::<B>::slice_as_chunks(self.sealed);
        let (opened_batches, _) = ParBlocks::<B>::slice_as_chunks_mut(self.opened);
        let mut opened_batches = opened_batches.iter_mut();
        for (sealed, opened) in batches.iter().zip(&mut opened_batches) {
            backend.decrypt_par_blocks((sealed, opened).into());
        }
        match opened_batches.next() {
            // One after another is quicker for a few.
            Some(batch) if rest.len() > at_once / 4 => {
                batch.iter_mut().zip(rest).for_each(|(opened, sealed)| *opened = *sealed);
                backend.decrypt_par_blocks_inplace(batch);
            }
            _ => {
                let opened = self.opened.get_mut(batches.len() * at_once..).unwrap_or_default();
                for (sealed, opened) in rest.iter().zip(opened) {
                    backend.decrypt_block((sealed, opened).into());
                }
            }
        }
        // What CBC adds to the cipher: each block was mixed with the sealed one before it.
        let opened = self.opened.get_mut(..self.sealed.len()).unwrap_or_default();
        if let Some((first, behind)) = opened.split_first_mut() {
            mix(std::slice::from_mut(first), std::slice::from_ref(&self.iv));
            mix(behind, self.sealed);
        }
    }
}

fn encrypt<C: BlockCipherEncrypt<BlockSize = U16>>(aes: &C, iv: &[u8; IV_BYTES], blocks: &mut [Block]) {
    Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks);
}

/// The length without padding. The last byte may claim up to 255 bytes, more than PKCS #7 allows, as upstream has it.
fn without_padding(opened: &[u8]) -> Result<usize, Fault> {
    let padding = opened.last().copied().unwrap_or_default();
    let plaintext = match opened.len().checked_sub(usize::from(padding)) {
        Some(bytes) if padding != 0 => bytes,
        _ => return Err(Fault::NotPadded),
    };
    let even = match opened.last_chunk::<BLOCK_BYTES>() {
        // Shifted so that nothing but the padding is left.
        Some(last) if usize::from(padding) <= BLOCK_BYTES => {
            let other = u128::from_le_bytes(*last) ^ u128::from_le_bytes([padding; BLOCK_BYTES]);
            other >> (u128::BITS - u32::from(padding) * u8::BITS) == 0
        }
        _ => opened.iter().skip(plaintext).all(|&byte| byte == padding),
    };
    if even { Ok(plaintext) } else { Err(Fault::Padding) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors::{KEY_32, hex};
    use super::*;

    const IV: [u8; 16] =
        [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f];

    fn open(key: &[u8], body: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut scratch = Plaintext::new();
        let bytes = AesCbc::new(key).unwrap().open(body, &mut scratch)?;
        Ok(scratch.opened(bytes).to_vec())
    }

    /// Seals blocks as they are, without adding padding.
    fn seal_blocks(key: &[u8; 32], plain: &[u8]) -> Vec<u8> {
        let mut blocks: Vec<Block> = Block::slice_as_chunks(plain).0.to_vec();
        encrypt(&Aes256::new(key.into()), &IV, &mut blocks);
        [&IV[..], Block::slice_as_flattened(&blocks)].concat()
    }

    #[test]
    fn known_answers_open_and_seal() {
        for (plaintext, sealed) in [
            (&b"hello etcd"[..], "101112131415161718191a1b1c1d1e1fc60dd24bfd5a1b371590590d7d692f8e"),
            (b"", "101112131415161718191a1b1c1d1e1f5a6e045708fb7196f02e553d02c3a692"),
        ] {
            assert_eq!(open(&KEY_32, &hex(sealed)).unwrap(), plaintext);
            let mut out = Vec::new();
            AesCbc::new(&KEY_32).unwrap().seal(plaintext, &IV, &mut out);
            assert_eq!(out, hex(sealed));
        }
    }

    #[test]
    fn only_three_key_lengths_are_keys() {
        let lengths: Vec<usize> = (0..64).filter(|&bytes| AesCbc::new(&vec![0; bytes]).is_some()).collect();
        assert_eq!(lengths, [16, 24, 32]);
    }

    #[test]
    fn faults_come_in_upstreams_order() {
        assert_eq!(open(&KEY_32, &[0; 15]), Err(Fault::TooShort));
        assert_eq!(open(&KEY_32, &[0; 17]), Err(Fault::NotBlocks));
        assert_eq!(open(&KEY_32, &[0; 16]), Err(Fault::NoBlocks));
        assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &[0; 16])), Err(Fault::NotPadded));
        assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &[17; 16])), Err(Fault::NotPadded));
        let uneven = [[9; 12].as_slice(), &[4, 3, 4, 4]].concat();
        assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &uneven)), Err(Fault::Padding));
    }

    #[test]
    fn each_byte_of_the_padding_counts_and_none_before_it() {
        for padding in 1..=32_u8 {
            let plaintext = 48 - usize::from(padding);
            for at in 0..47 {
                let mut blocks = [padding; 48];
                blocks[at] ^= 1;
                let expected = if at < plaintext { Ok(blocks[..plaintext].to_vec()) } else { Err(Fault::Padding) };
                assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &blocks)), expected, "{padding} {at}");
            }
        }
    }

    #[test]
    fn padding_beyond_a_block_is_taken_as_upstream_takes_it() {
        let long = [[7; 1].as_slice(), &[255; 255]].concat();
        assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &long)).unwrap(), [7]);
        assert_eq!(open(&KEY_32, &seal_blocks(&KEY_32, &[32; 32])).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(
            key in prop_oneof![Just(16), Just(24), Just(32)].prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)),
            plaintext in prop::collection::vec(any::<u8>(), 0..700),
            iv: [u8; 16],
        ) {
            let mut out = Vec::new();
            AesCbc::new(&key).unwrap().seal(&plaintext, &iv, &mut out);
            prop_assert_eq!(open(&key, &out).unwrap(), plaintext);
        }

        #[test]
        fn side_by_side_seals_as_one_by_one(
            values in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..400), any::<[u8; 16]>()), 0..80),
            between in 0_usize..5,
        ) {
            let cipher = AesCbc::new(&KEY_32).unwrap();
            let (mut expected, mut buffer, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
            for (plaintext, iv) in &values {
                for out in [&mut expected, &mut buffer] {
                    out.extend(std::iter::repeat_n(7, between));
                }
                cipher.seal(plaintext, iv, &mut expected);
                bodies.push(frame(plaintext, iv, &mut buffer));
            }
            cipher.seal_all(&mut buffer, &bodies);
            prop_assert_eq!(buffer, expected);
        }

        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = open(&KEY_32, &body);
        }
    }
}
