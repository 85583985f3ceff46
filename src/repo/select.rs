//! What a person calls a snapshot: an id, a prefix, a source and a time, or `latest`.
//!
//! Invariant: a text names at most one snapshot, or is refused with what to say instead.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::Tz;

use crate::clock::Timestamp;
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
    let until = match DateTime::parse_from_rfc3339(when) {
        Ok(instant) => Timestamp(instant.timestamp_micros()),
        Err(_) => {
            let day = NaiveDate::parse_from_str(when, "%Y-%m-%d")
                .map_err(|_| unknown(format!("{when:?} is no day and no time with a zone")))?;
            end_of_day(day, zone(&source)).ok_or_else(|| unknown(format!("{when} is too late")))?
        }
    };
    catalog.at(&source, Some(until))
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
