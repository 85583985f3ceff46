//! Questions that a person wrote, asked in a transaction that has begun.
//!
//! Asked of the source inside its snapshot and of a restored database in a drill, so that the two
//! answers can be compared. Invariant: a question cannot write, ends in time, and one that fails
//! leaves the transaction as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::Client;
use super::error::Error;
use crate::failure::Class;
use crate::source::address::{ONE_VALUE, QUESTION_TIME_MAX, Question, not_one_value};

const DOING: &str = "a check";

/// The one value of `sql`; none for NULL. The transaction cannot go on after an error.
///
/// # Errors
/// As the server says; Conflict where there is more or less than one row of one column.
pub async fn value(
    client: &mut Client,
    sql: &str,
    limit: Duration,
) -> Result<Option<String>, Error> {
    // The tables are found as an application finds them, by the database's own search path.
    let begin = format!(
        "RESET search_path; SET LOCAL statement_timeout = {}; \
         DECLARE rowvault_check NO SCROLL CURSOR FOR {}",
        limit.as_millis(),
        sql.trim().trim_end_matches(';')
    );
    client.run(&begin, DOING).await?;
    let rows = client.rows("FETCH 2 FROM rowvault_check", DOING).await?;
    let columns = rows.first().map_or(0, |row| row.len());
    match not_one_value(rows.len(), columns) {
        None => Ok(rows[0][0].clone()),
        Some(what) => Err(Error::stated(Class::Conflict, what, ONE_VALUE)),
    }
}

/// Adds the answers to the facts of a capture; a question that fails is told, and no more.
///
/// # Errors
/// The connection was lost.
pub async fn gather(
    client: &mut Client,
    questions: &[Question],
    facts: &mut BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for question in questions {
        client.run("SAVEPOINT rowvault_check", DOING).await?;
        let answer = value(client, &question.sql, QUESTION_TIME_MAX).await;
        let back = "ROLLBACK TO SAVEPOINT rowvault_check; RELEASE SAVEPOINT rowvault_check";
        client.run(back, DOING).await?;
        question.note(answer, facts, warnings);
    }
    Ok(())
}
