//! Opening a repository: by every kind of key, and by nothing else.
//!
//! Over a storage in memory that can be altered behind the client's back. Passphrases cost the
//! least that may be written, so that the tests stay fast.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use rowvault::clock::{ManualClock, Timestamp};
use rowvault::crypto::keyslot::PassphraseCost;
use rowvault::crypto::sign::SigningKey;
use rowvault::failure::{Class, Failure};
use rowvault::format::keyring::{Keyring, Sources};
use rowvault::format::keyslot::text::{KeyFile, SlotKey, WriterKey};
use rowvault::format::object::Kind;
use rowvault::format::repository;
use rowvault::random::SeededRandom;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::file::recovery_sheet;
use rowvault::repo::keys::slot::{self, Keeping};
use rowvault::repo::keys::writer::{self, Rights};
use rowvault::repo::keys::{Error, Opening, Unlock, check_keyring_seen, open, read_repository};
use rowvault::repo::vault::Vault;
use rowvault::state::State;
use rowvault::store::fault::FaultStore;
use rowvault::store::{ObjectPath, StoreOptions};
use secrecy::SecretString;

const COST: PassphraseCost = PassphraseCost {
    memory_kib: 64 << 10,
    passes: 1,
    lanes: 1,
};
const CHUNK: u32 = repository::CHUNK_TARGET_BYTES;

struct Rig {
    fault: FaultStore,
    opening: Opening,
    clock: Arc<ManualClock>,
}

fn rig(seed: u64) -> Rig {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000)));
    let random = Arc::new(SeededRandom::new(seed));
    let fault = FaultStore::new(clock.clone());
    let opening = Opening {
        store: fault.open(&StoreOptions::default(), random.clone()),
        clock: clock.clone(),
        random,
    };
    Rig {
        fault,
        opening,
        clock,
    }
}

impl Rig {
    /// A repository that a key file opens.
    async fn make(&self) -> (Vault, Keyring, SlotKey) {
        let mut draft = Draft::draw(&self.opening);
        let key = draft.add_key(Keeping::KeyFile, "first");
        let (vault, keyring) = create(self.opening.clone(), draft, CHUNK).await.unwrap();
        (vault, keyring, key)
    }

    async fn open(&self, unlock: &Unlock) -> Result<(Vault, Keyring), Error> {
        open(self.opening.clone(), unlock).await
    }

    async fn refused(&self, unlock: &Unlock) -> Error {
        match self.open(unlock).await {
            Ok(_) => panic!("it opened"),
            Err(error) => error,
        }
    }
}

fn by_file(key: &SlotKey) -> Unlock {
    Unlock::KeyFile(KeyFile::Slot(key.clone()))
}

fn by_writer(key: &WriterKey) -> Unlock {
    Unlock::KeyFile(KeyFile::Writer(Box::new(key.clone())))
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(SecretString::from(text))
}

fn rights() -> Rights {
    Rights {
        sources: Sources::All,
        may_forget: false,
    }
}

async fn enrolled(vault: &Vault, keyring: &Keyring, name: &str) -> (Keyring, WriterKey) {
    let key = writer::draw_key(vault, name).unwrap();
    let next = writer::enrol(vault, keyring, &key, rights()).await.unwrap();
    (next, key)
}

#[tokio::test]
async fn every_kind_of_key_opens_the_same_root() {
    let rig = rig(1);
    let identity = age::x25519::Identity::generate();
    let mut draft = Draft::draw(&rig.opening);
    let secret = SecretString::from("correct horse");
    draft.add_passphrase(&secret, COST, "").await.unwrap();
    let recipient = identity.to_public().to_string();
    draft.add_recipient(&recipient, "ops").await.unwrap();
    let file = draft.add_key(Keeping::KeyFile, "");
    let recovery = draft.add_key(Keeping::RecoverySheet, "");
    let (made, keyring) = create(rig.opening.clone(), draft, CHUNK).await.unwrap();
    assert!(keyring.is_active(&made.access.owner));
    let sheet = recovery_sheet(&recovery, &made.store, made.clock.now());
    let unlocks = [
        passphrase("correct horse"),
        by_file(&file),
        Unlock::KeyFile(KeyFile::parse(&sheet).unwrap()),
        Unlock::KeyFile(KeyFile::parse(identity.to_string().expose_secret()).unwrap()),
    ];
    for unlock in &unlocks {
        let (vault, found) = rig.open(unlock).await.unwrap();
        assert!(vault.access.root == made.access.root && vault.access.may_read());
        assert_eq!(found, keyring);
        assert_eq!(vault.realm.repository, made.realm.repository);
        assert_eq!(vault.chunk_target_bytes, CHUNK);
    }
}

