//! Key slots: the root secret, wrapped so that a passphrase or a key file opens it.
//!
//! A passphrase is stretched by Argon2id (RFC 9106); its memory is wiped and given back before
//! the root is opened. Wrapping is XChaCha20-Poly1305 over the root, bound to repository, slot
//! and every parameter. A commitment to the wrapping key is compared first, so that a wrong
//! passphrase is told from an altered slot. Invariant: nothing is allocated for a cost beyond
//! the bounds below, whoever wrote the slot.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use super::Error;
use super::key::{RootSecret, SymmetricKey, equal_in_constant_time};
use super::seal::{NONCE_BYTES, TAG_BYTES, open, seal};
use crate::clock::Timestamp;
use crate::id::{RepositoryId, SlotId};
use crate::random::{Random, draw};

/// Longest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 1 << 20;
/// Cheapest memory that is written, in KiB.
pub const MEMORY_KIB_WRITTEN_MIN: u32 = 64 << 10;
/// Dearest memory that is read or written, in KiB.
pub const MEMORY_KIB_MAX: u32 = 1 << 20;
/// Most passes that are read or written.
pub const PASSES_MAX: u32 = 16;
/// Most lanes that are read or written.
pub const LANES_MAX: u32 = 16;

const CHECK_BYTES: usize = 8;

/// What a guess at a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes in it.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    fn default() -> Self {
        PassphraseCost {
            memory_kib: 256 << 10,
            passes: 3,
            lanes: 4,
        }
    }
}

impl PassphraseCost {
    fn check(&self, memory_least: u32) -> Result<(), Error> {
        let bounds = [
            ("lanes", self.lanes, 1, LANES_MAX),
            ("passes", self.passes, 1, PASSES_MAX),
            (
                "memory in KiB",
                self.memory_kib,
                memory_least,
                MEMORY_KIB_MAX,
            ),
        ];
        for (parameter, value, least, most) in bounds {
            if value < least {
                return Err(Error::CostLow {
                    parameter,
                    value,
                    least,
                });
            }
            if value > most {
                return Err(Error::CostHigh {
                    parameter,
                    value,
                    most,
                });
            }
        }
        Ok(())
    }

    fn check_written(&self) -> Result<(), Error> {
        self.check(MEMORY_KIB_WRITTEN_MIN)
    }

    fn check_read(&self) -> Result<(), Error> {
        // Argon2 itself asks for 8 KiB a lane; lanes are bounded first, by the same call.
        self.check(self.lanes.saturating_mul(8))
    }
}

/// Where a wrapped root belongs; every field is authenticated.
#[derive(Clone, Copy, Debug)]
pub struct SlotPlace<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The slot.
    pub slot: SlotId,
    /// The kind of slot, as it is stored.
    pub kind: u8,
    /// When the slot was made.
    pub created: Timestamp,
    /// What its maker called it.
    pub label: &'a str,
}

impl SlotPlace<'_> {
    fn associated(&self) -> Vec<u8> {
        let mut out = b"rowvault v1 key slot".to_vec();
        out.extend(self.repository.0);
        out.extend(self.slot.to_bytes());
        out.push(self.kind);
        out.extend(self.created.0.to_le_bytes());
        out.extend((self.label.len() as u64).to_le_bytes());
        out.extend(self.label.as_bytes());
        out
    }
}

/// A wrapped root: commitment to the wrapping key, nonce, sealed root and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedRoot(pub [u8; WrappedRoot::BYTES]);

impl WrappedRoot {
    /// Length of the byte form.
    pub const BYTES: usize = CHECK_BYTES + NONCE_BYTES + 32 + TAG_BYTES;
}

/// A root wrapped under a passphrase, with what it takes to try one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseLock {
    /// What a try costs.
    pub cost: PassphraseCost,
    /// Drawn for this slot.
    pub salt: [u8; 16],
    /// The root.
    pub wrapped: WrappedRoot,
}

/// Wraps `root` under a passphrase of 1 byte to 1 MiB.
///
/// # Errors
/// An empty or too long passphrase, a cost outside of bounds, no memory for it.
pub fn wrap_passphrase(
    root: &RootSecret,
    place: &SlotPlace<'_>,
    passphrase: &[u8],
    cost: PassphraseCost,
    random: &dyn Random,
) -> Result<PassphraseLock, Error> {
    cost.check_written()?;
    let salt = draw(random);
    let key = stretch(passphrase, cost, &salt)?;
    let associated = passphrase_associated(place, cost, &salt);
    Ok(PassphraseLock {
        cost,
        salt,
        wrapped: wrap(root, &key, &associated, random),
    })
}

/// Opens what [`wrap_passphrase`] made.
///
/// # Errors
/// [`Error::WrongPassphrase`]; [`Error::SlotAltered`] where the passphrase was right; and before
/// anything is allocated, a cost outside of bounds, an empty or too long passphrase.
pub fn unwrap_passphrase(
    lock: &PassphraseLock,
    place: &SlotPlace<'_>,
    passphrase: &[u8],
) -> Result<RootSecret, Error> {
    lock.cost.check_read()?;
    let key = stretch(passphrase, lock.cost, &lock.salt)?;
    let associated = passphrase_associated(place, lock.cost, &lock.salt);
    unwrap(&lock.wrapped, &key, &associated, Error::WrongPassphrase)
}

