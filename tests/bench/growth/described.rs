//! Described repositories: small chunks that stand for large ones, written by the library itself.
//!
//! Chunks are cut at about a KiB of text, hardly take room when they are compressed, and stand for
//! chunks of 64 KiB; packs are closed as much earlier. Names, pages, indexes, packs, manifests and
//! ledgers are the product's own. Each step runs in a process of its own and prints what it asked
//! of the storage. Invariant: a step changes nothing of the product but the two sizes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rowvault::clock::{Clock, ManualClock, Timestamp};
use rowvault::failure::{AnyFailure, Class};
use rowvault::format::keyslot::text::KeyFile;
use rowvault::format::ledger::{Event, SUMMARY_EVERY, SnapshotRecord};
use rowvault::format::manifest::{Manifest, StructureReference};
use rowvault::format::pack::ChunkKind;
use rowvault::id::{SnapshotId, SourceName};
use rowvault::job::maintain::{ForgetRequest, ForgetSource, PruneRequest, Times, forget, prune};
use rowvault::job::{self, Opened, Silent};
use rowvault::random::{Random, SystemRandom};
use rowvault::repo::catalog::Catalog;
use rowvault::repo::index::Index;
use rowvault::repo::intent::Whoami;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::slot::Keeping;
use rowvault::repo::keys::{self, Opening, Unlock};
use rowvault::repo::ledger::Appended;
use rowvault::repo::verdict;
use rowvault::repo::writer::Writer;
use rowvault::retention::Policy;
use rowvault::row::cell::{Cell, RowBatch};
use rowvault::row::schema::{
    Column, Engine, Key, KeyOrder, KeyOrigin, Structure, StructurePart, Table, TableName, ValueKind,
};
use rowvault::source::{BATCH_BYTES, Order, Piece, PieceSender, Source};
use rowvault::state::State;
use rowvault::store::probe::{Conditional, Verdict};
use rowvault::store::{Root, Store, StoreOptions};

/// What a chunk of the real size holds: the default target.
const CHUNK_TEXT_BYTES: u32 = 64 << 10;
/// The least that chunks are cut for.
const CHUNK_BYTES: u32 = 1 << 10;
/// Of how many bytes each byte of a described database stands for one.
const SCALE: u64 = (CHUNK_TEXT_BYTES / CHUNK_BYTES) as u64;
/// What a row has, so that a chunk holds about three.
const ROW_BYTES: usize = 330;
/// A pack of the real size has 12 MiB, in about 600 chunks of 64 KiB of text; so one of these has.
const PACK_BYTES: usize = 72 << 10;
/// When a described repository begins.
const START: i64 = 1_700_000_000;
const HOUR: Duration = Duration::from_secs(3600);
/// After so many hours the policy is applied, and after so many the repository is pruned.
const FORGET_EVERY: u64 = 24;
const PRUNE_EVERY: u64 = 7 * 24;
const SOURCE: &str = "crm";

/// Runs the step that `words` name, and prints what it cost the storage, as JSON.
pub fn step(words: &str) {
    let mut words = words.split_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (verb, directory) = (word(), PathBuf::from(word()));
    let number = word().parse().unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let told = runtime.block_on(async {
        let world = World::open(&directory, verb == "make").await;
        let told = world.step(verb, number).await;
        let asked = world.opened.vault.store.requests();
        world.note_time();
        serde_json::json!({ "told": told, "asked": asked })
    });
    println!("{told}");
}

/// A described repository in a directory, and the time there.
struct World {
    directory: PathBuf,
    clock: Arc<ManualClock>,
    opened: Opened,
}

fn read(path: PathBuf) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: PathBuf) -> Option<i64> {
    read(path)?.trim().parse().ok()
}