#[tokio::test]
async fn passphrases_that_do_not_fit_are_refused_by_class() {
    let rig = rig(2);
    let longest = "ä".repeat(1 << 19);
    let mut draft = Draft::draw(&rig.opening);
    let secret = SecretString::from(longest.clone());
    draft.add_passphrase(&secret, COST, "").await.unwrap();
    create(rig.opening.clone(), draft, CHUNK).await.unwrap();
    rig.open(&passphrase(&longest)).await.unwrap();
    let wrong = rig.refused(&passphrase("canary")).await;
    assert!(matches!(wrong, Error::WrongPassphrase { .. }));
    assert_eq!(
        (wrong.class(), wrong.class().exit_code()),
        (Class::Denied, 6)
    );
    assert_eq!(wrong.to_string(), "wrong passphrase");
    let empty = rig.refused(&passphrase("")).await;
    assert_eq!(empty.class(), Class::Invalid);
    let longer = rig.refused(&passphrase(&format!("{longest}x"))).await;
    assert_eq!(longer.class(), Class::Invalid);
    // A second passphrase is tried too; a damaged slot is named and does not hide a wrong one.
    let (vault, _) = rig.open(&passphrase(&longest)).await.unwrap();
    let second = SecretString::from("second");
    let second = slot::add_passphrase(&vault, &second, COST, "")
        .await
        .unwrap();
    rig.open(&passphrase("second")).await.unwrap();
    let path = ObjectPath::Key(second.to_string()).to_path();
    let mut bytes = rig.fault.objects()[&path].to_vec();
    bytes[40] ^= 1;
    rig.fault.plant(&path, bytes);
    let wrong = rig.refused(&passphrase("second")).await;
    assert_eq!(wrong.class(), Class::Denied);
    assert!(wrong.to_string().contains(&second.to_string()), "{wrong}");
}

#[tokio::test]
async fn what_is_no_repository_is_told_from_what_is_newer() {
    let rig = rig(3);
    let missing = rig.refused(&passphrase("x")).await;
    assert_eq!(missing.class(), Class::Missing);
    assert!(missing.to_string().contains("no repository at fault:"));
    assert!(missing.hint().unwrap().contains("rowvault init"));
    let (_, _, key) = rig.make().await;
    let bytes = rig.fault.objects()["repository"].to_vec();
    let mut newer = bytes.clone();
    newer[8] = 2;
    rig.fault.plant("repository", newer);
    let newer = rig.refused(&by_file(&key)).await;
    assert_eq!(newer.class(), Class::Invalid);
    assert!(newer.hint().unwrap().contains("newer rowvault"));
    rig.fault
        .plant("repository", &b"some other program's file"[..]);
    let foreign = rig.refused(&by_file(&key)).await;
    assert_eq!(foreign.class(), Class::Corrupt);
    rig.fault.lose("repository");
    let unfinished = rig.refused(&by_file(&key)).await;
    assert!(matches!(unfinished, Error::Unfinished { .. }));
}

