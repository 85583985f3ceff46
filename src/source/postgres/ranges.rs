//! A large table in key ranges, several read at once and joined in order.
//!
//! Edges come from a sample of the table; each range is read by a connection of its own while the
//! ones before it are still on their way, and waits in a bounded channel until it is their turn.
//! Invariant: wherever the edges lie, each row is in exactly one range, and the rows come out in
//! key order; edges decide nothing but speed.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use super::catalog::CONDITION;
use super::client::Client;
use super::error::Error;
use super::rows::Turn;
use super::structure::LARGE_OBJECTS;
use super::{quote, types};
use crate::row::schema::Table;
use crate::source::{BATCH_BYTES, Piece, PieceSender};

/// Most pieces that wait for their turn, over all ranges of a table: 16 MiB.
const PIECES_AHEAD_MAX: usize = 64;
/// Most pieces of one range that wait for their turn.
const PIECES_A_RANGE_MAX: usize = 32;
/// The same for a table with large cells, whose slices are pieces of 1 MiB.
const SLICED_PIECES_A_RANGE_MAX: usize = 8;
/// Most ranges of a table.
const RANGES_MAX: u64 = 8192;
/// Pages in the sample for each edge.
const PAGES_AN_EDGE: u64 = 4;
/// A sample of fewer rows tells nothing.
const SAMPLE_MIN: usize = 16;
const PAGE_BYTES: u64 = 8192;

/// How a table is cut.
pub struct Plan {
    /// Conditions on the key, one a range, in key order; fewer than two: the table is not cut.
    pub ranges: Vec<String>,
    /// How many pieces of a range may wait for their turn.
    pub pieces: usize,
    /// How many ranges may be on their way at once.
    pub at_once: usize,
}

/// Sampled value of the first key column, in the order of the canonical key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(i128),
    Text(String),
}

/// The plan for `table`, which is cut where it has `bytes_min` bytes or more and its key allows.
pub async fn plan(
    client: &mut Client,
    table: &Table,
    sliced: bool,
    bytes_min: u64,
    parallel: usize,
) -> Result<Plan, Error> {
    let at_once = parallel.min(PIECES_AHEAD_MAX);
    let pieces_max = match sliced {
        true => SLICED_PIECES_A_RANGE_MAX,
        false => PIECES_A_RANGE_MAX,
    };
    let pieces = (PIECES_AHEAD_MAX / at_once).clamp(1, pieces_max);
    let mut plan = Plan {
        ranges: Vec::new(),
        pieces,
        at_once,
    };
    let Some(key) = Key::of(table).filter(|_| parallel > 1) else {
        return Ok(plan);
    };
    let pages = pages(client, table).await?;
    if pages * PAGE_BYTES < bytes_min.max(2 * PAGE_BYTES) {
        return Ok(plan);
    }
    let range_pages = (pieces * BATCH_BYTES) as u64 / PAGE_BYTES;
    let fine = (pages / range_pages).clamp(parallel as u64, RANGES_MAX) as usize;
    let sample = sample(client, table, &key, pages, fine as u64).await?;
    // A range of a key that lies all over the table costs a reading of all of it.
    let ranges = match follows(&sample) {
        true => fine,
        false => parallel,
    };
    plan.ranges = key.conditions(&edges(sample, ranges));
    Ok(plan)
}

/// The column that ranges are cut by: the first of the key.
struct Key {
    /// What the server sorts by.
    expression: String,
    number: bool,
    is_uuid: bool,
}

impl Key {
    /// None where ranges of the key cannot be asked for, or not cheaply.
    fn of(table: &Table) -> Option<Key> {
        if table.name.schema.as_deref() == Some(LARGE_OBJECTS.0)
            || table.facts.contains_key(CONDITION)
        {
            return None;
        }
        let (position, _) = *table.key.as_ref()?.columns.first()?;
        let column = &table.columns[position];
        let base = types::base(column);
        let number = matches!(base, "smallint" | "integer" | "bigint" | "oid");
        let known = number || matches!(base, "uuid" | "text" | "character varying");
        known.then(|| Key {
            expression: types::sort_expression(base, &quote::identifier(&column.name)),
            number,
            is_uuid: base == "uuid",
        })
    }

