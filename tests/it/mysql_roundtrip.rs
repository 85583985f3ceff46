//! MariaDB databases out and back in: what comes out is what went in.

use crate::mysql_server::{copy, shared};

const CASES: &str = include_str!("mysql_cases.sql");

#[tokio::test]
async fn every_case_comes_back_byte_for_byte() {
    let server = shared();
    server.fresh("cases", CASES);
    server.sql("", "DROP DATABASE IF EXISTS `cases again`");
    let copied = copy(&server.url("cases"), &server.url("cases again"))
        .await
        .unwrap();
    assert!(copied.rows > 600, "{}", copied.rows);
    let (source, target) = (server.rows("cases"), server.rows("cases again"));
    assert_eq!(
        source.keys().collect::<Vec<_>>(),
        target.keys().collect::<Vec<_>>()
    );
    for (table, rows) in &source {
        assert_eq!(&target[table], rows, "table {table}");
    }
    assert_eq!(server.dump("cases again"), server.dump("cases"));
    assert_eq!(
        server
            .databases()
            .iter()
            .filter(|d| d.contains("__rowvault_"))
            .count(),
        0
    );
}
