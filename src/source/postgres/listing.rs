//! The entries of a `pg_dump` archive, chosen for `pg_restore` by kind.
//!
//! Invariant: an entry that is left out is one that the caller tells of, or makes itself.

use super::error::Error;
use super::structure::State;
use super::tools::{self, Tool};
use crate::source::address::Extent;

/// What comes after everything else.
const LAST: [&str; 2] = [" EVENT TRIGGER ", " SUBSCRIPTION "];
/// What only a superuser may make, and a rehearsal can do without.
const SUPERUSERS: [&str; 3] = [
    " COMMENT - EXTENSION ",
    " PUBLICATION ",
    " PUBLICATION TABLE ",
];

/// Rights of what is there and of what is to come.
const RIGHTS: [&str; 2] = ["ACL ", "DEFAULT ACL "];

/// Which entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Everything; the section says what stands before rows.
    All,
    /// Those that come with indexes and keys. Foreign keys into tables without rows are left out.
    Now,
    /// Rights.
    Rights,
    /// Those that must come after everything.
    Later,
}

/// An archive, and what is to be made of it.
pub struct Listing<'a> {
    /// The `pg_restore` that reads it.
    pub tool: &'a Tool,
    /// Where it is.
    pub path: String,
    /// What the archive leaves out.
    pub state: &'a State,
    /// How much is made.
    pub extent: Extent,
}

/// What a line lists: after three numbers its kind, schema, name and owner.
fn entry(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or_default()
}

impl Listing<'_> {
    /// The chosen entries as a list for `pg_restore`.
    ///
    /// # Errors
    /// What the tool says.
    pub async fn entries(&self, which: Which) -> Result<String, Error> {
        let arguments = ["--list".to_owned(), self.path.clone()];
        let listed = tools::run(self.tool, None, &arguments, None).await?;
        let listed = String::from_utf8_lossy(&listed.bytes).into_owned();
        let unchecked: Vec<String> = self
            .state
            .unchecked_keys
            .iter()
            .map(|(schema, table, name, _)| format!(" FK CONSTRAINT {schema} {table} {name} "))
            .collect();
        let has = |line: &str, kinds: &[&str]| kinds.iter().any(|kind| line.contains(kind));
        let chosen = listed.lines().filter(|line| {
            let is_chosen = match which {
                Which::All => true,
                Which::Now => {
                    !has(line, &LAST) && !unchecked.iter().any(|key| line.contains(key.as_str()))
                }
                Which::Rights => RIGHTS.iter().any(|kind| entry(line).starts_with(kind)),
                Which::Later => has(line, &LAST),
            };
            let is_barred = self.extent == Extent::WithoutSuperuser && has(line, &SUPERUSERS);
            is_chosen && !is_barred
        });
        Ok(chosen.collect::<Vec<_>>().join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_of_an_entry_is_not_sought_in_its_name() {
        let line = "3421; 0 0 ACL public TABLE t owner";
        assert!(entry(line).starts_with(RIGHTS[0]));
        let line = "215; 1259 16390 TABLE public a ACL b owner";
        assert!(!entry(line).starts_with(RIGHTS[0]));
        assert_eq!(entry(";"), "");
    }
}
