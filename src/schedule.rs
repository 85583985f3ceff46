//! Schedules: when a job is due, from a cron expression in a zone of the calendar.
//!
//! The expression is read as crontab users expect and walked by the `cron` crate on a line of wall
//! time without zone; each wall time is then mapped to instants here. One that a change of the
//! clocks leaves out stands for the first instant after the gap, one that it repeats for the first
//! of the two; a job of every hour runs at each real hour instead. Invariant: what
//! [`Schedule::next`] gives is later than what it was asked for, and a schedule that never comes
//! due is refused when it is read.

mod expression;

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use expression::Expression;

/// So much of an expression is shown.
const TEXT_SHOWN: usize = 256;
/// No zone repeats more wall time than this at once.
const FOLD_HOURS_MAX: i64 = 3;
/// No zone is further from UTC than this.
const OFFSET_HOURS_MAX: i64 = 16;
/// Where the search for a first run begins; the calendar of the crate ends in 2100.
const BEGINNING_SECONDS: i64 = 946_684_800;

/// Why a schedule was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("the schedule {text:?} cannot be meant: {what}")]
    Unreadable {
        /// The expression.
        text: String,
        /// What is wrong with it.
        what: String,
        /// What to write instead.
        hint: String,
    },
    /// It can be read, and no day is like that.
    #[error("the schedule {text:?} never comes due")]
    Never {
        /// The expression.
        text: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Unreadable { hint, .. } => hint.clone(),
            Error::Never { .. } => "no month of it has such a day; choose another".into(),
        })
    }
}

/// When a job is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    zone: Tz,
    /// A wall time that is on one of these lines is due.
    lines: Vec<cron::Schedule>,
    every_hour: bool,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

impl Schedule {
    /// Reads an expression: five fields, six with seconds first, or `@daily` and the like.
    ///
    /// # Errors
    /// [`Error`]: it cannot be read, or never comes due.
    pub fn read(text: &str, zone: Tz) -> Result<Schedule, Error> {
        let expression = Expression::read(text).map_err(|(what, hint)| Error::Unreadable {
            text: text.chars().take(TEXT_SHOWN).collect(),
            what,
            hint,
        })?;
        let never = || Error::Never { text: text.into() };
        let lines = expression.lines().into_iter().map(|line| line.parse());
        let schedule = Schedule {
            text: text.trim().into(),
            zone,
            lines: lines.collect::<Result<_, _>>().map_err(|_| never())?,
            every_hour: expression.is_of_every_hour(),
        };
        let beginning = Timestamp::from_seconds(BEGINNING_SECONDS);
        schedule.next(beginning).ok_or_else(never)?;
        Ok(schedule)
    }

    /// The expression as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first instant later than `after` at which it is due; none after the year 2099.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let from = DateTime::from_timestamp(after.seconds(), 0)?;
        let mut local = self.wall(from);
        if self.may_repeat(from) {
            local -= TimeDelta::hours(FOLD_HOURS_MAX);
        }
        let mut best: Option<i64> = None;
        while let Some(wall) = self.wall_after(local) {
            let (first, second) = self.instants(wall);
            // Later wall times have later first instants, so that nothing behind can be better.
            if best.is_some_and(|best| first.is_some_and(|first| first >= best)) {
                break;
            }
            let later = [first, second].into_iter().flatten();
            let later = later.filter(|one| *one > after.seconds());
            best = later.chain(best).min();
            local = wall;
            if best.is_some() && best == first {
                break;
            }
        }
        best.map(Timestamp::from_seconds)
    }

    /// The next `count` instants after `after`.
    pub fn upcoming(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |last: &Timestamp| self.next(*last);
        let all = std::iter::successors(self.next(after), next);
        all.take(count).collect()
    }

    /// The last instant at which it was due that is later than `after` and not later than `until`.
    pub fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let due = |seconds: i64| {
            let next = self.next(Timestamp::from_seconds(seconds));
            next.filter(|next| *next <= until)
        };
        let (mut low, mut high) = (after.seconds(), until.seconds());
        due(low)?;
        // Of `low` it is known that something is due behind it, of `high` that nothing is.
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            match due(middle) {
                Some(_) => low = middle,
                None => high = middle,
            }
        }
        due(low)
    }

    /// `at` in the schedule's zone, as people write it.
    pub fn local(&self, at: Timestamp) -> String {
        match at.utc() {
            Some(utc) => utc
                .with_timezone(&self.zone)
                .format("%Y-%m-%d %H:%M:%S %Z")
                .to_string(),
            None => at.rfc3339(),
        }
    }

    fn wall(&self, at: DateTime<Utc>) -> NaiveDateTime {
        self.zone.from_utc_datetime(&at.naive_utc()).naive_local()
    }

    /// Whether wall time near `at` may come twice.
    fn may_repeat(&self, at: DateTime<Utc>) -> bool {
        let offset = |at: DateTime<Utc>| self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let margin = TimeDelta::hours(FOLD_HOURS_MAX);
        let here = offset(at);
        offset(at - margin) != here || offset(at + margin) != here
    }

    fn wall_after(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let dressed = Utc.from_utc_datetime(&local);
        let next = |line: &cron::Schedule| line.after(&dressed).next();
        let next = self.lines.iter().filter_map(next).min();
        next.map(|next| next.naive_utc())
    }

    /// The instants that a wall time stands for, in seconds; the second one where it comes twice
    /// and both count.
    fn instants(&self, wall: NaiveDateTime) -> (Option<i64>, Option<i64>) {
        match self.zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(one) => (Some(one.timestamp()), None),
            MappedLocalTime::Ambiguous(a, b) => {
                let (a, b) = (a.timestamp(), b.timestamp());
                (Some(a.min(b)), self.every_hour.then_some(a.max(b)))
            }
            MappedLocalTime::None if self.every_hour => (None, None),
            MappedLocalTime::None => (Some(self.end_of_gap(wall)), None),
        }
    }

    /// The first instant whose wall time is later than `wall`, which does not exist.
    fn end_of_gap(&self, wall: NaiveDateTime) -> i64 {
        let middle = wall.and_utc().timestamp();
        let mut low = middle - OFFSET_HOURS_MAX * 3600;
        let mut high = middle + OFFSET_HOURS_MAX * 3600;
        while low + 1 < high {
            let between = low + (high - low) / 2;
            let at = DateTime::from_timestamp(between, 0);
            match at.is_some_and(|at| self.wall(at) > wall) {
                true => high = between,
                false => low = between,
            }
        }
        high
    }
}

