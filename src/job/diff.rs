//! What was added, removed and changed between two snapshots, or since a snapshot.
//!
//! Tables whose digests are equal are not looked at; where two snapshots share runs, only what
//! they do not share is read, and what lies under keys that changed. Invariant: the counts are
//! those of a comparison of every row, whatever was left unread.

mod pairing;
mod stream;
mod walker;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{Manifest, ManifestTable, Mode, StoredOrder};
use crate::format::run::{LargeCell, RunChunk};
use crate::id::{ChunkId, Digest};
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{Between, Differing, FoundRow, RunChunks, read_run};
use crate::row::cell::{Cell, Cells};
use crate::row::schema::{Engine, Structure, TableName};
use crate::source::Source;
pub use pairing::{Compared, Pairing, SideTable};
use stream::Place;
use walker::{Bags, KeyWalk, OneSide};

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Only the later state has it.
    Added,
    /// Only the earlier state has it.
    Removed,
    /// Both have it, with other values.
    Changed,
}

impl Operation {
    /// The operation as JSON and tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Added => "added",
            Operation::Removed => "removed",
            Operation::Changed => "changed",
        }
    }
}

/// A row as one side has it.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its canonical bytes.
    pub row: Vec<u8>,
    /// Where its large cells lie; nowhere for a row of a live database.
    pub cells: HashMap<Digest, LargeCell>,
}

impl Version {
    fn new(row: &[u8], known: &HashMap<Digest, LargeCell>) -> Version {
        let mut cells = HashMap::new();
        if !known.is_empty() {
            for cell in Cells::new(row) {
                if let Ok(Cell::Large(large)) = cell
                    && let Some(found) = known.get(&large.digest)
                {
                    cells.insert(large.digest, found.clone());
                }
            }
        }
        Version {
            row: row.to_vec(),
            cells,
        }
    }

    fn found(found: &FoundRow) -> Version {
        Version::new(found.row(), &found.chunk.cells)
    }
}

/// A row that differs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What happened to it.
    pub operation: Operation,
    /// Its canonical key; none where rows are compared as a whole.
    pub key: Option<Vec<u8>>,
    /// The row before.
    pub before: Option<Version>,
    /// The row after.
    pub after: Option<Version>,
}

/// How many rows differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that only the later state has.
    pub added: u64,
    /// Rows that only the earlier state has.
    pub removed: u64,
    /// Rows of both, with other values.
    pub changed: u64,
}

impl Counts {
    fn count(&mut self, operation: Operation) {
        *match operation {
            Operation::Added => &mut self.added,
            Operation::Removed => &mut self.removed,
            Operation::Changed => &mut self.changed,
        } += 1;
    }

    /// Whether nothing differs.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }
}

/// Whether rows are wanted, or how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// How many rows differ.
    Counts,
    /// The rows themselves.
    Rows,
}

/// Two states of a source, side by side.
pub struct Comparison<'a> {
    /// The tables of either, by name.
    pub pairings: Vec<Pairing>,
    reader: Arc<Reader>,
    live: Option<&'a dyn Source>,
    /// Whether the later snapshot was made from the earlier one.
    next: bool,
}

/// Compares two snapshots; `tables` are the names that a person gave, none for all tables.
///
/// # Errors
/// Denied with a writer's key; Missing for a table that neither has; the repository's.
pub async fn start(
    opened: &Opened,
    before: &Snapshot,
    after: &Snapshot,
    tables: &[String],
) -> Result<Comparison<'static>, AnyFailure> {
    opened.vault.reader("compare rows")?;
    let (old, new) = (
        opened.manifest(before).await?,
        opened.manifest(after).await?,
    );
    same_engine(before, &old, after.record.id.short(), new.engine)?;
    let next = new.parent == Some(old.snapshot) && new.mode != Mode::Full;
    let later = new.tables.iter().map(|table| {
        let side = SideTable::Stored(Box::new(table.clone()));
        (table.table.name.clone(), side)
    });
    Ok(Comparison {
        pairings: pairings(&old, Some(&new), later.collect(), tables)?,
        reader: opened.reader().await?,
        live: None,
        next,
    })
}

/// Compares a snapshot with a database as it is now. `structure` is what `source` gave when it
/// began; the caller ends it after the last row, and believes nothing where that fails.
///
/// # Errors
/// As [`start`].
pub async fn start_live<'a>(
    opened: &Opened,
    before: &Snapshot,
    source: &'a dyn Source,
    structure: &Structure,
    tables: &[String],
) -> Result<Comparison<'a>, AnyFailure> {
    opened.vault.reader("compare rows")?;
    let old = opened.manifest(before).await?;
    same_engine(before, &old, "the database".into(), structure.engine)?;
    let later = structure.tables.iter().map(|table| {
        let side = SideTable::Live(Box::new(table.clone()));
        (table.name.clone(), side)
    });
    Ok(Comparison {
        pairings: pairings(&old, None, later.collect(), tables)?,
        reader: opened.reader().await?,
        live: Some(source),
        next: false,
    })
}

