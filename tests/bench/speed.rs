//! How many bytes of text one thread turns into sealed chunks in a CPU second.
//!
//! From outside nobody can tell this from reading and from the comparison of each chunk, so it is
//! measured here, by the calls that a backup's threads make, in their order: keys and row digests,
//! cutting, naming, encoding, compressing with the table's dictionary, sealing, hashing what is
//! sealed. Not counted: making the sample's rows, filters, training (told apart), opening and
//! comparing. Invariant: only this thread's own time on a CPU counts.

use std::collections::BTreeMap;

use rowvault::crypto::key::{RootSecret, SharedKeys, SymmetricKey, chunk_id};
use rowvault::cut::RowCutter;
use rowvault::format::pack::ChunkKind;
use rowvault::format::repository::CHUNK_TARGET_BYTES;
use rowvault::id::{ChunkId, RepositoryId, hex};
use rowvault::random::SystemRandom;
use rowvault::repo::blob::{self, ChunkFacts, Dictionary, Realm};
use rowvault::row::cell::{Cell, RowBatch};
use rowvault::row::codec::{self, Encoder};
use rowvault::row::key::{KeyBatch, KeyEncoder};
use rowvault::row::schema::{self, Engine, Key, KeyOrder, KeyOrigin, TableName, ValueKind};
use rowvault::sample::{Kind, Sample, Table, Value, text};

use crate::Options;
use crate::report::{Asked, Report};

/// Rows are made in batches of about this size, so that making them can be left out.
const BATCH_BYTES: usize = 256 << 10;
/// Of as much a dictionary is made, and half of it is trained on, as in a backup.
const SAMPLE_BYTES: usize = 1 << 20;
const DICTIONARY_BYTES: usize = 110 << 10;

/// What was used so far, in seconds.
#[derive(Default)]
struct Spent {
    text_bytes: u64,
    sealed_bytes: u64,
    making: f64,
    training: f64,
}

/// Measures, and notes what was reached.
pub fn run(options: &Options, report: &mut Report) {
    let sample = Sample::new(options.seed, options.size);
    let mut spent = Spent::default();
    for table in Table::ALL {
        Line::new(table).run(&sample, &mut spent);
    }
    let megabytes = spent.text_bytes as f64 / 1e6;
    report.note(&format!(
        "\n### One thread\n\n{megabytes:.0} MB of text became {:.0} MB of sealed chunks in {:.2} CPU s; \
         training dictionaries took {:.2} CPU s beside",
        spent.sealed_bytes as f64 / 1e6,
        spent.making,
        spent.training
    ));
    let what = "keys + encode + cut + hash + compress + seal, MB of text a CPU second";
    let asked = match cfg!(debug_assertions) {
        // A build for debugging says nothing of speed.
        true => Asked::Nothing,
        false => Asked::AtLeast(130.0),
    };
    let value = Some(megabytes / spent.making);
    report.target(what, value, asked, " MB/s");
}

/// Seconds that this thread has been on a CPU: the first figure, in nanoseconds, that Linux tells.
fn on_cpu() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = told.split(' ').next().and_then(|first| first.parse().ok());
    let nanoseconds: f64 = first.expect("Linux tells a thread's time on a CPU");
    nanoseconds / 1e9
}

/// The line of one table, from rows to sealed chunks.
struct Line {
    table: Table,
    keys: KeyEncoder,
    shared: SharedKeys,
    session: SymmetricKey,
    realm: Realm,
    cutter: RowCutter,
    encoder: Encoder,
    dictionary: Option<Dictionary>,
    open: RowBatch,
    raw: Vec<u8>,
    sealed: Vec<u8>,
    sealed_bytes: u64,
    /// Encoded chunks, kept instead of sealed while a dictionary is to be made of them.
    kept: Option<Vec<Vec<u8>>>,
}

impl Line {
    fn new(table: Table) -> Line {
        let repository = RepositoryId([7; 16]);
        let shared = RootSecret::draw(&SystemRandom).shared(repository, 1);
        Line {
            table,
            keys: KeyEncoder::new(&described(table)).expect("every table of the sample has a key"),
            cutter: RowCutter::new(shared.cut.expose(), CHUNK_TARGET_BYTES as usize),
            shared,
            session: SymmetricKey::draw(&SystemRandom),
            realm: Realm {
                repository,
                epoch: 1,
            },
            encoder: Encoder::new(),
            dictionary: None,
            open: RowBatch::default(),
            raw: Vec::new(),
            sealed: Vec::new(),
            sealed_bytes: 0,
            kept: Some(Vec::new()),
        }
    }

    fn run(mut self, sample: &Sample, spent: &mut Spent) {
        self.learn(sample, spent);
        let mut batch = RowBatch::default();
        let mut line = Vec::new();
        for row in sample.rows(self.table) {
            line.clear();
            text::to_copy_text(&row, Engine::Postgres, &mut line);
            spent.text_bytes += line.len() as u64;
            push(&mut batch, &row);
            if batch.bytes().len() >= BATCH_BYTES {
                self.timed(&batch, spent);
                batch.clear();
            }
        }
        self.timed(&batch, spent);
        let before = on_cpu();
        self.end_chunk();
        spent.making += on_cpu() - before;
        spent.sealed_bytes += self.sealed_bytes;
    }

