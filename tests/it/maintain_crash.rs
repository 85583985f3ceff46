//! A process dies at every operation of the storage: before it, after its effect, in its middle.
//!
//! For each verb the operations are counted once; then it is killed at each of them in each way.
//! Whatever was reported restores, whatever is visible is whole, and the next run, at once and
//! without a person, comes to its end.

use rowvault::failure::{AnyFailure, Class};
use rowvault::id::SnapshotId;
use rowvault::store::fault::{Failing, Fault, Rule, Stop, When};

use crate::maintain_rig::{A_DAY, Client, HOUR, Rows, World, rows};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    FirstBackup,
    SecondBackup,
    Forget,
    PruneMark,
    PruneSweep,
    KeyChange,
}

const VERBS: [Verb; 6] = [
    Verb::FirstBackup,
    Verb::SecondBackup,
    Verb::Forget,
    Verb::PruneMark,
    Verb::PruneSweep,
    Verb::KeyChange,
];

fn first() -> Rows {
    rows(0, 60, "one")
}

fn second() -> Rows {
    let mut rows = rows(0, 15, "one");
    rows.extend(crate::maintain_rig::rows(15, 60, "two"));
    rows
}

/// The world right before `verb`.
async fn before(verb: Verb) -> World {
    let world = World::new(7).await;
    let client = world.client("a").await;
    if verb != Verb::FirstBackup {
        world.backup(&client, "crm", &first()).await.unwrap();
        world.clock.advance(HOUR);
    }
    if matches!(verb, Verb::Forget | Verb::PruneMark | Verb::PruneSweep) {
        world.backup(&client, "crm", &second()).await.unwrap();
        world.clock.advance(HOUR);
    }
    if matches!(verb, Verb::PruneMark | Verb::PruneSweep) {
        world.forget(&client, "crm", 1).await.unwrap();
        world.clock.advance(HOUR);
    }
    if verb == Verb::PruneSweep {
        world.prune(&client).await.unwrap();
        world.clock.advance(A_DAY);
    }
    world
}

async fn run(world: &World, client: &Client, verb: Verb) -> Result<Option<SnapshotId>, AnyFailure> {
    match verb {
        Verb::FirstBackup => world.backup(client, "crm", &first()).await.map(Some),
        Verb::SecondBackup => world.backup(client, "crm", &second()).await.map(Some),
        Verb::Forget => world.forget(client, "crm", 1).await.map(|_| None),
        Verb::PruneMark | Verb::PruneSweep => world.prune(client).await.map(|_| None),
        Verb::KeyChange => {
            let vault = &client.opened.vault;
            let random = vault.random.as_ref();
            let key = rowvault::repo::keys::slot::draw_key(vault.realm.repository, random);
            let added = rowvault::repo::keys::slot::add_key(
                vault,
                &key,
                rowvault::repo::keys::slot::Keeping::KeyFile,
                "second",
            );
            added.await?;
            Ok(None)
        }
    }
}

/// How many operations `verb` takes, dying never.
async fn operations(verb: Verb) -> u64 {
    let world = before(verb).await;
    let client = world.client("a").await;
    let start = world.storage.count();
    run(&world, &client, verb).await.unwrap();
    world.storage.count() - start
}

async fn dies(verb: Verb, at: u64, how: Stop) {
    let told = format!("{verb:?} died {how:?} at operation {at}");
    let world = before(verb).await;
    let client = world.client("a").await;
    world.storage.stop_at(world.storage.count() + at, how);
    let _ = run(&world, &client, verb).await;
    drop(client);
    world.storage.heal();
    if how != Stop::Torn {
        world.check(&told).await;
    }
    // The next process of this host, at once.
    let next = world.client("a").await;
    let mut again = run(&world, &next, verb).await;
    // No storage that keeps conditions tears what it creates or replaces. If one did: a lease that
    // cannot be read runs out, and a ledger entry is refused until a person has looked.
    if let (Err(error), Stop::Torn) = (&again, how) {
        match error.class() {
            Class::Busy => world.clock.advance(HOUR / 5),
            Class::Corrupt => {
                let torn = world.storage.performed();
                let torn = torn
                    .iter()
                    .find(|one| matches!(one.fault, Some(Fault::Torn(..))));
                let torn = torn.unwrap().path.clone();
                assert!(torn.starts_with("ledger/"), "{told}, and then: {error:?}");
                assert!(error.to_string().contains(&torn), "{told}: {error:?}");
                world.storage.lose(&torn);
            }
            _ => {}
        }
        again = run(&world, &next, verb).await;
    }
    assert!(again.is_ok(), "{told}, and then: {again:?}");
    world.check(&told).await;
    // Another host, a day later.
    world.clock.advance(A_DAY);
    let other = world.client("b").await;
    let backup = world.backup(&other, "crm", &rows(0, 60, "three")).await;
    assert!(backup.is_ok(), "{told}, and a day later: {backup:?}");
    world.clock.advance(HOUR);
    world.check_clean(&told).await;
    world.check(&told).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_operation_loses_nothing() {
    let mut points = 0;
    for verb in VERBS {
        let operations = operations(verb).await;
        for at in 1..=operations {
            for how in [Stop::Before, Stop::AfterEffect, Stop::Torn] {
                dies(verb, at, how).await;
                points += 1;
            }
        }
        println!("{verb:?}: {operations} operations");
    }
    println!("{points} crash points, 0 lost, 0 silently wrong");
    assert!(points > 200);
}

/// More operations than a verb may try once its credentials are refused: what runs side by side,
/// and one for each thing that it tries to take away again.
const AFTER_REFUSAL_MAX: u64 = 32;

async fn loses_its_credentials(verb: Verb, at: u64, failing: Failing) {
    let told = format!("{verb:?} refused with {failing:?} from operation {at} on");
    let world = before(verb).await;
    let client = world.client("a").await;
    let start = world.storage.count();
    let refused = Rule::any(When::From(at), Fault::Fail(failing));
    world.storage.add(refused);
    match run(&world, &client, verb).await {
        // What was committed before stays committed.
        Ok(_) => {}
        Err(error) => {
            // A write whose fate was already unclear may not be called refused.
            let classes = [Class::Denied, Class::Unsettled];
            assert!(classes.contains(&error.class()), "{told}: {error}");
            assert!(error.to_string().contains("denied"), "{told}: {error}");
        }
    }
    let asked = world.storage.count() - start;
    assert!(
        asked < at + AFTER_REFUSAL_MAX,
        "{told}: {asked} operations, so it went on trying"
    );
    drop(client);
    world.storage.heal();
    world.check(&told).await;
    let next = world.client("a").await;
    let again = run(&world, &next, verb).await;
    assert!(again.is_ok(), "{told}, and then: {again:?}");
    world.check(&told).await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_expire_at_any_operation_lose_nothing_and_are_not_tried_on() {
    let mut points = 0;
    for verb in VERBS {
        for at in 1..=operations(verb).await {
            let failing = match at % 2 {
                0 => Failing::Code(403, "AccessDenied"),
                _ => Failing::Code(400, "ExpiredToken"),
            };
            loses_its_credentials(verb, at, failing).await;
            points += 1;
        }
    }
    println!("credentials expired at {points} operations: denied at once, 0 lost");
    assert!(points > 60);
}
