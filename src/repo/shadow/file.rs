//! Sealed streams of records in local files, read and written frame by frame.
//!
//! A file is a header with what was drawn for it, and frames of: last (1 byte), length (4, LE),
//! sealed bytes. A short stream is kept where it is named instead. Invariant: frames open only in
//! their own file, in their order, and with the last one at the end, so that a file that is cut,
//! swapped, put together anew or from another day is found out.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use crate::format::object::{HEADER_BYTES, Header, Kind};
use crate::format::pack::ChunkKind;
use crate::format::run::{RunChunk, read_chunk, write_chunk};
use crate::format::shadow::{
    Entry, EntryReader, EntryWriter, FRAME_BYTES, Stream, push_record, take_record,
};
use crate::id::{ChunkId, hex};
use crate::random::draw;
use crate::repo::blob::{Dictionary, FramePlace};
use crate::repo::shadow::Error;
use crate::repo::vault::Vault;
use crate::state::{self, State};

/// A stream of no more than this many bytes gets no file.
const INLINE_BYTES_MAX: usize = 1 << 10;
/// Largest frame that is read.
const FRAME_READ_BYTES_MAX: u32 = 256 << 20;

/// Where the streams of a source stand.
#[derive(Clone)]
pub struct Place {
    /// The repository, whose state key seals them.
    pub vault: Arc<Vault>,
    /// The state directory.
    pub state: State,
    /// The source's directory in it.
    pub directory: String,
}

impl Place {
    /// The name of the file of a generation.
    pub fn file(&self, generation: &[u8; 24]) -> String {
        format!("{}/{}", self.directory, hex(&generation[..16]))
    }

    /// The name of the file of a dictionary.
    pub fn dictionary_file(&self, name: &ChunkId) -> String {
        format!("{}/dictionary-{name}", self.directory)
    }

    /// The dictionary `name`, if this host keeps it whole.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn dictionary(&self, name: &ChunkId) -> Result<Option<Dictionary>, Error> {
        let file = self.dictionary_file(name);
        let Some(sealed) = self.state.read(&file)? else {
            return Ok(None);
        };
        let opened = self.vault.open(Kind::State, &file, &sealed);
        let named = opened.ok().map(|(_, bytes)| bytes).filter(|bytes| {
            let shared = &self.vault.access.shared;
            shared.chunk_id(ChunkKind::Dictionary as u8, bytes) == *name
        });
        Ok(named.and_then(|bytes| Dictionary::new(*name, bytes)))
    }

    /// Keeps a dictionary.
    ///
    /// # Errors
    /// The state directory.
    pub fn put_dictionary(&self, dictionary: &Dictionary) -> Result<(), Error> {
        let file = self.dictionary_file(&dictionary.name);
        if self.dictionary(&dictionary.name)?.is_none() {
            let sealed = self.vault.seal(Kind::State, &file, dictionary.bytes());
            let random = self.vault.random.as_ref();
            self.state.write(&file, &sealed, random)?;
        }
        Ok(())
    }
}

struct FrameWriter {
    place: Place,
    generation: [u8; 24],
    file: Option<BufWriter<File>>,
    frames: u64,
    ended: bool,
}

impl FrameWriter {
    fn new(place: Place) -> FrameWriter {
        FrameWriter {
            generation: draw(place.vault.random.as_ref()),
            place,
            file: None,
            frames: 0,
            ended: false,
        }
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::State(state::Error::Io {
            what: "write",
            path: self.place.state.path(&self.place.file(&self.generation)),
            source,
        })
    }

