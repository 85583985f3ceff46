//! Reads the tables of a source into runs, each compared with its shadow where there is one.
//!
//! A table is asked for in the order of its key, then in the order of the key's bytes, and at last
//! as it lies. Invariant: a table is captured whole from the one database snapshot, in an order
//! that was checked, and with as many rows as the source itself counted, or the backup fails.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::failure::{AnyFailure, Class, Failure};
use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::shadow::{Shadow, ShadowTable};
use crate::id::Digest;
use crate::job::Progress;
use crate::repo::reader::Reader;
use crate::repo::shadow::{self, Before, How, Keeper, Subject, TableWalk, Walked, fingerprint};
use crate::repo::table::{self, Intake};
use crate::repo::writer::Writer;
use crate::row::schema::{Structure, Table};
use crate::source::{Order, PIECES_WAITING_MAX, Piece, PieceReceiver, Source};

/// What tables are read into, and compared with.
pub(super) struct Tables<'a> {
    /// The source, within its database snapshot.
    pub(super) source: &'a dyn Source,
    /// What the source is made of.
    pub(super) structure: &'a Structure,
    /// Where chunks go.
    pub(super) writer: &'a Arc<Writer>,
    /// What fetches a dictionary that this host has lost.
    pub(super) reader: Reader,
    /// Where the shadow stands.
    pub(super) keeper: &'a Keeper,
    /// The shadow, if it counts.
    pub(super) shadow: Option<&'a Shadow>,
    /// What the shadow is for.
    pub(super) how: How,
    /// Who is told.
    pub(super) progress: &'a dyn Progress,
}

/// What tables came to.
#[derive(Default)]
pub(super) struct Read {
    /// As the manifest has them, in the order of the structure.
    pub(super) tables: Vec<ManifestTable>,
    /// What the next backup compares with.
    pub(super) shadows: Vec<ShadowTable>,
    /// Sentences for the person.
    pub(super) warnings: Vec<String>,
    /// What an audit found wrong, in sentences.
    pub(super) wrong: Vec<String>,
    /// Bytes of the rows that were read.
    pub(super) bytes_read: u64,
    /// Whether rows of some table were not read, because it was proven that they did not change.
    pub(super) proven: bool,
}

struct ReadTable {
    table: ManifestTable,
    shadow: Option<ShadowTable>,
    warnings: Vec<String>,
    wrong: Option<String>,
    bytes_read: u64,
    proven: bool,
}

enum Tried {
    Whole(Box<Walked>),
    Misordered,
    Damaged(String),
}

