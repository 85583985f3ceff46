//! Retention: which snapshots of a source are kept, and why.
//!
//! A pure function from what there is and a policy to a list of reasons for each snapshot; a
//! snapshot without a reason may be forgotten. Days, weeks, months and years are those of the
//! source's own zone. Invariant: the newest snapshot and the newest one that is known to be whole
//! always have a reason.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, Timelike};
use chrono_tz::Tz;

use crate::clock::Timestamp;
use crate::id::SnapshotId;
use crate::planted;

/// What is to be kept; zero and empty keep nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// The last one of each of the newest so many hours that have one.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week, which begins on Monday (ISO 8601).
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
    /// All that are younger than the newest one by no more than this.
    pub within: Option<Duration>,
    /// All that have one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// Whether it would keep nothing of its own.
    pub fn is_empty(&self) -> bool {
        *self == Policy::default()
    }

    fn rules(&self) -> [(Rule, u32); 6] {
        [
            (Rule::Last, self.last),
            (Rule::Hourly, self.hourly),
            (Rule::Daily, self.daily),
            (Rule::Weekly, self.weekly),
            (Rule::Monthly, self.monthly),
            (Rule::Yearly, self.yearly),
        ]
    }
}

/// A rule that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One after the other.
    Last,
    /// By the hour.
    Hourly,
    /// By the day.
    Daily,
    /// By the week.
    Weekly,
    /// By the month.
    Monthly,
    /// By the year.
    Yearly,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Rule::Last => "last",
            Rule::Hourly => "hourly",
            Rule::Daily => "daily",
            Rule::Weekly => "weekly",
            Rule::Monthly => "monthly",
            Rule::Yearly => "yearly",
        }
    }

    /// The period that `at` belongs to. An hour is a real one, so that the hour which a change of
    /// the clocks repeats counts twice.
    fn period(self, at: Timestamp, zone: Tz) -> (i64, i64) {
        let Some(utc) = at.utc() else {
            return (at.0, 0);
        };
        let zone = match planted::is("fixed UTC offset for a zone") {
            true => Tz::Etc__GMTMinus1,
            false => zone,
        };
        let local: DateTime<Tz> = utc.with_timezone(&zone);
        let year = i64::from(local.year());
        match self {
            Rule::Last => (at.0, 0),
            Rule::Hourly => {
                let into = i64::from(local.minute()) * 60 + i64::from(local.second());
                (at.seconds() - into, 0)
            }
            Rule::Daily => (year, i64::from(local.ordinal())),
            Rule::Weekly => {
                let week = local.iso_week();
                (i64::from(week.year()), i64::from(week.week()))
            }
            Rule::Monthly => (year, i64::from(local.month())),
            Rule::Yearly => (year, 0),
        }
    }
}

/// Why a snapshot is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A rule counts it: its place in the count, from 1, and how far the rule counts.
    Counted(Rule, u32, u32),
    /// It is young enough.
    Within,
    /// It has this tag.
    Tag(String),
    /// It is pinned, for this reason.
    Pinned(String),
    /// It is the newest one.
    Newest,
    /// It is the newest one that was found whole.
    NewestVerified,
    /// Its time is in doubt: the storage and the host that took it do not agree.
    TimeInDoubt,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Counted(rule, place, of) => write!(f, "{} {place} of {of}", rule.name()),
            Kept::Within => f.write_str("within the time to keep all"),
            Kept::Tag(tag) => write!(f, "tag {tag}"),
            Kept::Pinned(why) if why.is_empty() => f.write_str("pinned"),
            Kept::Pinned(why) => write!(f, "pinned: {why}"),
            Kept::Newest => f.write_str("newest"),
            Kept::NewestVerified => f.write_str("newest that was verified"),
            Kept::TimeInDoubt => f.write_str("its time is in doubt"),
        }
    }
}

/// What is known of the time of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dated {
    /// It is of this time.
    At(Timestamp),
    /// This is somebody's word that another contradicts; it sorts here and is always kept.
    Doubtful(Timestamp),
}

impl Dated {
    /// The time to sort by.
    pub fn time(self) -> Timestamp {
        match self {
            Dated::At(time) | Dated::Doubtful(time) => time,
        }
    }
}

/// A living snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: SnapshotId,
    /// When it was stored.
    pub at: Dated,
    /// Its tags.
    pub tags: Vec<String>,
    /// Why it is pinned; none where it is not.
    pub pinned: Option<String>,
    /// Whether it was ever found whole.
    pub verified: bool,
}

