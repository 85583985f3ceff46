//! Schedules against a walk through every minute of the calendar.
//!
//! The walker knows nothing of cron fields, gaps or folds: it looks at the wall clock of a zone
//! minute by minute, and remembers how far that clock has been. Zones with the same changes of
//! the clocks in the years walked are walked once.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Datelike, Offset, TimeDelta, TimeZone, Timelike, Weekday};
use chrono_tz::{TZ_VARIANTS, Tz};
use rowvault::clock::Timestamp;
use rowvault::schedule::Schedule;

/// What a wall clock shows.
struct Wall {
    minute: u32,
    hour: u32,
    day: u32,
    month: u32,
    weekday: Weekday,
}

pub struct Case {
    /// The expression.
    pub text: &'static str,
    /// Whether a wall time is due, said without the words of cron.
    is_due: fn(&Wall) -> bool,
    /// Whether it is for every real hour.
    real: bool,
}

/// What is compared.
pub const CASES: &[Case] = &[
    Case {
        text: "30 2 * * *",
        is_due: |wall| wall.hour == 2 && wall.minute == 30,
        real: false,
    },
    Case {
        text: "*/20 0-3 * * *",
        is_due: |wall| wall.hour <= 3 && wall.minute % 20 == 0,
        real: false,
    },
    Case {
        text: "15 * * * *",
        is_due: |wall| wall.minute == 15,
        real: true,
    },
    Case {
        text: "0,30 * * * SUN",
        is_due: |wall| wall.minute % 30 == 0 && wall.weekday == Weekday::Sun,
        real: true,
    },
    Case {
        text: "0 0 1 * 1",
        is_due: |wall| {
            wall.hour + wall.minute == 0 && (wall.day == 1 || wall.weekday == Weekday::Mon)
        },
        real: false,
    },
    Case {
        text: "5 */2 */3 * 0-7",
        is_due: |wall| wall.minute == 5 && wall.hour % 2 == 0 && wall.day % 3 == 1,
        real: false,
    },
    Case {
        text: "59 23 29 2 *",
        is_due: |wall| wall.day == 29 && wall.month == 2 && wall.hour == 23 && wall.minute == 59,
        real: false,
    },
    Case {
        text: "0 0 * mar-apr,10 sat-sun",
        is_due: |wall| {
            let weekend = matches!(wall.weekday, Weekday::Sat | Weekday::Sun);
            wall.hour + wall.minute == 0 && weekend && matches!(wall.month, 3 | 4 | 10)
        },
        real: false,
    },
];

fn offset_minutes(zone: Tz, minute: i64) -> i64 {
    let utc = DateTime::from_timestamp(minute * 60, 0).unwrap();
    let offset = zone.offset_from_utc_datetime(&utc.naive_utc()).fix();
    i64::from(offset.local_minus_utc()) / 60
}

fn year_minute(year: i32) -> i64 {
    let start = chrono::Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
    start.timestamp() / 60
}

/// The offset of `zone` in each minute, as pieces: from which minute on, and how many.
fn pieces(zone: Tz, from: i64, until: i64) -> Vec<(i64, i64)> {
    let mut pieces: Vec<(i64, i64)> = Vec::new();
    // Changes of the clocks are hours apart and lie at whole quarters of an hour.
    for minute in (from..until).step_by(15) {
        let offset = offset_minutes(zone, minute);
        if pieces.last().is_none_or(|last| last.1 != offset) {
            pieces.push((minute, offset));
        }
    }
    pieces
}

fn wall(minute: i64) -> Wall {
    let time = (DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)).naive_utc();
    Wall {
        minute: time.minute(),
        hour: time.hour(),
        day: time.day(),
        month: time.month(),
        weekday: time.weekday(),
    }
}

/// For each minute of wall time, a bit for each case that is due.
fn due_bits(from: i64, until: i64) -> Vec<u16> {
    let day = 24 * 60;
    let bits = |minute| {
        let wall = wall(minute);
        let due = CASES.iter().enumerate();
        due.fold(0, |bits, (at, case)| {
            bits | u16::from((case.is_due)(&wall)) << at
        })
    };
    (from - day..until + day).map(bits).collect()
}

