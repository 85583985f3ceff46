//! The time codec: dates and timestamps in one form, as whole numbers.
//!
//! Content: separator (0: dates only, else ` ` or `T`), fraction (0 to 6: always so many digits;
//! 7: as many as needed, no trailing zero), zone (0 none, 1 `+00`, 2 `Z`, 3 `+00:00`), unit
//! (0 day, 1 second, 2 millisecond, 3 microsecond), a series of units since 1970-01-01 in the
//! proleptic Gregorian calendar, years 0000 to 9999. A text that is no such time (`0000-00-00`,
//! `2024-02-30`, `24:00:00`, `infinity`) does not fit, and its column is written otherwise.

use super::bytes::{CellRef, Reader, TakesCells};
use super::error::Error;
use super::series;

const TRIMMED: u8 = 7;
const ZONES: [&[u8]; 4] = [b"", b"+00", b"Z", b"+00:00"];
const DAY: i64 = 86_400_000_000;
const UNITS: [i64; 4] = [DAY, 1_000_000, 1_000, 1];
/// Days from 0000-01-01 to 1970-01-01, and from 1970-01-01 to 9999-12-31.
const DAYS_BEFORE: i64 = 719_528;
const DAYS_AFTER: i64 = 2_932_896;
const DAYS_OF_MONTHS: [u8; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// How a time is written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    separator: u8,
    zone: u8,
}

/// A time that was read: its form, microseconds, digits of its fraction, whether the last is 0.
struct Time {
    form: Form,
    micros: i64,
    digits: u8,
    ends_in_zero: bool,
}

/// Appends `cells`, all text, if they fit; else leaves `out` as it was.
pub(super) fn encode(
    bytes: &[u8],
    cells: &[CellRef],
    values: &mut Vec<i64>,
    out: &mut Vec<u8>,
) -> bool {
    values.clear();
    let mut common: Option<(Form, u8)> = None;
    let (mut same_digits, mut trimmed, mut unit) = (true, true, 0);
    for cell in cells {
        let Some(time) = read(cell.content(bytes)) else {
            return false;
        };
        let (form, digits) = *common.get_or_insert((time.form, time.digits));
        same_digits &= digits == time.digits;
        trimmed &= !time.ends_in_zero;
        if form != time.form || !(same_digits || trimmed) {
            return false;
        }
        while time.micros % UNITS[unit] != 0 {
            unit += 1;
        }
        values.push(time.micros);
    }
    let Some((form, digits)) = common else {
        return false;
    };
    for value in values.iter_mut() {
        *value /= UNITS[unit];
    }
    let fraction = if same_digits { digits } else { TRIMMED };
    out.extend_from_slice(&[form.separator, fraction, form.zone, unit as u8]);
    series::push(values, out);
    true
}

fn digits<const N: usize>(text: &[u8]) -> Option<u32> {
    let mut value = 0;
    for &byte in text.first_chunk::<N>()? {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    Some(value)
}

fn read(text: &[u8]) -> Option<Time> {
    if text.len() < 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (
        digits::<4>(text)?,
        digits::<2>(&text[5..])?,
        digits::<2>(&text[8..])?,
    );
    if !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return None;
    }
    let days = days_of(year, month, day);
    if text.len() == 10 {
        let form = Form {
            separator: 0,
            zone: 0,
        };
        return Some(Time {
            form,
            micros: days * DAY,
            digits: 0,
            ends_in_zero: false,
        });
    }
    if text.len() < 19 || text[13] != b':' || text[16] != b':' || !b" T".contains(&text[10]) {
        return None;
    }
    let (hour, minute, second) = (
        digits::<2>(&text[11..])?,
        digits::<2>(&text[14..])?,
        digits::<2>(&text[17..])?,
    );
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, digits, rest) = read_fraction(&text[19..])?;
    let zone = ZONES.iter().position(|zone| *zone == rest)? as u8;
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    Some(Time {
        form: Form {
            separator: text[10],
            zone,
        },
        micros: days * DAY + seconds * 1_000_000 + fraction,
        digits,
        ends_in_zero: digits > 0 && text[19 + usize::from(digits)] == b'0',
    })
}