/// Reasons to keep each of `candidates`, in their order; those without any may be forgotten. They
/// come oldest first, as the ledger has them, which decides where two have the same time.
pub fn judge(candidates: &[Candidate], policy: &Policy, zone: Tz) -> Vec<Vec<Kept>> {
    let mut reasons: Vec<Vec<Kept>> = vec![Vec::new(); candidates.len()];
    let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
    newest_first.sort_by_key(|at| std::cmp::Reverse((candidates[*at].at.time(), *at)));
    let sure: Vec<usize> = newest_first
        .iter()
        .copied()
        .filter(|at| matches!(candidates[*at].at, Dated::At(_)))
        .collect();
    for (rule, count) in policy.rules() {
        for (place, at) in last_of_each(candidates, &sure, rule, zone)
            .into_iter()
            .take(count as usize)
            .enumerate()
        {
            reasons[at].push(Kept::Counted(rule, place as u32 + 1, count));
        }
    }
    for (one, reasons) in candidates.iter().zip(&mut reasons) {
        if matches!(one.at, Dated::Doubtful(_)) {
            reasons.push(Kept::TimeInDoubt);
        }
        let tag = one.tags.iter().find(|tag| policy.tags.contains(tag));
        reasons.extend(tag.cloned().map(Kept::Tag));
        reasons.extend(one.pinned.clone().map(Kept::Pinned));
    }
    if let (Some(within), Some(newest)) = (policy.within, sure.first()) {
        let newest = candidates[*newest].at.time();
        for at in &sure {
            if newest.since(candidates[*at].at.time()) <= within {
                reasons[*at].push(Kept::Within);
            }
        }
    }
    if let Some(newest) = newest_first.first() {
        reasons[*newest].push(Kept::Newest);
    }
    // A doubtful time must not make an older snapshot the newest.
    if let Some(newest) = sure.first()
        && Some(newest) != newest_first.first()
    {
        reasons[*newest].push(Kept::Newest);
    }
    if let Some(whole) = newest_first.iter().find(|at| candidates[**at].verified) {
        reasons[*whole].push(Kept::NewestVerified);
    }
    reasons
}

