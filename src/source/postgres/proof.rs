//! What shows that rows did not change since an earlier snapshot of the same database.
//!
//! A row that is visible now and was written by a transaction before the earlier snapshot's xmin
//! was in that snapshot, byte for byte: all those transactions had ended then, and a changed row is
//! a new row with a new transaction's number. That holds only where transactions are numbered on
//! in one line and where a value always reads the same. Invariant: whatever is not known to hold
//! gives no witness, no mark, or a doubt, and then every row is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{CONDITION, texts};
use super::client::Client;
use super::error::Error;
use super::structure::LARGE_OBJECTS;
use crate::failure::Class;
use crate::row::schema::{Table, TableName};
use crate::source::address::ServerUrl;

/// Major versions on which everything here was tried.
const MAJORS_TRIED: [u32; 2] = [15, 18];
/// Extensions that come with the server, and leave heaps and the texts of values alone. Others may
/// read rows from elsewhere under a table's name, or write below transactions as `pg_surgery` does.
const EXTENSIONS_KNOWN: &[&str] = &[
    "amcheck",
    "autoinc",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dblink",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "plpgsql",
    "postgres_fdw",
    "refint",
    "seg",
    "sslinfo",
    "tablefunc",
    "tcn",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "xml2",
];
/// The server compares transactions within 2³¹; what it starts while we read is left room for.
const TRANSACTIONS_MAX: u64 = (1 << 31) - (1 << 26);
/// How long the server is waited for to write its log out.
const FLUSH_WAITS: u32 = 100;
const FLUSH_WAIT: Duration = Duration::from_millis(50);

/// The server that numbers the transactions, and the database in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    system: String,
    timeline: String,
    started: String,
    version: String,
    /// Its number, and the transaction that made it so: a number can be given again.
    database: String,
    extensions: String,
}

/// One snapshot in the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Witness {
    line: Line,
    /// Every transaction below had ended.
    xmin: u64,
    /// No transaction from here on had begun.
    xmax: u64,
    /// The end of the write-ahead log.
    wal: u64,
}

/// What a snapshot can show.
pub struct Proof {
    /// This snapshot; else why nothing can be proven on its server.
    now: Result<Witness, &'static str>,
    /// Whether the server waits for its disk, so that what it has flushed outlives a crash.
    keeps: bool,
    marks: BTreeMap<TableName, String>,
}

impl Proof {
    /// Reads what the snapshot of `client` can show. Where the server refuses an answer, nothing.
    pub async fn read(client: &mut Client) -> Result<Proof, Error> {
        let doing = "reading what shows changes";
        client.run("SAVEPOINT proof", doing).await?;
        match Proof::ask(client).await {
            Ok(proof) => {
                client.run("RELEASE SAVEPOINT proof", doing).await?;
                Ok(proof)
            }
            Err(error) if !error.code().is_empty() => {
                let back = "ROLLBACK TO SAVEPOINT proof; RELEASE SAVEPOINT proof";
                client.run(back, doing).await?;
                Ok(Proof::nothing(
                    "the server refuses to say enough about itself",
                ))
            }
            Err(error) => Err(error),
        }
    }

    fn nothing(why: &'static str) -> Proof {
        Proof {
            now: Err(why),
            keeps: false,
            marks: BTreeMap::new(),
        }
    }

    async fn ask(client: &mut Client) -> Result<Proof, Error> {
        let Some((now, keeps)) = line(client).await? else {
            return Ok(Proof::nothing(
                "this server does not say enough about itself",
            ));
        };
        if let Err(why) = now.line.is_known() {
            return Ok(Proof::nothing(why));
        }
        let marks = marks(client).await?;
        let now = Ok(now);
        Ok(Proof { now, keeps, marks })
    }

    /// The witness, once the log up to this snapshot is written out: what a crash takes back gets
    /// its transactions' numbers used again.
    pub async fn witness(
        &self,
        client: &mut Client,
        server: &ServerUrl,
    ) -> Result<Option<String>, Error> {
        let Some(now) = self.now.as_ref().ok().filter(|_| self.keeps) else {
            return Ok(None);
        };
        let sql = format!(
            "SELECT {}",
            position("pg_catalog.pg_current_wal_flush_lsn()")
        );
        for wait in 0..FLUSH_WAITS {
            let flushed = client.value(&sql, "asking for the flushed log").await?;
            let flushed = flushed.parse::<u64>();
            if flushed.is_ok_and(|flushed| flushed >= now.wal) {
                return Ok(serde_json::to_string(now).ok());
            }
            if wait == 0 {
                write_out(server).await;
            }
            tokio::time::sleep(FLUSH_WAIT).await;
        }
        Ok(None)
    }

