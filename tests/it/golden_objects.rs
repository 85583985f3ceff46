//! Vectors of everything at rest that is not a key.
//!
//! The files under tests/golden/v1/objects were written once and are read for ever: a change of a byte on
//! disk fails here, in both directions. `write_golden_objects` makes them anew, for a new format
//! version only.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rowvault::clock::Timestamp;
use rowvault::crypto::key::{RootSecret, SharedKeys, SymmetricKey};
use rowvault::crypto::sign::SigningKey;
use rowvault::format::filter::{self, Filter, coded};
use rowvault::format::index::{Index, IndexedPack, Mark};
use rowvault::format::intent::{Intent, Purpose};
use rowvault::format::lease::Lease;
use rowvault::format::ledger::{
    Entry, Event, Forgotten, Head, IntentVoided, Reason, Recovered, Requested, SnapshotRecord,
    Summary, Treated, Verified,
};
use rowvault::format::manifest::{
    Manifest, ManifestTable, Mode, StoredOrder, StructureReference, Totals,
};
use rowvault::format::object::{self, Kind};
use rowvault::format::pack::{self, ChunkKind, Codec, Footer};
use rowvault::format::run::{
    ColumnFilter, LargeCell, PageReference, Run, RunChunk, RunKind, read_page, write_page,
};
use rowvault::id::{
    ChunkId, Digest, ObjectId, RepositoryId, SignerId, SnapshotId, SourceHash, Ulid,
};
use rowvault::random::SeededRandom;
use rowvault::repo::blob::{self, ChunkFacts, Realm};
use rowvault::row::schema::{Engine, Table, TableName};

pub const REALM: Realm = Realm {
    repository: RepositoryId([0x11; 16]),
    epoch: 1,
};
pub const PLACE: &str = "ledger/00000000000000000000000000000000/00000000000000000001";
const TIME: Timestamp = Timestamp(1_750_000_000_000_000);
const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn root() -> RootSecret {
    RootSecret::from_bytes([0x22; 32])
}

pub fn shared() -> SharedKeys {
    root().shared(REALM.repository, 1)
}

pub fn session() -> SymmetricKey {
    SymmetricKey::from_bytes([0x44; 32])
}

pub fn signer() -> SigningKey {
    root().owner(REALM.repository)
}

pub fn random() -> SeededRandom {
    SeededRandom::new(1)
}

pub fn chunk(byte: u8) -> ChunkId {
    ChunkId([byte; 32])
}

fn ulid() -> Ulid {
    ULID.parse().unwrap()
}

fn totals() -> Totals {
    Totals {
        tables: 1,
        rows: 200,
        rows_put: 3,
        rows_deleted: 1,
        bytes_read: 4_000_000_000,
        bytes_stored: 70_000,
        chunks_new: 2,
        chunks_reused: 5,
    }
}

pub fn footer() -> Footer {
    let entry = |name: u8, kind: ChunkKind, codec: Codec, session: u16, offset: u32| pack::Entry {
        name: chunk(name),
        kind,
        codec,
        session,
        dictionary: u16::from(kind == ChunkKind::Rows),
        offset,
        length: 100,
        raw_length: 300,
        sealed_hash: [name; 16],
    };
    Footer {
        dictionaries: vec![chunk(9)],
        entries: vec![
            entry(1, ChunkKind::Rows, Codec::Zstd, 1, 188),
            entry(2, ChunkKind::Cell, Codec::Stored, 2, 288),
            entry(3, ChunkKind::Structure, Codec::Zstd, 1, 388),
            entry(4, ChunkKind::Run, Codec::Zstd, 0, 488),
            entry(5, ChunkKind::RunPage, Codec::Zstd, 0, 588),
            entry(9, ChunkKind::Dictionary, Codec::Stored, 1, 688),
        ],
    }
}

pub fn pack_head() -> pack::Head {
    pack::Head {
        epoch: 1,
        sessions: vec![[7; pack::SESSION_BYTES], [8; pack::SESSION_BYTES]],
    }
}

