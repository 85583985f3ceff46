//! Vectors of everything that holds a key, and the hostile corpus of the same objects.
//!
//! The files under tests/golden were written once and are read for ever: a change of a byte on
//! disk, of a derived key or of a message fails here. `write_golden_keys` makes them anew, for a
//! new format version only.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use rowvault::clock::Timestamp;
use rowvault::crypto::envelope::{SealedSession, open_session, seal_session};
use rowvault::crypto::key::{RootSecret, SymmetricKey};
use rowvault::crypto::keyslot::{
    PassphraseCost, PassphraseLock, SlotPlace, WrappedRoot, unwrap_passphrase, unwrap_secret,
    wrap_passphrase, wrap_secret,
};
use rowvault::crypto::sign;
use rowvault::failure::{Class, Failure};
use rowvault::format::keyring::{Keyring, Sources, Writer};
use rowvault::format::keyslot::text::{KeyFile, SlotKey, WriterKey};
use rowvault::format::keyslot::{self, KeySlot, Lock};
use rowvault::format::repository::{self, Repository};
use rowvault::id::{RepositoryId, SignerId, SlotId, hex};
use rowvault::random::SeededRandom;

const REPOSITORY: RepositoryId = RepositoryId([0x11; 16]);
const PASSPHRASE: &[u8] = "correct horse – battery".as_bytes();
const LABEL: &str = "golden";
const MADE: Timestamp = Timestamp(1_750_000_000_000_000);
const INFO: &[u8] = b"rowvault v1 pack";

fn root() -> RootSecret {
    RootSecret::from_bytes([0x22; 32])
}

fn secret() -> SymmetricKey {
    SymmetricKey::from_bytes([0x33; 32])
}

fn slot(name: &str) -> SlotId {
    name.parse().unwrap()
}

fn directory(which: &str) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    [root, "tests", "golden", which, "keys"].iter().collect()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(directory("v1").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn golden_text(name: &str) -> String {
    String::from_utf8(golden(name)).unwrap()
}

fn place(of: SlotId, lock_kind: u8) -> SlotPlace<'static> {
    SlotPlace {
        repository: REPOSITORY,
        slot: of,
        kind: lock_kind,
        created: MADE,
        label: LABEL,
    }
}

fn repository_bytes(features: &[&str]) -> Vec<u8> {
    let owner = root().owner(REPOSITORY);
    let repository = Repository {
        id: REPOSITORY,
        created: MADE,
        chunk_target_bytes: repository::CHUNK_TARGET_BYTES,
        owner: owner.id(),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
    };
    repository::write(&repository, |bytes| {
        owner.sign(repository::SIGNATURE_CONTEXT, bytes)
    })
    .unwrap()
}

fn read_repository(bytes: &[u8]) -> Result<Repository, rowvault::format::object::Error> {
    repository::read(bytes, |signer, signed, signature| {
        sign::verify(signer, repository::SIGNATURE_CONTEXT, signed, signature).is_ok()
    })
}

fn slot_bytes(name: &str, lock: Lock) -> Vec<u8> {
    let whole = KeySlot {
        repository: REPOSITORY,
        slot: slot(name),
        created: MADE,
        label: LABEL.into(),
        lock,
    };
    keyslot::write(&whole).unwrap()
}

fn passphrase_lock(random: &SeededRandom, name: &str) -> Lock {
    let cost = PassphraseCost {
        memory_kib: 64 << 10,
        passes: 1,
        lanes: 4,
    };
    let place = place(slot(name), 1);
    let lock = wrap_passphrase(&root(), &place, PASSPHRASE, cost, random).unwrap();
    Lock::Passphrase {
        memory_kib: lock.cost.memory_kib,
        passes: lock.cost.passes,
        lanes: lock.cost.lanes,
        salt: lock.salt,
        wrapped: lock.wrapped.0,
    }
}

