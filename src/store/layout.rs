//! The paths of a repository: one type for every name that may stand in a storage.
//!
//! Numbers are padded with zeros to 20 digits, so that a listing in the order of names is a
//! listing in the order of numbers. Invariant: `parse` takes exactly what `to_path` gives, so a
//! name that it refuses is foreign and was not written by this program. Drawn in docs/format.md.

use std::fmt;

use crate::id::{ObjectId, SourceHash, Ulid, hex, unhex};

const NUMBER_DIGITS: usize = 20;
const SLOT_LENGTH_MAX: usize = 64;

const SMALL_BYTES_MAX: u64 = 16 << 20;
const LARGE_BYTES_MAX: u64 = 256 << 20;

/// Where an object of a repository stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPath {
    /// What the repository is: version, id, required features.
    Repository,
    /// The root secret, wrapped in the slot of this name (`[a-z0-9._-]{1,64}`).
    Key(String),
    /// The writers, as the owner signed them for the n-th time.
    Keyring(u64),
    /// Sealed chunks.
    Pack(ObjectId),
    /// What packs hold.
    Index(ObjectId),
    /// What a snapshot consists of.
    Manifest(SourceHash, ObjectId),
    /// An entry of a source's ledger; with part of its hash where the storage does not honour
    /// conditional create, so that a fork shows and nothing is overwritten.
    Ledger(SourceHash, u64, Option<[u8; 16]>),
    /// A running backup.
    Intent(Ulid),
    /// The right of this name (`[a-z0-9._-]{1,64}`) to maintain.
    Lease(String),
    /// An object that a probe of the storage writes and takes away again.
    Probe(Ulid, String),
}

impl ObjectPath {
    /// The path below the repository's root, with `/` between its parts.
    pub fn to_path(&self) -> String {
        match self {
            ObjectPath::Repository => "repository".to_owned(),
            ObjectPath::Key(slot) => format!("keys/{slot}"),
            ObjectPath::Keyring(number) => format!("keyring/{number:020}"),
            ObjectPath::Pack(id) => format!("packs/{}/{id}", hex(&id.0[..1])),
            ObjectPath::Index(id) => format!("index/{id}"),
            ObjectPath::Manifest(source, id) => format!("manifests/{source}/{id}"),
            ObjectPath::Ledger(source, number, None) => format!("ledger/{source}/{number:020}"),
            ObjectPath::Ledger(source, number, Some(hash)) => {
                format!("ledger/{source}/{number:020}-{}", hex(hash))
            }
            ObjectPath::Intent(ulid) => format!("intents/{ulid}"),
            ObjectPath::Lease(name) => format!("leases/{name}"),
            ObjectPath::Probe(ulid, name) => format!("probe/{ulid}/{name}"),
        }
    }

    /// The object that stands at `path`; none for any path that `to_path` does not give.
    pub fn parse(path: &str) -> Option<ObjectPath> {
        let parts: Vec<&str> = path.split('/').collect();
        let object = match parts.as_slice() {
            ["repository"] => ObjectPath::Repository,
            ["keys", slot] => ObjectPath::Key(parse_slot(slot)?),
            ["keyring", number] => ObjectPath::Keyring(parse_number(number)?),
            ["packs", _, id] => ObjectPath::Pack(id.parse().ok()?),
            ["index", id] => ObjectPath::Index(id.parse().ok()?),
            ["manifests", source, id] => {
                ObjectPath::Manifest(source.parse().ok()?, id.parse().ok()?)
            }
            ["ledger", source, entry] => parse_ledger(source, entry)?,
            ["intents", ulid] => ObjectPath::Intent(ulid.parse().ok()?),
            ["leases", name] => ObjectPath::Lease(parse_slot(name)?),
            ["probe", ulid, name] => ObjectPath::Probe(ulid.parse().ok()?, parse_slot(name)?),
            _ => return None,
        };
        (object.to_path() == path).then_some(object)
    }

    /// Whether writing it twice is writing it once: its path names its bytes, or was drawn by the
    /// only one who writes it. What has a path that others may want too is created, not put.
    pub fn may_be_put(&self) -> bool {
        matches!(
            self,
            ObjectPath::Pack(_)
                | ObjectPath::Index(_)
                | ObjectPath::Manifest(..)
                | ObjectPath::Ledger(_, _, Some(_))
                | ObjectPath::Intent(_)
        )
    }

    /// False where the path names other bytes than these; true also where it names none.
    pub fn may_name(&self, bytes: &[u8]) -> bool {
        match self {
            ObjectPath::Pack(id) | ObjectPath::Index(id) | ObjectPath::Manifest(_, id) => {
                blake3::hash(bytes) == id.0
            }
            _ => true,
        }
    }

    /// The longest that an object of this kind may be; a longer one is refused unread.
    pub fn length_max(&self) -> u64 {
        match self {
            ObjectPath::Pack(_) | ObjectPath::Index(_) | ObjectPath::Manifest(..) => {
                LARGE_BYTES_MAX
            }
            _ => SMALL_BYTES_MAX,
        }
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_path())
    }
}

