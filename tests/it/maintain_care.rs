//! What keeps a repository usable when something of it is lost: accepted heads, other places of a
//! chunk, the index made anew, readings that hold a sweep back.

use std::collections::BTreeSet;
use std::sync::Arc;

use rowvault::crypto::sign::SigningKey;
use rowvault::failure::Class;
use rowvault::format::index::{Index as IndexBody, IndexedPack};
use rowvault::format::pack::Footer;
use rowvault::id::{ChunkId, SignerId, SourceName};
use rowvault::job::maintain::{Effect, PruneRequest, prune};
use rowvault::job::verify::{self, Data, repair_index};
use rowvault::repo::catalog::{Catalog, Snapshot};
use rowvault::repo::index::Kept;
use rowvault::repo::{ledger, verdict};
use rowvault::store::fault::{Conditions, Failing, Fault, Operation, Rule, When};
use rowvault::store::probe::Conditional;

use crate::maintain_life::interrupted;
use crate::maintain_rig::{A_DAY, Client, HOUR, World, restore, rows};

fn paths(world: &World, prefix: &str) -> Vec<String> {
    let objects = world.storage.objects().into_keys();
    objects.filter(|path| path.starts_with(prefix)).collect()
}

async fn newest(client: &Client, source: &str) -> Snapshot {
    let source: SourceName = source.parse().unwrap();
    let catalog = client.opened.catalog().await.unwrap();
    catalog.at(&source, None).unwrap().clone()
}

/// Accepting a head used to be of no use where another source's ledger named the one that was lost:
/// every later command was refused because of that entry.
#[tokio::test(start_paused = true)]
async fn an_accepted_head_is_believed_though_another_ledger_names_a_later_one() {
    let world = World::new(31).await;
    let client = world.client("a").await;
    for word in ["one", "two", "three"] {
        world.clock.advance(HOUR);
        world
            .backup(&client, "crm", &rows(0, 20, word))
            .await
            .unwrap();
    }
    // Its entry says that crm has three entries.
    world
        .backup(&client, "shop", &rows(0, 20, "shop"))
        .await
        .unwrap();
    let crm = client.opened.vault.source_hash(&"crm".parse().unwrap());
    let entries = paths(&world, &format!("ledger/{crm}"));
    world.storage.lose(&entries[2]);
    let lost = world.reported.lock().unwrap().clone();
    for host in ["a", "new"] {
        let client = world.client(host).await;
        let refused = client.opened.catalog().await.unwrap_err();
        assert_eq!(refused.class(), Class::Corrupt, "{host}: {refused}");
    }
    for host in ["a", "new"] {
        let client = world.client(host).await;
        let context = ledger::Context {
            vault: &client.opened.vault,
            keyring: &client.opened.keyring,
            state: &client.opened.state,
        };
        let kept = ledger::list(&client.opened.vault, crm).await.unwrap();
        let chain = ledger::read(context, crm, &kept, None).await.unwrap();
        Catalog::accept(context, crm, chain.head()).await.unwrap();
        let catalog = client.opened.catalog().await.unwrap();
        assert_eq!(catalog.snapshots().len(), 3, "{host}");
    }
    // What was reported and cut off by the roll-back is what the person let go.
    let living: BTreeSet<_> = newest_ids(&world).await;
    let kept = lost.into_iter().filter(|(id, _)| living.contains(id));
    *world.reported.lock().unwrap() = kept.collect();
    // The chain goes on, and losing what comes now is refused again.
    let client = world.client("a").await;
    world.clock.advance(HOUR);
    for word in ["four", "five"] {
        world.clock.advance(HOUR);
        world
            .backup(&client, "crm", &rows(0, 20, word))
            .await
            .unwrap();
    }
    assert_eq!(world.check("after it").await, 5);
    let entries = paths(&world, &format!("ledger/{crm}"));
    assert_eq!(entries.len(), 4);
    world.storage.lose(&entries[3]);
    let refused = world.client("a").await.opened.catalog().await;
    assert_eq!(refused.unwrap_err().class(), Class::Corrupt);
}

