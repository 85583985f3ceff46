//! Series of whole numbers: the ground of the number and time codecs.
//!
//! Mode 0, planes: the smallest (zigzag LEB128), a width w of 0 to 8, then w planes of one byte
//! a number, lowest first, of the number less the smallest. Mode 1, deltas: each number less the
//! one before it (the first less 0), zigzag LEB128. Whichever needs fewer bits is taken; bytes of
//! equal weight lie together, which is what zstd's entropy stage likes.

use super::bytes::Reader;
use super::error::Error;
use crate::row::cell::push_varint;

const PLANES: u8 = 0;
const DELTAS: u8 = 1;

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn bits(value: u64) -> u64 {
    u64::from(64 - value.leading_zeros())
}

/// Appends `values`, of which there must be one at least.
pub(super) fn push(values: &[i64], out: &mut Vec<u8>) {
    let smallest = values.iter().copied().min().unwrap_or(0);
    let (mut plane_bits, mut delta_bits, mut spread, mut before) = (0, 0, 0u64, 0i64);
    for &value in values {
        let above = value.wrapping_sub(smallest) as u64;
        spread |= above;
        plane_bits += bits(above);
        delta_bits += bits(zigzag(value.wrapping_sub(before)));
        before = value;
    }
    if delta_bits < plane_bits {
        out.push(DELTAS);
        let mut before = 0i64;
        for &value in values {
            push_varint(out, zigzag(value.wrapping_sub(before)));
            before = value;
        }
        return;
    }
    let width = bits(spread).div_ceil(8) as u32;
    out.push(PLANES);
    push_varint(out, zigzag(smallest));
    out.push(width as u8);
    for plane in 0..width {
        let byte = |&value: &i64| (value.wrapping_sub(smallest) as u64 >> (8 * plane)) as u8;
        out.extend(values.iter().map(byte));
    }
}

/// Reads `count` numbers into `values`, whose old content goes.
pub(super) fn take(
    input: &mut Reader<'_>,
    count: usize,
    values: &mut Vec<i64>,
) -> Result<(), Error> {
    values.clear();
    match input.byte()? {
        DELTAS => {
            if count > input.left() {
                return Err(input.damaged());
            }
            let mut before = 0i64;
            for _ in 0..count {
                before = before.wrapping_add(unzigzag(input.varint()?));
                values.push(before);
            }
        }
        PLANES => {
            let smallest = unzigzag(input.varint()?);
            let width = usize::from(input.byte()?);
            if width > 8 {
                return Err(input.damaged());
            }
            let planes = input.take_items(count, width)?;
            values.resize(count, 0);
            for (plane, bytes) in planes.chunks_exact(count.max(1)).enumerate() {
                for (value, &byte) in values.iter_mut().zip(bytes) {
                    *value |= i64::from(byte) << (8 * plane);
                }
            }
            for value in values {
                *value = value.wrapping_add(smallest);
            }
        }
        _ => return Err(input.damaged()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_series_comes_back() {
        let series: [&[i64]; 6] = [
            &[0],
            &[5, 6, 7, 8, 9],
            &[i64::MIN, i64::MAX, 0, -1, 1],
            &[i64::MAX, i64::MIN],
            &[1_000_000, 3, 999_999, 17, 256],
            &[-7, -7, -7],
        ];
        let mut back = Vec::new();
        for values in series {
            let mut bytes = Vec::new();
            push(values, &mut bytes);
            let mut input = Reader::new(&bytes, "series");
            take(&mut input, values.len(), &mut back).unwrap();
            assert_eq!(back, values);
            input.finish().unwrap();
        }
    }
}
