//! What a person calls a snapshot (an id, a prefix, a source and a time, or `latest`) or a table.
//!
//! Invariant: a text names at most one of them, or is refused with what to say instead.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::Tz;

use crate::clock::Timestamp;
use crate::format::manifest::{Manifest, ManifestTable};
use crate::id::SourceName;
use crate::repo::catalog::{Catalog, Error, Snapshot};

/// The snapshot that `text` names: an id or a unique prefix of 6 or more digits, `SOURCE@latest`,
/// `SOURCE@2026-11-20`, `SOURCE@2026-11-20T10:00:00+01:00` (the last one at or before; a bare day
/// means its end in the source's zone), or `latest` where there is one source.
///
/// # Errors
/// [`Error::Unknown`], [`Error::Ambiguous`].
pub fn select<'a>(
    catalog: &'a Catalog,
    text: &str,
    zone: &dyn Fn(&SourceName) -> Tz,
) -> Result<&'a Snapshot, Error> {
    if text == "latest" {
        return catalog.latest();
    }
    let Some((source, when)) = text.split_once('@') else {
        return catalog.by_prefix(text);
    };
    let unknown = |what: String| Error::Unknown {
        what,
        hint: "say SOURCE@latest, SOURCE@2026-11-20 or SOURCE@2026-11-20T10:00:00+01:00".into(),
    };
    let source: SourceName = source
        .parse()
        .map_err(|error: crate::id::Error| unknown(error.to_string()))?;
    if when == "latest" {
        return catalog.at(&source, None);
    }
    let until = until(when, zone(&source)).map_err(|error| unknown(error.to_string()))?;
    catalog.at(&source, Some(until))
}

/// The instant that `text` means: a time with its zone, or the end of a bare day in `zone`.
///
/// # Errors
/// [`Error::When`].
pub fn until(text: &str, zone: Tz) -> Result<Timestamp, Error> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(Timestamp(instant.timestamp_micros()));
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    day.and_then(|day| end_of_day(day, zone))
        .ok_or_else(|| Error::When {
            text: text.to_owned(),
        })
}

/// The table that `text` names: as `show` prints it, or without its schema where that is unique.
///
/// # Errors
/// [`Error::Unknown`] with the nearest names; [`Error::AmbiguousTable`].
pub fn table<'a>(manifest: &'a Manifest, text: &str) -> Result<&'a ManifestTable, Error> {
    let tables = || manifest.tables.iter();
    if let Some(table) = tables().find(|table| table.table.name.to_string() == text) {
        return Ok(table);
    }
    let fits: Vec<&ManifestTable> = tables()
        .filter(|table| table.table.name.name == text)
        .collect();
    match fits.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::Unknown {
            what: format!("the snapshot has no table {text:?}"),
            hint: nearest_tables(manifest, text),
        }),
        many => Err(Error::AmbiguousTable {
            text: text.to_owned(),
            tables: many
                .iter()
                .map(|table| table.table.name.to_string())
                .collect(),
        }),
    }
}

/// Up to three tables that look like `text`, the most alike first.
fn nearest_tables(manifest: &Manifest, text: &str) -> String {
    let text = text.to_lowercase();
    let alike = |table: &ManifestTable| {
        let (whole, name) = (table.table.name.to_string(), &table.table.name.name);
        let alike =
            |name: &str| strsim::normalized_damerau_levenshtein(&text, &name.to_lowercase());
        (alike(&whole).max(alike(name)), whole)
    };
    let mut names: Vec<(f64, String)> = manifest.tables.iter().map(alike).collect();
    names.retain(|(alike, _)| *alike >= 0.5);
    names.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let names: Vec<String> = names.into_iter().take(3).map(|(_, name)| name).collect();
    match names.is_empty() {
        true => "'rowvault show SNAPSHOT' lists its tables".into(),
        false => format!("there is {}", names.join(", ")),
    }
}

/// The last microsecond of `day` in `zone`.
fn end_of_day(day: NaiveDate, zone: Tz) -> Option<Timestamp> {
    let next = day.checked_add_days(Days::new(1))?;
    // Where midnight falls into a gap, the day ends at the first instant after it.
    let midnight = (0..4 * 24).find_map(|quarter| {
        let time = NaiveTime::from_num_seconds_from_midnight_opt(quarter * 900, 0)?;
        zone.from_local_datetime(&next.and_time(time)).earliest()
    })?;
    Some(Timestamp(midnight.timestamp_micros() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn day_ends_in_the_zone_of_its_source() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 20).unwrap();
        let end = end_of_day(day, chrono_tz::Europe::Warsaw).unwrap();
        assert_eq!(
            end.plus(std::time::Duration::from_micros(1)).rfc3339(),
            "2026-11-20T23:00:00Z"
        );
    }
}
