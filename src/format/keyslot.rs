//! The `keys/<slot>` objects: the root secret as it lies in the storage, wrapped.
//!
//! Anybody who lists the storage may read a slot; what it says in clear is authenticated when it
//! is opened. The checksum at its end tells damage from a wrong passphrase. Invariant: a slot is
//! read only under its own name and in its own repository.   Bytes: docs/format.md, "Key slots".

pub mod text;

use crate::clock::Timestamp;
use crate::format::object::{Error, Fields, VERSION};
use crate::id::{RepositoryId, SlotId};

/// First bytes of the object.
pub const MAGIC: [u8; 4] = *b"RWVK";
/// Bytes of a wrapped root: commitment 8, nonce 24, sealed root 32, tag 16.
pub const WRAPPED_BYTES: usize = 80;
/// Longest label.
pub const LABEL_BYTES_MAX: usize = 128;
/// Longest recipient; recipients against quantum computers have about 2,000 characters.
pub const RECIPIENT_BYTES_MAX: usize = 4 << 10;
/// Longest wrapped root of a recipient.
pub const RECIPIENT_FILE_BYTES_MAX: usize = 64 << 10;
/// Longest object.
pub const BYTES_MAX: usize = 128 << 10;

const WHAT: &str = "key slot";
const CHECKSUM_BYTES: usize = 16;

/// What opens a slot, and the root under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// A passphrase, stretched by Argon2id.
    Passphrase {
        /// Memory in KiB; checked against its bounds where the slot is opened.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes in it.
        lanes: u32,
        /// Drawn for this slot.
        salt: [u8; 16],
        /// The root.
        wrapped: [u8; WRAPPED_BYTES],
    },
    /// The identity that belongs to an `age` recipient.
    Recipient {
        /// The recipient.
        recipient: String,
        /// The root as an `age` file.
        file: Vec<u8>,
    },
    /// The secret of a key file.
    KeyFile {
        /// The root.
        wrapped: [u8; WRAPPED_BYTES],
    },
    /// The secret on the recovery sheet.
    Recovery {
        /// The root.
        wrapped: [u8; WRAPPED_BYTES],
    },
}

impl Lock {
    /// The kind as it is stored.
    pub fn kind(&self) -> u8 {
        match self {
            Lock::Passphrase { .. } => 1,
            Lock::Recipient { .. } => 2,
            Lock::KeyFile { .. } => 3,
            Lock::Recovery { .. } => 4,
        }
    }

    /// The kind in words.
    pub fn name(&self) -> &'static str {
        match self {
            Lock::Passphrase { .. } => "passphrase",
            Lock::Recipient { .. } => "recipient",
            Lock::KeyFile { .. } => "key file",
            Lock::Recovery { .. } => "recovery",
        }
    }
}

/// A key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// The repository that it opens.
    pub repository: RepositoryId,
    /// Its name.
    pub slot: SlotId,
    /// When it was made.
    pub created: Timestamp,
    /// What its maker called it; no control characters.
    pub label: String,
    /// What opens it.
    pub lock: Lock,
}

/// The object's bytes.
///
/// # Errors
/// [`Error::Field`]: label, recipient or its file is too long or not printable.
pub fn write(slot: &KeySlot) -> Result<Vec<u8>, Error> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.push(slot.lock.kind());
    out.extend(slot.repository.0);
    out.extend(slot.slot.to_bytes());
    out.extend(slot.created.0.to_le_bytes());
    check_text(&slot.label, LABEL_BYTES_MAX, "a label of length")?;
    out.push(slot.label.len() as u8);
    out.extend(slot.label.as_bytes());
    match &slot.lock {
        Lock::Passphrase {
            memory_kib,
            passes,
            lanes,
            salt,
            wrapped,
        } => {
            out.extend(memory_kib.to_le_bytes());
            out.extend(passes.to_le_bytes());
            out.extend(lanes.to_le_bytes());
            out.extend(salt);
            out.extend(wrapped);
        }
        Lock::Recipient { recipient, file } => {
            check_text(recipient, RECIPIENT_BYTES_MAX, "a recipient of length")?;
            check_file(file.len())?;
            out.extend((recipient.len() as u16).to_le_bytes());
            out.extend(recipient.as_bytes());
            out.extend((file.len() as u32).to_le_bytes());
            out.extend(file);
        }
        Lock::KeyFile { wrapped } | Lock::Recovery { wrapped } => out.extend(wrapped),
    }
    let checksum = checksum(&out);
    out.extend(checksum);
    Ok(out)
}

