//! Questions that a person wrote, asked in a transaction that has begun.
//!
//! Asked of the source inside its snapshot and of a restored database in a drill, so that the two
//! answers can be compared. Invariant: a question cannot write, and ends in time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Error;
use super::session::{Session, maybe};
use crate::source::address::{ONE_VALUE, QUESTION_TIME_MAX, Question, not_one_value};

const DOING: &str = "a check";

/// The one value of `sql`; none for NULL.
///
/// # Errors
/// As the server says; Unsupported where there is more or less than one row of one column.
pub async fn value(
    session: &mut Session,
    sql: &str,
    limit: Duration,
) -> Result<Option<String>, Error> {
    let (setting, limit) = match session.server().mariadb {
        true => ("max_statement_time", limit.as_secs()),
        false => ("max_execution_time", limit.as_millis() as u64),
    };
    let set = |limit: u64| format!("SET SESSION {setting} = {limit}");
    session.run(&set(limit), DOING).await?;
    // Only what gives rows can stand inside another query, and nothing can come behind it.
    let sql = sql.trim().trim_end_matches(';');
    let sql = format!("SELECT * FROM ({sql}\n) AS rowvault_check LIMIT 2");
    let rows = session.ask(&sql, DOING).await;
    session.run(&set(0), DOING).await?;
    let rows = rows?;
    let columns = rows.first().map_or(0, |row| row.len());
    match not_one_value(rows.len(), columns) {
        None => Ok(maybe(&rows[0], 0)),
        Some(what) => Err(Error::Unsupported {
            what,
            hint: ONE_VALUE.into(),
        }),
    }
}

/// Adds the answers to the facts of a capture; a question that fails is told, and no more.
///
/// # Errors
/// The connection was lost.
pub async fn gather(
    session: &mut Session,
    questions: &[Question],
    facts: &mut BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for question in questions {
        // Tables that were read stay locked against changes of their definition until here.
        session.run("SAVEPOINT rowvault_check", DOING).await?;
        let answer = value(session, &question.sql, QUESTION_TIME_MAX).await;
        session
            .run("ROLLBACK TO SAVEPOINT rowvault_check", DOING)
            .await?;
        question.note(answer, facts, warnings);
    }
    Ok(())
}
