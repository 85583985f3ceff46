//! The definitions of a database: what `SHOW CREATE` says of every object, with its setting.
//!
//! Tables, sequences, views, routines, triggers and events are kept as the server prints them,
//! byte for byte in the character set that they were written in, with the `sql_mode`, zone and
//! collations that give them their meaning. They travel as one structure part, MessagePack with
//! names. Invariant: an object that exists and may not be read is an error, never left out.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::error::Error;
use super::quote;
use super::session::{Answer, Session, maybe, number, text};
use crate::row::schema::StructurePart;

/// Name of the structure part.
pub const PART: &str = "show_create";
/// Version of the part's shape.
const VERSION: u32 = 1;

/// Everything that `SHOW CREATE` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definitions {
    /// Version of this shape.
    pub version: u32,
    /// The database's name, which some definitions repeat.
    pub database: String,
    /// Its character set.
    pub charset: String,
    /// Its collation.
    pub collation: String,
    /// `mariadb` or `mysql`.
    pub flavour: String,
    /// The server's version, as it prints it.
    pub server: String,
    /// Tables, by name.
    pub tables: Vec<TableDefinition>,
    /// Sequences, by name.
    #[serde(default)]
    pub sequences: Vec<SequenceDefinition>,
    /// Everything with code in it: routines, views, triggers in firing order, events.
    #[serde(default)]
    pub programs: Vec<Program>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// Its name.
    pub name: String,
    /// `CREATE TABLE …`, in UTF-8.
    pub sql: String,
    /// The next AUTO_INCREMENT value, where it has one.
    #[serde(default)]
    pub auto_increment: Option<u64>,
}

/// A sequence (MariaDB).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceDefinition {
    /// Its name.
    pub name: String,
    /// `CREATE SEQUENCE …`
    pub sql: String,
    /// The next value that is not in any server's cache.
    pub next: String,
    /// How often it went round.
    pub cycles: String,
}

/// What kind of program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A stored function.
    Function,
    /// A stored procedure.
    Procedure,
    /// An Oracle-mode package.
    Package,
    /// The body of one.
    PackageBody,
    /// A view.
    View,
    /// A trigger.
    Trigger,
    /// An event.
    Event,
}

impl Kind {
    /// The words of the SQL statements.
    pub fn sql(self) -> &'static str {
        match self {
            Kind::Function => "FUNCTION",
            Kind::Procedure => "PROCEDURE",
            Kind::Package => "PACKAGE",
            Kind::PackageBody => "PACKAGE BODY",
            Kind::View => "VIEW",
            Kind::Trigger => "TRIGGER",
            Kind::Event => "EVENT",
        }
    }

    /// The word in messages.
    pub fn word(self) -> String {
        self.sql().to_ascii_lowercase()
    }
}

/// A view, routine, trigger or event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// `CREATE …`, in `charset`.
    pub sql: ByteBuf,
    /// The `sql_mode` that it was made under.
    pub sql_mode: String,
    /// `character_set_client` when it was made, which is what `sql` is written in.
    pub charset: String,
    /// `collation_connection` when it was made.
    pub collation: String,
    /// The database's collation when it was made; empty for views.
    #[serde(default)]
    pub database_collation: String,
    /// The zone of an event.
    #[serde(default)]
    pub time_zone: String,
    /// When an event was made, in seconds since 1970: one that is over would not be made again.
    #[serde(default)]
    pub created: Option<u64>,
    /// `user@host`.
    #[serde(default)]
    pub definer: String,
    /// A view that the source's server itself could not open.
    #[serde(default)]
    pub broken: bool,
}

impl Definitions {
    /// The structure part that holds them.
    pub fn to_part(&self) -> StructurePart {
        StructurePart {
            name: PART.into(),
            bytes: rmp_serde::to_vec_named(self)
                .expect("plain structs of strings and numbers serialise into memory"),
        }
    }

