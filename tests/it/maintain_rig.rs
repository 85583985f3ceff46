//! The rig of maintenance: a repository in a storage that fails, clients that die, a source in a map.
//!
//! Nothing here is a database: rows are a map in memory, restored into another, so that a life
//! cycle takes milliseconds and a thousand fit into a test. All times are virtual and all
//! randomness is seeded. Invariant: a client sees the storage only through its [`Gate`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rowvault::clock::{Clock, ManualClock, Timestamp};
use rowvault::failure::{AnyFailure, Class};
use rowvault::format::keyslot::text::KeyFile;
use rowvault::format::ledger::Event;
use rowvault::id::{SnapshotId, SourceName};
use rowvault::job::maintain::{
    ForgetOutcome, ForgetRequest, ForgetSource, PruneOutcome, PruneRequest, Times, forget, prune,
};
use rowvault::job::{self, Opened, Silent};
use rowvault::random::{Random, SeededRandom};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::check;
use rowvault::repo::intent::Whoami;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::slot::Keeping;
use rowvault::repo::keys::{self, Opening, Unlock};
use rowvault::repo::table::StackReader;
use rowvault::repo::verdict;
use rowvault::retention::Policy;
use rowvault::row::cell::{Cell, RowBatch, cells};
use rowvault::row::schema::{
    Column, Engine, Key, KeyOrder, KeyOrigin, Structure, StructurePart, Table, TableName, ValueKind,
};
use rowvault::source::{Order, Piece, PieceSender, Source};
use rowvault::state::State;
use rowvault::store::fault::FaultStore;
use rowvault::store::probe::{Conditional, Verdict};
use rowvault::store::{Budget, Store, StoreOptions};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);
/// Longer than a mark waits.
pub const A_DAY: Duration = Duration::from_secs(25 * 3600);
/// About how many bytes of rows a chunk has here.
const CHUNK_BYTES: u32 = 512;
const START: i64 = 1_790_000_000;

/// The rows of a source.
pub type Rows = BTreeMap<i64, String>;

/// Rows `from..to`, whose texts hold `word`.
pub fn rows(from: i64, to: i64, word: &str) -> Rows {
    let text = |id: i64| format!("{word} {id} {}", "x".repeat((id % 7) as usize * 9));
    (from..to).map(|id| (id, text(id))).collect()
}

/// Who asks the storage, and what happens before each of its operations.
#[derive(Clone)]
pub enum Pace {
    /// Nothing.
    Free,
    /// A pause that is drawn, so that clients overtake each other.
    Drawn(Arc<SeededRandom>),
    /// Somebody is asked, and may do things before saying yes.
    Asked(mpsc::UnboundedSender<oneshot::Sender<()>>),
}

/// The way of one client to the storage.
#[derive(Clone)]
pub struct Gate {
    storage: FaultStore,
    clock: Arc<ManualClock>,
    pace: Pace,
    /// How many operations are left before this client dies.
    life: Arc<AtomicU64>,
}

impl Gate {
    async fn pass(&self) -> Result<()> {
        match &self.pace {
            Pace::Free => {}
            Pace::Drawn(random) => {
                // So finely that two clients hardly ever come at the same instant: their order
                // would be the machine's.
                let pause = Duration::from_millis(1 + random.below(20_000));
                let passed = Duration::from_secs(random.below(3));
                tokio::time::sleep(pause).await;
                self.clock.advance(passed);
            }
            Pace::Asked(ask) => {
                self.clock.advance(Duration::from_secs(1));
                let (yes, answer) = oneshot::channel();
                if ask.send(yes).is_ok() {
                    let _ = answer.await;
                }
            }
        }
        let left = self.life.load(Ordering::SeqCst);
        self.life.store(left.saturating_sub(1), Ordering::SeqCst);
        match left {
            0 => Err(dead()),
            _ => Ok(()),
        }
    }
}

