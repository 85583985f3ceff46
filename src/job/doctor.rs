//! Looks at everything that a backup needs, and says what is wrong and what to do.
//!
//! Storage, repository, key, state directory, ledgers, and each source, one after the other; what
//! depends on something that failed is not asked. Invariant: nothing is changed but for the small
//! objects that the storage is tried with, which are taken away again.

use crate::failure::AnyFailure;
use crate::id::SourceName;
use crate::job::{Context, Opened};
use crate::row::schema::Table;
use crate::source::Source;
use crate::store::{Store, probe};

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
    fn good(name: &str, detail: String) -> Check {
        Check {
            name: name.into(),
            ok: true,
            detail,
            hint: None,
        }
    }

    fn bad(name: &str, error: &AnyFailure) -> Check {
        Check {
            name: name.into(),
            ok: false,
            detail: error.to_string(),
            hint: error.hint(),
        }
    }
}

/// A source to look at, or why it could not even be tried.
pub type Candidate = (SourceName, Result<Box<dyn Source>, AnyFailure>);

/// What kinds of CRM the tables of a source are known by.
pub type Known<'a> = &'a (dyn Fn(&SourceName, &[Table]) -> Vec<String> + Sync);

/// Looks at the storage and what stands in it; `context` may say why there is none to look at.
pub async fn run(
    context: &Result<Context, AnyFailure>,
    sources: Vec<Candidate>,
    known: Known<'_>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    match context {
        Err(error) => checks.push(Check::bad("repository", error)),
        Ok(context) => look_at_repository(context, &mut checks).await,
    }
    for (name, source) in sources {
        checks.push(look_at_source(&name, source, known).await);
    }
    checks
}

async fn look_at_repository(context: &Context, checks: &mut Vec<Check>) {
    match try_storage(context).await {
        Ok(found) => checks.extend(found),
        Err(error) => return checks.push(Check::bad("storage", &error)),
    }
    let opened = match context.open().await {
        Ok(opened) => opened,
        Err(error) => return checks.push(Check::bad("repository", &error)),
    };
    let what = match opened.vault.access.may_read() {
        true => "opens with an owner's key",
        false => "opens with a writer's key, which cannot read rows",
    };
    let id = opened.vault.realm.repository;
    checks.push(Check::good("repository", format!("{id} {what}")));
    let place = opened.state.path("");
    checks.push(Check::good("state", format!("{} is ours", place.display())));
    checks.push(match ledgers(&opened).await {
        Ok(detail) => Check::good("ledgers", detail),
        Err(error) => Check::bad("ledgers", &error),
    });
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
        skew.abs() <= 300,
        &format!("the storage's differs by {skew} s from ours"),
        "set the clock of this host by NTP",
    );
    Ok(checks)
}

async fn ledgers(opened: &Opened) -> Result<String, AnyFailure> {
    let catalog = opened.catalog().await?;
    let snapshots = catalog.snapshots().len();
    let sources = catalog.sources.len();
    Ok(format!(
        "sources: {sources}, snapshots: {snapshots}, every chain is whole"
    ))
}

async fn look_at_source(
    name: &SourceName,
    source: Result<Box<dyn Source>, AnyFailure>,
    known: Known<'_>,
) -> Check {
    let place = format!("source {name}");
    let tried = async {
        let mut source = source?;
        let structure = source.begin().await?;
        source.end().await?;
        Ok::<_, AnyFailure>(structure)
    };
    match tried.await {
        Err(error) => Check::bad(&place, &error),
        Ok(structure) => {
            let tables = structure.tables.len();
            let mut detail = format!("{}, tables: {tables}", structure.engine);
            let crms = known(name, &structure.tables);
            if !crms.is_empty() {
                detail.push_str(&format!("; relations of {}", crms.join(", ")));
            }
            for warning in &structure.warnings {
                detail.push_str("; ");
                detail.push_str(warning);
            }
            Check::good(&place, detail)
        }
    }
}
