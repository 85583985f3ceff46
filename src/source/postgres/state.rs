//! Reads what the archive leaves out (see `structure`) from a live database.
//!
//! Works for every server version by asking catalogs as JSON where their columns differ.
//! Invariant: a counter or large object that this role may not read is an error, never a gap.

use super::catalog::texts;
use super::client::Client;
use super::error::Error;
use super::quote;
use super::structure::{
    Database, Grant, LARGE_OBJECTS as PAGES, LargeObject, RoleUse, Sequence, State,
};
use crate::failure::Class;
use crate::row::schema::TableName;
use crate::source::address::SourceOptions;

const DATABASE: &str = "\
SELECT d.datname::text, pg_catalog.pg_get_userbyid(d.datdba)::text, \
 pg_catalog.pg_encoding_to_char(d.encoding)::text, d.datcollate::text, d.datctype::text, \
 COALESCE(pg_catalog.to_jsonb(d)->>'datlocprovider', 'c'), \
 COALESCE(pg_catalog.to_jsonb(d)->>'datlocale', pg_catalog.to_jsonb(d)->>'daticulocale'), \
 pg_catalog.to_jsonb(d)->>'daticurules', d.datconnlimit::text, \
 pg_catalog.shobj_description(d.oid, 'pg_database'), (d.datacl IS NOT NULL)::text \
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

const DATABASE_GRANTS: &str = "\
SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee)::text END, \
 a.privilege_type, a.is_grantable::text \
FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a \
WHERE d.datname = pg_catalog.current_database()";

const SETTINGS: &str = "\
SELECT r.rolname::text, c.setting FROM pg_catalog.pg_db_role_setting s \
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) WITH ORDINALITY AS c(setting, place) \
WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database \
 WHERE datname = pg_catalog.current_database()) ORDER BY 1, c.place";

/// Owners, grantees and roles of policies: what `pg_shdepend` knows, and owners that it leaves
/// out for being pinned.
const ROLES: &str = "\
WITH me AS (SELECT oid, datdba FROM pg_catalog.pg_database \
 WHERE datname = pg_catalog.current_database()), used(role, use) AS ( \
 SELECT s.refobjid, s.deptype FROM pg_catalog.pg_shdepend s, me \
  WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND (s.dbid = me.oid \
  OR (s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid = me.oid)) \
 UNION SELECT datdba, 'o' FROM me \
 UNION SELECT relowner, 'o' FROM pg_catalog.pg_class WHERE oid >= 16384 \
 UNION SELECT proowner, 'o' FROM pg_catalog.pg_proc WHERE oid >= 16384 \
 UNION SELECT typowner, 'o' FROM pg_catalog.pg_type WHERE oid >= 16384 \
 UNION SELECT nspowner, 'o' FROM pg_catalog.pg_namespace WHERE oid >= 16384 \
 UNION SELECT lomowner, 'o' FROM pg_catalog.pg_largeobject_metadata) \
SELECT r.rolname::text, pg_catalog.bool_or(used.use = 'o')::text, \
 pg_catalog.bool_or(used.use = 'a')::text, pg_catalog.bool_or(used.use = 'r')::text \
FROM pg_catalog.pg_roles r JOIN used ON used.role = r.oid GROUP BY r.rolname ORDER BY 1";

const TABLESPACES: &str = "\
SELECT DISTINCT t.spcname::text FROM pg_catalog.pg_tablespace t \
JOIN pg_catalog.pg_class c ON c.reltablespace = t.oid \
WHERE NOT c.relisshared ORDER BY 1";

const FILLED_VIEWS: &str = "\
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid";

const SEQUENCES: &str = "\
SELECT n.nspname::text, c.relname::text, pg_catalog.has_sequence_privilege(c.oid, 'SELECT')::text, \
 c.relpersistence::text, tn.nspname::text, t.relname::text \
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
LEFT JOIN pg_catalog.pg_depend i ON i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
 AND i.objid = c.oid AND i.deptype = 'i' \
 AND i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
LEFT JOIN pg_catalog.pg_class t ON t.oid = i.refobjid \
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e \
 WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid \
 AND e.deptype = 'e' AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension x \
 WHERE x.oid = e.refobjid AND c.oid = ANY (x.extconfig))) ORDER BY 1, 2";

