//! A database in the making on a MySQL or MariaDB server.
//!
//! Everything is made in a database beside, named after the one that was asked for, and moved by
//! one `RENAME TABLE` when it is whole; views, routines, triggers and events follow, since they
//! cannot be renamed across databases. Where the user may make no second database, the empty one
//! is filled itself. Invariant: a failure takes away what was made, and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::error::Error;
use super::fitness;
use super::inspect;
use super::load::{self, Way};
use super::program::{self, Made, Place};
use super::quote;
use super::rows::{self, Reading};
use super::session::{Purpose, Session, number, text};
use super::structure::{Definitions, TableDefinition, charset};
use crate::failure::AnyFailure;
use crate::random::draw;
use crate::row::schema::{Engine, Structure, Table};
use crate::source::address::{Aim, MAKING, ServerUrl, TargetOptions};
use crate::source::{Order, PieceReceiver, PieceSender, Published, Target};

/// The longest name of a database.
const NAME_CHARACTERS_MAX: usize = 64;

/// A target on MySQL or MariaDB.
pub struct Restore {
    url: ServerUrl,
    options: TargetOptions,
    making: Option<Making>,
}

/// A database in the making.
struct Making {
    definitions: Definitions,
    /// Columns whose default is a sequence's next value: table, column, default.
    sequence_defaults: Vec<(String, String, String)>,
    /// Where it is to be found.
    place: String,
    /// Where it is made; the same where no second database may be made.
    stage: String,
    /// Whether the database was there, empty, before.
    existed: bool,
    way: Way,
    control: tokio::sync::Mutex<Session>,
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
    sessions: usize,
    warnings: Vec<String>,
}

impl Restore {
    /// A database to be found at `url`; nothing is connected yet.
    pub fn new(url: ServerUrl, options: TargetOptions) -> Self {
        Restore {
            url,
            options,
            making: None,
        }
    }

    async fn make(&mut self, structure: &Structure) -> Result<(), Error> {
        if structure.engine != Engine::Mysql {
            return Err(Error::Unsupported {
                what: format!("a snapshot of {} cannot go into MySQL", structure.engine),
                hint: "name a target of the snapshot's own engine".into(),
            });
        }
        let definitions = Definitions::from_parts(&structure.parts)?;
        let place = self.url.database();
        let mut control = Session::connect(&self.url, None, Purpose::Filling).await?;
        let existed = check_free(&mut control, &place).await?;
        let fit = fitness::check(
            &mut control,
            &definitions,
            structure,
            self.options.ownership.no_owner,
        );
        let warnings = fit.await?;
        let stage = self
            .make_stage(&mut control, &place, existed, &definitions)
            .await?;
        let way = match control.one("SELECT @@local_infile", "its settings").await {
            Ok(answer) if number(&answer, 0) == Some(1) => Way::LoadData,
            _ => Way::Insert,
        };
        self.making = Some(Making {
            sequence_defaults: sequence_defaults(structure),
            definitions,
            place,
            stage: stage.clone(),
            existed,
            way,
            control: tokio::sync::Mutex::new(control),
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(self.options.parallel.max(1)),
            sessions: self.options.parallel.max(1),
            warnings,
        });
        let history = structure
            .tables
            .iter()
            .any(|table| table.facts.contains_key(inspect::HISTORY));
        self.fill_stage(history).await
    }

    async fn make_stage(
        &self,
        control: &mut Session,
        place: &str,
        existed: bool,
        definitions: &Definitions,
    ) -> Result<String, Error> {
        let suffix = match self.options.aim {
            Aim::Use => {
                let number: [u8; 4] = draw(self.options.random.as_ref());
                format!("__rowvault_{}", crate::id::hex(&number))
            }
            Aim::Exchange => MAKING.to_owned(),
        };
        let short: String = place
            .chars()
            .take(NAME_CHARACTERS_MAX - suffix.len())
            .collect();
        let stage = format!("{short}{suffix}");
        let made = create_database(control, &stage, definitions).await;
        match made {
            Ok(()) => Ok(stage),
            Err(error) if error.is_denied() && existed => Ok(place.to_owned()),
            Err(error) => Err(error),
        }
    }

    async fn fill_stage(&mut self, history: bool) -> Result<(), Error> {
        let making = self.making.as_mut().ok_or(TOO_EARLY)?;
        let control = making.control.get_mut();
        enter(control, &making.stage, history).await?;
        make_tables(control, &making.definitions, &making.stage).await?;
        for _ in 0..making.sessions {
            let mut session =
                Session::connect(&self.url, Some(&making.stage), Purpose::Filling).await?;
            enter(&mut session, &making.stage, history).await?;
            session
                .run("SET character_set_results = NULL", "its settings")
                .await?;
            making.idle().push(session);
        }
        Ok(())
    }
}

