//! `pg_dump`'s custom-format archive, read and written as far as roles go.
//!
//! Nothing of the client tools renames roles, so `--role-map` does it here: owners stand in
//! fields of their own, grantees in GRANT and REVOKE statements and in policies. Only archives
//! without rows are rewritten, since positions of rows would move. Invariant: with no role to
//! rename, what is written is what was read, byte for byte.
//! Form: PostgreSQL's `pg_backup_archiver.c`, archive versions 1.14 to 1.16.

use super::error::Error;
use super::quote;
use crate::failure::Class;

/// Gives `archive` with each role named as `new_name` says.
///
/// # Errors
/// Invalid: the archive has a version or a form that is not known here.
pub fn with_roles(archive: &[u8], new_name: &dyn Fn(&str) -> String) -> Result<Vec<u8>, Error> {
    let mut copier = Copier {
        rest: archive,
        out: Vec::with_capacity(archive.len() + 1024),
        int_bytes: 4,
    };
    let done = copier.archive(new_name);
    match done {
        Some(()) => Ok(copier.out),
        None => Err(Error::stated(
            Class::Invalid,
            "the snapshot's structure is in a pg_dump archive of a version whose roles cannot be renamed",
            "make the old roles on the target, or use --no-owner and --no-privileges",
        )),
    }
}

/// Reads fields and writes them again; none where the form is not met.
struct Copier<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    int_bytes: usize,
}

impl<'a> Copier<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        self.out.extend_from_slice(taken);
        Some(taken)
    }

    fn number(&mut self) -> Option<i64> {
        let taken = self.bytes(1 + self.int_bytes)?;
        let digits = taken[1..].iter().rev();
        let value = digits.fold(0i64, |sum, byte| (sum << 8) | i64::from(*byte));
        Some(if taken[0] == 0 { value } else { -value })
    }

    fn push_number(&mut self, value: usize) {
        self.out.push(0);
        let bytes = (value as u64).to_le_bytes();
        self.out.extend_from_slice(&bytes[..self.int_bytes]);
    }

    /// A text, none for NULL; written as `rewrite` gives it.
    fn text(&mut self, rewrite: impl Fn(&str) -> Option<String>) -> Option<Option<&'a str>> {
        let start = self.out.len();
        let length = self.number()?;
        if length < 0 {
            return Some(None);
        }
        let bytes = self.bytes(usize::try_from(length).ok()?)?;
        let text = std::str::from_utf8(bytes).ok()?;
        if let Some(new) = rewrite(text) {
            self.out.truncate(start);
            self.push_number(new.len());
            self.out.extend_from_slice(new.as_bytes());
        }
        Some(Some(text))
    }

    fn same_text(&mut self) -> Option<Option<&'a str>> {
        self.text(|_| None)
    }

    fn archive(&mut self, new_name: &dyn Fn(&str) -> String) -> Option<()> {
        let head = self.bytes(11)?;
        let minor = head[6];
        if &head[..6] != b"PGDMP\x01" || !(14..=16).contains(&minor) || head[10] != 1 {
            return None;
        }
        let offset_bytes = usize::from(head[9]);
        self.int_bytes = usize::from(head[8]);
        if self.int_bytes != 4 || offset_bytes != 8 {
            return None;
        }
        match minor {
            14 => self.number().map(|_| ())?,
            _ => self.bytes(1).map(|_| ())?,
        }
        for _ in 0..7 {
            self.number()?;
        }
        for _ in 0..3 {
            self.same_text()?;
        }
        let entries = self.number()?;
        for _ in 0..entries {
            self.entry(minor, offset_bytes, new_name)?;
        }
        self.rest.is_empty().then_some(())
    }

    fn entry(
        &mut self,
        minor: u8,
        offset_bytes: usize,
        new_name: &dyn Fn(&str) -> String,
    ) -> Option<()> {
        self.number()?;
        let has_rows = self.number()?;
        for _ in 0..3 {
            self.same_text()?;
        }
        let kind = self.same_text()?.unwrap_or_default();
        self.number()?;
        let names_roles = ["ACL", "DEFAULT ACL", "POLICY", "USER MAPPING"].contains(&kind);
        self.text(|sql| names_roles.then(|| statement_with_roles(sql, new_name)))?;
        // DROP, COPY, schema, tablespace, access method.
        for _ in 0..5 {
            self.same_text()?;
        }
        if minor >= 16 {
            self.number()?;
        }
        self.text(|owner| (!owner.is_empty()).then(|| new_name(owner)))?;
        self.same_text()?;
        while self.same_text()?.is_some() {}
        self.bytes(1 + offset_bytes)?;
        (has_rows == 0).then_some(())
    }
}

