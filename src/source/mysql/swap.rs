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
use super::program::{self, Made, Place};
use super::quote;
use super::session::{Purpose, Session, number, text};
use super::structure::{self, Definitions, Kind, charset};
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
/// For how long one try may keep others waiting.
const TRY_SECONDS: u32 = 1;
/// How long transactions of others may still run where they are respected.
const COURTESY: Duration = Duration::from_secs(5);
/// The same where they may come to their end.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often it is looked whether the renaming waits in its place.
const LOOKS_MAX: u32 = 200;

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
        let work = Work {
            swap: self,
            names,
            others,
            note: &note,
            coming: &coming,
        };
        let start = work.rename(&mut control).await?;
        reach("exchange half written");
        let warnings = self.complete(&mut control, names, &note).await?;
        reach("exchange written");
        control.close().await;
        Ok(Exchanged {
            downtime: self.clock.elapsed() - start,
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
            self.complete(&mut session, names, &note).await?;
            return Ok(Settled::New);
        }
        if exists(&mut session, &names.kept).await? {
            // Triggers of the old tables may have been dropped already.
            self.make_triggers(&mut session, &note.outgoing).await?;
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

struct Work<'a> {
    swap: &'a MysqlSwap,
    names: &'a Exchange,
    others: Others,
    note: &'a Note,
    coming: &'a Definitions,
}

/// The names of tables and sequences.
fn names(definitions: &Definitions) -> impl Iterator<Item = &String> {
    let tables = definitions.tables.iter().map(|table| &table.name);
    tables.chain(definitions.sequences.iter().map(|sequence| &sequence.name))
}

impl Work<'_> {
    /// Moves all tables out and in, with writers shut out; since when they were.
    async fn rename(&self, control: &mut Session) -> Result<Duration, AnyFailure> {
        let live = self.swap.url.database();
        let mut moves = Vec::new();
        for (definitions, from, to) in [
            (&self.note.outgoing, &live, &self.names.kept),
            (self.coming, &self.names.side, &live),
        ] {
            for name in names(definitions) {
                let (from, to) = (quote::qualified(from, name), quote::qualified(to, name));
                moves.push(format!("{from} TO {to}"));
            }
        }
        let mut locking = Session::connect(&self.swap.url, Some(&live), Purpose::Filling).await?;
        let start = self.lock(&mut locking, control).await?;
        let triggers = self.note.outgoing.programs.iter();
        for trigger in triggers.filter(|program| program.kind == Kind::Trigger) {
            let sql = format!("DROP TRIGGER {}", quote::identifier(&trigger.name));
            let doing = format!("dropping trigger {}", trigger.name);
            locking.run(&sql, &doing).await?;
        }
        reach("exchange locked");
        if moves.is_empty() {
            return Ok(start);
        }
        let sql = format!("RENAME TABLE {}", moves.join(", "));
        let mut renaming = self.swap.session().await?;
        renaming
            .run("SET SESSION lock_wait_timeout = 10", "its settings")
            .await?;
        let id = renaming.id();
        let renamed = renaming.run(&sql, "exchanging the tables");
        let unlocked = self.unlock(&mut locking, control, id);
        let (renamed, unlocked) = tokio::join!(renamed, unlocked);
        renamed?;
        unlocked?;
        renaming.close().await;
        locking.close().await;
        Ok(start)
    }

    /// Locks all tables of the live database against everybody, and says since when.
    async fn lock(
        &self,
        locking: &mut Session,
        control: &mut Session,
    ) -> Result<Duration, AnyFailure> {
        let clock = &self.swap.clock;
        let until = clock.elapsed()
            + match self.others {
                Others::Wait => PATIENCE,
                Others::Respect | Others::End => COURTESY,
            };
        let locks = names(&self.note.outgoing).map(|name| quote::identifier(name) + " WRITE");
        let locks: Vec<String> = locks.collect();
        let timeout = format!("SET SESSION lock_wait_timeout = {TRY_SECONDS}");
        locking.run(&timeout, "its settings").await?;
        loop {
            if self.others == Others::End {
                self.end_transactions(control).await?;
            }
            let start = clock.elapsed();
            if locks.is_empty() {
                return Ok(start);
            }
            let sql = format!("LOCK TABLES {}", locks.join(", "));
            match locking.run(&sql, "locking the tables").await {
                Ok(()) => return Ok(start),
                Err(error) if error.code() == Some(1205) && clock.elapsed() < until => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(error) if error.code() == Some(1205) => {
                    let what = format!(
                        "transactions of others work in database {}: {error}",
                        self.swap.url.database()
                    );
                    let hint = "try again, --wait for their end, or end them with --force";
                    let class = crate::failure::Class::Busy;
                    return Err(AnyFailure::new(class, what, Some(hint.into())));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends whoever is in a transaction in the live database.
    async fn end_transactions(&self, control: &mut Session) -> Result<(), Error> {
        let sql = format!(
            "SELECT p.id FROM information_schema.innodb_trx t \
             JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
             WHERE p.db = {} AND p.id <> CONNECTION_ID()",
            quote::text(&self.swap.url.database())
        );
        for row in control.ask(&sql, "looking who works in it").await? {
            if let Some(id) = number(&row, 0) {
                // One that has ended by itself is fine.
                let _ = control.run(&format!("KILL {id}"), "ending a session").await;
            }
        }
        Ok(())
    }

    /// Gives the locks back once the renaming waits for them: a renaming that waits comes before
    /// all that write.
    async fn unlock(
        &self,
        locking: &mut Session,
        control: &mut Session,
        renaming: u32,
    ) -> Result<(), Error> {
        let doing = "handing the tables over";
        let state =
            format!("SELECT state FROM information_schema.processlist WHERE id = {renaming}");
        for _ in 0..LOOKS_MAX {
            let state = text(&control.one(&state, doing).await?, 0);
            if state.contains("lock") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let programs = self.note.outgoing.programs.iter();
        if programs
            .into_iter()
            .any(|program| program.kind == Kind::Trigger)
        {
            // Their triggers are gone: a statement that waits must not run without them.
            let waiting = format!(
                "SELECT id FROM information_schema.processlist WHERE db = {} AND id <> {renaming} \
                 AND id <> CONNECTION_ID() AND id <> {} AND state LIKE '%lock%'",
                quote::text(&self.swap.url.database()),
                locking.id()
            );
            for row in control.ask(&waiting, doing).await? {
                if let Some(id) = number(&row, 0) {
                    let _ = control.run(&format!("KILL QUERY {id}"), doing).await;
                }
            }
        }
        locking.run("UNLOCK TABLES", doing).await
    }
}

impl MysqlSwap {
    /// The tables are the new ones: makes their programs, and takes the empty side away. May be
    /// done again.
    async fn complete(
        &self,
        session: &mut Session,
        names: &Exchange,
        note: &Note,
    ) -> Result<Vec<String>, Error> {
        let live = self.url.database();
        self.drop_programs(session, &live, |_| true).await?;
        let entered = format!("USE {}", quote::identifier(&live));
        session.run(&entered, "entering the database").await?;
        let charset = format!(
            "ALTER DATABASE {}{}",
            quote::identifier(&live),
            charset(&note.incoming)?
        );
        session.run(&charset, "setting the character set").await?;
        for (table, column, default) in &note.defaults {
            let default = quote::moved(default.as_bytes(), &note.incoming.database, &live);
            let sql = format!(
                "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}",
                quote::identifier(table),
                quote::identifier(column),
                String::from_utf8_lossy(&default)
            );
            let doing = format!("setting a default of table {table}");
            session.run(&sql, &doing).await?;
        }
        let warnings = make_programs(session, &live, &note.incoming).await?;
        drop_database(session, &names.side).await?;
        Ok(warnings)
    }

    /// Makes the triggers of `definitions` again, in their order.
    async fn make_triggers(
        &self,
        session: &mut Session,
        definitions: &Definitions,
    ) -> Result<(), Error> {
        let live = self.url.database();
        self.drop_programs(session, &live, |kind| kind == Kind::Trigger)
            .await?;
        let entered = format!("USE {}", quote::identifier(&live));
        session.run(&entered, "entering the database").await?;
        let mut only = definitions.clone();
        only.programs
            .retain(|program| program.kind == Kind::Trigger);
        make_programs(session, &live, &only).await.map(|_| ())
    }

    async fn drop_programs(
        &self,
        session: &mut Session,
        live: &str,
        which: fn(Kind) -> bool,
    ) -> Result<(), Error> {
        let there = self.read(live).await?;
        for program in there
            .programs
            .iter()
            .rev()
            .filter(|program| which(program.kind))
        {
            let sql = format!(
                "DROP {} IF EXISTS {}",
                program.kind.sql(),
                quote::qualified(live, &program.name)
            );
            let doing = format!("dropping {} {}", program.kind.word(), program.name);
            session.run(&sql, &doing).await?;
        }
        Ok(())
    }
}

async fn make_programs(
    session: &mut Session,
    live: &str,
    definitions: &Definitions,
) -> Result<Vec<String>, Error> {
    let place = Place {
        database: live,
        definitions,
        skip_definer: false,
    };
    let mut made = Made::default();
    program::make_all(session, &place, &mut made).await?;
    Ok(made.warnings)
}