fn same_engine(
    before: &Snapshot,
    old: &Manifest,
    later: String,
    engine: Engine,
) -> Result<(), AnyFailure> {
    if old.engine == engine {
        return Ok(());
    }
    Err(AnyFailure::new(
        Class::Invalid,
        format!(
            "snapshot {} is of {}, and {later} is of {engine}",
            before.record.id.short(),
            old.engine,
        ),
        Some("compare states of one database".into()),
    ))
}

/// The tables of both sides, by name; those that were asked for.
fn pairings(
    old: &Manifest,
    new: Option<&Manifest>,
    mut later: BTreeMap<TableName, SideTable>,
    asked: &[String],
) -> Result<Vec<Pairing>, AnyFailure> {
    let mut chosen: HashSet<TableName> = HashSet::new();
    for text in asked {
        let live = later
            .keys()
            .find(|name| name.to_string() == *text || name.name == *text);
        let found = match (select::table(old, text), new) {
            (Ok(found), _) => found.table.name.clone(),
            (Err(error), None) => live.cloned().ok_or(error)?,
            (Err(error), Some(new)) => match select::table(new, text) {
                Ok(found) => found.table.name.clone(),
                Err(_) => return Err(error.into()),
            },
        };
        chosen.insert(found);
    }
    let mut all = Vec::new();
    for table in &old.tables {
        let before = SideTable::Stored(Box::new(table.clone()));
        all.push(Pairing::new(Some(before), later.remove(&table.table.name)));
    }
    all.extend(
        later
            .into_values()
            .map(|after| Pairing::new(None, Some(after))),
    );
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let side = |one: &Pairing| one.before.clone().or(one.after.clone());
    all.retain(|one| {
        asked.is_empty() || side(one).is_some_and(|side| chosen.contains(&side.table().name))
    });
    Ok(all)
}

/// How a table is gone through.
enum Way<'a> {
    /// Nothing needs to be read.
    Known,
    Stacks(Box<Between>),
    Keys(Box<KeyWalk<'a>>),
    Bags(Box<Bags<'a>>),
    One(Box<OneSide<'a>>),
}

/// The differences of one table.
pub struct Differences<'a> {
    way: Way<'a>,
    counts: Counts,
}

impl<'a> Comparison<'a> {
    /// What fetches the large cells of rows.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Begins with the table of `pairing`.
    ///
    /// # Errors
    /// The repository's; the live database's.
    pub async fn table(
        &self,
        pairing: &Pairing,
        wanted: Wanted,
    ) -> Result<Differences<'a>, AnyFailure> {
        let stored = |side: &Option<SideTable>| match side {
            Some(SideTable::Stored(stored)) => Some(stored.clone()),
            _ => None,
        };
        let both = stored(&pairing.before).zip(stored(&pairing.after));
        let known = match (&pairing.compared, &both) {
            (Compared::NotAtAll, _) => Some(Counts::default()),
            (Compared::OneSide, _) if wanted == Wanted::Counts => self.one_side(pairing),
            (_, Some((before, after))) => self.known(pairing, before, after, wanted),
            _ => None,
        };
        if let Some(counts) = known {
            let way = Way::Known;
            return Ok(Differences { way, counts });
        }
        let by_key = pairing.compared == Compared::ByKey;
        let way = match both {
            None if pairing.compared == Compared::OneSide => {
                let places = [self.place(&pairing.before), self.place(&pairing.after)];
                let one = OneSide::open(&self.reader, pairing, &places).await?;
                Some(Way::One(Box::new(one)))
            }
            Some((before, after)) if by_key && pairing.same_columns() => {
                let between = Between::open(self.reader.clone(), &before, &after).await?;
                between.map(|between| Way::Stacks(Box::new(between)))
            }
            Some((before, after)) if !by_key && pairing.same_columns() => {
                let places = self.unshared(&before, &after).await?;
                let bags = places.map(|places| Bags::new(&self.reader, pairing, places));
                bags.map(|bags| Way::Bags(Box::new(bags)))
            }
            _ => None,
        };
        let way = match way {
            Some(way) => way,
            None => {
                let places = [self.place(&pairing.before), self.place(&pairing.after)];
                match by_key {
                    true => {
                        let walk = KeyWalk::open(&self.reader, pairing, &places).await?;
                        Way::Keys(Box::new(walk))
                    }
                    false => Way::Bags(Box::new(Bags::new(&self.reader, pairing, places))),
                }
            }
        };
        let counts = Counts::default();
        Ok(Differences { way, counts })
    }

    fn place(&self, side: &Option<SideTable>) -> Place<'a> {
        match (side, self.live) {
            (Some(SideTable::Stored(stored)), _) => Place::Stack(stored.clone()),
            (Some(SideTable::Live(table)), Some(source)) => Place::Live(table.clone(), source),
            _ => Place::Nowhere,
        }
    }

    /// Where a table is on one side alone, the manifest says how many rows it has.
    fn one_side(&self, pairing: &Pairing) -> Option<Counts> {
        match (&pairing.before, &pairing.after) {
            (Some(SideTable::Stored(stored)), None) => Some(Counts {
                removed: stored.rows,
                ..Counts::default()
            }),
            (None, Some(SideTable::Stored(stored))) => Some(Counts {
                added: stored.rows,
                ..Counts::default()
            }),
            _ => None,
        }
    }

    /// What the manifests say without a row being read.
    fn known(
        &self,
        pairing: &Pairing,
        before: &ManifestTable,
        after: &ManifestTable,
        wanted: Wanted,
    ) -> Option<Counts> {
        let same = pairing.same_columns();
        if same && before.rows == after.rows && before.digest == after.digest {
            return Some(Counts::default());
        }
        let keyed = before.order == StoredOrder::Key && after.order == StoredOrder::Key;
        let counted = same && keyed && self.next && wanted == Wanted::Counts;
        // All rows put: the table was stored anew, and nobody counted what changed.
        if !counted || pairing.key_changed || after.rows_put >= after.rows {
            return None;
        }
        let added = (after.rows + after.rows_deleted).checked_sub(before.rows)?;
        Some(Counts {
            added,
            removed: after.rows_deleted,
            changed: after.rows_put.checked_sub(added)?,
        })
    }

    /// The chunks of two tables without a key that only one of them has; none where there are
    /// stacks that cannot be taken apart so.
    async fn unshared(
        &self,
        before: &ManifestTable,
        after: &ManifestTable,
    ) -> Result<Option<[Place<'a>; 2]>, AnyFailure> {
        let (Some(old), Some(new)) = (self.base(before).await?, self.base(after).await?) else {
            return Ok(None);
        };
        let mut counts: HashMap<ChunkId, i64> = HashMap::new();
        for (chunks, times) in [(&old, -1), (&new, 1)] {
            for chunk in chunks {
                *counts.entry(chunk.name).or_default() += times;
            }
        }
        let columns = before.table.columns.len();
        let mut keep = |chunks: Vec<RunChunk>, times: i64| {
            let kept = chunks.into_iter().filter(|chunk| {
                let count = counts.get_mut(&chunk.name);
                count.is_some_and(|count| {
                    let more = *count * times > 0;
                    *count -= if more { times } else { 0 };
                    more
                })
            });
            Place::Chunks(kept.collect(), columns)
        };
        Ok(Some([keep(old, -1), keep(new, 1)]))
    }

    /// The chunks of a table that is one base run, or nothing.
    async fn base(&self, table: &ManifestTable) -> Result<Option<Vec<RunChunk>>, AnyFailure> {
        let mut out = Vec::new();
        match table.stack.as_slice() {
            [] => {}
            [base] => {
                let mut chunks = RunChunks::new(read_run(&self.reader, base).await?);
                while let Some(chunk) = chunks.next(&self.reader).await? {
                    out.push(chunk);
                }
            }
            _ => return Ok(None),
        }
        Ok(Some(out))
    }
}

