//! What a source expects of its restored self: checks, canaries, targets.
//!
//! Filled by the configuration, judged against what the restored database says. Invariant: an
//! answer that is not understood is never taken for what was expected.

use std::cmp::Ordering;
use std::time::Duration;

use crate::row::filter::decimal::Decimal;
use crate::source::address::{NULL_ANSWER, Question};

/// What the answer to a check must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This number.
    Number(String),
    /// A number from here (where given) to there (where given), both included.
    Range(Option<String>, Option<String>),
    /// What the source itself answered when the snapshot was taken.
    AsAtSnapshot,
}

/// A question to the restored database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What people call it.
    pub name: String,
    /// One SELECT that gives one value.
    pub sql: String,
    /// What it must give.
    pub expect: Answer,
}

/// Records that must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Their table, as a person names it.
    pub table: String,
    /// Conditions that hold of them, as `find --where` takes them; at least one.
    pub conditions: Vec<String>,
    /// How many must be there at least.
    pub least: u64,
}

/// What is made of references that point at nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// They fail the drill.
    #[default]
    Fail,
    /// They are told: the source has them too.
    Tell,
}

/// Everything that a drill is held against.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Questions.
    pub checks: Vec<Check>,
    /// Records.
    pub canaries: Vec<Canary>,
    /// The longest that recovering may take.
    pub rto: Option<Duration>,
    /// The oldest that the newest snapshot may be.
    pub rpo: Option<Duration>,
    /// What broken references mean.
    pub references: References,
}

impl Expected {
    /// What the source must be asked when a snapshot is taken.
    pub fn questions(&self) -> Vec<Question> {
        let checks = self.checks.iter();
        let checks = checks.filter(|check| check.expect == Answer::AsAtSnapshot);
        let question = |check: &Check| Question {
            fact: fact(check),
            sql: check.sql.clone(),
        };
        checks.map(question).collect()
    }
}

/// The name of the fact under which a snapshot keeps the answer to `check`. Another text of the
/// question is another question.
pub fn fact(check: &Check) -> String {
    let hash = blake3::hash(check.sql.as_bytes()).to_hex();
    format!("check:{}:{}", check.name, &hash[..8])
}

impl Answer {
    /// The expectation that a configuration writes down; none where it cannot be meant.
    pub fn parse(text: &str) -> Option<Answer> {
        let text = text.trim();
        if text == "same as at the snapshot" {
            return Some(Answer::AsAtSnapshot);
        }
        let number = |text: &str| {
            let text = text.trim();
            Decimal::parse(text.as_bytes()).map(|_| text.to_owned())
        };
        let Some((low, high)) = text.split_once("..") else {
            return number(text).map(Answer::Number);
        };
        let end = |text: &str| match text.trim() {
            "" => Some(None),
            text => number(text).map(Some),
        };
        match (end(low)?, end(high)?) {
            (None, None) => None,
            (Some(low), Some(high)) if compare(&low, &high)? == Ordering::Greater => None,
            (low, high) => Some(Answer::Range(low, high)),
        }
    }

    /// Whether `found` is what was expected, and both in words; `then` is what the source answered
    /// when the snapshot was taken.
    pub fn judge(&self, found: Option<&str>, then: Option<&str>) -> (bool, String) {
        let told = found.unwrap_or("NULL");
        match self {
            Answer::Number(wanted) => {
                let ok = found.and_then(|found| compare(found, wanted)) == Some(Ordering::Equal);
                (ok, format!("{told}, expected {wanted}"))
            }
            Answer::Range(low, high) => {
                let above = |found: &str| match low {
                    Some(low) => compare(found, low).is_some_and(Ordering::is_ge),
                    None => true,
                };
                let below = |found: &str| match high {
                    Some(high) => compare(found, high).is_some_and(Ordering::is_le),
                    None => true,
                };
                let number = |found: &&str| Decimal::parse(found.trim().as_bytes()).is_some();
                let found = found.filter(number);
                let ok = found.is_some_and(|found| above(found) && below(found));
                let wanted = match (low, high) {
                    (Some(low), Some(high)) => format!("{low} to {high}"),
                    (Some(low), None) => format!("{low} or more"),
                    (None, high) => format!("{} or less", high.as_deref().unwrap_or_default()),
                };
                (ok, format!("{told}, expected {wanted}"))
            }
            Answer::AsAtSnapshot => match then {
                Some(then) => {
                    let equal = found.unwrap_or(NULL_ANSWER) == then
                        || found.and_then(|found| compare(found, then)) == Some(Ordering::Equal);
                    (equal, format!("{told}, and {then} at the snapshot"))
                }
                None => (
                    false,
                    format!("{told}; the snapshot holds no answer: it is older than the check"),
                ),
            },
        }
    }
}

fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (a.trim().as_bytes(), b.trim().as_bytes());
    Some(Decimal::parse(a)?.compare(&Decimal::parse(b)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_numbers_ranges_or_the_snapshot() {
        let range = |low: &str, high: &str| {
            let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Some(Answer::Range(end(low), end(high)))
        };
        for (text, meant) in [
            ("42", Some(Answer::Number("42".into()))),
            (" -1.50 ", Some(Answer::Number("-1.50".into()))),
            ("1..10", range("1", "10")),
            ("0.5 .. 2", range("0.5", "2")),
            ("1000..", range("1000", "")),
            ("..7", range("", "7")),
            ("same as at the snapshot", Some(Answer::AsAtSnapshot)),
            ("..", None),
            ("10..1", None),
            ("many", None),
            ("", None),
        ] {
            assert_eq!(Answer::parse(text), meant, "{text:?}");
        }
    }

    #[test]
    fn answers_are_judged_as_numbers() {
        let ok = |expect: &str, found: Option<&str>, then: Option<&str>| {
            Answer::parse(expect).unwrap().judge(found, then).0
        };
        assert!(ok("42", Some("42.0"), None) && ok("42", Some(" 42 "), None));
        assert!(!ok("42", Some("43"), None) && !ok("42", None, None));
        assert!(!ok("42", Some("forty-two"), None));
        assert!(ok("1..10", Some("10"), None) && ok("1..10", Some("1"), None));
        assert!(!ok("1..10", Some("10.01"), None) && !ok("1..10", Some("many"), None));
        assert!(ok("1..", Some("99999999999999999999"), None) && !ok("1..", None, None));
        assert!(!ok("..7", Some("many"), None));
        let same = "same as at the snapshot";
        assert!(ok(same, Some("7.10"), Some("7.1")) && ok(same, Some("a"), Some("a")));
        assert!(!ok(same, Some("b"), Some("a")) && !ok(same, Some("7"), None));
        assert!(!ok(same, None, Some("7")));
    }
}
