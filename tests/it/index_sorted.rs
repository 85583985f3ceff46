//! The sorted file of places against the whole index: equal, or made anew.
//!
//! In worlds of an even seed every client keeps the file, however small the index. The simulations
//! run on it too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rowvault::crypto::sign::SigningKey;
use rowvault::failure::{Class, Failure};
use rowvault::format::index::Index as IndexBody;
use rowvault::format::keyring::{Keyring, Sources, Writer};
use rowvault::format::pack::Footer;
use rowvault::id::{ChunkId, ObjectId, SignerId};
use rowvault::repo::blob::ChunkFacts;
use rowvault::repo::check;
use rowvault::repo::index::{Context, Index, Kept};
use rowvault::repo::reader::Reader;

use crate::maintain_rig::{A_DAY, Client, HOUR, Rows, World, rows};

const PAGE_SLOTS: usize = 106;
const PAGE_BYTES: usize = PAGE_SLOTS * 38 + 40;

fn context<'a>(client: &'a Client, keyring: &'a Keyring) -> Context<'a> {
    Context {
        vault: &client.opened.vault,
        keyring,
        state: &client.opened.state,
        kept: Kept::Counts,
    }
}

async fn open(client: &Client) -> Index {
    let opened = Index::open(context(client, &client.opened.keyring)).await;
    opened.unwrap()
}

async fn load(client: &Client) -> Index {
    let loaded = Index::load(context(client, &client.opened.keyring)).await;
    loaded.unwrap()
}

fn file(client: &Client) -> PathBuf {
    client.opened.state.path("places")
}

/// Whether places are looked up in the file.
fn is_sorted(index: &Index) -> bool {
    format!("{index:?}").contains("kept: Some(")
}

type Found = (ObjectId, SignerId, u32, u32, u16, ChunkFacts);

fn places(index: &Index, name: &ChunkId) -> Vec<Found> {
    let places = index.places(name).unwrap().map(|place| {
        let pack = place.pack;
        let (offset, length) = (place.offset, place.length);
        (
            pack.id,
            pack.signer,
            offset,
            length,
            place.session,
            place.facts,
        )
    });
    places.collect()
}

/// The chunks of all living snapshots.
async fn names(client: &Client) -> BTreeSet<ChunkId> {
    let index = load(client).await;
    let reader = Reader::new(client.opened.vault.clone(), index.into());
    let mut names = BTreeSet::new();
    let catalog = client.opened.catalog().await.unwrap();
    for snapshot in catalog.snapshots() {
        let manifest = client.opened.manifest(snapshot).await.unwrap();
        let mut visit = |need: check::Need| {
            names.insert(need.chunk);
        };
        let walked = &mut HashSet::new();
        let walk = check::walk(&reader, &manifest, walked, &mut visit).await;
        walk.unwrap();
    }
    names
}

/// Asks both for every chunk, for chunks that nobody has, and for marks and objects.
fn compare(sorted: &Index, whole: &Index, names: &BTreeSet<ChunkId>) {
    for name in names {
        let mut absent = *name;
        absent.0[15] ^= 1;
        for name in [*name, absent] {
            let mut found = [places(sorted, &name), places(whole, &name)];
            // Packs that are equally good may come in any order.
            let first = found
                .each_ref()
                .map(|found| found.first().map(|one| sorted.is_marked(&one.0)));
            assert_eq!(first[0], first[1]);
            found
                .iter_mut()
                .for_each(|found| found.sort_by_key(|one| (one.0, one.2, one.1)));
            assert_eq!(found[0], found[1], "{name}");
        }
    }
    assert_eq!(sorted.marks(), whole.marks());
    assert_eq!(sorted.replaced, whole.replaced);
    assert_eq!(sorted.damaged, whole.damaged);
    let objects = |index: &Index| -> BTreeSet<ObjectId> {
        index.objects.iter().map(|object| object.id).collect()
    };
    assert_eq!(objects(sorted), objects(whole));
    let packs = |index: &Index| -> BTreeSet<(ObjectId, u64, SignerId)> {
        let packs = index.packs().iter();
        packs
            .map(|pack| (pack.id, pack.length, pack.signer))
            .collect()
    };
    assert_eq!(packs(sorted), packs(whole));
}