    fn frame(&mut self, plain: &[u8], last: bool) -> Result<(), Error> {
        let vault = &self.place.vault;
        let key = &vault.access.shared.state;
        let place = FramePlace {
            generation: &self.generation,
            number: self.frames,
            last,
        };
        let sealed = vault
            .realm
            .seal_frame(place, plain, key, vault.random.as_ref());
        self.frames += 1;
        let header = Header {
            kind: Kind::Shadow,
            epoch: vault.realm.epoch,
            check: key.check_value(),
            nonce: self.generation,
        };
        let mut bytes = Vec::with_capacity(5 + sealed.len());
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                bytes.extend_from_slice(&header.write());
                let name = self.place.file(&self.generation);
                BufWriter::new(self.place.state.create(&name)?)
            }
        };
        bytes.push(u8::from(last));
        bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&sealed);
        let mut written = file.write_all(&bytes);
        if last && written.is_ok() {
            written = file.flush();
        }
        self.file = Some(file);
        written.map_err(|source| self.failed(source))
    }

    fn end(&mut self, plain: &[u8]) -> Result<Stream, Error> {
        if self.frames == 0 && plain.len() <= INLINE_BYTES_MAX {
            self.ended = true;
            return Ok(Stream::Inline(plain.to_vec()));
        }
        self.frame(plain, true)?;
        self.ended = true;
        Ok(Stream::File(self.generation))
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.ended && self.file.is_some() {
            let _ = self.place.state.remove(&self.place.file(&self.generation));
        }
    }
}

struct FrameReader {
    place: Place,
    table: String,
    from: From,
    frames: u64,
}

enum From {
    Inline(Vec<u8>),
    File([u8; 24], BufReader<File>),
    Ended,
}

impl FrameReader {
    fn open(place: Place, table: &str, stream: &Stream) -> Result<FrameReader, Error> {
        let mut reader = FrameReader {
            place,
            table: table.to_owned(),
            from: From::Ended,
            frames: 0,
        };
        reader.from = match stream {
            Stream::Inline(bytes) => From::Inline(bytes.clone()),
            Stream::File(generation) => reader.open_file(*generation)?,
        };
        Ok(reader)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged {
            table: self.table.clone(),
            why: why.to_owned(),
        }
    }

    fn open_file(&self, generation: [u8; 24]) -> Result<From, Error> {
        let name = self.place.file(&generation);
        let file = self.place.state.open_file(&name)?;
        let mut file = BufReader::new(file.ok_or_else(|| self.damaged("a file of it is gone"))?);
        let mut header = [0; HEADER_BYTES];
        let read = file.read_exact(&mut header);
        read.map_err(|_| self.damaged("a file of it is cut off"))?;
        let parsed = Header::read(&header, Kind::Shadow);
        let parsed = parsed.map_err(|error| self.damaged(&error.to_string()))?.0;
        if parsed.nonce != generation {
            return Err(self.damaged("a file of it is another's"));
        }
        Ok(From::File(generation, file))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match std::mem::replace(&mut self.from, From::Ended) {
            From::Ended => Ok(None),
            From::Inline(bytes) => Ok(Some(bytes)),
            From::File(generation, mut file) => {
                let (last, plain) = self.frame(&generation, &mut file)?;
                if !last {
                    self.from = From::File(generation, file);
                }
                Ok(Some(plain))
            }
        }
    }

    fn frame(
        &mut self,
        generation: &[u8; 24],
        file: &mut BufReader<File>,
    ) -> Result<(bool, Vec<u8>), Error> {
        let cut = |_| self.damaged("a file of it is cut off");
        let mut head = [0; 5];
        file.read_exact(&mut head).map_err(cut)?;
        let [last, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        if last > 1 || length > FRAME_READ_BYTES_MAX {
            return Err(self.damaged("a frame of it is none"));
        }
        let mut sealed = Vec::new();
        let read = file.take(length.into()).read_to_end(&mut sealed);
        if read.map_err(cut)? != length as usize {
            return Err(self.damaged("a file of it is cut off"));
        }
        let last = last == 1;
        if last && !matches!(file.read(&mut [0]), Ok(0)) {
            return Err(self.damaged("bytes follow the end of a file of it"));
        }
        let place = FramePlace {
            generation,
            number: self.frames,
            last,
        };
        self.frames += 1;
        let vault = &self.place.vault;
        let key = &vault.access.shared.state;
        let opened = vault.realm.open_frame(place, &sealed, key);
        let plain = opened.map_err(|error| self.damaged(&error.to_string()))?;
        Ok((last, plain))
    }
}

/// Writes the two streams of a table.
pub(super) struct TableStreams {
    entries: EntryWriter,
    entry_frames: FrameWriter,
    edges: Vec<u8>,
    edge_frames: FrameWriter,
}

impl TableStreams {
    pub(super) fn new(place: &Place) -> TableStreams {
        TableStreams {
            entries: EntryWriter::default(),
            entry_frames: FrameWriter::new(place.clone()),
            edges: Vec::new(),
            edge_frames: FrameWriter::new(place.clone()),
        }
    }

