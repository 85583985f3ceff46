//! A writer that may not forget hides nothing: not by forgetting, nor by any entry to that effect.

use std::sync::Arc;

use rowvault::clock::Timestamp;
use rowvault::format::keyring::Sources;
use rowvault::format::keyslot::text::{KeyFile, WriterKey};
use rowvault::format::ledger::{
    Event, Forgotten, Head, Reason, SUMMARY_EVERY, SnapshotRecord, Summary, Treated, Verified,
};
use rowvault::id::{ObjectId, SourceName};
use rowvault::job::Opened;
use rowvault::repo::keys::writer::{Rights, draw_key, enrol};
use rowvault::repo::ledger::{self, Appended, Author};

use crate::tiny::{Holding, Tiny, directory};

async fn add(opened: &Opened, source: &SourceName, head: Head, event: Event) -> Head {
    let author = Author {
        source,
        host: "elsewhere",
        heads: &[].into(),
    };
    match ledger::append(&opened.vault, &author, Some(head), event).await {
        Ok(Appended::Ours(head)) => head,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writer_without_the_right_to_forget_takes_nothing_away() {
    let tiny = Tiny::make(3, Holding::TwoDays).await;
    let owner = tiny.open().await;
    let name: SourceName = "crm".parse().unwrap();
    let catalog = owner.catalog().await.unwrap();
    let records: Vec<SnapshotRecord> = catalog
        .snapshots()
        .iter()
        .map(|one| one.record.clone())
        .collect();
    let pin = Treated {
        snapshot: records[0].id,
        text: "audit".into(),
        until: None,
    };
    let reason = |text: &str| Reason { text: text.into() };
    let mut head = catalog.sources[&name].head().unwrap();
    head = add(&owner, &name, head, Event::Pinned(pin.clone())).await;
    head = add(&owner, &name, head, Event::Frozen(reason("odd deletions"))).await;

    let key = draw_key(&owner.vault, "web-1").unwrap();
    let rights = Rights {
        sources: Sources::All,
        may_forget: false,
    };
    enrol(&owner.vault, &owner.keyring, &key, rights)
        .await
        .unwrap();
    let writer = open_writer(&tiny, key).await;
    let hostile = [
        Event::Forgotten(Forgotten {
            snapshots: records.iter().map(|record| record.id).collect(),
            reason: "none".into(),
        }),
        Event::Unpinned(pin.clone()),
        Event::Thawed(reason("none")),
        Event::Snapshot(SnapshotRecord {
            manifest: ObjectId([9; 32]),
            ..records[0].clone()
        }),
        Event::Snapshot(SnapshotRecord {
            manifest: ObjectId([9; 32]),
            replaces: Some("erasure".into()),
            ..records[1].clone()
        }),
    ];
    for event in hostile {
        head = add(&writer, &name, head, event).await;
    }
    let idle = Event::Verified(Verified {
        snapshots: Vec::new(),
        data_percent: 0,
    });
    while head.number + 1 < SUMMARY_EVERY {
        head = add(&writer, &name, head, idle.clone()).await;
    }
    let nothing = Summary {
        snapshots: Vec::new(),
        verified_at: [("x".to_owned(), Timestamp(0))].into(),
        pins: Vec::new(),
        frozen: None,
    };
    head = add(&writer, &name, head, Event::Summary(nothing)).await;
    add(&writer, &name, head, idle).await;

    // A client that never saw this repository, and the one that made it.
    let state = directory();
    let fresh = tiny.machine.open(&tiny.storage, &tiny.key, state.path());
    let fresh = fresh.await.unwrap();
    // The second time each knows a long ledger, and lists its end at first.
    for opened in [&fresh, &tiny.open().await, &fresh, &tiny.open().await] {
        let catalog = opened.catalog().await.unwrap();
        let source = &catalog.sources[&name];
        let living: Vec<SnapshotRecord> = source
            .snapshots
            .iter()
            .map(|one| one.record.clone())
            .collect();
        assert_eq!(living, records);
        assert_eq!(source.snapshots[0].pins, std::slice::from_ref(&pin));
        assert_eq!(source.frozen.as_deref(), Some("odd deletions"));
        assert_eq!(source.head().unwrap().number, SUMMARY_EVERY + 1);
    }
}

async fn open_writer(tiny: &Tiny, key: WriterKey) -> Arc<Opened> {
    let text = key.text().unwrap();
    assert!(matches!(KeyFile::parse(&text), Ok(KeyFile::Writer(_))));
    let state = directory();
    let opened = tiny
        .machine
        .open(&tiny.storage, &text, state.path())
        .await
        .unwrap();
    Arc::new(opened)
}
