//! The sample CRM, from a seed.
//!
//! The demo, the tests and the benchmarks need a CRM of any size that is the same on every
//! machine. Each row is a pure function of seed, table and index, so tables stream and a gigabyte
//! needs no memory. Invariant: the same seed and scale give the same bytes; only whole numbers are
//! drawn, since floating point is not the same everywhere.

pub mod churn;
pub mod ddl;
mod dice;
mod links;
pub mod rows;
pub mod tables;
pub mod text;
mod words;

use crate::row::schema::OnDelete;

/// A table of the sample, in an order in which the demo tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The people who work in the CRM; each but the first has a manager.
    Users,
    /// Companies; an account and its primary contact refer to each other.
    Accounts,
    /// People at the companies, by UUID.
    Contacts,
    /// What may be sold to whom, by UUID.
    Deals,
    /// Calls, meetings and tasks: the largest number of rows with text.
    Activities,
    /// Mails with headers and bodies, by UUID: the largest part of the bytes.
    Mails,
    /// Free text about contacts.
    Notes,
    /// Who changed what; only ever appended to, and refers to nothing by constraint.
    AuditLog,
    /// Labels.
    Tags,
    /// Which contact has which label: a key of two columns.
    ContactTags,
    /// Small files, whose parent is named by type and id and by no constraint.
    Attachments,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A counter of the server's that is the primary key.
    Id,
    /// A UUID.
    Uuid,
    /// A whole number of 64 bits.
    Int,
    /// Text of at most 255 characters.
    Text,
    /// Text of any length.
    Prose,
    /// An instant with microseconds.
    Timestamp,
    /// An amount with two decimals.
    Decimal,
    /// True or false.
    Bool,
    /// Bytes that are no text.
    Bytes,
    /// A JSON document.
    Json,
}

/// A foreign key of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The table that is referred to, by its first column.
    pub table: Table,
    /// What happens to the row when that one goes.
    pub on_delete: OnDelete,
}

/// A column of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// What it refers to by constraint.
    pub references: Option<Reference>,
}

/// A value of a row, free of any engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// NULL.
    Null,
    /// For [`Kind::Id`] and [`Kind::Int`].
    Int(i64),
    /// For [`Kind::Text`], [`Kind::Prose`] and [`Kind::Json`].
    Text(String),
    /// For [`Kind::Uuid`].
    Uuid([u8; 16]),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// Hundredths.
    Decimal(i64),
    /// For [`Kind::Bool`].
    Bool(bool),
    /// For [`Kind::Bytes`].
    Bytes(Vec<u8>),
}

/// The values of a row, in the order of [`Table::columns`].
pub type Row = Vec<Value>;

/// A CRM that is known from its seed and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    seed: u64,
    counts: [u32; Table::ALL.len()],
}

impl Sample {
    /// The sample that belongs to `seed`; at `scale` 1.0 it has about 1 GB of text. Small scales
    /// keep some rows in every table; the largest is 100.
    pub fn new(seed: u64, scale: f64) -> Self {
        let scale = scale.clamp(0.0, 100.0);
        let counts = Table::ALL.map(|table| {
            let (at_one, at_least) = table.rows_at_scale_one();
            ((f64::from(at_one) * scale) as u32).max(at_least)
        });
        Sample { seed, counts }
    }

    /// How many rows `table` has before any churn.
    pub fn count(&self, table: Table) -> u32 {
        self.counts[table as usize]
    }

    /// How many rows all tables have together.
    pub fn count_all(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::churn::{Churn, Edit};
    use super::*;
    use crate::row::schema::Engine;

    /// All rows as SQLite's cells, hashed.
    fn digest(sample: &Sample) -> String {
        let mut hasher = blake3::Hasher::new();
        for table in Table::ALL {
            for row in sample.rows(table) {
                let mut bytes = Vec::new();
                for value in &row {
                    value.push_sqlite_cell(&mut bytes);
                }
                hasher.update(&bytes);
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    #[test]
    fn same_seed_gives_the_same_bytes_everywhere() {
        let pinned = "4385024e24e767572bdf3c1f36348b8180bcef2b1bf5efb73bebafa1776fe260";
        assert_eq!(digest(&Sample::new(1, 0.001)), pinned);
        assert_ne!(digest(&Sample::new(2, 0.001)), pinned);
    }

    #[test]
    fn same_seed_gives_the_same_days() {
        let days = || {
            let mut churn = Churn::new(&Sample::new(1, 0.002));
            let first: Vec<Edit> = churn.crm_day(5).collect();
            let second: Vec<Edit> = churn.crm_day(5).collect();
            (first, second)
        };
        assert_eq!(days(), days());
        let (first, second) = days();
        assert_ne!(first, second, "two days are the same");
    }

    #[test]
    fn scale_one_has_about_a_gigabyte_of_text() {
        let share = 0.004;
        let sample = Sample::new(3, share);
        let mut line = Vec::new();
        let mut bytes = 0;
        for table in Table::ALL {
            let mut of_table = 0;
            for row in sample.rows(table) {
                line.clear();
                text::to_copy_text(&row, Engine::Postgres, &mut line);
                of_table += line.len();
            }
            println!(
                "{:14} {:>7} rows {of_table:>10} bytes",
                table.name(),
                sample.count(table)
            );
            bytes += of_table;
        }
        let at_one = bytes as f64 / share;
        assert!((0.9e9..1.15e9).contains(&at_one), "{at_one:e} bytes");
        let all = Sample::new(3, 1.0).count_all();
        assert!((3_000_000..5_000_000).contains(&all), "{all} rows");
    }

    #[test]
    fn every_row_fits_its_columns() {
        let sample = Sample::new(5, 0.002);
        for table in Table::ALL {
            for row in sample.rows(table) {
                assert_eq!(row.len(), table.columns().len(), "{}", table.name());
                for (value, column) in row.iter().zip(table.columns()) {
                    let fits = match (value, column.kind) {
                        (Value::Null, _) => column.nullable,
                        (Value::Int(_), Kind::Id | Kind::Int)
                        | (Value::Text(_), Kind::Prose)
                        | (Value::Uuid(_), Kind::Uuid)
                        | (Value::Timestamp(_), Kind::Timestamp)
                        | (Value::Decimal(_), Kind::Decimal)
                        | (Value::Bool(_), Kind::Bool)
                        | (Value::Bytes(_), Kind::Bytes) => true,
                        (Value::Text(text), Kind::Text) => text.chars().count() <= 255,
                        (Value::Text(text), Kind::Json) => {
                            serde_json::from_str::<serde_json::Value>(text).is_ok()
                        }
                        _ => false,
                    };
                    assert!(fits, "{value:?} in {}.{}", table.name(), column.name);
                }
            }
        }
    }

    #[test]
    fn text_comes_in_five_scripts() {
        let sample = Sample::new(1, 0.001);
        let all: String = sample
            .rows(Table::Notes)
            .map(|row| row[4].to_text())
            .collect();
        for letter in ['e', 'ł', 'и', 'س', 'の'] {
            assert!(all.contains(letter), "no {letter}");
        }
    }

    /// A tiny sample lost a contact each day, and drew for ever once none was left to belong to.
    #[test]
    fn tiny_sample_lives_through_more_days_than_it_has_contacts() {
        let sample = Sample::new(5, 0.0004);
        let mut churn = Churn::new(&sample);
        for day in 0..400 {
            assert!(!churn.crm_day(day).is_empty());
        }
        let contacts = churn.count(Table::Contacts);
        assert!(contacts * 2 >= sample.count(Table::Contacts), "{contacts}");
    }
}
