//! The demo: the main job on a sample CRM, told step by step with real numbers.
//!
//! A SQLite CRM is made, backed up, edited for a day, backed up again, verified, restored to a new
//! file and proven equal; a customer is deleted and brought back; all in a directory that is removed unless it is to be kept. Invariant: every
//! number that is printed was measured in this run.

pub mod accident;
pub mod fill;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::clock::Clock;
use crate::document::count;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::init::{First, Request as InitRequest};
use crate::job::undelete::Mode;
use crate::job::undelete::plan::Plan;
use crate::job::verify::{self, Data};
use crate::job::{self, Context, Opened, Silent};
use crate::random::Random;
use crate::repo::keys::file::read_key_file;
use crate::repo::keys::{Opening, Unlock};
use crate::sample::Sample;
use crate::sample::churn::Churn;
use crate::source::open::{self, SourceOptions, SourceUrl, TargetOptions};
use crate::store::{Root, Store, StoreOptions};

/// The seed of the sample and of its edits.
const SEED: u64 = 20_261_121;
/// About 80,000 rows.
const SCALE: f64 = 0.02;
/// About how many bytes of rows a chunk of the demo's repository holds.
const CHUNK_BYTES: u32 = 64 << 10;

/// Where the demo's things are.
struct Places {
    crm: PathBuf,
    restored: PathBuf,
    spared: PathBuf,
    repository: PathBuf,
    state: PathBuf,
    key: PathBuf,
    sheet: PathBuf,
}

impl Places {
    fn under(directory: &Path) -> Places {
        Places {
            crm: directory.join("crm.db"),
            restored: directory.join("restored.db"),
            spared: directory.join("without-accident.db"),
            repository: directory.join("repository"),
            state: directory.join("state"),
            key: directory.join("owner.key"),
            sheet: directory.join("recovery-sheet.txt"),
        }
    }
}

/// Tells the story to `out`; its files stay in `keep` where one is named, which must not exist.
///
/// # Errors
/// Of any step; Conflict where `keep` exists.
pub async fn run(
    keep: Option<&Path>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    out: &mut (dyn Write + Send),
) -> Result<(), AnyFailure> {
    let temporary = tempfile::tempdir().map_err(|error| io_failure("make", None, &error))?;
    let directory = match keep {
        Some(keep) => {
            fs::create_dir(keep).map_err(|error| io_failure("make", Some(keep), &error))?;
            keep.to_owned()
        }
        None => temporary.path().to_owned(),
    };
    let mut story = Story {
        places: Places::under(&directory),
        start: clock.elapsed(),
        clock,
        random,
        out,
        step: 0,
    };
    story.tell_all().await?;
    story.next_commands(keep)
}

fn io_failure(what: &str, path: Option<&Path>, error: &io::Error) -> AnyFailure {
    let class = match error.kind() {
        io::ErrorKind::AlreadyExists => Class::Conflict,
        io::ErrorKind::PermissionDenied => Class::Denied,
        _ => Class::Transient,
    };
    let place = path.map_or("a temporary directory".into(), |path| {
        path.display().to_string()
    });
    let hint = match class {
        Class::Conflict => Some("name a directory that does not exist yet".to_owned()),
        _ => None,
    };
    AnyFailure::new(class, format!("cannot {what} {place}: {error}"), hint)
}

struct Story<'a> {
    places: Places,
    start: Duration,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    out: &'a mut (dyn Write + Send),
    step: u32,
}