pub fn index() -> Index {
    Index {
        required: Vec::new(),
        packs: vec![IndexedPack {
            pack: ObjectId([1; 32]),
            length: 12_345,
            sessions: pack_head().sessions.concat(),
            footer: footer().write(),
            signer: Some(SignerId([6; 32])),
        }],
        replaces: vec![ObjectId([2; 32])],
        marks: vec![Mark {
            pack: ObjectId([3; 32]),
            marked_at: TIME,
        }],
    }
}

pub fn run_chunk(name: u8, key: u8) -> RunChunk {
    RunChunk {
        name: chunk(name),
        first: vec![0x80, 0, 0, 0, 0, 0, 0, key],
        last: vec![0x80, 0, 0, 0, 0, 0, 0, key + 9],
        puts: 10,
        deletions: 2,
        bytes: 4_000,
        covers: 3,
        cells: vec![LargeCell {
            digest: Digest([5; 16]),
            length: 2_000_000,
            chunks: vec![chunk(20), chunk(21)],
        }],
        filters: vec![ColumnFilter {
            column: 4,
            bits: filter::write(&[[6; 16]]),
        }],
    }
}

pub fn delta() -> Run {
    Run {
        required: Vec::new(),
        kind: RunKind::Delta,
        tier: 1,
        sequence: 7,
        covers_max: 3,
        columns: 5,
        puts: 20,
        deletions: 4,
        bytes: 8_000,
        chunks: vec![run_chunk(1, 0), run_chunk(2, 10)],
        pages: Vec::new(),
        dictionaries: vec![chunk(9)],
        key_filter: Some(filter::write(&[shared().key_filter_hash(b"key")])),
    }
}

pub fn base() -> Run {
    Run {
        kind: RunKind::Base,
        tier: 0,
        sequence: 0,
        deletions: 0,
        chunks: Vec::new(),
        pages: vec![PageReference {
            name: chunk(30),
            first: vec![0x80],
            last: vec![0x90],
            chunks: 128,
        }],
        key_filter: None,
        ..delta()
    }
}

pub fn manifest() -> Manifest {
    let table = Table {
        name: TableName {
            schema: Some("public".into()),
            name: "kontakty – łódź".into(),
        },
        columns: Vec::new(),
        generated: vec![("full".into(), "a || b".into())],
        key: None,
        foreign_keys: Vec::new(),
        unique: vec![vec!["mail".into()]],
        with_rows: true,
        facts: [("engine".to_owned(), "InnoDB".to_owned())].into(),
    };
    Manifest {
        required: Vec::new(),
        snapshot: SnapshotId([1; 16]),
        source: "crm".parse().unwrap(),
        engine: Engine::Postgres,
        taken_at: TIME,
        mode: Mode::Rows,
        parent: Some(SnapshotId([2; 16])),
        tables: vec![ManifestTable {
            table,
            order: StoredOrder::Physical,
            stack: vec![chunk(40)],
            rows: 200,
            digest: Digest([3; 16]),
            bytes_raw: 9_000,
            bytes_stored: 4_000,
            rows_put: 3,
            rows_deleted: 1,
        }],
        structure: vec![StructureReference {
            name: "pg_dump".into(),
            length: 1_500_000,
            chunks: vec![chunk(50), chunk(51)],
        }],
        facts: [("server_version".to_owned(), "18.0".to_owned())].into(),
        warnings: vec!["table x is outside of the snapshot".into()],
        host: "db-1".into(),
        program: "rowvault 0.1.0".into(),
        totals: totals(),
    }
}

fn record() -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId([1; 16]),
        manifest: ObjectId([2; 32]),
        taken_at: TIME,
        mode: Mode::Proof,
        totals: totals(),
        tags: vec!["before upgrade".into()],
        replaces: Some("erasure of 42".into()),
    }
}

