//! Coded filters: a sorted list of short hashes, each written as its distance from the one before.
//!
//! For a few hundred entries that are asked for hundreds of values at once: in 18 bits an entry it
//! claims falsely once in 65,536 times, where a Bloom filter would need 23. Invariant: what cannot be
//! read on denies nothing. Bytes: docs/format.md, "Filters".

use crate::format::object::Error;

/// The version of coded filters.
pub const CODED: u8 = 2;
/// A writer's filter claims falsely once in 2 to the power of this.
pub const DISTANCE_BITS: u8 = 16;
/// Most bits that a reader takes for that power.
pub const DISTANCE_BITS_MAX: u8 = 32;
/// Bytes before the distances: version, power and count.
pub const HEAD_BYTES: usize = 6;

/// Keyed hashes of 16 bytes that are looked for together.
#[derive(Clone, Debug, Default)]
pub struct Hashes(Vec<[u8; 16]>);

pub(super) fn first_half(hash: &[u8; 16]) -> u64 {
    u128::from_le_bytes(*hash) as u64
}

impl Hashes {
    /// These hashes.
    pub fn new(hashes: impl IntoIterator<Item = [u8; 16]>) -> Hashes {
        let mut hashes: Vec<[u8; 16]> = hashes.into_iter().collect();
        hashes.sort_unstable_by_key(first_half);
        Hashes(hashes)
    }

    /// The hashes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8; 16]> {
        self.0.iter()
    }

    /// Their first halves as numbers, ascending.
    pub(super) fn first_halves(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(first_half)
    }
}

/// Where a hash falls among `count` entries: between 0 and `count` · 2^`power`, in the order of the
/// hashes' first halves.
fn place(first_half: u64, count: u32, power: u8) -> u64 {
    let range = u128::from(count) << power;
    ((u128::from(first_half) * range) >> 64) as u64
}

struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are taken; 8 or 0 where there is none to fill.
    taken: u8,
}

impl BitWriter {
    fn push(&mut self, mut bits: u64, mut count: u32) {
        while count > 0 {
            if self.taken == 0 {
                self.bytes.push(0);
            }
            let now = count.min(8 - u32::from(self.taken));
            let part = (bits & ((1 << now) - 1)) as u8;
            if let Some(last) = self.bytes.last_mut() {
                *last |= part << self.taken;
            }
            self.taken = (self.taken + now as u8) % 8;
            bits >>= now;
            count -= now;
        }
    }

    /// As many ones, and a zero.
    fn push_ones(&mut self, mut ones: u64) {
        while ones > 0 {
            let now = ones.min(32);
            self.push((1 << now) - 1, now as u32);
            ones -= now;
        }
        self.push(0, 1);
    }
}

/// The bytes of a coded filter over `hashes`.
pub fn write(hashes: &[[u8; 16]]) -> Vec<u8> {
    let count = hashes.len() as u32;
    let places = Hashes::new(hashes.iter().copied());
    let mut bytes = Vec::with_capacity(HEAD_BYTES + hashes.len() * 9 / 4 + 1);
    bytes.extend_from_slice(&[CODED, DISTANCE_BITS]);
    bytes.extend_from_slice(&count.to_le_bytes());
    let mut out = BitWriter { bytes, taken: 0 };
    let mut last = 0;
    for first_half in places.first_halves() {
        let place = place(first_half, count, DISTANCE_BITS);
        let distance = place - last;
        out.push_ones(distance >> DISTANCE_BITS);
        out.push(distance, u32::from(DISTANCE_BITS));
        last = place;
    }
    out.bytes
}

/// A coded filter that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded<'a> {
    power: u8,
    count: u32,
    bits: &'a [u8],
}

impl<'a> Coded<'a> {
    /// Reads what follows the version.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Coded<'a>, Error> {
        let what = "filter";
        let Some((&[_, power, a, b, c, d], bits)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            let length = bytes.len();
            return Err(Error::Short { what, length });
        };
        if power == 0 || power > DISTANCE_BITS_MAX {
            return Err(Error::Field {
                what,
                field: "a power of",
                value: power.into(),
            });
        }
        let count = u32::from_le_bytes([a, b, c, d]);
        // Each entry has its lower bits, and a zero.
        if u64::from(count) * (u64::from(power) + 1) > bits.len() as u64 * 8 {
            return Err(Error::Field {
                what,
                field: "a count of entries of",
                value: count.into(),
            });
        }
        Ok(Coded { power, count, bits })
    }

    /// False where none of `hashes` was put in: one walk through both.
    pub(super) fn may_contain_any(&self, hashes: impl Iterator<Item = u64>) -> bool {
        let mut entries = Entries {
            coded: *self,
            left: self.count,
            at: 0,
            place: 0,
        };
        let mut entry = match entries.next() {
            None => return false,
            Some(entry) => entry,
        };
        for first_half in hashes {
            let sought = place(first_half, self.count, self.power);
            loop {
                match entry {
                    None => return true,
                    Some(entry) if entry == sought => return true,
                    Some(entry) if entry > sought => break,
                    Some(_) => match entries.next() {
                        None => return false,
                        Some(next) => entry = next,
                    },
                }
            }
        }
        false
    }
}

/// The places of the entries, ascending; none in place of one that cannot be read.
struct Entries<'a> {
    coded: Coded<'a>,
    left: u32,
    /// The next bit.
    at: usize,
    place: u64,
}

impl Entries<'_> {
    /// At least 57 bits from the next one on, with zeros behind the end.
    fn window(&self) -> u64 {
        let rest = self.coded.bits.get(self.at / 8..).unwrap_or_default();
        let mut word = [0; 8];
        match rest.first_chunk() {
            Some(whole) => word = *whole,
            None => word[..rest.len()].copy_from_slice(rest),
        }
        u64::from_le_bytes(word) >> (self.at % 8)
    }

    fn decode(&mut self) -> Option<u64> {
        let (power, end) = (u32::from(self.coded.power), self.coded.bits.len() * 8);
        let mut ones = 0u64;
        loop {
            let run = self.window().trailing_ones().min(32);
            ones += u64::from(run);
            self.at += run as usize;
            if self.at >= end {
                return None;
            }
            if run < 32 {
                break;
            }
        }
        self.at += 1;
        let lower = self.window() & ((1 << power) - 1);
        self.at += power as usize;
        if self.at > end {
            return None;
        }
        self.place = self.place.checked_add(ones.checked_shl(power)? | lower)?;
        Some(self.place)
    }
}

impl Iterator for Entries<'_> {
    type Item = Option<u64>;

    fn next(&mut self) -> Option<Option<u64>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.decode())
    }
}
