//! The server's catalogs, read into tables, keys and relations.
//!
//! Five queries whatever the number of tables, grouped here by table. System schemas and the
//! tables of extensions are left out, as `pg_dump` does, but for configuration tables that an
//! extension marks. Invariant: the columns of a table are its stored columns in their order;
//! dropped and generated ones are not among them.

use std::collections::{BTreeMap, HashMap};

use super::client::{Client, TextRow};
use super::error::Error;
use super::types;
use crate::row::schema::{Column, ForeignKey, Key, KeyOrigin, OnDelete, Table, TableName};

/// A condition on the rows of an extension's table, as the extension gives it.
pub const CONDITION: &str = "extension_condition";
/// The fact that names the extension which a table belongs to.
pub const EXTENSION: &str = "extension";

/// Which relations are captured; `c` is `pg_class`, `n` its schema, `x` its extension's mark.
const RELATIONS: &str = "\
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass \
 AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e' \
LEFT JOIN LATERAL (SELECT e.extname, e.extcondition[i] AS condition \
 FROM pg_catalog.pg_extension e, pg_catalog.generate_subscripts(e.extconfig, 1) i \
 WHERE e.oid = d.refobjid AND e.extconfig[i] = c.oid) x ON true \
WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
 AND (d.objid IS NULL OR x.extname IS NOT NULL)";

const READABLE: &str = "(pg_catalog.has_table_privilege(c.oid, 'SELECT') AND \
 pg_catalog.has_schema_privilege(n.oid, 'USAGE'))::text";

const COLUMNS: &str = "\
SELECT a.attrelid::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), \
 CASE WHEN t.typtype = 'd' THEN (WITH RECURSIVE b AS (SELECT t.typbasetype AS oid UNION ALL \
  SELECT u.typbasetype FROM b JOIN pg_catalog.pg_type u ON u.oid = b.oid AND u.typtype = 'd') \
  SELECT pg_catalog.format_type(b.oid, NULL) FROM b JOIN pg_catalog.pg_type v ON v.oid = b.oid \
  WHERE v.typtype <> 'd') END, \
 a.attnotnull::text, pg_catalog.pg_get_expr(f.adbin, f.adrelid), \
 CASE WHEN a.attcollation <> t.typcollation THEN o.collname::text END, \
 a.attidentity::text, a.attgenerated::text, a.attnum::text \
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation \
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') \
 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
ORDER BY a.attrelid, a.attnum";

const UNIQUES: &str = "\
SELECT i.indrelid::text, x.relname::text, i.indisprimary::text, i.indimmediate::text, \
 (SELECT pg_catalog.string_agg(k::text, ' ' ORDER BY o) FROM \
  unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS u(k, o)) \
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
JOIN pg_catalog.pg_am m ON m.oid = x.relam \
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
WHERE i.indisunique AND i.indisvalid AND i.indisready AND NOT i.indisexclusion \
 AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree' \
 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2";

const FOREIGN_KEYS: &str = "\
SELECT k.conrelid::text, k.conname::text, n.nspname::text, p.relname::text, k.confdeltype::text, \
 (SELECT pg_catalog.json_agg(a.attname ORDER BY o) FROM unnest(k.conkey) WITH ORDINALITY u(m, o) \
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.m)::text, \
 (SELECT pg_catalog.json_agg(a.attname ORDER BY o) FROM unnest(k.confkey) WITH ORDINALITY u(m, o) \
  JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.m)::text \
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class p ON p.oid = k.confrelid \
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace \
WHERE k.contype = 'f' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint q \
 WHERE q.oid = k.conparentid AND q.conrelid = k.conrelid) ORDER BY 1, 2";

/// A table with what only the capture needs to know.
pub struct Found {
    /// The table.
    pub table: Table,
    /// `r` ordinary, `p` partitioned, `f` foreign.
    pub kind: char,
    /// Whether its rows survive a crash.
    pub unlogged: bool,
    /// Whether this role may read it.
    pub readable: bool,
    /// Whether row-level security would hide rows from this role.
    pub filtered: bool,
}

/// A table that can be locked.
pub struct Lockable {
    /// Its number.
    pub oid: String,
    /// Its name.
    pub name: TableName,
    /// Whether this role may read it.
    pub readable: bool,
}

