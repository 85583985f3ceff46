//! Packs: objects of many sealed chunks, with a sealed footer that says where each one lies.
//!
//! ```text
//! head     "RWVP" version(1) flags(1) epoch(2 LE) sessions(2 LE) zero(2)     12 bytes
//!          then a record of 88 bytes a session: check(8) sealed session key(80)
//! chunks   each: nonce(24) ciphertext tag(16)
//! footer   nonce(24) ciphertext tag(16), sealed with the index key over the head
//! trailer  footer length (4 LE) "RWVF"                                        8 bytes
//! ```
//! Invariant: chunks lie between head and footer without gap or overlap, in the footer's order.

use crate::format::object::{Error, Fields, VERSION};
use crate::id::ChunkId;

/// First bytes of a pack.
pub const MAGIC: [u8; 4] = *b"RWVP";
/// Last bytes of a pack.
pub const TRAILER_MAGIC: [u8; 4] = *b"RWVF";
/// Length of the trailer.
pub const TRAILER_BYTES: usize = 8;
/// Length of the head before the sessions.
pub const HEAD_BYTES: usize = 12;
/// Length of a session's record in the head.
pub const SESSION_BYTES: usize = 88;
/// What sealing adds to a chunk: nonce and tag.
pub const SEAL_BYTES: usize = 40;
/// Bytes of an entry in the footer.
pub const ENTRY_BYTES: usize = 66;
/// Largest raw (uncompressed) length of a chunk that a reader takes: 1 GiB.
pub const RAW_BYTES_MAX: u32 = 1 << 30;

const WHAT: &str = "pack";

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkKind {
    /// Rows and deletions of a run.
    Rows = 1,
    /// A piece of a large cell.
    Cell = 2,
    /// A piece of structure that only the engine understands.
    Structure = 3,
    /// The description of a run; sealed with the metadata key.
    Run = 4,
    /// A page of a large run's description; sealed with the metadata key.
    RunPage = 5,
    /// A zstd dictionary.
    Dictionary = 6,
}

impl ChunkKind {
    /// The kind that `byte` stands for.
    pub fn from_byte(byte: u8) -> Option<ChunkKind> {
        let all = [
            ChunkKind::Rows,
            ChunkKind::Cell,
            ChunkKind::Structure,
            ChunkKind::Run,
            ChunkKind::RunPage,
            ChunkKind::Dictionary,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether every writer can open it: sealed with the metadata key, not with a session key.
    pub fn is_metadata(self) -> bool {
        matches!(self, ChunkKind::Run | ChunkKind::RunPage)
    }
}

/// How a chunk's bytes are packed before sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// A zstd frame; with the entry's dictionary where it names one.
    Zstd = 1,
}

impl Codec {
    /// The codec that `byte` stands for.
    pub fn from_byte(byte: u8) -> Option<Codec> {
        match byte {
            0 => Some(Codec::Stored),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// Where a chunk lies in its pack, and how it is packed and sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The chunk's name.
    pub name: ChunkId,
    /// What it is.
    pub kind: ChunkKind,
    /// How it is packed.
    pub codec: Codec,
    /// Which key: 0 the metadata key, n the head's session n.
    pub session: u16,
    /// Which dictionary: 0 none, n the footer's dictionary n.
    pub dictionary: u16,
    /// Offset of the sealed bytes in the pack.
    pub offset: u32,
    /// Length of the sealed bytes, nonce and tag included.
    pub length: u32,
    /// Length of the chunk's bytes before packing.
    pub raw_length: u32,
    /// BLAKE3 of the sealed bytes, first 16 bytes, for scrubbing without keys.
    pub sealed_hash: [u8; 16],
}

/// What a pack holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Names of the dictionaries that entries refer to.
    pub dictionaries: Vec<ChunkId>,
    /// The chunks in the order in which they lie.
    pub entries: Vec<Entry>,
}

impl Footer {
    /// The footer's bytes, before sealing.
    pub fn write(&self) -> Vec<u8> {
        let size = 8 + self.dictionaries.len() * 32 + self.entries.len() * ENTRY_BYTES;
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&(self.dictionaries.len() as u32).to_le_bytes());
        for name in &self.dictionaries {
            out.extend_from_slice(&name.0);
        }
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.name.0);
            out.push(entry.kind as u8);
            out.push(entry.codec as u8);
            out.extend_from_slice(&entry.session.to_le_bytes());
            out.extend_from_slice(&entry.dictionary.to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
            out.extend_from_slice(&entry.length.to_le_bytes());
            out.extend_from_slice(&entry.raw_length.to_le_bytes());
            out.extend_from_slice(&entry.sealed_hash);
        }
        out
    }

