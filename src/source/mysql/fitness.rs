//! Whether a server can take a snapshot at all, found out before anything is written.
//!
//! MySQL and MariaDB have grown apart, and so have their versions. Invariant: everything that
//! the target lacks is listed in one error, not met one by one half-way through a restore.

use std::collections::BTreeSet;

use super::error::Error;
use super::inspect;
use super::quote;
use super::rights;
use super::session::{Server, Session, number, text};
use super::structure::{Definitions, Kind};
use crate::row::schema::Structure;

/// Checks the server, and returns sentences for the person who restores.
///
/// # Errors
/// [`Error::Flavour`] with all that is lacking; Denied where definers may not be set.
pub async fn check(
    session: &mut Session,
    definitions: &Definitions,
    structure: &Structure,
    skip_definer: bool,
) -> Result<Vec<String>, Error> {
    let mut lacking = by_family(session.server(), definitions);
    let doing = "looking at what the target can take";
    let sql = "SELECT collation_name FROM information_schema.collations \
               UNION SELECT character_set_name FROM information_schema.character_sets \
               UNION SELECT full_collation_name \
               FROM information_schema.collation_character_set_applicability";
    let rows = match session.ask(sql, doing).await {
        Ok(rows) => rows,
        // MySQL has no full collation names.
        Err(_) => {
            let end = sql.rfind(" UNION").unwrap_or(sql.len());
            session.ask(&sql[..end], doing).await?
        }
    };
    let known: BTreeSet<String> = rows.iter().map(|row| text(row, 0)).collect();
    for word in charset_words(definitions) {
        if !known.contains(&word) {
            lacking.push(format!("character set or collation {word}"));
        }
    }
    let rows = session.ask("SHOW ENGINES", doing).await?;
    let engines: BTreeSet<String> = rows
        .iter()
        .filter(|row| text(row, 1) != "NO")
        .map(|row| text(row, 0).to_ascii_lowercase())
        .collect();
    let mut wanted = BTreeSet::new();
    for table in &structure.tables {
        wanted.extend(table.facts.get("engine").cloned());
    }
    for engine in wanted {
        if !engine.is_empty() && !engines.contains(&engine.to_ascii_lowercase()) {
            lacking.push(format!("storage engine {engine}"));
        }
    }
    let history = structure.tables.iter();
    if history
        .clone()
        .any(|t| t.facts.contains_key(inspect::HISTORY))
        && !session.server().is_mariadb_since((10, 11, 0))
    {
        lacking.push("writing the history of system-versioned tables".into());
    }
    lacking.extend(folded(session, definitions).await?);
    if !lacking.is_empty() {
        return Err(Error::Flavour {
            what: lacking.join("; "),
        });
    }
    if skip_definer {
        return Ok(Vec::new());
    }
    definers(session, definitions).await
}

/// Tables whose names differ only in case, where the server does not tell them apart.
async fn folded(session: &mut Session, definitions: &Definitions) -> Result<Vec<String>, Error> {
    let sql = "SELECT @@lower_case_table_names";
    let answer = session.one(sql, "reading the server's settings").await?;
    if number(&answer, 0) == Some(0) {
        return Ok(Vec::new());
    }
    let mut seen = BTreeSet::new();
    let tables = definitions.tables.iter();
    Ok(tables
        .filter(|table| !seen.insert(table.name.to_lowercase()))
        .map(|table| format!("telling table {} from another by case", table.name))
        .collect())
}

/// What the server's family does not have.
fn by_family(server: &Server, definitions: &Definitions) -> Vec<String> {
    let mut lacking = Vec::new();
    if server.mariadb {
        return lacking;
    }
    if !definitions.sequences.is_empty() {
        lacking.push("sequences".into());
    }
    let packages = |kind| matches!(kind, Kind::Package | Kind::PackageBody);
    if definitions.programs.iter().any(|p| packages(p.kind)) {
        lacking.push("packages".into());
    }
    for table in &definitions.tables {
        let sql = table.sql.to_ascii_lowercase();
        if sql.contains(" with system versioning") {
            lacking.push(format!("system versioning (table {})", table.name));
        }
        for word in [" uuid ", " inet6 ", " inet4 "] {
            if sql.contains(&format!("`{word}")) {
                lacking.push(format!("type{word}(table {})", table.name));
            }
        }
    }
    lacking
}