/// Wraps `root` under the secret of a key file, which is drawn for one slot and never used again.
pub fn wrap_secret(
    root: &RootSecret,
    place: &SlotPlace<'_>,
    secret: &SymmetricKey,
    random: &dyn Random,
) -> WrappedRoot {
    wrap(root, secret, &place.associated(), random)
}

/// Opens what [`wrap_secret`] made.
///
/// # Errors
/// [`Error::WrongKeyFile`]; [`Error::SlotAltered`] where the secret was right.
pub fn unwrap_secret(
    wrapped: &WrappedRoot,
    place: &SlotPlace<'_>,
    secret: &SymmetricKey,
) -> Result<RootSecret, Error> {
    unwrap(wrapped, secret, &place.associated(), Error::WrongKeyFile)
}

fn passphrase_associated(place: &SlotPlace<'_>, cost: PassphraseCost, salt: &[u8; 16]) -> Vec<u8> {
    let mut out = place.associated();
    out.extend(cost.memory_kib.to_le_bytes());
    out.extend(cost.passes.to_le_bytes());
    out.extend(cost.lanes.to_le_bytes());
    out.extend(salt);
    out
}

/// The key that belongs to a passphrase. `cost` has been checked.
fn stretch(passphrase: &[u8], cost: PassphraseCost, salt: &[u8]) -> Result<SymmetricKey, Error> {
    if passphrase.is_empty() {
        return Err(Error::PassphraseEmpty);
    }
    if passphrase.len() > PASSPHRASE_BYTES_MAX {
        return Err(Error::PassphraseLong {
            bytes: passphrase.len(),
            most: PASSPHRASE_BYTES_MAX,
        });
    }
    let no_memory = || Error::Memory {
        memory_kib: cost.memory_kib,
    };
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .expect("costs inside of our bounds are inside of Argon2's");
    let mut blocks: Vec<Block> = Vec::new();
    blocks
        .try_reserve_exact(params.block_count())
        .map_err(|_| no_memory())?;
    blocks.resize(params.block_count(), Block::new());
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, &mut *key, &mut blocks)
        .map_err(|_| no_memory())?;
    blocks.iter_mut().for_each(Zeroize::zeroize);
    Ok(SymmetricKey::from_bytes(*key))
}

fn wrap(
    root: &RootSecret,
    key: &SymmetricKey,
    associated: &[u8],
    random: &dyn Random,
) -> WrappedRoot {
    let nonce: [u8; NONCE_BYTES] = draw(random);
    let mut buffer = Vec::with_capacity(32 + TAG_BYTES);
    buffer.extend_from_slice(root.expose());
    seal(key, &nonce, associated, &mut buffer);
    let mut out = [0; WrappedRoot::BYTES];
    out[..CHECK_BYTES].copy_from_slice(&key.check_value());
    out[CHECK_BYTES..][..NONCE_BYTES].copy_from_slice(&nonce);
    out[CHECK_BYTES + NONCE_BYTES..].copy_from_slice(&buffer);
    WrappedRoot(out)
}