impl Tables<'_> {
    /// Reads all tables, as many at once as the source can.
    ///
    /// # Errors
    /// The source's; the storage's; anything that does not add up.
    pub(super) async fn read(&self) -> Result<Read, AnyFailure> {
        let tables = self.structure.tables.iter().enumerate();
        let mut read: Vec<(usize, ReadTable)> = stream::iter(tables)
            .map(|(at, table)| async move { Ok::<_, AnyFailure>((at, self.table(table).await?)) })
            .buffer_unordered(self.source.parallel().max(1))
            .try_collect()
            .await?;
        read.sort_by_key(|(at, _)| *at);
        let mut all = Read::default();
        for (_, read) in read {
            let name = read.table.table.name.to_string();
            let wrong = read.wrong.map(|wrong| format!("table {name}: {wrong}"));
            all.wrong.extend(wrong);
            all.tables.push(read.table);
            all.shadows.extend(read.shadow);
            all.warnings.extend(read.warnings);
            all.bytes_read += read.bytes_read;
            all.proven |= read.proven;
        }
        Ok(all)
    }

    async fn table(&self, table: &Table) -> Result<ReadTable, AnyFailure> {
        let mut warnings = Vec::new();
        if !table.with_rows {
            return Ok(ReadTable {
                table: structure_only(table),
                shadow: None,
                warnings,
                wrong: None,
                bytes_read: 0,
                proven: false,
            });
        }
        if let Some(walked) = self.proven(table).await? {
            return Ok(self.whole(table, walked, warnings, true));
        }
        let orders: &[Order] = match table.key {
            Some(_) => &[Order::Key, Order::Canonical, Order::Physical],
            None => &[Order::Physical],
        };
        for order in orders {
            if table.key.is_some() && *order == Order::Physical {
                warnings.push(format!(
                    "table {} is stored without its key, because its rows could not be had in the key's order",
                    table.name
                ));
            }
            let before = self.before(table, *order, &mut warnings)?;
            let before = match before {
                Some(shadow) => Some(self.with_dictionary(shadow).await?),
                None => None,
            };
            let mut tried = self.in_order(table, *order, before).await?;
            if let Tried::Damaged(why) = tried {
                warnings.push(format!("{why}; the table is stored anew"));
                tried = self.in_order(table, *order, None).await?;
            }
            if let Tried::Whole(walked) = tried {
                return Ok(self.whole(table, walked, warnings, false));
            }
        }
        Err(AnyFailure::new(
            Class::Bug,
            format!("table {} could not be read in any order", table.name),
            None,
        ))
    }

    fn whole(
        &self,
        table: &Table,
        walked: Box<Walked>,
        warnings: Vec<String>,
        proven: bool,
    ) -> ReadTable {
        let mark = self.source.prover().and_then(|prover| prover.mark(table));
        let described = described(table, &walked);
        ReadTable {
            table: described,
            shadow: walked.shadow.map(|shadow| ShadowTable { mark, ..shadow }),
            warnings,
            wrong: walked.wrong,
            bytes_read: walked.bytes_read,
            proven,
        }
    }

    /// The table's shadow, if it counts.
    pub(super) fn before(
        &self,
        table: &Table,
        order: Order,
        warnings: &mut Vec<String>,
    ) -> Result<Option<ShadowTable>, AnyFailure> {
        let mut tables = self.shadow.iter().flat_map(|shadow| &shadow.tables);
        let Some(shadow) = tables.find(|known| known.name == table.name) else {
            return Ok(None);
        };
        let vault = self.writer.vault();
        let mut anew = |why: &str| {
            warnings.push(format!(
                "table {} is stored anew, because {why}",
                table.name
            ));
        };
        if fingerprint(vault, table, stored(order)) != shadow.fingerprint {
            anew("its columns, its key or its order changed since the snapshot before");
            return Ok(None);
        }
        for run in &shadow.stack {
            if !self.writer.has(&run.run)? {
                anew("a run of the snapshot before cannot be built on");
                return Ok(None);
            }
        }
        Ok(Some(shadow.clone()))
    }

    /// What a table is compared with. Its dictionary comes from this host, else from the
    /// repository, which only readers can open; where neither has it whole, there is none.
    pub(super) async fn with_dictionary(&self, shadow: ShadowTable) -> Result<Before, AnyFailure> {
        let mut dictionary = None;
        if let Some(name) = &shadow.dictionary {
            dictionary = self.keeper.place().dictionary(name)?.map(Arc::new);
            if dictionary.is_none() && self.writer.vault().access.may_read() {
                dictionary = match self.reader.dictionary(name).await {
                    Ok(dictionary) => Some(dictionary),
                    Err(error) if error.class() == Class::Corrupt => None,
                    Err(error) => return Err(error.into()),
                };
            }
        }
        Ok(Before {
            shadow,
            how: self.how,
            dictionary,
        })
    }

    async fn in_order(
        &self,
        table: &Table,
        order: Order,
        before: Option<Before>,
    ) -> Result<Tried, AnyFailure> {
        let stored = stored(order);
        let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
        let (told, mut telling) = mpsc::unbounded_channel();
        let (count, counted) = oneshot::channel();
        let keyed = stored == StoredOrder::Key;
        let intake = Intake::new(self.writer.clone(), table, keyed);
        let (writer, place) = (self.writer.clone(), self.keeper.place().clone());
        let subject = Subject {
            table: table.clone(),
            order: stored,
            filters: table::relation_columns(self.structure, table).into(),
        };
        let walking = tokio::task::spawn_blocking(move || {
            let walk = TableWalk::new(writer, &place, subject, before)?;
            walk_pieces(walk, intake, received, counted, told)
        });
        let reading = async {
            let read = self.source.read(table, order, pieces).await;
            read.map(|rows| {
                let _ = count.send(rows);
            })
        };
        let telling = async {
            while let Some((bytes, rows)) = telling.recv().await {
                self.progress.advance(bytes, rows);
            }
        };
        let (read, ()) = tokio::join!(reading, telling);
        let walked = walking
            .await
            .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
        self.judge(table, order, walked, read)
    }

    /// A walk that ended early stops the source, whose failure then says nothing.
    fn judge(
        &self,
        table: &Table,
        order: Order,
        walked: Result<Option<Walked>, shadow::Error>,
        read: Result<(), AnyFailure>,
    ) -> Result<Tried, AnyFailure> {
        match walked {
            Err(shadow::Error::Table(table::Error::Order { .. })) if order != Order::Physical => {
                Ok(Tried::Misordered)
            }
            Err(error @ shadow::Error::Damaged { .. }) => Ok(Tried::Damaged(error.to_string())),
            Err(error) => {
                if matches!(error, shadow::Error::Sum { .. }) {
                    // What led to this must not be built on again.
                    let _ = self.keeper.remove();
                }
                Err(error.into())
            }
            Ok(Some(walked)) => read.map(|()| Tried::Whole(Box::new(walked))),
            Ok(None) => Err(read.err().unwrap_or_else(|| {
                let what = format!("the rows of table {} ended early", table.name);
                AnyFailure::new(Class::Bug, what, None)
            })),
        }
    }
}