/// The last snapshot of each period, newest first.
fn last_of_each(
    candidates: &[Candidate],
    newest_first: &[usize],
    rule: Rule,
    zone: Tz,
) -> Vec<usize> {
    let mut last = None;
    let mut found = Vec::new();
    for at in newest_first {
        let period = rule.period(candidates[*at].at.time(), zone);
        if rule == Rule::Last || last != Some(period) {
            found.push(*at);
        }
        last = Some(period);
    }
    found
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveDateTime, TimeZone};
    use chrono_tz::Europe::Warsaw;

    use super::*;
    use crate::random::SeededRandom;

    fn at(local: &str, zone: Tz) -> Timestamp {
        let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M").unwrap();
        let instant = zone.from_local_datetime(&local).earliest().unwrap();
        Timestamp(instant.timestamp_micros())
    }

    fn one(number: u8, time: Timestamp) -> Candidate {
        Candidate {
            id: SnapshotId([number; 16]),
            at: Dated::At(time),
            tags: Vec::new(),
            pinned: None,
            verified: false,
        }
    }

    fn series(times: &[&str]) -> Vec<Candidate> {
        let numbered = times.iter().enumerate();
        numbered
            .map(|(number, time)| one(number as u8, at(time, Warsaw)))
            .collect()
    }

    fn kept(candidates: &[Candidate], policy: &Policy) -> Vec<usize> {
        let reasons = judge(candidates, policy, Warsaw);
        (0..reasons.len())
            .filter(|at| !reasons[*at].is_empty())
            .collect()
    }

    /// An S3 server tells times by the second, so two quick snapshots have the same one. The draw
    /// of their ids decided then which was the newest, and the other was forgotten.
    #[test]
    fn of_two_with_the_same_time_the_later_entry_is_the_newest() {
        let time = at("2026-11-20 10:00", Warsaw);
        let policy = Policy {
            last: 1,
            ..Policy::default()
        };
        for (first, second) in [(1, 2), (2, 1)] {
            let candidates = [one(first, time), one(second, time)];
            assert_eq!(kept(&candidates, &policy), [1]);
        }
    }

    #[test]
    fn last_of_each_day_is_kept_by_the_days_of_the_source() {
        let policy = Policy {
            daily: 2,
            ..Policy::default()
        };
        // 23:30 in UTC is already the next day in Warsaw.
        let snapshots = series(&[
            "2026-11-18 12:00",
            "2026-11-19 00:30",
            "2026-11-19 23:30",
            "2026-11-20 00:30",
        ]);
        assert_eq!(kept(&snapshots, &policy), [2, 3]);
    }

    #[test]
    fn days_of_a_source_move_with_its_summer_time() {
        let policy = Policy {
            daily: 2,
            ..Policy::default()
        };
        // 00:30 in summer is still the day before by the clock of winter.
        let snapshots = series(&["2026-07-01 12:00", "2026-07-02 00:30", "2026-07-02 23:50"]);
        assert_eq!(kept(&snapshots, &policy), [0, 2]);
        let snapshots = series(&["2026-07-01 23:30", "2026-07-02 00:30", "2026-07-03 00:30"]);
        assert_eq!(kept(&snapshots, &policy), [1, 2]);
    }

    #[test]
    fn weeks_months_and_years_keep_their_last() {
        let times = [
            "2024-12-29 03:00",
            "2024-12-30 03:00",
            "2025-01-05 03:00",
            "2025-01-31 03:00",
            "2025-02-01 03:00",
        ];
        let snapshots = series(&times);
        let weekly = Policy {
            weekly: 3,
            ..Policy::default()
        };
        // 30 December belongs to the first week of 2025, as 5 January does; 31 January and
        // 1 February share one.
        assert_eq!(kept(&snapshots, &weekly), [0, 2, 4]);
        let monthly = Policy {
            monthly: 2,
            ..Policy::default()
        };
        assert_eq!(kept(&snapshots, &monthly), [3, 4]);
        let yearly = Policy {
            yearly: 9,
            ..Policy::default()
        };
        assert_eq!(kept(&snapshots, &yearly), [1, 4]);
    }

    #[test]
    fn the_hour_that_autumn_repeats_counts_twice() {
        let first = at("2026-10-25 02:30", Warsaw);
        let hour = Duration::from_secs(3600);
        let snapshots = [
            one(0, first),
            one(1, first.plus(hour)),
            one(2, first.plus(hour * 2)),
        ];
        let policy = Policy {
            hourly: 3,
            ..Policy::default()
        };
        assert_eq!(kept(&snapshots, &policy), [0, 1, 2]);
    }

    #[test]
    fn newest_and_newest_verified_are_kept_whatever_the_policy() {
        let mut snapshots = series(&["2026-11-17 03:00", "2026-11-18 03:00", "2026-11-19 03:00"]);
        assert_eq!(kept(&snapshots, &Policy::default()), [2]);
        snapshots[0].verified = true;
        assert_eq!(kept(&snapshots, &Policy::default()), [0, 2]);
    }

    #[test]
    fn a_doubtful_time_neither_pushes_others_out_nor_goes() {
        let mut snapshots = series(&["2026-11-17 03:00", "2026-11-18 03:00", "2026-11-18 23:00"]);
        snapshots[2].at = Dated::Doubtful(snapshots[2].at.time());
        let policy = Policy {
            daily: 2,
            ..Policy::default()
        };
        assert_eq!(kept(&snapshots, &policy), [0, 1, 2]);
        assert!(judge(&snapshots, &policy, Warsaw)[1].contains(&Kept::Newest));
    }

    #[test]
    fn tags_pins_and_a_span_keep() {
        let mut snapshots = series(&[
            "2026-11-01 03:00",
            "2026-11-02 03:00",
            "2026-11-18 03:00",
            "2026-11-19 03:00",
        ]);
        snapshots[0].tags.push("audit".into());
        snapshots[1].pinned = Some("court".into());
        let policy = Policy {
            within: Some(Duration::from_secs(24 * 3600)),
            tags: vec!["audit".into()],
            ..Policy::default()
        };
        assert_eq!(kept(&snapshots, &policy), [0, 1, 2, 3]);
    }

    /// Forgetting today what is not kept today never loses what tomorrow's run would have kept.
    #[test]
    fn forgetting_every_day_keeps_what_forgetting_once_keeps() {
        let random = SeededRandom::new(5);
        let policy = Policy {
            daily: 3,
            weekly: 2,
            monthly: 2,
            ..Policy::default()
        };
        let mut all = Vec::new();
        let mut daily = Vec::new();
        let mut time = at("2026-01-01 00:00", Warsaw);
        for number in 0..150 {
            time = time.plus(Duration::from_secs(3600 + random.below(40 * 3600)));
            all.push(one(number, time));
            daily.push(one(number, time));
            let reasons = judge(&daily, &policy, Warsaw);
            let mut reasons = reasons.into_iter();
            daily.retain(|_| reasons.next().is_some_and(|why| !why.is_empty()));
        }
        let reasons = judge(&all, &policy, Warsaw);
        let once = all.iter().zip(reasons).filter(|(_, why)| !why.is_empty());
        let once: Vec<Candidate> = once.map(|(one, _)| one.clone()).collect();
        assert_eq!(daily, once);
    }
}