fn dead() -> object_store::Error {
    object_store::Error::Generic {
        store: "gate",
        source: Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gate")
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gate")
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pass().await?;
        self.storage.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.storage.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await?;
        self.storage.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let gate = self.clone();
        let passed = locations.then(move |location| {
            let gate = gate.clone();
            async move {
                gate.pass().await?;
                location
            }
        });
        self.storage.delete_stream(passed.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (gate, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            match gate.pass().await {
                Ok(()) => gate.storage.list(prefix.as_ref()),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.storage.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.storage.copy_opts(from, to, options).await
    }
}

/// A repository in a storage that fails, and what is known of it.
pub struct World {
    /// The storage.
    pub storage: FaultStore,
    /// The time, of the storage and of all clients.
    pub clock: Arc<ManualClock>,
    unlock: Unlock,
    directory: TempDir,
    seed: u64,
    opened: AtomicU64,
    /// What was reported as a snapshot, and what it must hold.
    pub reported: Mutex<BTreeMap<SnapshotId, (SourceName, Rows)>>,
    /// What backups of each source tried to store.
    attempts: Mutex<BTreeMap<SourceName, Vec<Rows>>>,
}

/// A process on some host.
pub struct Client {
    /// The repository, as it sees it.
    pub opened: Opened,
    life: Arc<AtomicU64>,
}

impl Client {
    /// It dies after so many more operations.
    pub fn die_after(&self, operations: u64) {
        self.life.store(operations, Ordering::SeqCst);
    }
}

/// Where state that need not be durable stands: in memory, where there is such a place.
fn directory() -> TempDir {
    let memory = FilePath::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        budget: Budget {
            attempts_max: 4,
            time_max: Duration::from_secs(3600 * 24 * 365),
            pause_first: Duration::from_millis(20),
            pause_max: Duration::from_millis(100),
        },
        ..StoreOptions::default()
    }
}

impl World {
    /// An empty repository.
    pub async fn new(seed: u64) -> World {
        let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(START)));
        let storage = FaultStore::new(clock.clone());
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let opening = Opening {
            store: storage.open(&options(), random.clone()),
            clock: clock.clone(),
            random,
        };
        let mut draft = Draft::draw(&opening);
        let key = draft.add_key(Keeping::KeyFile, "test");
        create(opening, draft, 64 << 10).await.unwrap();
        World {
            storage,
            clock,
            unlock: Unlock::KeyFile(KeyFile::Slot(key)),
            directory: directory(),
            seed,
            opened: AtomicU64::new(0),
            reported: Mutex::default(),
            attempts: Mutex::default(),
        }
    }

    /// A process on `host` that knows what earlier ones of this host kept.
    pub async fn client(&self, host: &str) -> Client {
        self.client_at(host, Pace::Free).await
    }

    /// A process on `host` that goes to the storage at this pace. Earlier processes of the host
    /// are known to be dead.
    pub async fn client_at(&self, host: &str, pace: Pace) -> Client {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        let life = Arc::new(AtomicU64::new(u64::MAX));
        let gate = Gate {
            storage: self.storage.clone(),
            clock: self.clock.clone(),
            pace,
            life: life.clone(),
        };
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number + 1);
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let clock: Arc<dyn Clock> = self.clock.clone();
        // Pauses are drawn apart from nonces, which several threads draw in no order.
        let store = Store::from_object_store(
            Arc::new(gate),
            "fault:",
            &options(),
            clock.clone(),
            Arc::new(SeededRandom::new(!seed)),
        );
        // Opening is not what is tried here: it goes to a copy without faults.
        let copy = InMemory::new();
        for (path, bytes) in self.storage.objects() {
            if ["repository", "keys/", "keyring/"]
                .iter()
                .any(|head| path.starts_with(head))
            {
                copy.put(&Path::from(path), bytes.into()).await.unwrap();
            }
        }
        let opening = Opening {
            store: Store::from_object_store(
                Arc::new(copy),
                "copy:",
                &options(),
                clock.clone(),
                random.clone(),
            ),
            clock,
            random,
        };
        let (mut vault, keyring) = keys::open(opening, &self.unlock).await.unwrap();
        vault.store = store;
        vault.chunk_target_bytes = CHUNK_BYTES;
        // In every second world places are looked up in a sorted file, as in a large repository.
        if self.seed.is_multiple_of(2) {
            vault.index_sorted_bytes_min = 0;
        }
        let state = State::open(&self.directory.path().join(host), &vault.realm.repository);
        let state = state.unwrap();
        verdict::keep(&vault, &state, &good(self.clock.now())).unwrap();
        let opened = Opened {
            vault: Arc::new(vault),
            keyring,
            state,
            whoami: Whoami {
                host: host.to_owned(),
                boot: format!("boot {number}"),
                process: 1,
                process_started: 1,
                standing: Arc::default(),
            },
            progress: Arc::new(Silent),
        };
        Client { opened, life }
    }

    /// Takes a snapshot of `rows`.
    pub async fn backup(
        &self,
        client: &Client,
        source: &str,
        rows: &Rows,
    ) -> Result<SnapshotId, AnyFailure> {
        let name: SourceName = source.parse().unwrap();
        self.attempted(&name, rows);
        let request = job::backup::Request {
            lasting: HOUR,
            ..job::backup::Request::new(name.clone())
        };
        let mut source = MapSource { rows: rows.clone() };
        let outcome = job::backup::run(&client.opened, &mut source, &request).await?;
        let report = (name, rows.clone());
        self.reported
            .lock()
            .unwrap()
            .insert(outcome.record.id, report);
        Ok(outcome.record.id)
    }

    fn attempted(&self, source: &SourceName, rows: &Rows) {
        let mut attempts = self.attempts.lock().unwrap();
        attempts
            .entry(source.clone())
            .or_default()
            .push(rows.clone());
    }

    /// Forgets all but the last `last` snapshots of `source`.
    pub async fn forget(
        &self,
        client: &Client,
        source: &str,
        last: u32,
    ) -> Result<ForgetOutcome, AnyFailure> {
        let request = ForgetRequest {
            sources: vec![ForgetSource {
                name: source.parse().unwrap(),
                policy: Policy {
                    last,
                    ..Policy::default()
                },
                zone: chrono_tz::UTC,
            }],
            // Clocks jump by days in a simulation.
            times: Times::Taken,
            dry_run: false,
        };
        forget(&client.opened, &request).await
    }

    /// Prunes as a person would who leaves all limits alone but the share, since whole life cycles
    /// here are of few packs.
    pub async fn prune(&self, client: &Client) -> Result<PruneOutcome, AnyFailure> {
        let mut request = PruneRequest::default();
        request.limits.max_delete_percent = 100;
        prune(&client.opened, &request).await
    }

    /// The oracles: whatever was reported and not forgotten is there and equal; whatever is visible
    /// is complete; what is gone was forgotten. Gives the number of living snapshots.
    pub async fn check(&self, told: &str) -> usize {
        let client = self
            .client(&format!("oracle-{}", self.opened.load(Ordering::SeqCst)))
            .await;
        let catalog = client.opened.catalog().await.unwrap();
        let reported = self.reported.lock().unwrap().clone();
        let attempts = self.attempts.lock().unwrap().clone();
        let mut living = BTreeSet::new();
        for snapshot in catalog.snapshots() {
            let id = snapshot.record.id;
            living.insert(id);
            let restored = restore(&client.opened, snapshot).await;
            let restored = restored.unwrap_or_else(|error| panic!("{told}: {id} is lost: {error}"));
            match reported.get(&id) {
                Some((_, rows)) => assert!(restored == *rows, "{told}: {id} is silently wrong"),
                None => assert!(
                    attempts[&snapshot.source].contains(&restored),
                    "{told}: {id} was never taken like this"
                ),
            }
        }
        for (id, (name, _)) in &reported {
            if !living.contains(id) {
                let source = catalog.sources.get(name);
                let source = source.unwrap_or_else(|| panic!("{told}: source {name} is gone"));
                let mut events = source.chain.entries.iter().map(|link| &link.entry.event);
                let forgotten = events.any(|event| match event {
                    Event::Forgotten(forgotten) => forgotten.snapshots.contains(id),
                    _ => false,
                });
                assert!(forgotten, "{told}: {id} vanished without a word");
            }
        }
        living.len()
    }

    /// After quiet, two maintenance runs a day apart leave nothing that is not needed.
    pub async fn check_clean(&self, told: &str) {
        // By then the intent of a reader that died elsewhere is past its time.
        self.clock.advance(A_DAY * 8);
        let client = self.client("last").await;
        for _ in 0..2 {
            let pruned = self.prune(&client).await;
            pruned.unwrap_or_else(|error| panic!("{told}: {error}"));
            self.clock.advance(A_DAY);
        }
        let request = PruneRequest {
            effect: job::maintain::Effect::Planned,
            ..PruneRequest::default()
        };
        let left = prune(&client.opened, &request).await.unwrap();
        let plan = &left.plan;
        let none = plan.delete.is_empty() && plan.mark.is_empty() && plan.waiting.is_empty();
        // What the second run itself moved waits one more day.
        let moved: u64 = plan.delete.iter().map(|sized| sized.bytes).sum();
        assert!(none || moved > 0, "{told}: {plan:?}");
        assert!(left.running.is_empty(), "{told}: {:?}", left.running);
        assert_eq!(left.manifests, 0, "{told}");
    }
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

