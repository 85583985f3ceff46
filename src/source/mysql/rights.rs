//! What a user must be allowed, so that nothing is hidden from the backup.
//!
//! A server does not refuse to list what a user may not see; it leaves it out. So the rights are
//! read before anything else, and what is missing is named with the statement that gives it.
//! Invariant: without a right over all tables, views, triggers, events and routines of the
//! database there is no backup.

use super::error::Error;
use super::quote;
use super::session::{Session, text};

/// One line of `SHOW GRANTS`.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    rights: Vec<String>,
    /// The database as a pattern of LIKE, and the object.
    on: (String, String),
}

/// Takes a name in back quotes, or a bare word, from the front of `input`.
fn name(input: &mut &str) -> Option<String> {
    if let Some(rest) = input.strip_prefix('`') {
        let mut out = String::new();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '`' {
                out.push(c);
            } else if chars.next_if(|(_, next)| *next == '`').is_some() {
                out.push('`');
            } else {
                *input = &rest[at + 1..];
                return Some(out);
            }
        }
        return None;
    }
    let end = input.find(['.', ' ']).unwrap_or(input.len());
    let out = input[..end].to_owned();
    *input = &input[end..];
    (!out.is_empty()).then_some(out)
}

fn parse(line: &str) -> Option<Grant> {
    let rest = line.strip_prefix("GRANT ")?;
    let (rights, on) = rest.split_once(" ON ")?;
    let mut on = on;
    for word in ["PROCEDURE ", "FUNCTION ", "PACKAGE "] {
        if on.starts_with(word) {
            return None;
        }
    }
    let database = name(&mut on)?;
    on = on.strip_prefix('.')?;
    let object = name(&mut on)?;
    // A right with a bracket covers some columns only, and is no right over the table.
    let rights = rights
        .split(", ")
        .map(|right| right.trim().to_ascii_uppercase())
        .filter(|right| !right.contains(['(', ')']))
        .collect();
    Some(Grant {
        rights,
        on: (database, object),
    })
}

/// Whether `name` fits a pattern of LIKE: `%`, `_`, and `\` before a letter meant as itself.
fn like(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('%', rest)) => (0..=name.len()).any(|at| like(rest, &name[at..])),
        Some(('_', rest)) => !name.is_empty() && like(rest, &name[1..]),
        Some((first, rest)) => {
            let (letter, rest) = match (first, rest.split_first()) {
                ('\\', Some((escaped, rest))) => (escaped, rest),
                _ => (first, rest),
            };
            name.first() == Some(letter) && like(rest, &name[1..])
        }
    }
}

/// All rights of a user.
struct Rights(Vec<Grant>);

impl Rights {
    /// Whether `right` holds for all of `database`.
    fn over(&self, right: &str, database: &str) -> bool {
        let name: Vec<char> = database.chars().collect();
        self.0.iter().any(|grant| {
            let pattern: Vec<char> = grant.on.0.chars().collect();
            grant.on.1 == "*"
                && (grant.on.0 == "*" || grant.on.0 == database || like(&pattern, &name))
                && grant.has(right)
        })
    }

    fn everywhere(&self, right: &str) -> bool {
        let mut all = self.0.iter();
        all.any(|grant| grant.on == ("*".into(), "*".into()) && grant.has(right))
    }

    /// Whether routines can be seen, all of them.
    fn see_routines(&self, database: &str) -> bool {
        let proc = |grant: &Grant| grant.on == ("mysql".into(), "proc".into());
        self.over("SELECT", "mysql")
            || self.everywhere("SHOW_ROUTINE")
            || self.over("EXECUTE", database)
            || self.over("ALTER ROUTINE", database)
            || self
                .0
                .iter()
                .any(|grant| proc(grant) && grant.has("SELECT"))
    }
}

impl Grant {
    fn has(&self, right: &str) -> bool {
        self.rights
            .iter()
            .any(|own| own == right || own == "ALL PRIVILEGES" || own == "ALL")
    }
}

