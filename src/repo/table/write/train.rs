//! A table's dictionary, trained on the first chunks that its base run is made of.
//!
//! Encoded chunks wait, in their order, until there are enough of them to train on; what stands
//! between them waits along. Invariant: a dictionary is used only where it made chunks that it was
//! not trained on smaller by a twentieth, and where it will save more than it takes itself.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::format::pack::ChunkKind;
use crate::format::run::RunChunk;
use crate::id::ChunkId;
use crate::repo::blob::{Dictionary, compress};
use crate::repo::table::Error;
use crate::repo::table::write::make::Made;
use crate::repo::table::write::{CHUNKS_AT_ONCE, Coming, RunWriter};
use crate::repo::workers::Work;
use crate::repo::writer::Added;

/// Most bytes of a dictionary.
const DICTIONARY_BYTES_MAX: usize = 110 << 10;
/// A dictionary has at most one byte for this many of the chunks that it is trained on.
const SAMPLE_A_BYTE: usize = 8;
/// Most bytes of chunks that a dictionary is trained on and judged by: twice as many make chunks a
/// quarter of a percent smaller, and take twice the time.
const SAMPLE_BYTES_MAX: usize = 1 << 20;
/// Of fewer bytes of chunks than this, no dictionary is made.
const SAMPLE_BYTES_MIN: usize = 256 << 10;
/// One chunk of this many is kept apart to judge the dictionary by. Judging is cheap, and by few
/// chunks it is luck; training takes time with every byte.
const JUDGED_OF: usize = 2;
/// Most chunks that wait, of whatever length.
const CHUNKS_WAITING_MAX: usize = 1024;

/// A chunk that waits.
pub(super) enum Held {
    /// Described, and stored already.
    Described(RunChunk),
    /// Encoded, to be stored with the dictionary.
    Encoded(RunChunk, Range<usize>),
}

/// Chunks that wait for a dictionary.
#[derive(Default)]
pub(super) struct Waiting {
    /// Encoded chunks, one after the other.
    raw: Vec<u8>,
    held: Vec<Held>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.raw.len() >= SAMPLE_BYTES_MAX || self.held.len() >= CHUNKS_WAITING_MAX
    }

    /// Lets a chunk wait that needs nothing itself.
    pub(super) fn described(&mut self, chunk: RunChunk) {
        self.held.push(Held::Described(chunk));
    }

    /// Lets an encoded chunk wait.
    pub(super) fn encoded(&mut self, chunk: RunChunk, raw: &[u8]) {
        let start = self.raw.len();
        self.raw.extend_from_slice(raw);
        let range = start..self.raw.len();
        self.held.push(Held::Encoded(chunk, range));
    }

    /// The bytes of a dictionary for what waits; none where it would not pay.
    pub(super) fn train(&self) -> Option<Vec<u8>> {
        if self.raw.len() < SAMPLE_BYTES_MIN {
            return None;
        }
        let encoded = self.held.iter().filter_map(|held| match held {
            Held::Encoded(_, range) => Some(&self.raw[range.clone()]),
            Held::Described(_) => None,
        });
        let chunks: Vec<&[u8]> = encoded.collect();
        let more_will_come = self.raw.len() >= SAMPLE_BYTES_MAX;
        train(&chunks, more_will_come)
    }

    /// Everything that waited, in order; ranges are of the bytes beside it.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<Held>) {
        (self.raw, self.held)
    }
}

impl RunWriter {
    pub(super) fn store(&self, chunk: RunChunk, raw: Vec<u8>) -> Work<Result<Made, Error>> {
        let (maker, dictionary) = (self.maker.clone(), self.dictionary.clone());
        let store = move || maker.store(chunk, &raw, dictionary.as_deref());
        self.writer.workers().begin(store)
    }

    pub(super) fn train_if_full(&mut self) -> Result<(), Error> {
        match &self.waiting {
            Some(waiting) if waiting.is_full() => self.train(),
            _ => Ok(()),
        }
    }

