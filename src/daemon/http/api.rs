//! The API: what programs with a token may look at and start.
//!
//! One table says each path, method and role, and the router is made of it. Invariant: what starts
//! or changes something is a POST, and stands in the ledger of its source, with who asked, before
//! it is done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use tokio::sync::oneshot;

use crate::config::token::Role;
use crate::daemon::archive::Archive;
use crate::daemon::board::Asked;
use crate::daemon::http::Window;
use crate::daemon::http::documents::{
    DrillDocument, DrillsDocument, JobDocument, JobsDocument, LedgerDocument, ListQuery,
    RunDocument, RunsDocument, RunsQuery, SnapshotsDocument, SourceDocument, SourcesDocument,
    StartBody, StartedDocument, ThawBody, ThawedDocument,
};
use crate::daemon::http::gate::{Caller, at_least};
use crate::daemon::http::refusal::Refusal;
use crate::daemon::job::Task;
use crate::daemon::question::{Question, Standing};
use crate::document::{EntryDocument, HeadDocument, PastDocument, SnapshotDocument};
use crate::failure::{Class, Failure};
use crate::format::ledger::{Event, Requested};
use crate::id::SourceName;
use crate::job::drill;
use crate::repo::catalog::{Catalog, Source};

/// Where the API stands.
pub const PREFIX: &str = "/api/v1";
/// How many of a list are answered where nobody says, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// How long the loop may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The longest reason of a thaw.
const REASON_BYTES_MAX: usize = 500;

/// What the API speaks of.
pub struct Face {
    /// What the loop shows and is asked.
    pub window: Arc<Window>,
    /// The repository.
    pub archive: Arc<Archive>,
}

type Shared = State<Arc<Face>>;
type Listed<T> = Result<Query<T>, QueryRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;

/// One thing that can be asked for.
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path, below [`PREFIX`].
    pub path: &'static str,
    /// Which role it takes at least.
    pub role: Role,
    handler: fn() -> MethodRouter<Arc<Face>>,
}

/// Everything that can be asked for.
pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/sources",
        role: Role::Viewer,
        handler: || get(sources),
    },
    Route {
        method: "GET",
        path: "/snapshots",
        role: Role::Viewer,
        handler: || get(snapshots),
    },
    Route {
        method: "GET",
        path: "/runs",
        role: Role::Viewer,
        handler: || get(runs),
    },
    Route {
        method: "GET",
        path: "/next",
        role: Role::Viewer,
        handler: || get(next_runs),
    },
    Route {
        method: "GET",
        path: "/drills",
        role: Role::Viewer,
        handler: || get(drills),
    },
    Route {
        method: "GET",
        path: "/ledger",
        role: Role::Viewer,
        handler: || get(ledger),
    },
    Route {
        method: "POST",
        path: "/backups",
        role: Role::Operator,
        handler: || post(start_backup),
    },
    Route {
        method: "POST",
        path: "/drills",
        role: Role::Operator,
        handler: || post(start_drill),
    },
    Route {
        method: "POST",
        path: "/thaws",
        role: Role::Admin,
        handler: || post(thaw),
    },
];

/// The routes of the table, each behind its role.
pub fn router(face: Arc<Face>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let role = route.role;
        let handler =
            (route.handler)().layer(from_fn(move |request, next| at_least(role, request, next)));
        router = router.route(route.path, handler);
    }
    let nothing = || async { Refusal::Unknown };
    router.fallback(nothing).with_state(face)
}

impl Face {
    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, Refusal> {
        let busy = || {
            let what = "the daemon is too busy to answer".to_owned();
            Refusal::Failed(Class::Busy, what, Some("ask again".into()))
        };
        let (told, answer) = oneshot::channel();
        let asked = self.window.questions.try_send(question(told));
        asked.map_err(|_| busy())?;
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        answer.map_err(|_| busy())?.map_err(|_| busy())
    }
}

fn listed<T>(query: Listed<T>) -> Result<T, Refusal> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(Refusal::Meaning(rejection.body_text())),
    }
}

