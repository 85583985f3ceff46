//! Symmetric keys, and all that is derived from a repository's root secret.
//!
//! One secret of 32 bytes opens everything; each purpose has its own key, so that a writer can be
//! given some and not others. Invariant: a key is used for one purpose, and two purposes, two
//! repositories or two epochs never share one.   Table of contexts: docs/format.md, "Keys".

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{ChunkId, Digest, RepositoryId, SourceHash, SourceName};
use crate::random::Random;

/// BLAKE3 `derive_key` contexts; docs/format.md lists the same strings.
pub(super) mod context {
    pub const CHUNK_NAME: &str = "rowvault v1 chunk name";
    pub const CUT: &str = "rowvault v1 cut";
    pub const ROW_DIGEST: &str = "rowvault v1 row digest";
    pub const PATH: &str = "rowvault v1 path";
    pub const INDEX: &str = "rowvault v1 index";
    pub const METADATA: &str = "rowvault v1 metadata";
    pub const STATE: &str = "rowvault v1 state";
    pub const READER: &str = "rowvault v1 reader x25519";
    pub const OWNER: &str = "rowvault v1 owner ed25519";
    pub const CHECK: &str = "rowvault v1 key check";
    pub const SIGNATURE: &str = "rowvault v1 signature";
}

/// Stands before a large cell's bytes; no canonical row starts with it, so that no cell's digest
/// is ever a row's.
const CELL_MARK: u8 = 0xff;
/// Stands before a row's canonical key that goes into a filter.
const KEY_MARK: u8 = 0xfe;
/// Stands before a column's number and a cell that go into a filter.
const VALUE_MARK: u8 = 0xfd;

/// Whether `left` and `right` are equal, in a time that does not depend on where they differ.
pub fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |found, (a, b)| found | (a ^ b));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

macro_rules! secret_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The secret that these bytes are.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }

            /// Draws a new secret.
            pub fn draw(random: &dyn Random) -> Self {
                let mut secret = $name([0; 32]);
                random.fill(&mut secret.0);
                secret
            }

            /// The bytes themselves; never to be printed, logged or put into an error.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                equal_in_constant_time(&self.0, &other.0)
            }
        }

        impl Eq for $name {}
    };
}

secret_bytes!(
    /// A key for [`super::seal`].
    SymmetricKey
);
secret_bytes!(
    /// A key for keyed BLAKE3: names and digests that tell an outsider nothing.
    HashKey
);
secret_bytes!(
    /// What opens a repository: every other key is derived from it.
    RootSecret
);
secret_bytes!(
    /// The reader's X25519 secret: opens the session keys of backups. Its public half is
    /// [`super::envelope::ReaderPublic`].
    ReaderSecret
);

impl SymmetricKey {
    /// A commitment to this key, to be stored and compared before anything is opened with it:
    /// the cipher alone would let one sealed text open under two keys.
    pub fn check_value(&self) -> [u8; 8] {
        let check = Zeroizing::new(blake3::derive_key(context::CHECK, &self.0));
        let mut value = [0; 8];
        value.copy_from_slice(&check[..8]);
        value
    }
}

impl HashKey {
    /// The first 16 bytes of keyed BLAKE3 of `bytes`.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        // Of a few bytes, a good deal cheaper than a hasher.
        let hash = blake3::keyed_hash(&self.0, bytes);
        Digest(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    /// A keyed hasher that has seen nothing; [`digest`] ends it.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }
}

/// The digest of what `hasher` has seen.
pub fn digest(hasher: &blake3::Hasher) -> Digest {
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    Digest(out)
}

/// The chunk name of what a hasher of [`SharedKeys::chunk_hasher`] has seen.
pub fn chunk_id(hasher: &blake3::Hasher) -> ChunkId {
    ChunkId(*hasher.finalize().as_bytes())
}

impl RootSecret {
    /// The keys that every writer has too, of one epoch.
    pub fn shared(&self, repository: RepositoryId, epoch: u32) -> SharedKeys {
        let derive = |context| self.derive(context, repository, Some(epoch));
        SharedKeys {
            chunk_name: HashKey(*derive(context::CHUNK_NAME)),
            cut: HashKey(*derive(context::CUT)),
            row_digest: HashKey(*derive(context::ROW_DIGEST)),
            path: HashKey(*derive(context::PATH)),
            index: SymmetricKey(*derive(context::INDEX)),
            metadata: SymmetricKey(*derive(context::METADATA)),
            state: SymmetricKey(*derive(context::STATE)),
        }
    }