const TOO_EARLY: Error = Error::OutOfOrder {
    what: "the target was used before it was prepared",
};

/// Whether the database is there; one with anything in it is refused.
async fn check_free(session: &mut Session, place: &str) -> Result<bool, Error> {
    let doing = "looking at the target";
    let name = quote::text(place);
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.schemata \
         WHERE schema_name = {name} AND BINARY schema_name = {name}"
    );
    if number(&session.one(&sql, doing).await?, 0) == Some(0) {
        return Ok(false);
    }
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {name}), \
         (SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = {name}), \
         (SELECT COUNT(*) FROM information_schema.events WHERE event_schema = {name})"
    );
    let counts = session.one(&sql, doing).await?;
    let found: Vec<String> = ["tables or views", "routines", "events"]
        .iter()
        .enumerate()
        .filter(|(at, _)| number(&counts, *at) != Some(0))
        .map(|(at, what)| format!("{} {what}", text(&counts, at)))
        .collect();
    if found.is_empty() {
        return Ok(true);
    }
    Err(Error::NotEmpty {
        database: place.to_owned(),
        found: found.join(", "),
    })
}

async fn create_database(
    session: &mut Session,
    name: &str,
    definitions: &Definitions,
) -> Result<(), Error> {
    let sql = format!(
        "CREATE DATABASE {}{}",
        quote::identifier(name),
        charset(definitions)?
    );
    session.run(&sql, &format!("making database {name}")).await
}

/// Makes `database` the session's own.
pub(super) async fn enter(
    session: &mut Session,
    database: &str,
    history: bool,
) -> Result<(), Error> {
    let doing = "entering the database in the making";
    session
        .run(&format!("USE {}", quote::identifier(database)), doing)
        .await?;
    if history {
        session
            .run("SET SESSION system_versioning_insert_history = 1", doing)
            .await?;
    }
    if session.server().mariadb {
        // What was made under laxer settings must be made again; not everybody may lift them.
        let _ = session
            .run("SET SESSION innodb_strict_mode = 0", doing)
            .await;
    }
    Ok(())
}

async fn make_tables(
    session: &mut Session,
    definitions: &Definitions,
    stage: &str,
) -> Result<(), Error> {
    for sequence in &definitions.sequences {
        let doing = format!("making sequence {}", sequence.name);
        session.run(&sequence.sql, &doing).await?;
        let numbers = [&sequence.next, &sequence.cycles];
        if !numbers
            .iter()
            .all(|n| super::types::is_number(n.as_bytes()))
        {
            return Err(Error::Unsupported {
                what: format!("the state of sequence {} is no number", sequence.name),
                hint: "run verify on the snapshot".into(),
            });
        }
        let sql = format!(
            "DO SETVAL({}, {}, 0, {})",
            quote::identifier(&sequence.name),
            sequence.next,
            sequence.cycles
        );
        session.run(&sql, &doing).await?;
    }
    for table in &definitions.tables {
        make_table(session, table, definitions, stage).await?;
    }
    Ok(())
}

async fn make_table(
    session: &mut Session,
    table: &TableDefinition,
    definitions: &Definitions,
    stage: &str,
) -> Result<(), Error> {
    let doing = format!("making table {}", table.name);
    let sql = quote::moved(table.sql.as_bytes(), &definitions.database, stage);
    session.run_bytes(&sql, &doing).await
}

/// Columns whose default names the database that their sequence is in.
pub(super) fn sequence_defaults(structure: &Structure) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for table in &structure.tables {
        for column in &table.columns {
            let default = column.default.as_deref().unwrap_or_default();
            if default.to_ascii_lowercase().contains("val(") {
                found.push((
                    table.name.name.clone(),
                    column.name.clone(),
                    default.to_owned(),
                ));
            }
        }
    }
    found
}