pub fn events() -> Vec<Event> {
    let snapshot = SnapshotId([1; 16]);
    let recovered = || Recovered {
        snapshot,
        place: "sqlite:/tmp/restored.db".into(),
        rows: 200,
        facts: [("verified".to_owned(), "true".to_owned())].into(),
    };
    let treated = |text: &str| Treated {
        snapshot,
        text: text.into(),
        until: Some(TIME),
    };
    let reason = || Reason {
        text: "42 % of the rows vanished".into(),
    };
    vec![
        Event::Snapshot(record()),
        Event::Forgotten(Forgotten {
            snapshots: vec![snapshot],
            reason: "keep daily 14".into(),
        }),
        Event::Verified(Verified {
            snapshots: vec![snapshot],
            data_percent: 100,
        }),
        Event::Restored(recovered()),
        Event::RolledBack(recovered()),
        Event::Undeleted(recovered()),
        Event::Drilled(recovered()),
        Event::Pinned(treated("audit")),
        Event::Unpinned(treated("audit")),
        Event::Tagged(treated("release")),
        Event::Frozen(reason()),
        Event::Thawed(reason()),
        Event::Requested(Requested {
            what: "backup crm".into(),
            by: "ops".into(),
            address: "10.1.2.3".into(),
        }),
        Event::IntentVoided(IntentVoided {
            intent: ulid(),
            reason: "past its deadline".into(),
        }),
        Event::Summary(Summary {
            snapshots: vec![record()],
            verified_at: [(snapshot.to_string(), TIME)].into(),
            pins: vec![treated("audit")],
            frozen: Some(reason()),
        }),
    ]
}

pub fn entry(event: Event) -> Entry {
    let head = Head {
        number: 41,
        hash: ObjectId([4; 32]),
    };
    Entry {
        number: 42,
        previous: Some(ObjectId([4; 32])),
        source: "crm".parse().unwrap(),
        token: ulid(),
        time: TIME,
        host: "db-1".into(),
        heads: [(SourceHash([5; 16]), head)].into(),
        event,
    }
}

fn intent() -> Intent {
    Intent {
        required: Vec::new(),
        id: ulid(),
        purpose: Purpose::Backup,
        source: "crm".parse().unwrap(),
        host: "db-1".into(),
        boot: "7f5c4f0e".into(),
        process: 4711,
        process_started: 123_456,
        started_at: TIME,
        deadline: Timestamp(TIME.0 + 86_400_000_000),
    }
}

fn lease() -> Lease {
    Lease {
        required: Vec::new(),
        holder: ulid(),
        host: "db-1".into(),
        fence: 3,
        expires_at: TIME,
    }
}

pub fn sealed_object() -> Vec<u8> {
    let keys = shared();
    let by = (&keys.metadata, &signer());
    REALM.seal_object(Kind::Ledger, PLACE, b"the body", by, &random())
}

pub const CONTENT: &[u8] = b"a row, a row, a row, a row, a row, a row, a row";

pub fn facts(raw: &[u8]) -> ChunkFacts {
    ChunkFacts {
        name: shared().chunk_id(ChunkKind::Cell as u8, raw),
        kind: ChunkKind::Cell,
        codec: Codec::Zstd,
        dictionary: None,
        raw_length: raw.len() as u32,
    }
}

pub fn sealed_chunk() -> Vec<u8> {
    let mut chunk = Vec::new();
    blob::pack(CONTENT, None, &mut chunk);
    REALM.seal_chunk(&facts(CONTENT), &mut chunk, &session(), &random());
    chunk
}