fn changed(rows: &mut Rows, from: i64, word: &str) {
    for id in from..from + 40 {
        rows.insert(id, format!("{word} {id}"));
    }
}

/// Backups of two hosts, forgetting, marking, sweeping and moving: at each step the file that this
/// host has kept so far is asked, and one that was just made.
#[tokio::test(start_paused = true)]
async fn places_in_the_file_are_those_of_the_index_through_a_life() {
    let world = World::new(82).await;
    let mut items = rows(0, 4_000, "first");
    let mut used = 0;
    for day in 0..14 {
        changed(&mut items, day * 97, "changed");
        let host = ["a", "b"][day as usize % 2];
        let backup = world.client(host).await;
        world.backup(&backup, "crm", &items).await.unwrap();
        if day % 3 == 2 {
            world.forget(&backup, "crm", 2).await.unwrap();
            world.clock.advance(A_DAY);
            world.prune(&backup).await.unwrap();
        }
        world.clock.advance(HOUR);
        for host in ["a", "b", "onlooker"] {
            let client = world.client(host).await;
            let names = names(&client).await;
            let whole = load(&client).await;
            for _ in 0..2 {
                let opened = open(&client).await;
                used += u32::from(is_sorted(&opened));
                compare(&opened, &whole, &names);
            }
        }
    }
    assert!(used > 30, "the file was looked into {used} times");
}

/// An index of less than 2 MiB is read whole, and nothing but its objects is kept.
#[tokio::test(start_paused = true)]
async fn a_small_index_gets_no_file() {
    let world = World::new(83).await;
    let client = world.client("a").await;
    let items = rows(0, 400, "few");
    world.backup(&client, "crm", &items).await.unwrap();
    for _ in 0..2 {
        assert!(!is_sorted(&open(&client).await));
        assert!(!file(&client).exists());
    }
}

/// A client whose host keeps a file of some pages, and the names in it.
async fn kept() -> (World, Client, BTreeSet<ChunkId>) {
    let world = World::new(84).await;
    let client = world.client("a").await;
    world
        .backup(&client, "crm", &rows(0, 36_000, "many"))
        .await
        .unwrap();
    let names = names(&client).await;
    open(&client).await;
    assert!(is_sorted(&open(&client).await));
    assert!(names.len() > 500, "{}", names.len());
    (world, client, names)
}

