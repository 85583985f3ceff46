//! Any schema, any rows: a backup into a repository and a restore from it give the same database.
//!
//! Thirty databases after the other are one source, so that each meets the leftovers of the one
//! before: other tables, other keys, other settings.

use std::ops::Range;

use rowvault::job::verify::{self, Data};

use crate::house;
use crate::sqlite_copy::{Place, compare};
use crate::sqlite_random::make;

/// Databases that are one source, one after the other.
const DATABASES_A_SOURCE: u64 = 30;

async fn come_back(seeds: Range<u64>) {
    for first in seeds.clone().step_by(DATABASES_A_SOURCE as usize) {
        let state = tempfile::tempdir().unwrap();
        let house = house::make("memory:", state.path(), 4 << 10).await;
        for seed in first..(first + DATABASES_A_SOURCE).min(seeds.end) {
            let place = Place::new();
            make(seed, &place.source());
            house::backup(&house, &place.source()).await;
            let newest = house::newest(&house).await;
            let restored = house::restore(&house, &newest, &place.target()).await;
            restored.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            compare(&place.source(), &place.target());
        }
        let catalog = house.opened.catalog().await.unwrap();
        let all = verify::run(&house.opened, &catalog.snapshots(), Data::All).await;
        assert!(all.unwrap().findings.is_empty(), "seeds from {first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_database_comes_back_from_its_repository() {
    come_back(0..300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/long.sh property"]
async fn long_property_any_database_comes_back_from_its_repository() {
    come_back(300..10_300).await;
}
