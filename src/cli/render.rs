//! Numbers, times and tables as people read them.
//!
//! Tables fit the terminal, and 80 columns where there is none. Invariant: nothing here knows what
//! a value means; no text of the world outside reaches a terminal with control characters in it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::clock::Timestamp;
pub use crate::document::{count, counted};

/// Width where no terminal says otherwise.
const WIDTH: u16 = 80;

/// How many columns a line may have.
pub fn width() -> u16 {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return WIDTH;
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(WIDTH, |size| size.ws_col);
    match columns {
        0 => WIDTH,
        columns => columns.max(40),
    }
}

/// On which side a column's content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table with a heading, as lines that end with newlines.
pub fn table(columns: &[(&str, Side)], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width())
        .set_header(columns.iter().map(|(name, _)| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|text| plain(text)));
    }
    for (at, (_, side)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, if at + 1 == columns.len() { 0 } else { 2 }));
            column.set_cell_alignment(match side {
                Side::Left => CellAlignment::Left,
                Side::Right => CellAlignment::Right,
            });
        }
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `text` without control characters.
pub fn plain(text: &str) -> String {
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().map(printable).collect()
}

/// `text` in lines of at most `width` letters, broken at blanks; a longer word stands alone.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one from the beginning");
        let taken = line.chars().count();
        if taken > 0 && taken + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
            continue;
        }
        if taken > 0 {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

/// A size in the unit that leaves one to four digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// How long something took.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// An instant, in UTC.
pub fn time(time: Timestamp) -> String {
    match time.utc() {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => format!("{} s", time.seconds()),
    }
}

/// How long ago `time` was.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    if time > now {
        return "in the future".into();
    }
    let seconds = now.since(time).as_secs();
    match seconds {
        0..90 => format!("{seconds} s ago"),
        90..5400 => format!("{} min ago", seconds / 60),
        5400..129_600 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(7), count(1000), count(1_234_567)],
            ["7", "1,000", "1,234,567"]
        );
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(2000, "row"), "2,000 rows");
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (9_856_000, "9.4 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_read_well() {
        for (millis, text) in [
            (340, "340 ms"),
            (3_100, "3.1 s"),
            (245_000, "4 min 05 s"),
            (3_725_000, "1 h 02 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        let now = Timestamp::from_seconds(1_000_000);
        for (before, text) in [
            (5, "5 s ago"),
            (600, "10 min ago"),
            (7200, "2 h ago"),
            (900_000, "10 d ago"),
            (-5, "in the future"),
        ] {
            assert_eq!(ago(Timestamp::from_seconds(1_000_000 - before), now), text);
        }
        assert_eq!(time(now), "1970-01-12 13:46:40");
    }

    #[test]
    fn tables_fit_eighty_columns_whatever_is_in_them() {
        let columns = [
            ("name", Side::Left),
            ("rows", Side::Right),
            ("note", Side::Left),
        ];
        let rows = vec![
            vec!["contacts".into(), "12".into(), "a word ".repeat(40)],
            vec!["x".repeat(200), "1".into(), "\x1b[2Jłąka".into()],
        ];
        let text = table(&columns, &rows);
        assert!(text.lines().count() > 3);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
            assert!(!line.contains('\x1b'));
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn wrapped_lines_break_at_blanks_and_keep_every_word() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a 123456789 b", 4), ["a", "123456789", "b"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