/// A database in a map.
struct MapSource {
    rows: Rows,
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
            name: "items".into(),
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
impl Source for MapSource {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        Ok(Structure {
            engine: Engine::Sqlite,
            tables: vec![table()],
            parts: vec![StructurePart {
                name: "schema".into(),
                bytes: b"items (id, body)".to_vec(),
            }],
            facts: BTreeMap::new(),
            warnings: Vec::new(),
        })
    }

    async fn read(&self, _: &Table, _: Order, rows: PieceSender) -> Result<u64, AnyFailure> {
        for part in self.rows.iter().collect::<Vec<_>>().chunks(16) {
            let mut batch = RowBatch::default();
            for (id, body) in part {
                batch.push_with(|row| {
                    Cell::Integer(**id).push(row);
                    Cell::Text(body.as_bytes()).push(row);
                });
            }
            if rows.send(Piece::Rows(batch)).await.is_err() {
                return Err(AnyFailure::new(
                    Class::Transient,
                    "the reader is gone",
                    None,
                ));
            }
        }
        Ok(self.rows.len() as u64)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        Ok(())
    }
}

/// Restores a snapshot into a map, while an intent says so.
pub async fn restore(opened: &Opened, snapshot: &Snapshot) -> Result<Rows, AnyFailure> {
    let work = read(opened, snapshot);
    opened.reading(&snapshot.source, work).await
}

async fn read(opened: &Opened, snapshot: &Snapshot) -> Result<Rows, AnyFailure> {
    let manifest = opened.manifest(snapshot).await?;
    let reader = opened.reader().await?;
    check::packs_are_there(&reader, &manifest).await?;
    let mut out = Rows::new();
    for table in &manifest.tables {
        let mut stack = StackReader::open(reader.clone(), table).await?;
        while let Some(rows) = stack.next().await? {
            for row in rows.rows.iter() {
                match cells(row, 2).unwrap()[..] {
                    [Cell::Integer(id), Cell::Text(body)] => {
                        let body = String::from_utf8(body.to_vec()).unwrap();
                        assert!(out.insert(id, body).is_none(), "row {id} came twice");
                    }
                    _ => panic!("a row has other cells than its table"),
                }
            }
        }
    }
    Ok(out)
}
