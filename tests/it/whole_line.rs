//! From a SQLite CRM into a repository and back, whole and thin.

use async_trait::async_trait;
use rowvault::demo::fill;
use rowvault::failure::AnyFailure;
use rowvault::job;
use rowvault::job::verify::{self, Data};
use rowvault::row::cell::RowBatch;
use rowvault::row::schema::{Structure, Table};
use rowvault::sample::Sample;
use rowvault::source::open::{self, TargetOptions};
use rowvault::source::{Piece, PieceReceiver, PieceSender, Published, Target};
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::house;

/// Every table of a file as text: names, and rows in rowid order with type and literal.
fn everything(file: &std::path::Path) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut names = connection.prepare(sql).unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut lines = Vec::new();
    for name in names {
        let mut statement = connection
            .prepare(&format!("SELECT * FROM \"{name}\""))
            .unwrap();
        let columns = statement.column_count();
        let rows = statement
            .query_map([], |row| {
                let cells: Vec<String> = (0..columns)
                    .map(|at| format!("{:?}", row.get_ref(at).unwrap()))
                    .collect();
                Ok(format!("{name} {}", cells.join(" ")))
            })
            .unwrap();
        lines.extend(rows.map(Result::unwrap));
    }
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_crm_comes_back_from_its_repository() {
    let place = tempfile::tempdir().unwrap();
    let (crm, back) = (place.path().join("crm.db"), place.path().join("back.db"));
    fill::sqlite(&crm, &Sample::new(7, 0.002)).unwrap();
    let url = place.path().join("repository");
    let state = place.path().join("state");
    let house = house::make(url.to_str().unwrap(), &state, 16 << 10).await;
    let first = house::backup(&house, &crm).await;
    assert!(first.record.totals.rows > 1000);
    assert!(first.record.totals.chunks_new > 10);
    let second = house::backup(&house, &crm).await;
    assert_eq!(second.record.totals.rows, first.record.totals.rows);
    assert_eq!(second.record.totals.chunks_new, 0, "nothing had changed");
    let catalog = house.opened.catalog().await.unwrap();
    let all = verify::run(&house.opened, &catalog.snapshots(), Data::All).await;
    let all = all.unwrap();
    assert!(all.findings.is_empty(), "{:?}", all.findings);
    assert_eq!(all.snapshots, 2);
    let newest = house::newest(&house).await;
    let restored = house::restore(&house, &newest, &back).await.unwrap();
    assert_eq!(restored.rows, first.record.totals.rows);
    assert_eq!(everything(&back), everything(&crm));
}

/// A target that gives back one row less than it holds.
struct Forgetful {
    target: Box<dyn Target>,
}

#[async_trait]
impl Target for Forgetful {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.target.prepare(structure).await
    }
    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure> {
        self.target.load(table, rows).await
    }
    async fn finish(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.target.finish(structure).await
    }
    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        let (pieces, mut received) = mpsc::channel(1);
        let shorten = async {
            let mut first = true;
            while let Some(piece) = received.recv().await {
                let piece = match piece {
                    Piece::Rows(batch) if std::mem::take(&mut first) => {
                        let mut shorter = RowBatch::default();
                        batch.iter().skip(1).for_each(|row| shorter.push(row));
                        Piece::Rows(shorter)
                    }
                    piece => piece,
                };
                if rows.send(piece).await.is_err() {
                    break;
                }
            }
            drop(rows);
        };
        tokio::join!(self.target.read_back(table, pieces), shorten).0
    }
    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        self.target.publish().await
    }
    async fn discard(&mut self) -> Result<(), AnyFailure> {
        self.target.discard().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_read_back_equal_is_never_published() {
    let place = tempfile::tempdir().unwrap();
    let (crm, back) = (place.path().join("crm.db"), place.path().join("back.db"));
    fill::sqlite(&crm, &Sample::new(7, 0.0005)).unwrap();
    let url = place.path().join("repository");
    let state = place.path().join("state");
    let house = house::make(url.to_str().unwrap(), &state, 16 << 10).await;
    house::backup(&house, &crm).await;
    let newest = house::newest(&house).await;
    let to = format!("sqlite:{}", back.display()).parse().unwrap();
    let target = open::target(&to, &TargetOptions::default()).unwrap();
    let mut target = Forgetful { target };
    let refused = job::restore::run(&house.opened, &newest, &mut target).await;
    assert!(refused.is_err(), "it was taken for equal");
    assert!(!back.exists(), "it was published");
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}