/// Looks all chunks up; gives the class of the first error.
fn look_all_up(index: &Index, names: &BTreeSet<ChunkId>) -> Result<(), Class> {
    for name in names {
        let mut places = index.places(name).map_err(|error| error.class())?;
        assert!(places.next().is_some(), "{name}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_damaged_page_is_said_and_the_file_made_anew() {
    let (_world, client, names) = kept().await;
    let whole = fs::read(file(&client)).unwrap();
    // Every page, and the frames of others in its place.
    let page = PAGE_BYTES;
    let mut damages: Vec<Vec<u8>> = Vec::new();
    for at in [0, 30, page - 1, page, 2 * page + 700] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        damages.push(damaged);
    }
    let mut swapped = whole.clone();
    swapped.copy_within(page..2 * page, 0);
    damages.push(swapped);
    for damaged in damages {
        fs::write(file(&client), &damaged).unwrap();
        let index = open(&client).await;
        assert!(is_sorted(&index));
        assert_eq!(look_all_up(&index, &names), Err(Class::Transient));
        assert!(!file(&client).exists());
        let again = open(&client).await;
        assert_eq!(look_all_up(&again, &names), Ok(()));
        assert!(file(&client).exists());
        assert_eq!(look_all_up(&open(&client).await, &names), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_end_is_damaged_is_not_looked_into() {
    let (_world, client, names) = kept().await;
    let whole = fs::read(file(&client)).unwrap();
    let end = whole.len();
    let mut damages = vec![Vec::new(), whole[..7].to_vec(), whole[..end - 1].to_vec()];
    for at in [end - 1, end - 8, end - 9, end - 60] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x81;
        damages.push(damaged);
    }
    damages.push([&whole[..], b"more"].concat());
    for damaged in damages {
        fs::write(file(&client), &damaged).unwrap();
        let index = open(&client).await;
        assert!(!is_sorted(&index), "{} bytes", damaged.len());
        assert_eq!(look_all_up(&index, &names), Ok(()));
        assert_eq!(fs::read(file(&client)).unwrap().len(), end);
        assert!(is_sorted(&open(&client).await));
    }
}

/// A pack that an earlier maintainer wrote down on another's word is not believed on that word once
/// its right is gone.
#[tokio::test(start_paused = true)]
async fn a_file_counts_as_long_as_those_maintain_who_did_when_it_was_written() {
    let (world, client, _) = kept().await;
    let mut delegate = world.client("a").await;
    let vault = Arc::get_mut(&mut delegate.opened.vault).unwrap();
    vault.access.signer = SigningKey::from_seed(&[7; 32]);
    let signer = vault.access.signer.id();
    let old = load(&client).await.objects[0].id;
    let new = say_again(&delegate, old, vec![old]).await;
    let mut keyring = client.opened.keyring.clone();
    keyring.writers.push(Writer {
        name: "delegate".into(),
        signer,
        enrolled: client.opened.vault.clock.now(),
        sources: Sources::All,
        may_forget: true,
        counts: BTreeMap::new(),
        revoked: None,
    });
    // With the delegate's word the old object is replaced, and without it is not.
    for revoked in [None, Some(client.opened.vault.clock.now()), None] {
        keyring.writers[0].revoked = revoked;
        let counting = match revoked {
            None => BTreeSet::from([new]),
            Some(_) => BTreeSet::from([old, new]),
        };
        for sorted in [false, true] {
            let index = Index::open(context(&client, &keyring)).await.unwrap();
            assert_eq!(is_sorted(&index), sorted, "{revoked:?}");
            let objects = index.objects.iter().map(|object| object.id);
            assert_eq!(objects.collect::<BTreeSet<_>>(), counting);
        }
    }
}

/// What a crash leaves of a file that is being made neither counts nor stays in the way.
#[tokio::test(start_paused = true)]
async fn a_file_that_was_not_finished_is_overwritten() {
    let (_world, client, names) = kept().await;
    fs::remove_file(file(&client)).unwrap();
    fs::write(client.opened.state.path("places.new"), [7; 100]).unwrap();
    assert!(!is_sorted(&open(&client).await));
    let index = open(&client).await;
    assert!(is_sorted(&index));
    assert_eq!(look_all_up(&index, &names), Ok(()));
    assert!(!client.opened.state.path("places.new").exists());
}

/// Puts an index object anew that says what another one says, and replaces it or not.
async fn say_again(client: &Client, said: ObjectId, replaces: Vec<ObjectId>) -> ObjectId {
    let vault = &client.opened.vault;
    let (_, body) = vault.fetch_index(said).await.unwrap();
    let body = IndexBody { replaces, ..body };
    vault.put_index(&body).await.unwrap()
}

/// Under an object lock, what was replaced stays for weeks: it was read, and the file made anew, by
/// every command.
#[tokio::test(start_paused = true)]
async fn a_replaced_object_that_stays_is_in_the_file_and_counts_again_with_its_replacer_gone() {
    let (world, client, names) = kept().await;
    let old = load(&client).await.objects[0].id;
    let new = say_again(&client, old, vec![old]).await;
    open(&client).await;
    let made = fs::read(file(&client)).unwrap();
    let again = open(&client).await;
    assert!(is_sorted(&again));
    assert_eq!(again.replaced, [old]);
    compare(&again, &load(&client).await, &names);
    assert!(made == fs::read(file(&client)).unwrap(), "it was made anew");

    assert!(world.storage.lose(&format!("index/{new}")));
    let after = open(&client).await;
    assert_eq!(after.replaced, []);
    compare(&after, &load(&client).await, &names);
    assert_eq!(look_all_up(&after, &names), Ok(()));
}

/// What is said of a pack counts by each of those who say it, as long as an object stands that says so.
#[tokio::test(start_paused = true)]
async fn words_on_a_pack_go_with_the_objects_that_hold_them() {
    let (world, client, names) = kept().await;
    let old = load(&client).await.objects[0].id;
    let (_, mut body) = client.opened.vault.fetch_index(old).await.unwrap();
    let mut footer = Footer::read(&body.packs[0].footer).unwrap();
    let left_out = footer.entries.remove(0).name;
    body.packs[0].footer = footer.write();
    client.opened.vault.put_index(&body).await.unwrap();
    for _ in 0..3 {
        let index = open(&client).await;
        assert_eq!(places(&index, &left_out).len(), 1);
        compare(&index, &load(&client).await, &names);
    }
    assert!(world.storage.lose(&format!("index/{old}")));
    for _ in 0..2 {
        let index = open(&client).await;
        assert_eq!(places(&index, &left_out), []);
        assert_eq!(places(&index, &footer.entries[0].name).len(), 1);
        compare(&index, &load(&client).await, &names);
    }
}

/// An object of which one footer is none says nothing, not what stands before that footer.
#[tokio::test(start_paused = true)]
async fn an_object_with_a_false_footer_says_nothing() {
    let (world, client, names) = kept().await;
    let old = load(&client).await.objects[0].id;
    let (_, mut body) = client.opened.vault.fetch_index(old).await.unwrap();
    let mut last = body.packs[0].clone();
    last.footer = vec![1, 2, 3];
    body.packs.push(last);
    let damaged = client.opened.vault.put_index(&body).await.unwrap();
    assert!(world.storage.lose(&format!("index/{old}")));
    for _ in 0..2 {
        let index = open(&client).await;
        assert_eq!(index.damaged.len(), 1);
        assert_eq!(index.damaged[0].0, damaged);
        assert!(names.iter().all(|name| places(&index, name).is_empty()));
        assert!(load(&client).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_process_replaces_or_removes_is_read_to_the_end() {
    let (_world, client, names) = kept().await;
    let index = open(&client).await;
    fs::rename(file(&client), file(&client).with_extension("away")).unwrap();
    fs::write(file(&client), b"another").unwrap();
    assert_eq!(look_all_up(&index, &names), Ok(()));
    let index = open(&client).await;
    fs::remove_file(file(&client)).unwrap();
    assert_eq!(look_all_up(&index, &names), Ok(()));
}

/// Who looks few chunks up reads few pages; who looks up more than one for 16 pages reads all.
#[tokio::test(start_paused = true)]
async fn few_chunks_are_looked_up_in_few_pages() {
    let (_world, client, names) = kept().await;
    let name = names.first().unwrap();
    let pages = load(&client).await.len().div_ceil(PAGE_SLOTS);
    assert!((16..32).contains(&pages), "{pages}");
    let mut damaged = fs::read(file(&client)).unwrap();
    for at in 1..pages {
        damaged[at * PAGE_BYTES + 5] ^= 1;
    }
    fs::write(file(&client), &damaged).unwrap();
    let index = open(&client).await;
    assert_eq!(index.places(name).unwrap().count(), 1);
    let again = index.places(name).map(|places| places.count());
    assert_eq!(again.unwrap_err().class(), Class::Transient);
}
