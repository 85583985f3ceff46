//! The sample's tables in each engine's SQL.
//!
//! Invariant: the statements of [`Ddl::before`] stand before any row, those of [`Ddl::after`] when
//! all rows are there, so that a load pays for no index and no foreign key row by row.

use super::{Column, Kind, Sample, Table};
use crate::row::schema::{Engine, OnDelete};

/// Statements that make the sample's structure, each without a semicolon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ddl {
    /// Tables.
    pub before: Vec<String>,
    /// Indexes; foreign keys and counters where the engine takes them later.
    pub after: Vec<String>,
}

fn quoted(name: &str, engine: Engine) -> String {
    if engine == Engine::Mysql {
        format!("`{name}`")
    } else {
        format!("\"{name}\"")
    }
}

fn type_name(kind: Kind, engine: Engine) -> &'static str {
    let [sqlite, postgres, mysql] = match kind {
        Kind::Id => [
            "INTEGER PRIMARY KEY",
            "bigserial PRIMARY KEY",
            "bigint AUTO_INCREMENT PRIMARY KEY",
        ],
        Kind::Uuid => ["TEXT", "uuid", "char(36) CHARACTER SET ascii"],
        Kind::Int => ["INTEGER", "bigint", "bigint"],
        Kind::Text => ["TEXT", "varchar(255)", "varchar(255)"],
        Kind::Prose => ["TEXT", "text", "mediumtext"],
        Kind::Timestamp => ["TEXT", "timestamptz", "datetime(6)"],
        Kind::Decimal => ["NUMERIC", "numeric(14,2)", "decimal(14,2)"],
        Kind::Bool => ["INTEGER", "boolean", "tinyint(1)"],
        Kind::Bytes => ["BLOB", "bytea", "mediumblob"],
        Kind::Json => ["TEXT", "jsonb", "json"],
    };
    match engine {
        Engine::Sqlite => sqlite,
        Engine::Postgres => postgres,
        Engine::Mysql => mysql,
    }
}

fn foreign_key(column: &Column, engine: Engine) -> Option<String> {
    let reference = column.references?;
    let parent_key = reference.table.columns()[0].name;
    let rule = match reference.on_delete {
        OnDelete::Cascade => "CASCADE",
        OnDelete::SetNull => "SET NULL",
        OnDelete::SetDefault => "SET DEFAULT",
        OnDelete::Restrict => "RESTRICT",
    };
    let mut text = format!(
        "FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {rule}",
        quoted(column.name, engine),
        quoted(reference.table.name(), engine),
        quoted(parent_key, engine),
    );
    if reference.table == Table::Contacts
        && reference.on_delete == OnDelete::SetNull
        && engine != Engine::Mysql
    {
        // One side of the circle between accounts and contacts has to wait for the other.
        text.push_str(" DEFERRABLE INITIALLY DEFERRED");
    }
    Some(text)
}

fn create_table(table: Table, engine: Engine) -> String {
    let mut lines: Vec<String> = table
        .columns()
        .iter()
        .map(|column| {
            let null = if column.nullable { "NULL" } else { "NOT NULL" };
            format!(
                "{} {} {null}",
                quoted(column.name, engine),
                type_name(column.kind, engine)
            )
        })
        .collect();
    if table.columns()[0].kind == Kind::Id {
        lines[0] = lines[0].replace(" NOT NULL", "");
    } else {
        let key: Vec<String> = table.columns()[..table.key_columns()]
            .iter()
            .map(|column| quoted(column.name, engine))
            .collect();
        lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    if engine == Engine::Sqlite {
        lines.extend(
            table
                .columns()
                .iter()
                .filter_map(|column| foreign_key(column, engine)),
        );
    }
    let options = match engine {
        Engine::Mysql => " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        _ => "",
    };
    format!(
        "CREATE TABLE {} (\n  {}\n){options}",
        quoted(table.name(), engine),
        lines.join(",\n  ")
    )
}

/// Indexes on what refers, and those that a CRM searches by.
fn create_indexes(table: Table, engine: Engine, out: &mut Vec<String>) {
    let searched: &[&str] = match table {
        Table::Contacts => &["email", "last_name"],
        Table::Attachments => &["parent_id"],
        Table::AuditLog => &["at"],
        _ => &[],
    };
    for (position, column) in table.columns().iter().enumerate() {
        let refers = column.references.is_some() && position > 0;
        if refers || searched.contains(&column.name) {
            out.push(format!(
                "CREATE INDEX {} ON {} ({})",
                quoted(&format!("{}_{}", table.name(), column.name), engine),
                quoted(table.name(), engine),
                quoted(column.name, engine)
            ));
        }
    }
}

/// What SQLite has in the table itself, and the servers take better when the rows are there.
fn alter_table(table: Table, engine: Engine, out: &mut Vec<String>) {
    let name = quoted(table.name(), engine);
    for column in table.columns() {
        if let Some(key) = foreign_key(column, engine) {
            let constraint = quoted(&format!("{}_{}_fkey", table.name(), column.name), engine);
            out.push(format!(
                "ALTER TABLE {name} ADD CONSTRAINT {constraint} {key}"
            ));
        }
    }
    if engine == Engine::Postgres && table.columns()[0].kind == Kind::Id {
        out.push(format!(
            "SELECT setval(pg_get_serial_sequence('{0}', 'id'), (SELECT max(id) FROM {0}))",
            table.name()
        ));
    }
}

impl Sample {
    /// The structure of the sample in `engine`.
    pub fn ddl(engine: Engine) -> Ddl {
        let mut after = Vec::new();
        for table in Table::ALL {
            create_indexes(table, engine, &mut after);
        }
        if engine != Engine::Sqlite {
            for table in Table::ALL {
                alter_table(table, engine, &mut after);
            }
        }
        Ddl {
            before: Table::ALL.map(|table| create_table(table, engine)).to_vec(),
            after,
        }
    }

    /// An `INSERT` of one row of `table`, with `?` for each value.
    pub fn insert_statement(table: Table, engine: Engine) -> String {
        let marks = vec!["?"; table.columns().len()].join(", ");
        format!(
            "INSERT INTO {} VALUES ({marks})",
            quoted(table.name(), engine)
        )
    }
}
