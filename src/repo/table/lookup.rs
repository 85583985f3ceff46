//! Rows by their keys: what a stack of runs says of a few keys, in one small read for each run.
//!
//! Key ranges and filters tell which chunks may speak of a key; only those are fetched, newest run
//! first, until each key is settled. Invariant: the answer is that of a whole merge of the stack,
//! rewritten ranges of the base included.

mod shelf;

use std::sync::Arc;

use shelf::PAGES_KEPT;
pub use shelf::{KeyedChunk, KeyedRun, Mention, Shape, Shelf};

use crate::format::filter::Filter;
use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::run::{RunChunk, RunKind};
use crate::id::ChunkId;
use crate::repo::table::Error;
use crate::row::key::KeyEncoder;

/// A row that was found, in its chunk.
#[derive(Clone)]
pub struct FoundRow {
    /// The chunk that holds it.
    pub chunk: Arc<KeyedChunk>,
    /// Its place in the chunk.
    pub at: usize,
}

impl FoundRow {
    /// The row's canonical bytes.
    pub fn row(&self) -> &[u8] {
        self.chunk.rows.row(self.at)
    }
}

/// A table's stack of runs, to be asked for keys.
#[derive(Clone)]
pub struct KeyedStack {
    name: String,
    columns: usize,
    runs: Vec<Arc<KeyedRun>>,
    /// How its rows' keys are made.
    pub encoder: KeyEncoder,
}

/// Where a key would lie in a run.
struct Place {
    page: Arc<Vec<RunChunk>>,
    at: usize,
}

impl Place {
    fn chunk(&self) -> &RunChunk {
        &self.page[self.at]
    }

    /// Whether the chunk may hold `key`. It is the last that begins at or before the key, or the
    /// run's first, which in a base that was rewritten may hold keys before its range.
    fn holds(&self, key: &[u8], kind: RunKind) -> bool {
        let chunk = self.chunk();
        (kind == RunKind::Base || chunk.first[..] <= *key) && *key <= chunk.last[..]
    }
}

/// The last of some ranges that begins at or before `key`, or the first.
fn before<T>(ranges: &[T], key: &[u8], first: impl Fn(&T) -> &[u8]) -> Option<usize> {
    let after = ranges.partition_point(|range| first(range) <= key);
    (!ranges.is_empty()).then(|| after.saturating_sub(1))
}

async fn place(shelf: &mut Shelf, run: &KeyedRun, key: &[u8]) -> Result<Option<Place>, Error> {
    let pages = &run.run.pages;
    let page = match before(pages, key, |page| &page.first) {
        Some(at) => shelf.page(&pages[at].name).await?,
        None => run.chunks.clone(),
    };
    let at = before(&page, key, |chunk| &chunk.first);
    Ok(at.map(|at| Place { page, at }))
}

/// Fetches the pages in which these ascending keys would lie, if they fit on the shelf.
async fn gather_pages(
    shelf: &mut Shelf,
    run: &KeyedRun,
    keys: impl Iterator<Item = &[u8]>,
) -> Result<(), Error> {
    let pages = &run.run.pages;
    let places = keys.filter_map(|key| before(pages, key, |page| &page.first));
    let mut names: Vec<ChunkId> = places.map(|at| pages[at].name).collect();
    names.dedup();
    names.truncate(PAGES_KEPT);
    shelf.pages(&names).await.map(drop)
}