/// Reads the object that stands under the name of `slot` in `repository`.
///
/// # Errors
/// Not a key slot, a newer version (by number), damaged, of another slot or repository, of a
/// kind that is not known.
pub fn read(bytes: &[u8], repository: RepositoryId, slot: SlotId) -> Result<KeySlot, Error> {
    let mut fields = Fields::new(bytes, WHAT);
    if fields.array::<4>().ok() != Some(MAGIC) {
        return Err(Error::Foreign { what: WHAT });
    }
    let version = fields.u8()?;
    if version != VERSION {
        return Err(Error::Version {
            what: WHAT,
            version,
        });
    }
    if bytes.len() > BYTES_MAX {
        return Err(field("a length of", bytes.len()));
    }
    let body = check_checksum(bytes)?;
    let mut fields = Fields::new(&body[MAGIC.len() + 1..], WHAT);
    let kind = fields.u8()?;
    let found = RepositoryId(fields.array()?);
    if found != repository {
        return Err(misplaced("repository", found, repository));
    }
    let found = fields.slice(8)?;
    if found != slot.to_bytes() {
        return Err(misplaced("slot", found.escape_ascii(), slot));
    }
    let created = Timestamp(i64::from_le_bytes(fields.array()?));
    let label = usize::from(fields.u8()?);
    let label = read_text(&mut fields, label, LABEL_BYTES_MAX, "a label of length")?;
    let lock = read_lock(&mut fields, kind)?;
    fields.end()?;
    Ok(KeySlot {
        repository,
        slot,
        created,
        label,
        lock,
    })
}

fn read_lock(fields: &mut Fields<'_>, kind: u8) -> Result<Lock, Error> {
    Ok(match kind {
        1 => Lock::Passphrase {
            memory_kib: fields.u32()?,
            passes: fields.u32()?,
            lanes: fields.u32()?,
            salt: fields.array()?,
            wrapped: fields.array()?,
        },
        2 => {
            let length = usize::from(fields.u16()?);
            let what = "a recipient of length";
            let recipient = read_text(fields, length, RECIPIENT_BYTES_MAX, what)?;
            let length = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
            check_file(length)?;
            Lock::Recipient {
                recipient,
                file: fields.slice(length)?.to_vec(),
            }
        }
        3 => Lock::KeyFile {
            wrapped: fields.array()?,
        },
        4 => Lock::Recovery {
            wrapped: fields.array()?,
        },
        _ => return Err(field("kind", usize::from(kind))),
    })
}

fn read_text(
    fields: &mut Fields<'_>,
    length: usize,
    most: usize,
    what: &'static str,
) -> Result<String, Error> {
    let bytes = fields.slice(length)?;
    let text = std::str::from_utf8(bytes).map_err(|_| field(what, length))?;
    check_text(text, most, what)?;
    Ok(text.to_owned())
}

/// Refuses a text that is too long, or that would play tricks on the terminal it is printed on.
fn check_text(text: &str, most: usize, what: &'static str) -> Result<(), Error> {
    if text.len() <= most && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(field(what, text.len()))
}

fn check_file(length: usize) -> Result<(), Error> {
    if length <= RECIPIENT_FILE_BYTES_MAX {
        return Ok(());
    }
    Err(field("a wrapped root of length", length))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut out = [0; CHECKSUM_BYTES];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    out
}

/// The bytes before the checksum, which must match.
fn check_checksum(bytes: &[u8]) -> Result<&[u8], Error> {
    let (body, found) = bytes
        .split_at_checked(bytes.len().saturating_sub(CHECKSUM_BYTES))
        .filter(|(body, _)| body.len() > MAGIC.len())
        .ok_or(Error::Short {
            what: WHAT,
            length: bytes.len(),
        })?;
    if checksum(body) == *found {
        return Ok(body);
    }
    Err(Error::Damaged {
        what: WHAT,
        proof: "checksum",
    })
}

fn field(field: &'static str, value: usize) -> Error {
    Error::Field {
        what: WHAT,
        field,
        value: value as u64,
    }
}

