//! A PostgreSQL database that is exchanged by renaming, two names in one transaction.
//!
//! The lock that the first rename takes lets nobody connect; sessions that are still there are
//! ended from another connection, each between two transactions of its own unless force was asked
//! for. Invariant: the kept name exists exactly when the exchange was committed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::catalog::texts;
use super::client::Client;
use super::error::Error;
use super::quote::{identifier, literal};
use super::target::{drop_database, maintenance};
use super::{settle, state};
use crate::clock::Clock;
use crate::failure::{AnyFailure, Class};
use crate::planted::reach;
use crate::source::address::{MAKING, Ownership, ServerUrl, SourceOptions, SourceUrl};
use crate::source::{Exchange, Exchanged, Keep, Others, Settled, Swap};

/// The longest name of a database, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// For how long one try may keep others from connecting.
const TRY_MS: u32 = 1500;
/// How long transactions of others may still run where they are respected.
const COURTESY: Duration = Duration::from_secs(5);
/// The same where they may come to their end.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often sessions are ended during a try.
const BETWEEN: Duration = Duration::from_millis(20);

/// A live database.
pub struct PostgresSwap {
    live: ServerUrl,
    clock: Arc<dyn Clock>,
}

/// The PostgreSQL database at `server`, to be exchanged; nothing is connected yet.
pub fn swap(server: &ServerUrl, options: &SourceOptions) -> PostgresSwap {
    PostgresSwap {
        live: server.clone(),
        clock: options.clock.clone(),
    }
}

#[async_trait]
impl Swap for PostgresSwap {
    async fn place(&mut self) -> Result<String, AnyFailure> {
        Ok(SourceUrl::Postgres(self.live.clone()).display())
    }

    fn beside(&self, mark: &str) -> String {
        let mut name = self.live.database();
        let room = NAME_BYTES_MAX.saturating_sub(mark.len() + 1 + MAKING.len());
        let mut end = name.len().min(room);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        format!("{name}_{mark}")
    }

    async fn check(&mut self, names: &Exchange, others: Others) -> Result<(), AnyFailure> {
        let mut live = Client::connect(&self.live).await?;
        let checked = check_live(&mut live, others).await;
        live.close().await;
        checked?;
        let mut client = maintenance(&self.live).await?;
        let checked = self.check_names(&mut client, names, others).await;
        client.close().await;
        Ok(checked?)
    }

    async fn broken_references(&mut self, _: &str) -> Result<Vec<String>, AnyFailure> {
        // The server checked every row when the keys were made.
        Ok(Vec::new())
    }

    async fn exchange(
        &mut self,
        names: &Exchange,
        others: Others,
        _: Keep<'_>,
    ) -> Result<Exchanged, AnyFailure> {
        let mut renaming = maintenance(&self.live).await?;
        let mut ending = maintenance(&self.live).await?;
        let done = self.work(&mut renaming, &mut ending, names, others).await;
        renaming.close().await;
        ending.close().await;
        Ok(done?)
    }

    async fn settle(&mut self, names: &Exchange) -> Result<Settled, AnyFailure> {
        let mut client = maintenance(&self.live).await?;
        let there = exists(&mut client, &names.kept).await;
        client.close().await;
        Ok(match there? {
            true => Settled::New,
            false => Settled::Old,
        })
    }

    async fn remove(&mut self, name: &str) -> Result<(), AnyFailure> {
        debug_assert_ne!(name, self.live.database());
        drop_database(&self.live, &format!("{name}{MAKING}")).await?;
        Ok(drop_database(&self.live, name).await?)
    }
}

async fn exists(client: &mut Client, name: &str) -> Result<bool, Error> {
    let sql = format!(
        "SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_database WHERE datname = {}",
        literal(name)
    );
    let count = client.value(&sql, "looking for databases").await?;
    Ok(count != "0")
}