    fn value(&self, text: String) -> Option<Value> {
        match self.number {
            true => text.parse().ok().map(Value::Number),
            // What is not ASCII may have another form in the server's encoding.
            false => text.is_ascii().then_some(Value::Text(text)),
        }
    }

    fn literal(value: &Value) -> String {
        match value {
            Value::Number(number) => format!("'{number}'"),
            Value::Text(text) => quote::literal(text),
        }
    }

    /// The lowest and the highest value in the ranges from `first` to `last` that `edges` begin.
    fn bounds(&self, edges: &[String], first: usize, last: usize) -> Option<(String, String)> {
        let low = match first {
            0 => None,
            at => Some(edges.get(at - 1)?),
        };
        let high = edges.get(last);
        if self.is_uuid {
            let number = |edge: &String| u128::from_str_radix(edge, 16).ok();
            let low = low.map_or(Some(u128::MIN), number)?;
            let high = high.map_or(Some(u128::MAX), |edge| number(edge)?.checked_sub(1))?;
            return Some((format!("{low:032x}"), format!("{high:032x}")));
        }
        let number = |edge: &String| edge.parse::<i64>().ok();
        let low = low.map_or(Some(i64::MIN), number)?;
        let high = high.map_or(Some(i64::MAX), |edge| number(edge)?.checked_sub(1))?;
        Some((low.to_string(), high.to_string()))
    }

    fn conditions(&self, edges: &[Value]) -> Vec<String> {
        let from = |edge: &Value| format!("{} >= {}", self.expression, Key::literal(edge));
        let below = |edge: &Value| format!("{} < {}", self.expression, Key::literal(edge));
        let (Some(first), Some(last)) = (edges.first(), edges.last()) else {
            return Vec::new();
        };
        let mut ranges = vec![below(first)];
        for pair in edges.windows(2) {
            ranges.push(format!("{} AND {}", from(&pair[0]), below(&pair[1])));
        }
        ranges.push(from(last));
        ranges
    }
}

/// The expression for the number of the range that a row is in, where `edges` are the texts of
/// first key columns at which ranges begin; none without edges, or where the key has no ranges.
pub fn bucket(table: &Table, edges: &[String]) -> Option<String> {
    let key = Key::of(table).filter(|_| !edges.is_empty())?;
    let values = edges.iter().map(|edge| match key.number {
        true => edge.clone(),
        false => quote::literal(edge),
    });
    let values: Vec<String> = values.collect();
    let (expression, array) = match (key.number, key.is_uuid) {
        (true, _) => (format!("{}::int8", key.expression), "int8"),
        (_, true) => (key.expression, "uuid"),
        _ => (key.expression, "text"),
    };
    Some(format!(
        "pg_catalog.width_bucket({expression}, ARRAY[{}]::{array}[])",
        values.join(",")
    ))
}

/// The rows of some of the ranges that `edges` begin, to be read in the place of `table`, with its
/// columns and, for `candidates` of large cells, their places; each range is a look into the key's
/// index. None where the first column is no integer and no UUID: an index on text has another
/// order, and numbers below 0 are an error to an oid. The offset keeps the planner from taking
/// ranges and rows apart, where it compares each row with each range to have them in order.
pub fn looked_up(
    table: &Table,
    edges: &[String],
    ranges: &[usize],
    candidates: &[usize],
) -> Option<String> {
    let together = ranges.chunk_by(|one, next| one + 1 == *next);
    let together = together.map(|ranges| Some((*ranges.first()?, *ranges.last()?)));
    let bounds = bounds(table, edges, together)?;
    let mut columns: Vec<String> = Vec::new();
    if !candidates.is_empty() {
        columns.push("ctid".into());
    }
    let names = table.columns.iter();
    columns.extend(names.map(|column| quote::identifier(&column.name)));
    Some(format!(
        "(SELECT x.* FROM {} AS r(low, high), LATERAL (SELECT {} \
         FROM ONLY {} AS t WHERE {} OFFSET 0) AS x) AS t",
        bounds.rows,
        columns.join(", "),
        quote::table(&table.name),
        bounds.within,
    ))
}