fn body<T>(body: Body<T>) -> Result<T, Refusal> {
    match body {
        Ok(Json(body)) => Ok(body),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::TooLong)
        }
        Err(rejection) => Err(Refusal::Meaning(rejection.body_text())),
    }
}

fn name(text: &str) -> Result<SourceName, Refusal> {
    text.parse().map_err(|error: crate::id::Error| {
        Refusal::Failed(error.class(), error.to_string(), error.hint())
    })
}

fn limit(limit: Option<usize>) -> usize {
    limit.unwrap_or(LIMIT).min(LIMIT_MAX)
}

/// The sources of a catalog, or the one that is asked for.
fn chosen<'a>(catalog: &'a Catalog, source: Option<&str>) -> Result<Vec<&'a Source>, Refusal> {
    let Some(text) = source else {
        return Ok(catalog.sources.values().collect());
    };
    let found = catalog.source(&name(text)?);
    let found = found.map_err(|error| Refusal::from(crate::failure::AnyFailure::from(error)))?;
    Ok(vec![found])
}

async fn sources(State(face): Shared) -> Result<Json<SourcesDocument>, Refusal> {
    let jobs: Vec<Standing> = face.ask(Question::Jobs).await?;
    let catalog = face.archive.catalog().await?;
    let backups = jobs.iter().filter(|job| job.task == Task::Backup);
    let configured = backups.clone().filter_map(|job| job.source.clone());
    let living = catalog.sources.keys().map(ToString::to_string);
    let names: BTreeSet<String> = configured.chain(living).collect();
    let sources = names.iter().map(|name| {
        let living = catalog
            .sources
            .values()
            .find(|one| one.name.as_str() == name);
        let backup = backups
            .clone()
            .find(|job| job.source.as_ref() == Some(name));
        SourceDocument::new(name, living, backup)
    });
    let sources = sources.collect();
    Ok(Json(SourcesDocument { sources }))
}

async fn snapshots(
    State(face): Shared,
    query: Listed<ListQuery>,
) -> Result<Json<SnapshotsDocument>, Refusal> {
    let query = listed(query)?;
    let catalog = face.archive.catalog().await?;
    let of = chosen(&catalog, query.source.as_deref())?;
    let mut all: Vec<_> = of.iter().flat_map(|source| &source.snapshots).collect();
    all.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.record.taken_at));
    let newest = all.into_iter().take(limit(query.limit));
    let snapshots = newest.map(SnapshotDocument::new).collect();
    Ok(Json(SnapshotsDocument { snapshots }))
}

async fn runs(
    State(face): Shared,
    query: Listed<RunsQuery>,
) -> Result<Json<RunsDocument>, Refusal> {
    let query = listed(query)?;
    let runs = face.ask(Question::Runs).await?;
    let fits = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
    };
    let runs = runs.iter().rev().filter(|past| {
        fits(&query.source, past.source.as_deref()) && fits(&query.task, Some(past.task.name()))
    });
    let runs = runs
        .take(limit(query.limit))
        .map(RunDocument::new)
        .collect();
    Ok(Json(RunsDocument { runs }))
}

async fn next_runs(State(face): Shared) -> Result<Json<JobsDocument>, Refusal> {
    let mut jobs: Vec<Standing> = face.ask(Question::Jobs).await?;
    jobs.sort_by_key(|job| (job.next.is_none(), job.next));
    let jobs = jobs.iter().map(JobDocument::new).collect();
    Ok(Json(JobsDocument { jobs }))
}

async fn drills(
    State(face): Shared,
    query: Listed<ListQuery>,
) -> Result<Json<DrillsDocument>, Refusal> {
    let query = listed(query)?;
    let catalog = face.archive.catalog().await?;
    let of = chosen(&catalog, query.source.as_deref())?;
    let mut all: Vec<_> = of
        .into_iter()
        .flat_map(|source| {
            drill::past(source)
                .into_iter()
                .map(move |past| (source, past))
        })
        .collect();
    all.sort_by_key(|(_, past)| std::cmp::Reverse(past.time));
    let newest = all.iter().take(limit(query.limit));
    let drills = newest.map(|(source, past)| DrillDocument {
        source: source.name.to_string(),
        past: PastDocument::new(past),
    });
    let drills = drills.collect();
    Ok(Json(DrillsDocument { drills }))
}