impl Making {
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, table: &Table) -> Result<Session, Error> {
        self.idle().pop().ok_or_else(|| Error::Lost {
            doing: format!("working on table {}", table.name),
            what: "a connection to the target was lost before".into(),
        })
    }

    fn beside(&self) -> bool {
        self.stage != self.place
    }

    /// Puts counters where they stood, should loading have left them elsewhere.
    async fn finish(&mut self) -> Result<(), Error> {
        let control = self.control.get_mut();
        let listed = super::structure::list(control).await?;
        for table in &self.definitions.tables {
            let now = listed.iter().find(|object| object.name == table.name);
            let now = now.ok_or_else(|| Error::Changed {
                object: format!("table {} of the database in the making", table.name),
            })?;
            let Some(next) = table.auto_increment else {
                continue;
            };
            if now.auto_increment != Some(next) {
                let sql = format!(
                    "ALTER TABLE {} AUTO_INCREMENT = {next}",
                    quote::qualified(&self.stage, &table.name)
                );
                let doing = format!("setting the counter of table {}", table.name);
                control.run(&sql, &doing).await?;
            }
        }
        Ok(())
    }

    /// Moves everything to its place; what fails is undone.
    async fn publish(&mut self, skip_definer: bool, aim: Aim) -> Result<Vec<String>, Error> {
        let mut made = Made::default();
        let moved = match aim {
            Aim::Use => self.move_to_place(skip_definer, &mut made).await,
            // Programs would act beside; and they are made when the tables have their place.
            Aim::Exchange => self.move_tables(&mut made).await,
        };
        if let Err(error) = moved {
            let control = self.control.get_mut();
            let mut left = Vec::new();
            for sql in made.undo.iter().rev() {
                if let Err(error) = control.run(sql, "undoing").await {
                    left.push(format!("{sql}: {error}"));
                }
            }
            return Err(match left.is_empty() {
                true => error,
                false => Error::Left {
                    what: format!("{error}; then {}", left.join("; ")),
                },
            });
        }
        Ok(made.warnings)
    }

    async fn move_tables(&mut self, made: &mut Made) -> Result<(), Error> {
        let control = self.control.get_mut();
        take_place(control, &self.place, self.existed, &self.definitions, made).await?;
        rename_all(control, &self.definitions, &self.stage, &self.place, made).await?;
        let sql = format!("DROP DATABASE {}", quote::identifier(&self.stage));
        control.run(&sql, "taking the empty stage away").await
    }

    async fn move_to_place(&mut self, skip_definer: bool, made: &mut Made) -> Result<(), Error> {
        let control = self.control.get_mut();
        // The undoing of what follows drops views and the like; it must not wait for locks.
        if self.stage != self.place {
            take_place(control, &self.place, self.existed, &self.definitions, made).await?;
            rename_all(control, &self.definitions, &self.stage, &self.place, made).await?;
        } else {
            set_charset(control, &self.place, &self.definitions).await?;
        }
        control
            .run(
                &format!("USE {}", quote::identifier(&self.place)),
                "entering the database",
            )
            .await?;
        if self.stage != self.place {
            for default in &self.sequence_defaults {
                let (table, column, default) = default;
                let default =
                    quote::moved(default.as_bytes(), &self.definitions.database, &self.place);
                let sql = format!(
                    "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}",
                    quote::identifier(table),
                    quote::identifier(column),
                    String::from_utf8_lossy(&default)
                );
                control
                    .run(&sql, &format!("setting a default of table {table}"))
                    .await?;
            }
        }
        let place = Place {
            database: &self.place,
            definitions: &self.definitions,
            skip_definer,
        };
        program::make_all(control, &place, made).await?;
        if self.stage != self.place {
            let sql = format!("DROP DATABASE {}", quote::identifier(&self.stage));
            control.run(&sql, "taking the empty stage away").await?;
        }
        Ok(())
    }

    async fn discard(&mut self) -> Result<(), Error> {
        let control = self.control.get_mut();
        if self.stage != self.place {
            let sql = format!("DROP DATABASE IF EXISTS {}", quote::identifier(&self.stage));
            return control.run(&sql, "taking away what was made").await;
        }
        for table in &self.definitions.tables {
            let name = quote::qualified(&self.place, &table.name);
            control
                .run(
                    &format!("DROP TABLE IF EXISTS {name}"),
                    "taking away what was made",
                )
                .await?;
        }
        for sequence in &self.definitions.sequences {
            let name = quote::qualified(&self.place, &sequence.name);
            control
                .run(
                    &format!("DROP SEQUENCE IF EXISTS {name}"),
                    "taking away what was made",
                )
                .await?;
        }
        Ok(())
    }
}