    /// Reads a footer and checks that its entries make sense by themselves.
    ///
    /// # Errors
    /// [`Error`]: short, trailing bytes, an unknown kind or codec, a chunk over 1 GiB.
    pub fn read(bytes: &[u8]) -> Result<Footer, Error> {
        let mut fields = Fields::new(bytes, "pack footer");
        let dictionaries = fields.u32()? as usize;
        let mut footer = Footer::default();
        for name in fields.slice(product(dictionaries, 32)?)?.chunks_exact(32) {
            footer.dictionaries.push(ChunkId(
                name.try_into().expect("chunks_exact gives 32 bytes"),
            ));
        }
        let entries = fields.u32()? as usize;
        let mut rest = Fields::new(fields.slice(product(entries, ENTRY_BYTES)?)?, "pack footer");
        footer.entries.reserve_exact(entries);
        for _ in 0..entries {
            footer
                .entries
                .push(read_entry(&mut rest, footer.dictionaries.len())?);
        }
        fields.end()?;
        Ok(footer)
    }
}

fn product(count: usize, size: usize) -> Result<usize, Error> {
    count.checked_mul(size).ok_or(Error::Field {
        what: "pack footer",
        field: "count",
        value: count as u64,
    })
}

fn read_entry(fields: &mut Fields<'_>, dictionaries: usize) -> Result<Entry, Error> {
    let bad = |field, value| Error::Field {
        what: "pack footer",
        field,
        value,
    };
    let name = ChunkId(fields.array()?);
    let kind = fields.u8()?;
    let codec = fields.u8()?;
    let entry = Entry {
        name,
        kind: ChunkKind::from_byte(kind).ok_or(bad("chunk kind", kind.into()))?,
        codec: Codec::from_byte(codec).ok_or(bad("codec", codec.into()))?,
        session: fields.u16()?,
        dictionary: fields.u16()?,
        offset: fields.u32()?,
        length: fields.u32()?,
        raw_length: fields.u32()?,
        sealed_hash: fields.array()?,
    };
    if usize::from(entry.dictionary) > dictionaries {
        return Err(bad("dictionary", entry.dictionary.into()));
    }
    if entry.raw_length > RAW_BYTES_MAX {
        return Err(bad("raw length", entry.raw_length.into()));
    }
    if (entry.length as usize) < SEAL_BYTES || entry.kind.is_metadata() != (entry.session == 0) {
        return Err(bad("session", entry.session.into()));
    }
    Ok(entry)
}

/// A session's record: the commitment to its key, and the key sealed to the reader.
pub type SessionRecord = [u8; SESSION_BYTES];

/// The head of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The epoch of the keys.
    pub epoch: u16,
    /// The sessions, numbered from 1 in the footer.
    pub sessions: Vec<SessionRecord>,
}

impl Head {
    /// Length of the head of a pack with `sessions` sessions.
    pub fn length(sessions: usize) -> usize {
        HEAD_BYTES + sessions * SESSION_BYTES
    }

    /// The head's bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Head::length(self.sessions.len()));
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&(self.sessions.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for record in &self.sessions {
            out.extend_from_slice(record);
        }
        out
    }

