//! Is what changed since the last snapshot like what changed before?
//!
//! Pure statistics over counts of rows, by table and weekday: median and spread of what was, an
//! allowance for growth, and a floor below which nothing is worth waking anybody. New rows are
//! never unusual, so that an import is not; lost and overwritten ones are. Invariant: the same
//! counts give the same answer, and without history only the floors decide.

use std::collections::BTreeMap;

use chrono::Datelike;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How many snapshots of the past are looked at.
pub const LOOKED_AT: usize = 30;
/// So few of one weekday say nothing: all days are then taken together.
const WEEKDAY_MIN: usize = 4;
/// What is so many spreads above the median is unusual.
const SPREADS: f64 = 6.0;
/// Makes the median deviation comparable to a standard deviation.
const DEVIATION: f64 = 1.4826;
/// What is usual may grow so many times at once.
const GROWTH: f64 = 3.0;
/// Fewer bytes than these are never found incompressible.
const BYTES_FLOOR: u64 = 1 << 20;

/// How much may be lost or overwritten whatever was usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// So many rows.
    pub rows: u64,
    /// So many percent of a table.
    pub percent: f64,
}

impl Default for Floor {
    fn default() -> Self {
        Floor {
            rows: 100,
            percent: 10.0,
        }
    }
}

/// What one snapshot says of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Rows in it.
    pub rows: u64,
    /// Rows put since the snapshot before.
    pub put: u64,
    /// Rows deleted since then.
    pub deleted: u64,
    /// Whether all of it was read anew, so that `put` counts what did not change too.
    pub is_full: bool,
    /// Bytes stored for what was put.
    pub bytes_stored: u64,
}

/// What one snapshot says of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// When it was taken.
    pub at: Timestamp,
    /// By table.
    pub tables: BTreeMap<String, Count>,
}

/// What is unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Rows vanished.
    Deleted,
    /// Rows that were there have other values.
    Overwritten,
    /// What was stored could be compressed far less than before.
    Incompressible,
}

/// Something unusual.
#[derive(Clone, Debug, PartialEq)]
pub struct Unusual {
    /// The table.
    pub table: String,
    /// What.
    pub what: What,
    /// How many rows; bytes a row for what is incompressible.
    pub count: u64,
    /// How many would have been usual at most.
    pub usual: u64,
    /// How many rows there were.
    pub of: u64,
}

impl std::fmt::Display for Unusual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Unusual {
            table,
            count,
            usual,
            of,
            ..
        } = self;
        match self.what {
            What::Deleted => write!(
                f,
                "{count} of {of} rows of {table} were deleted (usual: up to {usual})"
            ),
            What::Overwritten => write!(
                f,
                "{count} of {of} rows of {table} were overwritten (usual: up to {usual})"
            ),
            What::Incompressible => write!(
                f,
                "what changed in {table} takes {count} bytes a row (usual: up to {usual}), as if it were encrypted"
            ),
        }
    }
}

/// What is unusual in `today`, the first of `past` being the snapshot before it.
pub fn judge(today: &Day, past: &[Day], zone: Tz, floor: Floor) -> Vec<Unusual> {
    let Some(before) = past.first() else {
        return Vec::new();
    };
    let past = &past[..past.len().min(LOOKED_AT)];
    let mut found = Vec::new();
    for (table, was) in &before.tables {
        let now = today.tables.get(table).copied().unwrap_or_default();
        let days = days(table, past, today.at, zone);
        let steps: Vec<Step> = days.iter().map(|(count, was)| step(*count, *was)).collect();
        let step = step(now, *was);
        let least = (floor.percent / 100.0 * was.rows as f64).max(floor.rows as f64);
        for (what, of) in [
            (What::Deleted, Step::deleted as fn(&Step) -> Option<u64>),
            (What::Overwritten, Step::overwritten),
        ] {
            let usual = limit(steps.iter().filter_map(of)).max(least) as u64;
            let count = of(&step).filter(|count| *count > usual);
            found.extend(count.map(|count| Unusual {
                table: table.clone(),
                what,
                count,
                usual,
                of: was.rows,
            }));
        }
        let densities: Vec<u64> = days
            .iter()
            .filter_map(|(count, _)| density(count))
            .collect();
        if densities.len() >= WEEKDAY_MIN
            && now.bytes_stored > BYTES_FLOOR
            && let Some(count) = density(&now)
            && let usual = limit(densities.into_iter()) as u64
            && count > usual
        {
            found.push(Unusual {
                table: table.clone(),
                what: What::Incompressible,
                count,
                usual,
                of: was.rows,
            });
        }
    }
    found
}

/// What happened to a table between two snapshots.
struct Step {
    deleted: u64,
    overwritten: Option<u64>,
}

impl Step {
    fn deleted(&self) -> Option<u64> {
        Some(self.deleted)
    }

    fn overwritten(&self) -> Option<u64> {
        self.overwritten
    }
}

fn step(now: Count, was: Count) -> Step {
    // A table that was read anew, or is gone, counts nothing as deleted; its rows do.
    let deleted = now.deleted.max(was.rows.saturating_sub(now.rows));
    let inserted = (now.rows + deleted).saturating_sub(was.rows);
    Step {
        deleted,
        overwritten: (!now.is_full).then(|| now.put.saturating_sub(inserted)),
    }
}

/// Bytes stored for each row that was put.
fn density(count: &Count) -> Option<u64> {
    (count.put > 0 && !count.is_full).then(|| count.bytes_stored / count.put)
}

