//! A tiny repository of a snapshot or two, and what it comes back to.
//!
//! The hostile tests change it byte by byte, the golden test reads one that was made long ago.
//! Everything comes from a seed and a clock that stands still; it is opened by a key file, which
//! costs no memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowvault::clock::{Clock, ManualClock, SystemClock, Timestamp};
use rowvault::failure::AnyFailure;
use rowvault::format::keyslot::text::KeyFile;
use rowvault::id::{Digest, SnapshotId};
use rowvault::job::{Opened, Silent, backup, staging};
use rowvault::random::{Random, SeededRandom};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::intent::Whoami;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::slot::Keeping;
use rowvault::repo::keys::{self, Opening, Unlock, check_keyring_seen};
use rowvault::repo::reader::Reader;
use rowvault::repo::table::StackReader;
use rowvault::row::cell::{self, Cell};
use rowvault::source::address::{SourceOptions, SourceUrl};
use rowvault::source::open;
use rowvault::state::State;
use rowvault::store::fault::FaultStore;
use rowvault::store::{Budget, Store, StoreOptions};
use rusqlite::Connection;
use tempfile::TempDir;

pub const CHUNK_TARGET_BYTES: u32 = 4 << 10;
const NOW: Timestamp = Timestamp(1_790_000_000_000_000);

/// A place for temporary files; in memory where there is one, for fsync costs time.
pub fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// Who uses the repository: the time, randomness, and how the storage is used.
#[derive(Clone)]
pub struct Machine {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub options: StoreOptions,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let budget = Budget {
            pause_first: Duration::ZERO,
            pause_max: Duration::ZERO,
            ..Budget::default()
        };
        Machine {
            clock: Arc::new(ManualClock::new(NOW)),
            random: Arc::new(SeededRandom::new(seed)),
            options: StoreOptions {
                budget,
                ..StoreOptions::default()
            },
        }
    }

    pub fn opening(&self, store: Store) -> Opening {
        Opening {
            store,
            clock: self.clock.clone(),
            random: self.random.clone(),
        }
    }

    /// Opens the repository in `storage` as a client that keeps its state under `state_root`.
    pub async fn open(
        &self,
        storage: &FaultStore,
        key: &str,
        state_root: &Path,
    ) -> Result<Opened, AnyFailure> {
        let store = storage.open(&self.options, self.random.clone());
        self.open_store(store, key, state_root).await
    }

    pub async fn open_store(
        &self,
        store: Store,
        key: &str,
        state_root: &Path,
    ) -> Result<Opened, AnyFailure> {
        let unlock = Unlock::KeyFile(KeyFile::parse(key).unwrap());
        let (vault, keyring) = keys::open(self.opening(store), &unlock).await?;
        let state = State::open(state_root, &vault.realm.repository)?;
        check_keyring_seen(&vault, &state, &keyring)?;
        Ok(Opened {
            vault: Arc::new(vault),
            keyring,
            state,
            whoami: Whoami {
                host: "tiny".into(),
                ..Whoami::ask()
            },
            progress: Arc::new(Silent),
        })
    }
}

/// The tables of the first day; all that a small file can hold, in about 12 KiB.
fn first_day(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT UNIQUE, \
             born TEXT, boss INTEGER REFERENCES people(id));
         CREATE TABLE deals(code TEXT PRIMARY KEY NOT NULL, amount REAL, stage, blob BLOB) \
             WITHOUT ROWID;
         CREATE TABLE notes(text TEXT, at INTEGER);
         CREATE TABLE empty(x);
         CREATE INDEX of_boss ON people(boss);
         CREATE VIEW chiefs AS SELECT * FROM people WHERE boss IS NULL;",
    )
    .unwrap();
    let random = SeededRandom::new(7);
    for id in 1..=70_i64 {
        db.execute(
            "INSERT INTO people VALUES(?1, ?2, ?3, ?4, ?5)",
            rusqlite::params![
                id,
                format!("Łukasz {id} سلام"),
                format!("{:08x}@example.org", random.below(1 << 32)),
                format!("19{:02}-{:02}-11", random.below(100), 1 + random.below(12)),
                (id % 10 != 0)
                    .then_some(id / 10 * 10)
                    .filter(|boss| *boss > 0),
            ],
        )
        .unwrap();
    }
    for at in 0..12_u64 {
        let mut blob = vec![0; random.below(30) as usize];
        random.fill(&mut blob);
        db.execute(
            "INSERT INTO deals VALUES(?1, ?2, ?3, ?4)",
            rusqlite::params![format!("D-{at:03}"), at as f64 / 4.0, "won", blob],
        )
        .unwrap();
    }
    for at in 0..12 {
        db.execute(
            "INSERT INTO notes VALUES('called, no answer', ?1)",
            [at / 2],
        )
        .unwrap();
    }
}

/// A cell over 1 MiB, so that it is cut out of its row; of zeros, so that it stays tiny.
fn add_large_cell(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute("INSERT INTO notes VALUES(zeroblob(1200000), -1)", [])
        .unwrap();
}

fn second_day(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "UPDATE people SET name = 'Ann' WHERE id = 42; DELETE FROM people WHERE id = 69;
         INSERT INTO people VALUES(500, '新しい', NULL, NULL, 10);
         DELETE FROM deals WHERE code = 'D-007'; INSERT INTO notes VALUES('again', 77);",
    )
    .unwrap();
}

