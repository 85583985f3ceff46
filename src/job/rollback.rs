//! Puts a live database back to a snapshot, or back to what it was before; at every moment it can
//! be said which of the two it is.
//!
//! Staging, comparing and the safety snapshot are other jobs, called by who has this one's
//! [`Journal`]; each step is written down before it is taken. Invariant: the live database is not
//! touched before everything that could fail beside it has been done; whatever is cut off, the
//! next run ends it from the journal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Recovered};
use crate::format::object::{Kind, read_body};
use crate::id::{SnapshotId, SourceName};
use crate::job::Opened;
use crate::planted::reach;
use crate::row::schema::Structure;
use crate::source::{Exchange, Others, Settled, Swap};
use crate::state::Lock;

/// For how long the safety snapshot is kept from being forgotten.
pub const SAFETY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Where the journals stand in the state directory.
const FOLDER: &str = "rollback";

/// An old database that stands beside the live one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// The snapshot that took its place.
    pub snapshot: SnapshotId,
    /// Since when.
    pub at: Timestamp,
    /// What the engine must know to put it back.
    note: String,
}

/// How far a rollback came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// The side database is being made, or stands; the live one was not touched.
    Beside,
    /// The two are being exchanged.
    Exchanging,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// To a snapshot.
    Back,
    /// To the database that was kept.
    Undo,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Running {
    step: Step,
    way: Way,
    snapshot: SnapshotId,
    side: String,
    kept: String,
    note: String,
    safety: Option<SnapshotId>,
    rows: u64,
}

impl Running {
    fn names(&self) -> Exchange {
        Exchange {
            side: self.side.clone(),
            kept: self.kept.clone(),
            note: self.note.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Body {
    source: String,
    place: String,
    kept: Vec<Kept>,
    running: Option<Running>,
}

/// What an exchange came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The snapshot that the database was put back to, or that was undone.
    pub snapshot: SnapshotId,
    /// The name that the old database has now.
    pub kept: String,
    /// For how long the database could not be used.
    pub downtime: Duration,
    /// Sentences for the person.
    pub warnings: Vec<String>,
}

/// What became of a rollback that was cut off.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Which way it went.
    pub way: Way,
    /// Which database is there now.
    pub settled: Settled,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The name that the old database has, where it was exchanged.
    pub kept: String,
}

/// What is written down of the rollbacks of one database on this host.
pub struct Journal<'a> {
    opened: &'a Opened,
    swap: &'a mut dyn Swap,
    name: SourceName,
    file: String,
    body: Body,
    _lock: Lock,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Start {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How sessions of others are treated.
    pub others: Others,
}

impl<'a> Journal<'a> {
    /// Opens the journal of the database that `swap` exchanges, which belongs to source `name`.
    ///
    /// # Errors
    /// Busy where another process has it; Corrupt where it cannot be read; the database's.
    pub async fn open(
        opened: &'a Opened,
        name: &SourceName,
        swap: &'a mut dyn Swap,
    ) -> Result<Journal<'a>, AnyFailure> {
        let place = swap.place().await?;
        let file = file_name(name, &place);
        let what = format!("a rollback of {name}");
        // The folder comes to be with the first file in it; the lock stands beside.
        let lock = opened.state.lock(&file.replace('/', "-"), &what)?;
        let body = read(opened, &file)?.unwrap_or_else(|| Body {
            source: name.to_string(),
            place,
            ..Body::default()
        });
        Ok(Journal {
            opened,
            swap,
            name: name.clone(),
            file,
            body,
            _lock: lock,
        })
    }

    /// The database.
    pub fn place(&self) -> &str {
        &self.body.place
    }

    /// The databases that are kept beside, oldest first.
    pub fn kept(&self) -> &[Kept] {
        &self.body.kept
    }

    fn save(&self) -> Result<(), AnyFailure> {
        save(self.opened, &self.file, &self.body)
    }

    /// Ends a rollback that was cut off, if there is one.
    ///
    /// # Errors
    /// The database's; it may be tried again.
    pub async fn end_interrupted(&mut self) -> Result<Option<Ended>, AnyFailure> {
        let Some(running) = self.body.running.clone() else {
            return Ok(None);
        };
        let settled = match running.step {
            Step::Beside => Settled::Old,
            Step::Exchanging => self.swap.settle(&running.names()).await?,
        };
        match settled {
            Settled::Old => self.abandon().await?,
            Settled::New => self.finish(&running, None).await?,
        }
        Ok(Some(Ended {
            way: running.way,
            settled,
            snapshot: running.snapshot,
            kept: running.kept,
        }))
    }

    /// Chooses the names, looks whether the exchange can be made, and writes down that a side
    /// database is about to be made. Gives its name.
    ///
    /// # Errors
    /// As [`Swap::check`].
    pub async fn begin(&mut self, start: &Start) -> Result<String, AnyFailure> {
        let running = self.draft(start, Way::Back, None);
        self.swap.check(&running.names(), start.others).await?;
        let side = running.side.clone();
        self.body.running = Some(running);
        self.save()?;
        reach("rollback begun");
        Ok(side)
    }

