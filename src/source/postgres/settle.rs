//! What comes after rows and indexes: counters, large objects, views, the database's own settings.
//!
//! Each statement is made from the snapshot's state with every name quoted. Invariant: nothing
//! here reads or changes rows of tables, but for filling materialised views as they were filled.

use super::client::Client;
use super::error::Error;
use super::quote::{self, identifier, literal};
use super::structure::{Database, Grant, LargeObject, State};
use crate::planted;
use crate::row::schema::TableName;
use crate::source::address::Ownership;

/// How many statements go to the server at once.
const STATEMENTS_AT_ONCE: usize = 200;

/// The role that stands for `role`.
pub fn mapped<'r>(role: &'r str, ownership: &'r Ownership) -> &'r str {
    let found = ownership.role_map.iter().find(|(old, _)| old == role);
    found.map_or(role, |(_, new)| new)
}

async fn run_all(client: &mut Client, statements: &[String], doing: &str) -> Result<(), Error> {
    for group in statements.chunks(STATEMENTS_AT_ONCE) {
        client.run(&group.join(";\n"), doing).await?;
    }
    Ok(())
}

/// Sets every counter to where it was.
pub async fn sequences(client: &mut Client, state: &State) -> Result<(), Error> {
    let statements: Vec<String> = state
        .sequences
        .iter()
        .filter(|_| !planted::is("sequence not restored"))
        .map(|sequence| {
            let name = quote::table(&TableName {
                schema: Some(sequence.schema.clone()),
                name: sequence.name.clone(),
            });
            format!(
                "SELECT pg_catalog.setval({}::pg_catalog.regclass, {}, {})::text",
                literal(&name),
                sequence.last_value,
                sequence.is_called
            )
        })
        .collect();
    run_all(client, &statements, "setting the sequences").await
}

/// Makes the large objects, still without bytes.
pub async fn create_large_objects(client: &mut Client, state: &State) -> Result<(), Error> {
    let create =
        |object: &LargeObject| format!("SELECT pg_catalog.lo_create({})::text", object.oid);
    let statements: Vec<String> = state.large_objects.iter().map(create).collect();
    run_all(client, &statements, "making the large objects").await
}

/// Gives the large objects their comments, owners and rights.
pub async fn own_large_objects(
    client: &mut Client,
    state: &State,
    ownership: &Ownership,
) -> Result<(), Error> {
    let mut statements = Vec::new();
    for object in &state.large_objects {
        let name = format!("LARGE OBJECT {}", object.oid);
        if let Some(comment) = &object.comment {
            statements.push(format!("COMMENT ON {name} IS {}", literal(comment)));
        }
        if !ownership.no_owner {
            let owner = identifier(mapped(&object.owner, ownership));
            statements.push(format!("ALTER {name} OWNER TO {owner}"));
        }
        if let (Some(grants), false) = (&object.grants, ownership.no_privileges) {
            let owner = (!ownership.no_owner).then_some(object.owner.as_str());
            statements.extend(grant_statements(&name, grants, owner, ownership));
        }
    }
    run_all(
        client,
        &statements,
        "giving the large objects their owners and rights",
    )
    .await
}

/// Statements that make `grants` the rights of `object`, whose owner is `owner`.
fn grant_statements(
    object: &str,
    grants: &[Grant],
    owner: Option<&str>,
    ownership: &Ownership,
) -> Vec<String> {
    let role = |role: &Option<String>| match role {
        Some(role) => identifier(mapped(role, ownership)),
        None => "PUBLIC".to_owned(),
    };
    let mut statements = vec![format!("REVOKE ALL ON {object} FROM PUBLIC")];
    if let Some(owner) = owner {
        let owner = identifier(mapped(owner, ownership));
        statements.push(format!("REVOKE ALL ON {object} FROM {owner}"));
    }
    for grant in grants {
        let right = match grant.right.as_str() {
            known @ ("SELECT" | "UPDATE" | "CREATE" | "CONNECT" | "TEMPORARY") => known,
            _ => continue,
        };
        let handed_on = if grant.grantable {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        let to = role(&grant.role);
        statements.push(format!("GRANT {right} ON {object} TO {to}{handed_on}"));
    }
    statements
}

/// Adds foreign keys into tables that came back without rows, not checked against what is there.
pub async fn unchecked_keys(
    client: &mut Client,
    state: &State,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for (schema, table, name, definition) in &state.unchecked_keys {
        let table = TableName {
            schema: Some(schema.clone()),
            name: table.clone(),
        };
        let unchecked = match definition.ends_with("NOT VALID") {
            true => "",
            false => " NOT VALID",
        };
        let sql = format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {definition}{unchecked}",
            quote::table(&table),
            identifier(name)
        );
        let added = client.run(&sql, "adding a foreign key").await;
        warnings.push(match added {
            Ok(()) => format!(
                "foreign key {name} of {table} is NOT VALID: the rows it points at were excluded"
            ),
            Err(error) => format!("foreign key {name} of {table} was not made: {error}"),
        });
    }
    Ok(())
}