    /// The definitions in `parts`.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: there is none, or it is of a newer version.
    pub fn from_parts(parts: &[StructurePart]) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Unsupported {
            what: format!("the snapshot's definitions {what}"),
            hint: "use the rowvault that made the snapshot, or a newer one".into(),
        };
        let part = parts
            .iter()
            .find(|part| part.name == PART)
            .ok_or_else(|| wrong("are missing"))?;
        let found: Definitions =
            rmp_serde::from_slice(&part.bytes).map_err(|_| wrong("do not parse"))?;
        if found.version != VERSION {
            return Err(wrong(&format!("are of version {}", found.version)));
        }
        Ok(found)
    }

    /// What must be alike before and after the instant of the database snapshot: everything but
    /// counters.
    pub fn without_counters(&self) -> Self {
        let mut same = self.clone();
        for table in &mut same.tables {
            table.sql = without_auto_increment(&table.sql);
            table.auto_increment = None;
        }
        for sequence in &mut same.sequences {
            sequence.next.clear();
            sequence.cycles.clear();
        }
        same
    }
}

/// The options that give a database the snapshot's character set.
///
/// # Errors
/// [`Error::Unsupported`]: it is no name.
pub fn charset(definitions: &Definitions) -> Result<String, Error> {
    let words = [&definitions.charset, &definitions.collation];
    if !words.iter().all(|word| quote::is_word(word)) {
        return Err(Error::Unsupported {
            what: "the snapshot's character set is no name".into(),
            hint: "run verify on the snapshot".into(),
        });
    }
    Ok(format!(
        " CHARACTER SET {} COLLATE {}",
        definitions.charset, definitions.collation
    ))
}

/// `CREATE TABLE` without the option that says where counting goes on.
pub fn without_auto_increment(sql: &str) -> String {
    // The options stand in the last part, after the closing bracket of the columns.
    let tail = sql.rfind("\n)").unwrap_or(0);
    let Some(at) = sql[tail..].find(" AUTO_INCREMENT=") else {
        return sql.to_owned();
    };
    let at = tail + at;
    let digits = at + " AUTO_INCREMENT=".len();
    let end = sql[digits..]
        .find(|c: char| !c.is_ascii_digit())
        .map_or(sql.len(), |length| digits + length);
    format!("{}{}", &sql[..at], &sql[end..])
}

/// An object of the database, as the list of objects names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `BASE TABLE`, `SYSTEM VERSIONED`, `SEQUENCE`, `VIEW`.
    pub kind: String,
    /// The storage engine.
    pub engine: String,
    /// When its files were made; a table put in another's place has another time.
    pub made: String,
    /// The next AUTO_INCREMENT value.
    pub auto_increment: Option<u64>,
}

/// Tables, views and sequences of the session's database, by name.
///
/// # Errors
/// [`Error`] of the server.
pub async fn list(session: &mut Session) -> Result<Vec<Listed>, Error> {
    list_where(session, "").await
}

