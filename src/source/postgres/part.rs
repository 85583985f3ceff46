//! Parts of a table, and how many rows they have, for what [`super::proof`] has found a witness of.
//!
//! Rows that changed are found by one look at each row's header, those that are gone by ranges of
//! the key. How rows are found is chosen by what it costs; the planner is told of it, and what it
//! then does is looked at. Invariant: whichever way is chosen, the same rows come.

use std::fmt::Write;

use super::catalog::texts;
use super::client::{Client, TextRow};
use super::error::Error;
use super::{proof, quote, ranges};
use crate::row::schema::Table;
use crate::source::{Count, Part, Places, Share};

/// Places of fresh rows are collected for tables of up to this many bytes, 6 bytes a row in the
/// server's memory: if it were the narrowest rows and all of them fresh 110 MB, in a buffer that
/// doubles and is copied once, some 240 MB.
const PLACED_BYTES_MAX: u64 = 512 << 20;
/// Most places that are named to the server in one statement.
const PLACES_MAX: usize = 1 << 16;
/// Bytes of a place, as the server sends it: page and number in it.
const PLACE_BYTES: usize = 6;

/// Keeps the planner from walking an index to sort by, which costs more than sorting few rows.
pub const IN_HEAP_ORDER: &str = "SET enable_indexscan = off; SET enable_indexonlyscan = off; \
 SET enable_bitmapscan = off";
/// The same, and has it go to places that are named.
const BY_PLACE: &str = "SET enable_seqscan = off; SET enable_indexscan = off; \
 SET enable_indexonlyscan = off; SET enable_bitmapscan = off";
/// Lets it again.
pub const IN_ANY_ORDER: &str = "RESET enable_seqscan; RESET enable_indexscan; \
 RESET enable_indexonlyscan; RESET enable_bitmapscan";
/// Has the planner look ranges up.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off";

/// How a part of a table is read.
pub struct Way {
    /// The condition that chooses its rows.
    pub condition: String,
    /// What is read in the place of the table.
    pub instead: Option<String>,
}

impl Way {
    /// The way to read a part of a table; the planner is told of it until [`IN_ANY_ORDER`].
    pub async fn choose(
        client: &mut Client,
        table: &Table,
        candidates: &[usize],
        witness: &str,
        part: &Part,
    ) -> Result<Way, Error> {
        let condition = condition(table, witness, part)?;
        let doing = format!("reading table {}", table.name);
        if let Part::Within {
            edges,
            ranges,
            share,
        } = part
            && (*share == Share::Little || heap(client, table).await?.visible)
            && let Some(rows) = ranges::looked_up(table, edges, ranges, candidates)
        {
            client.run(BY_INDEX, &doing).await?;
            let plan = plan(client, &format!("SELECT * FROM {rows}"), &doing).await?;
            let alone = *share == Share::Little || ranges::needs_no_heap(&plan);
            if alone && ranges::looks_up(&plan) {
                return Ok(Way {
                    condition: "true".into(),
                    instead: Some(rows),
                });
            }
            client.run(IN_ANY_ORDER, &doing).await?;
        }
        let way = match part {
            Part::Fresh(Places::Known(_)) => BY_PLACE,
            _ => IN_HEAP_ORDER,
        };
        client.run(way, &doing).await?;
        Ok(Way {
            condition,
            instead: None,
        })
    }
}