async fn newest_ids(world: &World) -> BTreeSet<rowvault::id::SnapshotId> {
    let client = world.client("a").await;
    let catalog = client.opened.catalog().await.unwrap();
    let snapshots = catalog.snapshots();
    snapshots.iter().map(|one| one.record.id).collect()
}

/// Two snapshots that share a third of their rows, the first forgotten and the shared third moved
/// into a new pack: its chunks have two places. Gives the packs as they were before.
async fn moved() -> (World, Vec<String>) {
    let world = World::new(32).await;
    let client = world.client("a").await;
    let mut first = rows(0, 40, "same");
    first.extend(rows(40, 120, "old"));
    let mut second = rows(0, 40, "same");
    second.extend(rows(40, 120, "new"));
    world.backup(&client, "crm", &first).await.unwrap();
    world.clock.advance(HOUR);
    world.backup(&client, "crm", &second).await.unwrap();
    world.clock.advance(HOUR);
    world.forget(&client, "crm", 1).await.unwrap();
    world.clock.advance(HOUR);
    let before = paths(&world, "packs/");
    let pruned = world.prune(&client).await.unwrap();
    assert_eq!(pruned.swept.packs_rewritten, 1);
    (world, before)
}

/// Reading used to ask a chunk's first place only, and failed where that pack was gone.
#[tokio::test(start_paused = true)]
async fn a_chunk_whose_first_pack_is_gone_is_read_from_another() {
    let (world, before) = moved().await;
    let after = paths(&world, "packs/");
    let new: Vec<&String> = after.iter().filter(|one| !before.contains(one)).collect();
    assert_eq!(new.len(), 1);
    world.storage.lose(new[0]);
    assert_eq!(world.check("without the new pack").await, 1);
}

/// Packs that are marked are read last, so that a reading does not build on what is to go.
#[tokio::test(start_paused = true)]
async fn a_marked_pack_is_read_only_where_there_is_no_other() {
    let (world, before) = moved().await;
    let client = world.client("reader").await;
    let snapshot = newest(&client, "crm").await;
    let asked = world.storage.count() as usize;
    restore(&client.opened, &snapshot).await.unwrap();
    let index = client.opened.index().await.unwrap();
    let marked: Vec<String> = index
        .marks()
        .iter()
        .map(|mark| mark.pack.to_string())
        .collect();
    assert_eq!(marked.len(), 1);
    assert!(before.iter().any(|path| path.ends_with(&marked[0])));
    let performed = world.storage.performed();
    let gets = performed[asked..]
        .iter()
        .filter(|one| one.operation == Operation::Get && one.path.starts_with("packs/"));
    let mut gets = gets.peekable();
    assert!(gets.peek().is_some());
    for get in gets {
        assert!(!get.path.ends_with(&marked[0]), "{get:?}");
    }
}

/// A session that does not open, on the owner's own word, used to hide the place that opens.
#[tokio::test(start_paused = true)]
async fn a_chunk_with_a_false_session_is_read_from_another_place() {
    let world = World::new(33).await;
    let client = world.client("a").await;
    world
        .backup(&client, "crm", &rows(0, 50, "one"))
        .await
        .unwrap();
    let (vault, index) = (&client.opened.vault, paths(&world, "index/"));
    let id = index[0].strip_prefix("index/").unwrap().parse().unwrap();
    let (_, body) = vault.fetch_index(id).await.unwrap();
    // So many that one of them comes before the true one, in whatever order they are read.
    for number in 0..24 {
        let packs = body.packs.iter().map(|pack| IndexedPack {
            sessions: vec![number; pack.sessions.len()],
            ..pack.clone()
        });
        let packs = packs.collect();
        let body = IndexBody {
            packs,
            ..IndexBody::default()
        };
        vault.put_index(&body).await.unwrap();
    }
    assert_eq!(world.check("with false sessions").await, 1);
}