    /// The mark of a table.
    pub fn mark(&self, table: &Table) -> Option<String> {
        let whole = !table.facts.contains_key(CONDITION)
            && table.name.schema.as_deref() != Some(LARGE_OBJECTS.0);
        self.marks.get(&table.name).filter(|_| whole).cloned()
    }

    /// Why an earlier witness proves nothing, if so.
    pub fn doubt(&self, earlier: &str) -> Option<&'static str> {
        match (serde_json::from_str::<Witness>(earlier), &self.now) {
            (Err(_), _) => Some("what the snapshot before left cannot be read"),
            (_, Err(why)) => Some(why),
            (Ok(earlier), Ok(now)) => now.doubt(&earlier),
        }
    }
}

impl Line {
    /// Whether all that matters of this server was tried; else why not.
    fn is_known(&self) -> Result<(), &'static str> {
        let number = self.version.parse::<u32>().unwrap_or_default();
        if !MAJORS_TRIED.contains(&(number / 10_000)) {
            return Err("this major version of the server was not tried");
        }
        let mut extensions = self.extensions.split(", ").filter(|one| !one.is_empty());
        let known = |one: &str| {
            let name = one.split(' ').next().unwrap_or(one);
            EXTENSIONS_KNOWN.contains(&name)
        };
        match extensions.all(known) {
            true => Ok(()),
            false => Err("an extension is installed that may change rows in its own way"),
        }
    }
}

impl Witness {
    /// Why `earlier` is not known to be an earlier snapshot of the same line, if so.
    fn doubt(&self, earlier: &Witness) -> Option<&'static str> {
        let (old, new) = (&earlier.line, &self.line);
        if old.system != new.system || old.timeline != new.timeline {
            Some("it is another server, or another timeline of it")
        } else if old.started != new.started {
            Some("the server was restarted")
        } else if old.database != new.database {
            Some("it is another database")
        } else if (&old.version, &old.extensions) != (&new.version, &new.extensions) {
            Some("the server's version or an extension changed")
        } else if self.xmin < earlier.xmin || self.xmax < earlier.xmax || self.wal < earlier.wal {
            Some("its transactions or its log went back")
        } else if self.xmax.saturating_sub(earlier.xmin) >= TRANSACTIONS_MAX {
            Some("too many transactions have run")
        } else {
            None
        }
    }
}

/// Has the server write its log out soon, which it need not where nobody commits: a transaction
/// that writes nothing but its end. Where that fails, waiting may still do.
async fn write_out(server: &ServerUrl) {
    if let Ok(mut client) = Client::connect(server).await {
        let sql = "SELECT pg_catalog.pg_current_xact_id()::text";
        let _ = client.run(sql, "having the log written out").await;
        client.close().await;
    }
}

/// A place in the log as a number.
fn position(expression: &str) -> String {
    format!("({expression} - '0/0'::pg_catalog.pg_lsn)::pg_catalog.text")
}

/// Whether the server is one that numbers transactions, and says so to this role.
const MAY: &str = "SELECT (NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.bool_and( \
 pg_catalog.has_function_privilege('pg_catalog.' || name || '()', 'EXECUTE')))::text \
 FROM pg_catalog.unnest(ARRAY['pg_control_system', 'pg_control_checkpoint', \
 'pg_current_wal_insert_lsn', 'pg_current_wal_flush_lsn']) AS name";

/// This snapshot's place in the line, if the server says it, and whether its disk is waited for.
async fn line(client: &mut Client) -> Result<Option<(Witness, bool)>, Error> {
    let doing = "reading what shows changes";
    if client.value(MAY, doing).await? != "true" {
        return Ok(None);
    }
    let sql = format!(
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text, \
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::text, \
         pg_catalog.pg_postmaster_start_time()::text, \
         pg_catalog.current_setting('server_version_num'), \
         (SELECT pg_catalog.concat_ws(' ', oid, xmin) FROM pg_catalog.pg_database \
          WHERE datname = pg_catalog.current_database()), \
         (SELECT pg_catalog.string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) \
          FROM pg_catalog.pg_extension), \
         pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text, \
         pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, \
         {}, pg_catalog.current_setting('fsync')",
        position("pg_catalog.pg_current_wal_insert_lsn()")
    );
    let row = client.rows(&sql, doing).await?.pop().unwrap_or_default();
    let [
        system,
        timeline,
        started,
        version,
        database,
        extensions,
        xmin,
        xmax,
        wal,
        fsync,
    ] = texts(row);
    let numbers = (xmin.parse(), xmax.parse(), wal.parse());
    let (Ok(xmin), Ok(xmax), Ok(wal)) = numbers else {
        return Ok(None);
    };
    let line = Line {
        system,
        timeline,
        started,
        version,
        database,
        extensions,
    };
    let now = Witness {
        line,
        xmin,
        xmax,
        wal,
    };
    Ok(Some((now, fsync == "on")))
}

