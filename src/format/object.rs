//! The envelope of sealed metadata objects, and what their parsers share.
//!
//! An index, a manifest, a ledger entry, a keyring, an intent, a lease and the local state are
//! all a header of 40 bytes and one sealed body. The header is authenticated with the body, and
//! is read first, so that a foreign, newer or misplaced object is refused by name.
//! Bytes: docs/format.md, "Sealed objects".

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Class, Failure};

/// The format version that this program writes.
pub const VERSION: u8 = 1;
/// First bytes of every sealed metadata object.
pub const MAGIC: [u8; 4] = *b"RWVO";
/// Length of the header.
pub const HEADER_BYTES: usize = 40;
/// Largest body, in bytes before compression, that a reader takes.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// What a sealed object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// What packs hold.
    Index = 1,
    /// What a snapshot consists of.
    Manifest = 2,
    /// One entry of a source's ledger.
    Ledger = 3,
    /// Who may write.
    Keyring = 4,
    /// A running backup.
    Intent = 5,
    /// The right to maintain.
    Lease = 6,
    /// The local mirror of a source's last snapshot.
    Shadow = 7,
    /// Other local state.
    State = 8,
}

impl Kind {
    /// The kind that `byte` stands for.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        let all = [
            Kind::Index,
            Kind::Manifest,
            Kind::Ledger,
            Kind::Keyring,
            Kind::Intent,
            Kind::Lease,
            Kind::Shadow,
            Kind::State,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The kind in words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Index => "index",
            Kind::Manifest => "manifest",
            Kind::Ledger => "ledger entry",
            Kind::Keyring => "keyring",
            Kind::Intent => "intent",
            Kind::Lease => "lease",
            Kind::Shadow => "shadow",
            Kind::State => "state",
        }
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than the object needs.
    #[error("the {what} ends after {length} bytes, too early")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes there are.
        length: usize,
    },
    /// The first bytes are not ours.
    #[error("this is no rowvault {what}")]
    Foreign {
        /// What was expected.
        what: &'static str,
    },
    /// A version that is not known here.
    #[error("the {what} has format version {version}; this rowvault reads version {VERSION}")]
    Version {
        /// What was being read.
        what: &'static str,
        /// Its version.
        version: u8,
    },
    /// Another kind of object than the place asks for.
    #[error("the object is {found}, where the {expected} should be")]
    WrongKind {
        /// The kind expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A value that has no meaning.
    #[error("the {what} holds {field} {value}, which has no meaning")]
    Field {
        /// What was being read.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A checksum or a signature over the whole that does not match.
    #[error("the {what} is damaged or was altered: its {proof} does not match")]
    Damaged {
        /// What was being read.
        what: &'static str,
        /// What does not match.
        proof: &'static str,
    },
    /// A whole object that belongs somewhere else.
    #[error("the {what} stands in the wrong place: it says {field} {found}, expected {expected}")]
    Misplaced {
        /// What was being read.
        what: &'static str,
        /// The field that names the place.
        field: &'static str,
        /// The place that it names.
        found: String,
        /// The place where it was found.
        expected: String,
    },
    /// A body that cannot be decoded.
    #[error("the body of the {what} cannot be decoded: {why}")]
    Body {
        /// What was being read.
        what: &'static str,
        /// The decoder's reason.
        why: String,
    },
    /// A feature that must be understood to read on.
    #[error("the {what} needs feature {feature:?}, which this rowvault does not know")]
    Feature {
        /// What was being read.
        what: &'static str,
        /// The feature.
        feature: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Version { .. } | Error::Feature { .. } => Class::Invalid,
            _ => Class::Corrupt,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Foreign { what: "repository" } => {
                Some("check --repo: something else is stored there".into())
            }
            Error::Damaged {
                what: "key slot", ..
            }
            | Error::Misplaced {
                what: "key slot", ..
            } => Some("open the repository by another key slot or the recovery sheet".into()),
            Error::Version { .. } | Error::Feature { .. } => {
                Some("use a newer rowvault for this repository".into())
            }
            _ => Some("run 'rowvault verify' to see which snapshots are hurt".into()),
        }
    }
}

/// The header of a sealed metadata object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// The epoch of the keys it is sealed with.
    pub epoch: u16,
    /// Commitment to the sealing key.
    pub check: [u8; 8],
    /// The nonce, drawn for this object.
    pub nonce: [u8; 24],
}

impl Header {
    /// The header's 40 bytes.
    pub fn write(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.epoch.to_le_bytes());
        out[8..16].copy_from_slice(&self.check);
        out[16..40].copy_from_slice(&self.nonce);
        out
    }

    /// Reads the header of an object that must be of `kind`, and gives the sealed rest.
    ///
    /// # Errors
    /// [`Error`]: short, foreign, of another version or kind.
    pub fn read(bytes: &[u8], kind: Kind) -> Result<(Header, &[u8]), Error> {
        let what = kind.name();
        if bytes.len() < HEADER_BYTES {
            return Err(Error::Short {
                what,
                length: bytes.len(),
            });
        }
        let (head, rest) = bytes.split_at(HEADER_BYTES);
        if head[..4] != MAGIC {
            return Err(Error::Foreign { what });
        }
        if head[4] != VERSION {
            return Err(Error::Version {
                what,
                version: head[4],
            });
        }
        if head[5] != kind as u8 {
            let found = Kind::from_byte(head[5]).map(|kind| format!("a {}", kind.name()));
            return Err(Error::WrongKind {
                expected: what,
                found: found.unwrap_or_else(|| format!("of unknown kind {}", head[5])),
            });
        }
        let mut header = Header {
            kind,
            epoch: u16::from_le_bytes([head[6], head[7]]),
            check: [0; 8],
            nonce: [0; 24],
        };
        header.check.copy_from_slice(&head[8..16]);
        header.nonce.copy_from_slice(&head[16..40]);
        Ok((header, rest))
    }
}