#[tokio::test]
async fn anothers_repository_in_its_place_is_refused() {
    let (ours, theirs) = (rig(4), rig(5));
    let (vault, keyring, key) = ours.make().await;
    let (_, writer) = enrolled(&vault, &keyring, "host-a").await;
    let (_, _, their_key) = theirs.make().await;
    let elsewhere = ours.refused(&by_file(&their_key)).await;
    assert!(matches!(elsewhere, Error::KeyFileElsewhere { .. }));
    assert_eq!(elsewhere.class(), Class::Denied);
    // Another owner who gave his repository our number.
    let mut forged = read_repository(&ours.opening.store).await.unwrap();
    let owner = SigningKey::draw(&SeededRandom::new(9));
    forged.owner = owner.id();
    let sign = |signed: &[u8]| owner.sign(repository::SIGNATURE_CONTEXT, signed);
    let bytes = repository::write(&forged, sign).unwrap();
    ours.fault.plant("repository", bytes);
    let refused = ours.refused(&by_file(&key)).await;
    assert!(matches!(refused, Error::AnothersRepository { .. }));
    assert_eq!(refused.class(), Class::Corrupt);
    let refused = ours.refused(&by_writer(&writer)).await;
    assert!(matches!(refused, Error::WriterOfAnotherOwner { .. }));
    assert_eq!(refused.class(), Class::Corrupt);
    // The other one's whole object.
    let object = theirs.fault.objects()["repository"].clone();
    ours.fault.plant("repository", object);
    let refused = ours.refused(&passphrase("ours")).await;
    assert!(matches!(refused, Error::StrangeSlots { .. }), "{refused:?}");
}

#[tokio::test]
async fn every_altered_byte_and_every_cut_are_refused() {
    let rig = rig(6);
    let (vault, keyring, key) = rig.make().await;
    enrolled(&vault, &keyring, "host-a").await;
    let mut tried = 0;
    for (path, bytes) in rig.fault.objects() {
        for at in 0..bytes.len() {
            let mut altered = bytes.to_vec();
            altered[at] ^= 1 << (at % 8);
            rig.fault.plant(&path, altered);
            rig.refused(&by_file(&key)).await;
            rig.fault.plant(&path, bytes.slice(..at));
            rig.refused(&by_file(&key)).await;
            tried += 2;
        }
        rig.fault.plant(&path, bytes);
    }
    rig.open(&by_file(&key)).await.unwrap();
    println!("{tried} altered or cut objects, all refused");
    assert!(tried > 1000);
}

#[tokio::test]
async fn writer_opens_and_may_neither_read_nor_change_keys() {
    let rig = rig(7);
    let (owner, keyring, _) = rig.make().await;
    let (next, key) = enrolled(&owner, &keyring, "host-a").await;
    let text = key.text().unwrap();
    let unlock = Unlock::KeyFile(KeyFile::parse(&text).unwrap());
    let (vault, found) = rig.open(&unlock).await.unwrap();
    assert_eq!(found, next);
    assert!(!vault.access.may_read() && vault.access.root.is_none());
    assert!(vault.access.shared == owner.access.shared);
    assert_eq!(vault.access.reader_public, owner.access.reader_public);
    assert_eq!(next.name_of(&vault.access.signer.id()), Some("host-a"));
    let secret = SecretString::from("mine");
    let own = slot::draw_key(vault.realm.repository, vault.random.as_ref());
    let refusals = [
        slot::add_passphrase(&vault, &secret, COST, "").await.err(),
        slot::add_recipient(&vault, "age1x", "").await.err(),
        slot::add_key(&vault, &own, Keeping::KeyFile, "")
            .await
            .err(),
        slot::remove(&vault, &own.slot.to_string()).await.err(),
        writer::draw_key(&vault, "other").err(),
        writer::enrol(&vault, &next, &key, rights()).await.err(),
        writer::revoke(&vault, &next, "host-a", &BTreeMap::new())
            .await
            .err(),
    ];
    let before = rig.fault.objects();
    for refusal in refusals {
        assert_eq!(refusal.unwrap().class().exit_code(), 6);
    }
    assert_eq!(rig.fault.objects(), before);
}