fn misplaced(
    field: &'static str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Error {
    Error::Misplaced {
        what: WHAT,
        field,
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

    fn slot() -> SlotId {
        "k3ysloot".parse().unwrap()
    }

    fn slots() -> Vec<KeySlot> {
        let wrapped = std::array::from_fn(|place| place as u8);
        let locks = [
            Lock::Passphrase {
                memory_kib: 256 << 10,
                passes: 3,
                lanes: 4,
                salt: [9; 16],
                wrapped,
            },
            Lock::Recipient {
                recipient: "age1example".into(),
                file: b"age-encryption.org/v1\n".to_vec(),
            },
            Lock::KeyFile { wrapped },
            Lock::Recovery { wrapped },
        ];
        let whole = |lock| KeySlot {
            repository: REPOSITORY,
            slot: slot(),
            created: Timestamp(-3),
            label: "büro".into(),
            lock,
        };
        locks.map(whole).into()
    }

    /// `bytes` with a checksum that fits, as an attacker would write them.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        bytes
    }

    #[test]
    fn slot_of_every_kind_read_is_the_one_written() {
        for whole in slots() {
            let bytes = write(&whole).unwrap();
            assert_eq!(read(&bytes, REPOSITORY, slot()), Ok(whole));
        }
    }

    #[test]
    fn every_cut_and_every_altered_bit_are_refused() {
        let mut tried = 0;
        for whole in slots() {
            let bytes = write(&whole).unwrap();
            for end in 0..bytes.len() {
                assert!(
                    read(&bytes[..end], REPOSITORY, slot()).is_err(),
                    "cut at {end}"
                );
            }
            for bit in 0..bytes.len() * 8 {
                let mut altered = bytes.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                let refused = read(&altered, REPOSITORY, slot()).unwrap_err();
                let right = match bit / 8 {
                    0..4 => matches!(refused, Error::Foreign { .. }),
                    4 => matches!(refused, Error::Version { .. }),
                    _ => matches!(refused, Error::Damaged { .. }),
                };
                assert!(right, "bit {bit}: {refused}");
                tried += 1;
            }
            let mut longer = bytes;
            longer.push(0);
            assert!(read(&longer, REPOSITORY, slot()).is_err());
        }
        assert!(tried > 3000);
    }

    #[test]
    fn bytes_altered_by_who_can_reckon_a_checksum_never_panic() {
        for whole in slots() {
            let bytes = write(&whole).unwrap();
            for place in 5..bytes.len() - CHECKSUM_BYTES {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut altered = bytes.clone();
                    altered[place] = value;
                    // Whatever is accepted is what would be written.
                    if let Ok(read) = read(&resealed(altered.clone()), REPOSITORY, slot()) {
                        assert_eq!(write(&read).unwrap(), resealed(altered));
                    }
                }
            }
            for end in 5..bytes.len() - CHECKSUM_BYTES {
                let mut cut = bytes[..end].to_vec();
                cut.extend([0; CHECKSUM_BYTES]);
                assert!(
                    read(&resealed(cut), REPOSITORY, slot()).is_err(),
                    "cut at {end}"
                );
            }
        }
    }

    #[test]
    fn slot_under_another_name_or_of_another_repository_is_refused() {
        let bytes = write(&slots()[0]).unwrap();
        let other = read(&bytes, REPOSITORY, "aaaaaaaa".parse().unwrap());
        assert!(matches!(other, Err(Error::Misplaced { field: "slot", .. })));
        let other = read(&bytes, RepositoryId([8; 16]), slot());
        assert!(matches!(
            other,
            Err(Error::Misplaced {
                field: "repository",
                ..
            })
        ));
    }

    #[test]
    fn unknown_kind_long_label_and_control_characters_are_refused() {
        let mut bytes = write(&slots()[2]).unwrap();
        bytes[5] = 9;
        let refused = read(&resealed(bytes), REPOSITORY, slot()).unwrap_err();
        assert!(refused.to_string().contains("kind 9"), "{refused}");
        for label in ["x".repeat(129), "a\u{1b}[2J".into()] {
            let mut whole = slots().remove(0);
            whole.label = label;
            assert!(matches!(write(&whole), Err(Error::Field { .. })));
        }
        let mut whole = slots().remove(1);
        whole.lock = Lock::Recipient {
            recipient: "age1".into(),
            file: vec![0; RECIPIENT_FILE_BYTES_MAX + 1],
        };
        assert!(write(&whole).is_err());
    }
}
