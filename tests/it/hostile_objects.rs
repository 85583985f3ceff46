//! The hostile corpus of everything at rest that is not a key: each file is refused by name.
//!
//! The files stand in tests/golden/hostile/objects; what reads one is said by the first word of
//! its name. `write_hostile_objects` makes them anew from the vectors.

use std::fs;
use std::path::PathBuf;

use rowvault::crypto::key::SymmetricKey;
use rowvault::crypto::seal::{self, NONCE_BYTES};
use rowvault::failure::{Class, Failure};
use rowvault::format::filter::Filter;
use rowvault::format::index::Index;
use rowvault::format::ledger::Entry;
use rowvault::format::manifest::Manifest;
use rowvault::format::object::{Header, Kind, write_body};
use rowvault::format::pack::{self, ChunkKind, Codec, Footer};
use rowvault::format::run::{Run, RunChunk, read_page, write_page};
use rowvault::id::RepositoryId;
use rowvault::repo::blob::{self, ChunkFacts, Realm};

use crate::golden_objects::{
    CONTENT, PLACE, REALM, base, chunk, delta, entry, events, facts, footer, index, manifest,
    pack_head, random, run_chunk, sealed_chunk, sealed_object, session, shared, signer,
};

fn directory() -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    [root, "tests", "golden", "hostile", "objects"]
        .iter()
        .collect()
}

/// A hostile file: its bytes, and what must be said of it.
struct Hostile {
    name: &'static str,
    bytes: Vec<u8>,
    class: Class,
    says: &'static str,
}

/// What reads a hostile file, by the first word of its name.
fn refusal(name: &str, bytes: &[u8]) -> Result<(), (Class, String)> {
    fn told<T, E: Failure>(answer: Result<T, E>) -> Result<(), (Class, String)> {
        let failed = |error: E| (error.class(), error.to_string());
        answer.map(drop).map_err(failed)
    }
    let keys = shared();
    match name.split('-').next().unwrap() {
        "object" => told(REALM.open_object(Kind::Ledger, PLACE, bytes, &keys.metadata)),
        "chunk" => told(REALM.open_chunk(&facts(CONTENT), bytes, &session(), None)),
        "head" => told(pack::Head::read(bytes)),
        "footer" => told(Footer::read(bytes)),
        "trailer" => told(pack::read_trailer(bytes)),
        "index" => told(Index::read(bytes)),
        "manifest" => told(Manifest::read(bytes)),
        "run" => told(Run::read(bytes)),
        "page" => told(read_page(bytes)),
        "entry" => told(Entry::read(bytes)),
        "filter" => told(Filter::read(bytes)),
        other => panic!("nothing reads {other}"),
    }
}

/// A sealed object whose content is not what an honest writer seals.
fn forged(length: u32, signature: [u8; 64], packed: &[u8]) -> Vec<u8> {
    let keys = shared();
    let header = Header {
        kind: Kind::Ledger,
        epoch: 1,
        check: keys.metadata.check_value(),
        nonce: [9; 24],
    };
    let mut associated = header.write().to_vec();
    associated.extend(REALM.repository.0);
    associated.extend(PLACE.as_bytes());
    let mut body = length.to_le_bytes().to_vec();
    body.extend(signer().id().0);
    body.extend(signature);
    body.extend(packed);
    seal::seal(&keys.metadata, &header.nonce, &associated, &mut body);
    [header.write().to_vec(), body].concat()
}