impl World {
    async fn open(directory: &Path, new: bool) -> World {
        let now = number(directory.join("clock")).unwrap_or(START);
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(now)));
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let options = StoreOptions {
            root: match new {
                true => Root::Create,
                false => Root::MustExist,
            },
            ..StoreOptions::default()
        };
        let url = directory.join("repository").display().to_string();
        let store = Store::open(&url, &options, clock.clone(), random.clone());
        let opening = Opening {
            store: store.expect("the directory is ours"),
            clock: clock.clone(),
            random,
        };
        let key = directory.join("key");
        if new {
            let mut draft = Draft::draw(&opening);
            let slot = draft.add_key(Keeping::KeyFile, "growth");
            std::fs::write(&key, slot.text().as_bytes()).expect("the directory is ours");
            let made = create(opening.clone(), draft, CHUNK_TEXT_BYTES).await;
            made.expect("the directory is new");
        }
        let key = KeyFile::parse(&read(key).expect("it was made")).expect("it was made by us");
        let (mut vault, keyring) = keys::open(opening, &Unlock::KeyFile(key))
            .await
            .expect("the key opens it");
        vault.chunk_target_bytes = CHUNK_BYTES;
        vault.pack_bytes = PACK_BYTES;
        let state = State::open(&directory.join("state"), &vault.realm.repository);
        let state = state.expect("the directory is ours");
        verdict::keep(&vault, &state, &good(clock.now())).expect("the directory is ours");
        let opened = Opened {
            vault: Arc::new(vault),
            keyring,
            state,
            whoami: Whoami::ask(),
            progress: Arc::new(Silent),
        };
        World {
            directory: directory.into(),
            clock,
            opened,
        }
    }

    fn note_time(&self) {
        let now = self.clock.now().seconds().to_string();
        std::fs::write(self.directory.join("clock"), now).expect("the directory is ours");
    }

    async fn step(&self, verb: &str, number: u64) -> serde_json::Value {
        match verb {
            "make" => {
                self.note("rows", number);
                self.backup().await
            }
            "backup" => {
                self.change(number);
                self.backup().await
            }
            "hours" => {
                let mut told = serde_json::Value::Null;
                for _ in 0..number {
                    self.clock.advance(HOUR);
                    self.change(FEW);
                    told = self.backup().await;
                }
                told
            }
            "snapshots" => {
                let catalog = self.catalog().await;
                serde_json::json!({ "snapshots": catalog.snapshots().len() })
            }
            "find" => self.find().await,
            "prune" => self.prune().await,
            "kept" => self.years(number, false).await,
            "retained" => self.years(number, true).await,
            other => panic!("there is no step {other:?}"),
        }
    }

    fn note(&self, name: &str, value: u64) {
        let path = self.directory.join(name);
        std::fs::write(path, value.to_string()).expect("the directory is ours");
    }

    /// So many rows more are not as they were.
    fn change(&self, rows: u64) {
        if rows > 0 {
            let before = read(self.directory.join("changes")).unwrap_or_default();
            let all = format!("{before} {rows}");
            std::fs::write(self.directory.join("changes"), all).expect("the directory is ours");
        }
    }

    fn source(&self) -> Described {
        let rows = number(self.directory.join("rows")).expect("it was made") as u64;
        let changes = read(self.directory.join("changes")).unwrap_or_default();
        let changes = changes.split_whitespace();
        let each = changes.map(|count| (rows / count.parse::<u64>().unwrap_or(1)).max(1));
        let each: Vec<u64> = each.collect();
        let mut versions = BTreeMap::new();
        for (at, each) in (1_u64..).zip(&each) {
            let first = at * 7919 % each;
            for row in (first..rows).step_by(*each as usize) {
                versions.insert(row, at);
            }
        }
        Described { rows, versions }
    }

    async fn backup(&self) -> serde_json::Value {
        let request = job::backup::Request::new(name());
        let taken = job::backup::run(&self.opened, &mut self.source(), &request).await;
        let taken = taken.expect("a described database can be backed up");
        let totals = taken.record.totals;
        let source = self.opened.vault.source_hash(&name());
        let manifest = self
            .opened
            .vault
            .fetch_manifest(source, taken.record.manifest);
        let (_, manifest) = manifest.await.expect("it was just stored");
        serde_json::json!({
            "put": totals.rows_put,
            "new": totals.chunks_new,
            "runs": manifest.tables[0].stack.len(),
            "warnings": taken.warnings,
        })
    }

    async fn catalog(&self) -> Catalog {
        self.opened.catalog().await.expect("the ledger is ours")
    }

    async fn find(&self) -> serde_json::Value {
        let catalog = self.catalog().await;
        let snapshot = catalog.at(&name(), None).expect("there is a snapshot");
        let rows = self.source().rows;
        let request = job::find::Request {
            table: "records".into(),
            key: Some((rows / 3).to_string()),
            conditions: Vec::new(),
            limit: 1,
        };
        let finder = job::find::start(&self.opened, snapshot, &request).await;
        let mut finder = finder.expect("the table is there");
        let found = finder.next().await.expect("the row can be read");
        let found = found.map_or(0, |found| found.rows.len());
        assert_eq!(found, 1);
        serde_json::json!({ "found": found })
    }

    async fn forget(&self) {
        let policy = Policy {
            hourly: 48,
            daily: 14,
            weekly: 8,
            monthly: 12,
            yearly: 3,
            ..Policy::default()
        };
        let request = ForgetRequest {
            sources: vec![ForgetSource {
                name: name(),
                policy,
                zone: chrono_tz::UTC,
            }],
            // The storage here lives hours in a moment.
            times: Times::Taken,
            dry_run: false,
        };
        let forgotten = forget(&self.opened, &request).await;
        forgotten.expect("the owner may forget");
    }

    async fn prune(&self) -> serde_json::Value {
        let mut request = PruneRequest::default();
        request.limits.max_delete_percent = 100;
        // For the same reason marks do not wait.
        request.limits.wait = Duration::ZERO;
        let pruned = prune(&self.opened, &request).await;
        let swept = pruned.expect("nothing is damaged").swept;
        serde_json::json!({ "deleted": swept.packs_deleted, "moved": swept.packs_rewritten })
    }

    /// Adds so many hourly snapshots, each with a chunk, a pack, an index and a manifest of its own,
    /// but without reading a database.
    async fn years(&self, hours: u64, retained: bool) -> serde_json::Value {
        let mut catalog = self.catalog().await;
        let newest = catalog.at(&name(), None).expect("there is a snapshot");
        let template = self.opened.manifest(newest).await.expect("it is whole");
        let mut head = catalog.source(&name()).expect("it is there").head();
        for _ in 0..hours {
            self.clock.advance(HOUR);
            let next = head.map_or(0, |head| head.number + 1);
            if next.is_multiple_of(SUMMARY_EVERY) {
                catalog = self.catalog().await;
            }
            let event = Event::Snapshot(self.describe(&template).await);
            let appended = self.opened.append(&catalog, &name(), head, event).await;
            match appended.expect("the storage is ours") {
                Appended::Ours(now) => head = Some(now),
                Appended::Lost => panic!("nobody else writes here"),
            }
            let hour = self.clock.now().seconds() as u64 / HOUR.as_secs();
            if retained && hour.is_multiple_of(FORGET_EVERY) {
                self.forget().await;
                if hour.is_multiple_of(PRUNE_EVERY) {
                    self.prune().await;
                }
                catalog = self.catalog().await;
                head = catalog.source(&name()).expect("it is there").head();
            }
        }
        serde_json::json!({ "entries": head.map(|head| head.number) })
    }

    /// Stores a chunk that only this snapshot needs, and its manifest.
    async fn describe(&self, template: &Manifest) -> SnapshotRecord {
        let vault = self.opened.vault.clone();
        let mut index = Index::default();
        index.sort();
        let writer = Writer::new(vault.clone(), Arc::new(index));
        let writer = Arc::new(writer.expect("we have the key"));
        let mut bytes = vec![0; 600];
        vault.random.fill(&mut bytes);
        let adding = writer.clone();
        let length = bytes.len() as u64;
        let added = move || adding.add_bytes(ChunkKind::Structure, &bytes);
        let added = tokio::task::spawn_blocking(added).await.expect("it ends");
        let (chunk, _) = added.expect("the storage is ours");
        writer.finish().await.expect("the storage is ours");
        let mut manifest = template.clone();
        manifest.snapshot = SnapshotId::draw(vault.random.as_ref());
        manifest.taken_at = self.clock.now();
        manifest.structure.push(StructureReference {
            name: "hour".into(),
            length,
            chunks: vec![chunk],
        });
        let stored = vault.put_manifest(&manifest).await;
        SnapshotRecord {
            id: manifest.snapshot,
            manifest: stored.expect("the storage is ours"),
            taken_at: manifest.taken_at,
            mode: manifest.mode,
            totals: manifest.totals,
            tags: Vec::new(),
            replaces: None,
        }
    }
}

