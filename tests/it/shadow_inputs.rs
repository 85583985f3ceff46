//! Sources that misbehave, and two backups of one source at once.
//!
//! Nothing here waits for luck: what must happen in between is done by the source itself.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rowvault::clock::SystemClock;
use rowvault::failure::AnyFailure;
use rowvault::format::keyslot::text::KeyFile;
use rowvault::format::manifest::{Mode, StoredOrder};
use rowvault::job::backup::{self, Reading, Request};
use rowvault::job::{Context, Silent};
use rowvault::random::SystemRandom;
use rowvault::repo::keys::Unlock;
use rowvault::row::cell::RowBatch;
use rowvault::row::schema::{Structure, Table};
use rowvault::source::open::{self, SourceOptions, SourceUrl};
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, PieceSender, Source};
use rowvault::store::StoreOptions;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::cli_desk::Desk;
use crate::shadow_model::{History, Rig};

/// A source that does something once its database snapshot stands.
struct Meddling<'a> {
    inner: Box<dyn Source>,
    meddle: &'a (dyn Fn() + Send + Sync),
}

#[async_trait]
impl Source for Meddling<'_> {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        let structure = self.inner.begin().await?;
        (self.meddle)();
        Ok(structure)
    }
    async fn read(
        &self,
        table: &Table,
        order: Order,
        rows: PieceSender,
    ) -> Result<u64, AnyFailure> {
        self.inner.read(table, order, rows).await
    }
    async fn end(&mut self) -> Result<(), AnyFailure> {
        self.inner.end().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_backup_of_a_source_exits_five_while_the_first_runs() {
    let desk = Desk::with_snapshot();
    let key = fs::read_to_string(desk.path("owner.key")).unwrap();
    // The same host with its state, and another host that knows nothing of the first.
    for state in [".local/state/rowvault", "elsewhere"] {
        let context = Context {
            repository: desk.path("repo").display().to_string(),
            store: StoreOptions::default(),
            unlock: Unlock::KeyFile(KeyFile::parse(&key).unwrap()),
            state_root: desk.path(state),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
            progress: Arc::new(Silent),
        };
        let mut opened = context.open().await.unwrap();
        if state == "elsewhere" {
            opened.whoami.host = "another".into();
        }
        let tried = AtomicUsize::new(0);
        let meddle = || {
            desk.run(&["backup", "sqlite:crm.db"]).refused(5, "crm");
            tried.fetch_add(1, Ordering::SeqCst);
        };
        let url = SourceUrl::Sqlite(desk.path("crm.db"));
        let mut source = Meddling {
            inner: open::source(&url, &SourceOptions::default()).unwrap(),
            meddle: &meddle,
        };
        let request = Request::new("crm".parse().unwrap());
        backup::run(&opened, &mut source, &request).await.unwrap();
        assert_eq!(tried.load(Ordering::SeqCst), 1);
        // The first one is whole, and the next one may run.
        assert_eq!(desk.run(&["backup", "sqlite:crm.db", "-q"]).code, 0);
    }
    let all = desk.run(&["snapshots", "--json"]).json();
    assert_eq!(all["snapshots"].as_array().unwrap().len(), 5);
    assert_eq!(desk.run(&["verify", "--data", "all", "-q"]).code, 0);
}

/// A source that gives rows backwards when it is asked for an order.
struct Backwards {
    inner: Box<dyn Source>,
    /// Whether it does so for the order of canonical keys too.
    always: bool,
}

#[async_trait]
impl Source for Backwards {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        self.inner.begin().await
    }
    async fn read(
        &self,
        table: &Table,
        order: Order,
        rows: PieceSender,
    ) -> Result<u64, AnyFailure> {
        let turned = order == Order::Key || (self.always && order == Order::Canonical);
        if !turned {
            return self.inner.read(table, order, rows).await;
        }
        let (sender, mut receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let collect = async {
            let mut all = Vec::new();
            while let Some(piece) = receiver.recv().await {
                if let Piece::Rows(rows) = piece {
                    all.extend(rows.iter().map(<[u8]>::to_vec));
                }
            }
            all
        };
        let (read, all) = tokio::join!(self.inner.read(table, order, sender), collect);
        let mut batch = RowBatch::default();
        all.iter().rev().for_each(|row| batch.push(row));
        // Who checks the order may have left by now.
        let _ = rows.send(Piece::Rows(batch)).await;
        read
    }
    async fn end(&mut self) -> Result<(), AnyFailure> {
        self.inner.end().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_out_of_order_are_asked_for_otherwise_and_never_merged_wrongly() {
    let rig = Rig::new(21).await;
    let mut history = History::begin(rig.place.path(), 21);
    let url = SourceUrl::Sqlite(history.file.clone());
    let taken = rig.backup(&history.file, Reading::Changes).await.unwrap();
    assert_eq!(rig.manifest(&taken).await.tables[1].order, StoredOrder::Key);
    for (always, order) in [
        (false, StoredOrder::Key),
        (true, StoredOrder::Physical),
        (true, StoredOrder::Physical),
        (false, StoredOrder::Key),
    ] {
        history.day();
        let inner = open::source(&url, &SourceOptions::default()).unwrap();
        let mut source = Backwards { inner, always };
        let request = Request::new("crm".parse().unwrap());
        let taken = backup::run(&rig.opened, &mut source, &request)
            .await
            .unwrap();
        let manifest = rig.manifest(&taken).await;
        let people = manifest
            .tables
            .iter()
            .find(|one| one.table.name.name == "people");
        assert_eq!(people.unwrap().order, order);
        let said = manifest.warnings.iter().any(|line| {
            line.contains("people") && line.contains("could not be had in the key's order")
        });
        assert_eq!(said, always, "{:?}", manifest.warnings);
        let found = rig.restored(&manifest).await.unwrap();
        assert!(
            found == history.model(&manifest),
            "it came back as something else"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_whose_key_changed_is_stored_anew_and_that_is_said() {
    let rig = Rig::new(22).await;
    let history = History::begin(rig.place.path(), 22);
    rig.backup(&history.file, Reading::Changes).await.unwrap();
    let db = Connection::open(&history.file).unwrap();
    for (change, said) in [
        (
            "CREATE TABLE next(id INTEGER, name TEXT, age, note TEXT, PRIMARY KEY(name, id)) WITHOUT ROWID;
             INSERT INTO next SELECT id, name, age, note FROM people;
             DROP TABLE people; ALTER TABLE next RENAME TO people;",
            1,
        ),
        ("UPDATE people SET age = 3 WHERE id % 9 = 0", 0),
        // The same columns in another order.
        (
            "CREATE TABLE next(name TEXT, id INTEGER, age, note TEXT, PRIMARY KEY(name, id)) WITHOUT ROWID;
             INSERT INTO next SELECT name, id, age, note FROM people;
             DROP TABLE people; ALTER TABLE next RENAME TO people;",
            1,
        ),
    ] {
        db.execute_batch(change).unwrap();
        let taken = rig.backup(&history.file, Reading::Changes).await.unwrap();
        assert_eq!(taken.record.mode, Mode::Rows);
        let manifest = rig.manifest(&taken).await;
        assert_eq!(manifest.warnings.len(), said, "{:?}", manifest.warnings);
        let anew = manifest.warnings.iter().filter(|line| {
            line.contains("table people is stored anew") && line.contains("its key")
        });
        assert_eq!(anew.count(), said);
        let people = manifest.tables.iter().find(|one| one.table.name.name == "people");
        assert_eq!(people.unwrap().stack.len(), 2 - said);
        let found = rig.restored(&manifest).await.unwrap();
        assert!(found == history.model(&manifest), "it came back as something else");
    }
}
