//! `[daemon]` and what sources say of time: which job is due when, and how long it may take.
//!
//! A source's own words win over those of `[daemon]`, and those over the defaults here. Invariant:
//! every schedule is read in its zone and comes due some day, or the file is refused.

use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;

use crate::config::reading::{Error, Reading};
use crate::failure::Failure;
use crate::job::verify::Data;
use crate::repo::prune::MAX_DELETE_PERCENT;
use crate::schedule::Schedule;
use crate::unusual::Floor;

/// How many jobs run at once.
const JOBS: usize = 2;
const JOBS_MAX: usize = 64;
/// How long a job may take.
const DEADLINE: Duration = Duration::from_secs(12 * 3600);
/// How long a job may show no progress.
const STALL: Duration = Duration::from_secs(3600);
/// How long until a job that failed is tried again; then twice as long, and so on.
const RETRY: Duration = Duration::from_secs(60);
/// No span of time of the daemon is longer.
const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the daemon does by itself.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// How many jobs run at once.
    pub jobs: usize,
    /// The zone of its own schedules, and of sources that name none.
    pub timezone: Tz,
    /// How much later than planned a job may begin.
    pub jitter: Duration,
    /// How long a job may take.
    pub deadline: Duration,
    /// How long a job may show no progress before it is stopped.
    pub stall: Duration,
    /// How long until a job that failed is tried again.
    pub retry: Duration,
    /// When the whole repository is verified.
    pub verify: Option<VerifyPlan>,
    /// When what nothing needs is swept.
    pub prune: Option<PrunePlan>,
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            jobs: JOBS,
            timezone: Tz::UTC,
            jitter: Duration::ZERO,
            deadline: DEADLINE,
            stall: STALL,
            retry: RETRY,
            verify: None,
            prune: None,
        }
    }
}

/// When a job is due.
#[derive(Clone, Debug)]
pub struct When {
    /// By this schedule.
    pub schedule: Schedule,
    /// Up to so much later.
    pub jitter: Duration,
    /// How long it may take.
    pub deadline: Duration,
}

/// A verification by schedule.
#[derive(Clone, Debug)]
pub struct VerifyPlan {
    /// When.
    pub when: When,
    /// How much of the data is read.
    pub data: Data,
}

/// A sweep by schedule.
#[derive(Clone, Debug)]
pub struct PrunePlan {
    /// When.
    pub when: When,
    /// How much may go that no forgotten snapshot accounts for.
    pub max_delete_percent: u8,
}

/// When what is done to a source.
#[derive(Clone, Debug, Default)]
pub struct SourcePlan {
    /// Its backups.
    pub backup: Option<When>,
    /// Verification of its snapshots.
    pub verify: Option<VerifyPlan>,
    /// Its drills.
    pub drill: Option<When>,
    /// How long what somebody asks for may take.
    pub deadline: Duration,
    /// What an unusual change does.
    pub alarm: Alarm,
    /// What is never unusual.
    pub floor: Floor,
}

