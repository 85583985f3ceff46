//! What the configuration expects of drills: targets, checks, canaries.
//!
//! Invariant: an expectation that cannot be meant is refused when the file is read, not when a
//! drill runs at night.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::job::drill::{Answer, Canary, Check, Expected, References};

/// When a source is drilled, and what is expected then.
#[derive(Clone, Debug, Default)]
pub struct Drill {
    /// A cron expression; none where drills are started by hand.
    pub schedule: Option<String>,
    /// What is expected.
    pub expected: Expected,
}

/// `drill = { … }`.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillText {
    schedule: Option<String>,
    rto: Option<String>,
    rpo: Option<String>,
    #[serde(default)]
    foreign_keys: ReferencesText,
}

#[derive(Clone, Copy, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReferencesText {
    #[default]
    Check,
    Report,
}

/// `[[source.check]]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckText {
    name: String,
    sql: String,
    expect: ExpectText,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum ExpectText {
    Whole(i64),
    Real(f64),
    Text(String),
}

/// `[source.canary]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryText {
    table: String,
    #[serde(rename = "where")]
    conditions: Vec<String>,
    #[serde(default = "one")]
    least: u64,
}

fn one() -> u64 {
    1
}

/// One table (`[source.canary]`) or several (`[[source.canary]]`).
pub fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    struct Many<T>(PhantomData<T>);
    impl<'de, T: DeserializeOwned> Visitor<'de> for Many<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table or several")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            let map = serde::de::value::MapAccessDeserializer::new(map);
            Ok(vec![T::deserialize(map)?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(Many(PhantomData))
}

/// A span of time as the configuration writes it, or what is wrong with it.
type Span<'a, E> = &'a dyn Fn(&str, &str) -> Result<Duration, E>;
/// What is wrong, as the configuration tells it: the words and what to do.
type Wrong<'a, E> = &'a dyn Fn(String, &str) -> E;

/// What the texts mean.
///
/// # Errors
/// Those of `span` and `wrong`.
pub fn read<E>(
    text: Option<DrillText>,
    checks: Vec<CheckText>,
    canaries: Vec<CanaryText>,
    span: Span<'_, E>,
    wrong: Wrong<'_, E>,
) -> Result<Drill, E> {
    let text = text.unwrap_or_default();
    let target = |key: &str, text: Option<String>| text.map(|text| span(key, &text)).transpose();
    let mut names = BTreeSet::new();
    for check in &checks {
        if check.name.trim().is_empty() || check.sql.trim().is_empty() {
            let what = format!("check {:?} has no name or no sql", check.name);
            return Err(wrong(what, "give both"));
        }
        if !names.insert(check.name.as_str()) {
            let what = format!("there is another check {:?}", check.name);
            return Err(wrong(what, "name each once"));
        }
    }
    if let Some(canary) = canaries.iter().find(|one| one.conditions.is_empty()) {
        let what = format!("the canary in table {} has no conditions", canary.table);
        return Err(wrong(what, "say which record: where = [\"id=42\"]"));
    }
    let checks: Result<Vec<Check>, E> = checks.into_iter().map(|check| check.read(wrong)).collect();
    Ok(Drill {
        schedule: text.schedule,
        expected: Expected {
            checks: checks?,
            canaries: canaries.into_iter().map(CanaryText::read).collect(),
            rto: target("rto", text.rto)?,
            rpo: target("rpo", text.rpo)?,
            references: match text.foreign_keys {
                ReferencesText::Check => References::Fail,
                ReferencesText::Report => References::Tell,
            },
        },
    })
}

impl CheckText {
    fn read<E>(self, wrong: Wrong<'_, E>) -> Result<Check, E> {
        let text = match &self.expect {
            ExpectText::Whole(number) => number.to_string(),
            ExpectText::Real(number) => number.to_string(),
            ExpectText::Text(text) => text.clone(),
        };
        let expect = Answer::parse(&text).ok_or_else(|| {
            let what = format!("check {:?} expects {text:?}", self.name);
            let hint =
                "expect is a number, \"1000..2000\", \"1000..\" or \"same as at the snapshot\"";
            wrong(what, hint)
        })?;
        Ok(Check {
            name: self.name,
            sql: self.sql,
            expect,
        })
    }
}

impl CanaryText {
    fn read(self) -> Canary {
        Canary {
            table: self.table,
            conditions: self.conditions,
            least: self.least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct SourceText {
        drill: Option<DrillText>,
        #[serde(default)]
        check: Vec<CheckText>,
        #[serde(default, deserialize_with = "one_or_many")]
        canary: Vec<CanaryText>,
    }

    fn drill(text: &str) -> Result<Drill, String> {
        let source: SourceText = toml::from_str(text).map_err(|error| error.to_string())?;
        let span = |_: &str, text: &str| {
            humantime::parse_duration(text).map_err(|error| error.to_string())
        };
        let wrong = |what: String, _: &str| what;
        read(source.drill, source.check, source.canary, &span, &wrong)
    }

    #[test]
    fn everything_that_a_drill_expects_is_read() {
        let drill = drill(
            r#"
            drill = { schedule = "0 6 * * SUN", rto = "30m", rpo = "26h", foreign_keys = "report" }
            [[check]]
            name = "contacts"
            sql = "SELECT count(*) FROM contacts"
            expect = "1000.."
            [[check]]
            name = "owed"
            sql = "SELECT sum(owed) FROM deals"
            expect = 12.5
            [canary]
            table = "contacts"
            where = ["email=canary@example.org"]
            "#,
        )
        .unwrap();
        assert_eq!(drill.schedule.as_deref(), Some("0 6 * * SUN"));
        let expected = &drill.expected;
        assert_eq!(expected.rto, Some(Duration::from_secs(1800)));
        assert_eq!(expected.rpo, Some(Duration::from_secs(26 * 3600)));
        assert_eq!(expected.references, References::Tell);
        assert_eq!(expected.checks.len(), 2);
        assert_eq!(expected.checks[1].expect, Answer::Number("12.5".into()));
        assert_eq!(
            (expected.canaries.len(), expected.canaries[0].least),
            (1, 1)
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, word) in [
            ("drill = { rto = \"soon\" }", "number"),
            ("drill = { shedule = \"x\" }", "shedule"),
            (
                "[[check]]\nname = \"a\"\nsql = \"x\"\nexpect = \"many\"",
                "many",
            ),
            ("[[check]]\nname = \"a\"\nsql = \"x\"", "expect"),
            (
                "[[check]]\nname=\"a\"\nsql=\"x\"\nexpect=1\n[[check]]\nname=\"a\"\nsql=\"x\"\nexpect=1",
                "another",
            ),
            ("[canary]\ntable = \"t\"\nwhere = []", "no conditions"),
            ("[canary]\ntable = \"t\"\nwhere = [\"a=1\"]\nkey = 1", "key"),
        ] {
            let error = drill(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