/// The lock of a parsed passphrase slot as the crypto room takes it.
fn try_passphrase(
    slot: &KeySlot,
    passphrase: &[u8],
) -> Result<RootSecret, rowvault::crypto::Error> {
    let Lock::Passphrase {
        memory_kib,
        passes,
        lanes,
        salt,
        wrapped,
    } = slot.lock
    else {
        panic!("not a passphrase slot");
    };
    let lock = PassphraseLock {
        cost: PassphraseCost {
            memory_kib,
            passes,
            lanes,
        },
        salt,
        wrapped: WrappedRoot(wrapped),
    };
    let place = SlotPlace {
        repository: slot.repository,
        slot: slot.slot,
        kind: slot.lock.kind(),
        created: slot.created,
        label: &slot.label,
    };
    unwrap_passphrase(&lock, &place, passphrase)
}

fn slot_key() -> SlotKey {
    SlotKey {
        repository: REPOSITORY,
        slot: slot("kkkkkkkk"),
        secret: (*secret().expose()).into(),
    }
}

fn writer_key() -> WriterKey {
    WriterKey {
        repository: REPOSITORY,
        epoch: 1,
        shared: root().shared(REPOSITORY, 1).to_bytes(),
        reader: root().reader(REPOSITORY, 1).public().0,
        owner: root().owner(REPOSITORY).id(),
        seed: [0x44; 32].into(),
        name: "db-host".into(),
    }
}

fn keyring() -> Keyring {
    let mut keyring = Keyring::first(root().owner(REPOSITORY).id(), 1, MADE);
    let writer = Writer {
        name: "db-host".into(),
        signer: sign::SigningKey::from_seed(&[0x44; 32]).id(),
        enrolled: MADE,
        sources: Sources::Only(["crm".parse().unwrap()].into()),
        may_forget: false,
        counts: BTreeMap::new(),
        revoked: None,
    };
    keyring.enrol(writer).unwrap();
    keyring.revoke("db-host", &[("crm".parse().unwrap(), 41)].into(), MADE);
    keyring
}

fn derived() -> String {
    let shared = root().shared(REPOSITORY, 1).to_bytes();
    let names = [
        "chunk name",
        "cut",
        "row digest",
        "path",
        "index",
        "metadata",
        "state",
    ];
    let mut out = String::new();
    for (name, key) in names.iter().zip(shared.chunks_exact(32)) {
        out.push_str(&format!("{name}: {}\n", hex(key)));
    }
    let reader = root().reader(REPOSITORY, 1);
    let owner = root().owner(REPOSITORY);
    out.push_str(&format!("reader public: {}\n", hex(&reader.public().0)));
    out.push_str(&format!("owner public: {}\n", owner.id()));
    out.push_str(&format!("check of index: {}\n", {
        hex(&root().shared(REPOSITORY, 1).index.check_value())
    }));
    out.push_str(&format!(
        "signature: {}\n",
        hex(&owner.sign("index", b"golden"))
    ));
    let shared = root().shared(REPOSITORY, 1);
    out.push_str(&format!("chunk 1: {}\n", shared.chunk_id(1, b"golden")));
    out.push_str(&format!("row: {}\n", shared.row_digest(b"golden")));
    let crm = "crm".parse().unwrap();
    out.push_str(&format!("source crm: {}\n", shared.source_hash(&crm)));
    out
}

#[test]
fn golden_derived_keys_are_derived_still() {
    assert_eq!(derived(), golden_text("derived.txt"));
}

#[test]
fn golden_repository_is_read_and_written_the_same() {
    let bytes = golden("repository");
    let read = read_repository(&bytes).unwrap();
    assert_eq!(read.id, REPOSITORY);
    assert_eq!(repository_bytes(&[]), bytes);
}

#[test]
fn golden_session_opens() {
    let sealed = SealedSession(golden("session").try_into().unwrap());
    let opened = open_session(&root().reader(REPOSITORY, 1), &sealed, INFO);
    assert!(opened == Ok(secret()));
}

