//! A MySQL or MariaDB database that is exchanged by one `RENAME TABLE`, out and in.
//!
//! Tables with triggers cannot change their database, and other programs cannot be renamed: they
//! are noted, dropped and made again. Invariant: the tables of the live name are all old or all
//! new; which of them is seen by the kept database, and what is missing then stands in the note.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::handover::{self, Handover};
use super::program::{self, Made, Place};
use super::quote;
use super::session::{Purpose, Session, number, text};
use super::structure::{self, Definitions, Kind, Program, charset};
use super::target::sequence_defaults;
use crate::clock::Clock;
use crate::failure::AnyFailure;
use crate::id::{hex, unhex};
use crate::planted::reach;
use crate::row::schema::Structure;
use crate::source::address::{MAKING, ServerUrl, SourceOptions, SourceUrl};
use crate::source::{Exchange, Exchanged, Keep, Others, Settled, Swap};

/// The longest name of a database.
const NAME_CHARACTERS_MAX: usize = 64;
/// What must be known to go on, or back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The definitions of the database that comes in.
    incoming: Definitions,
    /// Columns of it whose default is a sequence's next value: table, column, default.
    defaults: Vec<(String, String, String)>,
    /// The definitions of the one that goes out.
    outgoing: Definitions,
}

impl Note {
    fn read(note: &str) -> Result<Note, Error> {
        let bytes = unhex(note);
        let read = bytes.and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
        read.ok_or_else(|| Error::Unsupported {
            what: "the journal of this rollback holds no definitions".into(),
            hint: "see which databases stand beside the live one".into(),
        })
    }

    fn write(&self) -> String {
        let bytes = rmp_serde::to_vec_named(self);
        hex(&bytes.expect("plain structs of strings and numbers serialise into memory"))
    }
}

/// A live database.
pub struct MysqlSwap {
    url: ServerUrl,
    clock: Arc<dyn Clock>,
}

impl MysqlSwap {
    /// The database at `url`; nothing is connected yet.
    pub fn new(url: ServerUrl, options: &SourceOptions) -> Self {
        MysqlSwap {
            url,
            clock: options.clock.clone(),
        }
    }

    async fn session(&self) -> Result<Session, Error> {
        Session::connect(&self.url, None, Purpose::Filling).await
    }

    async fn read(&self, database: &str) -> Result<Definitions, Error> {
        let mut session = Session::connect(&self.url, Some(database), Purpose::Reading).await?;
        let read = structure::read(&mut session, &|_| false).await;
        session.close().await;
        read
    }
}

#[async_trait]
impl Swap for MysqlSwap {
    async fn place(&mut self) -> Result<String, AnyFailure> {
        Ok(SourceUrl::Mysql(self.url.clone()).display())
    }

    fn beside(&self, mark: &str) -> String {
        let room = NAME_CHARACTERS_MAX.saturating_sub(mark.chars().count() + 1 + MAKING.len());
        let name: String = self.url.database().chars().take(room).collect();
        format!("{name}_{mark}")
    }

    fn remember(&self, structure: &Structure) -> Result<String, AnyFailure> {
        let note = Note {
            incoming: Definitions::from_parts(&structure.parts)?,
            defaults: sequence_defaults(structure),
            outgoing: Definitions::default(),
        };
        Ok(note.write())
    }

    fn turned(&self, note: &str) -> String {
        let turned = Note::read(note).map(|note| Note {
            incoming: note.outgoing,
            ..Note::default()
        });
        turned.map(|note| note.write()).unwrap_or_default()
    }

    async fn check(&mut self, names: &Exchange, _: Others) -> Result<(), AnyFailure> {
        let live = self.url.database();
        let mut session = Session::connect(&self.url, Some(&live), Purpose::Reading).await?;
        check_fence(&mut session, &live).await?;
        for name in [names.kept.clone(), names.side.clone() + MAKING] {
            if exists(&mut session, &name).await? {
                return Err(Error::NotEmpty {
                    database: name,
                    found: "a name that was chosen for this rollback".into(),
                }
                .into());
            }
        }
        session.close().await;
        Ok(())
    }

    async fn broken_references(&mut self, name: &str) -> Result<Vec<String>, AnyFailure> {
        let mut session = self.session().await?;
        let broken = broken_references(&mut session, name).await?;
        session.close().await;
        Ok(broken)
    }