    pub(super) fn entry(&mut self, key: &[u8], entry: Entry) -> Result<(), Error> {
        self.entries.push(key, entry);
        if self.entries.frame().len() >= FRAME_BYTES {
            self.entry_frames.frame(self.entries.frame(), false)?;
            self.entries.next_frame();
        }
        Ok(())
    }

    pub(super) fn edge(&mut self, chunk: &RunChunk) -> Result<(), Error> {
        push_record(&mut self.edges, &write_chunk(chunk));
        if self.edges.len() >= FRAME_BYTES {
            self.edge_frames.frame(&self.edges, false)?;
            self.edges.clear();
        }
        Ok(())
    }

    /// The entries and the edges.
    pub(super) fn end(mut self) -> Result<(Stream, Stream), Error> {
        let entries = self.entry_frames.end(self.entries.frame())?;
        Ok((entries, self.edge_frames.end(&self.edges)?))
    }
}

/// Reads the entries of a table, one ahead.
pub(super) struct Entries {
    frames: FrameReader,
    reader: EntryReader,
    head: Option<Entry>,
}

impl Entries {
    pub(super) fn open(place: &Place, table: &str, stream: &Stream) -> Result<Entries, Error> {
        let mut entries = Entries {
            frames: FrameReader::open(place.clone(), table, stream)?,
            reader: EntryReader::default(),
            head: None,
        };
        entries.advance()?;
        Ok(entries)
    }

    /// The next entry and its key.
    pub(super) fn head(&self) -> Option<(&[u8], Entry)> {
        self.head.map(|entry| (self.reader.key(), entry))
    }

    pub(super) fn advance(&mut self) -> Result<(), Error> {
        while self.reader.is_empty() {
            let Some(frame) = self.frames.next()? else {
                self.head = None;
                return Ok(());
            };
            self.reader.feed(frame);
        }
        let entry = self.reader.next();
        let entry = entry.map_err(|error| self.frames.damaged(&error.to_string()))?;
        self.head = Some(entry);
        Ok(())
    }
}

/// Reads the chunks of a table's base run, one ahead.
pub(super) struct Edges {
    frames: FrameReader,
    frame: Vec<u8>,
    at: usize,
    head: Option<RunChunk>,
}

impl Edges {
    pub(super) fn open(place: &Place, table: &str, stream: &Stream) -> Result<Edges, Error> {
        let mut edges = Edges {
            frames: FrameReader::open(place.clone(), table, stream)?,
            frame: Vec::new(),
            at: 0,
            head: None,
        };
        edges.advance()?;
        Ok(edges)
    }

    pub(super) fn head(&self) -> Option<&RunChunk> {
        self.head.as_ref()
    }

    /// Takes the next chunk.
    pub(super) fn take(&mut self) -> Result<Option<RunChunk>, Error> {
        let taken = self.head.take();
        self.advance()?;
        Ok(taken)
    }

    fn advance(&mut self) -> Result<(), Error> {
        while self.at == self.frame.len() {
            let Some(frame) = self.frames.next()? else {
                return Ok(());
            };
            (self.frame, self.at) = (frame, 0);
        }
        let mut rest = &self.frame[self.at..];
        let chunk = take_record(&mut rest).and_then(read_chunk);
        let chunk = chunk.map_err(|error| self.frames.damaged(&error.to_string()))?;
        self.at = self.frame.len() - rest.len();
        self.head = Some(chunk);
        Ok(())
    }
}