/// A writer's claim to speak for the owner counts as the writer's word alone. Where the owner had said
/// anything at all of that pack, joining small indexes used to turn it into the owner's own word, and
/// backups of all writers then built on chunks that are nowhere.
#[tokio::test(start_paused = true)]
async fn what_a_writer_says_for_the_owner_stays_the_writers_word() {
    let world = World::new(34).await;
    let client = world.client("a").await;
    let few = rows(0, 50, "one");
    world.backup(&client, "crm", &few).await.unwrap();
    let owner = client.opened.vault.access.signer.id();
    let indexes = paths(&world, "index/");
    let id = indexes[0].strip_prefix("index/").unwrap();
    let (_, body) = client
        .opened
        .vault
        .fetch_index(id.parse().unwrap())
        .await
        .unwrap();
    let mut liar = world.client("liar").await;
    let vault = Arc::get_mut(&mut liar.opened.vault).unwrap();
    vault.access.signer = SigningKey::from_seed(&[7; 32]);
    let signer = vault.access.signer.id();
    for number in 0..40 {
        let packs = body.packs.iter().map(|pack| {
            let mut footer = Footer::read(&pack.footer).unwrap();
            footer.entries[0].name = ChunkId([number; 32]);
            IndexedPack {
                footer: footer.write(),
                signer: Some(owner),
                ..pack.clone()
            }
        });
        let body = IndexBody {
            packs: packs.collect(),
            ..IndexBody::default()
        };
        vault.put_index(&body).await.unwrap();
    }
    world.clock.advance(HOUR);
    world.prune(&client).await.unwrap();
    let joined = paths(&world, "index/").len();
    assert!(joined < 5, "{joined} indexes are left");
    let index = client.opened.load_index(Kept::Counts).await.unwrap();
    let index = Arc::new(index);
    let writer = client.opened.writer(index.clone()).unwrap();
    for number in 0..40 {
        let name = ChunkId([number; 32]);
        let signers: Vec<SignerId> = index
            .numbered(&name)
            .map(|(_, place)| place.pack.signer)
            .collect();
        assert_eq!(signers, [signer], "chunk {number}");
        assert!(!writer.has(&name).unwrap());
    }
    assert_eq!(world.check("after a liar").await, 1);
}

/// A client that had never tried the storage used to write as if it kept conditions.
#[tokio::test(start_paused = true)]
async fn a_backup_tries_a_storage_that_this_host_does_not_know() {
    for (conditions, expected) in [
        (Conditions::Ignored, Conditional::Ignored),
        (Conditions::Honoured, Conditional::Honoured),
    ] {
        let world = World::new(34).await;
        world.storage.set_conditions(conditions);
        let client = world.client("new").await;
        client.opened.state.remove("probe").unwrap();
        world
            .backup(&client, "crm", &rows(0, 9, "x"))
            .await
            .unwrap();
        let (vault, state) = (&client.opened.vault, &client.opened.state);
        let found = verdict::kept(vault, state).unwrap().expect("it was tried");
        assert_eq!(found.conditional_create, expected);
        assert!(vault.store.knows_conditions());
        let again = world.storage.count() as usize;
        world
            .backup(&client, "crm", &rows(0, 8, "x"))
            .await
            .unwrap();
        let performed = world.storage.performed();
        let creates = performed[again..]
            .iter()
            .filter(|one| one.operation == Operation::Create);
        let honoured = expected == Conditional::Honoured;
        assert_eq!(creates.count() > 0, honoured, "{expected:?}");
        assert_eq!(world.check("after it").await, 2);
    }
}