/// What is bound to the database itself, and would go with the old one.
async fn check_live(live: &mut Client, others: Others) -> Result<(), Error> {
    let doing = "looking for what is bound to the database";
    let name = live.database().to_owned();
    let own = "= pg_catalog.current_database()";
    let subscriptions = "SELECT s.subname::text FROM pg_catalog.pg_subscription s \
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname";
    for (what, sql, passes) in [
        (
            "prepared transaction",
            "SELECT gid::text FROM pg_catalog.pg_prepared_xacts WHERE database",
            false,
        ),
        (
            "replication slot",
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database",
            true,
        ),
        ("subscription", subscriptions, true),
    ] {
        let rows = live.rows(&format!("{sql} {own} ORDER BY 1"), doing).await?;
        let found: Vec<String> = rows
            .into_iter()
            .map(texts::<1>)
            .map(|[name]| name)
            .collect();
        if found.is_empty() || (passes && others == Others::End) {
            continue;
        }
        return Err(Error::stated(
            Class::Conflict,
            format!("database {name} has the {what} {}", found.join(", ")),
            match passes {
                true => "drop it, or pass --force: it stays with the database that is kept",
                false => "commit it or roll it back",
            },
        ));
    }
    Ok(())
}

impl PostgresSwap {
    async fn check_names(
        &self,
        client: &mut Client,
        names: &Exchange,
        others: Others,
    ) -> Result<(), Error> {
        let live = self.live.database();
        let sql = format!(
            "SELECT (r.rolsuper OR r.rolcreatedb)::text, \
             pg_catalog.pg_has_role(d.datdba, 'USAGE')::text, \
             (r.rolsuper OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'))::text, \
             current_user::text FROM pg_catalog.pg_database d, pg_catalog.pg_roles r \
             WHERE r.rolname = current_user AND d.datname = {}",
            literal(&live)
        );
        let row = client.rows(&sql, "looking at its rights").await?.pop();
        let [create, own, signal, user] = texts(row.unwrap_or_default());
        for (may, right, grant) in [
            (
                create,
                "make databases",
                format!("ALTER ROLE {} CREATEDB", identifier(&user)),
            ),
            (
                own,
                "rename it",
                format!(
                    "ALTER DATABASE {} OWNER TO {}",
                    identifier(&live),
                    identifier(&user)
                ),
            ),
            (
                signal,
                "end sessions",
                format!("GRANT pg_signal_backend TO {}", identifier(&user)),
            ),
        ] {
            if may != "true" {
                let what = format!("role {user} may not {right} (database {live})");
                return Err(Error::stated(Class::Denied, what, grant));
            }
        }
        for name in [names.kept.clone(), names.side.clone() + MAKING] {
            if exists(client, &name).await? {
                let what = format!("database {name} exists already");
                return Err(Error::stated(
                    Class::Conflict,
                    what,
                    "rename it, or drop it",
                ));
            }
        }
        self.wait_for_quiet(client, others).await
    }

