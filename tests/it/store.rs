//! The store contract: one suite over `Store` that every storage passes.
//!
//! Run against memory, a directory, the fault store without faults, and a real S3 server where one
//! was given (`moto`). What differs between storages is said in docs/storage.md, not excused here.

use std::sync::Arc;

use bytes::Bytes;
use rowvault::clock::SystemClock;
use rowvault::failure::{Class, Failure};
use rowvault::id::{ObjectId, SourceHash, Ulid};
use rowvault::random::{Random, SystemRandom, draw};
use rowvault::store::fault::FaultStore;
use rowvault::store::probe::{Conditional, probe};
use rowvault::store::{Created, Error, ObjectPath, Prefix, Replaced, Root, Store, StoreOptions};

fn options() -> StoreOptions {
    StoreOptions {
        root: Root::Create,
        ..StoreOptions::default()
    }
}

/// A store at `url` with the machine's clock and randomness.
pub fn open(url: &str, options: &StoreOptions) -> Result<Store, Error> {
    let clock = Arc::new(SystemClock::new());
    Store::open(url, options, clock, Arc::new(SystemRandom))
}

fn pack(random: &dyn Random, length: usize) -> (ObjectPath, Bytes) {
    let mut body = vec![0; length];
    random.fill(&mut body);
    let name = ObjectId(*blake3::hash(&body).as_bytes());
    (ObjectPath::Pack(name), body.into())
}

/// What every storage must do.
pub async fn contract(store: &Store) {
    let random = SystemRandom;
    reads_and_writes(store, &random).await;
    ranges(store, &random).await;
    creates(store, &random).await;
    races(store, &random).await;
    replaces(store, &random).await;
    lists(store, &random).await;
    probes(store).await;
}

async fn reads_and_writes(store: &Store, random: &dyn Random) {
    let (path, body) = pack(random, 300_000);
    assert!(store.get(&path).await.unwrap_err().is_missing());
    assert!(store.head(&path).await.unwrap_err().is_missing());
    store.put(&path, body.clone()).await.unwrap();
    store.put(&path, body.clone()).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap(), body);
    let facts = store.head(&path).await.unwrap();
    assert_eq!(facts.length, 300_000);
    let age = store.clock().now().0 - facts.modified.0;
    assert!(age.abs() < 60_000_000, "modified {age} µs ago");
    store.delete(&path).await.unwrap();
    store.delete(&path).await.unwrap();
    let error = store.get(&path).await.unwrap_err();
    assert_eq!(error.class(), Class::Missing);
    assert!(error.to_string().contains(&path.to_path()), "{error}");
}

async fn ranges(store: &Store, random: &dyn Random) {
    let (path, body) = pack(random, 2_000_000);
    store.put(&path, body.clone()).await.unwrap();
    let part = |from: usize, to: usize| body.slice(from..to);
    assert_eq!(store.get_range(&path, 0..1).await.unwrap(), part(0, 1));
    assert_eq!(store.get_range(&path, 5..5).await.unwrap(), Bytes::new());
    let wanted = [
        1_900_000..1_900_010,
        0..10,
        5..20,
        400..400,
        1_999_999..2_000_000,
    ];
    let got = store.get_ranges(&path, &wanted).await.unwrap();
    for (range, bytes) in wanted.iter().zip(got) {
        assert_eq!(bytes, part(range.start as usize, range.end as usize));
    }
    let tail = store.get_suffix(&path, 100).await.unwrap();
    assert_eq!(
        (tail.bytes, tail.length),
        (part(1_999_900, 2_000_000), 2_000_000)
    );
    let tail = store.get_suffix(&path, 3_000_000).await.unwrap();
    assert_eq!((tail.bytes, tail.length), (body.clone(), 2_000_000));
    for range in [
        1_999_999..2_000_001,
        2_000_000..2_000_001,
        9_000_000..9_000_001,
    ] {
        let error = store.get_range(&path, range.clone()).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{range:?}: {error}");
    }
    store.delete(&path).await.unwrap();
}

async fn creates(store: &Store, random: &dyn Random) {
    let path = ObjectPath::Ledger(SourceHash(draw(random)), 7, None);
    let first = Bytes::from("entry of writer-one");
    let second = Bytes::from("entry of writer-two");
    let created = store.create(&path, first.clone(), b"writer-one").await;
    assert_eq!(created.unwrap(), Created::Ours);
    let created = store.create(&path, second, b"writer-two").await;
    assert_eq!(created.unwrap(), Created::Anothers(first.clone()));
    let created = store.create(&path, first.clone(), b"writer-one").await;
    assert_eq!(created.unwrap(), Created::Ours, "a retry of our own");
    assert_eq!(store.get(&path).await.unwrap(), first);
    store.delete(&path).await.unwrap();
}

async fn races(store: &Store, random: &dyn Random) {
    for round in 0..5 {
        let path = ObjectPath::Ledger(SourceHash(draw(random)), round, None);
        let racers = (0..16).map(|_| {
            let ulid = Ulid::draw(store.clock().now(), random).to_string();
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move {
                let body = Bytes::from(format!("entry {ulid}"));
                let created = store.create(&path, body.clone(), ulid.as_bytes()).await;
                (created.unwrap(), body)
            })
        });
        let mut won = Vec::new();
        let mut seen = Vec::new();
        for racer in racers.collect::<Vec<_>>() {
            match racer.await.unwrap() {
                (Created::Ours, body) => won.push(body),
                (Created::Anothers(body), _) => seen.push(body),
            }
        }
        assert_eq!(won.len(), 1, "exactly one wins");
        assert!(
            seen.iter().all(|body| *body == won[0]),
            "losers see the winner"
        );
        store.delete(&path).await.unwrap();
    }
}