#[tokio::test]
async fn revoked_and_unknown_writers_are_refused() {
    let rig = rig(8);
    let (owner, keyring, file) = rig.make().await;
    let stranger = writer::draw_key(&owner, "stranger").unwrap();
    let refused = rig.refused(&by_writer(&stranger)).await;
    assert!(matches!(refused, Error::NotEnrolled { .. }));
    assert_eq!(refused.class(), Class::Denied);
    let (keyring, a) = enrolled(&owner, &keyring, "host-a").await;
    let (keyring, b) = enrolled(&owner, &keyring, "host-b").await;
    rig.clock.advance(Duration::from_secs(60));
    let heads = BTreeMap::from([("crm".parse().unwrap(), 7)]);
    let keyring = writer::revoke(&owner, &keyring, "host-a", &heads)
        .await
        .unwrap();
    let refused = rig.refused(&by_writer(&a)).await;
    assert!(matches!(refused, Error::Revoked { .. }), "{refused:?}");
    assert_eq!(refused.class().exit_code(), 6);
    assert!(
        refused.to_string().contains("2027-01-15T08:01:00Z"),
        "{refused}"
    );
    rig.open(&by_writer(&b)).await.unwrap();
    let (_, found) = rig.open(&by_file(&file)).await.unwrap();
    assert_eq!(found, keyring);
    let crm = "crm".parse().unwrap();
    assert!(found.may_write(&writer::signer_of(&a), &crm, 7));
    assert!(!found.may_write(&writer::signer_of(&a), &crm, 8));
    let again = writer::revoke(&owner, &keyring, "host-a", &heads).await;
    assert!(matches!(again, Err(Error::Revoked { .. })));
    let nobody = writer::revoke(&owner, &keyring, "nobody", &heads).await;
    assert!(matches!(nobody, Err(Error::NotEnrolled { .. })));
    let taken = writer::draw_key(&owner, "host-a").unwrap();
    let taken = writer::enrol(&owner, &keyring, &taken, rights()).await;
    assert!(matches!(taken, Err(Error::WriterTaken { .. })));
}

#[tokio::test]
async fn keyring_rolled_back_is_refused_where_a_later_one_was_seen() {
    let rig = rig(9);
    let root = tempfile::tempdir().unwrap();
    let (owner, none, file) = rig.make().await;
    let state = State::open(root.path(), &owner.realm.repository).unwrap();
    check_keyring_seen(&owner, &state, &none).unwrap();
    let (first, writer_key) = enrolled(&owner, &none, "host-a").await;
    let early = rig.fault.snapshot();
    let (second, _) = enrolled(&owner, &first, "host-b").await;
    check_keyring_seen(&owner, &state, &second).unwrap();
    check_keyring_seen(&owner, &state, &second).unwrap();
    rig.fault.roll_back(&early);
    let (vault, found) = rig.open(&by_file(&file)).await.unwrap();
    assert_eq!(found, first);
    let refused = check_keyring_seen(&vault, &state, &found).unwrap_err();
    assert!(matches!(
        refused,
        Error::KeyringRolledBack {
            found: 1,
            seen: 2,
            ..
        }
    ));
    assert_eq!(refused.class(), Class::Corrupt);
    // Another keyring of the same number is none that we saw; a writer's client sees that too.
    rig.clock.advance(Duration::from_secs(1));
    let (fork, _) = enrolled(&owner, &first, "host-c").await;
    let (vault, _) = rig.open(&by_writer(&writer_key)).await.unwrap();
    let refused = check_keyring_seen(&vault, &state, &fork).unwrap_err();
    assert!(matches!(
        refused,
        Error::KeyringRolledBack {
            found: 2,
            seen: 2,
            ..
        }
    ));
    for number in [1, 2] {
        rig.fault.lose(&ObjectPath::Keyring(number).to_path());
    }
    let (vault, found) = rig.open(&by_file(&file)).await.unwrap();
    assert!(check_keyring_seen(&vault, &state, &found).is_err());
    std::fs::write(state.path("keyring"), b"scribble").unwrap();
    let refused = check_keyring_seen(&owner, &state, &second).unwrap_err();
    assert!(matches!(refused, Error::KeyringMemory { .. }));
}

