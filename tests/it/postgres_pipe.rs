//! A source piped straight into a target, with every row digested on the way.
//!
//! Stands in for the repository: digests of what left the source must equal digests of what the
//! target reads back, and keyed rows must come in canonical order.

use std::collections::BTreeMap;

use rowvault::failure::AnyFailure;
use rowvault::row::cell::{Cell, Cells};
use rowvault::row::schema::{KeyOrder, Structure, Table};
use rowvault::source::open::{self, SourceOptions, SourceUrl, TargetOptions};
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, Published, Source, Target};
use tokio::sync::mpsc;

/// What was seen of a table: rows, and the order-free sum of their digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub rows: u64,
    pub sum: u128,
    pub large: u64,
}

/// Digests pieces one after the other and checks that they follow the contract.
#[derive(Default)]
pub struct Digester {
    pub seen: Seen,
    slices: BTreeMap<usize, (blake3::Hasher, u64)>,
    last: Option<usize>,
    key: Option<Vec<Vec<u8>>>,
}

impl Digester {
    pub fn piece(&mut self, piece: &Piece, table: &Table, ordered: bool) {
        match piece {
            Piece::Slice { column, bytes } => {
                assert!(
                    !bytes.is_empty() && bytes.len() <= 1 << 20,
                    "a slice of {}",
                    bytes.len()
                );
                assert!(self.last <= Some(*column), "slices out of order");
                self.last = Some(*column);
                let (hasher, length) = self.slices.entry(*column).or_default();
                hasher.update(bytes);
                *length += bytes.len() as u64;
            }
            Piece::Rows(batch) => {
                self.last = None;
                for row in batch.iter() {
                    self.row(row, table, ordered);
                    assert!(self.slices.is_empty(), "slices that no first row used");
                }
            }
        }
    }

    fn row(&mut self, row: &[u8], table: &Table, ordered: bool) {
        let mut hasher = blake3::Hasher::new();
        let mut cells: Vec<Cell<'_>> = Vec::new();
        for (column, cell) in Cells::new(row).enumerate() {
            let cell = cell.unwrap();
            match cell {
                Cell::Null => hasher.update(b"n"),
                Cell::Text(bytes) => {
                    assert!(bytes.len() <= 1 << 20, "a large cell was left in its row");
                    hasher
                        .update(b"t")
                        .update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes)
                }
                Cell::Large(large) => {
                    let (slices, length) = self.slices.remove(&column).expect("slices came");
                    assert_eq!(length, large.length);
                    self.seen.large += 1;
                    hasher.update(b"l").update(slices.finalize().as_bytes())
                }
                other => panic!("a cell of another class: {other:?}"),
            };
            cells.push(cell);
        }
        assert_eq!(cells.len(), table.columns.len());
        let digest = hasher.finalize();
        let digest = u128::from_le_bytes(digest.as_bytes()[..16].try_into().unwrap());
        self.seen.sum = self.seen.sum.wrapping_add(digest);
        self.seen.rows += 1;
        if ordered && let Some(key) = &table.key {
            let parts = key
                .columns
                .iter()
                .map(|&(index, order)| match (cells[index], order) {
                    (Cell::Text(text), KeyOrder::Integer) => {
                        let number: i64 = std::str::from_utf8(text).unwrap().parse().unwrap();
                        ((number as u64) ^ (1 << 63)).to_be_bytes().to_vec()
                    }
                    (Cell::Text(text), _) => text.to_vec(),
                    (other, _) => panic!("a key cell is {other:?}"),
                });
            let next: Vec<Vec<u8>> = parts.collect();
            assert!(
                self.key.as_ref().is_none_or(|last| *last < next),
                "{}: out of order",
                table.name
            );
            self.key = Some(next);
        }
    }
}

/// Reads one table to its end.
pub async fn read(source: &dyn Source, table: &Table, order: Order) -> Result<Seen, AnyFailure> {
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let mut digester = Digester::default();
    let collect = async {
        while let Some(piece) = pieces.recv().await {
            digester.piece(&piece, table, order != Order::Physical);
        }
    };
    let (count, ()) = tokio::join!(source.read(table, order, sender), collect);
    assert_eq!(count?, digester.seen.rows);
    Ok(digester.seen)
}

async fn copy(source: &dyn Source, target: &dyn Target, table: &Table) -> Result<Seen, AnyFailure> {
    let (out, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let (forward, into) = mpsc::channel(PIECES_WAITING_MAX);
    let mut digester = Digester::default();
    let pass = async {
        while let Some(piece) = pieces.recv().await {
            digester.piece(&piece, table, true);
            if forward.send(piece).await.is_err() {
                break;
            }
        }
        drop(forward);
        drop(pieces);
    };
    let (read, taken, ()) = tokio::join!(
        source.read(table, Order::Key, out),
        target.load(table, into),
        pass
    );
    let (taken, read) = (taken?, read?);
    assert_eq!((read, taken), (digester.seen.rows, digester.seen.rows));
    Ok(digester.seen)
}

/// What a round trip gave.
pub struct Trip {
    pub structure: Structure,
    pub seen: BTreeMap<String, Seen>,
    pub published: Published,
}

/// Captures `from` and restores it to `to`, comparing digests; discards on failure.
pub async fn round_trip(
    from: &SourceUrl,
    to: &SourceUrl,
    source_options: &SourceOptions,
    target_options: &TargetOptions,
) -> Result<Trip, AnyFailure> {
    let mut source = open::source(from, source_options)?;
    let mut target = open::target(to, target_options)?;
    let outcome = through(source.as_mut(), target.as_mut()).await;
    match outcome {
        Ok(trip) => Ok(trip),
        Err(error) => {
            target.discard().await?;
            Err(error)
        }
    }
}

async fn through(source: &mut dyn Source, target: &mut dyn Target) -> Result<Trip, AnyFailure> {
    let structure = source.begin().await?;
    target.prepare(&structure).await?;
    let tables: Vec<&Table> = structure.tables.iter().filter(|t| t.with_rows).collect();
    let mut seen = BTreeMap::new();
    for pair in tables.chunks(source.parallel().min(target.parallel()).max(1)) {
        let (source, target) = (&*source, &*target);
        let copies = pair.iter().map(|table| copy(source, target, table));
        let done = futures::future::join_all(copies).await;
        for (table, one) in pair.iter().zip(done) {
            seen.insert(table.name.to_string(), one?);
        }
    }
    source.end().await?;
    target.finish(&structure).await?;
    for table in tables {
        let (out, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let mut digester = Digester::default();
        let collect = async {
            while let Some(piece) = pieces.recv().await {
                digester.piece(&piece, table, false);
            }
        };
        let (count, ()) = tokio::join!(target.read_back(table, out), collect);
        assert_eq!(count?, digester.seen.rows);
        assert_eq!(
            digester.seen,
            seen[&table.name.to_string()],
            "table {}",
            table.name
        );
    }
    let published = target.publish().await?;
    Ok(Trip {
        structure,
        seen,
        published,
    })
}

/// A round trip with the usual options, which must succeed.
pub async fn trip(from: &SourceUrl, to: &SourceUrl) -> Trip {
    let done = round_trip(
        from,
        to,
        &SourceOptions::default(),
        &TargetOptions::default(),
    )
    .await;
    done.unwrap_or_else(|error| panic!("{error:?}; hint: {:?}", error.hint()))
}