/// The minutes in which each case is due.
fn walk(pieces: &[(i64, i64)], due: &[u16], from: i64, until: i64) -> Vec<Vec<i64>> {
    let day = 24 * 60;
    let bits = |wall: i64| due[(wall - from + day) as usize];
    let mut found = vec![Vec::new(); CASES.len()];
    let mut piece = 0;
    // How far the wall clock has been.
    let mut furthest = from + pieces[0].1 - 1;
    for minute in from..until {
        while pieces.get(piece + 1).is_some_and(|next| next.0 <= minute) {
            piece += 1;
        }
        let shown = minute + pieces[piece].1;
        let passed = (furthest + 1..=shown).fold(0, |all, wall| all | bits(wall));
        let now = bits(shown);
        furthest = furthest.max(shown);
        if passed | now == 0 {
            continue;
        }
        for (at, case) in CASES.iter().enumerate() {
            let due = if case.real { now } else { passed };
            if due & 1 << at != 0 {
                found[at].push(minute);
            }
        }
    }
    found
}

/// The changes of the clocks of a zone in some years, with what is due on its wall clock.
pub struct Rules {
    /// A zone that has them.
    pub zone: Tz,
    /// The first minute.
    pub from: i64,
    /// The first minute behind.
    pub until: i64,
    pieces: Vec<(i64, i64)>,
    due: Arc<Vec<u16>>,
}

impl Rules {
    /// The minutes in which each case is due.
    pub fn walk(&self) -> Vec<Vec<i64>> {
        walk(&self.pieces, &self.due, self.from, self.until)
    }
}

/// Every set of rules that some zone has in these years.
pub fn rules(years: std::ops::Range<i32>) -> Vec<Rules> {
    let (from, until) = (year_minute(years.start), year_minute(years.end));
    let mut rules: BTreeMap<Vec<(i64, i64)>, Tz> = BTreeMap::new();
    for zone in TZ_VARIANTS {
        rules.entry(pieces(zone, from, until)).or_insert(zone);
    }
    let due = Arc::new(due_bits(from, until));
    let rules = rules.into_iter().map(|(pieces, zone)| Rules {
        zone,
        from,
        until,
        pieces,
        due: due.clone(),
    });
    rules.collect()
}

/// Compares all zones through the years; gives how many sets of rules and runs there were.
fn compare(years: std::ops::Range<i32>) -> (usize, usize) {
    let rules = rules(years);
    let mut runs = 0;
    for one in &rules {
        let (from, until) = (one.from, one.until);
        for (case, expected) in CASES.iter().zip(one.walk()) {
            let schedule = Schedule::read(case.text, one.zone).unwrap();
            let mut at = Timestamp::from_seconds(from * 60 - 1);
            for minute in &expected {
                let next = schedule.next(at).map(Timestamp::seconds);
                assert_eq!(next, Some(minute * 60), "{schedule} after {}", at.rfc3339());
                at = Timestamp::from_seconds(minute * 60);
            }
            let behind = schedule.next(at).map(Timestamp::seconds);
            assert!(behind.is_none_or(|next| next >= until * 60), "{schedule}");
            runs += expected.len();
        }
    }
    (rules.len(), runs)
}

#[test]
fn schedules_agree_with_a_walk_through_every_minute_of_a_year() {
    let (rules, runs) = compare(2024..2025);
    assert!(
        rules > 50 && runs > 500_000,
        "{rules} sets of rules, {runs} runs"
    );
}

#[test]
#[ignore = "a minute: tests/long.sh schedule"]
fn long_schedule_all_zones_of_twelve_years() {
    let (rules, runs) = compare(2024..2036);
    println!(
        "{rules} sets of rules of {} zones, {runs} runs",
        TZ_VARIANTS.len()
    );
    assert!(rules > 60, "{rules}");
}
