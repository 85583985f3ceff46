//! Filters: Bloom filters that let a reader pass over what cannot hold a key or a value.
//!
//! A delta run carries one over its keys, a chunk may carry one over a column of its rows. What
//! goes in are keyed hashes (`crypto::key`), so a filter tells an outsider nothing. Invariant: a
//! filter never denies what was put into it; it may claim what was not, about once in 120 times.
//! Bytes: docs/format.md, "Filters".

use crate::format::object::{Error, VERSION};

/// Bits that a writer gives each entry.
pub const BITS_PER_ENTRY: usize = 10;
/// Bits that a writer sets for each entry.
pub const PROBES: u8 = 7;
/// Most bits that a reader probes for one entry.
pub const PROBES_MAX: u8 = 32;
/// Fewest bytes of bits, so that a filter of few entries is worth asking.
pub const BITS_BYTES_MIN: usize = 8;
/// Bytes before the bits: version and probes.
pub const HEAD_BYTES: usize = 2;

const WHAT: &str = "filter";

/// The bytes of a filter over `hashes`: keyed hashes of 16 bytes each.
pub fn write(hashes: &[[u8; 16]]) -> Vec<u8> {
    let length = (hashes.len() * BITS_PER_ENTRY)
        .div_ceil(8)
        .max(BITS_BYTES_MIN);
    let mut out = vec![0; HEAD_BYTES + length];
    out[0] = VERSION;
    out[1] = PROBES;
    let bits = &mut out[HEAD_BYTES..];
    for hash in hashes {
        for bit in probes(hash, PROBES, length) {
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    out
}

/// A filter that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    probes: u8,
    bits: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`Error`]: short, of another version, or without a probe that makes sense.
    pub fn read(bytes: &'a [u8]) -> Result<Filter<'a>, Error> {
        let (Some((&[version, probes], bits)), true) =
            (bytes.split_first_chunk(), bytes.len() > HEAD_BYTES)
        else {
            return Err(Error::Short {
                what: WHAT,
                length: bytes.len(),
            });
        };
        if version != VERSION {
            return Err(Error::Version {
                what: WHAT,
                version,
            });
        }
        if probes == 0 || probes > PROBES_MAX {
            return Err(Error::Field {
                what: WHAT,
                field: "a probe count of",
                value: probes.into(),
            });
        }
        Ok(Filter { probes, bits })
    }

    /// False where `hash` was certainly not put in.
    pub fn may_contain(&self, hash: &[u8; 16]) -> bool {
        probes(hash, self.probes, self.bits.len())
            .all(|bit| self.bits[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// The bits that stand for `hash`: double hashing over its two halves
/// (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006).
fn probes(hash: &[u8; 16], count: u8, bits_bytes: usize) -> impl Iterator<Item = usize> {
    let whole = u128::from_le_bytes(*hash);
    let (first, step) = (whole as u64, (whole >> 64) as u64 | 1);
    let bits = bits_bytes as u64 * 8;
    (0..u64::from(count)).map(move |at| (first.wrapping_add(at.wrapping_mul(step)) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;
    use crate::random::{SeededRandom, draw};

    fn hashes(count: usize, seed: u64) -> Vec<[u8; 16]> {
        let random = SeededRandom::new(seed);
        (0..count).map(|_| draw(&random)).collect()
    }

    #[test]
    fn filter_denies_nothing_that_was_put_in_and_most_of_what_was_not() {
        for count in [0, 1, 2, 7, 100, 20_000] {
            let inside = hashes(count, 1);
            let bytes = write(&inside);
            assert_eq!(
                bytes.len(),
                2 + (count * 10).div_ceil(8).max(BITS_BYTES_MIN)
            );
            let filter = Filter::read(&bytes).unwrap();
            assert!(inside.iter().all(|hash| filter.may_contain(hash)));
            let outside = hashes(20_000, 2);
            let claimed = outside.iter().filter(|hash| filter.may_contain(hash));
            let claimed = claimed.count();
            assert!(claimed < 220, "{claimed} of 20,000 with {count} entries");
        }
    }

    #[test]
    fn filter_of_nothing_contains_nothing() {
        let bytes = write(&[]);
        let filter = Filter::read(&bytes).unwrap();
        assert!(hashes(1000, 3).iter().all(|hash| !filter.may_contain(hash)));
    }

    #[test]
    fn filter_has_the_bytes_that_the_format_draws() {
        let mut hash = [0; 16];
        hash[0] = 1;
        hash[8] = 8;
        // First bit 1, step 8 | 1 = 9: bits 1, 10, 19, 28, 37, 46, 55 of 64.
        assert_eq!(hex(&write(&[hash])), "01070204081020408000");
    }

    #[test]
    fn strange_filters_are_refused() {
        assert!(matches!(Filter::read(&[]), Err(Error::Short { .. })));
        assert!(matches!(Filter::read(&[1, 7]), Err(Error::Short { .. })));
        assert!(matches!(
            Filter::read(&[2, 7, 0]),
            Err(Error::Version { version: 2, .. })
        ));
        for probes in [0, 33, 255] {
            let read = Filter::read(&[1, probes, 0]).map(|_| ());
            assert!(matches!(read, Err(Error::Field { .. })), "{probes} probes");
        }
        // Any probe count within bounds is read, since a writer may choose otherwise.
        let one = [1, 1, 0xff];
        assert!(Filter::read(&one).unwrap().may_contain(&[9; 16]));
    }
}