/// How many rows the table has, old and fresh ones, and where the fresh ones lie.
pub async fn count(
    client: &mut Client,
    table: &Table,
    witness: &str,
) -> Result<(Count, Places), Error> {
    let fresh = fresh(proof::xmin(witness)?);
    let name = quote::table(&table.name);
    let sql = match heap(client, table).await?.bytes <= PLACED_BYTES_MAX {
        true => format!(
            "SELECT n::text, COALESCE(pg_catalog.octet_length(places) / {PLACE_BYTES}, 0)::text, \
             CASE WHEN pg_catalog.octet_length(places) <= {} \
              THEN pg_catalog.encode(places, 'hex') END \
             FROM (SELECT pg_catalog.count(*) AS n, \
              pg_catalog.string_agg(pg_catalog.tidsend(ctid), ''::pg_catalog.bytea) \
              FILTER (WHERE {fresh}) AS places FROM ONLY {name}) AS counted",
            PLACES_MAX * PLACE_BYTES
        ),
        false => format!(
            "SELECT pg_catalog.count(*)::text, \
             (pg_catalog.count(*) FILTER (WHERE {fresh}))::text, NULL FROM ONLY {name}"
        ),
    };
    let doing = format!("counting table {}", table.name);
    let counted = in_heap_order(client, &sql, &doing).await?;
    let counted = counted.into_iter().next().and_then(|row| {
        let [all, fresh, places] = texts(row);
        let (all, fresh): (u64, u64) = (all.parse().ok()?, fresh.parse().ok()?);
        let old = all.checked_sub(fresh)?;
        let places = match fresh {
            0 => Places::Known("".into()),
            _ => places_of(&places)?,
        };
        Some((Count { old, fresh }, places))
    });
    counted.ok_or_else(|| contradicts(client, &doing))
}

/// How many rows each of the ranges has that `edges` begin: by the key's index where it tells of
/// most rows alone, else by looking at each.
pub async fn count_ranges(
    client: &mut Client,
    table: &Table,
    edges: &[String],
) -> Result<Vec<u64>, Error> {
    let doing = format!("counting table {}", table.name);
    let by_index = match heap(client, table).await?.visible {
        true => counts_by_index(client, table, edges, &doing).await?,
        false => None,
    };
    let counted = match by_index {
        Some(counted) => counted,
        None => {
            let range = ranges::bucket(table, edges).unwrap_or_else(|| "0".into());
            let sql = format!(
                "SELECT r.range::text, pg_catalog.count(*)::text \
                 FROM (SELECT {range} AS range FROM ONLY {}) AS r GROUP BY r.range",
                quote::table(&table.name)
            );
            in_heap_order(client, &sql, &doing).await?
        }
    };
    let mut counts = vec![0; edges.len() + 1];
    for row in counted {
        let [range, rows] = texts(row);
        let (Ok(range), Ok(rows)) = (range.parse::<usize>(), rows.parse()) else {
            return Err(contradicts(client, &doing));
        };
        let Some(count) = counts.get_mut(range) else {
            return Err(contradicts(client, &doing));
        };
        *count = rows;
    }
    Ok(counts)
}

/// How a table lies, which decides nothing but how it is read.
struct Heap {
    bytes: u64,
    /// Whether an index tells of most rows alone: the visibility map covers half of the pages, by
    /// the server's count of the last vacuum and the dead rows since, wherever those lie.
    visible: bool,
}

async fn heap(client: &mut Client, table: &Table) -> Result<Heap, Error> {
    let sql = format!(
        "SELECT pg_catalog.pg_relation_size(c.oid)::text, (c.relallvisible > 0 AND \
         c.relpages <= 2 * c.relallvisible * pg_catalog.exp(-LEAST(100, \
          pg_catalog.pg_stat_get_dead_tuples(c.oid)::float8 / NULLIF(c.relpages, 0))))::text \
         FROM pg_catalog.pg_class c WHERE c.oid = {}::pg_catalog.regclass",
        quote::literal(&quote::table(&table.name))
    );
    let doing = format!("measuring table {}", table.name);
    let row = client.rows(&sql, &doing).await?.pop().unwrap_or_default();
    let [bytes, visible] = texts(row);
    Ok(Heap {
        bytes: bytes.parse().unwrap_or(u64::MAX),
        visible: visible == "true",
    })
}

/// The condition that a row is not proven to be as it was. Ages are reckoned within 2³¹: where the
/// earlier xmin is beyond, though that was checked when the snapshot was taken, every row is fresh.
fn fresh(xmin: u64) -> String {
    let age = format!("pg_catalog.age('{}'::pg_catalog.xid)", xmin % (1 << 32));
    format!(
        "pg_catalog.age(xmin) <= (SELECT CASE WHEN {age} < 0 THEN {} ELSE {age} END)",
        i32::MAX
    )
}