fn with(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

fn hostile_objects() -> Vec<Hostile> {
    let keys = shared();
    let seal = |realm: Realm, kind, place: &str, key: &SymmetricKey| {
        realm.seal_object(kind, place, b"the body", (key, &signer()), &random())
    };
    let metadata = &keys.metadata;
    let repository = RepositoryId([0x12; 16]);
    let elsewhere = Realm {
        repository,
        ..REALM
    };
    let later = Realm { epoch: 2, ..REALM };
    let second = PLACE.replace("01", "02");
    let corrupt = |name, bytes, says| Hostile {
        name,
        bytes,
        class: Class::Corrupt,
        says,
    };
    let bomb = blob::compress(&vec![0; 64 << 20], None);
    let sealed = sealed_object();
    let cut = sealed[..sealed.len() - 1].to_vec();
    vec![
        corrupt("object-empty", Vec::new(), "too early"),
        corrupt("object-short", sealed[..39].to_vec(), "too early"),
        corrupt(
            "object-foreign",
            with(sealed.clone(), 0, b'X'),
            "no rowvault",
        ),
        Hostile {
            class: Class::Invalid,
            ..corrupt("object-newer", with(sealed.clone(), 4, 2), "version 2")
        },
        corrupt(
            "object-other-kind",
            seal(REALM, Kind::Manifest, PLACE, metadata),
            "a manifest",
        ),
        corrupt(
            "object-no-kind",
            with(sealed.clone(), 5, 200),
            "unknown kind 200",
        ),
        corrupt(
            "object-kind-altered",
            with(seal(REALM, Kind::Manifest, PLACE, metadata), 5, 3),
            "authentication",
        ),
        corrupt(
            "object-other-epoch",
            seal(later, Kind::Ledger, PLACE, metadata),
            "epoch 2",
        ),
        corrupt(
            "object-epoch-altered",
            with(seal(later, Kind::Ledger, PLACE, metadata), 6, 1),
            "authentication",
        ),
        corrupt(
            "object-other-key",
            seal(REALM, Kind::Ledger, PLACE, &keys.index),
            "another key",
        ),
        corrupt(
            "object-check-altered",
            with(sealed.clone(), 8, sealed[8] ^ 1),
            "another key",
        ),
        corrupt(
            "object-nonce-altered",
            with(sealed.clone(), 16, sealed[16] ^ 1),
            "authentication",
        ),
        corrupt(
            "object-body-altered",
            with(sealed.clone(), 60, sealed[60] ^ 1),
            "authentication",
        ),
        corrupt("object-cut", cut, "authentication"),
        corrupt(
            "object-longer",
            [sealed.clone(), vec![0]].concat(),
            "authentication",
        ),
        corrupt(
            "object-moved",
            seal(REALM, Kind::Ledger, &second, metadata),
            "authentication",
        ),
        corrupt(
            "object-other-repository",
            seal(elsewhere, Kind::Ledger, PLACE, metadata),
            "authentication",
        ),
        corrupt(
            "object-signed-by-nobody",
            forged(8, [0; 64], &blob::compress(b"the body", None)),
            "signature",
        ),
        corrupt(
            "object-bomb",
            forged(8, [0; 64], &bomb),
            "decompress to 8 bytes",
        ),
        corrupt(
            "object-claims-4-gib",
            forged(u32::MAX, [0; 64], &bomb),
            "decompress to 4294967295",
        ),
        corrupt(
            "object-no-frame",
            forged(8, [0; 64], b"not zstd"),
            "decompress",
        ),
    ]
}

fn hostile_chunks() -> Vec<Hostile> {
    let whole = facts(CONTENT);
    let packed = blob::compress(CONTENT, None);
    let seal = |realm: Realm, facts: &ChunkFacts, packed: &[u8]| {
        let mut chunk = [&[0; NONCE_BYTES], packed].concat();
        realm.seal_chunk(facts, &mut chunk, &session(), &random());
        chunk
    };
    let corrupt = |name, bytes, says| Hostile {
        name,
        bytes,
        class: Class::Corrupt,
        says,
    };
    let elsewhere = Realm {
        repository: RepositoryId([0x12; 16]),
        ..REALM
    };
    let other = facts(b"another row");
    let bomb = blob::compress(&vec![0; 64 << 20], None);
    let moved = ChunkFacts {
        kind: ChunkKind::Structure,
        ..whole
    };
    let longer = ChunkFacts {
        raw_length: 48,
        ..whole
    };
    let stored = ChunkFacts {
        codec: Codec::Stored,
        ..whole
    };
    let dictionary = ChunkFacts {
        dictionary: Some(chunk(9)),
        ..whole
    };
    vec![
        corrupt(
            "chunk-short",
            sealed_chunk()[..39].to_vec(),
            "authentication",
        ),
        corrupt(
            "chunk-altered",
            with(sealed_chunk(), 30, 0),
            "authentication",
        ),
        corrupt(
            "chunk-swapped",
            seal(REALM, &other, &blob::compress(b"another row", None)),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-kind",
            seal(REALM, &moved, &packed),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-length",
            seal(REALM, &longer, &packed),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-codec",
            seal(REALM, &stored, CONTENT),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-dictionary",
            seal(REALM, &dictionary, &packed),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-repository",
            seal(elsewhere, &whole, &packed),
            "authentication",
        ),
        corrupt(
            "chunk-of-another-epoch",
            seal(Realm { epoch: 2, ..REALM }, &whole, &packed),
            "authentication",
        ),
        corrupt(
            "chunk-bomb",
            seal(REALM, &whole, &bomb),
            "decompress to 47 bytes",
        ),
        corrupt(
            "chunk-shorter-than-it-says",
            seal(REALM, &whole, &blob::compress(b"a row", None)),
            "decompress",
        ),
    ]
}

/// An entry of the footer, with one field put to `bytes`.
fn footer_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = footer().write();
    // The first entry starts after two counts and one dictionary.
    let start = 4 + 32 + 4 + at;
    out[start..start + bytes.len()].copy_from_slice(bytes);
    out
}