    fn draft(&self, start: &Start, way: Way, side: Option<&Kept>) -> Running {
        let now = self.opened.vault.clock.now();
        let stamp = now
            .utc()
            .map(|time| time.format("%Y%m%d%H%M%S%3f").to_string());
        let stamp = stamp.unwrap_or_else(|| now.seconds().to_string());
        let made = || self.swap.beside(&format!("rowvault_{stamp}"));
        Running {
            step: Step::Beside,
            way,
            snapshot: start.snapshot,
            side: side.map_or_else(made, |kept| kept.name.clone()),
            kept: self.swap.beside(&format!("before_{stamp}")),
            note: side.map_or_else(String::new, |kept| kept.note.clone()),
            safety: None,
            rows: 0,
        }
    }

    /// The side database stands, with so many rows, and its references were looked at: gives
    /// what is wrong with them.
    ///
    /// # Errors
    /// The database's.
    pub async fn staged(
        &mut self,
        rows: u64,
        structure: &Structure,
    ) -> Result<Vec<String>, AnyFailure> {
        reach("rollback staged");
        let note = self.swap.remember(structure)?;
        let Some(running) = &mut self.body.running else {
            return Err(out_of_order());
        };
        (running.rows, running.note) = (rows, note);
        let side = running.side.clone();
        self.save()?;
        self.swap.broken_references(&side).await
    }

    /// The safety snapshot was taken.
    ///
    /// # Errors
    /// The state directory's.
    pub fn saved(&mut self, safety: SnapshotId) -> Result<(), AnyFailure> {
        reach("rollback saved");
        match &mut self.body.running {
            Some(running) => running.safety = Some(safety),
            None => return Err(out_of_order()),
        }
        self.save()
    }

    /// Gives up before the exchange: what was made beside is removed.
    ///
    /// # Errors
    /// What could not be removed, by name; the next run tries again.
    pub async fn abandon(&mut self) -> Result<(), AnyFailure> {
        let Some(running) = &self.body.running else {
            return Ok(());
        };
        // What an undo would put back is not of this run's making.
        if running.way == Way::Back {
            self.swap.remove(&running.side).await?;
        }
        self.body.running = None;
        self.save()
    }

    /// Exchanges the live database for the side one.
    ///
    /// # Errors
    /// As [`Swap::exchange`]; the side database is then gone too.
    pub async fn exchange(&mut self, others: Others) -> Result<Outcome, AnyFailure> {
        let Some(running) = &mut self.body.running else {
            return Err(out_of_order());
        };
        running.step = Step::Exchanging;
        let names = running.names();
        self.save()?;
        reach("rollback exchanging");
        let (opened, file, body) = (self.opened, &self.file, &mut self.body);
        let mut keep = |note: &str| {
            if let Some(running) = &mut body.running {
                running.note = note.to_owned();
            }
            save(opened, file, body)
        };
        let exchanged = self.swap.exchange(&names, others, &mut keep).await;
        let exchanged = match exchanged {
            Ok(exchanged) => exchanged,
            Err(error) => {
                // Whatever it was, the journal is followed to one of the two ends.
                return match self.end_interrupted().await {
                    Ok(Some(Ended {
                        settled: Settled::New,
                        kept,
                        snapshot,
                        ..
                    })) => Ok(Outcome {
                        snapshot,
                        kept,
                        downtime: Duration::ZERO,
                        warnings: vec![format!("the exchange was made, and then: {error}")],
                    }),
                    Ok(_) => Err(error),
                    Err(second) => Err(unsettled(&error, &second)),
                };
            }
        };
        reach("rollback exchanged");
        let running = self.body.running.clone().ok_or_else(out_of_order)?;
        let mut outcome = Outcome {
            snapshot: running.snapshot,
            kept: running.kept.clone(),
            downtime: exchanged.downtime,
            warnings: exchanged.warnings,
        };
        // The exchange is made; that it cannot be told does not unmake it.
        if let Err(error) = self.finish(&running, Some(exchanged.downtime)).await {
            outcome
                .warnings
                .push(format!("this was not recorded: {error}"));
        }
        Ok(outcome)
    }

    /// Writes down that the exchange is made, here and in the ledger.
    async fn finish(
        &mut self,
        running: &Running,
        downtime: Option<Duration>,
    ) -> Result<(), AnyFailure> {
        let side = &running.side;
        self.body.kept.retain(|kept| kept.name != *side);
        self.body.kept.push(Kept {
            name: running.kept.clone(),
            snapshot: running.snapshot,
            at: self.opened.vault.clock.now(),
            note: self.swap.turned(&running.note),
        });
        self.body.running = None;
        self.save()?;
        reach("rollback done");
        let mut facts = vec![("kept".to_owned(), running.kept.clone())];
        if running.way == Way::Undo {
            facts.push(("undone".to_owned(), "true".to_owned()));
        }
        if let Some(safety) = running.safety {
            facts.push(("safety_snapshot".to_owned(), safety.to_string()));
        }
        if let Some(downtime) = downtime {
            facts.push(("downtime_ms".to_owned(), downtime.as_millis().to_string()));
        }
        let event = Event::RolledBack(Recovered {
            snapshot: running.snapshot,
            place: self.body.place.clone(),
            rows: running.rows,
            facts: facts.into_iter().collect(),
        });
        self.opened.record(&self.name, event).await?;
        Ok(())
    }