async fn list_where(session: &mut Session, condition: &str) -> Result<Vec<Listed>, Error> {
    let sql = format!(
        "SELECT table_name, table_type, engine, create_time, auto_increment \
         FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND BINARY table_schema = DATABASE(){condition}"
    );
    let rows = session.ask(&sql, "listing tables").await?;
    let mut listed: Vec<Listed> = rows
        .iter()
        .map(|row| Listed {
            name: text(row, 0),
            kind: text(row, 1),
            engine: text(row, 2),
            made: text(row, 3),
            auto_increment: number(row, 4),
        })
        .collect();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

/// One table of the session's database; none where there is none of that name.
///
/// # Errors
/// [`Error`] of the server.
pub async fn list_one(session: &mut Session, name: &str) -> Result<Option<Listed>, Error> {
    let condition = format!(" AND table_name = {}", quote::text(name));
    let listed = list_where(session, &condition).await?;
    Ok(listed.into_iter().find(|object| object.name == name))
}

/// `SHOW CREATE TABLE` of one table.
///
/// # Errors
/// [`Error`] of the server.
pub async fn table_sql(session: &mut Session, name: &str) -> Result<String, Error> {
    let sql = format!("SHOW CREATE TABLE {}", quote::identifier(name));
    let doing = format!("reading the definition of table {name}");
    let answer = session.one(&sql, &doing).await?;
    Ok(text(&answer, 1))
}

/// Reads all definitions; `leave_out` says which tables are not captured.
///
/// # Errors
/// [`Error`] of the server; [`Error::Unseen`].
pub async fn read(
    session: &mut Session,
    leave_out: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Definitions, Error> {
    let answer = session
        .one(
            "SELECT DATABASE(), @@character_set_database, @@collation_database",
            "reading the database's settings",
        )
        .await?;
    let mut found = Definitions {
        version: VERSION,
        database: text(&answer, 0),
        charset: text(&answer, 1),
        collation: text(&answer, 2),
        flavour: session.server().flavour().into(),
        server: session.server().text.clone(),
        ..Definitions::default()
    };
    let mut views = Vec::new();
    for object in list(session).await? {
        if leave_out(&object.name) {
            continue;
        }
        match object.kind.as_str() {
            "VIEW" | "SYSTEM VIEW" => views.push(object.name),
            "SEQUENCE" => found.sequences.push(sequence(session, object.name).await?),
            _ => found.tables.push(TableDefinition {
                sql: table_sql(session, &object.name).await?,
                name: object.name,
                auto_increment: object.auto_increment,
            }),
        }
    }
    // From here on, text comes as the bytes that it was written in.
    session
        .run("SET character_set_results = NULL", "its settings")
        .await?;
    let programs = programs(session, &views).await;
    session
        .run("SET character_set_results = utf8mb4", "its settings")
        .await?;
    found.programs = programs?;
    Ok(found)
}

async fn sequence(session: &mut Session, name: String) -> Result<SequenceDefinition, Error> {
    let quoted = quote::identifier(&name);
    let doing = format!("reading the definition of sequence {name}");
    let shown = session
        .one(&format!("SHOW CREATE SEQUENCE {quoted}"), &doing)
        .await?;
    let state = session
        .one(
            &format!("SELECT next_not_cached_value, cycle_count FROM {quoted}"),
            &doing,
        )
        .await?;
    Ok(SequenceDefinition {
        name,
        sql: text(&shown, 1),
        next: text(&state, 0),
        cycles: text(&state, 1),
    })
}

async fn programs(session: &mut Session, views: &[String]) -> Result<Vec<Program>, Error> {
    let mut found = routines(session).await?;
    for name in views {
        found.push(view(session, name).await?);
    }
    found.extend(triggers(session).await?);
    found.extend(events(session).await?);
    Ok(found)
}

async fn routines(session: &mut Session) -> Result<Vec<Program>, Error> {
    let sql = "SELECT routine_type, CONVERT(routine_name USING utf8mb4), definer \
               FROM information_schema.routines WHERE BINARY routine_schema = DATABASE() \
               ORDER BY routine_type, routine_name";
    let mut found = Vec::new();
    for row in session.ask(sql, "listing routines").await? {
        let kind = match text(&row, 0).as_str() {
            "FUNCTION" => Kind::Function,
            "PROCEDURE" => Kind::Procedure,
            "PACKAGE" => Kind::Package,
            "PACKAGE BODY" => Kind::PackageBody,
            other => {
                return Err(Error::Unsupported {
                    what: format!("routine {} is a {other}", text(&row, 1)),
                    hint: "use a newer rowvault".into(),
                });
            }
        };
        let shape = Shape {
            sql_mode: Some(1),
            sql: 2,
            charset: 3,
            database_collation: Some(5),
        };
        let mut program = shown(session, kind, &text(&row, 1), &shape).await?;
        program.definer = text(&row, 2);
        found.push(program);
    }
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(found)
}

async fn view(session: &mut Session, name: &str) -> Result<Program, Error> {
    let shape = Shape {
        sql_mode: None,
        sql: 1,
        charset: 2,
        database_collation: None,
    };
    let mut program = shown(session, Kind::View, name, &shape).await?;
    let definer = format!(
        "SELECT definer FROM information_schema.views \
         WHERE table_schema = DATABASE() AND table_name = {}",
        quote::text(name)
    );
    program.definer = text(&session.one(&definer, "reading a definer").await?, 0);
    let fields = format!("SHOW FIELDS FROM {}", quote::identifier(name));
    match session.run(&fields, "opening a view").await {
        Ok(()) => {}
        Err(error) if matches!(error.code(), Some(1356 | 1449 | 1146 | 1142 | 1143)) => {
            program.broken = true;
        }
        Err(error) => return Err(error),
    }
    Ok(program)
}

async fn triggers(session: &mut Session) -> Result<Vec<Program>, Error> {
    let sql = "SELECT CONVERT(trigger_name USING utf8mb4), definer FROM information_schema.triggers \
               WHERE BINARY trigger_schema = DATABASE() \
               ORDER BY event_object_table, action_timing, event_manipulation, action_order";
    let shape = Shape {
        sql_mode: Some(1),
        sql: 2,
        charset: 3,
        database_collation: Some(5),
    };
    let mut found = Vec::new();
    for row in session.ask(sql, "listing triggers").await? {
        let mut program = shown(session, Kind::Trigger, &text(&row, 0), &shape).await?;
        program.definer = text(&row, 1);
        found.push(program);
    }
    Ok(found)
}

async fn events(session: &mut Session) -> Result<Vec<Program>, Error> {
    let sql = "SELECT CONVERT(event_name USING utf8mb4), definer, UNIX_TIMESTAMP(created) \
               FROM information_schema.events WHERE BINARY event_schema = DATABASE() \
               ORDER BY event_name";
    let shape = Shape {
        sql_mode: Some(1),
        sql: 3,
        charset: 4,
        database_collation: Some(6),
    };
    let mut found = Vec::new();
    for row in session.ask(sql, "listing events").await? {
        let mut program = shown(session, Kind::Event, &text(&row, 0), &shape).await?;
        program.definer = text(&row, 1);
        program.created = number(&row, 2);
        found.push(program);
    }
    Ok(found)
}

/// In which columns `SHOW CREATE` has what; the collation follows the character set.
struct Shape {
    sql_mode: Option<usize>,
    sql: usize,
    charset: usize,
    database_collation: Option<usize>,
}

async fn shown(
    session: &mut Session,
    kind: Kind,
    name: &str,
    shape: &Shape,
) -> Result<Program, Error> {
    let sql = format!("SHOW CREATE {} {}", kind.sql(), quote::identifier(name));
    let object = format!("{} {name}", kind.word());
    let answer: Answer = session
        .one(&sql, &format!("reading the definition of {object}"))
        .await?;
    let Some(Some(bytes)) = answer.get(shape.sql) else {
        return Err(Error::Unseen { object });
    };
    let at = |index: Option<usize>| index.and_then(|at| maybe(&answer, at)).unwrap_or_default();
    Ok(Program {
        kind,
        name: name.to_owned(),
        sql: ByteBuf::from(bytes.clone()),
        sql_mode: at(shape.sql_mode),
        charset: at(Some(shape.charset)),
        collation: at(Some(shape.charset + 1)),
        database_collation: at(shape.database_collation),
        time_zone: match kind {
            Kind::Event => text(&answer, 2),
            _ => String::new(),
        },
        created: None,
        definer: String::new(),
        broken: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_increment_is_taken_out_of_the_options_only() {
        let sql = "CREATE TABLE `t` (\n  `a` text DEFAULT ' AUTO_INCREMENT=5'\n) ENGINE=X AUTO_INCREMENT=42 CHARSET=y";
        let without =
            "CREATE TABLE `t` (\n  `a` text DEFAULT ' AUTO_INCREMENT=5'\n) ENGINE=X CHARSET=y";
        assert_eq!(without_auto_increment(sql), without);
        assert_eq!(without_auto_increment(without), without);
    }

    #[test]
    fn definitions_come_back_from_their_part() {
        let mut all = Definitions {
            version: VERSION,
            database: "crm".into(),
            ..Definitions::default()
        };
        all.programs.push(Program {
            kind: Kind::Trigger,
            name: "t".into(),
            sql: ByteBuf::from(b"\xe9\x00".to_vec()),
            sql_mode: "ANSI".into(),
            charset: "latin1".into(),
            collation: "latin1_bin".into(),
            database_collation: String::new(),
            time_zone: String::new(),
            created: None,
            definer: "a@b".into(),
            broken: false,
        });
        assert_eq!(Definitions::from_parts(&[all.to_part()]).unwrap(), all);
        all.version = 2;
        assert!(Definitions::from_parts(&[all.to_part()]).is_err());
        assert!(Definitions::from_parts(&[]).is_err());
    }
}