    /// Trains the dictionary on what waits, if that pays, and stores what waits.
    pub(super) fn train(&mut self) -> Result<(), Error> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(());
        };
        if let Some(bytes) = waiting.train() {
            let (name, added) = self.writer.add_bytes(ChunkKind::Dictionary, &bytes)?;
            if let Added::New(bytes) = added {
                self.bytes_stored += u64::from(bytes);
            }
            self.dictionary = Dictionary::new(name, bytes).map(Arc::new);
            self.placed = true;
        }
        let (raw, held) = waiting.into_parts();
        let mut coming = VecDeque::new();
        for held in held {
            while coming.len() >= CHUNKS_AT_ONCE {
                self.take_held(&mut coming)?;
            }
            coming.push_back(match held {
                Held::Described(chunk) => Coming::Adopted(chunk),
                Held::Encoded(chunk, range) => {
                    Coming::Making(self.store(chunk, raw[range].to_vec()))
                }
            });
        }
        while !coming.is_empty() {
            self.take_held(&mut coming)?;
        }
        Ok(())
    }

    fn take_held(&mut self, coming: &mut VecDeque<Coming>) -> Result<(), Error> {
        match coming.pop_front() {
            None => Ok(()),
            Some(Coming::Adopted(chunk)) => self.describe(chunk, Added::Reused),
            Some(Coming::Making(making)) => {
                let made = self.wait(making)?;
                self.describe_made(made)
            }
        }
    }
}

/// A dictionary for `chunks`; none where it would not pay.
fn train(chunks: &[&[u8]], more_will_come: bool) -> Option<Vec<u8>> {
    let judged = |at: usize| at % JUDGED_OF == JUDGED_OF - 1;
    let mut sample = Vec::new();
    let mut lengths = Vec::new();
    for (at, chunk) in chunks.iter().enumerate() {
        if !judged(at) {
            sample.extend_from_slice(chunk);
            lengths.push(chunk.len());
        }
    }
    let size = (sample.len() / SAMPLE_A_BYTE).min(DICTIONARY_BYTES_MAX);
    // Too few chunks, or chunks with nothing in common, give none.
    let bytes = zstd::dict::from_continuous(&sample, &lengths, size).ok()?;
    let dictionary = Dictionary::new(ChunkId([0; 32]), bytes)?;
    let (mut with, mut without) = (0, 0);
    for (_, chunk) in chunks.iter().enumerate().filter(|(at, _)| judged(*at)) {
        with += compress(chunk, Some(&dictionary)).len();
        without += compress(chunk, None).len();
    }
    let gains = with * 20 <= without * 19;
    let saved = without.saturating_sub(with) * JUDGED_OF;
    let pays = more_will_come || saved > compress(dictionary.bytes(), None).len();
    (gains && pays).then(|| dictionary.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, SeededRandom};

    fn waiting(chunks: impl Iterator<Item = Vec<u8>>) -> Waiting {
        let mut waiting = Waiting::default();
        for raw in chunks {
            let chunk = RunChunk {
                name: ChunkId([0; 32]),
                first: Vec::new(),
                last: Vec::new(),
                puts: 1,
                deletions: 0,
                bytes: raw.len() as u32,
                covers: 0,
                cells: Vec::new(),
                filters: Vec::new(),
            };
            waiting.encoded(chunk, &raw);
            if waiting.is_full() {
                break;
            }
        }
        waiting
    }

    /// Chunks of sentences that share a stock of words, 16 KiB each.
    fn sentences(count: usize) -> impl Iterator<Item = Vec<u8>> {
        let random = SeededRandom::new(4);
        let mut stock = vec![[0; 12]; 4000];
        for word in &mut stock {
            random.fill(word);
        }
        (0..count).map(move |_| {
            let word = |_| stock[random.below(4000) as usize];
            (0..1400).flat_map(word).collect()
        })
    }

    fn noise(count: usize) -> impl Iterator<Item = Vec<u8>> {
        let random = SeededRandom::new(5);
        (0..count).map(move |_| {
            let mut bytes = vec![0; 16 << 10];
            random.fill(&mut bytes);
            bytes
        })
    }

    #[test]
    fn dictionary_is_made_of_chunks_that_have_much_in_common() {
        let waiting = waiting(sentences(100));
        assert!(waiting.is_full());
        let dictionary = waiting.train().expect("words come again");
        assert!(dictionary.len() <= DICTIONARY_BYTES_MAX);
    }

    #[test]
    fn few_chunks_and_chunks_with_nothing_in_common_get_none() {
        assert!(waiting(sentences(10)).train().is_none());
        assert!(waiting(noise(100)).train().is_none());
        assert!(waiting(std::iter::empty()).train().is_none());
    }
}
