//! Looks at everything that a backup needs, and says what is wrong and what to do.
//!
//! Storage, repository, keys, state directory, ledgers, room on disks, and each source with the
//! programs that it takes, one after the other; what depends on something that failed is not asked.
//! Invariant: nothing is changed but for the small
//! objects that the storage is tried with, which are taken away again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::{Context, Opened};
use crate::repo::catalog::Catalog;
use crate::repo::keys::slot;
use crate::row::schema::{Structure, Table};
use crate::source::{Source, open};
use crate::store::{Store, probe};

/// How far clocks may differ.
const SKEW_MAX_SECONDS: i64 = 300;
/// Room that the state of this host may take besides what it has.
const STATE_SPARE_BYTES: u64 = 64 << 20;

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, in a sentence.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Check {
    /// Something that is as it should be.
    pub fn good(name: &str, detail: String) -> Check {
        Check {
            name: name.into(),
            ok: true,
            detail,
            hint: None,
        }
    }

    /// Something that is not.
    pub fn bad(name: &str, error: &AnyFailure) -> Check {
        Check {
            name: name.into(),
            ok: false,
            detail: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// How many times the text of its rows a drill's database takes at most: 1.4 to 2.6 were seen, the
/// indexes and what the server keeps for itself included.
const DRILL_TIMES: u64 = 3;

/// A source to look at.
pub struct Candidate {
    /// Its name.
    pub name: SourceName,
    /// What reads it, or why it could not even be tried.
    pub source: Result<Box<dyn Source>, AnyFailure>,
    /// Whether drills of it are planned on this host.
    pub is_drilled: bool,
}

/// What kinds of CRM the tables of a source are known by.
pub type Known<'a> = &'a (dyn Fn(&SourceName, &[Table]) -> Vec<String> + Sync);

/// Looks at the storage and what stands in it; `context` may say why there is none to look at.
pub async fn run(
    context: &Result<Context, AnyFailure>,
    sources: Vec<Candidate>,
    known: Known<'_>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut sizes = BTreeMap::new();
    match context {
        Err(error) => checks.push(Check::bad("repository", error)),
        Ok(context) => sizes = look_at_repository(context, &mut checks).await,
    }
    let drilled = sources.iter().filter(|one| one.is_drilled);
    let largest = drilled.filter_map(|one| sizes.get(&one.name)).max();
    let needed = largest.copied().unwrap_or(0).saturating_mul(DRILL_TIMES);
    checks.push(room("scratch directory", &std::env::temp_dir(), needed));
    for candidate in sources {
        checks.extend(look_at_source(candidate, known).await);
    }
    checks
}

/// Looks at a repository; gives how many bytes each of its sources has.
async fn look_at_repository(
    context: &Context,
    checks: &mut Vec<Check>,
) -> BTreeMap<SourceName, u64> {
    let none = BTreeMap::new();
    match try_storage(context).await {
        Ok(found) => checks.extend(found),
        Err(error) => {
            checks.push(Check::bad("storage", &error));
            return none;
        }
    }
    let opened = match context.open().await {
        Ok(opened) => opened,
        Err(error) => {
            checks.push(Check::bad("repository", &error));
            return none;
        }
    };
    let what = match opened.vault.access.may_read() {
        true => "opens with an owner's key",
        false => "opens with a writer's key, which cannot read rows",
    };
    let id = opened.vault.realm.repository;
    checks.push(Check::good("repository", format!("{id} {what}")));
    checks.push(key_slots(&opened).await);
    let place = opened.state.path("");
    checks.push(state(&place));
    checks.push(room("state directory", &place, state_room(&place)));
    match opened.catalog().await {
        Err(error) => {
            checks.push(Check::bad("ledgers", &error));
            none
        }
        Ok(catalog) => {
            checks.extend(ledgers(&catalog, context.clock.now().seconds()));
            sizes(&catalog)
        }
    }
}

/// Whether there are ways in, and more than one.
async fn key_slots(opened: &Opened) -> Check {
    const NAME: &str = "key slots";
    let found = slot::read_all(&opened.vault.store, opened.vault.realm.repository).await;
    let slots = match found {
        Ok(slots) => slots,
        Err(error) => return Check::bad(NAME, &error.into()),
    };
    let kinds: Vec<&str> = slots.whole.iter().map(|slot| slot.lock.name()).collect();
    let wrong = |what: String, hint: &str| {
        let hint = Some(hint.into());
        Check::bad(NAME, &AnyFailure::new(Class::Corrupt, what, hint))
    };
    if let Some((name, error)) = slots.damaged.first() {
        let what = format!("slot {name} opens nothing: {error}");
        return wrong(what, "'rowvault key remove SLOT', then add another");
    }
    match kinds[..] {
        [] => wrong(
            "there is none: who loses the key that is in use loses everything".into(),
            "'rowvault key recovery --out FILE', at once",
        ),
        [kind] => wrong(
            format!("{kind} is the only way in"),
            "'rowvault key recovery --out FILE', and print it",
        ),
        _ => Check::good(NAME, kinds.join(", ")),
    }
}

/// Whether nobody else may look into the state directory.
fn state(place: &Path) -> Check {
    let shown = place.display();
    match fs::metadata(place) {
        Ok(facts) if facts.permissions().mode() & 0o077 != 0 => Check {
            ok: false,
            hint: Some(format!("run: chmod 700 {shown}")),
            ..Check::good("state", format!("others may enter {shown}"))
        },
        Ok(_) => Check::good("state", format!("{shown} is ours")),
        Err(error) => Check::bad("state", &unreadable(place, &error)),
    }
}

fn unreadable(place: &Path, error: &io::Error) -> AnyFailure {
    let what = format!("cannot look at {}: {error}", place.display());
    AnyFailure::new(Class::Denied, what, Some("check its rights".into()))
}

/// What the state of this host takes at most until somebody looks again: each source's shadow is
/// written anew beside the old one.
fn state_room(place: &Path) -> u64 {
    fn bytes(place: &Path) -> u64 {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let each = entries.map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => bytes(&entry.path()),
            Ok(facts) => facts.len(),
            Err(_) => 0,
        });
        each.sum()
    }
    bytes(place).saturating_add(STATE_SPARE_BYTES)
}

/// Whether the disk of `place` has `needed` bytes left.
fn room(what: &str, place: &Path, needed: u64) -> Check {
    const MIB: u64 = 1 << 20;
    let name = format!("room of the {what}");
    let facts = match rustix::fs::statvfs(place) {
        Ok(facts) => facts,
        Err(error) => return Check::bad(&name, &unreadable(place, &error.into())),
    };
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    let shown = place.display();
    let detail = format!("{} MiB are free at {shown}", free / MIB);
    match free >= needed {
        true => Check::good(&name, detail),
        false => Check {
            ok: false,
            hint: Some(format!(
                "make room, or name another place: {} MiB are needed",
                needed.div_ceil(MIB)
            )),
            ..Check::good(&name, detail)
        },
    }
}

/// How many bytes each source has, by its snapshots.
fn sizes(catalog: &Catalog) -> BTreeMap<SourceName, u64> {
    let mut sizes = BTreeMap::new();
    for snapshot in catalog.snapshots() {
        let size = sizes.entry(snapshot.source.clone()).or_insert(0);
        *size = snapshot.record.totals.bytes_read.max(*size);
    }
    sizes
}

async fn try_storage(context: &Context) -> Result<Vec<Check>, AnyFailure> {
    let (clock, random) = (context.clock.clone(), context.random.clone());
    let store = Store::open(&context.repository, &context.store, clock, random)?;
    let verdict = probe::probe(&store).await?;
    let mut checks = vec![Check::good("storage", format!("{} answers", store.url()))];
    let mut doubt = |name: &str, good: bool, detail: &str, hint: &str| {
        checks.push(Check {
            name: name.into(),
            ok: good,
            detail: detail.into(),
            hint: (!good).then(|| hint.into()),
        });
    };
    let writers = verdict.several_writers();
    doubt(
        "several writers",
        writers,
        if writers {
            "may write at the same time"
        } else {
            "cannot be kept apart by this storage"
        },
        "let one host alone write to it",
    );
    let maintenance = verdict.maintenance();
    doubt(
        "maintenance",
        maintenance,
        if maintenance {
            "by lease"
        } else {
            "not by lease on this storage"
        },
        "let one host alone maintain it",
    );
    let skew = verdict.clock_skew_seconds;
    doubt(
        "clock",
        skew.abs() <= SKEW_MAX_SECONDS,
        &format!("the storage's differs by {skew} s from ours"),
        "set the clock of this host by NTP",
    );
    Ok(checks)
}

fn ledgers(catalog: &Catalog, now: i64) -> Vec<Check> {
    let snapshots = catalog.snapshots().len();
    let sources = catalog.sources.len();
    let whole = format!("sources: {sources}, snapshots: {snapshots}, every chain is whole");
    let mut checks = vec![Check::good("ledgers", whole)];
    let chains = catalog.sources.values();
    let times = chains.filter_map(|source| Some(source.chain.entries.last()?.entry.time.seconds()));
    let ahead = times.max().map_or(0, |newest| newest - now);
    if ahead > SKEW_MAX_SECONDS {
        checks.push(Check {
            ok: false,
            hint: Some("set the clocks of this host and of the other writers by NTP".into()),
            ..Check::good(
                "clock and ledgers",
                format!("the newest entry is {ahead} s ahead of our clock"),
            )
        });
    }
    checks
}

async fn look_at_source(candidate: Candidate, known: Known<'_>) -> Vec<Check> {
    let Candidate {
        name,
        source,
        is_drilled,
    } = candidate;
    let place = format!("source {name}");
    let tried = async {
        let mut source = source?;
        let structure = source.begin().await?;
        source.end().await?;
        Ok::<_, AnyFailure>(structure)
    };
    let structure = match tried.await {
        Err(error) => return vec![Check::bad(&place, &error)],
        Ok(structure) => structure,
    };
    let mut checks = vec![Check::good(&place, told(&structure, &name, known))];
    for program in open::programs(&structure, is_drilled).await {
        let name = format!("{} for {name}", program.name);
        checks.push(match program.found {
            Ok(found) => Check::good(&name, found),
            Err(error) => Check::bad(&name, &error),
        });
    }
    checks
}

/// What was found in a source that can be read, all of it.
fn told(structure: &Structure, name: &SourceName, known: Known<'_>) -> String {
    let mut detail = structure.engine.to_string();
    if let Some(version) = structure.facts.get("server_version") {
        detail.push_str(&format!(" {version}"));
    }
    let tables = structure.tables.len();
    detail.push_str(&format!(", tables: {tables}, each may be read"));
    let crms = known(name, &structure.tables);
    if !crms.is_empty() {
        detail.push_str(&format!("; relations of {}", crms.join(", ")));
    }
    for warning in &structure.warnings {
        detail.push_str("; ");
        detail.push_str(warning);
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_with_too_little_room_is_told_with_what_is_needed() {
        let place = tempfile::tempdir().unwrap();
        assert!(room("scratch directory", place.path(), 0).ok);
        let check = room("scratch directory", place.path(), u64::MAX);
        assert!(!check.ok);
        let hint = check.hint.unwrap();
        assert!(hint.contains("17592186044416 MiB are needed"), "{hint}");
        assert!(!room("scratch directory", Path::new("/nowhere"), 0).ok);
    }

    #[test]
    fn state_directory_that_others_may_enter_is_told() {
        let place = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(place.path(), fs::Permissions::from_mode(mode));
        mode(0o700).unwrap();
        assert!(state(place.path()).ok);
        mode(0o755).unwrap();
        let hint = state(place.path()).hint.unwrap();
        assert!(hint.starts_with("run: chmod 700 /"), "{hint}");
        fs::write(place.path().join("shadow"), [0; 1000]).unwrap();
        assert_eq!(state_room(place.path()), STATE_SPARE_BYTES + 1000);
    }
}
