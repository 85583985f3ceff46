//! A PostgreSQL database in the making.
//!
//! A database that does not exist is made under a side name and renamed when it is whole; one
//! that exists and is empty is filled in place and emptied again on failure. Invariant: until
//! `publish`, the asked-for name is as it was; triggers, indexes, keys and rights come after rows,
//! event triggers after everything.

use std::sync::{Mutex as SyncMutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};

use super::client::Client;
use super::empty::Public;
use super::error::Error;
use super::listing::{Listing, Which};
use super::needs::{Needs, server_major};
use super::structure::{self, ARCHIVE, State};
use super::tools::InMemory;
use super::{archive, empty, load, quote, rows, settle, tools};
use crate::failure::{AnyFailure, Class};
use crate::row::schema::{Engine, Structure, Table};
use crate::source::address::{Aim, Extent, MAKING, ServerUrl, SourceUrl, TargetOptions};
use crate::source::{PieceReceiver, PieceSender, Published, Target};

/// What keeps `pg_restore` from granting and revoking.
const WITHOUT_RIGHTS: &str = "--no-privileges";

/// The PostgreSQL database at `url`, to be made.
///
/// # Errors
/// Invalid: the address is another engine's.
pub fn target(url: &SourceUrl, options: &TargetOptions) -> Result<Box<dyn Target>, AnyFailure> {
    match url {
        SourceUrl::Postgres(server) => Ok(Box::new(Making {
            asked: server.clone(),
            options: options.clone(),
            place: Place::None,
            prepared: None,
            warnings: Vec::new(),
            scattered: true,
        })),
        _ => Err(Error::stated(Class::Invalid, "not a PostgreSQL address", "").into()),
    }
}

/// Where the database is being made.
#[derive(Clone)]
enum Place {
    /// Nothing has been made.
    None,
    /// Beside, under another name.
    Side(ServerUrl),
    /// In the database that was asked for, which was empty.
    Within(Public),
}

struct Making {
    asked: ServerUrl,
    options: TargetOptions,
    place: Place,
    prepared: Option<Prepared>,
    warnings: Vec<String>,
    /// Whether tables may lie where they lay.
    scattered: bool,
}

struct Prepared {
    server: ServerUrl,
    state: State,
    encoding: String,
    tool: tools::Tool,
    archive: InMemory,
    side: Mutex<Client>,
    idle: SyncMutex<Vec<Client>>,
    slots: Semaphore,
}

#[async_trait]
impl Target for Making {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        Ok(self.start(structure).await?)
    }

    async fn load(&self, table: &Table, mut rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let prepared = self.prepared()?;
        let _slot = prepared.slots.acquire().await.map_err(|_| not_prepared())?;
        let mut client = prepared.worker().await?;
        let load = load::Load {
            table,
            encoding: &prepared.encoding,
            side: &prepared.side,
            emptied: true,
        };
        match load::load(&mut client, &load, &mut rows).await {
            Ok(count) => {
                prepared.idle().push(client);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error.into())
            }
        }
    }

    async fn finish(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        Ok(self.complete(structure).await?)
    }

    async fn read_back(&self, table: &Table, out: PieceSender) -> Result<u64, AnyFailure> {
        let prepared = self.prepared()?;
        let _slot = prepared.slots.acquire().await.map_err(|_| not_prepared())?;
        let mut client = prepared.worker().await?;
        let (encoding, side) = (&prepared.encoding, &prepared.side);
        match rows::read_all(&mut client, table, encoding, side, &out).await {
            Ok(count) => {
                prepared.idle().push(client);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error.into())
            }
        }
    }

    fn parallel(&self) -> usize {
        self.options.parallel.clamp(1, 64)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        Ok(self.put_in_place().await?)
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        if let Some(prepared) = self.prepared.take() {
            prepared.close().await;
        }
        let place = std::mem::replace(&mut self.place, Place::None);
        let taken_away = match &place {
            Place::None => Ok(()),
            Place::Side(side) => drop_database(&self.asked, &side.database()).await,
            Place::Within(public) => empty_again(&self.asked, public).await,
        };
        if taken_away.is_err() {
            self.place = place;
        }
        Ok(taken_away?)
    }
}

pub(super) fn not_prepared() -> Error {
    Error::stated(Class::Bug, "the target has not been prepared", "")
}