/// The query for how many rows each of the ranges has that `edges` begin, each looked up in the
/// key's index; none as with [`looked_up`].
pub fn counted(table: &Table, edges: &[String]) -> Option<String> {
    let each = (0..=edges.len()).map(|range| Some((range, range)));
    let bounds = bounds(table, edges, each)?;
    Some(format!(
        "SELECT (r.range - 1)::text, x.n::text FROM {} WITH ORDINALITY AS r(low, high, range), \
         LATERAL (SELECT pg_catalog.count(*) AS n FROM ONLY {} AS t WHERE {}) AS x",
        bounds.rows,
        quote::table(&table.name),
        bounds.within,
    ))
}

/// Ranges as SQL.
struct Bounds {
    /// The lowest and the highest value of each.
    rows: String,
    /// The condition that a row lies in the range `r`.
    within: String,
}

/// Ranges of the first key column, each from the first to the last of some of those that `edges`
/// begin; none where the column is no integer and no UUID.
fn bounds(
    table: &Table,
    edges: &[String],
    ranges: impl Iterator<Item = Option<(usize, usize)>>,
) -> Option<Bounds> {
    let key = Key::of(table)?;
    let (position, _) = *table.key.as_ref()?.columns.first()?;
    let array = match types::base(&table.columns[position]) {
        "smallint" | "integer" | "bigint" => "int8",
        "uuid" => "uuid",
        _ => return None,
    };
    let (mut lows, mut highs) = (Vec::new(), Vec::new());
    for range in ranges {
        let (first, last) = range?;
        let (low, high) = key.bounds(edges, first, last)?;
        lows.push(low);
        highs.push(high);
    }
    Some(Bounds {
        rows: format!(
            "ROWS FROM (pg_catalog.unnest('{{{}}}'::{array}[]), \
             pg_catalog.unnest('{{{}}}'::{array}[]))",
            lows.join(","),
            highs.join(","),
        ),
        within: format!("{key} >= r.low AND {key} <= r.high", key = key.expression),
    })
}

/// Whether each range is looked up, by the plan of what [`looked_up`] gave.
pub fn looks_up(plan: &[String]) -> bool {
    let has = |what: &str| plan.iter().any(|line| line.contains(what));
    has("Index Cond: ") && has("r.low") && has("r.high") && !has("Seq Scan")
}

/// Whether an index tells all that is asked for of rows that everybody sees.
pub fn needs_no_heap(plan: &[String]) -> bool {
    let has = |what: &str| plan.iter().any(|line| line.contains(what));
    has("Index Only Scan") && !has("Index Scan")
}

/// Whether rows of `table` can be told apart by ranges of their first key column.
pub fn has_ranges(table: &Table) -> bool {
    Key::of(table).is_some()
}

/// How many pages the table's heap has; 0 for what is no heap.
async fn pages(client: &mut Client, table: &Table) -> Result<u64, Error> {
    let sql = format!(
        "SELECT (pg_catalog.pg_relation_size(c.oid) / {PAGE_BYTES})::pg_catalog.text \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam \
         WHERE c.oid = {}::pg_catalog.regclass AND c.relkind = 'r' AND a.amname = 'heap'",
        quote::literal(&quote::table(&table.name))
    );
    let doing = format!("measuring table {}", table.name);
    let rows = client.rows(&sql, &doing).await?;
    let pages = rows.first().and_then(|row| row.first()?.as_deref());
    Ok(pages.and_then(|pages| pages.parse().ok()).unwrap_or(0))
}

/// The keys of a row on each of some pages, in the order of the pages.
async fn sample(
    client: &mut Client,
    table: &Table,
    key: &Key,
    pages: u64,
    ranges: u64,
) -> Result<Vec<Value>, Error> {
    let wanted = (ranges * PAGES_AN_EDGE).max(256);
    let percent = (100.0 * wanted as f64 / pages as f64).min(100.0);
    let sql = format!(
        "SELECT ({})::pg_catalog.text FROM ONLY {} TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (1) \
         WHERE ctid::pg_catalog.text LIKE '%,1)'",
        key.expression,
        quote::table(&table.name)
    );
    let doing = format!("sampling table {}", table.name);
    let rows = client.rows(&sql, &doing).await?;
    let values = rows.into_iter().filter_map(|mut row| row.pop().flatten());
    Ok(values.filter_map(|value| key.value(value)).collect())
}