    async fn exchange(
        &mut self,
        names: &Exchange,
        others: Others,
        keep: Keep<'_>,
    ) -> Result<Exchanged, AnyFailure> {
        let mut note = Note::read(&names.note)?;
        note.outgoing = self.read(&self.url.database()).await?;
        let coming = self.read(&names.side).await?;
        keep(&note.write())?;
        let mut control = self.session().await?;
        make_kept(&mut control, &names.kept, &note.outgoing).await?;
        reach("exchange copied");
        let handover = Handover {
            url: &self.url,
            clock: &self.clock,
            names,
            others,
            outgoing: &note.outgoing,
            coming: &coming,
            incoming: &note.incoming,
        };
        let moved = handover.run(&mut control).await?;
        reach("exchange half written");
        let fresh = Fresh {
            outgoing: &note.outgoing,
            locked: moved.locked,
        };
        let (warnings, usable) = self
            .complete(&mut control, names, &note, Some(fresh))
            .await?;
        reach("exchange written");
        control.close().await;
        Ok(Exchanged {
            downtime: usable - moved.since,
            warnings,
        })
    }

    async fn settle(&mut self, names: &Exchange) -> Result<Settled, AnyFailure> {
        let note = Note::read(&names.note)?;
        let mut session = self.session().await?;
        let moved = match note.outgoing.tables.len() + note.outgoing.sequences.len() {
            // Nothing went out, or the note of it was not kept: then nothing was begun.
            0 => {
                exists(&mut session, &names.kept).await?
                    && tables(&mut session, &names.side).await? == 0
            }
            _ => tables(&mut session, &names.kept).await? > 0,
        };
        if moved {
            self.complete(&mut session, names, &note, None).await?;
            return Ok(Settled::New);
        }
        if exists(&mut session, &names.kept).await? {
            // Triggers of the old tables may have been dropped already.
            self.settle_triggers(&mut session, &note.outgoing).await?;
            drop_database(&mut session, &names.kept).await?;
        }
        Ok(Settled::Old)
    }

    async fn remove(&mut self, name: &str) -> Result<(), AnyFailure> {
        debug_assert_ne!(name, self.url.database());
        let mut session = self.session().await?;
        drop_database(&mut session, &format!("{name}{MAKING}")).await?;
        drop_database(&mut session, name).await?;
        session.close().await;
        Ok(())
    }
}

/// Whether tables with triggers can be kept shut one by one.
async fn check_fence(session: &mut Session, live: &str) -> Result<(), Error> {
    let doing = "looking at its rights";
    let triggers = "SELECT COUNT(*), CURRENT_USER() FROM information_schema.triggers \
                    WHERE trigger_schema = DATABASE()";
    let found = session.one(triggers, doing).await?;
    if number(&found, 0) == Some(0) {
        return Ok(());
    }
    // There is no table of this name, and who may not even ask is told so first.
    let nothing = quote::qualified(live, "rowvault: no table");
    let sql = format!("FLUSH TABLES {nothing} WITH READ LOCK");
    match session.run(&sql, doing).await {
        Err(error) if error.is_denied() => Err(Error::Rights {
            user: text(&found, 1),
            database: live.to_owned(),
            missing: "RELOAD, to keep tables with triggers shut".into(),
            grants: format!("GRANT RELOAD ON *.* TO {}", text(&found, 1)),
        }),
        Err(error) if error.code() == Some(1146) => Ok(()),
        other => other,
    }
}

async fn exists(session: &mut Session, name: &str) -> Result<bool, Error> {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.schemata WHERE BINARY schema_name = {}",
        quote::text(name)
    );
    let count = session.one(&sql, "looking for databases").await?;
    Ok(number(&count, 0) != Some(0))
}

/// How many tables and sequences a database has.
async fn tables(session: &mut Session, name: &str) -> Result<u64, Error> {
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.tables \
         WHERE table_schema = {} AND table_type NOT LIKE '%VIEW%'",
        quote::text(name)
    );
    let count = session.one(&sql, "looking for tables").await?;
    Ok(number(&count, 0).unwrap_or_default())
}

