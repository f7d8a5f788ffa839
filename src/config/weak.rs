//! Keys that look chosen instead of drawn: what no random generator gives in practice.
//!
//! Every threshold is set so that a random key meets it less than once in five million times.

use super::base64;

/// Keys that stand in public texts, and where. They are as public here as they are there.
const PUBLISHED: &[(&str, &str)] = &[
    ("c2VjcmV0IGlzIHNlY3VyZQ==", "the documentation of Kubernetes and OpenShift"),
    ("dGhpcyBpcyBwYXNzd29yZA==", "the documentation of Kubernetes and OpenShift"),
    ("YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=", "the documentation of Kubernetes and OpenShift"),
    ("c2VjcmV0IGlzIHNlY3VyZSwgaXMgaXQ/", "Kubernetes' documentation of storage version migration"),
    ("RTczRjFDODMwQzAyMDVBREU4NDJBMUZFNDhCNzM5N0I=", "RKE's documentation"),
    ("r4rGb8CJxIy5zh80kKDWxA6wQOPR7zbBlEmLVSsohIo=", "a public tutorial"),
    ("Nekla5byJTwg8Bz4eHnQ7DQpSBvD+YE6AU6ofPUNpYk=", "a public tutorial"),
    ("yriXiiDjtmUdAR/E8qIMWd0xR4YMaqZAqZAj3KJiTSM=", "a public tutorial"),
    ("WxaW1k22mu3M/WYMIWYVOkAOrOTJ17+Q5+McAIqK3bM=", "a public tutorial"),
    ("TUlJRW93SUJBQUtDQVFFQXp4aWs4NE03eDNiNnJUY3I=", "a public tutorial"),
];

/// What is suspicious about the bytes of a key, if anything.
pub(super) fn weakness(key: &[u8]) -> Option<&'static str> {
    if is_placeholder(key) {
        None
    } else if repeats(key) {
        Some("consists of repeated bytes")
    } else if is_sequence(key) {
        Some("is a sequence of bytes at equal distances")
    } else if is_hexadecimal(key) {
        Some("is hexadecimal text, which has only half the bits of its length")
    } else if is_printable(key) {
        Some("is printable text, which random bytes are not")
    } else if is_monotonous(key) {
        Some("has far fewer different bytes than a random key")
    } else {
        None
    }
}

/// All zeros: OpenShift's stand-in for a key that never was.
pub(super) fn is_placeholder(key: &[u8]) -> bool {
    key.iter().all(|byte| *byte == 0)
}

/// Whether the key is an example that anybody can read.
pub(super) fn published_in(key: &[u8]) -> Option<&'static str> {
    let published = |known: &str| base64::decode(known).is_some_and(|known| known.as_slice() == key);
    PUBLISHED.iter().find(|(known, _)| published(known)).map(|(_, source)| *source)
}

/// A pattern of at most half the length, all the way: for 16 bytes that is one chance in 2^64.
fn repeats(key: &[u8]) -> bool {
    (1..=key.len() / 2).any(|period| key.iter().zip(key.iter().skip(period)).all(|(one, other)| one == other))
}

/// `01 02 03 ...` and the like, downward or in larger steps too.
fn is_sequence(key: &[u8]) -> bool {
    let mut steps = key.iter().zip(key.iter().skip(1)).map(|(one, next)| next.wrapping_sub(*one));
    steps.next().is_some_and(|first| steps.all(|step| step == first))
}

/// Sixteen of 256 bytes are digits or letters of one case, so 16 random ones are so once in 2^64.
fn is_hexadecimal(key: &[u8]) -> bool {
    key.iter().all(u8::is_ascii_hexdigit)
}

/// Ninety-nine of 256 bytes are printable or white space: 16 random ones are so once in four million times for the
/// shortest key that any provider takes, and once in 10^13 for 32.
fn is_printable(key: &[u8]) -> bool {
    key.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || byte.is_ascii_whitespace())
}

/// Of 16 random bytes all but a few differ; at most 8 different ones come once in ten million times. With 24 and 32 bytes
/// the same holds for 13 and 17.
fn is_monotonous(key: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in key {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    let distinct = seen.iter().filter(|seen| **seen).count();
    let few = match key.len() {
        ..16 => 0,
        16..24 => 8,
        24..32 => 13,
        _ => 17,
    };
    distinct <= few
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn chosen_keys_are_told_from_drawn_ones() {
        for weak in [
            &[7; 32][..],
            b"abcdabcdabcdabcd",
            b"secret is secure",
            b"0123456789abcdef0123456789abcdeX",
            b"00112233445566778899aabbccddeeff",
            &(1..=32).collect::<Vec<u8>>(),
            &(0..32).map(|index| 200 - 3 * index).collect::<Vec<u8>>(),
            &[0xf1, 0xe2, 0xf1, 0xf1, 0xe2, 0xe2, 0xe2, 0xf1, 0xc3, 0xf1, 0xe2, 0xc3, 0xc3, 0xf1, 0xe2, 0xf1],
        ] {
            assert!(weakness(weak).is_some(), "{weak:?}");
        }
        // Digests stand in for random keys.
        for number in 0..10_000u32 {
            let drawn = Sha256::digest(number.to_be_bytes());
            assert_eq!(weakness(&drawn), None);
            assert_eq!(weakness(&drawn[..16]), None);
            assert_eq!(weakness(&drawn[..24]), None);
        }
    }

    #[test]
    fn zeros_are_a_placeholder_and_no_weak_key() {
        assert!(is_placeholder(&[0; 16]));
        assert_eq!(weakness(&[0; 16]), None);
    }

    #[test]
    fn examples_of_the_documentation_are_known() {
        assert!(published_in(b"secret is secure").is_some());
        assert!(published_in(b"abcdefghijklmnopqrstuvwxyz123456").is_some());
        assert!(published_in(b"secret is secur3").is_none());
        for (known, _) in PUBLISHED {
            assert!(base64::decode(known).is_some_and(|key| matches!(key.len(), 16 | 24 | 32)), "{known}");
        }
    }
}
