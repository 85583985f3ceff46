//! Making a repository: with every kind of key, in every place, cut short at every operation.
//!
//! Key files make the repositories that are cut short, since a passphrase would only add its cost.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rowvault::clock::{Clock, ManualClock, SystemClock, Timestamp};
use rowvault::config::secret;
use rowvault::crypto::keyslot::PassphraseCost;
use rowvault::failure::{AnyFailure, Class, Failure};
use rowvault::format::keyring::Sources;
use rowvault::format::repository::CHUNK_TARGET_BYTES;
use rowvault::job::init::{First, Outcome, Request, init};
use rowvault::job::keys::{self, Addition};
use rowvault::random::{Random, SeededRandom, SystemRandom};
use rowvault::repo::keys::file::read_key_file;
use rowvault::repo::keys::writer::Rights;
use rowvault::repo::keys::{Error, Opening, Unlock, open};
use rowvault::repo::verdict;
use rowvault::state::State;
use rowvault::store::fault::{Conditions, Fault, FaultStore, Rule, Stop, When};
use rowvault::store::probe::Conditional;
use rowvault::store::{Root, Store, StoreOptions};
use secrecy::SecretString;

struct Rig {
    fault: FaultStore,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
    files: tempfile::TempDir,
}

fn rig(seed: u64) -> Rig {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000)));
    Rig {
        fault: FaultStore::new(clock.clone()),
        clock,
        random: Arc::new(SeededRandom::new(seed)),
        files: tempfile::tempdir().unwrap(),
    }
}