    /// How long the head is, from its first [`HEAD_BYTES`].
    ///
    /// # Errors
    /// [`Error`]: short, foreign, another version, flags that have no meaning.
    pub fn measure(bytes: &[u8]) -> Result<usize, Error> {
        let mut fields = Fields::new(bytes, WHAT);
        if fields.array()? != MAGIC {
            return Err(Error::Foreign { what: WHAT });
        }
        let version = fields.u8()?;
        if version != VERSION {
            return Err(Error::Version {
                what: WHAT,
                version,
            });
        }
        let flags = fields.u8()?;
        if flags != 0 {
            return Err(Error::Field {
                what: WHAT,
                field: "flags",
                value: flags.into(),
            });
        }
        fields.u16()?;
        let sessions = fields.u16()?;
        let zero = fields.u16()?;
        if zero != 0 {
            return Err(Error::Field {
                what: WHAT,
                field: "padding",
                value: zero.into(),
            });
        }
        Ok(Head::length(usize::from(sessions)))
    }

    /// Reads a head; bytes after it are not looked at.
    ///
    /// # Errors
    /// As [`Head::measure`].
    pub fn read(bytes: &[u8]) -> Result<Head, Error> {
        let length = Head::measure(bytes)?;
        let mut fields = Fields::new(bytes, WHAT);
        let head = fields.slice(length)?;
        Ok(Head {
            epoch: u16::from_le_bytes([head[6], head[7]]),
            sessions: head[HEAD_BYTES..]
                .chunks_exact(SESSION_BYTES)
                .map(|record| record.try_into().expect("chunks_exact gives a record"))
                .collect(),
        })
    }
}

/// The trailer of a pack whose sealed footer has `footer_length` bytes.
pub fn write_trailer(footer_length: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..4].copy_from_slice(&footer_length.to_le_bytes());
    out[4..].copy_from_slice(&TRAILER_MAGIC);
    out
}

/// The length of the sealed footer, from a pack's last [`TRAILER_BYTES`] bytes.
///
/// # Errors
/// [`Error`]: not the end of a pack, or a footer too short to be sealed.
pub fn read_trailer(bytes: &[u8]) -> Result<u32, Error> {
    let mut fields = Fields::new(bytes, WHAT);
    let length = fields.u32()?;
    if fields.array()? != TRAILER_MAGIC {
        return Err(Error::Foreign { what: WHAT });
    }
    if (length as usize) < SEAL_BYTES {
        return Err(Error::Field {
            what: WHAT,
            field: "footer length",
            value: length.into(),
        });
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        let entry = Entry {
            name: ChunkId([1; 32]),
            kind: ChunkKind::Rows,
            codec: Codec::Zstd,
            session: 1,
            dictionary: 1,
            offset: 100,
            length: 50,
            raw_length: 70,
            sealed_hash: [2; 16],
        };
        let run = Entry {
            kind: ChunkKind::Run,
            session: 0,
            dictionary: 0,
            ..entry
        };
        Footer {
            dictionaries: vec![ChunkId([9; 32])],
            entries: vec![entry, run],
        }
    }

    #[test]
    fn footer_read_gives_back_what_was_written() {
        let bytes = footer().write();
        assert_eq!(Footer::read(&bytes), Ok(footer()));
        for cut in 0..bytes.len() {
            assert!(
                Footer::read(&bytes[..cut]).is_err(),
                "cut at {cut} was read"
            );
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(Footer::read(&long).is_err());
    }

    #[test]
    fn footer_with_a_bomb_is_refused() {
        let mut bomb = footer();
        bomb.entries[0].raw_length = RAW_BYTES_MAX + 1;
        assert!(matches!(
            Footer::read(&bomb.write()),
            Err(Error::Field {
                field: "raw length",
                ..
            })
        ));
    }

    #[test]
    fn footer_that_claims_more_entries_than_it_has_allocates_nothing() {
        let mut bytes = 0u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Footer::read(&bytes), Err(Error::Short { .. })));
    }

    #[test]
    fn head_read_gives_back_what_was_written() {
        let head = Head {
            epoch: 1,
            sessions: vec![[5; SESSION_BYTES], [6; SESSION_BYTES]],
        };
        let bytes = head.write();
        assert_eq!(Head::read(&bytes), Ok(head));
        for cut in 0..bytes.len() {
            assert!(Head::read(&bytes[..cut]).is_err());
        }
    }
}