/// The ordinary and partitioned tables there are now; for locking before the snapshot.
pub async fn lockable(client: &mut Client) -> Result<Vec<Lockable>, Error> {
    let sql = format!(
        "SELECT c.oid::text, n.nspname::text, c.relname::text, {READABLE} {RELATIONS} \
         AND c.relkind IN ('r', 'p') ORDER BY c.oid"
    );
    let rows = client.rows(&sql, "listing the tables").await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let [oid, schema, name, readable] = texts(row);
            let schema = Some(schema);
            Lockable {
                oid,
                name: TableName { schema, name },
                readable: readable == "true",
            }
        })
        .collect())
}

/// All tables, sorted by name.
pub async fn tables(client: &mut Client) -> Result<Vec<Found>, Error> {
    let mut found = relations(client).await?;
    let numbers = columns(client, &mut found).await?;
    uniques(client, &mut found, &numbers).await?;
    foreign_keys(client, &mut found).await?;
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by(|a, b| a.table.name.cmp(&b.table.name));
    Ok(found)
}

type ByNumber = HashMap<String, Found>;
/// For each table, the name of the column with each number.
type Numbers = HashMap<String, BTreeMap<String, String>>;

/// The first `N` cells of a row; NULL becomes empty.
pub fn texts<const N: usize>(row: TextRow) -> [String; N] {
    let mut cells = row.into_iter();
    std::array::from_fn(|_| cells.next().flatten().unwrap_or_default())
}

async fn relations(client: &mut Client) -> Result<ByNumber, Error> {
    let sql = format!(
        "SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text, \
         c.relpersistence::text, {READABLE}, \
         pg_catalog.row_security_active(c.oid)::text, x.extname::text, x.condition, \
         (SELECT pg_catalog.string_agg(i.inhparent::pg_catalog.regclass::text, ', ' \
         ORDER BY i.inhseqno) FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), \
         c.relispartition::text, pg_catalog.pg_get_partkeydef(c.oid), c.relrowsecurity::text \
         {RELATIONS} AND c.relkind IN ('r', 'p', 'f')"
    );
    let rows = client.rows(&sql, "reading the tables").await?;
    Ok(rows.into_iter().map(relation).collect())
}

fn relation(row: TextRow) -> (String, Found) {
    let [
        oid,
        schema,
        name,
        kind,
        persistence,
        readable,
        filtered,
        extension,
        condition,
        parents,
        partition,
        strategy,
        secured,
    ] = texts(row);
    let mut facts = BTreeMap::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.insert(name.to_owned(), value);
        }
    };
    let parent_kind = if partition == "true" {
        "partition_of"
    } else {
        "inherits"
    };
    fact(parent_kind, parents);
    fact("partitioned_by", strategy);
    fact(EXTENSION, extension);
    fact(CONDITION, condition);
    if secured == "true" {
        fact("row_security", secured);
    }
    match (kind.as_str(), persistence.as_str()) {
        ("f", _) => fact("foreign_table", "true".into()),
        (_, "u") => fact("unlogged", "true".into()),
        _ => {}
    }
    let table = Table {
        name: TableName {
            schema: Some(schema),
            name,
        },
        columns: Vec::new(),
        generated: Vec::new(),
        key: None,
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        with_rows: kind == "r",
        facts,
    };
    let found = Found {
        table,
        kind: kind.chars().next().unwrap_or('r'),
        unlogged: persistence == "u",
        readable: readable == "true",
        filtered: filtered == "true",
    };
    (oid, found)
}

