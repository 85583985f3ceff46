//! Forgetting and pruning, one promise a test.

use std::time::Duration;

use rowvault::failure::Class;
use rowvault::job::maintain::{self, Effect, PruneRequest, prune};
use rowvault::repo::lease::Lease;
use rowvault::store::fault::{Failing, Fault, Operation, Rule, When};
use tokio::sync::mpsc;

use crate::maintain_rig::{A_DAY, HOUR, Pace, World, rows};

/// Two snapshots that share a third of their rows, the first one forgotten.
async fn forgotten_first() -> World {
    let world = World::new(1).await;
    let client = world.client("a").await;
    let mut second = rows(0, 30, "same");
    let mut first = second.clone();
    first.extend(rows(30, 120, "old"));
    second.extend(rows(30, 120, "new"));
    world.backup(&client, "crm", &first).await.unwrap();
    world.clock.advance(HOUR);
    world.backup(&client, "crm", &second).await.unwrap();
    world.clock.advance(HOUR);
    let outcome = world.forget(&client, "crm", 1).await.unwrap();
    assert_eq!((outcome.kept.len(), outcome.forgotten.len()), (1, 1));
    world.clock.advance(HOUR);
    world
}

fn packs(world: &World) -> Vec<String> {
    let objects = world.storage.objects();
    let packs = objects
        .into_keys()
        .filter(|path| path.starts_with("packs/"));
    packs.collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_goes_after_a_day_and_what_lives_stays() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    assert_eq!(packs(&world).len(), 2);
    let marked = world.prune(&client).await.unwrap();
    assert_eq!(
        marked.swept.packs_rewritten, 1,
        "the shared third was moved"
    );
    assert_eq!(marked.swept.packs_deleted, 0);
    assert_eq!(marked.swept.manifests_deleted, 1);
    assert_eq!(packs(&world).len(), 3);
    world.clock.advance(A_DAY);
    let swept = world.prune(&client).await.unwrap();
    assert_eq!(swept.swept.packs_deleted, 1);
    assert_eq!(packs(&world).len(), 2);
    assert_eq!(world.check("after the sweep").await, 1);
    world.clock.advance(A_DAY);
    let third = world.prune(&client).await.unwrap();
    assert_eq!(third.swept, Default::default(), "nothing is left to do");
    world.check_clean("at the end").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_within_a_day_of_its_mark() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    world.prune(&client).await.unwrap();
    for _ in 0..23 {
        world.clock.advance(HOUR);
        let pruned = world.prune(&client).await.unwrap();
        assert_eq!(pruned.swept.packs_deleted, 0);
        assert_eq!(pruned.plan.waiting.len(), 1);
    }
    assert_eq!(packs(&world).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn marks_wait_by_the_clock_of_the_storage() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    world.prune(&client).await.unwrap();
    // From here on our clock is a day and a half ahead of the storage's.
    world.clock.advance(Duration::from_secs(36 * 3600));
    world.storage.set_skew_seconds(-36 * 3600);
    let pruned = world.prune(&client).await.unwrap();
    assert_eq!(pruned.swept.packs_deleted, 0);
    assert_eq!(packs(&world).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn dry_run_says_what_the_run_then_does_and_writes_nothing() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    let before = world.storage.objects();
    let request = PruneRequest {
        effect: Effect::Planned,
        ..PruneRequest::default()
    };
    let planned = prune(&client.opened, &request).await.unwrap();
    assert!(world.storage.objects() == before, "something was written");
    let done = prune(&client.opened, &PruneRequest::default())
        .await
        .unwrap();
    assert_eq!(planned.plan, done.plan);
    assert_eq!(planned.manifests, done.swept.manifests_deleted);
}

#[tokio::test(start_paused = true)]
async fn a_list_error_is_no_empty_list() {
    for prefix in ["ledger", "index", "packs", "manifests", "intents"] {
        let world = forgotten_first().await;
        let before = world.storage.objects();
        // A new host, which knows no head, and a person who allows everything.
        let client = world.client("new").await;
        let fails = Fault::Fail(Failing::Status(503));
        let rule = Rule::on(Operation::List, When::Always, fails).under(prefix);
        world.storage.add(rule);
        let error = world.prune(&client).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{prefix}: {error}");
        world.storage.heal();
        let mut after = world.storage.objects();
        after.retain(|path, _| !path.starts_with("leases/"));
        assert!(after == before, "{prefix}: something was written");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_is_cut_deletes_nothing() {
    for prefix in ["ledger", "index", "packs", "manifests"] {
        for kept in 0..3 {
            let world = forgotten_first().await;
            let client = world.client("a").await;
            client.opened.catalog().await.unwrap();
            world.prune(&client).await.unwrap();
            world.clock.advance(A_DAY);
            let cut = Rule::on(Operation::List, When::Always, Fault::ListCut(kept));
            world.storage.add(cut.under(prefix));
            let _ = world.prune(&client).await;
            world.storage.heal();
            assert_eq!(world.check(prefix).await, 1, "{prefix} cut to {kept}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn too_much_is_refused_unless_it_was_forgotten() {
    let world = World::new(2).await;
    let client = world.client("a").await;
    world
        .backup(&client, "crm", &rows(0, 90, "one"))
        .await
        .unwrap();
    world.clock.advance(HOUR);
    // A second source whose ledger and manifests somebody took away, before a new host comes.
    world
        .backup(&client, "shop", &rows(0, 90, "two"))
        .await
        .unwrap();
    let shop = client.opened.vault.source_hash(&"shop".parse().unwrap());
    for path in world.storage.objects().keys() {
        if path.starts_with(&format!("ledger/{shop}")) {
            world.storage.lose(path);
        }
    }
    world.clock.advance(HOUR);
    let known = prune(&client.opened, &PruneRequest::default()).await;
    assert_eq!(
        known.unwrap_err().class(),
        Class::Corrupt,
        "its head is known"
    );
    let new = world.client("new").await;
    let refused = prune(&new.opened, &PruneRequest::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.class(), Class::Conflict, "{refused}");
    assert!(refused.hint().unwrap().contains("--max-delete"));
    assert_eq!(packs(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_marked_pack_is_absent_to_a_backup() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    world.prune(&client).await.unwrap();
    world.clock.advance(HOUR);
    let mut first = rows(0, 30, "same");
    first.extend(rows(30, 120, "old"));
    let again = world.backup(&client, "crm", &first).await.unwrap();
    world.clock.advance(A_DAY);
    let swept = world.prune(&client).await.unwrap();
    assert_eq!(swept.swept.packs_deleted, 1);
    assert!(swept.plan.unmark.is_empty());
    assert_eq!(world.check("after the sweep").await, 2);
    assert!(world.reported.lock().unwrap().contains_key(&again));
}

/// Runs `first` and, each time it is about to ask the storage for something, `at` with the number
/// of that operation, from 1.
pub async fn interrupted<T>(
    world: &World,
    host: &str,
    run: impl AsyncFnOnce(&crate::maintain_rig::Client) -> T,
    mut at: impl AsyncFnMut(u64),
) -> T {
    let (ask, mut asked) = mpsc::unbounded_channel();
    let client = world.client_at(host, Pace::Asked(ask)).await;
    let controlled = async {
        let mut number = 0;
        while let Some(yes) = asked.recv().await {
            number += 1;
            at(number).await;
            let _ = tokio::sync::oneshot::Sender::send(yes, ());
        }
    };
    let running = async {
        let out = run(&client).await;
        drop(client);
        out
    };
    tokio::join!(running, controlled).0
}

#[tokio::test(start_paused = true)]
async fn sweep_under_a_lost_lease_deletes_nothing() {
    let world = forgotten_first().await;
    world.prune(&world.client("a").await).await.unwrap();
    world.clock.advance(A_DAY);
    let before = packs(&world);
    let before_all = world.storage.count() as usize;
    let mut deleting = 0;
    // The first maintainer sleeps right before it deletes; its lease runs out, another one comes,
    // and is stopped before it deletes anything itself.
    let late = interrupted(
        &world,
        "late",
        async |client| world.prune(client).await,
        async |_| {
            let operations = world.storage.performed();
            let mut ours = operations[before_all..].iter();
            if deleting == 0 && ours.any(|one| one.path == "packs") {
                deleting = 1;
                world.clock.advance(Duration::from_secs(20 * 60));
                let other = world.client("other").await;
                let (vault, state) = (&other.opened.vault, &other.opened.state);
                let lease = Lease::acquire(vault, state, "other").await.unwrap();
                assert_eq!(lease.fence(), 3);
            }
        },
    )
    .await;
    assert_eq!(deleting, 1, "the sweep was never interrupted");
    let error = late.expect_err("it went on without a lease");
    assert_eq!(error.class(), Class::Busy, "{error}");
    assert_eq!(packs(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_repository_rolled_back_is_refused_and_nothing_is_swept() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    let earlier = world.storage.snapshot();
    world
        .backup(&client, "crm", &rows(0, 50, "third"))
        .await
        .unwrap();
    world.storage.roll_back(&earlier);
    world.clock.advance(A_DAY);
    let again = world.client("a").await;
    let error = world.prune(&again).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    let error = world.backup(&again, "crm", &rows(0, 60, "fourth")).await;
    assert_eq!(error.unwrap_err().class(), Class::Corrupt);
}

/// Two clients went on from one state, each in a copy of the repository: one of them has an entry
/// that the other never saw.
#[tokio::test(start_paused = true)]
async fn a_forked_ledger_is_refused_by_whoever_saw_the_other_branch() {
    let world = forgotten_first().await;
    let client = world.client("a").await;
    let fork = world.storage.snapshot();
    let third = world.backup(&client, "crm", &rows(0, 50, "third")).await;
    let third = third.unwrap();
    world.storage.roll_back(&fork);
    world.reported.lock().unwrap().remove(&third);
    let other = world.client("b").await;
    world
        .backup(&other, "crm", &rows(0, 40, "fourth"))
        .await
        .unwrap();
    let again = world.client("a").await;
    let refused = world.backup(&again, "crm", &rows(0, 60, "fifth")).await;
    let error = refused.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.hint().unwrap().contains("--accept-head"), "{error}");
    world.clock.advance(A_DAY);
    let error = world.prune(&again).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    world.check("forked").await;
}

#[tokio::test(start_paused = true)]
async fn pins_hold_and_unpinned_snapshots_go() {
    let world = World::new(3).await;
    let client = world.client("a").await;
    let first = world
        .backup(&client, "crm", &rows(0, 9, "a"))
        .await
        .unwrap();
    world.clock.advance(HOUR);
    world
        .backup(&client, "crm", &rows(0, 9, "b"))
        .await
        .unwrap();
    world.clock.advance(HOUR);
    let catalog = client.opened.catalog().await.unwrap();
    let snapshot = catalog.by_prefix(&first.to_string()).unwrap();
    maintain::pin(&client.opened, snapshot, "court", None)
        .await
        .unwrap();
    maintain::tag(&client.opened, snapshot, "audit")
        .await
        .unwrap();
    assert!(
        world
            .forget(&client, "crm", 1)
            .await
            .unwrap()
            .forgotten
            .is_empty()
    );
    maintain::unpin(&client.opened, snapshot).await.unwrap();
    let gone = world.forget(&client, "crm", 1).await.unwrap().forgotten;
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].record.tags, ["audit"]);
}

/// A backup is interrupted before each of its operations: the snapshot whose chunks it finds again
/// is forgotten and marked at one of them, and swept, a day later, at the same or a later one.
#[tokio::test(start_paused = true)]
async fn backup_and_prune_are_safe_in_every_interleaving() {
    let first = rows(0, 60, "old");
    let mut runs = 0;
    let mut refused = 0;
    let mut mark_at = 1;
    loop {
        let mut sweep_at = mark_at;
        let mut last = 0;
        loop {
            let world = World::new(mark_at * 1000 + sweep_at).await;
            let client = world.client("a").await;
            world.backup(&client, "crm", &first).await.unwrap();
            world.clock.advance(HOUR);
            world
                .backup(&client, "crm", &rows(0, 9, "new"))
                .await
                .unwrap();
            world.clock.advance(HOUR);
            let done = interrupted(
                &world,
                "a",
                async |client| world.backup(client, "crm", &first).await,
                async |number| {
                    last = number;
                    let other = world.client("b").await;
                    if number == mark_at {
                        let _ = world.forget(&other, "crm", 1).await;
                        let _ = world.prune(&other).await;
                    }
                    if number == sweep_at {
                        world.clock.advance(A_DAY);
                        let _ = world.prune(&other).await;
                    }
                },
            )
            .await;
            refused += u64::from(done.is_err());
            runs += 1;
            let told = format!("marked at {mark_at}, swept at {sweep_at}, {done:?}");
            world.check(&told).await;
            world.clock.advance(A_DAY);
            let other = world.client("b").await;
            world.prune(&other).await.unwrap();
            world.check(&told).await;
            if sweep_at > last {
                break;
            }
            sweep_at += 1;
        }
        if mark_at > last {
            break;
        }
        mark_at += 1;
    }
    println!("{runs} interleavings of backup and prune, {refused} backups refused, 0 lost");
    assert!(runs > 100 && refused > 0);
}