/// Microseconds, digits, and what follows, of `.123…` or of nothing.
fn read_fraction(text: &[u8]) -> Option<(i64, u8, &[u8])> {
    let Some((b'.', rest)) = text.split_first() else {
        return Some((0, 0, text));
    };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=6).contains(&count) {
        return None;
    }
    let digits = rest[..count].iter().map(|byte| i64::from(byte - b'0'));
    let fraction = digits.fold(0, |fraction, digit| fraction * 10 + digit);
    let micros = fraction * 10i64.pow(6 - count as u32);
    Some((micros, count as u8, &rest[count..]))
}

fn days_of_month(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    u32::from(DAYS_OF_MONTHS[month as usize - 1]) + u32::from(month == 2 && leap)
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_of(year: u32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of `days` since 1970-01-01 (the same).
fn date_of(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

/// Reads `count` cells into `sink`.
pub(super) fn decode(
    input: &mut Reader<'_>,
    count: usize,
    values: &mut Vec<i64>,
    sink: &mut impl TakesCells,
) -> Result<(), Error> {
    let (separator, fraction) = (input.byte()?, input.byte()?);
    let zone = ZONES
        .get(usize::from(input.byte()?))
        .ok_or(input.damaged())?;
    let unit = *UNITS
        .get(usize::from(input.byte()?))
        .ok_or(input.damaged())?;
    let dates = separator == 0 && fraction == 0 && zone.is_empty() && unit == DAY;
    if !(dates || (matches!(separator, b' ' | b'T') && fraction <= TRIMMED)) {
        return Err(input.damaged());
    }
    series::take(input, count, values)?;
    let mut text = [0; 32];
    for &value in values.iter() {
        let micros = value.checked_mul(unit).ok_or(input.damaged())?;
        let days = micros.div_euclid(DAY);
        if !(-DAYS_BEFORE..=DAYS_AFTER).contains(&days) {
            return Err(input.damaged());
        }
        let mut length = write_date(days, &mut text);
        if separator != 0 {
            text[10] = separator;
            length = write_clock(micros.rem_euclid(DAY), fraction, &mut text);
            text[length..length + zone.len()].copy_from_slice(zone);
            length += zone.len();
        }
        sink.push(super::bytes::TEXT, &text[..length])?;
    }
    Ok(())
}

fn write_two(value: u32, text: &mut [u8]) {
    text[0] = b'0' + (value / 10) as u8;
    text[1] = b'0' + (value % 10) as u8;
}

fn write_date(days: i64, text: &mut [u8; 32]) -> usize {
    let (year, month, day) = date_of(days);
    write_two(year / 100, &mut text[0..]);
    write_two(year % 100, &mut text[2..]);
    text[4] = b'-';
    write_two(month, &mut text[5..]);
    text[7] = b'-';
    write_two(day, &mut text[8..]);
    10
}

/// Writes the time of day after the separator, and returns where it ends.
fn write_clock(micros: i64, fraction: u8, text: &mut [u8; 32]) -> usize {
    let seconds = (micros / 1_000_000) as u32;
    write_two(seconds / 3600, &mut text[11..]);
    text[13] = b':';
    write_two(seconds / 60 % 60, &mut text[14..]);
    text[16] = b':';
    write_two(seconds % 60, &mut text[17..]);
    let mut rest = (micros % 1_000_000) as u32;
    text[19] = b'.';
    for at in (20..26).rev() {
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let digits = match fraction {
        TRIMMED => text[20..26]
            .iter()
            .rposition(|&byte| byte != b'0')
            .map_or(0, |last| last + 1),
        fixed => usize::from(fixed),
    };
    if digits == 0 { 19 } else { 20 + digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_comes_back() {
        let mut before = -DAYS_BEFORE - 1;
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month) {
                    let days = days_of(year, month, day);
                    assert_eq!(days, before + 1);
                    assert_eq!(date_of(days), (year, month, day));
                    before = days;
                }
            }
        }
        assert_eq!(before, DAYS_AFTER);
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "0000-00-00",
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-1-01",
            "2024-01-01 24:00:00",
            "2024-01-01 10:00:60",
            "2024-01-01 10:00",
            "infinity",
            "2024-01-01 10:00:00.",
            "2024-01-01 10:00:00.1234567",
            "2024-01-01 10:00:00+02",
            "2024-01-01x10:00:00",
            "2024-01-01 ",
            "12024-01-01",
            "2024-01-01 BC",
            "２024-01-01",
        ] {
            assert!(read(text.as_bytes()).is_none(), "{text:?} was read");
        }
    }
}