/// `sql` with the roles after TO, FROM, FOR, ROLE and AUTHORIZATION renamed, outside of brackets
/// and literals.
fn statement_with_roles(sql: &str, new_name: &dyn Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(sql.len());
    let (mut rest, mut depth, mut role_next) = (sql, 0usize, false);
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest, first);
        let (token, after) = rest.split_at(length);
        rest = after;
        match first {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let word = first == '"' || first == '_' || first.is_alphabetic();
        if word && depth == 0 {
            let keyword = matches!(token, "TO" | "FROM" | "FOR" | "ROLE" | "AUTHORIZATION");
            if role_next && !keyword && !rest.starts_with('.') {
                out.push_str(&renamed(token, new_name));
            } else {
                out.push_str(token);
            }
            role_next = keyword;
            continue;
        }
        // A list of roles goes on after a comma.
        if depth == 0 && first == ',' {
            role_next = after_role_list(&out);
        }
        out.push_str(token);
    }
    out
}

/// Whether a comma that follows `before` stands in a list that began with TO.
fn after_role_list(before: &str) -> bool {
    let list = before.rsplit(" TO ").next().unwrap_or_default();
    before.contains(" TO ") && !list.contains(['(', ';']) && !list.contains(" USING")
}

fn renamed(token: &str, new_name: &dyn Fn(&str) -> String) -> String {
    if matches!(
        token,
        "PUBLIC" | "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "ALL"
    ) {
        return token.to_owned();
    }
    let inner = token.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let name = inner.map_or_else(|| token.to_owned(), |name| name.replace("\"\"", "\""));
    let new = new_name(&name);
    match new == name {
        true => token.to_owned(),
        false => quote::identifier(&new),
    }
}

/// The bytes of the token that starts `rest`: a quoted name, a literal, a word, or one character.
fn token_length(rest: &str, first: char) -> usize {
    if first == '"' || first == '\'' {
        let mut inside = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = inside.next() {
            if c == first && inside.next_if(|(_, next)| *next == first).is_none() {
                return at + 1;
            }
        }
        return rest.len();
    }
    let in_word = |c: char| c == '_' || c == '$' || c.is_alphanumeric();
    match in_word(first) {
        true => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
        false => first.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(role: &str) -> String {
        match role {
            "old" => "new \"one\"".into(),
            other => other.into(),
        }
    }

    #[test]
    fn roles_are_renamed_where_they_stand_and_nowhere_else() {
        for (before, after) in [
            (
                "GRANT SELECT ON TABLE public.old TO old WITH GRANT OPTION;\n",
                "GRANT SELECT ON TABLE public.old TO \"new \"\"one\"\"\" WITH GRANT OPTION;\n",
            ),
            (
                "REVOKE ALL ON TABLE public.\"to\" FROM \"old\";",
                "REVOKE ALL ON TABLE public.\"to\" FROM \"new \"\"one\"\"\";",
            ),
            (
                "CREATE POLICY old ON public.old FOR SELECT TO x, old USING ((who IN ( SELECT a FROM old)));",
                "CREATE POLICY old ON public.old FOR SELECT TO x, \"new \"\"one\"\"\" USING ((who IN ( SELECT a FROM old)));",
            ),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE old IN SCHEMA old GRANT SELECT ON TABLES TO PUBLIC;",
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"new \"\"one\"\"\" IN SCHEMA old GRANT SELECT ON TABLES TO PUBLIC;",
            ),
        ] {
            assert_eq!(statement_with_roles(before, &rename), after);
            assert_eq!(statement_with_roles(before, &str::to_owned), before);
        }
    }

    #[test]
    fn bytes_that_are_no_archive_are_refused() {
        for bytes in [
            &b""[..],
            b"PGDMP",
            b"PGDMP\x01\x0e\x00\x04\x08\x01",
            &[0xff; 200],
        ] {
            assert!(with_roles(bytes, &rename).is_err());
        }
    }
}
