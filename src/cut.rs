//! Where a chunk ends: at row edges by a keyed hash of the row's key, and inside large cells by
//! their content.
//!
//! Both ask only what is near, so that the same rows (or bytes) are cut the same way again after
//! an edit elsewhere, and both hashes are keyed, so that sizes tell an outsider nothing about
//! content. Only exact arithmetic is used (`+ - * /` of IEEE 754 is the same on all machines).

/// Decides before which rows a run is cut.
///
/// The size of a chunk follows a Weibull distribution of shape 4. With mean `target` its scale
/// is λ = target / Γ(5/4), its cumulated hazard H(s) = (s/λ)⁴, so the hazard grows with s³:
/// small chunks and large ones are both rare. Before a row of n bytes that would take a chunk
/// from s to s + n, the chunk ends with probability
///
/// > p(s, n) = 1 − exp(H(s) − H(s + n))
///
/// that is, if the first 8 bytes (LE) of keyed BLAKE3 of the row's key are below p · 2⁶⁴.
/// Below target / 4 it never ends (a quarter of a percent would), above 4 · target always,
/// except before a row that alone is larger.
#[derive(Clone)]
pub struct RowCutter {
    key: [u8; 32],
    bytes_min: usize,
    bytes_max: usize,
    scale: f64,
}

/// Γ(5/4): the mean of a Weibull distribution of shape 4 and scale 1.
const MEAN_OF_SHAPE_4: f64 = 0.906_402_477_055_477;

impl RowCutter {
    /// A cutter for chunks of `target_bytes` (1 KiB or more; 64 KiB is usual) on average.
    pub fn new(key: &[u8; 32], target_bytes: usize) -> Self {
        let target_bytes = target_bytes.max(1 << 10);
        RowCutter {
            key: *key,
            bytes_min: target_bytes / 4,
            bytes_max: target_bytes.saturating_mul(4),
            scale: target_bytes as f64 / MEAN_OF_SHAPE_4,
        }
    }

    /// Whether a chunk that has `bytes_so_far` bytes of rows ends before the row of
    /// `next_row_bytes` bytes whose canonical key is `row_key`. For a table without a key, the
    /// row itself stands for its key. A row without columns should count as one byte.
    pub fn cut_before(&self, row_key: &[u8], bytes_so_far: usize, next_row_bytes: usize) -> bool {
        if bytes_so_far == 0 {
            return false;
        }
        let bytes_then = bytes_so_far.saturating_add(next_row_bytes);
        if bytes_then > self.bytes_max {
            return true;
        }
        if bytes_so_far < self.bytes_min {
            return false;
        }
        let hash = blake3::keyed_hash(&self.key, row_key);
        let drawn = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        u64::from_le_bytes(*drawn) < self.threshold(bytes_so_far, bytes_then)
    }

    /// p · 2⁶⁴ for a chunk that would grow from `from` to `to` bytes.
    fn threshold(&self, from: usize, to: usize) -> u64 {
        let (a, b) = (from as f64 / self.scale, to as f64 / self.scale);
        let hazard = (b - a) * (b + a) * (b * b + a * a);
        // The cast saturates, so a certain cut is the largest threshold.
        (one_minus_exp(hazard) * 18_446_744_073_709_551_616.0) as u64
    }
}

/// 1 − exp(−x) for x ≥ 0, by basic arithmetic alone: the series where x is small, and
/// 1 − e⁻²ʸ = p·(2 − p) with p = 1 − e⁻ʸ to get there.
fn one_minus_exp(x: f64) -> f64 {
    if x > 48.0 {
        return 1.0;
    }
    let (mut y, mut doublings) = (x, 0);
    while y > 1.0 / 64.0 {
        y /= 2.0;
        doublings += 1;
    }
    let mut p =
        y * (1.0 - y / 2.0 * (1.0 - y / 3.0 * (1.0 - y / 4.0 * (1.0 - y / 5.0 * (1.0 - y / 6.0)))));
    for _ in 0..doublings {
        p *= 2.0 - p;
    }
    p
}

/// Fewest bytes of a piece of a large cell, but for its last.
pub const CELL_BYTES_MIN: usize = 128 << 10;
/// Bytes of a piece of a large cell, on average.
pub const CELL_BYTES_TARGET: usize = 512 << 10;
/// Most bytes of a piece of a large cell.
pub const CELL_BYTES_MAX: usize = 2 << 20;

