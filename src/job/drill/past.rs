//! Drills as the ledger tells them, written and read.
//!
//! Invariant: what an older or newer rowvault wrote is read as far as it goes; a figure that is
//! not there is none, never zero.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Outcome;
use crate::clock::Timestamp;
use crate::format::ledger::{Event, Recovered};
use crate::id::SnapshotId;
use crate::repo::catalog::Source;

/// How long the names of failed checks may be together.
const NAMES_CHARACTERS_MAX: usize = 400;

/// A drill of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When it ended, by the clock of its host.
    pub time: Timestamp,
    /// What was restored.
    pub snapshot: SnapshotId,
    /// Where to, in words.
    pub place: String,
    /// Whether it found everything that was expected.
    pub ok: bool,
    /// Rows that came back.
    pub rows: u64,
    /// How long recovering took.
    pub rto: Option<Duration>,
    /// How old the snapshot was.
    pub rpo: Option<Duration>,
    /// The checks that failed, by name.
    pub failed: Vec<String>,
    /// Whether it began with nothing but a recovery sheet.
    pub from_recovery: bool,
    /// The host that drilled.
    pub host: String,
}

/// What the ledger is told of a drill.
pub fn entry(outcome: &Outcome) -> Recovered {
    let millis = |duration: Duration| duration.as_millis().to_string();
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    facts.insert("ok".into(), outcome.is_ok().to_string());
    facts.insert("rto_ms".into(), millis(outcome.rto()));
    facts.insert("rpo_ms".into(), millis(outcome.rpo));
    facts.insert("checks".into(), outcome.checks.len().to_string());
    facts.insert("from_recovery".into(), outcome.from_recovery.to_string());
    for (name, spent) in outcome.phases() {
        facts.insert(format!("{name}_ms"), millis(spent));
    }
    let failed = outcome.checks.iter().filter(|check| !check.ok);
    let names: Vec<String> = failed.map(|check| check.name.replace(';', ",")).collect();
    if !names.is_empty() {
        let names: String = names
            .join("; ")
            .chars()
            .take(NAMES_CHARACTERS_MAX)
            .collect();
        facts.insert("failed".into(), names);
    }
    Recovered {
        snapshot: outcome.snapshot.record.id,
        place: outcome.place.clone(),
        rows: outcome.rows,
        facts,
    }
}

/// The drills of `source`, oldest first.
pub fn of(source: &Source) -> Vec<Past> {
    let entries = source.chain.entries.iter();
    entries
        .filter_map(|link| match &link.entry.event {
            Event::Drilled(told) => Some(Past::read(told, link.entry.time, &link.entry.host)),
            _ => None,
        })
        .collect()
}

impl Past {
    fn read(told: &Recovered, time: Timestamp, host: &str) -> Past {
        let fact = |name: &str| told.facts.get(name).map(String::as_str);
        let duration = |name: &str| Some(Duration::from_millis(fact(name)?.parse().ok()?));
        let failed = fact("failed").unwrap_or_default();
        Past {
            time,
            snapshot: told.snapshot,
            place: told.place.clone(),
            ok: fact("ok") == Some("true"),
            rows: told.rows,
            rto: duration("rto_ms"),
            rpo: duration("rpo_ms"),
            failed: failed
                .split("; ")
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            from_recovery: fact("from_recovery") == Some("true"),
            host: host.to_owned(),
        }
    }
}
