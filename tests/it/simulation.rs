//! Whole life cycles by seed: two writers, a maintainer and a restorer, a storage that fails.
//!
//! Clients overtake each other at every operation, die in the middle, and come back; clocks jump by
//! up to days; answers are lost. Then the faults end, and the oracles are asked. Invariant: the
//! same seed gives the same operations in the same order, whatever the machine does meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rowvault::failure::Class;
use rowvault::random::SeededRandom;
use rowvault::store::fault::{Failing, Fault};

use crate::maintain_rig::{A_DAY, Client, HOUR, Pace, Rows, World, restore};

const SEEDS: u64 = 200;
const FAULTS: [Fault; 8] = [
    Fault::Fail(Failing::Reset),
    Fault::Fail(Failing::Status(500)),
    Fault::Fail(Failing::Status(503)),
    Fault::LoseAnswer(Failing::Reset),
    Fault::LoseAnswer(Failing::Status(503)),
    Fault::ListBreak(1, Failing::Reset),
    Fault::Short(3),
    Fault::Flip(77),
];

/// What came of a life cycle.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    snapshots: u64,
    refused: u64,
    forgotten: u64,
    swept: u64,
    restored: u64,
    deaths: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.snapshots += other.snapshots;
        self.refused += other.refused;
        self.forgotten += other.forgotten;
        self.swept += other.swept;
        self.restored += other.restored;
        self.deaths += other.deaths;
    }
}

/// Draws for one client.
struct Dice(Arc<SeededRandom>);

impl Dice {
    fn new(seed: u64, who: u64) -> Dice {
        Dice(Arc::new(SeededRandom::new(seed * 31 + who)))
    }

    async fn client(&self, world: &World, host: &str, deaths: &AtomicU64) -> Client {
        let client = world.client_at(host, Pace::Drawn(self.0.clone())).await;
        if self.0.below(5) == 0 {
            client.die_after(self.0.below(60));
            deaths.fetch_add(1, Ordering::SeqCst);
        }
        client
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(self.0.below(750_000))).await;
    }

    fn change(&self, rows: &mut Rows) {
        for _ in 0..self.0.below(40) {
            let id = self.0.below(80) as i64;
            match self.0.below(4) {
                0 => drop(rows.remove(&id)),
                _ => drop(rows.insert(id, format!("{} of {id}", self.0.below(6)))),
            }
        }
    }
}

async fn write(world: &World, seed: u64, source: &str, deaths: &AtomicU64) -> Tally {
    let dice = Dice::new(seed, source.len() as u64);
    let mut tally = Tally::default();
    let mut rows: Rows = (0..60).map(|id| (id, format!("first {id}"))).collect();
    let first = rows.clone();
    for _ in 0..4 {
        dice.pause().await;
        match dice.0.below(3) {
            // As it was in the beginning: chunks of forgotten snapshots are found again.
            0 => rows = first.clone(),
            _ => dice.change(&mut rows),
        }
        let client = dice.client(world, source, deaths).await;
        match world.backup(&client, source, &rows).await {
            Ok(_) => tally.snapshots += 1,
            Err(error) => {
                tally.refused += 1;
                assert_ne!(error.class(), Class::Bug, "seed {seed}: {error}");
            }
        }
    }
    tally
}

async fn maintain(world: &World, seed: u64, deaths: &AtomicU64) -> Tally {
    let dice = Dice::new(seed, 100);
    let mut tally = Tally::default();
    for _ in 0..5 {
        dice.pause().await;
        world.clock.advance(HOUR * dice.0.below(30) as u32);
        let client = dice.client(world, "maintainer", deaths).await;
        for source in ["crm", "shop7"] {
            let last = 1 + dice.0.below(2) as u32;
            if let Ok(outcome) = world.forget(&client, source, last).await {
                tally.forgotten += outcome.forgotten.len() as u64;
            }
        }
        match world.prune(&client).await {
            Ok(outcome) => tally.swept += outcome.swept.packs_deleted,
            Err(error) => assert_ne!(error.class(), Class::Bug, "seed {seed}: {error}"),
        }
    }
    tally
}