/// A body as MessagePack with named fields.
pub fn write_body<T: Serialize>(body: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(body).expect("our own structures have no maps that fail to serialise")
}

/// Reads a body written by [`write_body`]; unknown fields are skipped, trailing bytes refused.
///
/// # Errors
/// [`Error::Body`].
pub fn read_body<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    let mut rest = bytes;
    let body = {
        let mut decoder = rmp_serde::Deserializer::new(&mut rest);
        decoder.set_max_depth(64);
        T::deserialize(&mut decoder).map_err(|error| Error::Body {
            what,
            why: error.to_string(),
        })?
    };
    if rest.is_empty() {
        Ok(body)
    } else {
        Err(Error::Body {
            what,
            why: format!("{} bytes follow it", rest.len()),
        })
    }
}

/// Reads a body whose field `required` names what must be understood. That is looked at first,
/// so that a body of a later shape is refused by the name of its feature and not as damaged.
///
/// # Errors
/// [`Error::Feature`], else as [`read_body`].
pub fn read_featured<T: DeserializeOwned>(
    bytes: &[u8],
    known: &[&str],
    what: &'static str,
) -> Result<T, Error> {
    #[derive(serde::Deserialize)]
    struct Needs {
        #[serde(default)]
        required: Vec<String>,
    }
    let needs: Needs = read_body(bytes, what)?;
    check_features(&needs.required, known, what)?;
    read_body(bytes, what)
}

/// Refuses the first of `required` that is not among `known`.
///
/// # Errors
/// [`Error::Feature`].
pub fn check_features(
    required: &[String],
    known: &[&str],
    what: &'static str,
) -> Result<(), Error> {
    match required.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::Feature {
            what,
            feature: name.clone(),
        }),
    }
}

/// Reads fixed-size fields off the front of `bytes`.
pub(crate) struct Fields<'a> {
    what: &'static str,
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Fields {
            what,
            whole: bytes.len(),
            rest: bytes,
        }
    }

    pub(crate) fn slice(&mut self, length: usize) -> Result<&'a [u8], Error> {
        if self.rest.len() < length {
            return Err(Error::Short {
                what: self.what,
                length: self.whole,
            });
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let slice = self.slice(N)?;
        Ok(slice
            .try_into()
            .expect("the slice has the length asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Refuses bytes that nothing asked for.
    pub(crate) fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::Body {
                what: self.what,
                why: format!("{} bytes follow it", self.rest.len()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_read_gives_back_what_was_written() {
        let header = Header {
            kind: Kind::Manifest,
            epoch: 1,
            check: [3; 8],
            nonce: [4; 24],
        };
        let mut bytes = header.write().to_vec();
        bytes.push(99);
        assert_eq!(
            Header::read(&bytes, Kind::Manifest),
            Ok((header, &[99u8][..]))
        );
        for cut in 0..HEADER_BYTES {
            assert!(matches!(
                Header::read(&bytes[..cut], Kind::Manifest),
                Err(Error::Short { .. })
            ));
        }
        assert!(matches!(
            Header::read(&bytes, Kind::Index),
            Err(Error::WrongKind { .. })
        ));
        bytes[4] = 2;
        assert!(matches!(
            Header::read(&bytes, Kind::Manifest),
            Err(Error::Version { version: 2, .. })
        ));
        bytes[0] = b'X';
        assert!(matches!(
            Header::read(&bytes, Kind::Manifest),
            Err(Error::Foreign { .. })
        ));
    }

    #[test]
    fn body_of_a_later_shape_is_refused_by_its_feature() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Now {
            count: u32,
        }
        #[derive(serde::Serialize)]
        struct Later {
            count: String,
            required: Vec<String>,
        }
        let later = |required: &[&str]| {
            let required = required.iter().map(|name| (*name).to_owned()).collect();
            let count = "many".into();
            write_body(&Later { count, required })
        };
        let read = |bytes: &[u8]| read_featured::<Now>(bytes, &["words"], "index");
        assert_eq!(read(&write_body(&Now { count: 1 })), Ok(Now { count: 1 }));
        assert_eq!(
            read(&later(&["words", "sharing"])),
            Err(Error::Feature {
                what: "index",
                feature: "sharing".into()
            })
        );
        assert!(matches!(read(&later(&["words"])), Err(Error::Body { .. })));
        assert!(matches!(read(&[0xc1]), Err(Error::Body { .. })));
    }

    #[test]
    fn body_with_trailing_bytes_is_refused() {
        let mut bytes = write_body(&vec![1u32, 2]);
        assert_eq!(read_body::<Vec<u32>>(&bytes, "test"), Ok(vec![1, 2]));
        bytes.push(0);
        assert!(read_body::<Vec<u32>>(&bytes, "test").is_err());
    }
}
