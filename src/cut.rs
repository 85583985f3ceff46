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
const MEAN_OF_SHAPE_4: f64 = 0.906_402_477_055_477_1;

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
