//! Values of the sample as text: plain, as lines for bulk loading, as SQL literals.
//!
//! Invariant: what is written is read back by the engine as the same value, whatever bytes it has.

use super::{Row, Value};
use crate::id::hex;
use crate::row::cell::Cell;
use crate::row::schema::Engine;

/// Year, month and day of a day since 1970-01-01 (H. Hinnant, `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, shift) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + shift, month, of_month)
}

fn instant(micros: i64) -> String {
    let (year, month, day) = civil(micros.div_euclid(86_400_000_000));
    let within = micros.rem_euclid(86_400_000_000);
    let seconds = within / 1_000_000;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        within % 1_000_000
    )
}

fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

impl Value {
    /// The value as text, for values that are not NULL and not bytes (those come as hex digits).
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Uuid(bytes) => uuid(bytes),
            Value::Timestamp(micros) => instant(*micros),
            Value::Decimal(hundredths) => {
                let sign = if *hundredths < 0 { "-" } else { "" };
                let (whole, part) = (
                    hundredths.unsigned_abs() / 100,
                    hundredths.unsigned_abs() % 100,
                );
                format!("{sign}{whole}.{part:02}")
            }
            Value::Bool(value) => u8::from(*value).to_string(),
            Value::Bytes(bytes) => hex(bytes),
        }
    }

    /// Appends the value as a cell of canonical bytes, with SQLite's storage classes as the
    /// sample's tables there declare them.
    pub fn push_sqlite_cell(&self, row: &mut Vec<u8>) {
        match self {
            Value::Null => Cell::Null.push(row),
            Value::Int(number) => Cell::Integer(*number).push(row),
            Value::Bool(value) => Cell::Integer(i64::from(*value)).push(row),
            // NUMERIC affinity keeps a whole number as INTEGER and any other as REAL.
            Value::Decimal(hundredths) if hundredths % 100 == 0 => {
                Cell::Integer(hundredths / 100).push(row);
            }
            Value::Decimal(hundredths) => Cell::Real(*hundredths as f64 / 100.0).push(row),
            Value::Bytes(bytes) => Cell::Blob(bytes).push(row),
            Value::Text(text) => Cell::Text(text.as_bytes()).push(row),
            Value::Uuid(_) | Value::Timestamp(_) => Cell::Text(self.to_text().as_bytes()).push(row),
        }
    }

    /// The value as a literal of the engine's SQL.
    pub fn to_literal(&self, engine: Engine) -> String {
        match self {
            Value::Null => "NULL".into(),
            Value::Int(_) | Value::Decimal(_) => self.to_text(),
            Value::Bool(value) if engine == Engine::Postgres => value.to_string(),
            Value::Bool(_) => self.to_text(),
            Value::Bytes(_) if engine == Engine::Postgres => format!(r"'\x{}'", self.to_text()),
            Value::Bytes(_) => format!("X'{}'", self.to_text()),
            Value::Timestamp(_) if engine == Engine::Postgres => format!("'{}+00'", self.to_text()),
            _ => {
                let text = self.to_text().replace('\'', "''");
                // MySQL reads a backslash as an escape unless told otherwise.
                let text = if engine == Engine::Mysql {
                    text.replace('\\', r"\\")
                } else {
                    text
                };
                format!("'{text}'")
            }
        }
    }
}

fn push_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            0 => out.extend_from_slice(br"\0"),
            _ => out.push(byte),
        }
    }
}

/// Appends `row` as a line for PostgreSQL's `COPY … FROM STDIN` (text format, UTF-8, time zone
/// UTC), or for MySQL's `LOAD DATA … CHARACTER SET binary` with its default separators.
pub fn to_copy_text(row: &Row, engine: Engine, out: &mut Vec<u8>) {
    for (position, value) in row.iter().enumerate() {
        if position > 0 {
            out.push(b'\t');
        }
        match value {
            Value::Null => out.extend_from_slice(br"\N"),
            Value::Text(text) => push_escaped(text.as_bytes(), out),
            Value::Bytes(bytes) if engine == Engine::Mysql => push_escaped(bytes, out),
            Value::Bytes(bytes) => {
                out.extend_from_slice(br"\\x");
                out.extend_from_slice(hex(bytes).as_bytes());
            }
            Value::Timestamp(_) if engine == Engine::Postgres => {
                out.extend_from_slice(value.to_text().as_bytes());
                out.extend_from_slice(b"+00");
            }
            _ => out.extend_from_slice(value.to_text().as_bytes()),
        }
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_the_calendars() {
        for micros in [
            0,
            951_782_400_123_456,
            1_709_164_799_999_999,
            -1,
            4_102_444_800_000_000,
        ] {
            let expected = chrono::DateTime::from_timestamp_micros(micros)
                .unwrap()
                .format("%Y-%m-%d %H:%M:%S%.6f")
                .to_string();
            assert_eq!(instant(micros), expected);
        }
    }

    #[test]
    fn copy_line_escapes_what_would_end_a_cell() {
        let row = vec![
            Value::Null,
            Value::Text("a\tb\\N\r\n".into()),
            Value::Bytes(vec![0, 9, 255]),
            Value::Decimal(-105),
            Value::Bool(true),
        ];
        let mut line = Vec::new();
        to_copy_text(&row, Engine::Postgres, &mut line);
        assert_eq!(line, b"\\N\ta\\tb\\\\N\\r\\n\t\\\\x0009ff\t-1.05\t1\n");
        line.clear();
        to_copy_text(&row, Engine::Mysql, &mut line);
        assert_eq!(line, b"\\N\ta\\tb\\\\N\\r\\n\t\\0\\t\xff\t-1.05\t1\n");
    }

    #[test]
    fn literals_keep_quotes_and_backslashes() {
        let text = Value::Text(r"O'Neill \ Sons".into());
        assert_eq!(text.to_literal(Engine::Postgres), r"'O''Neill \ Sons'");
        assert_eq!(text.to_literal(Engine::Mysql), r"'O''Neill \\ Sons'");
        assert_eq!(Value::Bytes(vec![1]).to_literal(Engine::Sqlite), "X'01'");
        assert_eq!(
            Value::Bytes(vec![1]).to_literal(Engine::Postgres),
            r"'\x01'"
        );
        assert_eq!(Value::Bool(true).to_literal(Engine::Postgres), "true");
    }
}