impl Rig {
    fn opening(&self) -> Opening {
        let random: Arc<dyn Random> = self.random.clone();
        Opening {
            store: self.fault.open(&StoreOptions::default(), random.clone()),
            clock: self.clock.clone(),
            random,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn request(&self, who: &str) -> Request {
        Request {
            first: First::KeyFile(self.path(&format!("{who}.key"))),
            chunk_target_bytes: CHUNK_TARGET_BYTES,
            recovery_out: Some(self.path(&format!("{who}.sheet"))),
        }
    }

    async fn init(&self, who: &str) -> Result<Outcome, AnyFailure> {
        init(self.opening(), &self.path("state"), self.request(who)).await
    }

    /// Opens by the file of this name, and says which repository it was.
    async fn opens(&self, name: &str) -> String {
        let unlock = Unlock::KeyFile(read_key_file(&self.path(name)).unwrap());
        let (vault, _) = open(self.opening(), &unlock).await.unwrap();
        vault.realm.repository.to_string()
    }
}

fn local(path: &Path, root: Root) -> Opening {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let options = StoreOptions {
        root,
        ..StoreOptions::default()
    };
    let url = path.to_str().unwrap();
    Opening {
        store: Store::open(url, &options, clock.clone(), random.clone()).unwrap(),
        clock,
        random,
    }
}

#[tokio::test]
async fn directory_becomes_a_repository_that_its_printed_sheet_opens() {
    let place = tempfile::tempdir().unwrap();
    let (root, state) = (place.path().join("repo"), place.path().join("state"));
    let cost = PassphraseCost {
        memory_kib: 64 << 10,
        passes: 1,
        lanes: 1,
    };
    let request = || Request {
        first: First::Passphrase(SecretString::from("correct horse"), cost),
        chunk_target_bytes: CHUNK_TARGET_BYTES,
        recovery_out: None,
    };
    let made = init(local(&root, Root::Create), &state, request())
        .await
        .unwrap();
    let verdict = made.verdict.unwrap();
    assert_eq!(verdict.conditional_create, Conditional::Honoured);
    let sheet = made.recovery_sheet.unwrap();
    assert!(sheet.contains(root.to_str().unwrap()));
    let typed = place.path().join("recovery.txt");
    fs::write(&typed, &*sheet).unwrap();
    let refused = read_key_file(&typed).err().unwrap();
    assert!(matches!(refused, Error::FileOpen { .. }), "{refused:?}");
    fs::set_permissions(&typed, fs::Permissions::from_mode(0o600)).unwrap();
    let unlock = Unlock::KeyFile(read_key_file(&typed).unwrap());
    let (vault, _) = open(local(&root, Root::MustExist), &unlock).await.unwrap();
    assert_eq!(vault.realm.repository, made.repository);
    let kept = State::open(&state, &made.repository).unwrap();
    assert_eq!(verdict::kept(&vault, &kept).unwrap(), Some(verdict));
    let unlock = Unlock::Passphrase(SecretString::from("correct horse"));
    open(local(&root, Root::MustExist), &unlock).await.unwrap();
    let again = init(local(&root, Root::Create), &state, request()).await;
    let again = again.err().unwrap();
    assert_eq!(again.class(), Class::Conflict);
    assert!(again.to_string().contains(&made.repository.to_string()));
}

#[tokio::test]
async fn place_that_is_not_empty_is_left_as_it_was() {
    for (path, named) in [
        ("holiday.jpg", "holiday.jpg"),
        (
            "packs/ab/abababababababababababababababababababababababababababababababab",
            "packs/ab/",
        ),
        ("keyring/00000000000000000001", "keyring/"),
        ("sub/repository", "sub/repository"),
    ] {
        let rig = rig(1);
        rig.fault.plant(path, &b"content"[..]);
        rig.fault.plant("keys/abcdefgh", &b"RWVK"[..]);
        let before = rig.fault.objects();
        let refused = rig.init("a").await.err().unwrap();
        assert_eq!(refused.class(), Class::Conflict, "{path}");
        assert!(refused.to_string().contains(named), "{refused}");
        assert_eq!(rig.fault.objects(), before);
        assert!(!rig.path("a.key").exists() && !rig.path("a.key.part").exists());
    }
}

#[tokio::test]
async fn key_file_that_exists_is_never_overwritten() {
    let rig = rig(2);
    fs::write(rig.path("a.sheet"), "mine").unwrap();
    let refused = rig.init("a").await.err().unwrap();
    assert_eq!(refused.class(), Class::Conflict);
    assert_eq!(fs::read_to_string(rig.path("a.sheet")).unwrap(), "mine");
    assert!(rig.fault.objects().is_empty());
    assert!(!rig.path("a.key").exists() && !rig.path("a.key.part").exists());
    fs::remove_file(rig.path("a.sheet")).unwrap();
    rig.init("a").await.unwrap();
    for name in ["a.key", "a.sheet"] {
        let mode = fs::metadata(rig.path(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        rig.opens(name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn init_cut_short_at_any_operation_is_brought_to_its_end_by_the_next() {
    let whole = rig(3);
    whole.init("a").await.unwrap();
    let operations = whole.fault.count();
    let (mut runs, mut unsettled) = (0, 0);
    for number in 1..=operations {
        for how in [Stop::Before, Stop::AfterEffect, Stop::Torn] {
            let rig = rig(3);
            rig.fault.stop_at(number, how);
            let first = rig.init("a").await;
            rig.fault.heal();
            if let Ok(first) = &first {
                assert_eq!(rig.opens("a.key").await, first.repository.to_string());
                continue;
            }
            unsettled += u32::from(rig.path("a.key.part").exists());
            let second = rig.init("a").await;
            let made = second.unwrap_or_else(|error| panic!("{number} {how:?}: {error:?}"));
            let id = made.repository.to_string();
            assert_eq!(rig.opens("a.key").await, id, "{number} {how:?}");
            assert_eq!(rig.opens("a.sheet").await, id, "{number} {how:?}");
            let objects = rig.fault.objects();
            let slots = objects.keys().filter(|path| path.starts_with("keys/"));
            assert_eq!(slots.count(), 2, "{number} {how:?}");
            assert!(!rig.path("a.key.part").exists());
            runs += 1;
        }
    }
    println!("{operations} operations, {runs} runs cut short, {unsettled} of them unsettled");
    assert!(runs >= 2 * operations && unsettled > 0);
}

#[tokio::test(start_paused = true)]
async fn of_two_inits_at_once_one_makes_a_whole_repository() {
    for seed in 0..50 {
        let rig = rig(seed);
        rig.fault.add(Rule::any(
            When::First(1),
            Fault::Delay(Duration::from_millis(seed)),
        ));
        let delays = [1, 2, 3, 5, 8].map(|ms| Fault::Delay(Duration::from_millis(ms)));
        rig.fault.seed(seed, 900, delays.to_vec());
        let (a, b) = tokio::join!(rig.init("a"), rig.init("b"));
        rig.fault.heal();
        let (winner, made, lost) = match (a, b) {
            (Ok(made), Err(lost)) => ("a", made, lost),
            (Err(lost), Ok(made)) => ("b", made, lost),
            (a, b) => panic!("{seed}: {:?} {:?}", a.err(), b.err()),
        };
        assert_eq!(lost.class(), Class::Conflict, "{seed}: {lost:?}");
        let id = made.repository.to_string();
        assert_eq!(rig.opens(&format!("{winner}.key")).await, id);
        assert_eq!(rig.opens(&format!("{winner}.sheet")).await, id);
    }
}

#[tokio::test(start_paused = true)]
async fn storages_without_conditions_carry_a_repository_too() {
    for conditions in [Conditions::Refused, Conditions::Ignored] {
        let rig = rig(4);
        rig.fault.set_conditions(conditions);
        let made = rig.init("a").await.unwrap();
        assert!(!made.verdict.unwrap().several_writers());
        assert_eq!(rig.opens("a.key").await, made.repository.to_string());
        assert_eq!(rig.init("b").await.err().unwrap().class(), Class::Conflict);
        rig.opens("a.sheet").await;
    }
}

#[tokio::test(start_paused = true)]
async fn key_change_cut_short_at_any_operation_is_brought_to_its_end_by_the_next() {
    let rig = rig(5);
    rig.init("a").await.unwrap();
    let made = rig.fault.snapshot();
    let (mut number, mut unfinished) = (0, true);
    let rights = || Rights {
        sources: Sources::All,
        may_forget: false,
    };
    let unlock = Unlock::KeyFile(read_key_file(&rig.path("a.key")).unwrap());
    while unfinished {
        number += 1;
        unfinished = false;
        for how in [Stop::Before, Stop::AfterEffect] {
            rig.fault.roll_back(&made);
            let (vault, keyring) = open(rig.opening(), &unlock).await.unwrap();
            let state_root = rig.path(&format!("state-{number}-{how:?}"));
            let state = State::open(&state_root, &vault.realm.repository).unwrap();
            let (slot, writer) = (rig.path("b.key"), rig.path("w.key"));
            let change = async |keyring| {
                keys::add(&vault, &Addition::KeyFile(slot.clone()), "").await?;
                keys::writer(&vault, &state, keyring, ("host", rights()), &writer).await
            };
            rig.fault.stop_at(rig.fault.count() + number, how);
            let cut = change(&keyring).await.is_err();
            rig.fault.heal();
            unfinished |= cut;
            if cut {
                let (_, keyring) = open(rig.opening(), &unlock).await.unwrap();
                // What was made before the cut stands, under its name, and is not made again.
                if !slot.exists() {
                    change(&keyring).await.unwrap();
                } else {
                    let named = ("host", rights());
                    keys::writer(&vault, &state, &keyring, named, &writer)
                        .await
                        .unwrap();
                }
            }
            rig.opens("b.key").await;
            rig.opens("w.key").await;
            let (_, keyring) = open(rig.opening(), &unlock).await.unwrap();
            assert_eq!(keyring.writers.len(), 1, "{number} {how:?}");
            let listed = keys::list(&vault, &keyring).await.unwrap();
            assert_eq!(listed.slots.len(), 3, "{number} {how:?}");
            fs::remove_file(&slot).unwrap();
            fs::remove_file(&writer).unwrap();
        }
    }
    println!(
        "cut short at {} operations, before and after their effect",
        number - 1
    );
    assert!(number > 4);
}

#[test]
fn passphrase_file_gives_its_line_and_refuses_others_eyes() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("passphrase");
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let read = || {
        use secrecy::ExposeSecret;
        secret::read("passphrase", &path).map(|secret| secret.expose_secret().to_owned())
    };
    for (text, expected) in [
        ("a b ", "a b "),
        ("x\n", "x"),
        ("x\r\n", "x"),
        ("x\n\n", "x\n"),
    ] {
        write(text.as_bytes());
        assert_eq!(read().unwrap(), expected);
    }
    write(b"");
    assert_eq!(read().unwrap_err().class(), Class::Invalid);
    write(&vec![b'x'; (1 << 20) + 3]);
    assert_eq!(read().unwrap_err().class(), Class::Invalid);
    write(&[0xff, 0xfe]);
    assert_eq!(read().unwrap_err().class(), Class::Invalid);
    write(b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = read().unwrap_err();
    assert!(refused.hint().unwrap().contains("chmod 600"));
    fs::remove_file(&path).unwrap();
    assert_eq!(read().unwrap_err().class(), Class::Invalid);
}
