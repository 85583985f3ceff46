//! What must not grow with a repository: the listing of a ledger, and how descriptions are read.
//!
//! `cargo bench --bench bench -- --only growth` finds such things; each that was found and mended
//! has a test here.

use rowvault::failure::Class;
use rowvault::format::ledger::{Event, Head, SUMMARY_EVERY, Verified};
use rowvault::id::SourceName;
use rowvault::repo::ledger::Appended;
use rowvault::repo::table::read_run;
use rowvault::store::fault::Operation;

use crate::maintain_rig::{A_DAY, Client, HOUR, World, rows};

/// Adds entries to the ledger of `name` until it has so many.
async fn lengthen(client: &Client, name: &SourceName, until: u64) {
    let opened = &client.opened;
    let idle = Event::Verified(Verified {
        snapshots: Vec::new(),
        data_percent: 0,
    });
    let mut catalog = opened.catalog().await.unwrap();
    let mut head: Option<Head> = catalog.sources[name].head();
    while head.is_none_or(|head| head.number < until) {
        let next = head.map_or(1, |head| head.number + 1);
        if next.is_multiple_of(SUMMARY_EVERY) {
            catalog = opened.catalog().await.unwrap();
        }
        let appended = opened.append(&catalog, name, head, idle.clone()).await;
        match appended.unwrap() {
            Appended::Ours(now) => head = Some(now),
            Appended::Lost => panic!("nobody else writes here"),
        }
    }
}

/// A backup listed the whole ledger, three times: after five years of hours, 90 requests each.
#[tokio::test(start_paused = true)]
async fn a_long_ledger_is_listed_from_the_last_summary_that_was_seen() {
    let world = World::new(71).await;
    let client = world.client("a").await;
    let crm: SourceName = "crm".parse().unwrap();
    let few = rows(0, 20, "few");
    for source in ["crm", "shop"] {
        world.backup(&client, source, &few).await.unwrap();
    }
    lengthen(&client, &crm, 2 * SUMMARY_EVERY + 40).await;
    client.opened.catalog().await.unwrap();

    let again = world.client("a").await;
    let hash = again.opened.vault.source_hash(&crm);
    let catalog = again.opened.catalog().await.unwrap();
    assert_eq!(catalog.snapshots().len(), 2);
    let entries = &catalog.sources[&crm].chain.entries;
    assert_eq!(entries[0].entry.number, 2 * SUMMARY_EVERY);
    let asked = again.opened.vault.store.requests();
    assert_eq!(
        (asked.list, asked.get),
        (3, 0),
        "the folders, and each source"
    );

    let kept = again.opened.state.names(&format!("ledger/{hash}")).unwrap();
    assert!(
        (kept.len() as u64) < SUMMARY_EVERY,
        "{} entries are kept",
        kept.len()
    );

    // What another host adds is seen, and what is taken away is missed.
    let other = world.client("b").await;
    world.backup(&other, "new", &few).await.unwrap();
    let catalog = world.client("a").await.opened.catalog().await.unwrap();
    assert_eq!(catalog.sources.len(), 3);
    let whole = world.storage.snapshot();
    for gone in [
        2 * SUMMARY_EVERY,
        2 * SUMMARY_EVERY + 20,
        2 * SUMMARY_EVERY + 40,
    ] {
        assert!(world.storage.lose(&format!("ledger/{hash}/{gone:020}")));
        let refused = world.client("a").await.opened.catalog().await;
        assert_eq!(refused.unwrap_err().class(), Class::Corrupt, "{gone}");
        world.storage.roll_back(&whole);
    }
    for number in 1..=2 * SUMMARY_EVERY + 40 {
        assert!(world.storage.lose(&format!("ledger/{hash}/{number:020}")));
    }
    let refused = world.client("a").await.opened.catalog().await;
    assert_eq!(refused.unwrap_err().class(), Class::Corrupt);
}

/// How often packs were read since the operation `from`.
fn packs_read(world: &World, from: u64) -> usize {
    let performed = world.storage.performed();
    let since = performed.iter().filter(|one| one.number > from);
    since
        .filter(|one| one.operation == Operation::Get && one.path.starts_with("packs/"))
        .count()
}

/// A walk over what a snapshot needs asked for each page of a description alone, and every backup
/// walked over all of its snapshot while anything was marked: that is most of the time.
#[tokio::test(start_paused = true)]
async fn descriptions_are_read_in_few_requests_and_not_at_all_by_a_backup_that_shares_them() {
    let world = World::new(72).await;
    let client = world.client("a").await;
    let mut many = rows(0, 60_000, "many");
    world.backup(&client, "crm", &many).await.unwrap();
    for word in ["one", "two"] {
        let small = rows(0, 400, word);
        world.backup(&client, "shop", &small).await.unwrap();
        world.clock.advance(HOUR);
    }
    let catalog = client.opened.catalog().await.unwrap();
    let snapshot = catalog.snapshots()[0];
    let manifest = client.opened.manifest(snapshot).await.unwrap();
    let reader = client.opened.reader().await.unwrap();
    let run = read_run(&reader, &manifest.tables[0].stack[0])
        .await
        .unwrap();
    let pages = run.pages.len();
    assert!(pages > 12, "{pages} pages");

    world.forget(&client, "shop", 1).await.unwrap();
    world.clock.advance(HOUR);
    let before = world.storage.count();
    let pruned = world.prune(&client).await.unwrap();
    assert!(pruned.swept.bytes_marked > 0);
    let read = packs_read(&world, before);
    assert!(read < pages, "{read} reads for {pages} pages");

    many.insert(30_000, "changed".into());
    let before = world.storage.count();
    world.backup(&client, "crm", &many).await.unwrap();
    assert!(client.opened.index().await.unwrap().has_marks());
    let read = packs_read(&world, before);
    assert!(read <= 3, "{read} reads, for a run of one row");
    world.clock.advance(A_DAY);
    world.prune(&client).await.unwrap();
    assert_eq!(world.check("after the sweep").await, 3);
}
