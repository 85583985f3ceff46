//! Shadows: what a host keeps of a source's last snapshot, to find out what changed since.
//!
//! One small sealed body names the snapshot and, for each table, its stack and two streams of
//! records in key order: the digest and tier of every row and deleted key, and the chunks of the
//! base run. Streams are cut into frames of about 64 KiB. Invariant: within a stream keys ascend
//! strictly. Bytes: docs/format.md, "Shadow".

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, check_features, read_body, write_body};
use crate::id::{ChunkId, Digest, ObjectId, SnapshotId};
use crate::row::cell::{push_varint, take_varint};
use crate::row::schema::TableName;

/// The version of how rows are turned into keys and digests; another one's shadow is not used.
pub const CAPTURE_VERSION: u32 = 1;
/// A frame is closed when it has this many bytes of records.
pub const FRAME_BYTES: usize = 64 << 10;
/// Largest tier that an entry can name.
pub const TIER_MAX: u8 = 63;

const WHAT: &str = "shadow";
const ROW: u8 = 0;
const DELETED: u8 = 1;

/// The body of a source's shadow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// How its keys and digests were made: [`CAPTURE_VERSION`].
    pub capture: u32,
    /// The snapshot that it mirrors.
    pub snapshot: SnapshotId,
    /// That snapshot's manifest.
    pub manifest: ObjectId,
    /// The ledger entry that holds that snapshot.
    pub entry: u64,
    /// When every row was last read into new base runs.
    pub full_at: Timestamp,
    /// The tables that have a key.
    pub tables: Vec<ShadowTable>,
    /// What the source's snapshot left to prove by that rows did not change since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// A run of a table's stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRun {
    /// Its name.
    pub run: ChunkId,
    /// Its tier; 0 for the base.
    pub tier: u8,
    /// Its sequence.
    pub sequence: u64,
}

/// Where a stream of records is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Here, since it is short.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// In a file that is named by what was drawn for it.
    File(#[serde(with = "serde_bytes")] [u8; 24]),
}

/// What is kept of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowTable {
    /// The table.
    pub name: TableName,
    /// Of its columns, key and order: where it differs now, nothing here counts.
    pub fingerprint: Digest,
    /// Its runs, base first.
    pub stack: Vec<ShadowRun>,
    /// Rows.
    pub rows: u64,
    /// Order-free sum of the rows' digests.
    pub digest: Digest,
    /// Rows and deleted keys.
    pub entries: Stream,
    /// Chunks of the base run.
    pub edges: Stream,
    /// The dictionary that its new chunks are compressed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<ChunkId>,
    /// What must be the same for rows to read the same, where that can be proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Bytes of the canonical rows, reckoned where not all of them were read.
    #[serde(default)]
    pub bytes: u64,
}

impl Shadow {
    /// The body's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Error`]: undecodable, a required feature that is not known, or a table without a base.
    pub fn read(bytes: &[u8]) -> Result<Shadow, Error> {
        let shadow: Shadow = read_body(bytes, WHAT)?;
        check_features(&shadow.required, &[], WHAT)?;
        match shadow.tables.iter().find(|table| table.stack.is_empty()) {
            None => Ok(shadow),
            Some(_) => Err(Error::Field {
                what: WHAT,
                field: "runs in a stack",
                value: 0,
            }),
        }
    }
}

/// A row or a deleted key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The row's digest; none for a deleted key.
    pub digest: Option<Digest>,
    /// The tier of the run that says so; 0 for the base.
    pub tier: u8,
}

/// Writes the entries of one frame after another.
#[derive(Debug, Default)]
pub struct EntryWriter {
    frame: Vec<u8>,
    last: Vec<u8>,
}

impl EntryWriter {
    /// Adds the next entry in key order: a tag (kind in its lowest two bits, tier above), how many
    /// bytes its key shares with the one before in the frame, how many more it has, these, and a
    /// row's digest.
    pub fn push(&mut self, key: &[u8], entry: Entry) {
        let shared = match self.frame.is_empty() {
            true => 0,
            false => self
                .last
                .iter()
                .zip(key)
                .take_while(|(a, b)| a == b)
                .count(),
        };
        let kind = match entry.digest {
            Some(_) => ROW,
            None => DELETED,
        };
        self.frame.push(kind | entry.tier.min(TIER_MAX) << 2);
        push_varint(&mut self.frame, shared as u64);
        push_varint(&mut self.frame, (key.len() - shared) as u64);
        self.frame.extend_from_slice(&key[shared..]);
        if let Some(digest) = entry.digest {
            self.frame.extend_from_slice(&digest.0);
        }
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// Bytes of the frame so far.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Begins the next frame.
    pub fn next_frame(&mut self) {
        self.frame.clear();
    }
}

/// Reads entries, frame by frame.
#[derive(Debug, Default)]
pub struct EntryReader {
    frame: Vec<u8>,
    at: usize,
    key: Vec<u8>,
    started: bool,
}

impl EntryReader {
    /// Whether the next frame is wanted.
    pub fn is_empty(&self) -> bool {
        self.at == self.frame.len()
    }