async fn read(world: &World, seed: u64, deaths: &AtomicU64) -> Tally {
    let dice = Dice::new(seed, 200);
    let mut tally = Tally::default();
    for _ in 0..3 {
        dice.pause().await;
        let client = dice.client(world, "reader", deaths).await;
        let Ok(catalog) = client.opened.catalog().await else {
            continue;
        };
        let snapshots = catalog.snapshots();
        if snapshots.is_empty() {
            continue;
        }
        let snapshot = snapshots[dice.0.below(snapshots.len() as u64) as usize];
        if let Ok(rows) = restore(&client.opened, snapshot).await {
            tally.restored += 1;
            let reported = world.reported.lock().unwrap();
            if let Some((_, expected)) = reported.get(&snapshot.record.id) {
                assert!(rows == *expected, "seed {seed}: silently wrong");
            }
        }
    }
    tally
}

/// One life cycle, and the trace of all operations on the storage.
async fn live(seed: u64) -> (Tally, Vec<String>) {
    let world = World::new(seed).await;
    let mut faults = FAULTS.to_vec();
    if seed % 4 == 3 {
        // Listings that lack the last object written, and reads of what was before.
        faults.push(Fault::Stale);
    }
    world.storage.seed(seed, seed % 40, faults);
    let deaths = AtomicU64::new(0);
    let done = tokio::join!(
        write(&world, seed, "crm", &deaths),
        write(&world, seed, "shop7", &deaths),
        maintain(&world, seed, &deaths),
        read(&world, seed, &deaths),
    );
    let mut tally = Tally::default();
    for one in [&done.0, &done.1, &done.2, &done.3] {
        tally.add(one);
    }
    tally.deaths = deaths.into_inner();
    let trace = world.storage.performed();
    let trace = trace.iter().map(|one| {
        // Names of sealed bytes hold nonces, which several threads draw in no order.
        let folder = one.path.split('/').next().unwrap_or_default();
        format!("{:?} {folder} {:?}", one.operation, one.fault)
    });
    let trace = trace.collect();
    world.storage.heal();
    let told = format!("seed {seed}");
    world.check(&told).await;
    world.clock.advance(A_DAY);
    world.check_clean(&told).await;
    world.check(&told).await;
    (tally, trace)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

/// Runs the seeds on as many threads as there are processors.
fn simulate(seeds: std::ops::Range<u64>) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return sum;
            }
            sum.add(&runtime().block_on(live(seed)).0);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = Tally::default();
        for worker in workers {
            sum.add(&worker.join().expect("a life cycle broke a promise"));
        }
        sum
    })
}

#[test]
fn life_cycles_lose_nothing() {
    let sum = simulate(0..SEEDS);
    println!("{SEEDS} seeds: {sum:?}, 0 lost, 0 silently wrong");
    assert!(sum.snapshots > SEEDS && sum.swept > SEEDS / 4 && sum.deaths > SEEDS / 4);
}

/// ROWVAULT_SEEDS says how many.
#[test]
#[ignore = "10,000 seeds: tests/long.sh simulation"]
fn long_simulation() {
    let seeds = std::env::var("ROWVAULT_SEEDS").map_or(10_000, |text| text.parse().unwrap());
    let sum = simulate(0..seeds);
    println!("{seeds} seeds: {sum:?}, 0 lost, 0 silently wrong");
}

#[test]
fn the_same_seed_gives_the_same_operations() {
    let mut traces = BTreeMap::new();
    for seed in [3, 14, 39] {
        for _ in 0..2 {
            let (tally, trace) = runtime().block_on(live(seed));
            let before = traces.insert(seed, (tally, trace.clone()));
            if let Some((_, earlier)) = before {
                let differ = earlier.iter().zip(&trace).position(|(a, b)| a != b);
                let at = differ.map(|at| (&earlier[at], &trace[at]));
                assert_eq!(at, None, "seed {seed}, operation {differ:?}");
                assert_eq!(earlier.len(), trace.len(), "seed {seed}");
            }
        }
    }
}