async fn ledger(
    State(face): Shared,
    query: Listed<ListQuery>,
) -> Result<Json<LedgerDocument>, Refusal> {
    let query = listed(query)?;
    let catalog = face.archive.catalog().await?;
    let of = chosen(&catalog, query.source.as_deref())?;
    let heads = of.iter().filter_map(|source| HeadDocument::of(source));
    let heads = heads.collect();
    let mut all: Vec<_> = of.iter().flat_map(|one| &one.chain.entries).collect();
    all.sort_by_key(|link| std::cmp::Reverse((link.entry.time, link.entry.number)));
    let newest = all.into_iter().take(limit(query.limit));
    let entries = newest.map(EntryDocument::new).collect();
    Ok(Json(LedgerDocument { heads, entries }))
}

async fn start_backup(
    State(face): Shared,
    Extension(caller): Extension<Caller>,
    asked: Body<StartBody>,
) -> Result<Response, Refusal> {
    start(&face, &caller, Task::Backup, body(asked)?).await
}

async fn start_drill(
    State(face): Shared,
    Extension(caller): Extension<Caller>,
    asked: Body<StartBody>,
) -> Result<Response, Refusal> {
    start(&face, &caller, Task::Drill, body(asked)?).await
}

/// Notes in the ledger who asked, and puts the job on the board.
async fn start(
    face: &Face,
    caller: &Caller,
    task: Task,
    asked: StartBody,
) -> Result<Response, Refusal> {
    let source = name(&asked.source)?;
    let job = format!("{} {source}", task.name());
    placed(
        &job,
        face.ask(|told| Question::May(job.clone(), told)).await?,
    )?;
    let event = Event::Requested(Requested {
        what: job.clone(),
        by: caller.name.clone(),
        address: caller.address.to_string(),
    });
    let head = face.archive.record(source.clone(), event).await?;
    let start = face.ask(|told| Question::Start(job.clone(), told)).await?;
    placed(&job, start)?;
    tracing::info!(
        "{job} was asked for by {} at {}",
        caller.name,
        caller.address
    );
    let entry = HeadDocument {
        source: source.to_string(),
        number: head.number,
        hash: head.hash.to_string(),
    };
    let document = StartedDocument { job, entry };
    Ok((StatusCode::ACCEPTED, Json(document)).into_response())
}

fn placed(job: &str, asked: Asked) -> Result<(), Refusal> {
    match asked {
        Asked::Waiting => Ok(()),
        Asked::Already => Err(Refusal::Failed(
            Class::Conflict,
            format!("{job} waits or runs already"),
            Some("wait for its end: /api/v1/runs".into()),
        )),
        Asked::Unknown => Err(Refusal::Failed(
            Class::Missing,
            format!("there is no {job}"),
            Some("write the source into the configuration of the daemon".into()),
        )),
    }
}

async fn thaw(
    State(face): Shared,
    Extension(caller): Extension<Caller>,
    asked: Body<ThawBody>,
) -> Result<Json<ThawedDocument>, Refusal> {
    let asked = body(asked)?;
    let source = name(&asked.source)?;
    if asked.reason.len() > REASON_BYTES_MAX {
        let what = format!("reason is longer than {REASON_BYTES_MAX} bytes");
        return Err(Refusal::Meaning(what));
    }
    let by = format!("asked for by {} at {}", caller.name, caller.address);
    let reason = match asked.reason.is_empty() {
        true => by,
        false => format!("{}; {by}", asked.reason),
    };
    let was = face.archive.thaw(source.clone(), reason).await?;
    tracing::info!(
        "{source} was thawed by {} at {}",
        caller.name,
        caller.address
    );
    let thawed = source.to_string();
    Ok(Json(ThawedDocument { thawed, was }))
}
