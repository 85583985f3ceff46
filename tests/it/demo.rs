//! The demo tells its story to the end, and leaves what it was asked to leave.

use std::sync::Arc;

use rowvault::clock::SystemClock;
use rowvault::random::SystemRandom;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_ends_with_a_restored_file_that_is_equal() {
    let place = tempfile::tempdir().unwrap();
    let keep = place.path().join("demo");
    let mut told = Vec::new();
    let clock = Arc::new(SystemClock::new());
    rowvault::demo::run(Some(&keep), clock, Arc::new(SystemRandom), &mut told)
        .await
        .unwrap();
    let told = String::from_utf8(told).unwrap();
    println!("{told}");
    assert!(told.contains("proven equal"));
    assert!(keep.join("restored.db").is_file());
    let (story, _) = told.split_once("Try next").unwrap();
    for line in story.lines().filter(|line| !line.starts_with("Done")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