/// How many rows stand for so many GiB of text.
pub fn rows(gib: f64) -> u64 {
    (gib * 1_073_741_824.0) as u64 / SCALE / ROW_BYTES as u64
}

/// How many rows an hour changes.
pub const FEW: u64 = 100;

fn name() -> SourceName {
    SOURCE.parse().expect("it is a name")
}

fn good(now: Timestamp) -> Verdict {
    Verdict {
        conditional_create: Conditional::Honoured,
        conditional_replace: Conditional::Honoured,
        read_after_write: true,
        list_after_write: true,
        range_reads: true,
        clock_skew_seconds: 0,
        probed_at: now,
    }
}

/// A database of one table, whose rows are made when they are read.
struct Described {
    rows: u64,
    /// What was changed last, by row.
    versions: BTreeMap<u64, u64>,
}

fn table() -> Table {
    let column = |name: &str, kind| Column {
        name: name.into(),
        type_name: String::new(),
        kind,
        nullable: false,
        default: None,
        collation: None,
        hidden: false,
        facts: BTreeMap::new(),
    };
    Table {
        name: TableName {
            schema: None,
            name: "records".into(),
        },
        columns: vec![
            column("id", ValueKind::Integer),
            column("body", ValueKind::Text),
        ],
        generated: Vec::new(),
        key: Some(Key {
            origin: KeyOrigin::Primary,
            columns: vec![(0, KeyOrder::Integer)],
        }),
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        with_rows: true,
        facts: BTreeMap::new(),
    }
}