/// All words that follow `CHARSET=`, `COLLATE=`, `CHARACTER SET`, `COLLATE` in definitions.
fn charset_words(definitions: &Definitions) -> BTreeSet<String> {
    let mut words = BTreeSet::from([definitions.charset.clone(), definitions.collation.clone()]);
    for table in &definitions.tables {
        for line in table.sql.lines() {
            // What stands in quotes is not SQL.
            let bare = line.split('\'').step_by(2).collect::<Vec<_>>().join(" ");
            for mark in ["CHARSET=", "COLLATE=", "CHARACTER SET ", "COLLATE "] {
                for (at, _) in bare.match_indices(mark) {
                    let rest = &bare[at + mark.len()..];
                    let end = rest
                        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .unwrap_or(rest.len());
                    if end > 0 {
                        words.insert(rest[..end].to_owned());
                    }
                }
            }
        }
    }
    for program in &definitions.programs {
        words.insert(program.charset.clone());
        words.insert(program.collation.clone());
    }
    words.remove("");
    words
}

/// Which definers are not there. A server takes them all the same; what they define cannot be
/// used until they are made.
async fn definers(session: &mut Session, definitions: &Definitions) -> Result<Vec<String>, Error> {
    let doing = "looking at the definers";
    let programs = definitions.programs.iter();
    let mut all: Vec<String> = programs
        .map(|program| program.definer.clone())
        .filter(|definer| !definer.is_empty())
        .collect();
    all.sort();
    all.dedup();
    rights::check_definers(session, &all).await?;
    let mut warnings = Vec::new();
    let mut seen = BTreeSet::new();
    for program in &definitions.programs {
        let Some((user, host)) = program.definer.rsplit_once('@') else {
            continue;
        };
        if !seen.insert(program.definer.clone()) {
            continue;
        }
        let sql = format!(
            "SELECT COUNT(*) FROM mysql.user WHERE user = {} AND host = {}",
            quote::text(user),
            quote::text(host)
        );
        match session.one(&sql, doing).await {
            Ok(answer) if number(&answer, 0) == Some(0) => warnings.push(format!(
                "definer {} of {} {} does not exist on this server",
                program.definer,
                program.kind.word(),
                program.name
            )),
            Ok(_) => {}
            // Not everybody may look.
            Err(error) if error.is_denied() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mysql::structure::{SequenceDefinition, TableDefinition};

    fn definitions(sql: &str) -> Definitions {
        Definitions {
            charset: "utf8mb4".into(),
            collation: "utf8mb4_general_ci".into(),
            tables: vec![TableDefinition {
                name: "t".into(),
                sql: sql.into(),
                auto_increment: None,
            }],
            ..Definitions::default()
        }
    }

    #[test]
    fn words_are_found_outside_of_quotes() {
        let found = charset_words(&definitions(
            "CREATE TABLE `t` (\n `a` text CHARACTER SET latin1 COLLATE latin1_bin DEFAULT 'COLLATE nothing'\n\
             ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci",
        ));
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            found,
            [
                "latin1",
                "latin1_bin",
                "utf8mb4",
                "utf8mb4_0900_ai_ci",
                "utf8mb4_general_ci"
            ]
        );
    }

    #[test]
    fn what_mysql_lacks_is_listed_all_at_once() {
        let mut all =
            definitions("CREATE TABLE `t` (\n `u` uuid NOT NULL\n) WITH SYSTEM VERSIONING");
        all.sequences.push(SequenceDefinition {
            name: "s".into(),
            sql: String::new(),
            next: String::new(),
            cycles: String::new(),
        });
        let oracle = Server::parse("8.0.36", "MySQL");
        assert_eq!(
            by_family(&oracle, &all),
            [
                "sequences",
                "system versioning (table t)",
                "type uuid (table t)"
            ]
        );
        assert!(by_family(&Server::parse("10.11.1-MariaDB", ""), &all).is_empty());
    }
}