async fn drop_database(session: &mut Session, name: &str) -> Result<(), Error> {
    let sql = format!("DROP DATABASE IF EXISTS {}", quote::identifier(name));
    session
        .run(&sql, &format!("dropping database {name}"))
        .await
}

async fn make_kept(session: &mut Session, name: &str, like: &Definitions) -> Result<(), Error> {
    let sql = format!(
        "CREATE DATABASE {}{}",
        quote::identifier(name),
        charset(like)?
    );
    session.run(&sql, &format!("making database {name}")).await
}

/// Name, table and parent of a foreign key, and its columns in pairs.
type ForeignKey = ([String; 3], Vec<(String, String)>);

async fn broken_references(session: &mut Session, name: &str) -> Result<Vec<String>, Error> {
    let doing = "checking foreign keys";
    let sql = format!(
        "SELECT constraint_name, table_name, referenced_table_name, column_name, \
         referenced_column_name FROM information_schema.key_column_usage \
         WHERE table_schema = {0} AND referenced_table_schema = {0} \
         ORDER BY table_name, constraint_name, ordinal_position",
        quote::text(name)
    );
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in session.ask(&sql, doing).await? {
        let key = [text(&row, 0), text(&row, 1), text(&row, 2)];
        let pair = (text(&row, 3), text(&row, 4));
        match keys.last_mut() {
            Some((last, pairs)) if *last == key => pairs.push(pair),
            _ => keys.push((key, vec![pair])),
        }
    }
    let mut broken = Vec::new();
    for ([key, table, parent], pairs) in keys {
        let (mut joined, mut given) = (Vec::new(), Vec::new());
        for (column, referenced) in &pairs {
            let (column, referenced) = (quote::identifier(column), quote::identifier(referenced));
            joined.push(format!("p.{referenced} = c.{column}"));
            given.push(format!("c.{column} IS NOT NULL"));
        }
        let sql = format!(
            "SELECT COUNT(*) FROM {} c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} p WHERE {})",
            quote::qualified(name, &table),
            given.join(" AND "),
            quote::qualified(name, &parent),
            joined.join(" AND ")
        );
        let count = number(&session.one(&sql, doing).await?, 0).unwrap_or_default();
        if count > 0 {
            broken.push(format!(
                "{count} rows of {table} refer to rows of {parent} that the snapshot has not ({key})"
            ));
        }
    }
    Ok(broken)
}

/// An exchange that was made just now.
struct Fresh<'a> {
    /// Whose programs are still there, but for the triggers.
    outgoing: &'a Definitions,
    /// Has locked the new tables with triggers, to make these and let them go.
    locked: Option<Session>,
}

impl MysqlSwap {
    /// The tables are the new ones: makes their programs, and takes the empty side away. May be
    /// done again. Says when tables and views could be used.
    async fn complete(
        &self,
        session: &mut Session,
        names: &Exchange,
        note: &Note,
        fresh: Option<Fresh<'_>>,
    ) -> Result<(Vec<String>, Duration), Error> {
        let live = self.url.database();
        let definitions = &note.incoming;
        let (there, locked) = match fresh {
            Some(fresh) => (fresh.outgoing.clone(), fresh.locked),
            None => (self.read(&live).await?, None),
        };
        if let Some(locked) = locked {
            // Nothing else is done before: who waits for these tables may hold what we would
            // wait for.
            make_triggers(locked, &live, definitions).await?;
        }
        let left = self.drop_others(session, &there, definitions).await?;
        let entered = format!("USE {}", quote::identifier(&live));
        session.run(&entered, "entering the database").await?;
        if (&there.charset, &there.collation) != (&definitions.charset, &definitions.collation) {
            let charset = charset(definitions)?;
            let sql = format!("ALTER DATABASE {}{charset}", quote::identifier(&live));
            session.run(&sql, "setting the character set").await?;
        }
        let mut warnings = make_programs(session, &live, &left, |kind| kind < Kind::View).await?;
        for (table, column, default) in &note.defaults {
            let default = quote::moved(default.as_bytes(), &definitions.database, &live);
            let sql = format!(
                "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}",
                quote::identifier(table),
                quote::identifier(column),
                String::from_utf8_lossy(&default)
            );
            let doing = format!("setting a default of table {table}");
            session.run(&sql, &doing).await?;
        }
        warnings.extend(make_programs(session, &live, &left, |kind| kind == Kind::View).await?);
        let usable = self.clock.elapsed();
        self.settle_triggers(session, definitions).await?;
        warnings.extend(make_programs(session, &live, &left, |kind| kind == Kind::Event).await?);
        drop_database(session, &names.side).await?;
        Ok((warnings, usable))
    }

