//! `forget`, `prune`, `pin`, `unpin` and `tag` as they are typed.

use serde_json::Value;

use crate::cli_desk::{Desk, fields};

/// A desk with three snapshots of `crm`, oldest first.
fn three_snapshots() -> (Desk, Vec<String>) {
    let desk = Desk::with_repository();
    let taken = ["one", "two", "three"].map(|tag| {
        let taken = desk.run(&["backup", "--json", "sqlite:crm.db", "--tag", tag]);
        text(&taken.json()["snapshots"][0]["id"])
    });
    (desk, taken.to_vec())
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn ids(desk: &Desk) -> Vec<String> {
    let listed = desk.run(&["snapshots", "--json"]).json();
    let listed = listed["snapshots"].as_array().unwrap().iter();
    listed.map(|one| text(&one["id"])).collect()
}

#[test]
fn forget_without_a_rule_is_refused_and_forgets_nothing() {
    let (desk, taken) = three_snapshots();
    let before = desk.run(&["ledger", "--json"]).out;
    for words in [
        &["forget"][..],
        &["forget", "crm"],
        &["forget", "--json"],
        &["forget", "crm", "--keep-last", "0"],
    ] {
        let ran = desk.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {ran:?}");
        assert!(ran.err.contains("keep"), "{ran:?}");
        assert_eq!(ran.out, "");
    }
    desk.run(&["forget", "shop", "--keep-last", "1"])
        .refused(1, "no source shop");
    assert_eq!(desk.run(&["ledger", "--json"]).out, before);
    assert_eq!(ids(&desk), taken);
}

#[test]
fn forget_tells_its_plan_and_then_does_it() {
    let (desk, taken) = three_snapshots();
    let words = ["forget", "crm", "--keep-last", "1", "--keep-tag", "one"];
    let dry = desk.run(&[&words[..], &["--dry-run", "--json"]].concat());
    assert_eq!(ids(&desk), taken, "a dry run forgot something");
    let planned = desk.run(&[&words[..], &["--dry-run"]].concat());
    assert!(planned.out.contains("FORGET"), "{planned:?}");
    assert!(planned.out.contains("last 1 of 1, newest"), "{planned:?}");
    assert!(planned.out.contains("tag one"), "{planned:?}");
    let done = desk.run(&[&words[..], &["--json"]].concat()).json();
    assert_eq!(dry.json(), done);
    assert_eq!(fields(&done), ["kept", "forgotten"]);
    assert_eq!(done["forgotten"], serde_json::json!([taken[1]]));
    assert_eq!(fields(&done["kept"][0]), ["id", "reasons"]);
    assert_eq!(done["kept"][0]["reasons"][0], "tag one");
    assert_eq!(ids(&desk), [taken[0].clone(), taken[2].clone()]);
    let again = desk.run(&words);
    assert!(
        again.out.contains("2 snapshots to keep, 0 to forget"),
        "{again:?}"
    );
    assert!(again.out.ends_with("forgot 0 snapshots\n"), "{again:?}");
}

#[test]
fn rules_of_the_configuration_are_kept_and_flags_stand_for_them() {
    let (desk, taken) = three_snapshots();
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = \"sqlite:crm.db\"\nkeep = { last = 2 }\n",
    );
    let planned = desk.run(&["forget", "--json", "--dry-run"]).json();
    assert_eq!(planned["forgotten"], serde_json::json!([taken[0]]));
    let planned = desk.run(&["forget", "--json", "--dry-run", "--keep-last", "1"]);
    let gone = planned.json()["forgotten"].as_array().unwrap().len();
    assert_eq!(gone, 2);
    // A source without rules stays, and that is said.
    let other = ["backup", "sqlite:crm.db", "--name", "shop", "-q"];
    assert_eq!(desk.run(&other).code, 0);
    let ran = desk.run(&["forget"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.err.contains("no rule says what to keep of shop"),
        "{ran:?}"
    );
    assert_eq!(ids(&desk).len(), 3);
}

#[test]
fn pins_and_tags_hold_until_they_are_taken_away() {
    let (desk, taken) = three_snapshots();
    let first = &taken[0][..8];
    let pinned = desk
        .run(&["pin", first, "--reason", "court", "--json"])
        .json();
    assert_eq!(
        pinned,
        serde_json::json!({"pinned": taken[0], "reason": "court", "until": null})
    );
    let forget = ["forget", "--keep-last", "1", "--json"];
    let kept = desk.run(&forget).json();
    assert_eq!(kept["kept"][0]["reasons"][0], "pinned: court");
    assert_eq!(kept["forgotten"], serde_json::json!([taken[1]]));
    let tagged = desk.run(&["tag", first, "audit", "2026", "--json"]).json();
    assert_eq!(tagged["tags"], serde_json::json!(["one", "audit", "2026"]));
    desk.run(&["tag", first, ""]).refused(2, "no tag");
    desk.run(&["pin", first, "--until", "soon"])
        .refused(2, "no day");
    let unpinned = desk.run(&["unpin", first, "--json"]).json();
    assert_eq!(
        unpinned,
        serde_json::json!({"unpinned": taken[0], "pins": 1})
    );
    let gone = desk.run(&forget).json();
    assert_eq!(gone["forgotten"], serde_json::json!([taken[0]]));
    // A pin that has run out holds nothing.
    let last = ["pin", "latest", "--until", "2020-01-01", "--json"];
    assert_eq!(desk.run(&last).json()["until"], "2020-01-01T23:59:59Z");
}

#[test]
fn prune_tells_its_plan_and_a_writer_without_the_right_is_denied() {
    let (desk, _) = three_snapshots();
    desk.run(&["key", "writer", "--name", "db1", "--out", "db1.key"]);
    desk.run_as("db1.key", &["prune"])
        .refused(6, "may not prune");
    desk.run_as("db1.key", &["forget", "--keep-last", "1"])
        .refused(6, "may not forget");
    assert_eq!(desk.run(&["forget", "--keep-last", "1", "-q"]).code, 0);
    let before = desk.names("repo/manifests");
    let dry = desk.run(&["prune", "--dry-run", "--json"]).json();
    assert_eq!(
        fields(&dry),
        [
            "packs_deleted",
            "packs_rewritten",
            "bytes_freed",
            "bytes_marked",
            "manifests_deleted",
            "packs_waiting",
            "bytes_waiting",
            "running",
            "locked",
            "locked_until",
            "withheld",
            "dry_run"
        ]
    );
    assert_eq!(
        (&dry["manifests_deleted"], &dry["dry_run"]),
        (&2.into(), &true.into())
    );
    assert_eq!(desk.names("repo/manifests"), before);
    let done = desk.run(&["prune", "--max-delete", "100%"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.starts_with("plan:\n"), "{done:?}");
    assert!(done.out.contains("\nfreed "), "{done:?}");
    assert_eq!(desk.run(&["verify", "--data", "all"]).code, 0);
    desk.run(&["prune", "--max-delete", "30"])
        .refused(2, "0% to 100%");
    desk.write(
        "rowvault.toml",
        "[repository]\nmaintenance_host = \"elsewhere\"\n",
    );
    desk.run(&["prune"]).refused(2, "only elsewhere maintain");
}