/// For each heap table that a crash keeps: what its rows read by, and the types of its columns.
const RELATIONS: &str = "\
SELECT n.nspname::text, c.relname::text, \
 pg_catalog.concat_ws(' ', c.oid, pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attnum, \
  pg_catalog.quote_literal(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, \
  a.attisdropped, a.atthasmissing, pg_catalog.quote_literal(a.attmissingval::text)), ',' \
  ORDER BY a.attnum)), \
 pg_catalog.string_agg(DISTINCT a.atttypid::text, ' ') \
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
JOIN pg_catalog.pg_am m ON m.oid = c.relam \
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND m.amname = 'heap' \
 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
GROUP BY 1, 2, c.oid";

/// For each type that those columns are made of: what its values read by, the types that it is
/// made of, and whether its values read the same whatever else changes. A `reg…` value reads as a
/// name that may change; a base type of nobody's is not known. Types are not locked while we read:
/// the transactions that wrote labels and attributes show a change that was taken back since.
const TYPES: &str = "\
WITH RECURSIVE used(oid) AS ( \
 SELECT DISTINCT a.atttypid FROM pg_catalog.pg_attribute a \
 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
 WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped \
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
 UNION SELECT x.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid, LATERAL ( \
  SELECT t.typbasetype AS oid UNION ALL SELECT t.typelem \
  UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
  UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid \
  UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
   WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
 ) x WHERE x.oid <> 0) \
SELECT t.oid::text, \
 pg_catalog.concat_ws(' ', t.oid, pg_catalog.quote_literal(t.typname), t.typnamespace, t.typtype, \
  t.typbasetype, t.typtypmod, t.typelem, t.typrelid, t.typcollation, t.typoutput::pg_catalog.oid, \
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', e.oid, e.xmin, \
    pg_catalog.quote_literal(e.enumlabel)), ',' ORDER BY e.oid) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), \
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attnum, a.xmin, \
    pg_catalog.quote_literal(a.attname), a.atttypid, a.atttypmod, a.attcollation, \
    a.attisdropped), ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
   WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0)), \
 pg_catalog.concat_ws(' ', nullif(t.typbasetype, 0), nullif(t.typelem, 0), \
  (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), \
  (SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid), \
  (SELECT pg_catalog.string_agg(a.atttypid::text, ' ') FROM pg_catalog.pg_attribute a \
   WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)), \
 CASE t.typtype WHEN 'b' THEN (t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc \
   OR (n.nspname = 'pg_catalog' AND t.oid < 16384 \
    AND t.typname !~ '^reg' AND t.typname <> 'aclitem') \
   OR EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = t.oid \
    AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass))::text \
  ELSE (t.typtype <> 'p')::text END \
FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid \
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace";

struct Type {
    reads_by: String,
    made_of: Vec<String>,
    is_steady: bool,
}

async fn marks(client: &mut Client) -> Result<BTreeMap<TableName, String>, Error> {
    let doing = "reading what tables read by";
    let types: HashMap<String, Type> = client
        .rows(TYPES, doing)
        .await?
        .into_iter()
        .map(|row| {
            let [oid, reads_by, made_of, is_steady] = texts(row);
            let known = Type {
                reads_by,
                made_of: made_of.split_whitespace().map(str::to_owned).collect(),
                is_steady: is_steady == "true",
            };
            (oid, known)
        })
        .collect();
    let relations = client.rows(RELATIONS, doing).await?;
    let marked = relations.into_iter().filter_map(|row| {
        let [schema, name, reads_by, used] = texts(row);
        let mark = mark(&reads_by, used.split_whitespace(), &types)?;
        let schema = Some(schema);
        Some((TableName { schema, name }, mark))
    });
    Ok(marked.collect())
}

/// The xmin of an earlier snapshot, by the witness that it left.
pub fn xmin(witness: &str) -> Result<u64, Error> {
    let earlier: Result<Witness, _> = serde_json::from_str(witness);
    let earlier = earlier.map_err(|error| Error::stated(Class::Bug, error.to_string(), ""))?;
    Ok(earlier.xmin)
}

