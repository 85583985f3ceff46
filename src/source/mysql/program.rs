//! Views, routines, triggers and events made again, each under the settings it was made under.
//!
//! A program's meaning hangs on the `sql_mode`, character set, collation and zone of the session
//! that makes it. Invariant: whatever was made here can be taken away by the statements that
//! come back.

use super::error::Error;
use super::quote;
use super::session::Session;
use super::structure::{Definitions, Kind, Program};

/// Where programs go, and how.
pub struct Place<'a> {
    /// The database they are made in.
    pub database: &'a str,
    /// What they were captured from.
    pub definitions: &'a Definitions,
    /// Whether the definer is left out, so that the restoring user becomes it.
    pub skip_definer: bool,
}

/// What making programs left behind.
#[derive(Debug, Default)]
pub struct Made {
    /// Statements that take the programs away, to be run from the last to the first.
    pub undo: Vec<String>,
    /// Sentences for the person who restores.
    pub warnings: Vec<String>,
}

/// Makes all programs of `place`: routines, views in an order that works, triggers, events.
///
/// # Errors
/// [`Error`] of the server, naming the program; `made` tells what stands so far.
pub async fn make_all(
    session: &mut Session,
    place: &Place<'_>,
    made: &mut Made,
) -> Result<(), Error> {
    let programs = &place.definitions.programs;
    let of = |wanted: fn(Kind) -> bool| programs.iter().filter(move |p| wanted(p.kind));
    for program in of(|kind| kind < Kind::View) {
        make(session, place, program, made).await?;
    }
    make_views(
        session,
        place,
        of(|kind| kind == Kind::View).collect(),
        made,
    )
    .await?;
    for program in of(|kind| kind > Kind::View) {
        make(session, place, program, made).await?;
    }
    settle(session).await
}

/// Puts the session back to its own settings.
async fn settle(session: &mut Session) -> Result<(), Error> {
    session
        .run(
            "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION', \
             time_zone = '+00:00', timestamp = DEFAULT",
            "its settings",
        )
        .await?;
    session.run("SET NAMES utf8mb4", "its settings").await
}