impl Prepared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn worker(&self) -> Result<Client, Error> {
        let waiting = self.idle().pop();
        match waiting {
            Some(client) => Ok(client),
            None => Client::connect(&self.server).await,
        }
    }

    async fn close(self) {
        let idle: Vec<Client> = self.idle().drain(..).collect();
        for client in idle {
            client.close_hard().await;
        }
        self.side.into_inner().close_hard().await;
    }
}

/// A connection to some database of the server of `asked` that is not `asked` itself.
pub(super) async fn maintenance(asked: &ServerUrl) -> Result<Client, Error> {
    let mut first = None;
    for name in ["postgres", "template1"] {
        if name == asked.database() {
            continue;
        }
        match Client::connect(&asked.with_database(name)).await {
            Ok(client) => return Ok(client),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(not_prepared))
}

pub(super) async fn drop_database(asked: &ServerUrl, name: &str) -> Result<(), Error> {
    let mut client = maintenance(asked).await?;
    let sql = format!(
        "DROP DATABASE IF EXISTS {} WITH (FORCE)",
        quote::identifier(name)
    );
    let dropped = client.run(&sql, "dropping the side database").await;
    client.close().await;
    dropped.map_err(|error| left_over(name, &error))
}

async fn empty_again(asked: &ServerUrl, public: &Public) -> Result<(), Error> {
    let mut client = Client::connect(asked).await?;
    let swept = empty::sweep(&mut client, public).await;
    client.close().await;
    swept.map_err(|error| left_over(&asked.database(), &error))
}

fn left_over(name: &str, error: &Error) -> Error {
    Error::stated(
        Class::Conflict,
        format!("what was restored into database {name} could not be taken away: {error}"),
        format!("drop database {} by hand", quote::identifier(name)),
    )
}

impl Making {
    fn prepared(&self) -> Result<&Prepared, Error> {
        self.prepared.as_ref().ok_or_else(not_prepared)
    }

    async fn start(&mut self, structure: &Structure) -> Result<(), Error> {
        if structure.engine != Engine::Postgres {
            return Err(Error::stated(
                Class::Invalid,
                format!(
                    "a snapshot of {} cannot become a PostgreSQL database",
                    structure.engine
                ),
                "restore it into the engine that it came from",
            ));
        }
        let state = State::of(structure)?;
        let archive = structure::part(structure, ARCHIVE)?;
        let existing = match Client::connect(&self.asked).await {
            Ok(client) => Some(client),
            Err(error) if error.code() == "3D000" => None,
            Err(error) => return Err(error),
        };
        let made_here = existing.is_none();
        let mut client = match existing {
            Some(client) => client,
            None => maintenance(&self.asked).await?,
        };
        let checked = self.check(&mut client, structure, &state, made_here).await;
        let server = match checked {
            Err(error) => Err(error),
            Ok(Place::None) => self.make_side(&mut client, &state).await,
            Ok(place) => {
                self.place = place;
                Ok(self.asked.clone())
            }
        };
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                client.close().await;
                return Err(error);
            }
        };
        client.close().await;
        let made = self
            .fill_before_rows(structure, state, archive, server)
            .await?;
        self.prepared = Some(made);
        Ok(())
    }

    /// Looks for what can be known to go wrong before anything is written, and gives the place that
    /// is there already.
    async fn check(
        &mut self,
        client: &mut Client,
        structure: &Structure,
        state: &State,
        made_here: bool,
    ) -> Result<Place, Error> {
        let needs = Needs {
            structure,
            state,
            ownership: &self.options.ownership,
        };
        needs.check(client).await?;
        let missing = needs.tablespaces(client).await?;
        if !missing.is_empty() {
            self.scattered = false;
            self.warnings.push(format!(
                "the target server has no tablespace {} for this role: everything lies in the \
                 database's own",
                missing.join(", ")
            ));
        }
        if made_here {
            return Ok(Place::None);
        }
        if let Some(found) = empty::find(client).await? {
            return Err(Error::stated(
                Class::Conflict,
                format!(
                    "database {} is not empty: it has {found}",
                    self.asked.database()
                ),
                "name a database that does not exist, or an empty one",
            ));
        }
        Ok(Place::Within(empty::public(client).await?))
    }

    /// A name for a database beside, with the server's time in it.
    async fn side_name(&self, client: &mut Client) -> Result<String, Error> {
        let stamp = "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp(), 'YYYYMMDDHH24MISSMS')";
        let stamp = client.value(stamp, "asking for the time").await?;
        let name = self.asked.database();
        let end = name.floor_char_boundary(63 - "_rowvault_".len() - stamp.len());
        Ok(format!("{}_rowvault_{stamp}", &name[..end]))
    }

    /// Makes an empty database beside, with the encoding and locale that the source had.
    async fn make_side(&mut self, client: &mut Client, state: &State) -> Result<ServerUrl, Error> {
        let name = match self.options.aim {
            Aim::Use => self.side_name(client).await?,
            Aim::Exchange => self.asked.database() + MAKING,
        };
        let doing = "making the side database";
        let exact = settle::create_database(&name, &state.database, true);
        match client.run(&exact, doing).await {
            Ok(()) => {}
            Err(error) if matches!(error.code(), "42809" | "22023" | "42704" | "0A000") => {
                self.warnings.push(format!(
                    "the target server cannot give the database its locale {} ({error}); \
                     it has the server's own",
                    state.database.collate
                ));
                let plain = settle::create_database(&name, &state.database, false);
                client.run(&plain, doing).await?;
            }
            Err(error) if error.code() == "42501" => return Err(self.may_not_make(&error)),
            Err(error) => return Err(error),
        }
        let server = self.asked.with_database(&name);
        self.place = Place::Side(server.clone());
        Ok(server)
    }

    fn may_not_make(&self, error: &Error) -> Error {
        let name = self.asked.database();
        Error::stated(
            Class::Denied,
            format!("database {name} cannot be made: {error}"),
            format!("give the role CREATEDB, or make an empty database {name} that it owns"),
        )
    }

    async fn fill_before_rows(
        &mut self,
        structure: &Structure,
        state: State,
        archive: &[u8],
        server: ServerUrl,
    ) -> Result<Prepared, Error> {
        let mut side = Client::connect(&server).await?;
        let written_by = structure
            .facts
            .get("pg_dump_version")
            .map_or("", String::as_str);
        let digits: String = written_by
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let written_by = digits.parse().unwrap_or_default();
        let major = server_major(&mut side).await?;
        let only_in = self.options.pg_bin_dir.as_deref();
        let tool = tools::find("pg_restore", major, written_by, only_in).await?;
        let ownership = &self.options.ownership;
        let renamed = match ownership.role_map.is_empty() {
            true => None,
            false => {
                let new_name = |role: &str| settle::mapped(role, ownership).to_owned();
                Some(archive::with_roles(archive, &new_name)?)
            }
        };
        let archive = InMemory::new(renamed.as_deref().unwrap_or(archive))?;
        let mut arguments = vec!["--section=pre-data".to_owned(), WITHOUT_RIGHTS.to_owned()];
        // Held until it has been read.
        let mut list = None;
        if self.options.extent == Extent::WithoutSuperuser {
            let listing = Listing {
                tool: &tool,
                path: archive.path(),
                state: &state,
                extent: self.options.extent,
            };
            let chosen = listing.entries(Which::All).await?;
            let chosen = list.insert(InMemory::new(chosen.as_bytes())?);
            arguments.push(format!("--use-list={}", chosen.path()));
        }
        self.restore(&tool, &server, &archive, &arguments).await?;
        settle::create_large_objects(&mut side, &state).await?;
        Ok(Prepared {
            server,
            encoding: state.database.encoding.clone(),
            state,
            tool,
            archive,
            side: Mutex::new(side),
            idle: SyncMutex::default(),
            slots: Semaphore::new(self.parallel()),
        })
    }

    fn listing<'a>(&self, prepared: &'a Prepared) -> Listing<'a> {
        Listing {
            tool: &prepared.tool,
            path: prepared.archive.path(),
            state: &prepared.state,
            extent: self.options.extent,
        }
    }

    /// Runs `pg_restore` on the archive with further arguments.
    async fn restore(
        &self,
        tool: &tools::Tool,
        server: &ServerUrl,
        archive: &InMemory,
        further: &[String],
    ) -> Result<(), Error> {
        let connection = tools::Connection::new(server)?;
        let mut arguments: Vec<String> = vec![
            "--exit-on-error".into(),
            "--no-password".into(),
            "--no-subscriptions".into(),
            connection.argument(),
        ];
        if self.options.ownership.no_owner {
            arguments.push("--no-owner".into());
        }
        if !self.scattered {
            arguments.push("--no-tablespaces".into());
        }
        arguments.extend_from_slice(further);
        arguments.push(archive.path());
        tools::run(tool, Some(&connection), &arguments, None).await?;
        Ok(())
    }

    async fn complete(&mut self, structure: &Structure) -> Result<(), Error> {
        let _ = structure;
        let prepared = self.prepared()?;
        let listing = self.listing(prepared);
        let now = listing.entries(Which::Now).await?;
        let later = listing.entries(Which::Later).await?;
        let list = InMemory::new(now.as_bytes())?;
        let arguments = [
            "--section=post-data".to_owned(),
            WITHOUT_RIGHTS.to_owned(),
            format!("--jobs={}", self.parallel()),
            format!("--use-list={}", list.path()),
        ];
        self.restore(
            &prepared.tool,
            &prepared.server,
            &prepared.archive,
            &arguments,
        )
        .await?;
        let mut warnings = Vec::new();
        let mut side = prepared.side.lock().await;
        settle::sequences(&mut side, &prepared.state).await?;
        settle::unchecked_keys(&mut side, &prepared.state, &mut warnings).await?;
        settle::own_large_objects(&mut side, &prepared.state, &self.options.ownership).await?;
        self.give_rights(prepared).await?;
        settle::fill_views(&mut side, &prepared.state, &mut warnings).await?;
        drop(side);
        if later.contains(" SUBSCRIPTION ") {
            warnings.push("subscriptions are not restored: make them again by hand".into());
        }
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Rights come after all that they might forbid, even to who owns it.
    async fn give_rights(&self, prepared: &Prepared) -> Result<(), Error> {
        let rights = self.listing(prepared).entries(Which::Rights).await?;
        if self.options.ownership.no_privileges || rights.trim().is_empty() {
            return Ok(());
        }
        let list = InMemory::new(rights.as_bytes())?;
        let arguments = [format!("--use-list={}", list.path())];
        let (tool, archive) = (&prepared.tool, &prepared.archive);
        self.restore(tool, &prepared.server, archive, &arguments)
            .await
    }

    async fn put_in_place(&mut self) -> Result<Published, Error> {
        let prepared = self.prepared()?;
        let later = self.listing(prepared).entries(Which::Later).await?;
        let has_triggers = later.contains(" EVENT TRIGGER ");
        if has_triggers && self.options.extent == Extent::WithoutSuperuser {
            let warning = "event triggers are left out: only a superuser could make them";
            self.warnings.push(warning.into());
        } else if has_triggers {
            let list = InMemory::new(later.as_bytes())?;
            let arguments = [
                "--section=post-data".to_owned(),
                format!("--use-list={}", list.path()),
            ];
            self.restore(
                &prepared.tool,
                &prepared.server,
                &prepared.archive,
                &arguments,
            )
            .await?;
        }
        let prepared = self.prepared.take().ok_or_else(not_prepared)?;
        let state = prepared.state.clone();
        prepared.close().await;
        let name = self.asked.database();
        let mut client = maintenance(&self.asked).await?;
        if let Place::Side(side) = &self.place {
            let sql = format!(
                "ALTER DATABASE {} RENAME TO {}",
                quote::identifier(&side.database()),
                quote::identifier(&name)
            );
            rename(&mut client, &sql).await?;
        }
        self.place = Place::None;
        let ownership = &self.options.ownership;
        let warnings = &mut self.warnings;
        settle::database(&mut client, &name, &state.database, ownership, warnings).await?;
        client.close().await;
        Ok(Published {
            place: SourceUrl::Postgres(self.asked.clone()).display(),
            warnings: std::mem::take(&mut self.warnings),
        })
    }
}

/// Renames; sessions that were just closed may be seen for a moment longer.
async fn rename(client: &mut Client, sql: &str) -> Result<(), Error> {
    for attempt in 0u32.. {
        match client.run(sql, "renaming the side database").await {
            Err(error) if error.code() == "55006" && attempt < 50 => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            other => return other,
        }
    }
    Ok(())
}