/// The mark of a table with columns of the types `used`; none where one of them is not steady.
/// Type 0 is that of a dropped column.
fn mark<'a>(
    reads_by: &str,
    used: impl Iterator<Item = &'a str>,
    types: &'a HashMap<String, Type>,
) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = used.filter(|oid| *oid != "0").collect();
    while let Some(oid) = open.pop() {
        if seen.insert(oid) {
            let known = types.get(oid).filter(|known| known.is_steady)?;
            open.extend(known.made_of.iter().map(String::as_str));
        }
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(reads_by.as_bytes());
    for oid in seen {
        hasher.update(b"\0").update(types[oid].reads_by.as_bytes());
    }
    Some(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            system: "7".into(),
            timeline: "1".into(),
            started: "2026-11-22".into(),
            version: "150004".into(),
            database: "5 700".into(),
            extensions: "plpgsql 1.0".into(),
        }
    }

    fn witness() -> Witness {
        Witness {
            line: line(),
            xmin: 5_000_000_000,
            xmax: 5_000_000_002,
            wal: 900,
        }
    }

    fn doubt(edit: impl Fn(&mut Witness)) -> Option<&'static str> {
        let mut now = witness();
        edit(&mut now);
        now.doubt(&witness())
    }

    #[test]
    fn snapshot_of_the_same_line_is_believed_and_no_other() {
        assert_eq!(doubt(|_| {}), None);
        let later = |now: &mut Witness| {
            (now.xmin, now.xmax, now.wal) = (now.xmin + 9, now.xmax + 90, now.wal + 900);
        };
        assert_eq!(doubt(later), None);
        let edits: [fn(&mut Witness); 9] = [
            |now| now.line.system.push('8'),
            |now| now.line.timeline.push('8'),
            |now| now.line.started.push('8'),
            |now| now.line.version.push('8'),
            |now| now.line.database.push('8'),
            |now| now.line.extensions.push('8'),
            |now| now.xmin -= 1,
            |now| now.xmax -= 1,
            |now| now.wal -= 1,
        ];
        for edit in edits {
            assert!(doubt(edit).is_some());
        }
    }

    #[test]
    fn transactions_are_compared_while_the_server_can() {
        let after = |count: u64| doubt(|now| now.xmax = now.xmin + count);
        assert_eq!(after(TRANSACTIONS_MAX - 1), None);
        assert!(after(TRANSACTIONS_MAX).is_some());
    }

    #[test]
    fn server_is_known_by_its_version_and_its_extensions() {
        let known = |version: &str, extensions: &str| {
            let (version, extensions) = (version.into(), extensions.into());
            let line = Line {
                version,
                extensions,
                ..line()
            };
            line.is_known().is_ok()
        };
        assert!(known("150004", ""));
        assert!(known("180001", "citext 1.6, plpgsql 1.0"));
        assert!(!known("190000", ""));
        assert!(!known("nonsense", ""));
        assert!(!known("150004", "citext 1.6, timescaledb 2.17"));
        assert!(!known("150004", "pg_surgery 1.0, plpgsql 1.0"));
    }

    #[test]
    fn xmin_is_what_the_witness_says() {
        let written = serde_json::to_string(&witness()).unwrap();
        assert_eq!(xmin(&written).unwrap(), 5_000_000_000);
        assert!(xmin("nothing").is_err());
    }

    #[test]
    fn mark_is_of_all_that_columns_are_made_of() {
        let kind = |reads_by: &str, made_of: &[&str], is_steady| Type {
            reads_by: reads_by.into(),
            made_of: made_of.iter().map(|one| (*one).to_owned()).collect(),
            is_steady,
        };
        let types = |label: &str, steady: bool| {
            HashMap::from([
                ("1".to_owned(), kind("composite", &["2", "3"], true)),
                ("2".to_owned(), kind(label, &[], steady)),
                // A type may come back to itself by way of an array.
                ("3".to_owned(), kind("array", &["1"], true)),
            ])
        };
        let mark = |types: &HashMap<String, Type>| mark("t", ["0", "1"].into_iter(), types);
        let first = mark(&types("new", true));
        assert!(first.is_some());
        assert_eq!(first, mark(&types("new", true)));
        assert_ne!(first, mark(&types("fresh", true)));
        assert_eq!(mark(&types("new", false)), None);
        assert_eq!(mark(&HashMap::new()), None);
    }
}
