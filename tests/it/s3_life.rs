//! A life on a real S3 server: backup, verify, restore, forget, prune, with every request counted.
//!
//! What a provider bills must not grow with the number of snapshots: the last backup may ask hardly
//! more than an early one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowvault::clock::SystemClock;
use rowvault::demo::fill;
use rowvault::job::maintain::{
    ForgetRequest, ForgetSource, PruneOutcome, PruneRequest, Times, forget, prune,
};
use rowvault::job::verify::{self, Data};
use rowvault::random::SystemRandom;
use rowvault::repo::prune::Limits;
use rowvault::retention::Policy;
use rowvault::sample::Sample;
use rowvault::sample::churn::Churn;
use rowvault::store::{Requests, Store, StoreOptions};

use crate::house::{self, House};
use crate::moto::Moto;
use crate::sqlite_copy::compare;

/// What verbs asked of the storage, in the order in which they ran.
struct Bill {
    store: Store,
    before: Requests,
    lines: Vec<(String, Requests)>,
}

impl Bill {
    fn note(&mut self, verb: &str) -> Requests {
        let now = self.store.requests();
        let asked = now.since(&self.before);
        self.before = now;
        self.lines.push((verb.to_owned(), asked));
        asked
    }

    fn print(&self) {
        println!(
            "{:<28} {:>6} {:>6} {:>6} {:>6} {:>6}",
            "verb", "LIST", "GET", "HEAD", "PUT", "DELETE"
        );
        for (verb, asked) in &self.lines {
            println!(
                "{verb:<28} {:>6} {:>6} {:>6} {:>6} {:>6}",
                asked.list, asked.get, asked.head, asked.put, asked.delete
            );
        }
    }
}

async fn verified(house: &House, data: Data) {
    let catalog = house.opened.catalog().await.unwrap();
    let found = verify::run(&house.opened, &catalog.snapshots(), data).await;
    let found = found.unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

async fn restored(house: &House, crm: &Path, back: &Path) {
    let newest = house::newest(house).await;
    house::restore(house, &newest, back).await.unwrap();
    compare(crm, back);
    std::fs::remove_file(back).unwrap();
}

/// A prune whose marks need not wait, since nobody else is there.
async fn pruned(house: &House) -> PruneOutcome {
    // Times of the storage are whole seconds, and nearer ones count as one.
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

async fn life(snapshots: u64, kept: u32) {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-backup").await;
    let place = crate::tiny::directory();
    let (crm, back) = (place.path().join("crm.db"), place.path().join("back.db"));
    let sample = Sample::new(5, 0.0004);
    fill::sqlite(&crm, &sample).unwrap();
    let options = StoreOptions {
        s3: moto.options(),
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::new());
    let url = "s3://acme-backup/crm";
    let store = Store::open(url, &options, clock, Arc::new(SystemRandom)).unwrap();
    let house = house::make_in(store, &place.path().join("state"), 16 << 10).await;
    let store = house.opened.vault.store.clone();
    let before = store.requests();
    let lines = Vec::new();
    let mut bill = Bill {
        store,
        before,
        lines,
    };
    let mut churn = Churn::new(&sample);
    let mut early = Requests::default();
    let mut last = Requests::default();
    for day in 1..=snapshots {
        if day > 1 {
            fill::apply(&crm, churn.crm_day(day)).unwrap();
        }
        house::backup(&house, &crm).await;
        last = bill.note(&format!("backup {day}"));
        match day {
            1 => {}
            5 => early = last,
            _ if day == snapshots => {}
            _ => drop(bill.lines.pop()),
        }
    }
    verified(&house, Data::None).await;
    bill.note("verify");
    verified(&house, Data::All).await;
    bill.note("verify --data all");
    restored(&house, &crm, &back).await;
    bill.note("restore");
    let request = ForgetRequest {
        sources: vec![ForgetSource {
            name: "crm".parse().unwrap(),
            policy: Policy {
                last: kept,
                ..Policy::default()
            },
            zone: chrono_tz::UTC,
        }],
        times: Times::Stored,
        dry_run: false,
    };
    let forgotten = forget(&house.opened, &request).await.unwrap().forgotten;
    bill.note("forget");
    assert_eq!(forgotten.len() as u64, snapshots - u64::from(kept));
    let marked = pruned(&house).await;
    bill.note("prune (marks)");
    let swept = pruned(&house).await;
    bill.note("prune (sweeps)");
    assert!(marked.swept.bytes_marked > 0, "{marked:?}");
    assert!(swept.swept.packs_deleted > 0, "{swept:?}");
    assert_eq!(swept.swept.warnings, [""; 0]);
    verified(&house, Data::All).await;
    bill.note("verify --data all, after");
    restored(&house, &crm, &back).await;
    bill.note("restore, after");
    bill.print();
    println!("{snapshots} snapshots on S3, {kept} kept, all restored equal");
    let all = |asked: &Requests| asked.list + asked.get + asked.head + asked.put + asked.delete;
    assert!(
        all(&last) <= all(&early) + 60,
        "a backup asks more with every snapshot: {early:?}, then {last:?}"
    );
    assert_eq!(bill.store.requests().retried, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_on_s3_is_whole_and_its_requests_are_counted() {
    life(12, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/long.sh s3"]
async fn long_s3_life_of_200_snapshots() {
    life(200, 20).await;
}