fn stored(order: Order) -> StoredOrder {
    match order {
        Order::Physical => StoredOrder::Physical,
        Order::Key | Order::Canonical => StoredOrder::Key,
    }
}

fn structure_only(table: &Table) -> ManifestTable {
    ManifestTable {
        table: table.clone(),
        order: StoredOrder::Physical,
        stack: Vec::new(),
        rows: 0,
        digest: Digest::ZERO,
        bytes_raw: 0,
        bytes_stored: 0,
        rows_put: 0,
        rows_deleted: 0,
    }
}

fn described(table: &Table, walked: &Walked) -> ManifestTable {
    ManifestTable {
        table: table.clone(),
        order: walked.order,
        stack: walked.stack.clone(),
        rows: walked.rows,
        digest: walked.digest,
        bytes_raw: walked.bytes_raw,
        bytes_stored: walked.bytes_stored,
        rows_put: walked.rows_put,
        rows_deleted: walked.rows_deleted,
    }
}

/// Feeds what the source sends to the walk; none where the source failed.
fn walk_pieces(
    mut walk: TableWalk,
    mut intake: Intake,
    mut pieces: PieceReceiver,
    counted: oneshot::Receiver<u64>,
    told: mpsc::UnboundedSender<(u64, u64)>,
) -> Result<Option<Walked>, shadow::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Slice { column, bytes } => {
                intake.slice(column, &bytes)?;
                let _ = told.send((bytes.len() as u64, 0));
            }
            Piece::Rows(rows) => {
                let _ = told.send((rows.bytes().len() as u64, rows.len() as u64));
                if let Some(digested) = intake.rows(rows)? {
                    walk.rows(digested)?;
                }
            }
        }
    }
    drop(told);
    let Ok(counted) = counted.blocking_recv() else {
        return Ok(None);
    };
    while let Some(digested) = intake.next()? {
        walk.rows(digested)?;
    }
    let cells = intake.finish()?;
    let mut walked = walk.finish(counted)?;
    walked.bytes_stored += cells;
    Ok(Some(walked))
}