#[async_trait]
impl Source for Described {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        Ok(Structure {
            engine: Engine::Sqlite,
            tables: vec![table()],
            parts: vec![StructurePart {
                name: "schema".into(),
                bytes: b"records (id, body)".to_vec(),
            }],
            facts: BTreeMap::new(),
            warnings: Vec::new(),
        })
    }

    async fn read(&self, _: &Table, _: Order, rows: PieceSender) -> Result<u64, AnyFailure> {
        let mut body = vec![b'.'; ROW_BYTES];
        let mut changed = self.versions.iter().peekable();
        let mut batch = RowBatch::default();
        for id in 0..self.rows {
            let version = changed.next_if(|(row, _)| **row == id);
            let version = version.map_or(0, |(_, version)| *version);
            body[..8].copy_from_slice(&id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            body[8..16].copy_from_slice(&version.to_le_bytes());
            batch.push_with(|row| {
                Cell::Integer(id as i64).push(row);
                Cell::Text(&body).push(row);
            });
            let last = id + 1 == self.rows;
            if last || batch.len() >= BATCH_BYTES / ROW_BYTES {
                let full = std::mem::take(&mut batch);
                if rows.send(Piece::Rows(full)).await.is_err() {
                    let gone = "the reader is gone";
                    return Err(AnyFailure::new(Class::Transient, gone, None));
                }
            }
        }
        Ok(self.rows)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        Ok(())
    }
}