fn unwrap(
    wrapped: &WrappedRoot,
    key: &SymmetricKey,
    associated: &[u8],
    wrong: Error,
) -> Result<RootSecret, Error> {
    let (check, rest) = wrapped.0.split_at(CHECK_BYTES);
    let (nonce, sealed) = rest.split_at(NONCE_BYTES);
    if !equal_in_constant_time(check, &key.check_value()) {
        return Err(wrong);
    }
    let nonce = nonce.try_into().expect("split at its length");
    let mut buffer = Zeroizing::new(sealed.to_vec());
    open(key, nonce, associated, &mut buffer).map_err(|_| Error::SlotAltered)?;
    let mut root = Zeroizing::new([0; 32]);
    root.copy_from_slice(&buffer);
    Ok(RootSecret::from_bytes(*root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    const CHEAP: PassphraseCost = PassphraseCost {
        memory_kib: MEMORY_KIB_WRITTEN_MIN,
        passes: 1,
        lanes: 1,
    };

    fn place() -> SlotPlace<'static> {
        SlotPlace {
            repository: RepositoryId([1; 16]),
            slot: "abcdefg2".parse().unwrap(),
            kind: 1,
            created: Timestamp(5),
            label: "office",
        }
    }

    fn root() -> RootSecret {
        RootSecret::from_bytes([9; 32])
    }

    /// A lock as a stranger could write it: as cheap as Argon2 allows.
    fn tiny(passphrase: &[u8]) -> PassphraseLock {
        let cost = PassphraseCost {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        };
        let salt = [4; 16];
        let key = stretch(passphrase, cost, &salt).unwrap_or_else(|e| panic!("{e}"));
        let associated = passphrase_associated(&place(), cost, &salt);
        PassphraseLock {
            cost,
            salt,
            wrapped: wrap(&root(), &key, &associated, &SeededRandom::new(1)),
        }
    }

    #[test]
    fn right_passphrase_opens_and_a_wrong_one_is_told_from_an_altered_slot() {
        let random = SeededRandom::new(1);
        let lock = wrap_passphrase(&root(), &place(), b"correct horse", CHEAP, &random).unwrap();
        let opened = unwrap_passphrase(&lock, &place(), b"correct horse");
        assert!(opened == Ok(root()));
        let wrong = unwrap_passphrase(&lock, &place(), b"correct hors");
        assert_eq!(wrong.err(), Some(Error::WrongPassphrase));
        let mut altered = lock;
        altered.wrapped.0[40] ^= 1;
        let refused = unwrap_passphrase(&altered, &place(), b"correct horse");
        assert_eq!(refused.err(), Some(Error::SlotAltered));
    }

    #[test]
    fn every_altered_byte_and_every_other_place_are_refused() {
        let lock = tiny(b"x");
        assert!(unwrap_passphrase(&lock, &place(), b"x") == Ok(root()));
        for byte in 0..WrappedRoot::BYTES {
            let mut altered = lock;
            altered.wrapped.0[byte] ^= 0x80;
            assert!(
                unwrap_passphrase(&altered, &place(), b"x").is_err(),
                "byte {byte}"
            );
        }
        let other = |change: fn(&mut SlotPlace<'static>)| {
            let mut place = place();
            change(&mut place);
            unwrap_passphrase(&lock, &place, b"x").err()
        };
        let altered = Some(Error::SlotAltered);
        assert_eq!(other(|place| place.repository.0[0] = 0), altered);
        assert_eq!(
            other(|place| place.slot = "abcdefg3".parse().unwrap()),
            altered
        );
        assert_eq!(other(|place| place.kind = 4), altered);
        assert_eq!(other(|place| place.created = Timestamp(6)), altered);
        assert_eq!(other(|place| place.label = "Office"), altered);
    }

    #[test]
    fn absurd_costs_are_refused_by_number_and_allocate_nothing() {
        let lock = tiny(b"x");
        let tried = |memory_kib, passes, lanes| {
            let cost = PassphraseCost {
                memory_kib,
                passes,
                lanes,
            };
            unwrap_passphrase(&PassphraseLock { cost, ..lock }, &place(), b"x").err()
        };
        let high = |parameter, value, most| {
            Some(Error::CostHigh {
                parameter,
                value,
                most,
            })
        };
        // 64 GiB, which the machine of this test does not have.
        assert_eq!(
            tried(64 << 20, 3, 4),
            high("memory in KiB", 64 << 20, 1 << 20)
        );
        assert_eq!(
            tried(u32::MAX, 3, 4),
            high("memory in KiB", u32::MAX, 1 << 20)
        );
        assert_eq!(tried(64, u32::MAX, 1), high("passes", u32::MAX, 16));
        assert_eq!(tried(1 << 20, 1, 17), high("lanes", 17, 16));
        for (memory_kib, passes, lanes) in [(0, 1, 1), (8, 0, 1), (8, 1, 0), (127, 1, 16)] {
            let refused = tried(memory_kib, passes, lanes);
            assert!(
                matches!(refused, Some(Error::CostLow { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn cheap_costs_are_not_written() {
        let cost = PassphraseCost {
            memory_kib: MEMORY_KIB_WRITTEN_MIN - 1,
            ..CHEAP
        };
        let refused = wrap_passphrase(&root(), &place(), b"x", cost, &SeededRandom::new(1));
        assert!(matches!(refused, Err(Error::CostLow { value: 65_535, .. })));
        assert_eq!(PassphraseCost::default().check_written(), Ok(()));
    }

    #[test]
    fn passphrases_of_nothing_and_beyond_a_mebibyte_are_refused() {
        let lock = tiny(&vec![b'p'; PASSPHRASE_BYTES_MAX]);
        let longest = unwrap_passphrase(&lock, &place(), &vec![b'p'; PASSPHRASE_BYTES_MAX]);
        assert!(longest == Ok(root()));
        let long = unwrap_passphrase(&lock, &place(), &vec![b'p'; PASSPHRASE_BYTES_MAX + 1]);
        assert!(matches!(long.err(), Some(Error::PassphraseLong { .. })));
        let empty = unwrap_passphrase(&lock, &place(), b"");
        assert_eq!(empty.err(), Some(Error::PassphraseEmpty));
    }

    #[test]
    fn secret_of_a_key_file_opens_its_slot_only() {
        let random = SeededRandom::new(1);
        let secret = SymmetricKey::draw(&random);
        let wrapped = wrap_secret(&root(), &place(), &secret, &random);
        assert!(unwrap_secret(&wrapped, &place(), &secret) == Ok(root()));
        let other = unwrap_secret(&wrapped, &place(), &SymmetricKey::draw(&random));
        assert_eq!(other.err(), Some(Error::WrongKeyFile));
        let moved = SlotPlace { kind: 3, ..place() };
        let refused = unwrap_secret(&wrapped, &moved, &secret);
        assert_eq!(refused.err(), Some(Error::SlotAltered));
    }
}