    /// Waits until nobody has been in a transaction for a second.
    async fn wait_for_quiet(&self, client: &mut Client, others: Others) -> Result<(), Error> {
        let until = self.clock.elapsed() + patience(others);
        let sql = format!(
            "SELECT pid::text, COALESCE(usename, '')::text, COALESCE(state, '')::text \
             FROM pg_catalog.pg_stat_activity \
             WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid() AND state <> 'idle' \
             AND backend_type = 'client backend' \
             AND xact_start < pg_catalog.clock_timestamp() - interval '1 second'",
            literal(&self.live.database())
        );
        if others == Others::End {
            return Ok(());
        }
        loop {
            let busy = client.rows(&sql, "looking who works in it").await?;
            if busy.is_empty() {
                return Ok(());
            }
            if self.clock.elapsed() > until {
                return Err(self.in_use(&busy.into_iter().map(texts::<3>).collect::<Vec<_>>()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn in_use(&self, busy: &[[String; 3]]) -> Error {
        let shown = |[pid, user, state]: &[String; 3]| format!("{user} (process {pid}, {state})");
        let who: Vec<String> = busy.iter().take(5).map(shown).collect();
        Error::stated(
            Class::Busy,
            format!(
                "{} of others work in database {}: {}",
                match busy.len() {
                    1 => "1 transaction".to_owned(),
                    many => format!("{many} transactions"),
                },
                self.live.database(),
                who.join(", ")
            ),
            "try again, --wait for their end, or end them with --force",
        )
    }

    async fn work(
        &self,
        renaming: &mut Client,
        ending: &mut Client,
        names: &Exchange,
        others: Others,
    ) -> Result<Exchanged, Error> {
        let mut warnings = Vec::new();
        self.copy_properties(renaming, &names.side, &mut warnings)
            .await?;
        reach("exchange copied");
        let (live, side) = (self.live.database(), &names.side);
        let swap = format!(
            "BEGIN; SET LOCAL statement_timeout = {TRY_MS}; \
             ALTER DATABASE {} RENAME TO {}; ALTER DATABASE {} RENAME TO {}",
            identifier(&live),
            identifier(&names.kept),
            identifier(side),
            identifier(&live)
        );
        let until = self.clock.elapsed() + patience(others);
        loop {
            self.wait_for_quiet(ending, others).await?;
            let start = self.clock.elapsed();
            match self.try_once(renaming, ending, &swap, side, others).await {
                Ok(()) => {
                    reach("exchange written");
                    return Ok(Exchanged {
                        downtime: self.clock.elapsed() - start,
                        warnings,
                    });
                }
                // In use, or the time of a try was over.
                Err(error) if matches!(error.code(), "55006" | "57014" | "55P03") => {
                    if self.clock.elapsed() > until {
                        return Err(self.in_use(&[]));
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One try: renames, while sessions are ended.
    async fn try_once(
        &self,
        renaming: &mut Client,
        ending: &mut Client,
        swap: &str,
        side: &str,
        others: Others,
    ) -> Result<(), Error> {
        let which = match others {
            Others::End => "",
            // One that has just begun comes to its end first.
            Others::Respect | Others::Wait => " AND COALESCE(state, 'idle') = 'idle'",
        };
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid)::text FROM pg_catalog.pg_stat_activity \
             WHERE datname IN ({}, {}) AND backend_type = 'client backend'{which}",
            literal(&self.live.database()),
            literal(side)
        );
        let doing = "exchanging the databases";
        let renamed = {
            let renamed = renaming.run(swap, doing);
            tokio::pin!(renamed);
            loop {
                // Each statement is waited for to its end: one that is dropped leaves its answer
                // behind.
                match tokio::time::timeout(BETWEEN, &mut renamed).await {
                    Ok(renamed) => break renamed,
                    Err(_) => ending.run(&end, "ending sessions").await?,
                }
            }
        };
        reach("exchange half written");
        match renamed {
            Ok(()) => renaming.run("COMMIT", doing).await,
            Err(error) => {
                renaming.run("ROLLBACK", doing).await?;
                Err(error)
            }
        }
    }

    /// Gives the side database the owner, rights and settings that the live one has now.
    async fn copy_properties(
        &self,
        client: &mut Client,
        side: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let mut live = Client::connect(&self.live).await?;
        let database = state::database(&mut live).await;
        live.close().await;
        let mut database = database?;
        let target = format!("DATABASE {}", identifier(side));
        // What the snapshot's time had set, and today has not.
        let doing = "copying the settings of the database";
        let roles = format!(
            "SELECT r.rolname::text FROM pg_catalog.pg_db_role_setting s \
             JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
             JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase WHERE d.datname = {}",
            literal(side)
        );
        let mut resets = vec![format!("ALTER {target} RESET ALL")];
        for row in client.rows(&roles, doing).await? {
            let [role] = texts(row);
            resets.push(format!(
                "ALTER ROLE {} IN {target} RESET ALL",
                identifier(&role)
            ));
        }
        let limit = database.connection_limit;
        resets.push(format!("ALTER {target} CONNECTION LIMIT {limit}"));
        let comment = database.comment.as_deref().map(literal);
        let comment = comment.unwrap_or_else(|| "NULL".into());
        resets.push(format!("COMMENT ON {target} IS {comment}"));
        client.run(&resets.join("; "), doing).await?;
        // Rights that nobody ever changed are these.
        database
            .grants
            .get_or_insert_with(|| state::default_grants(&database.owner));
        let ownership = Ownership::default();
        settle::database(client, side, &database, &ownership, warnings).await
    }
}

fn patience(others: Others) -> Duration {
    match others {
        Others::Wait => PATIENCE,
        Others::Respect | Others::End => COURTESY,
    }
}