/// What an unusual change does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    /// It stops forgetting and pruning, and is told.
    #[default]
    Freeze,
    /// It is told.
    Warn,
    /// Nobody looks.
    Off,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DaemonText {
    jobs: Option<usize>,
    timezone: Option<String>,
    jitter: Option<String>,
    deadline: Option<String>,
    stall: Option<String>,
    retry: Option<String>,
    verify: Option<VerifyText>,
    prune: Option<PruneText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyText {
    schedule: String,
    data: Option<String>,
    jitter: Option<String>,
    deadline: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PruneText {
    schedule: String,
    max_delete: Option<String>,
    jitter: Option<String>,
    deadline: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AlarmText {
    Freeze,
    Warn,
    Off,
}

/// What a source says of time.
pub(super) struct SourceText {
    pub schedule: Option<String>,
    pub jitter: Option<String>,
    pub deadline: Option<String>,
    pub verify: Option<VerifyText>,
    pub drill: Option<String>,
    pub alarm: (Option<AlarmText>, Option<u64>, Option<f64>),
}

/// What a job says of time, and what it falls back to.
struct WhenText {
    schedule: String,
    jitter: Option<String>,
    deadline: Option<String>,
    zone: Tz,
    defaults: (Duration, Duration),
}

impl Reading<'_> {
    pub(super) fn daemon(&self, text: DaemonText) -> Result<Daemon, Error> {
        let place = "daemon";
        let default = Daemon::default();
        let jobs = text.jobs.unwrap_or(JOBS);
        if jobs == 0 || jobs > JOBS_MAX {
            let what = format!("jobs must be 1 to {JOBS_MAX}");
            return Err(self.wrong(place, what, None));
        }
        let mut daemon = Daemon {
            jobs,
            timezone: self.zone(place, text.timezone, default.timezone)?,
            jitter: self.time(place, ("jitter", text.jitter), default.jitter)?,
            deadline: self.limit(place, ("deadline", text.deadline), default.deadline)?,
            stall: self.limit(place, ("stall", text.stall), default.stall)?,
            retry: self.limit(place, ("retry", text.retry), default.retry)?,
            verify: None,
            prune: None,
        };
        let defaults = (daemon.jitter, daemon.deadline);
        let zone = daemon.timezone;
        let verify = text.verify;
        daemon.verify = verify
            .map(|text| self.verify("daemon: verify", text, zone, defaults))
            .transpose()?;
        daemon.prune = text
            .prune
            .map(|text| self.prune(text, zone, defaults))
            .transpose()?;
        Ok(daemon)
    }

    pub(super) fn plan(
        &self,
        place: &str,
        text: SourceText,
        (daemon, zone): (&Daemon, Tz),
    ) -> Result<SourcePlan, Error> {
        let defaults = (
            self.time(place, ("jitter", text.jitter), daemon.jitter)?,
            self.limit(place, ("deadline", text.deadline), daemon.deadline)?,
        );
        let backup = text.schedule.map(|schedule| WhenText {
            schedule,
            jitter: None,
            deadline: None,
            zone,
            defaults,
        });
        let backup = backup.map(|when| self.when(place, when)).transpose()?;
        let verify = text.verify.map(|text| {
            let place = format!("{place}: verify");
            self.verify(&place, text, zone, defaults)
        });
        let drill = text.drill.map(|schedule| WhenText {
            schedule,
            jitter: None,
            deadline: None,
            zone,
            defaults,
        });
        let drill = drill.map(|when| self.when(&format!("{place}: drill"), when));
        Ok(SourcePlan {
            backup,
            verify: verify.transpose()?,
            drill: drill.transpose()?,
            deadline: defaults.1,
            alarm: match text.alarm.0 {
                Some(AlarmText::Off) => Alarm::Off,
                Some(AlarmText::Warn) => Alarm::Warn,
                Some(AlarmText::Freeze) | None => Alarm::Freeze,
            },
            floor: self.floor(place, text.alarm.1, text.alarm.2)?,
        })
    }

    fn floor(&self, place: &str, rows: Option<u64>, percent: Option<f64>) -> Result<Floor, Error> {
        let default = Floor::default();
        let floor = Floor {
            rows: rows.unwrap_or(default.rows),
            percent: percent.unwrap_or(default.percent),
        };
        match (0.0..=100.0).contains(&floor.percent) {
            true => Ok(floor),
            false => Err(self.wrong(place, "alarm_percent must be 0 to 100".into(), None)),
        }
    }

    fn verify(
        &self,
        place: &str,
        text: VerifyText,
        zone: Tz,
        defaults: (Duration, Duration),
    ) -> Result<VerifyPlan, Error> {
        let data = self.text(place, text.data)?;
        let data = data.as_deref().unwrap_or("none").parse();
        Ok(VerifyPlan {
            data: data.map_err(|hint: String| {
                self.wrong(place, "data cannot be meant".into(), Some(hint))
            })?,
            when: self.when(
                place,
                WhenText {
                    schedule: text.schedule,
                    jitter: text.jitter,
                    deadline: text.deadline,
                    zone,
                    defaults,
                },
            )?,
        })
    }

    fn prune(
        &self,
        text: PruneText,
        zone: Tz,
        defaults: (Duration, Duration),
    ) -> Result<PrunePlan, Error> {
        let place = "daemon: prune";
        let percent = self.text(place, text.max_delete)?.map(|text| {
            let digits = text.strip_suffix('%').and_then(|text| text.parse().ok());
            digits.filter(|percent| *percent <= 100).ok_or_else(|| {
                let what = format!("max_delete: {text:?} is no share");
                self.wrong(place, what, Some("write it as 30%".into()))
            })
        });
        Ok(PrunePlan {
            max_delete_percent: percent.transpose()?.unwrap_or(MAX_DELETE_PERCENT),
            when: self.when(
                place,
                WhenText {
                    schedule: text.schedule,
                    jitter: text.jitter,
                    deadline: text.deadline,
                    zone,
                    defaults,
                },
            )?,
        })
    }

    fn when(&self, place: &str, text: WhenText) -> Result<When, Error> {
        let schedule = self.expand(place, &text.schedule)?;
        let schedule = Schedule::read(&schedule, text.zone)
            .map_err(|error| self.wrong(place, error.to_string(), error.hint()))?;
        Ok(When {
            schedule,
            jitter: self.time(place, ("jitter", text.jitter), text.defaults.0)?,
            deadline: self.limit(place, ("deadline", text.deadline), text.defaults.1)?,
        })
    }

    /// A span of time that may be nothing.
    fn time(
        &self,
        place: &str,
        (key, text): (&str, Option<String>),
        default: Duration,
    ) -> Result<Duration, Error> {
        let Some(text) = text else {
            return Ok(default);
        };
        let span = self.span(place, key, &text)?;
        match span <= SPAN_MAX {
            true => Ok(span),
            false => Err(self.wrong(place, format!("{key} is longer than 30 days"), None)),
        }
    }

    /// A span of time that something ends at.
    pub(super) fn limit(
        &self,
        place: &str,
        named: (&str, Option<String>),
        default: Duration,
    ) -> Result<Duration, Error> {
        let key = named.0;
        let span = self.time(place, named, default)?;
        match span >= Duration::from_secs(1) {
            true => Ok(span),
            false => Err(self.wrong(place, format!("{key} is shorter than a second"), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::{Config, load};

    fn read(text: &str) -> Result<Config, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path(), &|_| None)
    }

    #[test]
    fn words_of_a_source_win_over_those_of_the_daemon() {
        let config = read(
            r#"
            [daemon]
            jobs = 3
            timezone = "Asia/Kolkata"
            jitter = "5m"
            deadline = "6h"
            prune = { schedule = "@daily", max_delete = "10%" }
            verify = { schedule = "0 5 * * SUN", data = "10%", deadline = "1h" }
            [[source]]
            url = "sqlite:a.db"
            schedule = "30 2 * * *"
            deadline = "2h"
            drill = { schedule = "@weekly", rto = "30m" }
            [[source]]
            url = "sqlite:b.db"
            timezone = "Europe/Warsaw"
            jitter = "0s"
            schedule = "30 2 * * *"
            "#,
        )
        .unwrap();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let daemon = &config.daemon;
        assert_eq!((daemon.jobs, daemon.retry, daemon.stall), (3, RETRY, STALL));
        let prune = daemon.prune.as_ref().unwrap();
        assert_eq!(prune.max_delete_percent, 10);
        assert_eq!(prune.when.jitter, minutes(5));
        let verify = daemon.verify.as_ref().unwrap();
        assert_eq!(verify.data, Data::Percent(10));
        assert_eq!(verify.when.deadline, minutes(60));
        let [a, b] = &config.sources[..] else {
            panic!("there are two sources");
        };
        let (first, second) = (a.plan.backup.as_ref(), b.plan.backup.as_ref());
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.jitter, first.deadline), (minutes(5), minutes(120)));
        assert_eq!((second.jitter, second.deadline), (minutes(0), minutes(360)));
        let at = |when: &When| when.schedule.next(Timestamp(0)).unwrap().seconds();
        assert_eq!(at(first), 24 * 3600 - 3 * 3600);
        assert_eq!(at(second), 3600 + 1800);
        assert_eq!(a.plan.drill.as_ref().unwrap().deadline, minutes(120));
    }

    #[test]
    fn plans_that_cannot_be_meant_are_refused() {
        for (text, word) in [
            ("[daemon]\njobs = 0", "jobs"),
            ("[daemon]\njiter = '1s'", "jiter"),
            ("[daemon]\nstall = '0s'", "shorter than a second"),
            ("[daemon]\ndeadline = '90d'", "30 days"),
            ("[daemon]\ntimezone = 'Mars'", "time zone"),
            ("[daemon]\nverify = { data = 'all' }", "schedule"),
            (
                "[daemon]\nverify = { schedule = '@daily', data = '5' }",
                "data",
            ),
            (
                "[daemon]\nprune = { schedule = '@daily', max_delete = '200%' }",
                "max_delete",
            ),
            (
                "[[source]]\nurl = 'sqlite:a'\nschedule = '0 0 30 2 *'",
                "never comes due",
            ),
            (
                "[[source]]\nurl = 'sqlite:a'\nschedule = '61 * * * *'",
                "minute",
            ),
        ] {
            let Err(error) = read(text) else {
                panic!("{text:?} must be refused");
            };
            assert!(error.to_string().contains(word), "{text:?}: {error}");
        }
    }
}
