//! Filters: what lets a reader pass over what cannot hold a key or a value.
//!
//! A delta run carries a Bloom filter over its keys, a chunk may carry a coded one (`coded`) over a
//! column of its rows. What goes in are keyed hashes (`crypto::key`), so a filter tells an outsider
//! nothing. Invariant: a filter never denies what was put into it; it may claim what was not, a Bloom
//! filter about once in 120 times. Bytes: docs/format.md, "Filters".

pub mod coded;

pub use crate::format::filter::coded::Hashes;
use crate::format::filter::coded::{CODED, Coded, first_half};
use crate::format::object::{Error, VERSION};

/// The version of Bloom filters.
const BLOOM: u8 = VERSION;
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

/// The bytes of a Bloom filter over `hashes`: keyed hashes of 16 bytes each.
pub fn write(hashes: &[[u8; 16]]) -> Vec<u8> {
    let length = (hashes.len() * BITS_PER_ENTRY)
        .div_ceil(8)
        .max(BITS_BYTES_MIN);
    let mut out = vec![0; HEAD_BYTES + length];
    out[0] = BLOOM;
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
pub enum Filter<'a> {
    /// A Bloom filter.
    Bloom(Bloom<'a>),
    /// A coded filter.
    Coded(Coded<'a>),
}

impl<'a> Filter<'a> {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`Error`]: short, of another version, or with figures that make no sense.
    pub fn read(bytes: &'a [u8]) -> Result<Filter<'a>, Error> {
        match bytes.first() {
            Some(&CODED) => Ok(Filter::Coded(Coded::read(bytes)?)),
            _ => Ok(Filter::Bloom(Bloom::read(bytes)?)),
        }
    }

    /// False where `hash` was certainly not put in.
    pub fn may_contain(&self, hash: &[u8; 16]) -> bool {
        match self {
            Filter::Bloom(bloom) => bloom.may_contain(hash),
            Filter::Coded(coded) => coded.may_contain_any([first_half(hash)].into_iter()),
        }
    }

    /// False where certainly none of `hashes` was put in.
    pub fn may_contain_any(&self, hashes: &Hashes) -> bool {
        match self {
            Filter::Bloom(bloom) => hashes.iter().any(|hash| bloom.may_contain(hash)),
            Filter::Coded(coded) => coded.may_contain_any(hashes.first_halves()),
        }
    }
}

/// A Bloom filter that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bloom<'a> {
    probes: u8,
    bits: &'a [u8],
}

impl<'a> Bloom<'a> {
    fn read(bytes: &'a [u8]) -> Result<Bloom<'a>, Error> {
        let (Some((&[version, probes], bits)), true) =
            (bytes.split_first_chunk(), bytes.len() > HEAD_BYTES)
        else {
            return Err(Error::Short {
                what: WHAT,
                length: bytes.len(),
            });
        };
        if version != BLOOM {
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
        Ok(Bloom { probes, bits })
    }

    fn may_contain(&self, hash: &[u8; 16]) -> bool {
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
            Filter::read(&[3, 7, 0]),
            Err(Error::Version { version: 3, .. })
        ));
        for probes in [0, 33, 255] {
            let read = Filter::read(&[1, probes, 0]).map(|_| ());
            assert!(matches!(read, Err(Error::Field { .. })), "{probes} probes");
        }
        // Any probe count within bounds is read, since a writer may choose otherwise.
        let one = [1, 1, 0xff];
        assert!(Filter::read(&one).unwrap().may_contain(&[9; 16]));
    }

    #[test]
    fn coded_filter_denies_nothing_that_was_put_in_and_nearly_all_that_was_not() {
        let (mut bytes_all, mut entries) = (0, 0);
        for count in [0, 1, 2, 7, 260, 20_000] {
            let inside = hashes(count, 1);
            let bytes = coded::write(&inside);
            let filter = Filter::read(&bytes).unwrap();
            assert!(inside.iter().all(|hash| filter.may_contain(hash)));
            let outside = hashes(100_000, 2);
            let claimed = outside.iter().filter(|hash| filter.may_contain(hash));
            let claimed = if count < 300 { claimed.count() } else { 0 };
            assert!(claimed <= 10, "{claimed} of 100,000 with {count} entries");
            // Together as one by one, whatever their order.
            let outside = &outside[..1000];
            let any = outside.iter().any(|hash| filter.may_contain(hash));
            let together = |some: Vec<[u8; 16]>| filter.may_contain_any(&Hashes::new(some));
            assert_eq!(together(outside.to_vec()), any);
            for one in inside.iter().take(20) {
                assert!(together([outside, &[*one]].concat()));
            }
            (bytes_all, entries) = (bytes_all + bytes.len(), entries + count);
        }
        let bits = bytes_all as f64 * 8.0 / entries as f64;
        assert!(bits < 17.8, "{bits} bits an entry");
    }

    #[test]
    fn coded_filter_has_the_bytes_that_the_format_draws() {
        let halves = |first: u64| {
            let mut hash = [7; 16];
            hash[..8].copy_from_slice(&first.to_le_bytes());
            hash
        };
        // Two entries fall into 0 … 131,071: at 3, and a half on at 98,304 = 3 + 65,536 + 32,765.
        let bytes = coded::write(&[halves(3 << 62), halves(3 << 47)]);
        assert_eq!(hex(&bytes), "0210020000000600eaff03");
        let filter = Filter::read(&bytes).unwrap();
        assert!(filter.may_contain(&halves(3 << 47)) && !filter.may_contain(&halves(4 << 47)));
    }

    #[test]
    fn coded_filters_that_lie_deny_nothing_or_are_refused() {
        for short in [&[2][..], &[2, 16], &[2, 16, 0, 0, 0]] {
            assert!(matches!(Filter::read(short), Err(Error::Short { .. })));
        }
        for power in [0, 33, 255] {
            let read = Filter::read(&[2, power, 0, 0, 0, 0]).map(|_| ());
            assert!(matches!(read, Err(Error::Field { .. })), "power {power}");
        }
        let read = Filter::read(&[2, 16, 2, 0, 0, 0, 0, 0, 0]).map(|_| ());
        assert!(matches!(read, Err(Error::Field { .. })), "{read:?}");
        // Ones without end: the entry cannot be read, so that anything may be in.
        let endless = [2, 1, 4, 0, 0, 0, 255, 255];
        assert!(Filter::read(&endless).unwrap().may_contain(&[9; 16]));
        let random = SeededRandom::new(5);
        for _ in 0..2000 {
            let mut bytes: [u8; 64] = draw(&random);
            bytes[0] = 2;
            bytes[1] = 1 + bytes[1] % 32;
            let count = u32::from(bytes[2] % 20);
            bytes[2..6].copy_from_slice(&count.to_le_bytes());
            if let Ok(filter) = Filter::read(&bytes[..16 + usize::from(bytes[7]) % 48]) {
                filter.may_contain_any(&Hashes::new(hashes(5, 6)));
            }
        }
    }
}
