//! The number codec: whole numbers and decimals of one scale, however they are classed.
//!
//! Content: class (0 text, 1 SQLite INTEGER, 2 SQLite REAL), scale (decimal places, 0 to 18), a
//! series of mantissas. Text fits in its one canonical form only: no `+`, no leading zeros, no
//! `-0`, exactly `scale` places. A real fits where mantissa / 10^scale gives back its very bits.

use super::bytes::{CellRef, INTEGER, REAL, Reader, TEXT, TakesCells};
use super::error::Error;
use super::series;

const OF_TEXT: u8 = 0;
const OF_INTEGER: u8 = 1;
const OF_REAL: u8 = 2;

const SCALE_MAX: u8 = 18;
/// Places tried for reals: money and measures have few.
const REAL_SCALE_MAX: u8 = 6;
const POWERS: [f64; REAL_SCALE_MAX as usize + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Whole numbers below this are exact as f64.
const REAL_EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends `cells`, all of class `tag`, if they fit; else leaves `out` as it was.
pub(super) fn encode(
    bytes: &[u8],
    cells: &[CellRef],
    tag: u8,
    values: &mut Vec<i64>,
    out: &mut Vec<u8>,
) -> bool {
    let found = match tag {
        TEXT => text_values(bytes, cells, values).map(|scale| (OF_TEXT, scale)),
        INTEGER => {
            values.clear();
            values.extend(cells.iter().map(|cell| word(cell.content(bytes)) as i64));
            Some((OF_INTEGER, 0))
        }
        REAL => (0..=REAL_SCALE_MAX)
            .find(|&scale| real_values(bytes, cells, scale, values))
            .map(|scale| (OF_REAL, scale)),
        _ => None,
    };
    let Some((class, scale)) = found else {
        return false;
    };
    out.extend_from_slice(&[class, scale]);
    series::push(values, out);
    true
}

fn word(content: &[u8]) -> u64 {
    let bytes = content.first_chunk().expect("numbers are cells of 8 bytes");
    u64::from_le_bytes(*bytes)
}

fn text_values(bytes: &[u8], cells: &[CellRef], values: &mut Vec<i64>) -> Option<u8> {
    values.clear();
    let mut common = None;
    for cell in cells {
        let (mantissa, scale) = decimal(cell.content(bytes))?;
        if *common.get_or_insert(scale) != scale {
            return None;
        }
        values.push(mantissa);
    }
    common
}

/// Mantissa and places of a decimal in its canonical form.
fn decimal(text: &[u8]) -> Option<(i64, u8)> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    let (mut value, mut point) = (0u64, None);
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let whole = point.unwrap_or(digits.len());
    let places = point.map_or(0, |at| digits.len() - at - 1);
    let plain = whole == 1 || (whole > 1 && digits[0] != b'0');
    if !plain || (point.is_some() && places == 0) || (negative && value == 0) {
        return None;
    }
    let mantissa = if negative {
        0i64.checked_sub_unsigned(value)?
    } else {
        i64::try_from(value).ok()?
    };
    u8::try_from(places)
        .ok()
        .filter(|&places| places <= SCALE_MAX)
        .map(|places| (mantissa, places))
}

fn real_values(bytes: &[u8], cells: &[CellRef], scale: u8, values: &mut Vec<i64>) -> bool {
    values.clear();
    let power = POWERS[usize::from(scale)];
    for cell in cells {
        let bits = word(cell.content(bytes));
        let mantissa = (f64::from_bits(bits) * power).round();
        let fits = mantissa.abs() < REAL_EXACT && (mantissa / power).to_bits() == bits;
        if !fits {
            return false;
        }
        values.push(mantissa as i64);
    }
    true
}

/// Reads `count` cells into `sink`.
pub(super) fn decode(
    input: &mut Reader<'_>,
    count: usize,
    values: &mut Vec<i64>,
    sink: &mut impl TakesCells,
) -> Result<(), Error> {
    let (class, scale) = (input.byte()?, input.byte()?);
    let scale_max = match class {
        OF_TEXT => SCALE_MAX,
        OF_INTEGER => 0,
        OF_REAL => REAL_SCALE_MAX,
        _ => return Err(input.damaged()),
    };
    if scale > scale_max {
        return Err(input.damaged());
    }
    series::take(input, count, values)?;
    match class {
        OF_TEXT => {
            let mut text = [0; 24];
            for &value in values.iter() {
                sink.push(TEXT, write_decimal(value, usize::from(scale), &mut text))?;
            }
        }
        OF_INTEGER => {
            for value in values.iter() {
                sink.push(INTEGER, &value.to_le_bytes())?;
            }
        }
        _ => {
            let power = POWERS[usize::from(scale)];
            for &value in values.iter() {
                let real = value as f64 / power;
                sink.push(REAL, &real.to_bits().to_le_bytes())?;
            }
        }
    }
    Ok(())
}

/// The canonical form of `mantissa` with `scale` places, at the end of `text`.
fn write_decimal(mantissa: i64, scale: usize, text: &mut [u8; 24]) -> &[u8] {
    let (mut rest, mut at, mut places) = (mantissa.unsigned_abs(), text.len(), 0);
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        places += 1;
        if places == scale {
            at -= 1;
            text[at] = b'.';
        } else if rest == 0 && places > scale {
            break;
        }
    }
    if mantissa < 0 {
        at -= 1;
        text[at] = b'-';
    }
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_decimals_come_back_and_no_other_text_is_taken() {
        for text in [
            "0",
            "7",
            "-7",
            "10",
            "0.5",
            "-0.05",
            "12.30",
            "9223372036854775807",
            "-9223372036854775808",
            "0.000000000000000001",
            "-9.223372036854775808",
        ] {
            let (mantissa, scale) = decimal(text.as_bytes()).expect(text);
            let mut buffer = [0; 24];
            let back = write_decimal(mantissa, usize::from(scale), &mut buffer);
            assert_eq!(std::str::from_utf8(back).unwrap(), text);
        }
        for text in [
            "",
            "-",
            "-0",
            "-0.00",
            "007",
            "00",
            "+5",
            "5.",
            ".5",
            "1.2.3",
            " 1",
            "1 ",
            "1e5",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "00.5",
            "--1",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?} was taken");
        }
    }
}
