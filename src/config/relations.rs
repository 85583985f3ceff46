//! Relations that CRMs keep only by convention: lists that are compiled in, and the person's own.
//!
//! A list is chosen where the tables that it needs stand in one schema. A rule reads
//! `notes.parent_id -> accounts.id where parent_type = Accounts`; `*` stands for every table that has
//! the columns. Invariant: what is handed on are plain relations between tables that are there.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::row::closure::relation::{
    Condition, Deleted, Origin, Relation, Relations, SoftDeletion, Spelling,
};
use crate::row::schema::{OnDelete, Table};

const LISTS: &[&str] = &[
    include_str!("relations/suitecrm.toml"),
    include_str!("relations/espocrm.toml"),
    include_str!("relations/vtiger.toml"),
    include_str!("relations/odoo.toml"),
    include_str!("relations/dolibarr.toml"),
    include_str!("relations/twenty.toml"),
    include_str!("relations/django.toml"),
];

/// The relations of one kind of CRM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The CRM.
    pub name: String,
    /// Where the facts are from: version and files.
    pub source: String,
    /// Tables by which it is known.
    pub needs: Vec<String>,
    /// Rules for relations.
    #[serde(default)]
    pub relations: Vec<String>,
    /// Rules for flags of deletion.
    #[serde(default)]
    pub soft: Vec<String>,
    /// Whether references go through Django's table of content types.
    #[serde(default)]
    pub content_types: bool,
}

/// What the configuration says about the relations of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The list to use, by name; `none` for none; nothing where the tables decide.
    pub list: Option<String>,
    /// Rules for relations, beside those of the list.
    pub relations: Vec<String>,
    /// Rules for flags of deletion; where there are any, those of the list do not count.
    pub soft: Vec<String>,
}

/// A rule in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    rule: String,
}

/// How rules are written.
pub const RULE_HINT: &str =
    "write rule = \"notes.parent_id -> accounts.id where parent_type = Accounts\"";

/// What the configuration says, checked.
///
/// # Errors
/// A sentence: a list that is not there, or a rule that cannot be read.
pub fn own(
    list: Option<String>,
    relations: Vec<RuleText>,
    soft: Vec<RuleText>,
) -> Result<Own, String> {
    if let Some(name) = &list {
        let lists = lists();
        let mut names: Vec<&str> = lists.iter().map(|list| list.name.as_str()).collect();
        names.push("none");
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            let names = names.join(", ");
            return Err(format!(
                "there are no relations {name:?}; there are {names}"
            ));
        }
    }
    let own = Own {
        list,
        relations: relations.into_iter().map(|one| one.rule).collect(),
        soft: soft.into_iter().map(|one| one.rule).collect(),
    };
    let wrong = own.relations.iter().find(|text| !is_rule(text));
    match wrong.or_else(|| own.soft.iter().find(|text| !is_soft_rule(text))) {
        Some(text) => Err(format!("{text:?} is no rule about a relation")),
        None => Ok(own),
    }
}

/// The lists that are compiled in.
pub fn lists() -> Vec<List> {
    let parse = |text: &&str| toml::from_str(text).expect("a test parses every list");
    LISTS.iter().map(parse).collect()
}

/// One relation, as a rule says it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    child: String,
    columns: Vec<String>,
    parent: String,
    parent_columns: Vec<String>,
    when: Option<(String, Says)>,
    extends: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Says {
    /// The column has this value.
    Value(String),
    /// The column has the parent's name, with dots for underscores.
    Name,
}

fn end(text: &str) -> Option<(String, Vec<String>)> {
    let (table, columns) = text.trim().split_once('.')?;
    let columns: Vec<String> = columns
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect();
    let whole = !table.is_empty() && columns.iter().all(|name| !name.is_empty());
    whole.then(|| (table.to_owned(), columns))
}

fn rule(text: &str) -> Option<Rule> {
    let (text, extends) = match text.trim().strip_suffix("one record") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (ends, when) = match text.split_once(" where ") {
        None => (text, None),
        Some((ends, when)) => {
            let when = match (when.split_once('='), when.trim().strip_suffix(" names")) {
                (Some((column, value)), _) => (
                    column.trim().to_owned(),
                    Says::Value(value.trim().to_owned()),
                ),
                (None, Some(column)) => (column.trim().to_owned(), Says::Name),
                (None, None) => return None,
            };
            (ends, Some(when))
        }
    };
    let (child, parent) = ends.split_once("->")?;
    let ((child, columns), (parent, parent_columns)) = (end(child)?, end(parent)?);
    (columns.len() == parent_columns.len()).then_some(Rule {
        child,
        columns,
        parent,
        parent_columns,
        when,
        extends,
    })
}

fn soft_rule(text: &str) -> Option<(String, String, Deleted)> {
    if let Some(place) = text.trim().strip_suffix("is set") {
        let (table, columns) = end(place)?;
        return Some((table, columns.into_iter().next()?, Deleted::NotNull));
    }
    let (place, value) = text.split_once('=')?;
    let (table, columns) = end(place)?;
    let value = Deleted::Is(value.trim().to_owned());
    Some((table, columns.into_iter().next()?, value))
}

/// Whether a rule about relations can be read.
pub fn is_rule(text: &str) -> bool {
    rule(text).is_some()
}

