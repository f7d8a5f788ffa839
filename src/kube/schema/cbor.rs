//! CBOR of custom resources to JSON.
//!
//! Strings come as byte strings; bytes that are data bear tag 22, which says that they are base64 in JSON. Only what the API
//! server's serializer writes is taken: definite lengths, no bignums, no infinities.
//!
//! Upstream: `pkg/runtime/serializer/cbor` of `kubernetes/apimachinery`; RFC 8949.

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine};
use serde_json::{Map, Number, Value};

use crate::kube::document::MAX_DEPTH;

/// The tag for self-described CBOR, with which every value begins.
pub(super) const MAGIC: &[u8] = &[0xd9, 0xd9, 0xf7];

/// What is no such CBOR: how many bytes were left, and what is wrong.
pub(super) struct Fault {
    pub(super) left: usize,
    pub(super) what: &'static str,
}

/// Reads a whole value.
pub(super) fn read(plain: &[u8]) -> Result<Value, Fault> {
    let mut reader = Reader { rest: plain };
    let value = reader.item(0)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(reader.fault("bytes behind the object")) }
}

struct Reader<'c> {
    rest: &'c [u8],
}

impl<'c> Reader<'c> {
    fn fault(&self, what: &'static str) -> Fault {
        Fault { left: self.rest.len(), what }
    }

    fn take(&mut self, length: u64) -> Result<&'c [u8], Fault> {
        let length = usize::try_from(length).ok();
        match length.and_then(|length| self.rest.split_at_checked(length)) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(Fault { left: 0, what: "cut off" }),
        }
    }

    /// Major type, the five low bits, and the number that they announce.
    fn head(&mut self) -> Result<(u8, u8, u64), Fault> {
        let first = self.take(1)?.first().copied().unwrap_or(0);
        let (major, low) = (first >> 5, first & 0x1f);
        let more = match low {
            0..=23 => return Ok((major, low, u64::from(low))),
            24..=27 => 1_u64 << (low - 24),
            _ => return Err(self.fault("an indefinite length")),
        };
        let bytes = self.take(more)?;
        Ok((major, low, bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))))
    }

    fn item(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        let (major, low, argument) = self.head()?;
        Ok(match major {
            0 => Value::from(argument),
            1 => match i64::try_from(argument) {
                Ok(argument) => Value::from(-1 - argument),
                Err(_) => return Err(self.fault("a number beyond 64 bits")),
            },
            2 | 3 => Value::from(self.text(argument)?),
            4 => {
                let mut items = Vec::new();
                for _ in 0..argument {
                    items.push(self.item(depth + 1)?);
                }
                Value::Array(items)
            }
            5 => {
                let mut members = Map::new();
                for _ in 0..argument {
                    let (major, _, length) = self.head()?;
                    if !matches!(major, 2 | 3) {
                        return Err(self.fault("a key that is no string"));
                    }
                    let key = self.text(length)?;
                    members.insert(key, self.item(depth + 1)?);
                }
                Value::Object(members)
            }
            6 => self.tagged(argument, depth)?,
            _ => self.simple(low, argument)?,
        })
    }

    fn text(&mut self, length: u64) -> Result<String, Fault> {
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.fault("no UTF-8"))
    }

    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, Fault> {
        if !matches!(tag, 21..=23) {
            // Self-described CBOR, and times that are strings: what they tag is what is meant.
            return match tag {
                0 | 55799 => self.item(depth + 1),
                _ => Err(self.fault("a tag that nobody writes")),
            };
        }
        let (major, _, length) = self.head()?;
        if major != 2 {
            return Err(self.fault("a tag of bytes before something else"));
        }
        let bytes = self.take(length)?;
        Ok(Value::from(match tag {
            21 => BASE64_URL_SAFE.encode(bytes).trim_end_matches('=').to_owned(),
            22 => BASE64_STANDARD.encode(bytes),
            _ => bytes.iter().map(|byte| format!("{byte:02X}")).collect(),
        }))
    }

    fn simple(&mut self, low: u8, argument: u64) -> Result<Value, Fault> {
        let float = match low {
            20 => return Ok(Value::Bool(false)),
            21 => return Ok(Value::Bool(true)),
            22 => return Ok(Value::Null),
            25 => half(argument as u16),
            26 => f64::from(f32::from_bits(argument as u32)),
            27 => f64::from_bits(argument),
            _ => return Err(self.fault("a value that JSON has not")),
        };
        // Whole numbers are integers in JSON, as Go writes them.
        if float.fract() == 0.0 && float.abs() < 1e15 {
            return Ok(Value::from(float as i64));
        }
        Number::from_f64(float).map(Value::Number).ok_or(self.fault("a number that JSON has not"))
    }
}

/// A 16-bit float: one bit of sign, five of exponent, ten of fraction.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}