    /// Gives the next frame.
    pub fn feed(&mut self, frame: Vec<u8>) {
        self.frame = frame;
        self.at = 0;
    }

    /// The key of the entry that `next` gave last.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The next entry of the frame.
    ///
    /// # Errors
    /// [`Error`]: the frame is cut, or its keys do not ascend.
    #[allow(clippy::should_implement_trait)] // It leaves the key in itself, as an iterator cannot.
    pub fn next(&mut self) -> Result<Entry, Error> {
        let wrong = |field, value| Error::Field {
            what: WHAT,
            field,
            value,
        };
        let cut = || wrong("bytes in an entry", 0);
        let first = self.at == 0;
        let mut rest = &self.frame[self.at..];
        let tag = *rest.split_off_first().ok_or_else(cut)?;
        let shared = take_varint(&mut rest).ok_or_else(cut)?;
        let length = take_varint(&mut rest).ok_or_else(cut)?;
        let known = if first { 0 } else { self.key.len() };
        let shared = usize::try_from(shared).ok().filter(|at| *at <= known);
        let shared = shared.ok_or_else(|| wrong("shared bytes of a key", known as u64))?;
        let length = usize::try_from(length).map_err(|_| cut())?;
        let new = rest.split_off(..length).ok_or_else(cut)?;
        // Greater than the key before, from the first byte that is not shared.
        if self.started && new <= &self.key[shared..] {
            return Err(wrong("key out of order", self.at as u64));
        }
        let digest = match tag & 3 {
            ROW => {
                let bytes = rest.split_off(..16).ok_or_else(cut)?;
                Some(Digest(bytes.try_into().map_err(|_| cut())?))
            }
            DELETED => None,
            kind => return Err(wrong("kind of an entry", kind.into())),
        };
        self.key.truncate(shared);
        self.key.extend_from_slice(new);
        self.at = self.frame.len() - rest.len();
        self.started = true;
        Ok(Entry {
            digest,
            tier: tag >> 2,
        })
    }
}

/// Adds a record of bytes to a frame.
pub fn push_record(frame: &mut Vec<u8>, record: &[u8]) {
    push_varint(frame, record.len() as u64);
    frame.extend_from_slice(record);
}

/// Takes the next record off a frame.
///
/// # Errors
/// [`Error`]: the frame is cut.
pub fn take_record<'a>(frame: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let length = take_varint(frame).and_then(|length| usize::try_from(length).ok());
    let record = length.and_then(|length| frame.split_off(..length));
    record.ok_or(Error::Field {
        what: WHAT,
        field: "bytes in a record",
        value: frame.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<(Vec<u8>, Entry)> {
        let entry = |number: u32| {
            let row = !number.is_multiple_of(5);
            Entry {
                digest: row.then_some(Digest([number as u8; 16])),
                tier: (number % 64) as u8,
            }
        };
        let keys = (0..200u32).map(|number| {
            let mut key = number.to_be_bytes().to_vec();
            key.resize(4 + number as usize % 3, 1);
            key
        });
        keys.zip(0..).map(|(key, at)| (key, entry(at))).collect()
    }

    fn frames() -> Vec<Vec<u8>> {
        let mut writer = EntryWriter::default();
        let mut frames = Vec::new();
        for (key, entry) in entries() {
            writer.push(&key, entry);
            if writer.frame().len() > 1000 {
                frames.push(writer.frame().to_vec());
                writer.next_frame();
            }
        }
        frames.push(writer.frame().to_vec());
        frames
    }

    fn read(frames: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Entry)>, Error> {
        let mut reader = EntryReader::default();
        let mut found = Vec::new();
        for frame in frames {
            reader.feed(frame.clone());
            while !reader.is_empty() {
                let entry = reader.next()?;
                found.push((reader.key().to_vec(), entry));
            }
        }
        Ok(found)
    }

    #[test]
    fn entries_read_are_those_written() {
        assert!(frames().len() > 2);
        assert_eq!(read(&frames()).unwrap(), entries());
    }

    #[test]
    fn entries_cut_or_out_of_order_are_refused_or_fewer() {
        let mut frames = frames();
        for end in 0..frames[0].len() {
            let cut = read(&[frames[0][..end].to_vec()]);
            assert!(cut.is_err() || cut.unwrap().len() < entries().len());
        }
        frames.swap(0, 1);
        assert!(read(&frames).is_err());
    }

    #[test]
    fn records_come_back_and_a_cut_one_is_refused() {
        let mut frame = Vec::new();
        push_record(&mut frame, b"one");
        push_record(&mut frame, b"");
        let mut rest = &frame[..];
        assert_eq!(take_record(&mut rest).unwrap(), b"one");
        assert_eq!(take_record(&mut rest).unwrap(), b"");
        assert!(rest.is_empty());
        assert!(take_record(&mut &frame[..2]).is_err());
        assert!(take_record(&mut &[0xff; 12][..]).is_err());
    }
}