/// Makes the database at its place, or checks once more that it is empty.
async fn take_place(
    control: &mut Session,
    place: &str,
    existed: bool,
    definitions: &Definitions,
    made: &mut Made,
) -> Result<(), Error> {
    let there = check_free(control, place).await?;
    if there {
        let now = control
            .one(
                &format!(
                    "SELECT default_character_set_name, default_collation_name \
                     FROM information_schema.schemata WHERE BINARY schema_name = {}",
                    quote::text(place)
                ),
                "looking at the target",
            )
            .await?;
        made.undo.push(format!(
            "ALTER DATABASE {} CHARACTER SET {} COLLATE {}",
            quote::identifier(place),
            text(&now, 0),
            text(&now, 1)
        ));
        return set_charset(control, place, definitions).await;
    }
    let _ = existed;
    create_database(control, place, definitions).await?;
    made.undo
        .push(format!("DROP DATABASE {}", quote::identifier(place)));
    Ok(())
}

async fn set_charset(
    control: &mut Session,
    place: &str,
    definitions: &Definitions,
) -> Result<(), Error> {
    let sql = format!(
        "ALTER DATABASE {}{}",
        quote::identifier(place),
        charset(definitions)?
    );
    control.run(&sql, "setting the character set").await
}

/// Moves all tables and sequences by one statement.
async fn rename_all(
    control: &mut Session,
    definitions: &Definitions,
    stage: &str,
    place: &str,
    made: &mut Made,
) -> Result<(), Error> {
    let tables = definitions.tables.iter().map(|table| &table.name);
    let names = tables.chain(definitions.sequences.iter().map(|sequence| &sequence.name));
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for name in names {
        let from = quote::qualified(stage, name);
        let to = quote::qualified(place, name);
        there.push(format!("{from} TO {to}"));
        back.push(format!("{to} TO {from}"));
    }
    if there.is_empty() {
        return Ok(());
    }
    let sql = format!("RENAME TABLE {}", there.join(", "));
    control
        .run(&sql, "moving the tables to their place")
        .await?;
    made.undo.push(format!("RENAME TABLE {}", back.join(", ")));
    Ok(())
}

#[async_trait]
impl Target for Restore {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        Ok(self.make(structure).await?)
    }

    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let making = self.making.as_ref().ok_or(TOO_EARLY)?;
        let _permit = making.permits.acquire().await.map_err(|_| TOO_EARLY)?;
        let mut session = making.take(table)?;
        let taken = load::load(&mut session, &making.stage, table, making.way, rows).await?;
        making.idle().push(session);
        Ok(taken)
    }

    async fn finish(&mut self, _structure: &Structure) -> Result<(), AnyFailure> {
        let making = self.making.as_mut().ok_or(TOO_EARLY)?;
        Ok(making.finish().await?)
    }

    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        let making = self.making.as_ref().ok_or(TOO_EARLY)?;
        let _permit = making.permits.acquire().await.map_err(|_| TOO_EARLY)?;
        let mut session = making.take(table)?;
        let reading = Reading {
            database: &making.stage,
            table,
            order: Order::Key,
            rows: &rows,
            stands_still: true,
            savepoint: false,
        };
        let read = rows::read(&mut session, Some(&making.control), &reading).await?;
        making.idle().push(session);
        Ok(read)
    }

    fn parallel(&self) -> usize {
        self.options.parallel.max(1)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        let skip_definer = self.options.ownership.no_owner;
        let making = self.making.as_mut().ok_or(TOO_EARLY)?;
        let mut warnings = std::mem::take(&mut making.warnings);
        if !making.beside() {
            warnings.push(format!(
                "{} was filled in place, since the user may make no database beside it",
                making.place
            ));
        }
        warnings.extend(making.publish(skip_definer, self.options.aim).await?);
        self.making = None;
        Ok(Published {
            place: self.url.url().to_string(),
            warnings,
        })
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        let Some(mut making) = self.making.take() else {
            return Ok(());
        };
        // A session that still loads holds locks on what is to go.
        let sessions = std::mem::take(&mut *making.idle());
        for session in sessions {
            session.close().await;
        }
        if making.discard().await.is_ok() {
            return Ok(());
        }
        // The connection may be what failed.
        let control = Session::connect(&self.url, None, Purpose::Filling).await;
        let left = |what: String| Error::Left {
            what: format!("database {}: {what}", making.stage),
        };
        match control {
            Ok(session) => {
                making.control = tokio::sync::Mutex::new(session);
                let again = making.discard().await;
                Ok(again.map_err(|error| Error::Left {
                    what: format!("database {}: {error}", making.stage),
                })?)
            }
            Err(error) => Err(left(error.to_string()).into()),
        }
    }
}