    /// The reader's secret of one epoch; no writer has it.
    pub fn reader(&self, repository: RepositoryId, epoch: u32) -> ReaderSecret {
        ReaderSecret(*self.derive(context::READER, repository, Some(epoch)))
    }

    /// The key for `context`, which is bound to the repository and, where there is one, the epoch.
    pub(super) fn derive(
        &self,
        context: &str,
        repository: RepositoryId,
        epoch: Option<u32>,
    ) -> Zeroizing<[u8; 32]> {
        let mut input = Zeroizing::new([0; 52]);
        input[..32].copy_from_slice(&self.0);
        input[32..48].copy_from_slice(&repository.0);
        let length = match epoch {
            Some(epoch) => {
                input[48..].copy_from_slice(&epoch.to_le_bytes());
                52
            }
            None => 48,
        };
        Zeroizing::new(blake3::derive_key(context, &input[..length]))
    }
}

/// What every writer has: it names, cuts and digests with them, and seals what is not rows.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKeys {
    /// Names chunks.
    pub chunk_name: HashKey,
    /// Decides where chunks end.
    pub cut: HashKey,
    /// Digests rows and large cells.
    pub row_digest: HashKey,
    /// Names sources in paths.
    pub path: HashKey,
    /// Seals indexes and pack footers.
    pub index: SymmetricKey,
    /// Seals manifests, ledger entries, runs and the keyring.
    pub metadata: SymmetricKey,
    /// Seals what a client keeps in its state directory.
    pub state: SymmetricKey,
}

impl SharedKeys {
    /// Length of the byte form.
    pub const BYTES: usize = 7 * 32;

