//! The accident that the demo tells: a customer is deleted while others work, and comes back.
//!
//! The same edits by others are made in a copy without the accident, so that the end can be compared
//! row by row. Invariant: the customer is the one with the most deals, so that much hangs on it.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::config::relations::{self, Own};
use crate::demo::fill::Error;
use crate::job::undelete::{Choice, OnConflict, Overwritten, Request};
use crate::row::closure::Dependents;
use crate::row::schema::Table;

/// How many rows others edit meanwhile.
pub const EDITS: u64 = 100;

/// A customer.
#[derive(Clone, Debug)]
pub struct Customer {
    /// Its key.
    pub id: i64,
    /// Its name.
    pub name: String,
}

/// What this CRM knows of attachments, and its database does not.
const RULES: [&str; 3] = [
    "attachments.parent_id -> contacts.id where parent_type = contact",
    "attachments.parent_id -> deals.id where parent_type = deal",
    "attachments.parent_id -> accounts.id where parent_type = account",
];

/// What is asked for: the customer by its name, with all that was lost with it.
pub fn request(tables: &[Table], customer: &Customer, place: String) -> Request {
    let own = Own {
        relations: RULES.map(String::from).into(),
        ..Own::default()
    };
    Request {
        choices: vec![Choice {
            table: "accounts".into(),
            conditions: vec![format!("name={}", customer.name)],
            ..Choice::default()
        }],
        overwritten: Overwritten::Refuse,
        dependents: Dependents::Follow,
        on_conflict: OnConflict::Stop,
        with_triggers: false,
        relations: relations::choose(tables, &own),
        render: false,
        place,
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA foreign_keys=ON")?;
    Ok(connection)
}

/// The customer with the most deals whose name no other has.
///
/// # Errors
/// What SQLite says.
pub fn customer(path: &Path) -> Result<Customer, Error> {
    let find = || -> rusqlite::Result<Customer> {
        let sql = "SELECT a.id, a.name FROM accounts a JOIN deals d ON d.account_id = a.id
                   WHERE (SELECT count(*) FROM accounts b WHERE b.name = a.name) = 1
                   GROUP BY a.id ORDER BY count(*) DESC, a.id LIMIT 1";
        open(path)?.query_row(sql, [], |row| {
            Ok(Customer {
                id: row.get(0)?,
                name: row.get(1)?,
            })
        })
    };
    find().map_err(|source| failed(path, "read", source))
}

/// Deletes a customer as the CRM's own code does: attachments by hand, the rest by its keys.
///
/// # Errors
/// What SQLite says; nothing is deleted then.
pub fn delete(path: &Path, customer: &Customer) -> Result<(), Error> {
    let run = || -> rusqlite::Result<()> {
        let mut connection = open(path)?;
        let transaction = connection.transaction()?;
        let attached = "DELETE FROM attachments WHERE
            (parent_type = 'contact' AND parent_id IN (SELECT id FROM contacts WHERE account_id = ?1))
            OR (parent_type = 'deal' AND parent_id IN (SELECT id FROM deals WHERE account_id = ?1))
            OR (parent_type = 'account' AND parent_id = ?1)";
        transaction.execute(attached, params![customer.id])?;
        transaction.execute("DELETE FROM accounts WHERE id = ?1", params![customer.id])?;
        transaction.commit()
    };
    run().map_err(|source| failed(path, "changed", source))
}

/// Edits by others, at customers before and after this one.
///
/// # Errors
/// What SQLite says; nothing is changed then.
pub fn edit(path: &Path, customer: &Customer) -> Result<(), Error> {
    let run = || -> rusqlite::Result<()> {
        let mut connection = open(path)?;
        let transaction = connection.transaction()?;
        for (table, columns) in [
            (
                "accounts",
                "phone = '+1 555 0100', updated_at = '2026-11-22 10:00:00+00'",
            ),
            ("deals", "probability = 99, stage = 'negotiation'"),
        ] {
            let own = if table == "accounts" {
                "id"
            } else {
                "account_id"
            };
            let sql = format!(
                "UPDATE {table} SET {columns} WHERE id IN
                 (SELECT id FROM {table} WHERE {own} <> ?1 ORDER BY id LIMIT ?2)"
            );
            transaction.execute(&sql, params![customer.id, (EDITS / 2) as i64])?;
        }
        transaction.commit()
    };
    run().map_err(|source| failed(path, "changed", source))
}

fn failed(path: &Path, did: &'static str, source: rusqlite::Error) -> Error {
    Error::Sqlite {
        path: path.to_owned(),
        did,
        source,
    }
}