    /// Drops what is there and not to be, but for triggers, and gives what is still to be made:
    /// routines and views that are the same stay as they are.
    async fn drop_others(
        &self,
        session: &mut Session,
        there: &Definitions,
        wanted: &Definitions,
    ) -> Result<Definitions, Error> {
        let live = self.url.database();
        let place = Place {
            database: &live,
            definitions: wanted,
            skip_definer: false,
        };
        let same = |one: &Program, wanted: &Program| {
            one.kind <= Kind::View
                && (one.kind, &one.name, &one.sql_mode, &one.charset)
                    == (wanted.kind, &wanted.name, &wanted.sql_mode, &wanted.charset)
                && (&one.collation, &one.database_collation)
                    == (&wanted.collation, &wanted.database_collation)
                && *one.sql == program::statement(&place, wanted)
        };
        let mut left = wanted.clone();
        for one in there.programs.iter().rev() {
            let all = left.programs.len();
            left.programs.retain(|wanted| !same(one, wanted));
            if one.kind != Kind::Trigger && left.programs.len() == all {
                drop_program(session, &live, one).await?;
            }
        }
        Ok(left)
    }

    /// Sees that the triggers of the live database are those of `definitions`, each table shut
    /// while one of its triggers is made again.
    async fn settle_triggers(
        &self,
        session: &mut Session,
        definitions: &Definitions,
    ) -> Result<(), Error> {
        let live = self.url.database();
        let place = Place {
            database: &live,
            definitions,
            skip_definer: false,
        };
        let there = self.read(&live).await?;
        let there: Vec<&Program> = handover::triggers(&there).collect();
        let wanted: Vec<&Program> = handover::triggers(definitions).collect();
        let alike = |(there, wanted): (&&Program, &&Program)| {
            *there.sql == program::statement(&place, wanted)
                && (&there.name, &there.database_collation)
                    == (&wanted.name, &wanted.database_collation)
        };
        if there.len() == wanted.len() && there.iter().zip(&wanted).all(alike) {
            return Ok(());
        }
        let entered = format!("USE {}", quote::identifier(&live));
        session.run(&entered, "entering the database").await?;
        for trigger in there {
            if !wanted.iter().any(|wanted| wanted.name == trigger.name) {
                drop_program(session, &live, trigger).await?;
            }
        }
        for trigger in wanted {
            program::replace_trigger(session, &place, trigger).await?;
        }
        Ok(())
    }
}

async fn drop_program(session: &mut Session, live: &str, program: &Program) -> Result<(), Error> {
    let name = quote::qualified(live, &program.name);
    let sql = format!("DROP {} IF EXISTS {name}", program.kind.sql());
    let doing = format!("dropping {} {}", program.kind.word(), program.name);
    session.run(&sql, &doing).await
}

/// Makes the triggers of the tables that `locked` has, and lets these go.
async fn make_triggers(
    mut locked: Session,
    live: &str,
    definitions: &Definitions,
) -> Result<(), Error> {
    let place = Place {
        database: live,
        definitions,
        skip_definer: false,
    };
    for trigger in handover::triggers(definitions) {
        match program::make_trigger(&mut locked, &place, trigger).await {
            // One whose table is not locked, since its name is not understood, is made later.
            Err(error) if error.code() == Some(1100) => {}
            made => made?,
        }
    }
    let doing = "letting the tables go";
    locked.run("UNLOCK TABLES", doing).await?;
    locked.close().await;
    Ok(())
}

async fn make_programs(
    session: &mut Session,
    live: &str,
    definitions: &Definitions,
    which: fn(Kind) -> bool,
) -> Result<Vec<String>, Error> {
    let mut only = definitions.clone();
    only.programs.retain(|program| which(program.kind));
    let place = Place {
        database: live,
        definitions: &only,
        skip_definer: false,
    };
    let mut made = Made::default();
    program::make_all(session, &place, &mut made).await?;
    Ok(made.warnings)
}