/// The condition that chooses a part.
fn condition(table: &Table, witness: &str, part: &Part) -> Result<String, Error> {
    match part {
        Part::Fresh(Places::Unknown) => Ok(fresh(proof::xmin(witness)?)),
        Part::Fresh(Places::Known(places)) => {
            Ok(format!("ctid = ANY ('{{{places}}}'::pg_catalog.tid[])"))
        }
        Part::Within { edges, ranges, .. } => {
            let range = ranges::bucket(table, edges);
            let numbers: Vec<String> = ranges.iter().map(usize::to_string).collect();
            Ok(match range {
                Some(range) => format!("{range} = ANY ('{{{}}}'::int4[])", numbers.join(",")),
                None => "true".to_owned(),
            })
        }
    }
}

/// The lines of the planner's plan for a query.
async fn plan(client: &mut Client, query: &str, doing: &str) -> Result<Vec<String>, Error> {
    let explain = format!("EXPLAIN (COSTS OFF) {query}");
    let lines = client.rows(&explain, doing).await?.into_iter();
    let lines = lines.map(|row| {
        let [line] = texts(row);
        line
    });
    Ok(lines.collect())
}

/// Places as the server reads them, from the hexadecimal digits of those that it sent.
fn places_of(sent: &str) -> Option<Places> {
    if sent.is_empty() {
        return Some(Places::Unknown);
    }
    let mut places = String::with_capacity(sent.len() * 3 / 2);
    let (sent, rest) = sent.as_bytes().as_chunks::<{ 2 * PLACE_BYTES }>();
    if !rest.is_empty() {
        return None;
    }
    for place in sent {
        let (page, number) = std::str::from_utf8(place).ok()?.split_at_checked(8)?;
        let page = u32::from_str_radix(page, 16).ok()?;
        let number = u16::from_str_radix(number, 16).ok()?;
        let comma = if places.is_empty() { "" } else { "," };
        write!(places, "{comma}\"({page},{number})\"").ok()?;
    }
    Some(Places::Known(places.into()))
}

/// The counts of ranges by the key's index; none where the planner has no use for it.
async fn counts_by_index(
    client: &mut Client,
    table: &Table,
    edges: &[String],
    doing: &str,
) -> Result<Option<Vec<TextRow>>, Error> {
    let Some(sql) = ranges::counted(table, edges) else {
        return Ok(None);
    };
    client.run(BY_INDEX, doing).await?;
    let plan = plan(client, &sql, doing).await?;
    let counted = match ranges::looks_up(&plan) && ranges::needs_no_heap(&plan) {
        true => Some(client.rows(&sql, doing).await?),
        false => None,
    };
    client.run(IN_ANY_ORDER, doing).await?;
    Ok(counted)
}

async fn in_heap_order(client: &mut Client, sql: &str, doing: &str) -> Result<Vec<TextRow>, Error> {
    client.run(IN_HEAP_ORDER, doing).await?;
    let rows = client.rows(sql, doing).await?;
    client.run(IN_ANY_ORDER, doing).await?;
    Ok(rows)
}

fn contradicts(client: &Client, doing: &str) -> Error {
    Error::Protocol {
        database: client.database().to_owned(),
        doing: doing.to_owned(),
        what: "counts that no table has".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_rows_are_told_by_the_lower_half_of_the_number() {
        let sql = fresh(5_000_000_000);
        let low = 5_000_000_000_u64 - (1 << 32);
        assert!(sql.contains(&format!("age('{low}'::")), "{sql}");
    }

    #[test]
    fn places_are_read_as_the_server_sends_them() {
        assert_eq!(places_of(""), Some(Places::Unknown));
        let known = |places: &str| Some(Places::Known(places.into()));
        assert_eq!(places_of("000000000001"), known(r#""(0,1)""#));
        let two = places_of("ffffffff0122000000100003");
        assert_eq!(two, known(r#""(4294967295,290)","(16,3)""#));
        assert_eq!(places_of("0000000000"), None);
        assert_eq!(places_of("00000000"), None);
        assert_eq!(places_of("0000000g0001"), None);
    }
}