const LARGE_OBJECTS: &str = "\
SELECT m.oid::text, pg_catalog.pg_get_userbyid(m.lomowner)::text, \
 pg_catalog.obj_description(m.oid, 'pg_largeobject'), (m.lomacl IS NOT NULL)::text \
FROM pg_catalog.pg_largeobject_metadata m ORDER BY m.oid";

const LARGE_OBJECT_GRANTS: &str = "\
SELECT m.oid::text, CASE WHEN a.grantee <> 0 \
 THEN pg_catalog.pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable::text \
FROM pg_catalog.pg_largeobject_metadata m, pg_catalog.aclexplode(m.lomacl) a ORDER BY m.oid";

/// How many counters are read by one statement.
const SEQUENCES_A_QUERY: usize = 100;

/// Reads all of it; counters of excluded tables are left out.
///
/// # Errors
/// Denied: something may not be read, by name. Else as the server says.
pub async fn read(client: &mut Client, options: &SourceOptions) -> Result<State, Error> {
    let doing = "reading the database's properties";
    let list = |rows: Vec<super::client::TextRow>| -> Vec<String> {
        rows.into_iter()
            .map(texts::<1>)
            .map(|[text]| text)
            .collect()
    };
    let database = database(client).await?;
    let roles = client.rows(ROLES, doing).await?;
    let roles = roles.into_iter().map(|row| {
        let [name, owns, granted, policy] = texts(row);
        let [owns, granted, policy] = [owns, granted, policy].map(|flag| flag == "true");
        (
            name,
            RoleUse {
                owns,
                granted,
                policy,
            },
        )
    });
    let tablespaces = list(client.rows(TABLESPACES, doing).await?);
    let views = client.rows(FILLED_VIEWS, doing).await?;
    let filled_views = views
        .into_iter()
        .map(|row| texts::<2>(row).into())
        .collect();
    Ok(State {
        database,
        roles: roles.collect(),
        tablespaces,
        sequences: sequences(client, options).await?,
        large_objects: large_objects(client, options).await?,
        filled_views,
        unchecked_keys: Vec::new(),
    })
}

/// The rights that a database has where nobody ever changed them.
pub fn default_grants(owner: &str) -> Vec<Grant> {
    let grant = |role: Option<&str>, right: &str| Grant {
        role: role.map(str::to_owned),
        right: right.to_owned(),
        grantable: false,
    };
    let owner = Some(owner);
    vec![
        grant(None, "CONNECT"),
        grant(None, "TEMPORARY"),
        grant(owner, "CREATE"),
        grant(owner, "CONNECT"),
        grant(owner, "TEMPORARY"),
    ]
}

/// The database of the connection itself: owner, locale, rights, settings.
///
/// # Errors
/// As the server says.
pub async fn database(client: &mut Client) -> Result<Database, Error> {
    let doing = "reading the database's properties";
    let mut rows = client.rows(DATABASE, doing).await?;
    let row = rows.pop().unwrap_or_default();
    let some = |index: usize| row.get(index).cloned().flatten();
    let text = |index: usize| some(index).unwrap_or_default();
    let grants = match text(10) == "true" {
        true => {
            let rows = client.rows(DATABASE_GRANTS, doing).await?;
            Some(rows.into_iter().map(|row| grant(&row)).collect())
        }
        false => None,
    };
    let settings = client.rows(SETTINGS, doing).await?;
    let settings = settings.into_iter().map(|row| {
        let mut cells = row.into_iter();
        let role = cells.next().flatten();
        (role, cells.next().flatten().unwrap_or_default())
    });
    Ok(Database {
        name: text(0),
        owner: text(1),
        encoding: text(2),
        collate: text(3),
        ctype: text(4),
        provider: text(5),
        locale: some(6),
        rules: some(7),
        connection_limit: text(8).parse().unwrap_or(-1),
        comment: some(9),
        grants,
        settings: settings.collect(),
    })
}

/// A grant from the cells (role, right, grantable).
fn grant(cells: &[Option<String>]) -> Grant {
    let cell = |index: usize| cells.get(index).cloned().flatten();
    Grant {
        role: cell(0),
        right: cell(1).unwrap_or_default(),
        grantable: cell(2).as_deref() == Some("true"),
    }
}