#[test]
fn golden_slots_open_to_the_root() {
    let read = |file: &str, name| {
        let bytes = golden(file);
        let read = keyslot::read(&bytes, REPOSITORY, slot(name)).unwrap();
        assert_eq!(keyslot::write(&read).unwrap(), bytes);
        read
    };
    let passphrase = read("slot-passphrase", "pppppppp");
    assert!(try_passphrase(&passphrase, PASSPHRASE) == Ok(root()));
    let wrong = try_passphrase(&passphrase, b"correct horse").err().unwrap();
    assert_eq!(wrong.to_string(), "wrong passphrase");
    assert_eq!(wrong.class().exit_code(), 6);
    for (file, name) in [("slot-key-file", "kkkkkkkk"), ("slot-recovery", "rrrrrrrr")] {
        let whole = read(file, name);
        let (Lock::KeyFile { wrapped } | Lock::Recovery { wrapped }) = whole.lock else {
            panic!("{file} is of another kind");
        };
        let place = place(slot(name), whole.lock.kind());
        assert!(unwrap_secret(&WrappedRoot(wrapped), &place, &secret()) == Ok(root()));
    }
}

#[cfg(feature = "age")]
#[test]
fn golden_slot_of_a_recipient_opens_to_the_root() {
    let whole = keyslot::read(&golden("slot-recipient"), REPOSITORY, slot("aaaaaaaa")).unwrap();
    let Lock::Recipient { file, .. } = whole.lock else {
        panic!("another kind of slot");
    };
    let Ok(KeyFile::AgeIdentity(identity)) = KeyFile::parse(&golden_text("identity.txt")) else {
        panic!("not an identity");
    };
    let opened = rowvault::recipient::unwrap(&identity, &file, REPOSITORY, slot("aaaaaaaa"));
    assert!(opened == Ok(root()));
}

#[test]
fn golden_key_files_are_read_and_written_the_same() {
    // The prose around the line may be said better some day; the line stays as it is.
    let writer = writer_key().text().unwrap();
    let writer = writer.lines().last().unwrap();
    assert!(golden_text("key-file.txt").contains(&*slot_key().line()));
    assert!(golden_text("recovery.txt").contains(&*slot_key().line()));
    assert!(golden_text("writer.txt").contains(writer));
    for file in ["key-file.txt", "recovery.txt"] {
        let Ok(KeyFile::Slot(key)) = KeyFile::parse(&golden_text(file)) else {
            panic!("{file} is of another kind");
        };
        assert!(SymmetricKey::from_bytes(*key.secret) == secret());
    }
    let Ok(KeyFile::Writer(key)) = KeyFile::parse(&golden_text("writer.txt")) else {
        panic!("not a writer's file");
    };
    assert_eq!(key.shared, root().shared(REPOSITORY, 1).to_bytes());
}

#[test]
fn golden_keyring_is_read_and_written_the_same() {
    let bytes = golden("keyring");
    assert_eq!(Keyring::read(&bytes, 1), Ok(keyring()));
    assert_eq!(keyring().write().unwrap(), bytes);
}

/// What a hostile file is refused with.
struct Refusal {
    class: Class,
    message: String,
}

fn refusal<T, E: Failure + Display>(result: Result<T, E>) -> Option<Refusal> {
    result.err().map(|error| Refusal {
        class: error.class(),
        message: error.to_string(),
    })
}

fn refuse(file: &str, bytes: &[u8]) -> Option<Refusal> {
    if file.starts_with("repository-") {
        refusal(read_repository(bytes))
    } else if file.starts_with("keyring-") {
        refusal(Keyring::read(bytes, 1))
    } else if file.starts_with("keyfile-") {
        refusal(KeyFile::parse(std::str::from_utf8(bytes).unwrap()).map(|_| ()))
    } else {
        match keyslot::read(bytes, REPOSITORY, slot("pppppppp")) {
            Ok(read) => refusal(try_passphrase(&read, PASSPHRASE)),
            Err(error) => refusal::<(), _>(Err(error)),
        }
    }
}