async fn replaces(store: &Store, random: &dyn Random) {
    let name = Ulid::draw(store.clock().now(), random).to_string();
    let path = ObjectPath::Lease(name.to_lowercase());
    store.create(&path, "lease 1".into(), b"1").await.unwrap();
    let seen = store.get_versioned(&path).await.unwrap();
    assert_eq!(seen.bytes, "lease 1");
    let Replaced::Ours(second) = store
        .replace(&path, "lease 2".into(), &seen.version)
        .await
        .unwrap()
    else {
        panic!("nobody else replaced it");
    };
    let stale = store.replace(&path, "lease 3".into(), &seen.version).await;
    let Replaced::Anothers(Some(found)) = stale.unwrap() else {
        panic!("a stale version replaced the lease");
    };
    assert_eq!(found.bytes, "lease 2");
    assert_eq!(found.version, second);
    let third = store.replace(&path, "lease 4".into(), &second).await;
    let Replaced::Ours(third) = third.unwrap() else {
        panic!("nobody else replaced it");
    };
    store.delete(&path).await.unwrap();
    let gone = store
        .replace(&path, "lease 5".into(), &third)
        .await
        .unwrap();
    assert_eq!(gone, Replaced::Anothers(None));
}

async fn lists(store: &Store, random: &dyn Random) {
    let source = SourceHash(draw(random));
    let other = SourceHash(draw(random));
    for number in [3, 1, 20, 2] {
        let path = ObjectPath::Ledger(source, number, None);
        let body = Bytes::from(vec![b'x'; number as usize]);
        store.create(&path, body, b"x").await.unwrap();
    }
    let elsewhere = ObjectPath::Ledger(other, 1, None);
    store.create(&elsewhere, "y".into(), b"y").await.unwrap();

    let listing = store.list(Prefix::Ledger(source)).await.unwrap();
    let numbers: Vec<_> = listing
        .objects
        .iter()
        .map(|one| match one.path {
            ObjectPath::Ledger(found, number, None) if found == source => (number, one.length),
            ref path => panic!("{path} is not of this ledger"),
        })
        .collect();
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 3), (20, 20)]);
    for (after, count) in [(0, 4), (2, 2), (3, 1), (19, 1), (20, 0)] {
        let after = ObjectPath::Ledger(source, after, None);
        let rest = store.list_after(Prefix::Ledger(source), &after).await;
        assert_eq!(rest.unwrap().objects, listing.objects[4 - count..]);
    }
    let folders = store.folders(Prefix::Ledgers).await.unwrap();
    for one in [source, other] {
        assert!(folders.contains(&one.to_string()), "{folders:?}");
    }
    assert_eq!(store.folders(Prefix::Ledger(other)).await.unwrap(), [""; 0]);
    assert_eq!(store.folders(Prefix::Manifests).await.unwrap(), [""; 0]);
    assert_eq!(listing.foreign, Vec::<String>::new());
    let all = store.list(Prefix::All).await.unwrap();
    assert!(all.objects.iter().any(|one| one.path == elsewhere));
    let never = store.list(Prefix::ManifestsOf(source)).await.unwrap();
    assert_eq!(never.objects, [], "a folder that is not there is empty");
    for one in listing.objects {
        store.delete(&one.path).await.unwrap();
    }
    store.delete(&elsewhere).await.unwrap();
}

async fn probes(store: &Store) {
    let verdict = probe(store).await.unwrap();
    assert_eq!(
        verdict.conditional_create,
        Conditional::Honoured,
        "{verdict}"
    );
    assert_eq!(
        verdict.conditional_replace,
        Conditional::Honoured,
        "{verdict}"
    );
    assert!(verdict.range_reads, "{verdict}");
    assert!(
        verdict.several_writers() && verdict.maintenance(),
        "{verdict}"
    );
    let left = store.list(Prefix::Probes).await.unwrap();
    assert_eq!(left.objects, [], "the probe takes its objects away");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    contract(&open("memory:", &options()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/repository");
    let store = open(path.to_str().unwrap(), &options()).unwrap();
    contract(&store).await;
    contract(&open(&format!("file://{}", path.display()), &options()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fault_store_without_faults_keeps_the_contract() {
    let fault = FaultStore::new(Arc::new(SystemClock::new()));
    contract(&fault.open(&options(), Arc::new(SystemRandom))).await;
}

#[tokio::test]
async fn requests_are_counted_by_kind() {
    let store = open("memory:", &options()).unwrap();
    let (path, body) = pack(&SystemRandom, 1000);
    let before = store.requests();
    store.put(&path, body).await.unwrap();
    store.get(&path).await.unwrap();
    store.get_range(&path, 0..10).await.unwrap();
    store.head(&path).await.unwrap();
    store.list(Prefix::Packs).await.unwrap();
    store.clone().delete(&path).await.unwrap();
    let asked = store.requests().since(&before);
    assert_eq!((asked.put, asked.get, asked.head), (1, 2, 1));
    assert_eq!((asked.list, asked.delete, asked.retried), (1, 1, 0));
    assert_eq!((asked.bytes_up, asked.bytes_down), (1000, 1010));
}