async fn columns(client: &mut Client, found: &mut ByNumber) -> Result<Numbers, Error> {
    let rows = client.rows(COLUMNS, "reading the columns").await?;
    let mut numbers = Numbers::new();
    for row in rows {
        let default = row.get(5).cloned().flatten();
        let [
            oid,
            name,
            type_name,
            base,
            not_null,
            _,
            collation,
            identity,
            generated,
            number,
        ] = texts(row);
        let Some(found) = found.get_mut(&oid) else {
            continue;
        };
        numbers.entry(oid).or_default().insert(number, name.clone());
        if !generated.is_empty() {
            let expression = default.unwrap_or_default();
            found.table.generated.push((name, expression));
            continue;
        }
        let mut facts = BTreeMap::new();
        if !base.is_empty() {
            facts.insert(types::BASE_TYPE.to_owned(), base);
        }
        if !identity.is_empty() {
            facts.insert("identity".to_owned(), identity);
        }
        let mut column = Column {
            name,
            type_name,
            kind: crate::row::schema::ValueKind::Text,
            nullable: not_null != "true",
            default,
            collation: (!collation.is_empty()).then_some(collation),
            hidden: false,
            facts,
        };
        column.kind = types::kind(types::base(&column));
        found.table.columns.push(column);
    }
    Ok(numbers)
}

/// A unique index whose columns are all captured.
struct Unique {
    name: String,
    primary: bool,
    columns: Vec<usize>,
}

async fn uniques(
    client: &mut Client,
    found: &mut ByNumber,
    numbers: &Numbers,
) -> Result<(), Error> {
    let rows = client.rows(UNIQUES, "reading the keys").await?;
    let mut by_table: HashMap<String, Vec<Unique>> = HashMap::new();
    for row in rows {
        let [oid, name, primary, immediate, positions] = texts(row);
        let (Some(found), Some(numbers)) = (found.get(&oid), numbers.get(&oid)) else {
            continue;
        };
        let columns: Option<Vec<usize>> = positions
            .split(' ')
            .map(|number| found.table.column(numbers.get(number)?))
            .collect();
        // A deferred primary key holds in every committed snapshot; a deferred unique index of
        // a table whose primary key is elsewhere is not needed.
        let (Some(columns), true) = (columns, primary == "true" || immediate == "true") else {
            continue;
        };
        by_table.entry(oid).or_default().push(Unique {
            name,
            primary: primary == "true",
            columns,
        });
    }
    for (oid, uniques) in by_table {
        if let Some(found) = found.get_mut(&oid) {
            choose_key(&mut found.table, uniques);
        }
    }
    Ok(())
}

/// The primary key, else the shortest unique index of NOT NULL columns, the first by name.
fn choose_key(table: &mut Table, mut uniques: Vec<Unique>) {
    uniques.sort_by(|a, b| {
        (!a.primary, a.columns.len(), &a.name).cmp(&(!b.primary, b.columns.len(), &b.name))
    });
    let whole = |unique: &Unique| unique.columns.iter().all(|&c| !table.columns[c].nullable);
    let chosen = uniques.iter().position(whole);
    if let Some(unique) = chosen.map(|index| &uniques[index]) {
        let order = |&column: &usize| {
            let base = types::base(&table.columns[column]);
            (column, types::key_order(base))
        };
        table.key = Some(Key {
            origin: match unique.primary {
                true => KeyOrigin::Primary,
                false => KeyOrigin::Unique(unique.name.clone()),
            },
            columns: unique.columns.iter().map(order).collect(),
        });
    }
    let name = |&column: &usize| table.columns[column].name.clone();
    table.unique = uniques
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != chosen)
        .map(|(_, unique)| unique.columns.iter().map(name).collect())
        .collect();
}

async fn foreign_keys(client: &mut Client, found: &mut ByNumber) -> Result<(), Error> {
    let rows = client.rows(FOREIGN_KEYS, "reading the relations").await?;
    let names = |json: &str| serde_json::from_str::<Vec<String>>(json).unwrap_or_default();
    for row in rows {
        let [
            oid,
            name,
            schema,
            parent,
            on_delete,
            columns,
            parent_columns,
        ] = texts(row);
        let Some(found) = found.get_mut(&oid) else {
            continue;
        };
        found.table.foreign_keys.push(ForeignKey {
            name,
            columns: names(&columns),
            parent: TableName {
                schema: Some(schema),
                name: parent,
            },
            parent_columns: names(&parent_columns),
            on_delete: match on_delete.as_str() {
                "c" => OnDelete::Cascade,
                "n" => OnDelete::SetNull,
                "d" => OnDelete::SetDefault,
                _ => OnDelete::Restrict,
            },
        });
    }
    Ok(())
}