/// Bytes that the rolling hash remembers.
const WINDOW_BYTES: usize = 64;

/// Cuts a large cell into pieces by its content, as it streams by.
///
/// A gear hash (64 bits, the last 64 bytes) with a keyed table ends a piece where it falls below
/// 2⁶⁴ / (target − min): the lengths are min plus a geometric distribution, cut off at max.
pub struct CellCutter {
    gear: Box<[u64; 256]>,
    threshold: u64,
    piece: Vec<u8>,
    hashed: usize,
    hash: u64,
}

impl CellCutter {
    /// A cutter whose edges only the holder of `key` can foretell.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut stream = blake3::Hasher::new_keyed(key)
            .update(b"rowvault gear table")
            .finalize_xof();
        let mut gear = Box::new([0; 256]);
        for entry in gear.iter_mut() {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            *entry = u64::from_le_bytes(bytes);
        }
        CellCutter {
            gear,
            threshold: u64::MAX / (CELL_BYTES_TARGET - CELL_BYTES_MIN) as u64,
            piece: Vec::new(),
            hashed: 0,
            hash: 0,
        }
    }

    /// Takes the next bytes of the cell, and emits each piece that is complete.
    /// How the cell is split over calls makes no difference.
    pub fn push(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = CELL_BYTES_MAX - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let before = self.piece.len();
            self.piece.extend_from_slice(now);
            match self.edge() {
                Some(end) => {
                    emit(&self.piece[..end]);
                    bytes = &bytes[end - before..];
                    self.reset();
                }
                None => bytes = later,
            }
        }
    }

    /// Emits the last piece, if there is one, and is ready for the next cell.
    pub fn finish(&mut self, emit: &mut dyn FnMut(&[u8])) {
        if !self.piece.is_empty() {
            emit(&self.piece);
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.piece.clear();
        self.hashed = 0;
        self.hash = 0;
    }

    /// Where the piece ends, if it does within what has come so far.
    fn edge(&mut self) -> Option<usize> {
        let start = self.hashed.max(CELL_BYTES_MIN - WINDOW_BYTES);
        let mut hash = self.hash;
        for (at, &byte) in self.piece.iter().enumerate().skip(start) {
            hash = (hash << 1).wrapping_add(self.gear[usize::from(byte)]);
            if hash < self.threshold && at + 1 >= CELL_BYTES_MIN {
                return Some(at + 1);
            }
        }
        self.hash = hash;
        self.hashed = self.hashed.max(self.piece.len());
        (self.piece.len() == CELL_BYTES_MAX).then_some(CELL_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    const TARGET: usize = 64 << 10;

    /// Keys and lengths of rows, about 200 bytes each.
    fn rows(count: u64) -> Vec<(u64, usize)> {
        let random = SeededRandom::new(7);
        (0..count)
            .map(|id| (id, 40 + random.below(320) as usize))
            .collect()
    }

    /// The chunks that `rows` are cut into: first key and bytes of each.
    fn chunks(rows: &[(u64, usize)]) -> Vec<(u64, usize)> {
        let cutter = RowCutter::new(&[9; 32], TARGET);
        let mut chunks: Vec<(u64, usize)> = Vec::new();
        for &(id, length) in rows {
            match chunks.last_mut() {
                Some((_, bytes)) if !cutter.cut_before(&id.to_be_bytes(), *bytes, length) => {
                    *bytes += length;
                }
                _ => chunks.push((id, length)),
            }
        }
        chunks
    }

    #[test]
    fn chunks_follow_the_distribution_of_shape_4() {
        let chunks = chunks(&rows(600_000));
        let sizes: Vec<f64> = chunks
            .iter()
            .map(|(_, bytes)| *bytes as f64 / TARGET as f64)
            .collect();
        let share = |below: f64| {
            sizes.iter().filter(|size| **size < below).count() as f64 / sizes.len() as f64
        };
        let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
        let spread = (sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>()
            / sizes.len() as f64)
            .sqrt();
        println!(
            "{} chunks, mean {mean:.3}, spread {spread:.3}, below 1/4 {:.5}",
            sizes.len(),
            share(0.25)
        );
        assert!((0.97..1.03).contains(&mean), "mean is {mean} of the target");
        // A Weibull distribution of shape 4 has a spread of 0.281 of its mean.
        assert!(
            (0.26..0.30).contains(&spread),
            "spread is {spread} of the target"
        );
        assert!(share(0.25) < 0.001);
        assert!(share(0.5) < 0.06);
        assert!(
            (0.45..0.55).contains(&share(1.0 / MEAN_OF_SHAPE_4 * 0.9124)),
            "the median is elsewhere"
        );
        assert!(share(2.0) > 0.999);
    }

    #[test]
    fn an_edit_changes_only_the_chunks_near_it() {
        let rows = rows(60_000);
        let before = chunks(&rows);
        let (mut changed, mut worst) = (0, 0);
        for edit in 0..100 {
            let mut edited = rows.clone();
            let at = 300 + edit * 590;
            if edit % 2 == 0 {
                edited.remove(at);
            } else {
                edited.insert(at, (u64::MAX - edit as u64, 90));
            }
            let after = chunks(&edited);
            let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
            changed += new;
            worst = worst.max(new);
        }
        println!(
            "an edit changes {:.2} chunks, {worst} at worst",
            changed as f64 / 100.0
        );
        assert!(
            changed <= 300 && worst <= 16,
            "{changed} chunks for 100 edits, {worst} at worst"
        );
    }

    #[test]
    fn sizes_stay_within_their_bounds() {
        let cutter = RowCutter::new(&[1; 32], TARGET);
        assert!(!cutter.cut_before(b"k", 0, 100 << 20), "a chunk of no rows");
        assert!(cutter.cut_before(b"k", 1, 4 * TARGET));
        assert!(cutter.cut_before(b"k", 5 * TARGET, 1));
        assert!((0..1000u32).all(|key| !cutter.cut_before(&key.to_le_bytes(), TARGET / 4 - 1, 99)));
        assert_eq!(cutter.threshold(TARGET, 200 * TARGET), u64::MAX);
    }

    #[test]
    fn thresholds_are_the_same_on_all_machines() {
        let cutter = RowCutter::new(&[1; 32], TARGET);
        let found = [
            (16_384, 16_584),
            (65_536, 65_736),
            (65_536, 131_072),
            (100_000, 260_000),
        ]
        .map(|(from, to)| cutter.threshold(from, to));
        assert_eq!(found, THRESHOLDS);
        for (x, wanted) in [
            (0.001, 0.000_999_500_166_625),
            (1.0, 0.632_120_558_828_557_7),
            (20.0, 0.999_999_997_938_846_4),
        ] {
            assert!((one_minus_exp(x) - wanted).abs() < 1e-14);
        }
    }

    const THRESHOLDS: [u64; 4] = [
        2_418_519_819_884_373,
        152_056_687_002_333_600,
        18_446_004_664_427_257_856,
        u64::MAX,
    ];

    fn pieces(cell: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut cutter = CellCutter::new(&[3; 32]);
        let mut pieces = Vec::new();
        for part in cell.chunks(step) {
            cutter.push(part, &mut |piece| pieces.push(piece.to_vec()));
        }
        cutter.finish(&mut |piece| pieces.push(piece.to_vec()));
        pieces
    }

    fn noise(length: usize) -> Vec<u8> {
        use crate::random::Random;
        let mut bytes = vec![0; length];
        SeededRandom::new(5).fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_large_cell_is_cut_the_same_however_it_streams_by() {
        let cell = noise(12 << 20);
        let whole = pieces(&cell, usize::MAX);
        assert_eq!(whole.concat(), cell);
        assert_eq!(pieces(&cell, 1 << 20), whole);
        assert_eq!(pieces(&cell, 65_537), whole);
        let (last, others) = whole.split_last().unwrap();
        assert!(
            others
                .iter()
                .all(|piece| (CELL_BYTES_MIN..=CELL_BYTES_MAX).contains(&piece.len()))
        );
        assert!(last.len() <= CELL_BYTES_MAX);
        assert!((14..40).contains(&whole.len()), "{} pieces", whole.len());
        assert!(pieces(&[], 1).is_empty());
        let zeros = pieces(&vec![0; 5 << 20], 1 << 20);
        assert_eq!(zeros.concat().len(), 5 << 20);
    }

    #[test]
    fn an_edit_of_a_large_cell_changes_only_the_pieces_near_it() {
        let cell = noise(24 << 20);
        let before = pieces(&cell, 1 << 20);
        let mut edited = cell;
        edited.splice(10_000_000..10_000_010, *b"some more bytes");
        let after = pieces(&edited, 1 << 20);
        let new = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!(new <= 4, "{new} pieces of {} are new", after.len());
    }
}