impl KeyedStack {
    /// Opens the stack of `table`; none where its rows are not stored by key.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one, or the runs do not fit the table.
    pub async fn open(
        shelf: &mut Shelf,
        table: &ManifestTable,
    ) -> Result<Option<KeyedStack>, Error> {
        let keyed = KeyEncoder::new(&table.table).filter(|_| table.order == StoredOrder::Key);
        let Some(encoder) = keyed else {
            return Ok(None);
        };
        let runs = shelf.runs(&table.stack).await?;
        let columns = table.table.columns.len();
        for (at, run) in runs.iter().enumerate() {
            let run = &run.run;
            if run.columns as usize != columns || (at == 0) != (run.kind == RunKind::Base) {
                return Err(Error::Merge {
                    table: table.table.name.to_string(),
                    why: "a run is of another shape or stands in another's place".into(),
                });
            }
        }
        Ok(Some(KeyedStack {
            name: table.table.name.to_string(),
            columns,
            runs,
            encoder,
        }))
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its runs, base first.
    pub fn runs(&self) -> &[Arc<KeyedRun>] {
        &self.runs
    }

    /// How its chunks are read.
    pub fn shape(&self) -> Shape<'_> {
        Shape {
            columns: self.columns,
            encoder: Some(&self.encoder),
        }
    }

    /// The row of each of `keys`, which ascend; none where the table has no row of that key.
    ///
    /// # Errors
    /// The reader's; Corrupt where a chunk is not what its name says.
    pub async fn rows(
        &self,
        shelf: &mut Shelf,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<FoundRow>>, Error> {
        let mut found = vec![None; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        let covers = self.covers(shelf, keys).await?;
        for run in self.runs.iter().rev() {
            let (delta, sequence) = (run.run.kind == RunKind::Delta, run.run.sequence);
            let asked: Vec<usize> = open
                .iter()
                .copied()
                .filter(|key| !delta || covers.get(*key).is_none_or(|to| *to < sequence))
                .collect();
            let mentions = self.mentions(shelf, run, keys, &asked).await?;
            let mut settled = Vec::new();
            for (key, mention) in mentions {
                settled.push(key);
                found[key] = mention;
            }
            open.retain(|key| settled.binary_search(key).is_err());
            if open.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Up to which sequence the base covers deltas at each key; empty where it covers nothing.
    async fn covers(&self, shelf: &mut Shelf, keys: &[&[u8]]) -> Result<Vec<u64>, Error> {
        let mut covers = Vec::new();
        let Some(base) = self.runs.first().filter(|base| base.run.covers_max > 0) else {
            return Ok(covers);
        };
        for key in keys {
            let place = place(shelf, base, key).await?;
            covers.push(place.map_or(0, |place| place.chunk().covers));
        }
        Ok(covers)
    }

    /// What one run says of those of `keys` that are asked for, in their order; what it does not
    /// speak of is left out.
    async fn mentions(
        &self,
        shelf: &mut Shelf,
        run: &KeyedRun,
        keys: &[&[u8]],
        asked: &[usize],
    ) -> Result<Vec<(usize, Option<FoundRow>)>, Error> {
        let filter = run.run.key_filter.as_deref();
        // A filter that cannot be read denies nothing.
        let filter = filter.and_then(|bytes| Filter::read(bytes).ok());
        let claims = |key: &usize| {
            let hash = |key| shelf.vault().access.shared.key_filter_hash(key);
            filter.is_none_or(|filter| filter.may_contain(&hash(keys[*key])))
        };
        let asked: Vec<usize> = asked.iter().copied().filter(claims).collect();
        gather_pages(shelf, run, asked.iter().map(|key| keys[*key])).await?;
        let mut wanted: Vec<RunChunk> = Vec::new();
        let mut placed = Vec::new();
        for key in asked {
            let Some(place) = place(shelf, run, keys[key]).await? else {
                continue;
            };
            if !place.holds(keys[key], run.run.kind) {
                continue;
            }
            if wanted
                .last()
                .is_none_or(|last| last.name != place.chunk().name)
            {
                wanted.push(place.chunk().clone());
            }
            placed.push((key, wanted.len() - 1));
        }
        let chunks = shelf.chunks(&wanted, self.shape()).await?;
        let mut out = Vec::new();
        for (key, chunk) in placed {
            let chunk = &chunks[chunk];
            match chunk.find(keys[key]) {
                None => {}
                Some(Mention::Deleted) => out.push((key, None)),
                Some(Mention::Row(at)) => {
                    let chunk = chunk.clone();
                    out.push((key, Some(FoundRow { chunk, at })));
                }
            }
        }
        Ok(out)
    }
}