    fn timed(&mut self, batch: &RowBatch, spent: &mut Spent) {
        let before = on_cpu();
        self.take(batch);
        spent.making += on_cpu() - before;
    }

    /// Makes the table's dictionary of its first chunks, where it gains a twentieth on others.
    fn learn(&mut self, sample: &Sample, spent: &mut Spent) {
        let mut batch = RowBatch::default();
        let mut bytes = 0;
        for row in sample.rows(self.table) {
            push(&mut batch, &row);
            bytes = self.kept.iter().flatten().map(Vec::len).sum();
            if bytes >= SAMPLE_BYTES {
                break;
            }
            if batch.bytes().len() >= CHUNK_TARGET_BYTES as usize {
                self.take(&batch);
                batch.clear();
            }
        }
        self.open.clear();
        let kept = self.kept.take().unwrap_or_default();
        if bytes < SAMPLE_BYTES {
            return;
        }
        let before = on_cpu();
        let (trained, judged): (Vec<_>, Vec<_>) =
            kept.iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let trained: Vec<&[u8]> = trained.into_iter().map(|(_, raw)| &raw[..]).collect();
        let length: usize = trained.iter().map(|raw| raw.len()).sum();
        let most = DICTIONARY_BYTES.min(length / 8);
        let made = zstd::dict::from_samples(&trained, most).ok();
        let made = made.and_then(|bytes| Dictionary::new(ChunkId([0; 32]), bytes));
        let packed = |dictionary: Option<&Dictionary>| -> usize {
            let all = judged.iter();
            all.map(|(_, raw)| blob::compress(raw, dictionary).len())
                .sum()
        };
        let gains = |made: &Dictionary| packed(Some(made)) * 20 <= packed(None) * 19;
        self.dictionary = made.filter(gains);
        spent.training += on_cpu() - before;
    }

    fn take(&mut self, batch: &RowBatch) {
        let mut keys = KeyBatch::with_capacity(batch.len() * 18, batch.len());
        let keyed = self.keys.encode_all(batch, &mut keys);
        keyed.expect("the sample's keys have their place in the order");
        for (key, row) in keys.iter().zip(batch.iter()) {
            std::hint::black_box(self.shared.row_digest(row));
            let so_far = self.open.bytes().len();
            if self.cutter.cut_before(key, so_far, row.len()) {
                self.end_chunk();
            }
            self.open.push(row);
        }
    }

    fn end_chunk(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let columns = self.table.columns().len();
        let none = KeyBatch::default();
        let kind = ChunkKind::Rows;
        let mut hasher = self.shared.chunk_hasher(kind as u8);
        codec::feed_content(columns, &self.open, &none, &mut |bytes| {
            hasher.update(bytes);
        });
        let name = chunk_id(&hasher);
        let encoded = self
            .encoder
            .encode(columns, &self.open, &none, &mut self.raw);
        encoded.expect("the sample's rows are canonical");
        self.open.clear();
        if let Some(kept) = &mut self.kept {
            kept.push(self.raw.clone());
            return;
        }
        let dictionary = self.dictionary.as_ref();
        let facts = ChunkFacts {
            name,
            kind,
            codec: blob::pack(&self.raw, dictionary, &mut self.sealed),
            dictionary: dictionary.map(|dictionary| dictionary.name),
            raw_length: self.raw.len() as u32,
        };
        let sealed = &mut self.sealed;
        self.realm
            .seal_chunk(&facts, sealed, &self.session, &SystemRandom);
        std::hint::black_box(blob::sealed_hash(sealed));
        self.sealed_bytes += sealed.len() as u64;
    }
}

/// The row as PostgreSQL's text, cell by cell.
fn push(batch: &mut RowBatch, row: &[Value]) {
    batch.push_with(|out| {
        for value in row {
            match value {
                Value::Null => Cell::Null.push(out),
                Value::Bool(true) => Cell::Text(b"t").push(out),
                Value::Bool(false) => Cell::Text(b"f").push(out),
                Value::Bytes(bytes) => {
                    Cell::Text(format!("\\x{}", hex(bytes)).as_bytes()).push(out)
                }
                Value::Timestamp(_) => {
                    Cell::Text(format!("{}+00", value.to_text()).as_bytes()).push(out);
                }
                Value::Text(text) => Cell::Text(text.as_bytes()).push(out),
                _ => Cell::Text(value.to_text().as_bytes()).push(out),
            }
        }
    });
}

/// What the key encoder must know of a table.
fn described(table: Table) -> schema::Table {
    let column = |column: &rowvault::sample::Column| schema::Column {
        name: column.name.into(),
        type_name: String::new(),
        kind: ValueKind::Text,
        nullable: column.nullable,
        default: None,
        collation: None,
        hidden: false,
        facts: BTreeMap::new(),
    };
    let order = |at: usize| match table.columns()[at].kind {
        Kind::Uuid => KeyOrder::Uuid,
        _ => KeyOrder::Integer,
    };
    schema::Table {
        name: TableName {
            schema: None,
            name: table.name().into(),
        },
        columns: table.columns().iter().map(column).collect(),
        generated: Vec::new(),
        key: Some(Key {
            origin: KeyOrigin::Primary,
            columns: (0..table.key_columns()).map(|at| (at, order(at))).collect(),
        }),
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        with_rows: true,
        facts: BTreeMap::new(),
    }
}