impl Story<'_> {
    fn tell(&mut self, title: &str, detail: &str) -> Result<(), AnyFailure> {
        self.step += 1;
        let line = format!("{}. {title}\n   {detail}\n", self.step);
        self.print(&line)
    }

    fn print(&mut self, text: &str) -> Result<(), AnyFailure> {
        let written = self.out.write_all(text.as_bytes());
        written
            .and_then(|()| self.out.flush())
            .map_err(|error| io_failure("write to", Some(Path::new("the terminal")), &error))
    }

    async fn tell_all(&mut self) -> Result<(), AnyFailure> {
        let sample = Sample::new(SEED, SCALE);
        self.make_crm(&sample)?;
        self.make_repository().await?;
        let opened = self.open().await?;
        self.backup(&opened, "First snapshot, sealed into the repository.")
            .await?;
        self.edit(&sample)?;
        self.backup(&opened, "Second snapshot, after the day.")
            .await?;
        self.verify(&opened).await?;
        self.restore(&opened).await?;
        self.undelete(&opened).await
    }

    fn make_crm(&mut self, sample: &Sample) -> Result<(), AnyFailure> {
        let rows = fill::sqlite(&self.places.crm, sample)?;
        let detail = format!(
            "{} rows, {}: accounts, contacts, deals, mails, notes …",
            count(rows),
            size(length(&self.places.crm)?)
        );
        self.tell("A sample CRM as a SQLite file.", &detail)
    }

    fn opening(&self, root: Root) -> Result<Opening, AnyFailure> {
        let options = StoreOptions {
            root,
            ..StoreOptions::default()
        };
        let url = self.places.repository.display().to_string();
        let (clock, random) = (self.clock.clone(), self.random.clone());
        Ok(Opening {
            store: Store::open(&url, &options, clock.clone(), random.clone())?,
            clock,
            random,
        })
    }

    async fn make_repository(&mut self) -> Result<(), AnyFailure> {
        let request = InitRequest {
            first: First::KeyFile(self.places.key.clone()),
            chunk_target_bytes: CHUNK_BYTES,
            recovery_out: Some(self.places.sheet.clone()),
        };
        let opening = self.opening(Root::Create)?;
        let made = job::init::init(opening, &self.places.state, request).await?;
        let detail = format!(
            "{}…; opened by a key file, or by a sheet for the safe.",
            &made.repository.to_string()[..10]
        );
        self.tell("An encrypted repository in a directory.", &detail)
    }

    async fn open(&self) -> Result<Opened, AnyFailure> {
        let context = Context {
            repository: self.places.repository.display().to_string(),
            store: StoreOptions::default(),
            unlock: Unlock::KeyFile(read_key_file(&self.places.key)?),
            state_root: self.places.state.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            progress: Arc::new(Silent),
        };
        context.open().await
    }

    async fn backup(&mut self, opened: &Opened, title: &str) -> Result<(), AnyFailure> {
        let url = SourceUrl::Sqlite(self.places.crm.clone());
        let mut source = open::source(&url, &SourceOptions::default())?;
        let request = job::backup::Request::new(name());
        let taken = job::backup::run(opened, source.as_mut(), &request).await?;
        let totals = &taken.record.totals;
        let detail = format!(
            "{} rows ({}) read in {}: {} put, {} deleted.\n   \
             Stored: {} in {} new chunks; {} chunks were there already.",
            count(totals.rows),
            size(totals.bytes_read),
            seconds(taken.duration),
            count(totals.rows_put),
            count(totals.rows_deleted),
            size(totals.bytes_stored),
            count(totals.chunks_new),
            count(totals.chunks_reused),
        );
        self.tell(title, &detail)
    }

    fn edit(&mut self, sample: &Sample) -> Result<(), AnyFailure> {
        let mut churn = Churn::new(sample);
        let day = fill::apply(&self.places.crm, churn.crm_day(SEED))?;
        let detail = format!(
            "{} rows added, {} changed, {} deleted by people at work.",
            count(day.inserted),
            count(day.updated),
            count(day.deleted)
        );
        self.tell("A day of work in the CRM.", &detail)
    }

    async fn verify(&mut self, opened: &Opened) -> Result<(), AnyFailure> {
        let catalog = opened.catalog().await?;
        let found = verify::run(opened, &catalog.snapshots(), Data::All).await?;
        if let Some(finding) = found.findings.first() {
            let what = format!("{} {}", finding.object, finding.what);
            return Err(AnyFailure::new(Class::Corrupt, what, None));
        }
        let detail = format!(
            "{} chunks in {} packs, {}: opened, hashed in {}; nothing wrong.",
            count(found.chunks),
            found.packs,
            size(found.bytes_read),
            seconds(found.duration)
        );
        self.tell("Both snapshots verified, every byte.", &detail)
    }

    async fn restore(&mut self, opened: &Opened) -> Result<(), AnyFailure> {
        let catalog = opened.catalog().await?;
        let newest = catalog.at(&name(), None)?;
        let url = SourceUrl::Sqlite(self.places.restored.clone());
        let mut target = open::target(&url, &TargetOptions::default())?;
        let restored = job::restore::run(opened, newest, target.as_mut()).await?;
        let differences = differences(&self.places.crm, &self.places.restored)?;
        if differences > 0 {
            let what = format!("{differences} rows of the restored file differ from the CRM's");
            return Err(AnyFailure::new(Class::Bug, what, None));
        }
        let detail = format!(
            "{} rows in {}; read back and compared by digest;\n   then row by row with \
             the CRM file itself: no difference.",
            count(restored.rows),
            seconds(restored.duration)
        );
        self.tell("Restored to a new file, and proven equal.", &detail)
    }

    async fn undelete(&mut self, opened: &Opened) -> Result<(), AnyFailure> {
        let (crm, spared) = (self.places.crm.clone(), self.places.spared.clone());
        fs::copy(&crm, &spared).map_err(|error| io_failure("copy to", Some(&spared), &error))?;
        let customer = accident::customer(&crm)?;
        accident::delete(&crm, &customer)?;
        for path in [&crm, &spared] {
            accident::edit(path, &customer)?;
        }
        let lost = differences(&crm, &spared)?;
        let detail = format!(
            "{} with all that hangs on it; others edit {} rows meanwhile.",
            customer.name,
            accident::EDITS
        );
        self.tell("Somebody deletes the wrong customer.", &detail)?;
        let catalog = opened.catalog().await?;
        let newest = catalog.at(&name(), None)?;
        let manifest = opened.manifest(newest).await?;
        let tables: Vec<_> = manifest
            .tables
            .iter()
            .map(|one| one.table.clone())
            .collect();
        let request = accident::request(&tables, &customer, crm.display().to_string());
        let mut live = open::live(&SourceUrl::Sqlite(crm.clone()), &SourceOptions::default())?;
        let start = self.clock.elapsed();
        let done = job::undelete::run(opened, newest, live.as_mut(), &request, Mode::Apply).await?;
        let took = self.clock.elapsed() - start;
        let left = differences(&crm, &spared)?;
        if !done.applied || left > 0 || lost == 0 {
            let what = format!("{left} rows differ after the customer was brought back");
            return Err(AnyFailure::new(Class::Bug, what, None));
        }
        let detail = format!(
            "{} in {};\n   compared row by row \
             with a copy without the accident: no difference.",
            by_table(&done.plan),
            seconds(took)
        );
        self.tell(
            "Undelete: found by name, back whole, and nothing else changed.",
            &detail,
        )
    }

    fn next_commands(&mut self, keep: Option<&Path>) -> Result<(), AnyFailure> {
        let took = seconds(self.clock.elapsed() - self.start);
        let kept = keep.map_or("rowvault-demo".into(), |keep| keep.display().to_string());
        let first = match keep {
            Some(_) => format!("\nDone in {took}. Everything is in {kept}. Try next:\n\n"),
            None => format!(
                "\nDone in {took}; the files are gone again. Keep them, and try next:\n\n  rowvault demo --keep {kept}\n"
            ),
        };
        let text = format!(
            "{first}  export ROWVAULT_REPO={kept}/repository ROWVAULT_KEY_FILE={kept}/owner.key\n  \
             export ROWVAULT_STATE_DIR={kept}/state\n  \
             rowvault snapshots\n  \
             rowvault show crm@latest\n  \
             rowvault find crm@latest contacts --limit 3\n  \
             rowvault backup sqlite:{kept}/crm.db\n  \
             rowvault restore crm@latest --to sqlite:{kept}/again.db\n"
        );
        self.print(&text)
    }
}