impl Differences<'_> {
    /// Some rows that differ; none at the end. Where only counts were asked for, there may be
    /// fewer rows than the counts say.
    ///
    /// # Errors
    /// The repository's; the live database's.
    pub async fn next(&mut self) -> Result<Option<Vec<Difference>>, AnyFailure> {
        let next = match &mut self.way {
            Way::Known => None,
            Way::Stacks(between) => {
                let some = between.next().await?;
                some.map(|some| some.into_iter().map(difference).collect())
            }
            Way::Keys(walk) => walk.next().await?,
            Way::Bags(bags) => bags.next().await?,
            Way::One(one) => one.next().await?,
        };
        for one in next.iter().flatten() {
            self.counts.count(one.operation);
        }
        Ok(next)
    }

    /// Goes through what is left, and gives the counts of all.
    ///
    /// # Errors
    /// As [`Differences::next`].
    pub async fn finish(mut self) -> Result<Counts, AnyFailure> {
        if let Way::Bags(bags) = &mut self.way
            && let Some((added, removed)) = bags.count_once().await?
        {
            (self.counts.added, self.counts.removed) = (added, removed);
            return Ok(self.counts);
        }
        while self.next().await?.is_some() {}
        Ok(self.counts)
    }

    /// How many chunks of rows two stacks needed so far; none where other ways were gone.
    pub fn chunks_read(&self) -> Option<u64> {
        match &self.way {
            Way::Known => Some(0),
            Way::Stacks(between) => Some(between.chunks_read()),
            _ => None,
        }
    }
}

fn difference(differing: Differing) -> Difference {
    let operation = match (&differing.before, &differing.after) {
        (None, _) => Operation::Added,
        (_, None) => Operation::Removed,
        _ => Operation::Changed,
    };
    Difference {
        operation,
        before: differing.before.as_ref().map(Version::found),
        after: differing.after.as_ref().map(Version::found),
        key: Some(differing.key),
    }
}
