//! After quiet, two maintenance runs leave next to nothing that is not needed (I5); and what an
//! index of two million chunks costs.

use std::time::Duration;

use rowvault::format::index::{Index as IndexBody, IndexedPack};
use rowvault::format::pack::{ChunkKind, Codec, Entry, Footer};
use rowvault::id::{ChunkId, ObjectId};
use rowvault::job::maintain::{Effect, PruneRequest, prune};
use rowvault::random::SeededRandom;
use rowvault::repo::index::Kept;
use rowvault::repo::prune::{Limits, Places, Stored, Survey, plan};

use crate::maintain_rig::{A_DAY, HOUR, Rows, World, rows};

/// Sealed bytes of chunks in the storage, and how many of them something living needs.
async fn stored_and_needed(world: &World) -> (u64, u64) {
    let client = world.client("meter").await;
    let request = PruneRequest {
        effect: Effect::Planned,
        limits: Limits {
            max_delete_percent: 100,
            ..Limits::default()
        },
        ..PruneRequest::default()
    };
    let outcome = prune(&client.opened, &request).await.unwrap();
    let index = client.opened.load_index(Kept::CountsForNothing).await;
    let index = index.unwrap();
    let mut indexed = 0;
    let mut needed = 0;
    for number in 0..index.len() {
        let length = u64::from(index.place(number).1);
        indexed += length;
        if outcome.plan.kept.has(number) {
            needed += length;
        }
    }
    // A pack that no index names is garbage from its first byte to its last.
    let named: Vec<String> = index
        .packs()
        .iter()
        .map(|pack| pack.id.to_string())
        .collect();
    let objects = world.storage.objects();
    let nameless = objects.iter().filter(|(path, _)| {
        let pack = path.strip_prefix("packs/").map(|rest| &rest[3..]);
        pack.is_some_and(|pack| !named.iter().any(|name| name == pack))
    });
    let nameless: u64 = nameless.map(|(_, bytes)| bytes.len() as u64).sum();
    (indexed + nameless, needed)
}

#[tokio::test(start_paused = true)]
async fn after_quiet_two_maintenance_runs_leave_less_than_a_twentieth_of_garbage() {
    for seed in 0..6 {
        let world = World::new(40 + seed).await;
        let random = SeededRandom::new(seed);
        let mut kept: Rows = rows(0, 400, "first");
        for day in 0..25_i64 {
            let client = world.client("a").await;
            if random.below(4) == 0 {
                // It leaves packs, an intent, at times a manifest.
                client.die_after(3 + random.below(12));
            }
            for _ in 0..random.below(60) {
                let id = random.below(500) as i64;
                kept.insert(
                    id,
                    format!("day {day} of {id} {}", "y".repeat((id % 40) as usize)),
                );
            }
            let _ = world.backup(&client, "crm", &kept).await;
            world.clock.advance(A_DAY);
        }
        let client = world.client("a").await;
        world.forget(&client, "crm", 3).await.unwrap();
        world.clock.advance(HOUR);
        let (before, _) = stored_and_needed(&world).await;
        for _ in 0..2 {
            let client = world.client("a").await;
            world.prune(&client).await.unwrap();
            world.clock.advance(A_DAY);
        }
        let (stored, needed) = stored_and_needed(&world).await;
        let percent = (stored - needed) * 100 / stored;
        println!(
            "seed {seed}: {before} bytes, then {stored} of which {needed} are needed: {percent} % garbage"
        );
        assert!(percent < 5, "seed {seed}: {percent} % is garbage");
        world.check(&format!("seed {seed}")).await;
    }
}

/// The memory of this process, in KiB, by the name of its line in /proc/self/status.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|one| one.strip_prefix(line));
    let digits = found.unwrap().trim_start_matches(':').trim();
    digits.trim_end_matches(" kB").parse().unwrap()
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn chunk(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A pack of chunks that are nowhere: an index is not asked to open them.
fn indexed(number: u64, chunks: u64) -> IndexedPack {
    let entry = |at: u64| Entry {
        name: chunk(number * chunks + at),
        kind: ChunkKind::Rows,
        codec: Codec::Zstd,
        session: 1,
        dictionary: 0,
        offset: 100 + at as u32 * 16_000,
        length: 16_000,
        raw_length: 60_000,
        sealed_hash: [at as u8; 16],
    };
    IndexedPack {
        pack: ObjectId(*blake3::hash(format!("pack {number}").as_bytes()).as_bytes()),
        length: 100 + chunks * 16_100,
        sessions: vec![0; 88],
        footer: Footer {
            dictionaries: Vec::new(),
            entries: (0..chunks).map(entry).collect(),
        }
        .write(),
        signer: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two million chunks: tests/long.sh million"]
async fn long_million_two_million_chunks_are_indexed_and_planned_in_little_memory() {
    const PACKS: u64 = 1600;
    const CHUNKS: u64 = 1250;
    let place = tempfile::tempdir().unwrap();
    let url = place.path().join("repository");
    let house =
        crate::house::make(url.to_str().unwrap(), &place.path().join("state"), 64 << 10).await;
    let vault = &house.opened.vault;
    let mut body = IndexBody::default();
    for number in 0..PACKS {
        body.packs.push(indexed(number, CHUNKS));
        if body.packs.len() == 100 {
            vault.put_index(&std::mem::take(&mut body)).await.unwrap();
        }
    }
    // From here on the highest mark counts anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (memory_before, cpu_before) = (memory("VmRSS"), cpu());
    let index = house
        .opened
        .load_index(Kept::CountsForNothing)
        .await
        .unwrap();
    let loaded = cpu() - cpu_before;
    assert_eq!(index.len() as u64, PACKS * CHUNKS);
    let now = vault.clock.now();
    let long_ago = rowvault::clock::Timestamp(now.0 - 72 * 3_600_000_000);
    let packs = index.packs().iter().map(|pack| {
        let (length, modified) = (pack.length, long_ago);
        (pack.id, Stored { length, modified })
    });
    let packs = packs.collect();
    let start = cpu();
    let mut needed = Places::none(&index);
    // Every second pack is needed whole, every fourth by a third, the others not at all.
    for number in 0..PACKS {
        for at in 0..CHUNKS {
            if number % 2 == 0 || (number % 4 == 1 && at % 3 == 0) {
                needed
                    .need(&index, &packs, &chunk(number * CHUNKS + at))
                    .unwrap();
            }
        }
    }
    let recalled = Places::none(&index);
    let survey = Survey {
        now,
        oldest_intent: None,
        index: &index,
        needed: &needed,
        recalled: &recalled,
        packs: &packs,
    };
    let planned = plan(&survey, &Limits::default()).unwrap();
    let planning = cpu() - start;
    let peak = (memory("VmHWM") - memory_before) / 1024;
    println!(
        "{} chunks in {PACKS} packs: index loaded in {:.1} s of CPU, prune planned in {:.1} s, at most {peak} MiB",
        index.len(),
        loaded.as_secs_f64(),
        planning.as_secs_f64()
    );
    assert_eq!(planned.mark.len() as u64, PACKS / 4);
    assert_eq!(planned.repack.len() as u64, PACKS / 4);
    assert!(peak <= 250, "{peak} MiB");
    assert!(loaded + planning <= Duration::from_secs(30));
}
