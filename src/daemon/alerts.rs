//! What lasts and people were told of: each matter once, again daily while it lasts, and its end.
//!
//! Pure, and kept on disk by the loop, so that a restart tells nothing twice. Invariant: one
//! matter has one key, and between the telling of its beginning and that of its end at most one
//! message a day goes out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::hex;
use crate::notify::{Kind, Message};
use crate::random::{Random, draw};

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matter {
    /// What it is about.
    pub kind: Kind,
    /// The job.
    pub job: String,
    /// The source, where it is about one.
    pub source: Option<String>,
    /// What happened, in a sentence.
    pub what: String,
    /// What to do.
    pub to_do: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lasting {
    matter: Matter,
    since: Timestamp,
    told_at: Timestamp,
}

/// A matter, since when, and whether it was told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// What.
    pub matter: Matter,
    /// Since when.
    pub since: Timestamp,
    /// Whether it was told before.
    pub repeated: bool,
}

impl Telling {
    /// The message of `host` at `now`.
    pub fn message(&self, host: &str, now: Timestamp, random: &dyn Random) -> Message {
        let Matter {
            kind,
            job,
            source,
            what,
            to_do,
        } = self.matter.clone();
        Message {
            id: format!("msg_{}", hex(&draw::<12>(random))),
            kind,
            host: host.to_owned(),
            job,
            source,
            what,
            to_do,
            since: self.since.rfc3339(),
            time: now.rfc3339(),
            repeated: self.repeated,
        }
    }
}

/// What lasts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Alerts {
    lasting: BTreeMap<String, Lasting>,
}

impl Alerts {
    /// Reads what was kept; nothing where it cannot be read.
    pub fn read(bytes: &[u8]) -> Alerts {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// What is kept.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain data")
    }

    /// A matter begins or goes on; it is to be told where it began or became another.
    pub fn raise(&mut self, key: &str, matter: Matter, now: Timestamp) -> Option<Telling> {
        let before = self.lasting.get_mut(key);
        if let Some(before) = before
            && before.matter.kind == matter.kind
        {
            // The words may change from one attempt to the next.
            before.matter = matter;
            return None;
        }
        let lasting = Lasting {
            matter: matter.clone(),
            since: now,
            told_at: now,
        };
        self.lasting.insert(key.to_owned(), lasting);
        Some(Telling {
            matter,
            since: now,
            repeated: false,
        })
    }

    /// A matter ended; what it was.
    pub fn clear(&mut self, key: &str) -> Option<Telling> {
        let ended = self.lasting.remove(key)?;
        Some(Telling {
            matter: ended.matter,
            since: ended.since,
            repeated: false,
        })
    }

    /// What lasts and is to be told again.
    pub fn due(&mut self, now: Timestamp, repeat: Duration) -> Vec<Telling> {
        let mut due = Vec::new();
        for lasting in self.lasting.values_mut() {
            if now.since(lasting.told_at) >= repeat {
                lasting.told_at = now;
                due.push(Telling {
                    matter: lasting.matter.clone(),
                    since: lasting.since,
                    repeated: true,
                });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn failure(what: &str) -> Matter {
        Matter {
            kind: Kind::Failure,
            job: "backup crm".into(),
            source: Some("crm".into()),
            what: what.into(),
            to_do: Vec::new(),
        }
    }

    #[test]
    fn matter_is_told_once_daily_while_it_lasts_and_at_its_end() {
        let mut alerts = Alerts::default();
        let mut told = 0;
        for hour in 0..60 {
            let now = at(hour * 3600);
            told += usize::from(alerts.raise("crm", failure("down"), now).is_some());
            told += alerts.due(now, DAY).len();
            alerts = Alerts::read(&alerts.write());
        }
        assert_eq!(told, 3, "at its beginning, after a day, and after two");
        let ended = alerts.clear("crm").unwrap();
        assert_eq!((ended.since, ended.matter), (at(0), failure("down")));
        assert_eq!(alerts.clear("crm"), None);
        assert!(alerts.raise("crm", failure("down"), at(0)).is_some());
    }

    #[test]
    fn matter_that_becomes_another_is_told_anew() {
        let mut alerts = Alerts::default();
        assert!(alerts.raise("crm", failure("down"), at(0)).is_some());
        let damaged = Matter {
            kind: Kind::Damaged,
            ..failure("a pack is damaged")
        };
        assert!(alerts.raise("crm", damaged.clone(), at(1)).is_some());
        assert!(alerts.raise("crm", damaged, at(2)).is_none());
    }
}