/// The rights that are missing on `database`, by name, with the statements that give them.
fn missing(rights: &Rights, database: &str, user: &str) -> Option<(String, String)> {
    let mut names: Vec<&str> = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"]
        .into_iter()
        .filter(|right| !rights.over(right, database))
        .collect();
    let mut grants = Vec::new();
    if !names.is_empty() {
        grants.push(format!(
            "GRANT {} ON {}.* TO {user}",
            names.join(", "),
            quote::identifier(database)
        ));
    }
    if !rights.see_routines(database) {
        names.push("SELECT on mysql.proc (to see routines)");
        grants.push(format!("GRANT SELECT ON mysql.proc TO {user}"));
    }
    (!names.is_empty()).then(|| (names.join(", "), grants.join("; ")))
}

async fn of(session: &mut Session) -> Result<(String, Rights), Error> {
    let user = session
        .one("SELECT CURRENT_USER()", "asking who we are")
        .await?;
    let rows = session.ask("SHOW GRANTS", "reading our rights").await?;
    let grants = rows.iter().filter_map(|row| parse(&text(row, 0)));
    Ok((text(&user, 0), Rights(grants.collect())))
}

/// Checks that the session's user may make programs that run as each of `definers`.
///
/// # Errors
/// [`Error::Definers`], naming those it may not; [`Error`] of the server.
pub async fn check_definers(session: &mut Session, definers: &[String]) -> Result<(), Error> {
    let (user, rights) = of(session).await?;
    let any = ["SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER"];
    if any.iter().any(|right| rights.everywhere(right)) {
        return Ok(());
    }
    let others: Vec<&str> = definers
        .iter()
        .map(String::as_str)
        .filter(|definer| *definer != user)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::Definers {
        user,
        definers: others.join(", "),
    })
}

/// Checks that nothing of `database` is hidden from the session's user.
///
/// # Errors
/// [`Error::Rights`], naming each right; [`Error`] of the server.
pub async fn check(session: &mut Session, database: &str) -> Result<(), Error> {
    let (user, rights) = of(session).await?;
    let account = match user.rsplit_once('@') {
        Some((name, host)) => format!("{}@{}", quote::identifier(name), quote::identifier(host)),
        None => quote::identifier(&user),
    };
    match missing(&rights, database, &account) {
        None => Ok(()),
        Some((missing, grants)) => Err(Error::Rights {
            user,
            database: database.to_owned(),
            missing,
            grants,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(lines: &[&str]) -> Rights {
        Rights(lines.iter().filter_map(|line| parse(line)).collect())
    }

    #[test]
    fn all_rights_are_enough() {
        let all = rights(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]);
        assert_eq!(missing(&all, "crm", "u"), None);
        let own = rights(&[
            "GRANT USAGE ON *.* TO `u`@`%`",
            "GRANT ALL PRIVILEGES ON `c\\_m`.* TO `u`@`%`",
        ]);
        assert_eq!(missing(&own, "c_m", "u"), None);
        assert!(missing(&own, "cxm", "u").is_some());
    }

    #[test]
    fn each_missing_right_is_named() {
        let some = rights(&["GRANT SELECT, SHOW VIEW ON `crm`.* TO `u`@`%`"]);
        let (names, grants) = missing(&some, "crm", "`u`@`%`").unwrap();
        assert_eq!(
            names,
            "TRIGGER, EVENT, SELECT on mysql.proc (to see routines)"
        );
        assert_eq!(
            grants,
            "GRANT TRIGGER, EVENT ON `crm`.* TO `u`@`%`; GRANT SELECT ON mysql.proc TO `u`@`%`"
        );
    }

    #[test]
    fn a_right_over_one_table_or_column_is_none_over_the_database() {
        let some = rights(&[
            "GRANT SELECT ON `crm`.`accounts` TO `u`@`%`",
            "GRANT SELECT (`id`), INSERT ON `crm`.* TO `u`@`%`",
            "GRANT EXECUTE ON PROCEDURE `crm`.`p` TO `u`@`%`",
            "GRANT `role` TO `u`@`%`",
        ]);
        assert!(!some.over("SELECT", "crm"));
        assert!(!some.see_routines("crm"));
    }
}