/// Every vector by its file's name.
fn vectors() -> BTreeMap<String, Vec<u8>> {
    let mut all: BTreeMap<String, Vec<u8>> = [
        ("pack-head", pack_head().write()),
        ("pack-footer", footer().write()),
        ("pack-trailer", pack::write_trailer(436).to_vec()),
        ("index", index().write()),
        ("run-delta", delta().write()),
        ("run-base", base().write()),
        ("run-page", write_page(&delta().chunks)),
        ("manifest", manifest().write()),
        ("intent", intent().write()),
        ("lease", lease().write()),
        ("filter", filter::write(&[shared().key_filter_hash(b"key")])),
        (
            "filter-coded",
            coded::write(&[shared().value_filter_hash(3, b"cell"), [6; 16]]),
        ),
        ("sealed-object", sealed_object()),
        ("sealed-chunk", sealed_chunk()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect();
    for event in events() {
        let name = format!("ledger-{}", event.kind());
        all.insert(name, entry(event).write());
    }
    all
}

fn directory() -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    [root, "tests", "golden", "v1", "objects"].iter().collect()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn golden_objects_read_as_they_were_written() {
    assert_eq!(pack::Head::read(&golden("pack-head")), Ok(pack_head()));
    assert_eq!(Footer::read(&golden("pack-footer")), Ok(footer()));
    assert_eq!(pack::read_trailer(&golden("pack-trailer")), Ok(436));
    assert_eq!(Index::read(&golden("index")), Ok(index()));
    assert_eq!(Run::read(&golden("run-delta")), Ok(delta()));
    assert_eq!(Run::read(&golden("run-base")), Ok(base()));
    assert_eq!(read_page(&golden("run-page")), Ok(delta().chunks));
    assert_eq!(Manifest::read(&golden("manifest")), Ok(manifest()));
    assert_eq!(Intent::read(&golden("intent")), Ok(intent()));
    assert_eq!(Lease::read(&golden("lease")), Ok(lease()));
    for event in events() {
        let bytes = golden(&format!("ledger-{}", event.kind()));
        assert_eq!(Entry::read(&bytes), Ok(entry(event)));
    }
    let bytes = golden("filter");
    let read = Filter::read(&bytes).unwrap();
    assert!(read.may_contain(&shared().key_filter_hash(b"key")));
    assert!(!read.may_contain(&shared().key_filter_hash(b"kez")));
    let bytes = golden("filter-coded");
    let read = Filter::read(&bytes).unwrap();
    assert!(read.may_contain(&shared().value_filter_hash(3, b"cell")));
    assert!(!read.may_contain(&shared().value_filter_hash(3, b"cels")));
}

#[test]
fn golden_seals_open() {
    let keys = shared();
    let opened = REALM.open_object(
        Kind::Ledger,
        PLACE,
        &golden("sealed-object"),
        &keys.metadata,
    );
    assert_eq!(opened.unwrap(), (signer().id(), b"the body".to_vec()));
    let sealed = golden("sealed-chunk");
    let opened = REALM.open_chunk(&facts(CONTENT), &sealed, &session(), None);
    assert_eq!(opened.unwrap(), CONTENT);
}

#[test]
fn golden_objects_are_written_to_the_same_bytes() {
    let all = vectors();
    for (name, bytes) in &all {
        // zstd may find a shorter frame one day; what it seals is compared by opening it.
        if !name.starts_with("sealed-") {
            assert!(golden(name) == *bytes, "{name} is written otherwise now");
        }
    }
    let files = fs::read_dir(directory()).unwrap().count();
    assert_eq!(files, all.len(), "a file without a vector");
}

#[test]
fn a_kind_that_may_be_skipped_is_skipped() {
    let mut unknown = entry(events().remove(2)).write();
    let at = unknown.windows(8).position(|window| window == b"verified");
    let at = at.unwrap();
    unknown[at..at + 8].copy_from_slice(b"admired!");
    let read = Entry::read(&unknown).unwrap();
    assert_eq!(read.event, Event::Unknown("admired!".into()));
}

#[test]
#[ignore = "writes the vectors anew: for a new format version only"]
fn write_golden_objects() {
    let directory = directory();
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    for (name, bytes) in vectors() {
        fs::write(directory.join(name), bytes).unwrap();
    }
    assert_eq!(object::VERSION, 1);
}