/// Every hostile file, with the class and a part of the message that it must be refused with.
const HOSTILE: [(&str, Class, &str); 17] = [
    (
        "repository-empty",
        Class::Corrupt,
        "this is no rowvault repository",
    ),
    ("repository-cut", Class::Corrupt, "ends after"),
    ("repository-newer", Class::Invalid, "format version 2"),
    ("repository-feature", Class::Invalid, "\"quantum\""),
    (
        "repository-other-owner",
        Class::Corrupt,
        "signature does not match",
    ),
    (
        "repository-garbage-after",
        Class::Corrupt,
        "1 bytes follow it",
    ),
    (
        "slot-64-gib",
        Class::Invalid,
        "memory in KiB is 67108864, the most is 1048576",
    ),
    (
        "slot-4-billion-passes",
        Class::Invalid,
        "passes is 4294967295, the most is 16",
    ),
    (
        "slot-1000-lanes",
        Class::Invalid,
        "lanes is 1000, the most is 16",
    ),
    ("slot-cheaper", Class::Denied, "wrong passphrase"),
    (
        "slot-label-changed",
        Class::Corrupt,
        "the key slot was altered",
    ),
    (
        "slot-swapped",
        Class::Corrupt,
        "wrong place: it says slot kkkkkkkk",
    ),
    (
        "slot-bit-flipped",
        Class::Corrupt,
        "checksum does not match",
    ),
    ("slot-newer", Class::Invalid, "format version 2"),
    ("keyring-cut", Class::Corrupt, "cannot be decoded"),
    (
        "keyring-four-billion-writers",
        Class::Corrupt,
        "cannot be decoded",
    ),
    (
        "keyfile-mistyped",
        Class::Invalid,
        "a character was mistyped",
    ),
];

