//! Messages to people: what happened, since when, and what to do, in plain words.
//!
//! One file a way out; each knows how to deliver a message and nothing of jobs. Invariant: a
//! message is made of names, counts, ids and sentences of failures, never of rows or secrets, and
//! a way that fails or hangs delays nobody.

pub mod command;
pub mod email;
pub mod heartbeat;
pub mod webhook;

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// How long one delivery may take.
pub const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// How often a delivery is tried.
const ATTEMPTS_MAX: u32 = 3;
/// How long until the next attempt; then twice as long.
const PAUSE: Duration = Duration::from_secs(2);

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A job fails.
    Failure,
    /// A job that failed works again.
    Recovery,
    /// A run did not take place at its time.
    Missed,
    /// A drill ended.
    Drill,
    /// An object of the repository is damaged.
    Damaged,
    /// A snapshot differs from the one before as none did.
    Unusual,
}

impl Kind {
    /// The word in the subject.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Failure => "FAILED",
            Kind::Recovery => "recovered",
            Kind::Missed => "MISSED",
            Kind::Drill => "drill",
            Kind::Damaged => "DAMAGED",
            Kind::Unusual => "UNUSUAL CHANGE",
        }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Drawn anew for each message, so that a receiver knows one that came twice.
    pub id: String,
    /// What it is about.
    pub kind: Kind,
    /// The host that tells.
    pub host: String,
    /// The job.
    pub job: String,
    /// The source, where it is about one.
    pub source: Option<String>,
    /// What happened, in a sentence.
    pub what: String,
    /// What to do, in sentences.
    #[serde(rename = "do")]
    pub to_do: Vec<String>,
    /// Since when, as RFC 3339 in UTC.
    pub since: String,
    /// When it was told.
    pub time: String,
    /// Whether it was told before and lasts.
    pub repeated: bool,
}

impl Message {
    /// One line.
    pub fn subject(&self) -> String {
        let again = if self.repeated { " (still)" } else { "" };
        format!(
            "rowvault on {}: {} {}{again}",
            self.host,
            self.job,
            self.kind.word()
        )
    }

    /// The whole text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.subject(), self.what);
        if !self.to_do.is_empty() {
            text.push_str("\nWhat to do:\n");
            for line in &self.to_do {
                text.push_str(&format!("  {line}\n"));
            }
        }
        text.push_str(&format!("\nSince {}, told {}.\n", self.since, self.time));
        text
    }
}

/// A way out.
pub trait Channel: Send + Sync {
    /// Its name in the log.
    fn name(&self) -> String;
    /// Delivers a message once; the error is a sentence without secrets.
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), String>>;
}

/// Delivers `message`, trying again a few times; what fails in the end is logged.
pub async fn send(channel: &dyn Channel, message: &Message) {
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS_MAX {
        let delivered = tokio::time::timeout(DELIVERY_MAX, channel.deliver(message)).await;
        let why = match delivered {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => format!("it took longer than {} s", DELIVERY_MAX.as_secs()),
        };
        let name = channel.name();
        if attempt == ATTEMPTS_MAX {
            let subject = message.subject();
            tracing::error!("{name} did not get the message {subject:?}: {why}");
            return;
        }
        tracing::warn!("{name} did not get a message, which is tried again: {why}");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_says_what_happened_and_what_to_do() {
        let message = Message {
            id: "1".into(),
            kind: Kind::Failure,
            host: "db1".into(),
            job: "backup crm".into(),
            source: Some("crm".into()),
            what: "the server refuses".into(),
            to_do: vec!["see whether it runs".into()],
            since: "2026-11-20T10:00:00Z".into(),
            time: "2026-11-21T10:00:00Z".into(),
            repeated: true,
        };
        assert_eq!(
            message.subject(),
            "rowvault on db1: backup crm FAILED (still)"
        );
        assert_eq!(
            message.text(),
            "rowvault on db1: backup crm FAILED (still)\n\nthe server refuses\n\nWhat to do:\n  \
             see whether it runs\n\nSince 2026-11-20T10:00:00Z, told 2026-11-21T10:00:00Z.\n"
        );
        let json = serde_json::to_value(&message).unwrap();
        assert_eq!(json["kind"], "failure");
        assert_eq!(json["do"][0], "see whether it runs");
    }
}