/// A view can only be made when what it reads is there: round after round, until none is left
/// or none can be made.
async fn make_views(
    session: &mut Session,
    place: &Place<'_>,
    mut left: Vec<&Program>,
    made: &mut Made,
) -> Result<(), Error> {
    while !left.is_empty() {
        let mut failed = Vec::new();
        let mut why = None;
        let before = left.len();
        for view in left {
            match make(session, place, view, made).await {
                Ok(()) => {}
                Err(error)
                    if matches!(error.code(), Some(1146 | 1054 | 1356 | 1305 | 1142 | 1449)) =>
                {
                    failed.push(view);
                    why = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if failed.len() == before {
            failed.retain(|view| !warn_of_broken(view, made));
            return match (failed.is_empty(), why) {
                (false, Some(error)) => Err(error),
                _ => Ok(()),
            };
        }
        left = failed;
    }
    Ok(())
}

/// A view that its own server could not open any more is no loss.
fn warn_of_broken(view: &Program, made: &mut Made) -> bool {
    if view.broken {
        made.warnings.push(format!(
            "view {} was not made: it could not be opened in the source either",
            view.name
        ));
    }
    view.broken
}

async fn make(
    session: &mut Session,
    place: &Place<'_>,
    program: &Program,
    made: &mut Made,
) -> Result<(), Error> {
    let doing = format!("making {} {}", program.kind.word(), program.name);
    let other_collation = !program.database_collation.is_empty()
        && program.database_collation != place.definitions.collation;
    if other_collation {
        set_collation(session, place.database, &program.database_collation, &doing).await?;
    }
    let result = make_one(session, place, program, &doing).await;
    if other_collation {
        set_collation(
            session,
            place.database,
            &place.definitions.collation,
            &doing,
        )
        .await?;
    }
    result?;
    made.undo.push(format!(
        "DROP {} IF EXISTS {}",
        program.kind.sql(),
        quote::qualified(place.database, &program.name)
    ));
    Ok(())
}

/// The name of the table that a trigger is on, as it is written; none where it cannot be read.
pub fn table(trigger: &Program) -> Option<String> {
    let ansi = trigger
        .sql_mode
        .split(',')
        .any(|mode| mode == "ANSI_QUOTES");
    quote::table_of_trigger(&trigger.sql, ansi)
}

/// Makes one trigger whatever the database's collation is now, as a session that has locked its
/// table must: that cannot be changed meanwhile.
///
/// # Errors
/// [`Error`] of the server, naming the trigger.
pub async fn make_trigger(
    session: &mut Session,
    place: &Place<'_>,
    trigger: &Program,
) -> Result<(), Error> {
    let doing = format!("making trigger {}", trigger.name);
    make_one(session, place, trigger, &doing).await?;
    settle(session).await
}

/// Makes one trigger in the place of one of the same name, if there is one; nobody can write to
/// its table while there is none.
///
/// # Errors
/// [`Error`] of the server, naming the trigger.
pub async fn replace_trigger(
    session: &mut Session,
    place: &Place<'_>,
    trigger: &Program,
) -> Result<(), Error> {
    let doing = format!("making trigger {}", trigger.name);
    let own = &place.definitions.collation;
    let other = Some(&trigger.database_collation).filter(|one| !one.is_empty() && *one != own);
    if let Some(collation) = other {
        set_collation(session, place.database, collation, &doing).await?;
    }
    let replaced = replace(session, place, trigger, &doing).await;
    let unlocked = session.run("UNLOCK TABLES", &doing).await;
    if other.is_some() {
        set_collation(session, place.database, own, &doing).await?;
    }
    replaced.and(unlocked)
}

async fn replace(
    session: &mut Session,
    place: &Place<'_>,
    trigger: &Program,
    doing: &str,
) -> Result<(), Error> {
    if let Some(table) = table(trigger) {
        let name = quote::qualified(place.database, &table);
        session
            .run(&format!("LOCK TABLES {name} WRITE"), doing)
            .await?;
    }
    let name = quote::qualified(place.database, &trigger.name);
    session
        .run(&format!("DROP TRIGGER IF EXISTS {name}"), doing)
        .await?;
    make_trigger(session, place, trigger).await
}

/// What is run to make `program` at `place`.
pub fn statement(place: &Place<'_>, program: &Program) -> Vec<u8> {
    let from = &place.definitions.database;
    let sql = match program.kind {
        Kind::Trigger => quote::moved_head(&program.sql, from, place.database, "FOR EACH ROW"),
        Kind::View if quote::is_qualified(&program.sql, from) => {
            quote::moved(&program.sql, from, place.database)
        }
        _ => program.sql.to_vec(),
    };
    match place.skip_definer {
        true => without_definer(&sql),
        false => sql,
    }
}

async fn set_collation(
    session: &mut Session,
    database: &str,
    collation: &str,
    doing: &str,
) -> Result<(), Error> {
    let collation = word(collation)?;
    let database = quote::identifier(database);
    session
        .run(
            &format!("ALTER DATABASE {database} COLLATE {collation}"),
            doing,
        )
        .await
}

/// `word`, if it may stand in SQL as it is.
fn word(word: &str) -> Result<&str, Error> {
    if quote::is_word(word) {
        return Ok(word);
    }
    Err(Error::Unsupported {
        what: format!("{word:?} is no name of a character set or collation"),
        hint: "run verify on the snapshot".into(),
    })
}

async fn make_one(
    session: &mut Session,
    place: &Place<'_>,
    program: &Program,
    doing: &str,
) -> Result<(), Error> {
    let sql = statement(place, program);
    session.run("SET NAMES utf8mb4", doing).await?;
    let mode = modes(session.server().mariadb, &program.sql_mode);
    let zone = match program.time_zone.as_str() {
        "" => "+00:00",
        zone => zone,
    };
    let time = match program.created {
        Some(created) => created.to_string(),
        None => "DEFAULT".into(),
    };
    let settings = format!(
        "SET SESSION sql_mode = {}, time_zone = {}, timestamp = {time}, \
         collation_connection = {}, character_set_client = {}",
        quote::text(&mode),
        quote::text(zone),
        word(&program.collation)?,
        word(&program.charset)?,
    );
    session.run(&settings, doing).await?;
    session.run_bytes(&sql, doing).await
}

/// The modes that the server knows: MySQL 8 has lost some that MariaDB still has.
fn modes(mariadb: bool, modes: &str) -> String {
    const GONE: [&str; 10] = [
        "NO_AUTO_CREATE_USER",
        "NO_FIELD_OPTIONS",
        "NO_KEY_OPTIONS",
        "NO_TABLE_OPTIONS",
        "DB2",
        "MAXDB",
        "MSSQL",
        "MYSQL323",
        "MYSQL40",
        "ORACLE",
    ];
    let known = |mode: &&str| mariadb || !GONE.contains(mode);
    modes.split(',').filter(known).collect::<Vec<_>>().join(",")
}

/// `CREATE …` without its `DEFINER=user@host`.
fn without_definer(sql: &[u8]) -> Vec<u8> {
    let head = &sql[..sql.len().min(120)];
    let Some(start) = head.windows(8).position(|w| w == b"DEFINER=") else {
        return sql.to_vec();
    };
    let mut end = start + 8;
    let mut quoted = false;
    while let Some(&byte) = sql.get(end) {
        match byte {
            b'`' => quoted = !quoted,
            b' ' | b'\n' if !quoted => break,
            _ => {}
        }
        end += 1;
    }
    [&sql[..start], &sql[(end + 1).min(sql.len())..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definer_is_taken_out_whatever_it_is_called() {
        assert_eq!(
            without_definer(b"CREATE DEFINER=`o ``k`@`%` PROCEDURE `p`() select 1"),
            b"CREATE PROCEDURE `p`() select 1"
        );
        assert_eq!(without_definer(b"CREATE VIEW v"), b"CREATE VIEW v");
    }

    #[test]
    fn modes_that_mysql_lost_are_left_out_there() {
        let modes_of = "STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER";
        assert_eq!(modes(true, modes_of), modes_of);
        assert_eq!(modes(false, modes_of), "STRICT_TRANS_TABLES");
    }
}