    /// The keys in the order of the fields, 32 bytes each.
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::BYTES]> {
        let mut out = Zeroizing::new([0; Self::BYTES]);
        let keys = [
            &self.chunk_name.0,
            &self.cut.0,
            &self.row_digest.0,
            &self.path.0,
            &self.index.0,
            &self.metadata.0,
            &self.state.0,
        ];
        for (place, key) in out.chunks_exact_mut(32).zip(keys) {
            place.copy_from_slice(key);
        }
        out
    }

    /// The keys of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let key = |index: usize| {
            let mut out = [0; 32];
            out.copy_from_slice(&bytes[index * 32..(index + 1) * 32]);
            out
        };
        SharedKeys {
            chunk_name: HashKey(key(0)),
            cut: HashKey(key(1)),
            row_digest: HashKey(key(2)),
            path: HashKey(key(3)),
            index: SymmetricKey(key(4)),
            metadata: SymmetricKey(key(5)),
            state: SymmetricKey(key(6)),
        }
    }

    /// The name of a chunk: keyed BLAKE3 of the kind's byte and the canonical content.
    pub fn chunk_id(&self, kind: u8, canonical: &[u8]) -> ChunkId {
        let mut hasher = self.chunk_hasher(kind);
        hasher.update(canonical);
        chunk_id(&hasher)
    }

    /// As [`Self::chunk_id`] for content that comes in pieces; [`chunk_id`] ends it.
    pub fn chunk_hasher(&self, kind: u8) -> blake3::Hasher {
        let mut hasher = self.chunk_name.hasher();
        hasher.update(&[kind]);
        hasher
    }

    /// The name of a source in paths.
    pub fn source_hash(&self, source: &SourceName) -> SourceHash {
        SourceHash(self.path.digest(source.as_str().as_bytes()).0)
    }

    /// The digest of a row's canonical bytes.
    pub fn row_digest(&self, row: &[u8]) -> Digest {
        self.row_digest.digest(row)
    }

    /// What stands for a row's canonical key in a filter.
    pub fn key_filter_hash(&self, key: &[u8]) -> [u8; 16] {
        let mut hasher = self.row_digest.hasher();
        hasher.update(&[KEY_MARK]).update(key);
        digest(&hasher).0
    }

    /// What stands for the canonical bytes of a cell of the column at `column` in a filter.
    pub fn value_filter_hash(&self, column: u32, cell: &[u8]) -> [u8; 16] {
        let mut short = [0; 64];
        if let Some((content, _)) = short.split_at_mut_checked(5 + cell.len()) {
            content[0] = VALUE_MARK;
            content[1..5].copy_from_slice(&column.to_le_bytes());
            content[5..].copy_from_slice(cell);
            return self.row_digest.digest(content).0;
        }
        let mut hasher = self.row_digest.hasher();
        hasher.update(&[VALUE_MARK]).update(&column.to_le_bytes());
        hasher.update(cell);
        digest(&hasher).0
    }

    /// A hasher for a large cell's bytes, in pieces of any size; [`digest`] ends it.
    pub fn cell_hasher(&self) -> blake3::Hasher {
        let mut hasher = self.row_digest.hasher();
        hasher.update(&[CELL_MARK]);
        hasher
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::SeededRandom;

    const REPOSITORY: RepositoryId = RepositoryId([3; 16]);

    fn root() -> RootSecret {
        RootSecret::draw(&SeededRandom::new(1))
    }

    #[test]
    fn purposes_repositories_and_epochs_never_share_a_key() {
        let mut seen = HashSet::new();
        for repository in [REPOSITORY, RepositoryId([4; 16])] {
            for epoch in [0, 1, 1 << 24] {
                let shared = root().shared(repository, epoch);
                for key in shared.to_bytes().chunks_exact(32) {
                    assert!(seen.insert(key.to_vec()));
                }
                assert!(seen.insert(root().reader(repository, epoch).expose().to_vec()));
            }
            let owner = root().derive(context::OWNER, repository, None);
            assert!(seen.insert(owner.to_vec()));
        }
        assert_eq!(seen.len(), 2 * (3 * 8 + 1));
    }

    #[test]
    fn derived_keys_are_those_of_format_version_1() {
        let root = RootSecret::from_bytes([7; 32]);
        let shared = root.shared(REPOSITORY, 1);
        let mut input = vec![7; 32];
        input.extend([3; 16]);
        input.extend([1, 0, 0, 0]);
        let expected = blake3::derive_key("rowvault v1 index", &input);
        assert_eq!(shared.index.expose(), &expected);
        assert_eq!(
            crate::id::hex(&shared.to_bytes()[..8]),
            crate::id::hex(&blake3::derive_key("rowvault v1 chunk name", &input)[..8])
        );
    }

    #[test]
    fn shared_keys_come_back_from_their_bytes() {
        let shared = root().shared(REPOSITORY, 1);
        assert!(SharedKeys::from_bytes(&shared.to_bytes()) == shared);
        assert!(root().shared(REPOSITORY, 2) != shared);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let shared = root().shared(REPOSITORY, 1);
        let mut pieces = shared.chunk_hasher(2);
        pieces.update(b"ab").update(b"c");
        assert_eq!(chunk_id(&pieces), shared.chunk_id(2, b"abc"));
        assert_ne!(shared.chunk_id(2, b"abc"), shared.chunk_id(3, b"abc"));
        let mut cell = shared.cell_hasher();
        cell.update(b"abc");
        assert_ne!(digest(&cell), shared.row_digest(b"abc"));
    }

    #[test]
    fn a_row_a_cell_a_key_and_a_value_of_the_same_bytes_have_different_hashes() {
        let shared = root().shared(REPOSITORY, 1);
        let bytes = b"\x00\x00\x00\x00x";
        let mut cell = shared.cell_hasher();
        cell.update(bytes);
        let hashes = HashSet::from([
            shared.row_digest(bytes).0,
            digest(&cell).0,
            shared.key_filter_hash(bytes),
            shared.value_filter_hash(0, bytes),
            shared.value_filter_hash(1, bytes),
            shared.value_filter_hash(0, b"x"),
        ]);
        assert_eq!(hashes.len(), 6);
    }

    #[test]
    fn check_value_tells_keys_apart_and_is_no_part_of_them() {
        let key = SymmetricKey::from_bytes([1; 32]);
        let other = SymmetricKey::from_bytes([2; 32]);
        assert_ne!(key.check_value(), other.check_value());
        assert!(key != other);
        assert!(!key.expose().starts_with(&key.check_value()));
    }
}