fn parse_slot(text: &str) -> Option<String> {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
    let dots = text.bytes().all(|c| c == b'.');
    let sized = (1..=SLOT_LENGTH_MAX).contains(&text.len());
    (sized && !dots && text.bytes().all(fits)).then(|| text.to_owned())
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = text.len() == NUMBER_DIGITS && text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn parse_ledger(source: &str, entry: &str) -> Option<ObjectPath> {
    let source = source.parse().ok()?;
    let (number, hash) = match entry.split_once('-') {
        None => (entry, None),
        Some((number, hash)) => (number, Some(unhex(hash)?.try_into().ok()?)),
    };
    Some(ObjectPath::Ledger(source, parse_number(number)?, hash))
}

/// What a listing covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// Everything under the repository's root.
    All,
    /// Key slots.
    Keys,
    /// Keyrings.
    Keyrings,
    /// All packs.
    Packs,
    /// The packs whose name begins with this byte.
    PacksOf(u8),
    /// Index objects.
    Indexes,
    /// The manifests of all sources.
    Manifests,
    /// The manifests of one source.
    ManifestsOf(SourceHash),
    /// The ledgers of all sources.
    Ledgers,
    /// The ledger of one source.
    Ledger(SourceHash),
    /// Running backups.
    Intents,
    /// Rights to maintain.
    Leases,
    /// What probes left behind.
    Probes,
}

impl Prefix {
    /// The folder below the repository's root, without a slash at its end; empty for everything.
    pub fn to_path(self) -> String {
        match self {
            Prefix::All => String::new(),
            Prefix::Keys => "keys".to_owned(),
            Prefix::Keyrings => "keyring".to_owned(),
            Prefix::Packs => "packs".to_owned(),
            Prefix::PacksOf(byte) => format!("packs/{}", hex(&[byte])),
            Prefix::Indexes => "index".to_owned(),
            Prefix::Manifests => "manifests".to_owned(),
            Prefix::ManifestsOf(source) => format!("manifests/{source}"),
            Prefix::Ledgers => "ledger".to_owned(),
            Prefix::Ledger(source) => format!("ledger/{source}"),
            Prefix::Intents => "intents".to_owned(),
            Prefix::Leases => "leases".to_owned(),
            Prefix::Probes => "probe".to_owned(),
        }
    }

    /// Whether `path`, as `ObjectPath::to_path` gives it, stands under this folder.
    pub fn covers(self, path: &str) -> bool {
        let folder = self.to_path();
        folder.is_empty()
            || path
                .strip_prefix(&folder)
                .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::All => f.write_str("all objects"),
            one => write!(f, "{}/", one.to_path()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::random::{Random, SeededRandom, draw};

    fn one_of_each(random: &dyn Random) -> Vec<ObjectPath> {
        let source = SourceHash(draw(random));
        let ulid = Ulid::draw(Timestamp::from_seconds(1_800_000_000), random);
        vec![
            ObjectPath::Repository,
            ObjectPath::Key("passphrase-1".into()),
            ObjectPath::Keyring(u64::from_le_bytes(draw(random))),
            ObjectPath::Pack(ObjectId(draw(random))),
            ObjectPath::Index(ObjectId(draw(random))),
            ObjectPath::Manifest(source, ObjectId(draw(random))),
            ObjectPath::Ledger(source, 0, None),
            ObjectPath::Ledger(source, u64::MAX, Some(draw(random))),
            ObjectPath::Intent(ulid),
            ObjectPath::Lease("maintain".into()),
            ObjectPath::Probe(ulid, "create".into()),
        ]
    }

    #[test]
    fn every_path_parses_back_to_itself() {
        let random = SeededRandom::new(1);
        for _ in 0..100 {
            for object in one_of_each(&random) {
                assert_eq!(ObjectPath::parse(&object.to_path()), Some(object));
            }
        }
    }

    #[test]
    fn a_path_changed_in_any_character_is_foreign_or_another_object() {
        for object in one_of_each(&SeededRandom::new(2)) {
            let path = object.to_path();
            for at in 0..path.len() {
                for c in ['/', '.', 'A', '0', '#', ' ', 'é'] {
                    let mut other = path.clone();
                    other.replace_range(at..=at, &c.to_string());
                    if let Some(found) = ObjectPath::parse(&other) {
                        assert_eq!(found.to_path(), other);
                        assert!(found != object || other == path);
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let id = "ab".repeat(32);
        for path in [
            "",
            "/",
            "/repository",
            "repository/",
            "keys/",
            "keys/..",
            "keys/.",
            "keys/a/b",
            "keys/A",
            "keyring/1",
            "keyring/+0000000000000000001",
            "keyring/99999999999999999999",
            &format!("packs/{id}"),
            &format!("packs/cd/{id}"),
            &format!("packs/ab/{}", id.to_uppercase()),
            &format!("index/{id}#1"),
            "intents/01arz3ndektsv4rrffq69g5fav",
            "intents/8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "leases/a b",
        ] {
            assert_eq!(ObjectPath::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn ledger_entries_sort_by_number() {
        let source = SourceHash([7; 16]);
        let numbers = [0, 1, 9, 10, 99, 1_000, u64::MAX];
        let paths: Vec<String> = numbers
            .iter()
            .map(|n| ObjectPath::Ledger(source, *n, None).to_path())
            .collect();
        assert!(paths.is_sorted());
    }

    #[test]
    fn a_prefix_covers_its_own_objects_and_no_neighbour() {
        assert!(Prefix::Ledgers.covers("ledger/00/1"));
        assert!(!Prefix::Ledgers.covers("ledgers/00"));
        assert!(!Prefix::Ledgers.covers("ledger"));
        assert!(Prefix::All.covers("anything"));
    }
}