#[test]
fn hostile_keys_are_refused_by_name() {
    let mut files: Vec<String> = fs::read_dir(directory("hostile"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut named: Vec<&str> = HOSTILE.iter().map(|(file, ..)| *file).collect();
    named.sort_unstable();
    assert_eq!(files, named);
    for (file, class, message) in HOSTILE {
        let bytes = fs::read(directory("hostile").join(file)).unwrap();
        let refused = refuse(file, &bytes).unwrap_or_else(|| panic!("{file} was taken"));
        assert_eq!(refused.class, class, "{file}: {}", refused.message);
        assert!(
            refused.message.contains(message),
            "{file}: {}",
            refused.message
        );
    }
}

#[cfg(feature = "age")]
#[test]
#[ignore = "makes the vectors of a new format version"]
fn write_golden_keys() {
    let random = SeededRandom::new(1);
    let put = |name: &str, bytes: &[u8]| fs::write(directory("v1").join(name), bytes).unwrap();
    put("derived.txt", derived().as_bytes());
    put("repository", &repository_bytes(&[]));
    let public = root().reader(REPOSITORY, 1).public();
    let session = seal_session(&public, &secret(), INFO, &random).unwrap();
    put("session", &session.0);
    let passphrase = passphrase_lock(&random, "pppppppp");
    put("slot-passphrase", &slot_bytes("pppppppp", passphrase));
    let wrapped = wrap_secret(&root(), &place(slot("kkkkkkkk"), 3), &secret(), &random).0;
    put(
        "slot-key-file",
        &slot_bytes("kkkkkkkk", Lock::KeyFile { wrapped }),
    );
    let wrapped = wrap_secret(&root(), &place(slot("rrrrrrrr"), 4), &secret(), &random).0;
    put(
        "slot-recovery",
        &slot_bytes("rrrrrrrr", Lock::Recovery { wrapped }),
    );
    put("key-file.txt", slot_key().text().as_bytes());
    let sheet = slot_key().recovery_sheet("s3://acme-backup/crm", MADE);
    put("recovery.txt", sheet.as_bytes());
    put("writer.txt", writer_key().text().unwrap().as_bytes());
    put("keyring", &keyring().write().unwrap());
    let identity = age::x25519::Identity::generate();
    let text = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    put(
        "identity.txt",
        format!("# for the tests only\n{text}\n").as_bytes(),
    );
    let recipient = identity.to_public().to_string();
    let file = rowvault::recipient::wrap(&recipient, &root(), REPOSITORY, slot("aaaaaaaa"));
    let file = file.unwrap();
    put(
        "slot-recipient",
        &slot_bytes("aaaaaaaa", Lock::Recipient { recipient, file }),
    );
    write_hostile(&random);
}

#[cfg(feature = "age")]
fn write_hostile(random: &SeededRandom) {
    let put = |name: &str, bytes: &[u8]| fs::write(directory("hostile").join(name), bytes).unwrap();
    let whole = repository_bytes(&[]);
    put("repository-empty", b"");
    put("repository-cut", &whole[..60]);
    let mut newer = whole.clone();
    newer[8] = 2;
    put("repository-newer", &newer);
    put("repository-feature", &repository_bytes(&["quantum"]));
    let mut other = whole.clone();
    other[37..69].copy_from_slice(&sign::SigningKey::from_seed(&[7; 32]).id().0);
    put("repository-other-owner", &other);
    put("repository-garbage-after", &[&whole[..], b"x"].concat());
    let lock = passphrase_lock(random, "pppppppp");
    let changed = |change: fn(&mut u32, &mut u32, &mut u32)| {
        let mut lock = lock.clone();
        if let Lock::Passphrase {
            memory_kib,
            passes,
            lanes,
            ..
        } = &mut lock
        {
            change(memory_kib, passes, lanes);
        }
        slot_bytes("pppppppp", lock)
    };
    put("slot-64-gib", &changed(|memory, _, _| *memory = 64 << 20));
    put(
        "slot-4-billion-passes",
        &changed(|_, passes, _| *passes = u32::MAX),
    );
    put("slot-1000-lanes", &changed(|_, _, lanes| *lanes = 1000));
    put(
        "slot-cheaper",
        &changed(|memory, _, lanes| (*memory, *lanes) = (8, 1)),
    );
    let mut renamed = KeySlot {
        repository: REPOSITORY,
        slot: slot("pppppppp"),
        created: MADE,
        label: "another".into(),
        lock: lock.clone(),
    };
    put("slot-label-changed", &keyslot::write(&renamed).unwrap());
    renamed.slot = slot("kkkkkkkk");
    put("slot-swapped", &keyslot::write(&renamed).unwrap());
    let whole = slot_bytes("pppppppp", lock.clone());
    let mut flipped = whole.clone();
    flipped[70] ^= 1;
    put("slot-bit-flipped", &flipped);
    let mut newer = whole;
    newer[4] = 2;
    put("slot-newer", &newer);
    let bytes = keyring().write().unwrap();
    put("keyring-cut", &bytes[..bytes.len() / 2]);
    let at = bytes
        .windows(8)
        .position(|name| name == b"\xa7writers")
        .unwrap()
        + 8;
    let mut many = bytes[..at].to_vec();
    many.extend([0xdd, 0xff, 0xff, 0xff, 0xff]);
    put("keyring-four-billion-writers", &many);
    let typed = slot_key()
        .line()
        .replacen('1', "l", 40)
        .replace("rowvault-key-l:", "rowvault-key-1:");
    put("keyfile-mistyped", typed.as_bytes());
}

#[test]
fn opened_root_shows_whose_repository_it_is() {
    let stranger = RootSecret::from_bytes([9; 32]).owner(REPOSITORY).id();
    let known: SignerId = read_repository(&golden("repository")).unwrap().owner;
    assert_eq!(root().owner(REPOSITORY).id(), known);
    assert_ne!(stranger, known);
}
