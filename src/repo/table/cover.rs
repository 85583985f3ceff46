//! What of the deltas above a base run counts no more, because the base was rewritten there.
//!
//! A chunk of a base run says up to which sequence deltas are in it already; its range goes from
//! its first key to the next chunk's. Every reader of deltas asks here, or it would bring back a
//! version, or a row, that is gone. Invariant: ranges cover all keys without gap or overlap.

use crate::format::run::Run;
use crate::repo::reader::Reader;
use crate::repo::table::{Error, RunChunks};
use crate::row::cell::RowBatch;
use crate::row::codec::DecodedChunk;
use crate::row::key::{self, KeyBatch, KeyEncoder};

/// Up to which sequence deltas are covered, by ranges of keys.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Where each range but the first begins.
    starts: KeyBatch,
    /// What each range covers; empty where nothing is covered at all.
    covers: Vec<u64>,
}

impl Coverage {
    /// What `base` covers. Its chunks are looked at only where it covers anything.
    ///
    /// # Errors
    /// The reader's; Corrupt where a page is not one.
    pub async fn load(reader: &Reader, base: &Run) -> Result<Coverage, Error> {
        let mut coverage = Coverage::default();
        if base.covers_max == 0 {
            return Ok(coverage);
        }
        let mut chunks = RunChunks::new(base.clone());
        while let Some(chunk) = chunks.next(reader).await? {
            coverage.push(&chunk.first, chunk.covers);
        }
        Ok(coverage)
    }

    /// Adds the next chunk of the base.
    fn push(&mut self, first: &[u8], covers: u64) {
        match self.covers.last() {
            Some(last) if *last == covers => return,
            Some(_) => self.starts.push(first),
            None => {}
        }
        self.covers.push(covers);
    }

    /// The range that holds `key`.
    fn range(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.starts.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.starts.key(middle) <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Whether what a delta run of `sequence` says of `key` counts no more.
    pub fn hides(&self, key: &[u8], sequence: u64) -> bool {
        let covers = self.covers.get(self.range(key));
        covers.is_some_and(|covers| *covers >= sequence)
    }

    /// Whether anything that a delta run of `sequence` says between two keys may count no more.
    pub fn touches(&self, first: &[u8], last: &[u8], sequence: u64) -> bool {
        let ranges = self.range(first)..=self.range(last);
        let covers = self.covers.get(ranges).unwrap_or_default();
        covers.iter().any(|covers| *covers >= sequence)
    }

    /// What counts of a chunk of a delta run of `sequence`.
    ///
    /// # Errors
    /// A row without a key.
    pub fn filter(
        &self,
        chunk: DecodedChunk,
        keys: &KeyEncoder,
        sequence: u64,
    ) -> Result<DecodedChunk, key::Error> {
        let mut rows = RowBatch::with_capacity(chunk.rows.bytes().len());
        let mut key = Vec::new();
        for row in chunk.rows.iter() {
            keys.encode(row, &mut key)?;
            if !self.hides(&key, sequence) {
                rows.push(row);
            }
        }
        let mut deleted = KeyBatch::default();
        for key in chunk.deleted.iter() {
            if !self.hides(key, sequence) {
                deleted.push(key);
            }
        }
        Ok(DecodedChunk { rows, deleted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(chunks: &[(&[u8], u64)]) -> Coverage {
        let mut coverage = Coverage::default();
        for (first, covers) in chunks {
            coverage.push(first, *covers);
        }
        coverage
    }

    #[test]
    fn range_goes_from_its_first_key_to_the_next_ones() {
        let coverage = coverage(&[(b"c", 0), (b"f", 3), (b"k", 3), (b"m", 0), (b"t", 5)]);
        assert_eq!(coverage.covers.len(), 4);
        let hidden = |key: &[u8], sequence| coverage.hides(key, sequence);
        assert!(!hidden(b"a", 1) && !hidden(b"e", 1));
        assert!(hidden(b"f", 3) && hidden(b"l", 1) && !hidden(b"g", 4));
        assert!(!hidden(b"m", 1) && hidden(b"t", 5) && hidden(b"z", 2) && !hidden(b"z", 6));
        assert!(coverage.touches(b"a", b"z", 4) && !coverage.touches(b"a", b"s", 4));
        assert!(coverage.touches(b"n", b"t", 5) && !coverage.touches(b"n", b"o", 1));
    }

    #[test]
    fn first_range_goes_from_the_very_start() {
        let coverage = coverage(&[(b"c", 2)]);
        assert!(coverage.hides(b"a", 2) && coverage.hides(b"z", 1) && !coverage.hides(b"a", 3));
        assert!(!Coverage::default().hides(b"a", 0));
    }
}