/// Whether the rows lie in the order of their keys, but for a few.
fn follows(sample: &[Value]) -> bool {
    let ascending = sample.windows(2).filter(|pair| pair[0] <= pair[1]).count();
    ascending * 20 >= sample.len().saturating_sub(1) * 19
}

/// At most `ranges` - 1 edges, evenly over the sample, each greater than the one before.
fn edges(mut sample: Vec<Value>, ranges: usize) -> Vec<Value> {
    if sample.len() < SAMPLE_MIN {
        return Vec::new();
    }
    sample.sort_unstable();
    let count = sample.len();
    let mut edges: Vec<Value> = (1..ranges)
        .map(|at| sample[at * count / ranges].clone())
        .collect();
    edges.dedup();
    edges
}

/// Reads the ranges `0..count` by `reading`, each with a turn and a channel of its own, as many at
/// once as there is room for in `slots` beside the one that the caller holds; sends their pieces
/// to `out` in order, and returns how many rows there were.
pub async fn join<F>(
    plan: &Plan,
    slots: &Semaphore,
    out: &PieceSender,
    stopped: impl Fn() -> Error,
    reading: impl Fn(usize, Turn, PieceSender) -> F,
) -> Result<u64, Error>
where
    F: Future<Output = Result<u64, Error>>,
{
    let (turns, turn) = watch::channel(0);
    let (queue, mut queued) = mpsc::unbounded_channel::<mpsc::Receiver<Piece>>();
    let forward = async {
        while let Some(mut pieces) = queued.recv().await {
            while let Some(piece) = pieces.recv().await {
                out.send(piece).await.map_err(|_| stopped())?;
            }
            turns.send_modify(|turn| *turn += 1);
        }
        Ok(())
    };
    let drive = async {
        let queue = queue;
        let mut now = turn.clone();
        let own = AtomicUsize::new(1);
        let mut readers = FuturesUnordered::new();
        let (mut next, mut rows) = (0, 0);
        loop {
            while next < plan.ranges.len() && next < *now.borrow_and_update() + plan.at_once {
                let Some(slot) = Slot::take(&own, slots) else {
                    break;
                };
                let (pieces, received) = mpsc::channel(plan.pieces);
                // The receiver is there as long as the whole reading is.
                let _ = queue.send(received);
                let turn = Turn::new(next, turn.clone());
                let read = reading(next, turn, pieces);
                readers.push(async move {
                    let read = read.await;
                    drop(slot);
                    read
                });
                next += 1;
            }
            if readers.is_empty() && next == plan.ranges.len() {
                return Ok(rows);
            }
            tokio::select! {
                Some(read) = readers.next() => rows += read?,
                _ = now.changed() => {}
            }
        }
    };
    tokio::try_join!(drive, forward).map(|(rows, ())| rows)
}

