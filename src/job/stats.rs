//! How many bytes the repository holds, by source and table.
//!
//! Told from the manifests of the living snapshots and the storage's listing of packs; no row is
//! opened. Invariant: what a table stored is what its snapshots added when they were taken; a
//! chunk that several share counts where it came first.

use std::collections::BTreeMap;

use crate::failure::AnyFailure;
use crate::id::SourceName;
use crate::job::Opened;
use crate::repo::catalog::Source;
use crate::repo::check;

/// A table over all snapshots of its source.
#[derive(Clone, Debug, Default)]
pub struct TableSize {
    /// The table, as `show` prints it.
    pub name: String,
    /// Its rows in the newest snapshot that has it.
    pub rows: u64,
    /// Bytes of its rows there.
    pub bytes_raw: u64,
    /// Sealed bytes that all snapshots added for it.
    pub bytes_stored: u64,
}

/// A source over all of its snapshots.
#[derive(Clone, Debug)]
pub struct SourceSize {
    /// The source.
    pub source: SourceName,
    /// Its living snapshots.
    pub snapshots: u64,
    /// Bytes of packs that all of them added.
    pub bytes_stored: u64,
    /// Its tables, the one with the most stored bytes first.
    pub tables: Vec<TableSize>,
}

/// The repository.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its sources by name.
    pub sources: Vec<SourceSize>,
    /// Packs in the storage.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Adds everything up.
///
/// # Errors
/// The storage's; Corrupt for a damaged ledger or manifest.
pub async fn run(opened: &Opened) -> Result<Outcome, AnyFailure> {
    let catalog = opened.catalog().await?;
    let mut sources = Vec::new();
    for source in catalog.sources.values() {
        sources.push(size(opened, source).await?);
    }
    let packs = check::packs_listed(&opened.vault).await?;
    Ok(Outcome {
        sources,
        packs: packs.len() as u64,
        bytes: packs.values().sum(),
    })
}

async fn size(opened: &Opened, source: &Source) -> Result<SourceSize, AnyFailure> {
    let mut tables: BTreeMap<String, TableSize> = BTreeMap::new();
    let mut bytes_stored = 0;
    for snapshot in &source.snapshots {
        bytes_stored += snapshot.record.totals.bytes_stored;
        for table in opened.manifest(snapshot).await?.tables {
            let name = table.table.name.to_string();
            let size = tables.entry(name.clone()).or_default();
            size.name = name;
            size.rows = table.rows;
            size.bytes_raw = table.bytes_raw;
            size.bytes_stored += table.bytes_stored;
        }
    }
    let mut tables: Vec<TableSize> = tables.into_values().collect();
    tables.sort_by(|a, b| (b.bytes_stored, &a.name).cmp(&(a.bytes_stored, &b.name)));
    Ok(SourceSize {
        source: source.name.clone(),
        snapshots: source.snapshots.len() as u64,
        bytes_stored,
        tables,
    })
}
