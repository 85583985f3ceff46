//! The rows of one side of a table, wherever they lie: in a stack, in some chunks, or in a live
//! database.
//!
//! Invariant: rows of a live database come with the digests of their large cells, and are as many
//! as the database itself counted, or the stream fails.

use std::collections::HashMap;
use std::future;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::failure::{AnyFailure, Class};
use crate::format::manifest::ManifestTable;
use crate::format::run::RunChunk;
use crate::repo::reader::Reader;
use crate::repo::table::{Rows, Shape, Shelf, StackReader, TableDigest};
use crate::row::schema::Table;
use crate::source::{Order, PIECES_WAITING_MAX, Piece, PieceReceiver, Source};

/// How many chunks are read together.
const CHUNKS_AT_ONCE: usize = 16;

/// Where the rows of one side lie; a stream over them can be opened again.
pub(super) enum Place<'a> {
    Stack(Box<ManifestTable>),
    Chunks(Vec<RunChunk>, usize),
    Live(Box<Table>, &'a dyn Source),
    Nowhere,
}

/// The rows of one side.
pub(super) enum Stream<'a> {
    Stack(Box<StackReader>),
    Chunks {
        shelf: Box<Shelf>,
        chunks: Vec<RunChunk>,
        columns: usize,
        next: usize,
    },
    Live(Box<Live<'a>>),
    Nowhere,
}

/// The rows of a table of a live database.
pub(super) struct Live<'a> {
    table: String,
    reading: Option<BoxFuture<'a, Result<u64, AnyFailure>>>,
    counted: Option<u64>,
    pieces: PieceReceiver,
    digest: Option<TableDigest>,
}

impl<'a> Place<'a> {
    /// A new stream over all rows.
    pub(super) async fn open(&self, reader: &Arc<Reader>) -> Result<Stream<'a>, AnyFailure> {
        Ok(match self {
            Place::Nowhere => Stream::Nowhere,
            Place::Stack(table) => {
                Stream::Stack(Box::new(StackReader::open(reader.clone(), table).await?))
            }
            Place::Chunks(chunks, columns) => Stream::Chunks {
                shelf: Box::new(Shelf::new(reader.clone())),
                chunks: chunks.clone(),
                columns: *columns,
                next: 0,
            },
            Place::Live(table, source) => {
                Stream::Live(Box::new(Live::open(reader, table, *source)))
            }
        })
    }
}

impl Stream<'_> {
    /// The next rows; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Rows>, AnyFailure> {
        match self {
            Stream::Nowhere => Ok(None),
            Stream::Stack(stack) => Ok(stack.next().await?),
            Stream::Live(live) => live.next().await,
            Stream::Chunks {
                shelf,
                chunks,
                columns,
                next,
            } => {
                let end = chunks.len().min(*next + CHUNKS_AT_ONCE);
                let shape = Shape {
                    columns: *columns,
                    encoder: None,
                };
                let mut out = Rows {
                    rows: Default::default(),
                    cells: HashMap::new(),
                };
                for chunk in shelf.chunks(&chunks[*next..end], shape).await? {
                    chunk.rows.iter().for_each(|row| out.rows.push(row));
                    let cells = chunk.cells.iter();
                    out.cells
                        .extend(cells.map(|(digest, cell)| (*digest, cell.clone())));
                }
                *next = end;
                Ok((!out.rows.is_empty()).then_some(out))
            }
        }
    }
}

impl<'a> Live<'a> {
    fn open(reader: &Arc<Reader>, table: &Table, source: &'a dyn Source) -> Live<'a> {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        // The order of canonical keys, whatever it costs: the walk cannot ask again half-way.
        let order = match table.key {
            Some(_) => Order::Canonical,
            None => Order::Physical,
        };
        let of = table.clone();
        let reading = async move { source.read(&of, order, sender).await };
        Live {
            table: table.name.to_string(),
            reading: Some(Box::pin(reading)),
            counted: None,
            pieces,
            digest: Some(TableDigest::new(reader.vault().clone(), table)),
        }
    }

    async fn next(&mut self) -> Result<Option<Rows>, AnyFailure> {
        while let Some(digest) = &mut self.digest {
            match next_piece(&mut self.reading, &mut self.counted, &mut self.pieces).await? {
                Some(Piece::Slice { column, bytes }) => digest.slice(column, &bytes),
                Some(Piece::Rows(rows)) if rows.is_empty() => {}
                Some(Piece::Rows(rows)) => {
                    return Ok(Some(Rows {
                        rows: digest.take(rows)?,
                        cells: HashMap::new(),
                    }));
                }
                None => self.end()?,
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<(), AnyFailure> {
        let Some(digest) = self.digest.take() else {
            return Ok(());
        };
        let (rows, _) = digest.finish()?;
        if self.counted == Some(rows) {
            return Ok(());
        }
        Err(AnyFailure::new(
            Class::Transient,
            format!("the rows of table {} ended early", self.table),
            Some("run the command again".into()),
        ))
    }
}

/// The next piece, with the source driven meanwhile; none when it has finished.
async fn next_piece(
    reading: &mut Option<BoxFuture<'_, Result<u64, AnyFailure>>>,
    counted: &mut Option<u64>,
    pieces: &mut PieceReceiver,
) -> Result<Option<Piece>, AnyFailure> {
    loop {
        let driven = async {
            match reading {
                Some(reading) => reading.await,
                None => future::pending().await,
            }
        };
        let piece = tokio::select! {
            biased;
            piece = pieces.recv() => piece,
            read = driven => {
                *counted = Some(read?);
                *reading = None;
                continue;
            }
        };
        // A source may let go of the channel before it says how many rows there were.
        if piece.is_none()
            && let Some(reading) = reading.take()
        {
            *counted = Some(reading.await?);
        }
        return Ok(piece);
    }
}