fn hostile_packs() -> Vec<Hostile> {
    let corrupt = |name, bytes, says| Hostile {
        name,
        bytes,
        class: Class::Corrupt,
        says,
    };
    let head = pack_head().write();
    let mut longer = footer().write();
    longer.push(0);
    let mut countless = footer().write();
    countless[36..40].copy_from_slice(&u32::MAX.to_le_bytes());
    vec![
        corrupt("head-short", head[..100].to_vec(), "too early"),
        corrupt(
            "head-foreign",
            with(head.clone(), 0, b'X'),
            "no rowvault pack",
        ),
        Hostile {
            class: Class::Invalid,
            ..corrupt("head-newer", with(head.clone(), 4, 9), "version 9")
        },
        corrupt("head-flags", with(head.clone(), 5, 1), "flags 1"),
        corrupt("head-padding", with(head.clone(), 10, 1), "padding 1"),
        corrupt(
            "head-65535-sessions",
            with(with(head.clone(), 8, 255), 9, 255),
            "too early",
        ),
        corrupt("footer-cut", footer().write()[..300].to_vec(), "too early"),
        corrupt("footer-longer", longer, "1 bytes follow"),
        corrupt("footer-4-billion-chunks", countless, "too early"),
        corrupt(
            "footer-unknown-kind",
            footer_with(32, &[99]),
            "chunk kind 99",
        ),
        corrupt("footer-unknown-codec", footer_with(33, &[7]), "codec 7"),
        corrupt(
            "footer-rows-under-the-metadata-key",
            footer_with(34, &[0, 0]),
            "session 0",
        ),
        corrupt(
            "footer-no-such-dictionary",
            footer_with(36, &[2, 0]),
            "dictionary 2",
        ),
        corrupt(
            "footer-too-short-a-chunk",
            footer_with(42, &[39, 0, 0, 0]),
            "session",
        ),
        corrupt(
            "footer-2-gib-chunk",
            footer_with(46, &[0, 0, 0, 128]),
            "raw length 2147483648",
        ),
        corrupt(
            "trailer-foreign",
            b"\x40\0\0\0RWVX".to_vec(),
            "no rowvault pack",
        ),
        corrupt("trailer-short", vec![1, 2], "too early"),
        corrupt(
            "trailer-no-footer",
            pack::write_trailer(39).to_vec(),
            "footer length 39",
        ),
    ]
}

