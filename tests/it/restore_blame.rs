//! Where a restored table reads back otherwise, the error says whose fault it is.

use async_trait::async_trait;
use rowvault::failure::{AnyFailure, Class};
use rowvault::id::Digest;
use rowvault::job::restore;
use rowvault::row::cell::{Cell, RowBatch};
use rowvault::row::schema::{Structure, Table};
use rowvault::source::{Piece, PieceReceiver, PieceSender, Published, Target};
use tokio::sync::mpsc;

use crate::house::{self, House};
use crate::sqlite_copy::{Place, target};

/// A target that keeps another row than the first it was given.
struct Forgetful(Box<dyn Target>);

#[async_trait]
impl Target for Forgetful {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.0.prepare(structure).await
    }

    async fn load(&self, table: &Table, mut rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let (give, taken) = mpsc::channel(1);
        let changing = async {
            while let Some(piece) = rows.recv().await {
                let Piece::Rows(batch) = piece else {
                    panic!("there is no large cell");
                };
                let mut other = RowBatch::default();
                other.push_with(|row| {
                    [Cell::Integer(1), Cell::Text(b"forgot")]
                        .iter()
                        .for_each(|cell| cell.push(row));
                });
                batch.iter().skip(1).for_each(|row| other.push(row));
                give.send(Piece::Rows(other)).await.unwrap();
            }
            drop(give);
        };
        let (loaded, ()) = tokio::join!(self.0.load(table, taken), changing);
        loaded
    }

    async fn finish(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.0.finish(structure).await
    }

    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        self.0.read_back(table, rows).await
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        self.0.publish().await
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        self.0.discard().await
    }
}

async fn backed_up(place: &Place) -> House {
    let directory = place.directory.path();
    let url = format!("file://{}", directory.join("repository").display());
    let house = house::make(&url, &directory.join("state"), 16 << 10).await;
    house::backup(&house, &place.source()).await;
    house
}

async fn failure(house: &House, target: &mut dyn Target, edit: impl Fn(&mut Digest)) -> AnyFailure {
    let newest = house::newest(house).await;
    let opened = &house.opened;
    let mut plan = restore::plan_tables(opened, &newest, &[]).await.unwrap();
    edit(&mut plan.manifest.tables[0].digest);
    let restored = restore::run_tables(opened, &newest, plan, target).await;
    restored.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn target_that_reads_back_otherwise_and_rows_that_are_none_of_the_manifest_are_told_apart() {
    let place = Place::with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    let house = backed_up(&place).await;
    let mut forgetful = Forgetful(target(&place.target()));
    let blamed = failure(&house, &mut forgetful, |_| {}).await;
    assert_eq!(blamed.class(), Class::Corrupt);
    assert!(
        blamed.to_string().contains("reads back otherwise"),
        "{blamed}"
    );
    let mut honest = target(&place.target());
    let blamed = failure(&house, honest.as_mut(), |digest| digest.0[0] ^= 1).await;
    assert_eq!(blamed.class(), Class::Corrupt);
    assert!(
        blamed.to_string().contains("the manifest names"),
        "{blamed}"
    );
    place.assert_nothing_left_over();
}