async fn sequences(client: &mut Client, options: &SourceOptions) -> Result<Vec<Sequence>, Error> {
    let doing = "reading the sequences";
    let mut names = Vec::new();
    let mut denied = Vec::new();
    for row in client.rows(SEQUENCES, doing).await? {
        let [schema, name, readable, _, owner_schema, owner] = texts(row);
        let owner = TableName {
            schema: Some(owner_schema),
            name: owner,
        };
        let name = TableName {
            schema: Some(schema),
            name,
        };
        if (!owner.name.is_empty() && options.excludes(&owner)) || options.excludes(&name) {
            continue;
        }
        if readable != "true" {
            denied.push(name.to_string());
        }
        names.push(name);
    }
    if !denied.is_empty() {
        return Err(unreadable("sequence", &denied));
    }
    let mut found = Vec::with_capacity(names.len());
    for group in names.chunks(SEQUENCES_A_QUERY) {
        let queries: Vec<String> = group
            .iter()
            .map(|name| {
                let name = quote::table(name);
                format!("SELECT last_value::text, is_called::text FROM {name}")
            })
            .collect();
        let rows = client.rows(&queries.join(" UNION ALL "), doing).await?;
        for (name, row) in group.iter().zip(rows) {
            let [last_value, is_called] = texts(row);
            found.push(Sequence {
                schema: name.schema.clone().unwrap_or_default(),
                name: name.name.clone(),
                last_value: last_value.parse().map_err(|_| {
                    Error::stated(
                        Class::Corrupt,
                        format!("the sequence {name} has no readable value"),
                        "",
                    )
                })?,
                is_called: is_called == "true",
            });
        }
    }
    Ok(found)
}

/// What to say where `names` of one `kind` may not be read.
pub fn unreadable(kind: &str, names: &[String]) -> Error {
    let some: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
    let more = match names.len().saturating_sub(10) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::stated(
        Class::Denied,
        format!("this role may not read {kind} {}{more}", some.join(", ")),
        "grant it pg_read_all_data (and BYPASSRLS for row-level security), or exclude them",
    )
}

async fn large_objects(
    client: &mut Client,
    options: &SourceOptions,
) -> Result<Vec<LargeObject>, Error> {
    let pages = TableName {
        schema: Some(PAGES.0.to_owned()),
        name: PAGES.1.to_owned(),
    };
    if options.excludes(&pages) {
        return Ok(Vec::new());
    }
    let doing = "reading the large objects";
    let mut found = Vec::new();
    for row in client.rows(LARGE_OBJECTS, doing).await? {
        let comment = row.get(2).cloned().flatten();
        let [oid, owner, _, granted] = texts(row);
        found.push(LargeObject {
            oid: oid.parse().unwrap_or_default(),
            owner,
            comment,
            grants: (granted == "true").then(Vec::new),
        });
    }
    if found.is_empty() {
        return Ok(found);
    }
    let readable =
        "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')::text";
    if client.value(readable, doing).await? != "true" {
        return Err(unreadable(
            "large objects",
            &["(pg_largeobject)".to_owned()],
        ));
    }
    for row in client.rows(LARGE_OBJECT_GRANTS, doing).await? {
        let oid = row.first().cloned().flatten().unwrap_or_default();
        let oid = oid.parse().unwrap_or_default();
        if let Ok(index) = found.binary_search_by_key(&oid, |object: &LargeObject| object.oid)
            && let Some(grants) = &mut found[index].grants
        {
            grants.push(grant(&row[1..]));
        }
    }
    Ok(found)
}

/// The definitions of foreign keys into `parents`, which come back without rows.
///
/// # Errors
/// As the server says.
pub async fn unchecked_keys(
    client: &mut Client,
    parents: &[TableName],
) -> Result<Vec<(String, String, String, String)>, Error> {
    if parents.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = parents
        .iter()
        .map(|name| {
            format!(
                "{}::pg_catalog.regclass",
                quote::literal(&quote::table(name))
            )
        })
        .collect();
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, k.conname::text, \
         pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid IN ({}) ORDER BY 1, 2, 3",
        names.join(", ")
    );
    let rows = client
        .rows(&sql, "reading foreign keys of excluded tables")
        .await?;
    Ok(rows.into_iter().map(|row| texts::<4>(row).into()).collect())
}