/// A restore is interrupted before each of its operations: its snapshot is forgotten and what it
/// needs is marked at one of them, and swept, days later, at the same or a later one.
#[tokio::test(start_paused = true)]
async fn restore_and_prune_are_safe_in_every_interleaving() {
    let (mut runs, mut refused, mut mark_at) = (0, 0, 1);
    loop {
        let (mut sweep_at, mut last) = (mark_at, 0);
        loop {
            let world = World::new(mark_at * 1000 + sweep_at).await;
            let client = world.client("a").await;
            let first = rows(0, 60, "old");
            world.backup(&client, "crm", &first).await.unwrap();
            world.clock.advance(HOUR);
            let snapshot = newest(&client, "crm").await;
            let second = rows(0, 9, "new");
            world.backup(&client, "crm", &second).await.unwrap();
            world.clock.advance(HOUR);
            let mut announced = false;
            let done = interrupted(
                &world,
                "a",
                async |client| restore(&client.opened, &snapshot).await,
                async |number| {
                    last = number;
                    let other = world.client("b").await;
                    if number == mark_at {
                        announced = !paths(&world, "intents/").is_empty();
                        world.forget(&other, "crm", 1).await.unwrap();
                        world.prune(&other).await.unwrap();
                    }
                    if number == sweep_at {
                        world.clock.advance(A_DAY * 2);
                        world.prune(&other).await.unwrap();
                    }
                },
            )
            .await;
            let told = format!("marked at {mark_at}, swept at {sweep_at}");
            match done {
                Ok(rows) => assert!(rows == first, "{told}: silently wrong"),
                Err(error) => {
                    assert!(!announced, "{told}: {error}");
                    assert_eq!(error.class(), Class::Missing, "{told}: {error}");
                    refused += 1;
                }
            }
            runs += 1;
            assert!(paths(&world, "intents/").is_empty(), "{told}");
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
    println!("{runs} interleavings of restore and prune: {refused} refused before their intent");
    assert!(runs > 20 && refused > 0);
}

#[tokio::test(start_paused = true)]
async fn a_reading_without_the_right_to_write_reads_all_the_same() {
    let world = World::new(35).await;
    let client = world.client("a").await;
    let kept = rows(0, 50, "one");
    world.backup(&client, "crm", &kept).await.unwrap();
    let denied = Fault::Fail(Failing::Status(403));
    for operation in [Operation::Create, Operation::Put, Operation::Delete] {
        let rule = Rule::on(operation, When::Always, denied);
        world.storage.add(rule);
    }
    let reader = world.client("reader").await;
    let snapshot = newest(&reader, "crm").await;
    assert_eq!(restore(&reader.opened, &snapshot).await.unwrap(), kept);
}

/// Two credentials: one host's may write and not delete, so that nobody who takes it over can
/// destroy anything; the other's, kept elsewhere, may.
#[tokio::test(start_paused = true)]
async fn one_host_marks_and_another_one_deletes() {
    let world = World::new(37).await;
    let marking = world.client("marking").await;
    for word in ["one", "two", "three"] {
        world.clock.advance(HOUR);
        let taken = world.backup(&marking, "crm", &rows(0, 60, word)).await;
        taken.unwrap();
    }
    world.forget(&marking, "crm", 1).await.unwrap();
    let denied = Fault::Fail(Failing::Status(403));
    let rule = |prefix| Rule::on(Operation::Delete, When::Always, denied).under(prefix);
    for prefix in ["packs/", "index/", "manifests/"] {
        world.storage.add(rule(prefix));
    }
    let all = || [paths(&world, "packs/"), paths(&world, "manifests/")].concat();
    let before = all();
    for day in 0..2 {
        world.clock.advance(25 * HOUR);
        let pruned = world.prune(&marking).await.unwrap();
        assert!(pruned.swept.withheld > 0, "day {day}");
        assert_eq!(pruned.swept.packs_deleted, 0, "day {day}");
        assert_eq!(day == 0, pruned.swept.bytes_marked > 0, "day {day}");
    }
    let after = all();
    assert!(before.iter().all(|path| after.contains(path)));
    world.storage.heal();
    let deleting = world.client("deleting").await;
    let pruned = world.prune(&deleting).await.unwrap();
    assert_eq!(pruned.swept.withheld, 0);
    assert!(pruned.swept.packs_deleted >= 2);
    assert_eq!(paths(&world, "manifests/").len(), 1);
    assert_eq!(world.check("after both").await, 1);
    let again = world.backup(&marking, "crm", &rows(0, 60, "four")).await;
    again.unwrap();
    assert_eq!(world.check("after another backup").await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_or_damaged_index_is_made_anew_from_the_packs() {
    for damage in ["lost", "one lost", "damaged"] {
        let world = World::new(36).await;
        let client = world.client("a").await;
        for word in ["one", "two", "three"] {
            world.clock.advance(HOUR);
            world
                .backup(&client, "crm", &rows(0, 60, word))
                .await
                .unwrap();
        }
        let indexes = paths(&world, "index/");
        assert_eq!(indexes.len(), 3);
        for path in indexes.iter().take(if damage == "lost" { 3 } else { 1 }) {
            match damage {
                "damaged" => {
                    let mut bytes = world.storage.objects()[path].to_vec();
                    bytes[100] ^= 1;
                    world.storage.plant(path, bytes);
                }
                _ => drop(world.storage.lose(path)),
            }
        }
        let client = world.client("new").await;
        let catalog = client.opened.catalog().await.unwrap();
        let found = verify::run(&client.opened, &catalog.snapshots(), Data::None).await;
        assert!(!found.unwrap().findings.is_empty(), "{damage}");
        let refused = prune(&client.opened, &PruneRequest::default()).await;
        assert_eq!(refused.unwrap_err().class(), Class::Corrupt, "{damage}");
        let repaired = repair_index(&client.opened).await.unwrap();
        assert_eq!(repaired.left, [""; 0], "{damage}");
        assert_eq!(repaired.packs, if damage == "lost" { 3 } else { 1 });
        // Rows and the description of their run, whichever snapshot's index it was.
        assert!(repaired.chunks >= 2, "{damage}");
        assert_eq!(repaired.indexes, u64::from(damage == "damaged"));
        let found = verify::run(&client.opened, &catalog.snapshots(), Data::All).await;
        assert_eq!(found.unwrap().findings.len(), 0, "{damage}");
        assert_eq!(world.check(damage).await, 3);
        let nothing = repair_index(&client.opened).await.unwrap();
        assert_eq!((nothing.packs, nothing.indexes), (0, 0));
        world.clock.advance(HOUR);
        let request = PruneRequest {
            effect: Effect::Planned,
            ..PruneRequest::default()
        };
        let plan = prune(&client.opened, &request).await.unwrap().plan;
        assert!(plan.delete.is_empty() && plan.mark.is_empty(), "{plan:?}");
    }
}

/// A pack whose footer claims another chunk's name must not stand on the owner's word.
#[tokio::test(start_paused = true)]
async fn a_repair_vouches_for_no_chunk_that_is_not_what_its_name_says() {
    let world = World::new(37).await;
    let client = world.client("a").await;
    let kept = rows(0, 60, "one");
    world.backup(&client, "crm", &kept).await.unwrap();
    let index = paths(&world, "index/");
    // A bit of a chunk is flipped, and the pack gets the name of its new bytes: whole by its hash.
    let pack = &paths(&world, "packs/")[0];
    let mut bytes = world.storage.objects()[pack].to_vec();
    bytes[150] ^= 1;
    let name = blake3::hash(&bytes).to_hex().to_string();
    world
        .storage
        .plant(&format!("packs/{}/{name}", &name[..2]), bytes);
    world.storage.lose(&index[0]);
    let repaired = repair_index(&client.opened).await.unwrap();
    assert_eq!(repaired.packs, 2);
    assert_eq!(repaired.left.len(), 1, "{:?}", repaired.left);
    assert!(repaired.left[0].contains(&name), "{:?}", repaired.left);
    assert_eq!(world.check("after the repair").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fifth_a_day_reads_every_pack_within_a_week() {
    let world = World::new(38).await;
    let client = world.client("a").await;
    for day in 0..12 {
        world.clock.advance(HOUR);
        let source = format!("s{day}");
        let kept = rows(0, 30 + day, &source);
        world.backup(&client, &source, &kept).await.unwrap();
    }
    let packs = paths(&world, "packs/");
    assert_eq!(packs.len(), 12);
    // A bit of the first chunk of each.
    for path in &packs {
        let mut bytes = world.storage.objects()[path].to_vec();
        bytes[150] ^= 1;
        world.storage.plant(path, bytes);
    }
    let mut found = BTreeSet::new();
    let mut days = 0;
    while found.len() < packs.len() {
        days += 1;
        assert!(
            days <= 7,
            "{} of {} packs were read",
            found.len(),
            packs.len()
        );
        let client = world.client("a").await;
        let catalog = client.opened.catalog().await.unwrap();
        let share = Data::Percent(20);
        let checked = verify::run(&client.opened, &catalog.snapshots(), share).await;
        let objects = checked.unwrap().findings.into_iter().map(|one| one.object);
        let before = found.len();
        found.extend(objects.filter(|object| object.starts_with("pack ")));
        let more = found.len() - before;
        assert!((1..=4).contains(&more) || found.len() == 12, "{more} packs");
        world.clock.advance(A_DAY);
    }
    assert!(days >= 4, "a fifth is no more than a fifth");
}

/// A pack that was gone used to make every later backup fail: its chunks were found in the index,
/// and then the pack was not.
#[tokio::test(start_paused = true)]
async fn what_a_lost_pack_held_is_sent_again_by_the_next_backup() {
    let held = rows(0, 60, "one");
    let mut more = held.clone();
    more.extend(rows(60, 70, "two"));
    for lost in 0..2 {
        let world = World::new(41).await;
        let client = world.client("a").await;
        world.backup(&client, "crm", &held).await.unwrap();
        world.clock.advance(HOUR);
        world.backup(&client, "crm", &more).await.unwrap();
        world.clock.advance(HOUR);
        let packs = paths(&world, "packs/");
        assert_eq!(packs.len(), 2);
        world.storage.lose(&packs[lost]);
        let snapshot = newest(&client, "crm").await;
        let error = restore(&client.opened, &snapshot).await.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt, "{error}");
        let again = world.backup(&client, "crm", &more).await;
        assert!(again.is_ok(), "pack {lost} lost: {again:?}");
        assert!(paths(&world, "packs/").len() > 1);
        let snapshot = newest(&client, "crm").await;
        assert_eq!(restore(&client.opened, &snapshot).await.unwrap(), more);
        // And the day after everything is as ever.
        world.clock.advance(A_DAY);
        world.backup(&client, "crm", &held).await.unwrap();
        let snapshot = newest(&client, "crm").await;
        assert_eq!(restore(&client.opened, &snapshot).await.unwrap(), held);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_storage_only_says_it_keeps_is_found_before_a_snapshot_is_reported() {
    let places = [
        (Operation::Put, "packs/"),
        (Operation::Put, "index/"),
        (Operation::Put, "manifests/"),
        (Operation::Create, "ledger/"),
    ];
    for (operation, folder) in places {
        for fault in [Fault::Vanish, Fault::Torn(40, None)] {
            if folder == "ledger/" && fault != Fault::Vanish {
                // What stands there refuses the ledger until a person has looked.
                continue;
            }
            let told = format!("{fault:?} of {folder}");
            let world = World::new(42).await;
            let client = world.client("a").await;
            let first = rows(0, 60, "one");
            world.backup(&client, "crm", &first).await.unwrap();
            world.clock.advance(HOUR);
            world
                .storage
                .add(Rule::on(operation, When::Nth(1), fault).under(folder));
            let refused = world.backup(&client, "crm", &rows(30, 90, "two")).await;
            let error = refused.expect_err(&told);
            assert!(error.to_string().contains(&folder[..4]), "{told}: {error}");
            world.storage.heal();
            world.check(&told).await;
            let again = world.backup(&client, "crm", &rows(30, 90, "two")).await;
            assert!(again.is_ok(), "{told}, and then: {again:?}");
            assert_eq!(world.check(&told).await, 2, "{told}");
        }
    }
}