/// How long after `planned` the job `name` begins, up to `most`: always the same for the same run,
/// so that a restart neither repeats it nor puts it off again.
pub fn jitter(name: &str, planned: Timestamp, most: Duration) -> Duration {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&planned.0.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut drawn = [0; 8];
    hasher.finalize_xof().fill(&mut drawn);
    let most = most.as_millis() as u64;
    Duration::from_millis(u64::from_le_bytes(drawn) % most.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let time = DateTime::parse_from_rfc3339(text).unwrap();
        Timestamp(time.timestamp_micros())
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::read(text, Tz::Europe__Warsaw).unwrap()
    }

    #[track_caller]
    fn runs(text: &str, after: &str, expected: &[&str]) {
        let schedule = schedule(text);
        let found = schedule.upcoming(at(after), expected.len());
        let found: Vec<String> = found.into_iter().map(Timestamp::rfc3339).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn time_in_a_gap_runs_at_its_end_and_one_in_a_fold_runs_once() {
        let spring = "2027-03-27T12:00:00Z";
        runs(
            "30 2 * * *",
            spring,
            &["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"],
        );
        runs(
            "*/20 2 * * *",
            spring,
            &["2027-03-28T01:00:00Z", "2027-03-29T00:00:00Z"],
        );
        let autumn = "2027-10-30T12:00:00Z";
        runs(
            "30 2 * * *",
            autumn,
            &["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"],
        );
    }

    #[test]
    fn job_of_every_hour_runs_each_real_hour() {
        runs(
            "30 * * * *",
            "2027-03-27T23:45:00Z",
            &[
                "2027-03-28T00:30:00Z",
                "2027-03-28T01:30:00Z",
                "2027-03-28T02:30:00Z",
            ],
        );
        runs(
            "0,30 * * * *",
            "2027-10-30T23:45:00Z",
            &[
                "2027-10-31T00:00:00Z",
                "2027-10-31T00:30:00Z",
                "2027-10-31T01:00:00Z",
                "2027-10-31T01:30:00Z",
                "2027-10-31T02:00:00Z",
            ],
        );
    }

    #[test]
    fn asked_within_the_repeated_hour_it_gives_nothing_that_has_passed() {
        runs(
            "30 2 * * *",
            "2027-10-31T01:10:00Z",
            &["2027-11-01T01:30:00Z"],
        );
        runs(
            "* * 2 * * *",
            "2027-10-31T01:10:00Z",
            &["2027-11-01T01:00:00Z"],
        );
    }

    #[test]
    fn last_run_before_an_instant_is_found_however_long_ago() {
        let every_second = schedule("* * * * * *");
        let until = at("2027-06-01T10:00:00Z");
        assert_eq!(every_second.last(Timestamp(0), until), Some(until));
        let yearly = schedule("@yearly");
        let found = yearly.last(at("2010-03-01T00:00:00Z"), until);
        assert_eq!(found, Some(at("2026-12-31T23:00:00Z")));
        assert_eq!(yearly.last(found.unwrap(), until), None);
    }

    #[test]
    fn schedule_that_never_comes_is_refused() {
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let error = Schedule::read(text, Tz::UTC).unwrap_err();
            assert!(matches!(error, Error::Never { .. }), "{text}: {error}");
        }
        schedule("0 0 29 2 *");
        schedule("0 0 30 2 MON");
    }

    #[test]
    fn jitter_is_the_same_for_the_same_run_and_within_its_bound() {
        let most = Duration::from_secs(600);
        let one = |seconds| jitter("crm", Timestamp::from_seconds(seconds), most);
        assert_eq!(one(1), one(1));
        let all: std::collections::BTreeSet<Duration> = (0..100).map(one).collect();
        assert!(all.len() > 90 && all.iter().all(|one| *one <= most));
        assert_eq!(jitter("crm", Timestamp(0), Duration::ZERO), Duration::ZERO);
    }
}
