//! Names of things: hashes of 32 bytes, ulids, source names.
//!
//! Each name is its own type, so that a pack's name can never stand where a chunk's is meant.
//! Invariant: a name prints as lower-case hex (hashes) or Crockford base 32 (ulids).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::random::{Random, draw};

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not as many hex digits as the name has.
    #[error("{text:?} is not {digits} hex digits")]
    Hex {
        /// What was given.
        text: String,
        /// How many digits the name has.
        digits: usize,
    },
    /// Not a ulid.
    #[error("{text:?} is not a ulid of 26 characters")]
    Ulid {
        /// What was given.
        text: String,
    },
    /// Not the name of a key slot.
    #[error("{text:?} is not the name of a key slot, which has 8 characters of a-z and 2-7")]
    Slot {
        /// What was given.
        text: String,
    },
    /// Not a source name.
    #[error("{text:?} is not a source name")]
    Source {
        /// What was given.
        text: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        Class::Invalid
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Source { .. } => {
                Some("use 1 to 64 of a-z, 0-9, '.', '_' and '-'; --name names a source".into())
            }
            _ => None,
        }
    }
}

/// `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is below 16"));
        out.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is below 16"));
    }
    out
}

/// The bytes that lower- or upper-case hex digits stand for; none for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            Some((high * 16 + low) as u8)
        })
        .collect()
}

macro_rules! bytes_name {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                unhex(text)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map($name)
                    .ok_or_else(|| Error::Hex { text: text.to_owned(), digits: $len * 2 })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                serde_bytes::Bytes::new(&self.0).serialize(out)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                serde_bytes::ByteArray::<$len>::deserialize(input).map(|bytes| $name(*bytes))
            }
        }
    };
}

bytes_name!(
    /// The name of a chunk: keyed BLAKE3 of its kind and its canonical content.
    ChunkId,
    32
);
bytes_name!(
    /// The name of a stored object that never changes (pack, index, manifest): BLAKE3 of its bytes.
    ObjectId,
    32
);
bytes_name!(
    /// A source's name in paths: keyed BLAKE3 of the name, so that listings tell nobody.
    SourceHash,
    16
);
bytes_name!(
    /// A drawn name of a repository.
    RepositoryId,
    16
);
bytes_name!(
    /// A drawn name of a snapshot.
    SnapshotId,
    16
);
bytes_name!(
    /// A row's, cell's or table's digest: 16 bytes of keyed BLAKE3, or an order-free sum of them.
    Digest,
    16
);
bytes_name!(
    /// An Ed25519 public key: who signed an object.
    SignerId,
    32
);

impl RepositoryId {
    /// Draws a new name.
    pub fn draw(random: &dyn Random) -> Self {
        RepositoryId(draw(random))
    }
}

impl SnapshotId {
    /// Draws a new name.
    pub fn draw(random: &dyn Random) -> Self {
        SnapshotId(draw(random))
    }

    /// The first 10 digits, as tables print it.
    pub fn short(&self) -> String {
        hex(&self.0[..5])
    }
}

impl Digest {
    /// The sum of nothing.
    pub const ZERO: Digest = Digest([0; 16]);

    /// Adds `other` modulo 2^128: order-free, and a row counted twice shows.
    pub fn add(&mut self, other: Digest) {
        let sum = u128::from_le_bytes(self.0).wrapping_add(u128::from_le_bytes(other.0));
        self.0 = sum.to_le_bytes();
    }

    /// Takes `other` away modulo 2^128.
    pub fn subtract(&mut self, other: Digest) {
        let rest = u128::from_le_bytes(self.0).wrapping_sub(u128::from_le_bytes(other.0));
        self.0 = rest.to_le_bytes();
    }
}

/// The drawn name of a key slot: 8 characters of `a-z2-7`, short enough to be typed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId([u8; 8]);

impl SlotId {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// Draws a new name.
    pub fn draw(random: &dyn Random) -> Self {
        let drawn: [u8; 8] = draw(random);
        SlotId(drawn.map(|byte| Self::LETTERS[usize::from(byte % 32)]))
    }

    /// The 8 characters as bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|&letter| write!(f, "{}", char::from(letter)))
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotId({self})")
    }
}

impl FromStr for SlotId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        <[u8; 8]>::try_from(text.as_bytes())
            .ok()
            .filter(|bytes| bytes.iter().all(|byte| Self::LETTERS.contains(byte)))
            .map(SlotId)
            .ok_or_else(|| Error::Slot {
                text: text.to_owned(),
            })
    }
}

/// A name that sorts by the time it was drawn: 48 bits of milliseconds, 80 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ulid(ulid::Ulid);

impl Ulid {
    /// Draws a name at `now`.
    pub fn draw(now: Timestamp, random: &dyn Random) -> Self {
        let millis = (now.0 / 1000).max(0) as u64;
        Ulid(ulid::Ulid::from_parts(
            millis,
            u128::from_le_bytes(draw(random)),
        ))
    }

    /// The 16 bytes, big-endian, so that they sort as the text does.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The name that these 16 bytes stand for.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Ulid(ulid::Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ulid({})", self.0)
    }
}

impl FromStr for Ulid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        ulid::Ulid::from_string(text)
            .map(Ulid)
            .map_err(|_| Error::Ulid {
                text: text.to_owned(),
            })
    }
}

impl Serialize for Ulid {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.to_bytes()).serialize(out)
    }
}

impl<'de> Deserialize<'de> for Ulid {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<16>::deserialize(input).map(|bytes| Ulid::from_bytes(*bytes))
    }
}

/// The name of a source: `[a-z0-9._-]{1,64}`, so that it stands in commands and URLs unquoted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

impl SourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(SourceName(text.to_owned()))
        } else {
            Err(Error::Source {
                text: text.to_owned(),
            })
        }
    }
}

impl TryFrom<String> for SourceName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> String {
        name.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