/// Each snapshot of the past with the one before it, as far as they have `table`: those of the
/// same weekday, where there are enough.
fn days(table: &str, past: &[Day], at: Timestamp, zone: Tz) -> Vec<(Count, Count)> {
    let weekday = |at: Timestamp| at.utc().map(|utc| utc.with_timezone(&zone).weekday());
    let pairs = past.windows(2).filter_map(|pair| {
        let (now, was) = (pair[0].tables.get(table)?, pair[1].tables.get(table)?);
        Some((pair[0].at, (*now, *was)))
    });
    let all: Vec<(Timestamp, (Count, Count))> = pairs.collect();
    let same: Vec<(Count, Count)> = all
        .iter()
        .filter(|(day, _)| weekday(*day) == weekday(at))
        .map(|(_, counts)| *counts)
        .collect();
    match same.len() >= WEEKDAY_MIN {
        true => same,
        false => all.into_iter().map(|(_, counts)| counts).collect(),
    }
}

/// The most that is usual: the median with its growth, and some spreads above.
fn limit(counts: impl Iterator<Item = u64>) -> f64 {
    let counts: Vec<f64> = counts.map(|count| count as f64).collect();
    let middle = median(counts.clone());
    let spread = median(counts.iter().map(|count| (count - middle).abs()).collect());
    middle * GROWTH + SPREADS * DEVIATION * spread
}

fn median(mut counts: Vec<f64>) -> f64 {
    counts.sort_by(f64::total_cmp);
    match counts.len() {
        0 => 0.0,
        count if count % 2 == 1 => counts[count / 2],
        count => f64::midpoint(counts[count / 2 - 1], counts[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn day(number: i64, rows: u64, put: u64, deleted: u64) -> Day {
        let count = Count {
            rows,
            put,
            deleted,
            is_full: false,
            bytes_stored: put * 40,
        };
        Day {
            at: Timestamp::from_seconds(number * DAY),
            tables: [("contacts".to_owned(), count)].into(),
        }
    }

    /// Thirty days of 20,000 contacts, of which a few change each day; the newest first.
    fn past() -> Vec<Day> {
        let days = (0..30).rev();
        days.map(|number| day(number, 20_000, 150 + number as u64 % 7 * 10, 5))
            .collect()
    }

    fn found(today: &Day, past: &[Day]) -> Vec<What> {
        let found = judge(today, past, Tz::Europe__Warsaw, Floor::default());
        found.iter().map(|one| one.what).collect()
    }

    #[test]
    fn quarter_that_is_deleted_is_unusual_and_a_few_are_not() {
        assert_eq!(found(&day(30, 15_000, 0, 5_000), &past()), [What::Deleted]);
        assert_eq!(found(&day(30, 19_900, 0, 100), &past()), []);
        let told = judge(
            &day(30, 15_000, 0, 5_000),
            &past(),
            Tz::UTC,
            Floor::default(),
        );
        let told = told[0].to_string();
        assert!(
            told.starts_with("5000 of 20000 rows of contacts were deleted"),
            "{told}"
        );
    }

    #[test]
    fn import_is_not_unusual_and_an_overwrite_of_as_many_rows_is() {
        assert_eq!(found(&day(30, 22_000, 2_150, 0), &past()), []);
        assert_eq!(found(&day(30, 60_000, 40_000, 0), &past()), []);
        assert_eq!(
            found(&day(30, 20_000, 4_000, 0), &past()),
            [What::Overwritten]
        );
    }

    #[test]
    fn table_that_is_gone_or_read_anew_smaller_is_a_deletion() {
        let gone = Day {
            tables: BTreeMap::new(),
            ..day(30, 0, 0, 0)
        };
        assert_eq!(found(&gone, &past()), [What::Deleted]);
        let mut anew = day(30, 12_000, 12_000, 0);
        for count in anew.tables.values_mut() {
            count.is_full = true;
        }
        assert_eq!(found(&anew, &past()), [What::Deleted]);
    }

    #[test]
    fn what_happens_every_monday_is_usual_on_a_monday_alone() {
        let mut past: Vec<Day> = (0..30)
            .rev()
            .map(|number| day(number, 20_000, 100, 5))
            .collect();
        // The first day of 1970 is a Thursday.
        for day in past
            .iter_mut()
            .filter(|day| day.at.seconds() / DAY % 7 == 4)
        {
            day.tables.get_mut("contacts").unwrap().deleted = 3_000;
        }
        let (monday, tuesday) = (day(32, 20_000, 0, 3_100), day(33, 20_000, 0, 3_100));
        assert_eq!(found(&monday, &past), []);
        assert_eq!(found(&tuesday, &past), [What::Deleted]);
    }

    #[test]
    fn rows_that_cannot_be_compressed_any_more_are_unusual() {
        let mut today = day(30, 20_000, 1_500, 0);
        today.tables.get_mut("contacts").unwrap().bytes_stored = 1_500 * 2_000;
        assert_eq!(found(&today, &past()), [What::Incompressible]);
    }

    #[test]
    fn without_a_past_the_floor_decides() {
        let first = [day(0, 20_000, 20_000, 0)];
        assert_eq!(found(&day(1, 20_000, 900, 0), &first), []);
        assert_eq!(found(&day(1, 15_000, 0, 5_000), &first), [What::Deleted]);
        assert_eq!(found(&day(1, 0, 0, 0), &[]), []);
    }
}
