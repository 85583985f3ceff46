//! Object Lock on a real S3 server: what is written stays, is kept locked, and goes in the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rowvault::clock::{Clock, SystemClock};
use rowvault::demo::fill;
use rowvault::failure::{Class, Failure};
use rowvault::job::backup::{self, Request};
use rowvault::job::maintain::{
    ForgetRequest, ForgetSource, PruneOutcome, PruneRequest, Times, forget, prune,
};
use rowvault::random::SystemRandom;
use rowvault::repo::prune::Limits;
use rowvault::retention::Policy;
use rowvault::sample::Sample;
use rowvault::source::open::{self, SourceOptions};
use rowvault::store::{ObjectPath, Prefix, Root, Store, StoreOptions};
use tempfile::TempDir;

use crate::house::{self, House};
use crate::moto::Moto;
use crate::sqlite_copy::compare;

/// So long that a busy machine writes two snapshots well within it.
const BRIEF: Duration = Duration::from_secs(24);
/// After this it counts as never.
const PATIENCE: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn open(url: &str, moto: &Moto, span: Duration) -> Store {
    crate::install_tls();
    let options = StoreOptions {
        s3: moto.options(),
        lock: Some(span),
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::new());
    Store::open(url, &options, clock, Arc::new(SystemRandom)).unwrap()
}

/// A repository in `bucket` with two snapshots of one file, the first of which is forgotten.
async fn two_snapshots(moto: &Moto, bucket: &str, span: Duration) -> (House, TempDir) {
    let place = crate::tiny::directory();
    let crm = place.path().join("crm.db");
    fill::sqlite(&crm, &Sample::new(5, 0.0004)).unwrap();
    let store = open(&format!("s3://{bucket}/crm"), moto, span);
    let house = house::make_in(store, &place.path().join("state"), 16 << 10).await;
    house::backup(&house, &crm).await;
    std::fs::remove_file(&crm).unwrap();
    fill::sqlite(&crm, &Sample::new(6, 0.0004)).unwrap();
    house::backup(&house, &crm).await;
    let request = ForgetRequest {
        sources: vec![ForgetSource {
            name: "crm".parse().unwrap(),
            policy: Policy {
                last: 1,
                ..Policy::default()
            },
            zone: chrono_tz::UTC,
        }],
        times: Times::Stored,
        dry_run: false,
    };
    let forgotten = forget(&house.opened, &request).await.unwrap().forgotten;
    assert_eq!(forgotten.len(), 1);
    (house, place)
}

async fn pruned(house: &House) -> PruneOutcome {
    tokio::time::sleep(Duration::from_secs(4)).await;
    let request = PruneRequest {
        limits: Limits {
            wait: Duration::ZERO,
            ..Limits::default()
        },
        ..PruneRequest::default()
    };
    prune(&house.opened, &request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_snapshots_are_made_of_is_locked_and_prune_says_until_when() {
    let Some(moto) = Moto::start() else { return };
    moto.make_locked_bucket("acme-locked").await;
    let (house, place) = two_snapshots(&moto, "acme-locked", DAY * 30).await;
    let store = &house.opened.vault.store;
    let soonest = SystemClock::new().now().plus(DAY * 29);
    let listing = store.list(Prefix::All).await.unwrap();
    let mut locked = 0;
    for one in &listing.objects {
        let until = store.locked_until(&one.path).await.unwrap();
        match &one.path {
            ObjectPath::Pack(_)
            | ObjectPath::Index(_)
            | ObjectPath::Manifest(..)
            | ObjectPath::Ledger(..) => {
                assert!(until.is_some_and(|until| until > soonest), "{:?}", one.path);
                locked += 1;
            }
            other => assert_eq!(until, None, "{other:?}"),
        }
    }
    assert!(locked >= 8, "{locked} objects are locked");
    pruned(&house).await;
    let swept = pruned(&house).await.swept;
    assert_eq!((swept.packs_deleted, swept.manifests_deleted), (0, 0));
    assert!(swept.locked >= 2, "{swept:?}");
    assert!(swept.locked_until.is_some_and(|until| until > soonest));
    let newest = house::newest(&house).await;
    let back = place.path().join("back.db");
    house::restore(&house, &newest, &back).await.unwrap();
    compare(&place.path().join("crm.db"), &back);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_what_lives_are_extended_and_what_is_forgotten_goes_when_its_lock_ends() {
    let Some(moto) = Moto::start() else { return };
    moto.make_locked_bucket("acme-locked").await;
    let (house, place) = two_snapshots(&moto, "acme-locked", BRIEF).await;
    let store = &house.opened.vault.store;
    let newest = house::newest(&house).await;
    let catalog = house.opened.catalog().await.unwrap();
    let manifest = catalog.sources[&newest.source].manifest_path(&newest);
    let before = store.locked_until(&manifest).await.unwrap().unwrap();
    let packs = store.list(Prefix::Packs).await.unwrap().objects;
    // A lock is as old as what it locks: only then is it extended, and not by one hurried prune.
    tokio::time::sleep(BRIEF / 2).await;
    let first = pruned(&house).await;
    assert!(first.locks_extended >= 3, "{first:?}");
    let after = store.locked_until(&manifest).await.unwrap().unwrap();
    assert!(after > before, "{before:?}, {after:?}");
    let start = Instant::now();
    while pruned(&house).await.swept.packs_deleted == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing was ever swept");
    }
    let left = store.list(Prefix::Packs).await.unwrap().objects;
    let gone = packs.iter().filter(|one| !left.contains(one));
    let earliest = gone.map(|one| one.modified.plus(BRIEF)).max().unwrap();
    // Times of the storage are whole seconds.
    let now = SystemClock::new().now().plus(Duration::from_secs(1));
    assert!(
        now >= earliest,
        "swept at {now:?}, locked until {earliest:?}"
    );
    let back = place.path().join("back.db");
    house::restore(&house, &newest, &back).await.unwrap();
    compare(&place.path().join("crm.db"), &back);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_without_object_lock_is_refused_before_anything_is_stored() {
    let place = crate::tiny::directory();
    let options = StoreOptions {
        root: Root::Create,
        lock: Some(DAY),
        ..StoreOptions::default()
    };
    for url in [place.path().to_str().unwrap(), "memory:"] {
        let clock = Arc::new(SystemClock::new());
        let refused = Store::open(url, &options, clock, Arc::new(SystemRandom));
        let error = refused.err().expect("it has no lock");
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(error.to_string().contains("object lock"), "{error}");
    }
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-plain").await;
    let store = open("s3://acme-plain/crm", &moto, DAY);
    let house = house::make_in(store, &place.path().join("state"), 16 << 10).await;
    let crm = place.path().join("crm.db");
    fill::sqlite(&crm, &Sample::new(5, 0.0004)).unwrap();
    let url = format!("sqlite:{}", crm.display()).parse().unwrap();
    let mut source = open::source(&url, &SourceOptions::default()).unwrap();
    let request = Request::new("crm".parse().unwrap());
    let refused = backup::run(&house.opened, source.as_mut(), &request).await;
    let error = refused.expect_err("it has no lock");
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("no object lock"), "{error}");
    let packs = house.opened.vault.store.list(Prefix::Packs).await.unwrap();
    assert!(packs.objects.is_empty());
}