#[tokio::test]
async fn keyring_by_a_writer_or_with_a_gap_is_refused() {
    let rig = rig(10);
    let (owner, keyring, file) = rig.make().await;
    let (first, key) = enrolled(&owner, &keyring, "host-a").await;
    let clean = rig.fault.snapshot();
    let (vault, _) = rig.open(&by_writer(&key)).await.unwrap();
    let path = ObjectPath::Keyring(2).to_path();
    let stored = rig.fault.objects()[&ObjectPath::Keyring(1).to_path()].clone();
    let hash = rowvault::repo::vault::object_id(&stored);
    let mut forged = first.next(hash, vault.clock.now());
    forged.writers[0].may_forget = true;
    let sealed = vault.seal(Kind::Keyring, &path, &forged.write().unwrap());
    rig.fault.plant(&path, sealed);
    let refused = rig.refused(&by_file(&file)).await;
    assert_eq!(refused.class(), Class::Corrupt);
    assert!(
        refused.to_string().contains("may not write it"),
        "{refused}"
    );
    rig.fault.roll_back(&clean);
    let (second, _) = enrolled(&owner, &first, "host-b").await;
    enrolled(&owner, &second, "host-c").await;
    rig.fault.lose(&path);
    let refused = rig.refused(&by_file(&file)).await;
    assert!(matches!(refused, Error::KeyringBroken { number: 2 }));
}

#[tokio::test]
async fn of_two_who_change_the_keyring_one_is_told_to_do_it_again() {
    let rig = rig(11);
    let (owner, keyring, _) = rig.make().await;
    let (next, _) = enrolled(&owner, &keyring, "first").await;
    enrolled(&owner, &next, "second").await;
    for known in [keyring, next] {
        let key = writer::draw_key(&owner, "loser").unwrap();
        let lost = writer::enrol(&owner, &known, &key, rights()).await;
        let lost = lost.unwrap_err();
        assert!(matches!(lost, Error::KeyringRace { .. }), "{lost:?}");
        assert_eq!(lost.class(), Class::Conflict);
    }
}

#[tokio::test]
async fn slots_come_and_go_and_the_last_one_stays() {
    let rig = rig(12);
    let (vault, _, first) = rig.make().await;
    let name = |key: &SlotKey| key.slot.to_string();
    let last = slot::remove(&vault, &name(&first)).await.unwrap_err();
    assert!(matches!(last, Error::LastSlot { .. }));
    assert_eq!(last.class(), Class::Conflict);
    let second = slot::draw_key(vault.realm.repository, vault.random.as_ref());
    slot::add_key(&vault, &second, Keeping::RecoverySheet, "safe")
        .await
        .unwrap();
    rig.open(&by_file(&second)).await.unwrap();
    slot::remove(&vault, &name(&first)).await.unwrap();
    let gone = rig.refused(&by_file(&first)).await;
    assert!(matches!(gone, Error::NoSlot { .. }));
    let unknown = slot::remove(&vault, &name(&first)).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownSlot { .. }));
    // A whole slot of another repository and a damaged one open nothing, and may go.
    let other = self::rig(13);
    let (_, _, strange) = other.make().await;
    let path = format!("keys/{}", strange.slot);
    rig.fault.plant(&path, other.fault.objects()[&path].clone());
    rig.fault.plant("keys/damaged", &b"RWVK"[..]);
    let slots = slot::read_all(&vault.store, vault.realm.repository)
        .await
        .unwrap();
    assert_eq!(
        (slots.whole.len(), slots.damaged.len(), slots.strange.len()),
        (1, 1, 1)
    );
    assert!(slot::remove(&vault, &name(&second)).await.is_err());
    slot::remove(&vault, &name(&strange)).await.unwrap();
    slot::remove(&vault, "damaged").await.unwrap();
    rig.open(&by_file(&second)).await.unwrap();
}

#[tokio::test]
async fn storage_holds_neither_passphrase_nor_secret() {
    let rig = rig(14);
    let (vault, keyring, key) = rig.make().await;
    let secret = SecretString::from("canary-passphrase-0123");
    slot::add_passphrase(&vault, &secret, COST, "")
        .await
        .unwrap();
    let (_, writer) = enrolled(&vault, &keyring, "host-a").await;
    let root = vault.access.root.as_ref().unwrap();
    let secrets: [&[u8]; 5] = [
        b"canary-passphrase-0123",
        root.expose(),
        &*key.secret,
        &*writer.seed,
        &writer.shared[..32],
    ];
    let holds = |bytes: &[u8], secret: &[u8]| bytes.windows(secret.len()).any(|w| w == secret);
    for (path, bytes) in rig.fault.objects() {
        for secret in secrets {
            assert!(!holds(&bytes, secret), "{path}");
        }
    }
}