    /// Puts the database back that was kept last; the present one is kept in its place.
    ///
    /// # Errors
    /// Missing where none is kept; as [`Swap::check`] and [`Swap::exchange`].
    pub async fn undo(&mut self, others: Others) -> Result<Outcome, AnyFailure> {
        let Some(last) = self.body.kept.last().cloned() else {
            return Err(nothing_kept(&self.name));
        };
        let start = Start {
            snapshot: last.snapshot,
            others,
        };
        let running = self.draft(&start, Way::Undo, Some(&last));
        self.swap.check(&running.names(), others).await?;
        self.body.running = Some(running);
        self.exchange(others).await
    }

    /// Removes every database that is kept, and gives their names.
    ///
    /// # Errors
    /// Missing where none is kept; what could not be removed, by name.
    pub async fn drop_kept(&mut self) -> Result<Vec<String>, AnyFailure> {
        if self.body.kept.is_empty() {
            return Err(nothing_kept(&self.name));
        }
        let mut dropped = Vec::new();
        while let Some(first) = self.body.kept.first().cloned() {
            self.swap.remove(&first.name).await?;
            self.body.kept.remove(0);
            self.save()?;
            dropped.push(first.name);
        }
        Ok(dropped)
    }
}

/// A rollback on this host that was cut off, and that the next one ends.
#[derive(Clone, Debug)]
pub struct CutOff {
    /// The source.
    pub source: String,
    /// The database.
    pub place: String,
    /// Which way it went.
    pub way: Way,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The database that may stand beside.
    pub side: String,
    /// Whether the exchange had begun.
    pub exchanging: bool,
}

/// The rollbacks that were cut off; one that another process is at is none of them.
///
/// # Errors
/// Corrupt for a journal that cannot be read; the state directory's.
pub fn cut_off(opened: &Opened) -> Result<Vec<CutOff>, AnyFailure> {
    let mut found = Vec::new();
    for name in opened.state.names(FOLDER)? {
        let file = format!("{FOLDER}/{name}");
        if name.starts_with('.') {
            continue;
        }
        let Some(body) = read(opened, &file)? else {
            continue;
        };
        let Some(running) = body.running else {
            continue;
        };
        if opened
            .state
            .lock(&file.replace('/', "-"), "a look at it")
            .is_err()
        {
            continue;
        }
        found.push(CutOff {
            source: body.source,
            place: body.place,
            way: running.way,
            snapshot: running.snapshot,
            side: running.side,
            exchanging: running.step == Step::Exchanging,
        });
    }
    Ok(found)
}

fn file_name(name: &SourceName, place: &str) -> String {
    let hash = blake3::hash(format!("{name}\n{place}").as_bytes());
    format!("{FOLDER}/{}", crate::id::hex(&hash.as_bytes()[..16]))
}

fn read(opened: &Opened, file: &str) -> Result<Option<Body>, AnyFailure> {
    let Some(bytes) = opened.state.read(file)? else {
        return Ok(None);
    };
    let read = opened.vault.open(Kind::State, file, &bytes).ok();
    let read = read.and_then(|(_, body)| read_body(&body, "journal of rollbacks").ok());
    read.map(Some).ok_or_else(|| {
        let path = opened.state.path(file);
        AnyFailure::new(
            Class::Corrupt,
            format!("the journal of rollbacks {} cannot be read", path.display()),
            Some("see which databases stand beside the live one, then remove that file".into()),
        )
    })
}

fn save(opened: &Opened, file: &str, body: &Body) -> Result<(), AnyFailure> {
    let random = opened.vault.random.as_ref();
    if body.running.is_none() && body.kept.is_empty() {
        return Ok(opened.state.remove(file)?);
    }
    let sealed = opened.vault.seal_state(file, body);
    Ok(opened.state.write(file, &sealed, random)?)
}

fn out_of_order() -> AnyFailure {
    AnyFailure::new(Class::Bug, "a rollback went on that never began", None)
}

fn nothing_kept(name: &SourceName) -> AnyFailure {
    AnyFailure::new(
        Class::Missing,
        format!("this host keeps no database of {name} from before a rollback"),
        Some("'rowvault ledger' says on which host one was rolled back".into()),
    )
}

fn unsettled(first: &AnyFailure, second: &AnyFailure) -> AnyFailure {
    AnyFailure::new(
        Class::Unsettled,
        format!("the exchange was cut off ({first}), and could not be ended ({second})"),
        Some("run the command again: it ends it before anything else".into()),
    )
}
