//! Whole numbers from a seed, the same on every machine.
//!
//! SplitMix64 (Steele, Lea, Flood, 2014): one multiplication chain a number, and any place of any
//! table can be the start, so that a row needs none of the rows before it. Never for secrets.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Dice {
    /// The stream at `place`: any numbers that tell it from all others.
    pub fn at(seed: u64, place: [u64; 3]) -> Self {
        Dice(
            place
                .iter()
                .fold(mix(seed ^ 0x726f_7776_6175_6c74), |state, &number| {
                    mix(state ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                }),
        )
    }

    /// Any number of 64 bits.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        debug_assert!(bound > 0, "nothing is below 0");
        (((self.any() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// A number in `0..bound`, each doubling of which is about as likely as the one before: a few
    /// come often, most seldom, as words and customers do.
    pub fn zipf(&mut self, bound: u32) -> u32 {
        let octaves = u32::BITS - bound.leading_zeros();
        loop {
            let start = (1u32 << self.below(octaves)) - 1;
            let number = start + self.below(start + 1);
            if number < bound {
                return number;
            }
        }
    }

    /// One of `all`, which must not be empty.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u32) as usize]
    }

    /// One of `all`, the first ones more often.
    pub fn pick_early<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.zipf(all.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_reaches_every_number_and_prefers_the_first() {
        let mut dice = Dice::at(1, [2, 3, 4]);
        let mut seen = [0u32; 100];
        for _ in 0..20_000 {
            seen[dice.zipf(100) as usize] += 1;
        }
        assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
        assert!(seen[0] > 50 * seen[99], "{seen:?}");
    }

    #[test]
    fn neighbouring_places_have_other_streams() {
        let first = Dice::at(7, [0, 0, 1]).any();
        assert_ne!(first, Dice::at(7, [0, 1, 0]).any());
        assert_ne!(first, Dice::at(8, [0, 0, 1]).any());
        assert_eq!(first, Dice::at(7, [0, 0, 1]).any());
    }
}