/// The right to use a connection: the caller's own, or one that nobody else needs now.
enum Slot<'s> {
    Own(&'s AtomicUsize),
    More(#[expect(dead_code, reason = "held until the range is read")] SemaphorePermit<'s>),
}

impl<'s> Slot<'s> {
    fn take(own: &'s AtomicUsize, slots: &'s Semaphore) -> Option<Slot<'s>> {
        if own.swap(0, Ordering::Relaxed) == 1 {
            return Some(Slot::Own(own));
        }
        slots.try_acquire().ok().map(Slot::More)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Slot::Own(own) = self {
            own.store(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::schema::{self, Column, KeyOrder, KeyOrigin, TableName, ValueKind};

    fn numbers(values: impl IntoIterator<Item = i128>) -> Vec<Value> {
        values.into_iter().map(Value::Number).collect()
    }

    #[test]
    fn edges_ascend_whatever_the_sample() {
        assert_eq!(edges(numbers(0..15), 4), []);
        assert_eq!(edges(numbers(0..100), 4), numbers([25, 50, 75]));
        assert_eq!(edges(numbers([7; 100]), 4), numbers([7]));
        let many = edges(numbers(0..20), 1000);
        assert_eq!(many, numbers(0..20));
    }

    #[test]
    fn ranges_meet_and_leave_no_gap() {
        let key = Key {
            expression: "k".into(),
            number: true,
            is_uuid: false,
        };
        assert!(key.conditions(&[]).is_empty());
        assert_eq!(key.conditions(&numbers([5])), ["k < '5'", "k >= '5'"]);
        assert_eq!(
            key.conditions(&numbers([-5, 9])),
            ["k < '-5'", "k >= '-5' AND k < '9'", "k >= '9'"]
        );
    }

    /// A table whose key is its one column.
    fn table(type_name: &str) -> Table {
        let column = Column {
            name: "k".into(),
            type_name: type_name.into(),
            kind: ValueKind::Text,
            nullable: false,
            default: None,
            collation: None,
            hidden: false,
            facts: Default::default(),
        };
        Table {
            name: TableName {
                schema: Some("s".into()),
                name: "t".into(),
            },
            columns: vec![column],
            generated: Vec::new(),
            key: Some(schema::Key {
                origin: KeyOrigin::Primary,
                columns: vec![(0, KeyOrder::Bytes)],
            }),
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: Default::default(),
        }
    }

    fn texts(edges: &[&str]) -> Vec<String> {
        edges.iter().map(|edge| (*edge).into()).collect()
    }

    #[test]
    fn bucket_compares_as_the_key_is_sorted() {
        assert_eq!(bucket(&table("integer"), &[]), None);
        assert_eq!(bucket(&table("date"), &texts(&["2026-01-01"])), None);
        assert_eq!(
            bucket(&table("integer"), &texts(&["-5", "9"])).unwrap(),
            "pg_catalog.width_bucket(\"k\"::int8, ARRAY[-5,9]::int8[])"
        );
        assert_eq!(
            bucket(&table("text"), &texts(&["it's"])).unwrap(),
            "pg_catalog.width_bucket((\"k\"::pg_catalog.text) COLLATE pg_catalog.\"C\", \
             ARRAY['it''s']::text[])"
        );
    }

    #[test]
    fn ranges_that_are_looked_up_are_those_that_are_counted() {
        let bounds = |type_name: &str, edges: &[&str], first, last| {
            let bounds = Key::of(&table(type_name)).unwrap();
            bounds.bounds(&texts(edges), first, last)
        };
        let pair = |low: &str, high: &str| Some((low.to_owned(), high.to_owned()));
        let (min, max) = (i64::MIN.to_string(), i64::MAX.to_string());
        assert_eq!(bounds("integer", &["-5", "9"], 1, 1), pair("-5", "8"));
        assert_eq!(bounds("integer", &["-5", "9"], 0, 0), pair(&min, "-6"));
        assert_eq!(bounds("integer", &["-5", "9"], 1, 2), pair("-5", &max));
        assert_eq!(bounds("integer", &["nine"], 1, 1), None);
        let (low, high) = ("a5".repeat(16), "ff".repeat(16));
        assert_eq!(bounds("uuid", &[&low], 1, 1), pair(&low, &high));
        let below = format!("{}a4", "a5".repeat(15));
        assert_eq!(bounds("uuid", &[&low], 0, 0), pair(&"0".repeat(32), &below));
    }

    #[test]
    fn neighbouring_ranges_are_looked_up_as_one() {
        let edges = texts(&["10", "20", "30"]);
        let sql = looked_up(&table("bigint"), &edges, &[0, 2, 3], &[]).unwrap();
        let (min, max) = (i64::MIN, i64::MAX);
        assert!(sql.contains(&format!("'{{{min},20}}'::int8[]")), "{sql}");
        assert!(sql.contains(&format!("'{{9,{max}}}'::int8[]")), "{sql}");
        assert!(!sql.contains("ctid"), "{sql}");
        assert!(sql.contains(" OFFSET 0)"), "{sql}");
        let sql = looked_up(&table("bigint"), &edges, &[1], &[0]).unwrap();
        assert!(sql.contains("SELECT ctid, \"k\" FROM ONLY"), "{sql}");
        assert_eq!(looked_up(&table("text"), &edges, &[1], &[]), None);
        assert_eq!(looked_up(&table("date"), &edges, &[1], &[]), None);
        assert_eq!(looked_up(&table("oid"), &edges, &[1], &[]), None);
    }

    #[test]
    fn plan_that_looks_at_every_row_for_each_range_is_known() {
        let looked_up = ["Nested Loop", "  ->  Index Only Scan using t_pkey on t"];
        let bound = "        Index Cond: ((k >= r.low) AND (k <= r.high))";
        let plan = |lines: &[&str]| looks_up(&texts(lines));
        assert!(plan(&[looked_up[0], looked_up[1], bound]));
        assert!(!plan(&looked_up));
        assert!(!plan(&[
            looked_up[1],
            "        Filter: ((k >= r.low) AND (k <= r.high))"
        ]));
        assert!(!plan(&["  ->  Seq Scan on t", bound]));
    }

    #[test]
    fn order_of_the_heap_is_told_from_no_order() {
        assert!(follows(&numbers(0..100)));
        assert!(follows(&numbers((0..100).map(|n| if n == 50 {
            0
        } else {
            n
        }))));
        assert!(!follows(&numbers((0..100).map(|n| n * 37 % 101))));
    }

    #[tokio::test]
    async fn ranges_come_out_in_order_however_they_are_read() {
        let plan = Plan {
            ranges: vec![String::new(); 40],
            pieces: 1,
            at_once: 3,
        };
        let slots = Semaphore::new(2);
        let (out, mut came) = mpsc::channel(1);
        let reading = |range: usize, _turn: Turn, pieces: PieceSender| async move {
            for piece in 0..range % 4 {
                // Later ranges are ready first.
                tokio::time::sleep(std::time::Duration::from_micros(300 - range as u64)).await;
                let bytes = vec![range as u8, piece as u8];
                let _ = pieces.send(Piece::Slice { column: 0, bytes }).await;
            }
            Ok((range % 4) as u64)
        };
        let stopped = || Error::Stopped { table: "t".into() };
        let collect = async {
            let mut seen = Vec::new();
            while let Some(Piece::Slice { bytes, .. }) = came.recv().await {
                seen.push((bytes[0], bytes[1]));
            }
            seen
        };
        let join = async {
            let out = out;
            join(&plan, &slots, &out, stopped, reading).await
        };
        let (joined, seen) = tokio::join!(join, collect);
        assert_eq!(joined.unwrap(), 60);
        assert_eq!(seen.len(), 60);
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(slots.available_permits(), 2);
    }

    #[tokio::test]
    async fn failure_of_one_range_or_of_the_receiver_ends_all() {
        let plan = Plan {
            ranges: vec![String::new(); 9],
            pieces: 1,
            at_once: 2,
        };
        let slots = Semaphore::new(1);
        let (out, came) = mpsc::channel(64);
        let stopped = || Error::Stopped { table: "t".into() };
        let failing = |range: usize, _turn: Turn, _pieces: PieceSender| async move {
            match range {
                4 => Err(Error::Contested {
                    database: "d".into(),
                }),
                _ => Ok(1),
            }
        };
        let failed = join(&plan, &slots, &out, stopped, failing).await;
        assert!(matches!(failed, Err(Error::Contested { .. })));
        drop(came);
        let sending = |_range: usize, _turn: Turn, pieces: PieceSender| async move {
            let bytes = vec![1];
            let sent = pieces.send(Piece::Slice { column: 0, bytes }).await;
            sent.map(|()| 1)
                .map_err(|_| Error::Stopped { table: "r".into() })
        };
        let failed = join(&plan, &slots, &out, stopped, sending).await;
        assert!(matches!(failed, Err(Error::Stopped { .. })));
        assert_eq!(slots.available_permits(), 1);
    }
}