fn name() -> SourceName {
    "crm".parse().expect("crm is a source name")
}

fn length(path: &Path) -> Result<u64, AnyFailure> {
    let found = fs::metadata(path).map_err(|error| io_failure("read", Some(path), &error))?;
    Ok(found.len())
}

/// How many rows stand in one file and not in the other, over all tables, counted by SQLite.
fn differences(one: &Path, other: &Path) -> Result<u64, AnyFailure> {
    let count = || -> rusqlite::Result<u64> {
        let connection = Connection::open_with_flags(one, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let path = other.to_string_lossy().into_owned();
        connection.execute("ATTACH ?1 AS other", [path])?;
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
        let mut statement = connection.prepare(sql)?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut differences: i64 = 0;
        for name in names {
            let name = name?.replace('"', "\"\"");
            let (here, there) = (format!("main.\"{name}\""), format!("other.\"{name}\""));
            for (left, right) in [(&here, &there), (&there, &here)] {
                let sql = format!(
                    "SELECT count(*) FROM (SELECT * FROM {left} EXCEPT SELECT * FROM {right})"
                );
                differences += connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
            }
            let sql = format!(
                "SELECT abs((SELECT count(*) FROM {here}) - (SELECT count(*) FROM {there}))"
            );
            differences += connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
        }
        Ok(differences.unsigned_abs())
    };
    count().map_err(|error| {
        AnyFailure::new(
            Class::Bug,
            format!("the files cannot be compared: {error}"),
            None,
        )
    })
}

/// How many rows come back, and of which tables the most.
fn by_table(plan: &Plan) -> String {
    let mut tables: BTreeMap<&str, usize> = BTreeMap::new();
    for one in &plan.insert {
        *tables.entry(&one.table).or_default() += 1;
    }
    let mut tables: Vec<(usize, &str)> = tables
        .into_iter()
        .map(|(name, rows)| (rows, name))
        .collect();
    tables.sort_by(|a, b| b.cmp(a));
    let most = tables
        .iter()
        .take(3)
        .map(|(rows, name)| format!("{rows} {name}"));
    let most: Vec<String> = most.collect();
    format!("{} rows ({} …)", plan.insert.len(), most.join(", "))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
