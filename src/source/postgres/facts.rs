//! Facts about the server and the database, read inside the snapshot.
//!
//! For the manifest, for people, and for proving later that rows cannot have changed. Invariant:
//! no fact is a secret, and one that this role may not ask for is absent.

use std::collections::BTreeMap;

use super::catalog::texts;
use super::client::Client;
use super::error::Error;
use crate::row::schema::TableName;

/// Tables that something else cannot be made without, and what that is.
pub async fn dependents(client: &mut Client) -> Result<BTreeMap<TableName, String>, Error> {
    let sql = "SELECT n.nspname::text, c.relname::text, \
     pg_catalog.min(pg_catalog.pg_describe_object(d.classid, d.objid, 0)) \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_depend d ON (d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
      AND d.refobjid = c.oid) OR (d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass \
      AND d.refobjid = c.reltype) \
     LEFT JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid \
      AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
     LEFT JOIN pg_catalog.pg_constraint k ON k.oid = d.objid \
      AND d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass \
     LEFT JOIN pg_catalog.pg_class p ON p.oid = d.objid \
      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
     WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_' AND c.reltype <> 0 AND ( \
      r.ev_class <> c.oid OR (k.contype = 'f' AND k.conrelid <> c.oid) \
      OR (p.relkind IN ('r', 'p', 'f') AND p.oid <> c.oid) \
      OR d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass) GROUP BY 1, 2";
    let rows = client.rows(sql, "reading what depends on tables").await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let [schema, name, dependent] = texts(row);
            let schema = Some(schema);
            (TableName { schema, name }, dependent)
        })
        .collect())
}

/// Facts for the manifest and, later, for proving that rows did not change.
pub async fn read(client: &mut Client) -> Result<BTreeMap<String, String>, Error> {
    let doing = "reading the server's facts";
    let mut facts = BTreeMap::from([("consistency".to_owned(), "one snapshot".to_owned())]);
    let mut queries: Vec<(&str, String)> = [
        (
            "server_version",
            "pg_catalog.current_setting('server_version')",
        ),
        (
            "server_version_num",
            "pg_catalog.current_setting('server_version_num')",
        ),
        ("encoding", "pg_catalog.current_setting('server_encoding')"),
        ("postmaster_start", "pg_catalog.pg_postmaster_start_time()"),
        ("snapshot", "pg_catalog.pg_current_snapshot()"),
        (
            "snapshot_xmin",
            "pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())",
        ),
        ("in_recovery", "pg_catalog.pg_is_in_recovery()"),
        (
            "wal_position",
            "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_lsn() END",
        ),
        ("captured_at", "pg_catalog.transaction_timestamp()"),
        (
            "extensions",
            "(SELECT pg_catalog.string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) \
             FROM pg_catalog.pg_extension)",
        ),
    ]
    .map(|(name, expression)| (name, expression.to_owned()))
    .into();
    let may = "SELECT (pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', \
     'EXECUTE') AND pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', \
     'EXECUTE'))::text";
    if client.value(may, doing).await? == "true" {
        let system = "(SELECT system_identifier FROM pg_catalog.pg_control_system())";
        let timeline = "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())";
        queries.push(("system_identifier", system.into()));
        queries.push(("timeline", timeline.into()));
    }
    let list: Vec<String> = queries
        .iter()
        .map(|(_, expression)| format!("({expression})::pg_catalog.text"))
        .collect();
    let mut rows = client
        .rows(&format!("SELECT {}", list.join(", ")), doing)
        .await?;
    let row = rows.pop().unwrap_or_default();
    for ((name, _), value) in queries.iter().zip(row) {
        facts.insert((*name).to_owned(), value.unwrap_or_default());
    }
    Ok(facts)
}