/// How much the repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// One snapshot.
    OneDay,
    /// Two, with edits between them, and a cell so large that it is stored apart.
    TwoDays,
}

/// A tiny repository, and the client that made it.
pub struct Tiny {
    pub storage: FaultStore,
    pub machine: Machine,
    pub key: String,
    pub state: TempDir,
}

impl Tiny {
    /// Makes the repository: `init`, and backups of one source.
    pub async fn make(seed: u64, holding: Holding) -> Tiny {
        let machine = Machine::new(seed);
        let storage = FaultStore::new(machine.clock.clone());
        let opening = machine.opening(storage.open(&machine.options, machine.random.clone()));
        let mut draft = Draft::draw(&opening);
        let key = draft.add_key(Keeping::KeyFile, "").text().to_string();
        create(opening, draft, CHUNK_TARGET_BYTES).await.unwrap();
        let tiny = Tiny {
            storage,
            machine,
            key,
            state: directory(),
        };
        let place = directory();
        let path = place.path().join("crm.db");
        first_day(&path);
        if holding == Holding::TwoDays {
            add_large_cell(&path);
        }
        tiny.backup(&path, "monday").await;
        if holding == Holding::TwoDays {
            second_day(&path);
            tiny.backup(&path, "tuesday").await;
        }
        tiny
    }

    pub async fn backup(&self, path: &Path, tag: &str) {
        let opened = self.open().await;
        let options = SourceOptions {
            clock: Arc::new(SystemClock::new()),
            ..SourceOptions::default()
        };
        let url = SourceUrl::Sqlite(path.to_owned());
        let mut source = open::source(&url, &options).unwrap();
        let request = backup::Request {
            name: "crm".parse().unwrap(),
            tags: vec![tag.to_owned()],
            lasting: backup::LASTING,
            reading: backup::Reading::Changes,
        };
        backup::run(&opened, source.as_mut(), &request)
            .await
            .unwrap();
    }

    pub async fn open(&self) -> Opened {
        let state = self.state.path();
        let opened = self.machine.open(&self.storage, &self.key, state).await;
        opened.unwrap()
    }

    /// A state directory that knows what this client saw last, and keeps nothing else.
    pub async fn state_that_knows_the_heads(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let opened = self.open().await;
        opened.catalog().await.unwrap();
        let repository = opened.vault.realm.repository.to_string();
        let known = ["heads", "keyring"].into_iter().map(|name| {
            let bytes = opened.state.read(name).unwrap().unwrap();
            (Path::new(&repository).join(name), bytes)
        });
        known.collect()
    }
}

/// What a snapshot restores to, in lines: its structure, and each table with its rows in the order
/// of the snapshot. `line` gets each line in pieces.
pub async fn tell(
    opened: &Opened,
    reader: &Arc<Reader>,
    snapshot: &Snapshot,
    line: &mut dyn FnMut(&[&[u8]]),
) -> Result<(), AnyFailure> {
    let manifest = opened.manifest(snapshot).await?;
    let structure = staging::structure(reader, &manifest).await?;
    for part in &structure.parts {
        line(&[b"part", part.name.as_bytes(), &part.bytes]);
    }
    for (name, value) in &structure.facts {
        line(&[b"fact", name.as_bytes(), value.as_bytes()]);
    }
    for table in &manifest.tables {
        let name = table.table.name.to_string();
        line(&[b"table", name.as_bytes(), table.rows.to_string().as_bytes()]);
        let mut stack = StackReader::open(reader.clone(), table).await?;
        while let Some(rows) = stack.next().await? {
            for row in rows.rows.iter() {
                line(&[b"row", row]);
                for large in large_cells(row) {
                    for chunk in &rows.cells[&large].chunks {
                        line(&[b"piece", &reader.chunk(chunk).await?]);
                    }
                }
            }
        }
    }
    Ok(())
}

fn large_cells(row: &[u8]) -> Vec<Digest> {
    let cells = cell::Cells::new(row);
    let large = cells.filter_map(|cell| match cell {
        Ok(Cell::Large(large)) => Some(large.digest),
        _ => None,
    });
    large.collect()
}

/// The hash of what is told of a snapshot.
pub async fn tell_hash(
    opened: &Opened,
    reader: &Arc<Reader>,
    snapshot: &Snapshot,
) -> Result<blake3::Hash, AnyFailure> {
    let mut hasher = blake3::Hasher::new();
    let mut line = |pieces: &[&[u8]]| {
        for piece in pieces {
            hasher.update(&(piece.len() as u64).to_le_bytes());
            hasher.update(piece);
        }
    };
    tell(opened, reader, snapshot, &mut line).await?;
    Ok(hasher.finalize())
}

/// Every living snapshot, told.
pub async fn tell_all(opened: &Opened) -> BTreeMap<SnapshotId, blake3::Hash> {
    let catalog = opened.catalog().await.unwrap();
    let reader = opened.reader().await.unwrap();
    let mut told = BTreeMap::new();
    for snapshot in catalog.snapshots() {
        let hash = tell_hash(opened, &reader, snapshot).await.unwrap();
        told.insert(snapshot.record.id, hash);
    }
    told
}