fn hostile_bodies() -> Vec<Hostile> {
    let feature = || vec!["sharing".to_owned()];
    let corrupt = |name, bytes, says| Hostile {
        name,
        bytes,
        class: Class::Corrupt,
        says,
    };
    let newer = |name, bytes| Hostile {
        class: Class::Invalid,
        ..corrupt(name, bytes, "needs feature \"sharing\"")
    };
    let misordered = Run {
        chunks: vec![run_chunk(1, 10), run_chunk(2, 0)],
        ..delta()
    };
    let both = Run {
        pages: base().pages,
        ..delta()
    };
    let keyless = RunChunk {
        first: Vec::new(),
        last: Vec::new(),
        cells: Vec::new(),
        filters: Vec::new(),
        ..run_chunk(1, 0)
    };
    let crowded = vec![keyless; 1025];
    let zero = Entry {
        number: 0,
        ..entry(events().remove(0))
    };
    let orphan = Entry {
        previous: None,
        ..entry(events().remove(0))
    };
    let mut unknown = entry(events().remove(1)).write();
    let at = unknown
        .windows(9)
        .position(|window| window == b"forgotten")
        .unwrap();
    unknown[at..at + 9].copy_from_slice(b"abolished");
    vec![
        newer(
            "index-feature",
            Index {
                required: feature(),
                ..index()
            }
            .write(),
        ),
        corrupt(
            "index-longer",
            [index().write(), vec![0xc0]].concat(),
            "1 bytes follow",
        ),
        corrupt(
            "index-cut",
            index().write()[..200].to_vec(),
            "cannot be decoded",
        ),
        corrupt("index-deep", vec![0x91; 10_000], "cannot be decoded"),
        corrupt(
            "index-claims-4-billion",
            vec![0xdd, 255, 255, 255, 255],
            "cannot be decoded",
        ),
        newer(
            "manifest-feature",
            Manifest {
                required: feature(),
                ..manifest()
            }
            .write(),
        ),
        corrupt("manifest-of-a-run", delta().write(), "cannot be decoded"),
        newer(
            "run-feature",
            Run {
                required: feature(),
                ..delta()
            }
            .write(),
        ),
        corrupt("run-out-of-order", misordered.write(), "out of key order"),
        corrupt(
            "run-pages-beside-chunks",
            both.write(),
            "pages beside chunks",
        ),
        corrupt(
            "page-out-of-order",
            write_page(&misordered.chunks),
            "out of key order",
        ),
        corrupt(
            "page-of-1025-chunks",
            write_page(&crowded),
            "chunk count 1025",
        ),
        corrupt("page-of-text", write_body(&"page"), "cannot be decoded"),
        Hostile {
            class: Class::Invalid,
            ..corrupt(
                "entry-unknown-required",
                unknown,
                "needs feature \"abolished\"",
            )
        },
        corrupt("entry-zero", zero.write(), "number 0"),
        corrupt("entry-without-the-one-before", orphan.write(), "number 42"),
        Hostile {
            class: Class::Invalid,
            ..corrupt("filter-newer", vec![3, 7, 0], "version 3")
        },
        corrupt("filter-coded-short", vec![2, 16, 1, 0, 0], "too early"),
        corrupt(
            "filter-coded-power",
            vec![2, 33, 1, 0, 0, 0, 0xff],
            "a power of 33",
        ),
        corrupt(
            "filter-coded-count",
            vec![2, 16, 2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            "a count of entries of 2",
        ),
        corrupt("filter-without-bits", vec![1, 7], "too early"),
        corrupt("filter-255-probes", vec![1, 255, 0], "probe count of 255"),
    ]
}

fn hostile() -> Vec<Hostile> {
    let mut all = hostile_objects();
    all.extend(hostile_chunks());
    all.extend(hostile_packs());
    all.extend(hostile_bodies());
    all
}

#[test]
fn hostile_objects_are_refused_by_name() {
    let all = hostile();
    for one in &all {
        let bytes = fs::read(directory().join(one.name))
            .unwrap_or_else(|error| panic!("{}: {error}", one.name));
        match refusal(one.name, &bytes) {
            Ok(()) => panic!("{} was taken", one.name),
            Err((class, text)) => {
                assert_eq!(class, one.class, "{}: {text}", one.name);
                assert!(text.contains(one.says), "{}: {text}", one.name);
            }
        }
    }
    let files = fs::read_dir(directory()).unwrap().count();
    assert_eq!(files, all.len(), "a hostile file that nothing refuses");
    println!("{files} hostile files refused");
}

#[test]
#[ignore = "writes the corpus anew: for a new format version only"]
fn write_hostile_objects() {
    let directory = directory();
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    for one in hostile() {
        fs::write(directory.join(one.name), one.bytes).unwrap();
    }
}
