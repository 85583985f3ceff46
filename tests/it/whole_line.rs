//! From a SQLite CRM into a repository and back, whole and thin.

use rowvault::demo::fill;
use rowvault::job::verify::{self, Data};
use rowvault::sample::Sample;
use rusqlite::Connection;

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