/// Fills the materialised views that were filled, in an order that their needs allow.
pub async fn fill_views(
    client: &mut Client,
    state: &State,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut waiting: Vec<&(String, String)> = state.filled_views.iter().collect();
    while !waiting.is_empty() {
        let mut put_off = Vec::new();
        let mut last = None;
        let round = waiting.len();
        for view in waiting {
            let sql = format!(
                "REFRESH MATERIALIZED VIEW {}.{}",
                identifier(&view.0),
                identifier(&view.1)
            );
            match client.run(&sql, "filling a materialised view").await {
                Ok(()) => {}
                // It reads another one that has not been filled yet.
                Err(error) if error.code() == "55000" => {
                    put_off.push(view);
                    last = Some(error);
                }
                Err(error @ Error::Server { .. }) if !error.code().starts_with("57") => {
                    warnings.push(format!(
                        "materialised view {}.{} could not be filled: {error}",
                        view.0, view.1
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if put_off.len() == round {
            let error = last.map(|error| error.to_string()).unwrap_or_default();
            let names: Vec<String> = put_off.iter().map(|v| format!("{}.{}", v.0, v.1)).collect();
            warnings.push(format!(
                "materialised views {} could not be filled: {error}",
                names.join(", ")
            ));
            return Ok(());
        }
        waiting = put_off;
    }
    Ok(())
}

/// The statement that makes a database like `database`, named `name`.
pub fn create_database(name: &str, database: &Database, exact: bool) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {}",
        identifier(name),
        literal(&database.encoding)
    );
    if !exact {
        return sql;
    }
    sql.push_str(&format!(
        " LC_COLLATE {} LC_CTYPE {}",
        literal(&database.collate),
        literal(&database.ctype)
    ));
    let locale = database.locale.as_deref().map(literal);
    match (database.provider.as_str(), locale) {
        ("i", Some(locale)) => {
            sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}"));
            if let Some(rules) = &database.rules {
                sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
            }
        }
        ("b", Some(locale)) => {
            sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}"));
        }
        ("c", _) => {}
        _ => {}
    }
    sql
}

/// Gives the database `name` the comment, settings, rights and owner that it had.
pub async fn database(
    client: &mut Client,
    name: &str,
    database: &Database,
    ownership: &Ownership,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let target = format!("DATABASE {}", identifier(name));
    let mut statements = Vec::new();
    if let Some(comment) = &database.comment {
        statements.push(format!("COMMENT ON {target} IS {}", literal(comment)));
    }
    if database.connection_limit >= 0 {
        let limit = database.connection_limit;
        statements.push(format!("ALTER {target} CONNECTION LIMIT {limit}"));
    }
    for (role, setting) in &database.settings {
        let Some((parameter, value)) = setting.split_once('=') else {
            continue;
        };
        let value = setting_value(parameter, value);
        let parameter: Vec<String> = parameter.split('.').map(identifier).collect();
        let parameter = parameter.join(".");
        statements.push(match role {
            Some(role) => format!(
                "ALTER ROLE {} IN {target} SET {parameter} TO {value}",
                identifier(mapped(role, ownership))
            ),
            None => format!("ALTER {target} SET {parameter} TO {value}"),
        });
    }
    if let (Some(grants), false) = (&database.grants, ownership.no_privileges) {
        let owner = (!ownership.no_owner).then_some(database.owner.as_str());
        if owner.is_some() {
            statements.push(owner_statement(&target, database, ownership));
        }
        statements.extend(grant_statements(&target, grants, owner, ownership));
    } else if !ownership.no_owner {
        statements.push(owner_statement(&target, database, ownership));
    }
    for statement in statements {
        match client.run(&statement, "setting up the database").await {
            Ok(()) => {}
            Err(error @ Error::Server { .. }) => {
                warnings.push(format!(
                    "a property of database {name} was not restored: {error}"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn owner_statement(target: &str, database: &Database, ownership: &Ownership) -> String {
    let owner = identifier(mapped(&database.owner, ownership));
    format!("ALTER {target} OWNER TO {owner}")
}

/// Parameters whose value is a list of quoted names, kept as the server stored it.
const LISTS: [&str; 6] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "local_preload_libraries",
    "shared_preload_libraries",
    "unix_socket_directories",
];

fn setting_value(parameter: &str, value: &str) -> String {
    if !LISTS.contains(&parameter) {
        return literal(value);
    }
    let names = value.split(',').map(|name| {
        let name = name.trim();
        let inner = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
        literal(&inner.unwrap_or(name).replace("\"\"", "\""))
    });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_setting_stays_a_list() {
        assert_eq!(
            setting_value("search_path", "app, \"$user\""),
            "'app', '$user'"
        );
        assert_eq!(setting_value("work_mem", "4MB"), "'4MB'");
    }

    #[test]
    fn unknown_right_is_never_granted() {
        let grant = |right: &str| Grant {
            role: None,
            right: right.into(),
            grantable: false,
        };
        let grants = [grant("SELECT"), grant("ALL ON DATABASE x TO y; --")];
        let made = grant_statements("LARGE OBJECT 1", &grants, None, &Ownership::default());
        assert_eq!(made.len(), 2);
    }
}