/// Whether a rule about flags of deletion can be read.
pub fn is_soft_rule(text: &str) -> bool {
    soft_rule(text).is_some()
}

/// What `*` stands for where `pattern` is matched by `name`.
fn captured<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((before, after)) => name
            .strip_prefix(before)?
            .strip_suffix(after)
            .filter(|rest| !rest.is_empty()),
    }
}

fn has(table: &Table, columns: &[String]) -> bool {
    columns.iter().all(|name| table.column(name).is_some())
}

/// The relations that `rule` means among the tables of one schema.
fn expand(rule: &Rule, list: &str, tables: &[&Table], out: &mut Vec<Relation>) {
    let condition = rule.when.as_ref().map(|(column, _)| column.clone());
    for child in tables {
        let Some(rest) = captured(&rule.child, &child.name.name) else {
            continue;
        };
        let column = condition.iter().all(|name| child.column(name).is_some());
        if !column || !has(child, &rule.columns) {
            continue;
        }
        for parent in tables {
            let named = matches!(rule.when, Some((_, Says::Name)));
            let fits = match rule.parent.as_str() {
                "*" if named => true,
                "*" => parent.name.name == rest,
                name => parent.name.name == name,
            };
            if !fits || !has(parent, &rule.parent_columns) {
                continue;
            }
            let when = rule.when.as_ref().map(|(column, says)| Condition {
                column: column.clone(),
                value: match says {
                    Says::Value(value) => value.clone(),
                    Says::Name => parent.name.name.clone(),
                },
                spelling: match says {
                    Says::Value(_) => Spelling::Exact,
                    Says::Name => Spelling::Dotted,
                },
            });
            out.push(Relation {
                child: child.name.clone(),
                columns: rule.columns.clone(),
                parent: parent.name.clone(),
                parent_columns: rule.parent_columns.clone(),
                on_delete: OnDelete::Restrict,
                when,
                origin: Origin::Convention(list.to_owned()),
                extends: rule.extends,
            });
        }
    }
}

fn expand_soft(text: &str, tables: &[&Table], out: &mut Vec<SoftDeletion>) {
    let Some((pattern, column, deleted)) = soft_rule(text) else {
        return;
    };
    for table in tables {
        let fits = pattern == "*" || pattern == table.name.name;
        if fits && table.column(&column).is_some() {
            out.push(SoftDeletion {
                table: table.name.clone(),
                column: column.clone(),
                deleted: deleted.clone(),
            });
        }
    }
}

/// The tables of each schema.
fn schemas(tables: &[Table]) -> Vec<Vec<&Table>> {
    let mut schemas: BTreeMap<&Option<String>, Vec<&Table>> = BTreeMap::new();
    for table in tables {
        schemas.entry(&table.name.schema).or_default().push(table);
    }
    schemas.into_values().collect()
}

/// The relations of the CRM whose tables these are, and the person's own.
pub fn choose(tables: &[Table], own: &Own) -> Relations {
    let mut known = Relations::default();
    for schema in schemas(tables) {
        let stands = |name: &String| schema.iter().any(|table| table.name.name == *name);
        for list in lists() {
            let chosen = match &own.list {
                Some(name) => list.name.eq_ignore_ascii_case(name),
                None => list.needs.iter().all(stands),
            };
            if !chosen {
                continue;
            }
            for rule in list.relations.iter().filter_map(|text| rule(text)) {
                expand(&rule, &list.name, &schema, &mut known.conventions);
            }
            if own.soft.is_empty() {
                for text in &list.soft {
                    expand_soft(text, &schema, &mut known.soft);
                }
            }
            known.content_types |= list.content_types;
            if !known.lists.contains(&list.name) {
                known.lists.push(list.name);
            }
        }
        for rule in own.relations.iter().filter_map(|text| rule(text)) {
            expand(&rule, "the configuration", &schema, &mut known.conventions);
        }
        for text in &own.soft {
            expand_soft(text, &schema, &mut known.soft);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_every_list_can_be_read() {
        for list in lists() {
            assert!(
                !list.source.is_empty() && !list.needs.is_empty(),
                "{}",
                list.name
            );
            for text in &list.relations {
                assert!(is_rule(text), "{}: {text}", list.name);
            }
            for text in &list.soft {
                assert!(is_soft_rule(text), "{}: {text}", list.name);
            }
        }
    }

    #[test]
    fn rules_say_tables_columns_and_conditions() {
        let read = rule("a.x, y -> b.u,v where kind = B one record").unwrap();
        assert_eq!((read.child.as_str(), read.parent.as_str()), ("a", "b"));
        assert_eq!(read.columns, ["x", "y"]);
        assert_eq!(read.when, Some(("kind".into(), Says::Value("B".into()))));
        assert!(read.extends);
        for wrong in [
            "",
            "a.x",
            "a -> b",
            "a.x -> b.y,z",
            "a.x -> b.y where c",
            ".x -> b.y",
        ] {
            assert_eq!(rule(wrong), None, "{wrong}");
        }
        assert_eq!(captured("*_cstm", "accounts_cstm"), Some("accounts"));
        assert_eq!(captured("*_cstm", "_cstm"), None);
        assert!(is_soft_rule("*.deletedAt is set") && !is_soft_rule("deleted"));
    }
}
