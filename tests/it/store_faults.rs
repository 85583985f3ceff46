//! Faults of storage, as far as the store itself must answer for them.
//!
//! Time is virtual: pauses and deadlines cost nothing, and a test that would wait for ever fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rowvault::clock::{Clock, ManualClock, Timestamp};
use rowvault::failure::{Class, Failure};
use rowvault::id::{ObjectId, SourceHash};
use rowvault::random::SeededRandom;
use rowvault::store::fault::{Conditions, Failing, Fault, FaultStore, Operation, Rule, Stop, When};
use rowvault::store::probe::{Conditional, probe};
use rowvault::store::{Created, Error, ObjectPath, Prefix, Replaced, Store, StoreOptions};

const LEDGER: SourceHash = SourceHash([5; 16]);
const TRANSIENT: [Failing; 6] = [
    Failing::Reset,
    Failing::Status(408),
    Failing::Status(429),
    Failing::Status(500),
    Failing::Code(503, "SlowDown"),
    Failing::Status(502),
];

fn rig() -> (FaultStore, Store) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000)));
    let fault = FaultStore::new(clock);
    let store = fault.open(&StoreOptions::default(), Arc::new(SeededRandom::new(1)));
    (fault, store)
}

fn pack(text: &str) -> (ObjectPath, Bytes) {
    let id = ObjectId(*blake3::hash(text.as_bytes()).as_bytes());
    (ObjectPath::Pack(id), Bytes::from(text.to_owned()))
}

fn entry(number: u64) -> ObjectPath {
    ObjectPath::Ledger(LEDGER, number, None)
}

fn lease() -> ObjectPath {
    ObjectPath::Lease("maintain".into())
}

/// One of each request on a storage that holds a pack and a lease; the error of the one that fails.
async fn ask(store: &Store, operation: Operation) -> Result<(), Error> {
    let (path, body) = pack("a pack");
    match operation {
        Operation::Put => store.put(&path, body).await,
        Operation::Create => {
            let created = store
                .create(&entry(1), "entry ours".into(), b"ours")
                .await?;
            assert_eq!(created, Created::Ours);
            Ok(())
        }
        Operation::Update => {
            let seen = store.get_versioned(&lease()).await?;
            let body = Bytes::from("lease of ours");
            let replaced = store.replace(&lease(), body, &seen.version).await?;
            assert!(matches!(replaced, Replaced::Ours(_)), "{replaced:?}");
            Ok(())
        }
        Operation::Get => {
            assert_eq!(store.get(&path).await?, body);
            assert_eq!(store.get_range(&path, 2..6).await?, "pack");
            Ok(())
        }
        Operation::Head => {
            assert_eq!(store.head(&path).await?.length, 6);
            Ok(())
        }
        Operation::List => {
            assert_eq!(store.list(Prefix::Packs).await?.objects.len(), 1);
            Ok(())
        }
        Operation::Delete => store.delete(&path).await,
    }
}

const OPERATIONS: [Operation; 7] = [
    Operation::Put,
    Operation::Create,
    Operation::Update,
    Operation::Get,
    Operation::Head,
    Operation::List,
    Operation::Delete,
];

fn furnish(fault: &FaultStore) {
    let (path, body) = pack("a pack");
    fault.plant(&path.to_path(), body);
    fault.plant(&lease().to_path(), "lease of nobody");
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_of_any_request_is_retried_and_succeeds() {
    for operation in OPERATIONS {
        for failing in TRANSIENT {
            for fault_kind in [Fault::Fail(failing), Fault::LoseAnswer(failing)] {
                let (fault, store) = rig();
                furnish(&fault);
                fault.add(Rule::on(operation, When::First(2), fault_kind));
                let asked = ask(&store, operation).await;
                assert!(asked.is_ok(), "{operation:?} {fault_kind:?}: {asked:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_ends_in_an_error_that_says_what_is_known() {
    for operation in OPERATIONS {
        for failing in TRANSIENT {
            let (fault, store) = rig();
            furnish(&fault);
            fault.add(Rule::on(operation, When::Always, Fault::Fail(failing)));
            let asked = tokio::time::timeout(Duration::from_secs(600), ask(&store, operation));
            let error = asked.await.expect("it ends").unwrap_err();
            let expected = match operation {
                Operation::Create | Operation::Update => Class::Unsettled,
                _ => Class::Transient,
            };
            assert_eq!(
                error.class(),
                expected,
                "{operation:?} {failing:?}: {error}"
            );
            let tries = fault
                .performed()
                .iter()
                .filter(|one| one.operation == operation)
                .count();
            assert_eq!(tries, 10, "{operation:?} {failing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn denied_and_unsupported_requests_are_never_retried() {
    for operation in OPERATIONS {
        for (failing, class) in [
            (Failing::Code(403, "AccessDenied"), Class::Denied),
            (Failing::Status(401), Class::Denied),
            (Failing::Code(400, "ExpiredToken"), Class::Denied),
            (Failing::Status(501), Class::Invalid),
            (Failing::Code(404, "NoSuchBucket"), Class::Invalid),
            (Failing::Status(301), Class::Invalid),
            (Failing::Status(507), Class::Transient),
            (Failing::Code(403, "QuotaExceeded"), Class::Transient),
        ] {
            let (fault, store) = rig();
            furnish(&fault);
            fault.add(Rule::on(operation, When::Always, Fault::Fail(failing)));
            let error = ask(&store, operation).await.unwrap_err();
            assert_eq!(error.class(), class, "{operation:?} {failing:?}: {error}");
            assert!(error.hint().is_some());
            let tries = fault
                .performed()
                .iter()
                .filter(|one| one.operation == operation)
                .count();
            assert_eq!(tries, 1, "{operation:?} {failing:?}");
        }
    }
}

/// What a client does in its life, each step checked; errors come out.
async fn life(store: &Store) -> Result<(), Error> {
    let (path, body) = pack("chunks of this life");
    store.put(&path, body.clone()).await?;
    let created = store
        .create(&entry(1), "entry one mine".into(), b"mine")
        .await?;
    assert_eq!(created, Created::Ours);
    let listing = store.list(Prefix::Ledger(LEDGER)).await?;
    assert_eq!(listing.objects.len(), 1);
    assert_eq!(store.get(&path).await?, body);
    assert_eq!(store.head(&path).await?.length, body.len() as u64);
    store
        .create(&lease(), "lease 1 mine".into(), b"mine")
        .await?;
    let seen = store.get_versioned(&lease()).await?;
    let next = Bytes::from(format!("{} and on", String::from_utf8_lossy(&seen.bytes)));
    let replaced = store.replace(&lease(), next, &seen.version).await?;
    assert!(matches!(replaced, Replaced::Ours(_)));
    store.delete(&path).await?;
    assert_eq!(store.list(Prefix::Packs).await?.objects, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_single_request_of_a_life_changes_nothing_of_it() {
    let (fault, store) = rig();
    life(&store).await.unwrap();
    let (requests, expected) = (fault.count(), fault.objects());
    let mut points = 0;
    for number in 1..=requests {
        for failing in TRANSIENT
            .into_iter()
            .chain([Failing::Status(409), Failing::Status(412)])
        {
            let condition = matches!(failing, Failing::Status(409 | 412));
            for kind in [Fault::Fail(failing), Fault::LoseAnswer(failing)] {
                let (fault, store) = rig();
                fault.add(Rule::any(When::Nth(number), kind));
                let lived = life(&store).await;
                // Only a conditional write may be answered so; on others it is retried as well.
                assert!(lived.is_ok(), "{number} {kind:?} {condition}: {lived:?}");
                assert_eq!(fault.objects(), expected, "{number} {kind:?}");
                points += 1;
            }
        }
    }
    println!("{requests} requests, {points} single failures, none seen from above");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_died_at_any_request_can_live_again() {
    let (fault, store) = rig();
    life(&store).await.unwrap();
    let (requests, expected) = (fault.count(), fault.objects());
    for number in 1..=requests {
        for how in [Stop::Before, Stop::AfterEffect] {
            let (fault, store) = rig();
            fault.stop_at(number, how);
            assert!(life(&store).await.is_err(), "{number} {how:?}");
            fault.heal();
            // The lease, which its dead holder may have extended, runs out; here it is taken away.
            fault.lose(&lease().to_path());
            life(&store).await.unwrap();
            assert_eq!(fault.objects(), expected, "{number} {how:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_a_value_and_shows_the_winner() {
    for failing in [Failing::Status(409), Failing::Status(412), Failing::Reset] {
        let (fault, store) = rig();
        fault.plant(&entry(1).to_path(), "entry of another");
        fault.add(Rule::on(
            Operation::Create,
            When::First(1),
            Fault::Fail(failing),
        ));
        let created = store
            .create(&entry(1), "entry of mine".into(), b"mine")
            .await;
        assert_eq!(
            created.unwrap(),
            Created::Anothers("entry of another".into())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_outcome_cannot_be_read_is_unsettled() {
    let (fault, store) = rig();
    let lost = Fault::LoseAnswer(Failing::Reset);
    fault.add(Rule::on(Operation::Create, When::Always, lost));
    fault.add(Rule::on(
        Operation::Get,
        When::Always,
        Fault::Fail(Failing::Status(503)),
    ));
    let error = store
        .create(&entry(1), "entry mine".into(), b"mine")
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Unsettled, "{error}");
    fault.heal();
    let created = store.create(&entry(1), "entry mine".into(), b"mine").await;
    assert_eq!(created.unwrap(), Created::Ours);
}

#[tokio::test(start_paused = true)]
async fn a_denial_after_an_unclear_write_is_unsettled_and_not_denied() {
    let (fault, store) = rig();
    fault.add(Rule::on(
        Operation::Create,
        When::Nth(1),
        Fault::Fail(Failing::Reset),
    ));
    fault.add(Rule::on(
        Operation::Create,
        When::Nth(2),
        Fault::Fail(Failing::Status(403)),
    ));
    let error = store
        .create(&entry(1), "entry mine".into(), b"mine")
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Unsettled, "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_conditions_writes_look_before_and_after() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let (fault, store) = rig();
        fault.set_conditions(conditions);
        let store = probe(&store).await.unwrap().apply(&store);
        let mine = Bytes::from("repository of mine");
        let path = ObjectPath::Repository;
        for _ in 0..2 {
            let created = store.create(&path, mine.clone(), b"mine").await;
            assert_eq!(created.unwrap(), Created::Ours);
        }
        let other = store.create(&path, "of another".into(), b"another").await;
        assert_eq!(other.unwrap(), Created::Anothers(mine.clone()));
        assert_eq!(fault.objects()[&path.to_path()], mine);

        store
            .create(&lease(), "lease 1".into(), b"1")
            .await
            .unwrap();
        let first = store.get_versioned(&lease()).await.unwrap().version;
        let replaced = store.replace(&lease(), "lease 2".into(), &first).await;
        assert!(matches!(replaced.unwrap(), Replaced::Ours(_)));
        let replaced = store.replace(&lease(), "lease 3".into(), &first).await;
        assert!(matches!(replaced.unwrap(), Replaced::Anothers(Some(_))));
    }
    let (fault, store) = rig();
    let store = store.with_conditions(rowvault::store::Conditions::LOOKED);
    fault.add(Rule::on(Operation::Put, When::Always, Fault::Vanish));
    let created = store.create(&ObjectPath::Repository, "mine".into(), b"mine");
    assert_eq!(created.await.unwrap_err().class(), Class::Unsettled);
}

#[tokio::test(start_paused = true)]
async fn a_torn_entry_of_our_own_is_never_taken_for_written() {
    let (fault, store) = rig();
    fault.add(Rule::on(
        Operation::Create,
        When::Nth(1),
        Fault::Torn(12, Some(Failing::Reset)),
    ));
    let created = store
        .create(&entry(1), "entry ours and more".into(), b"ours")
        .await;
    let error = created.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_torn_or_vanished_pack_is_found_by_looking() {
    let (path, body) = pack("a pack that is stored badly");
    let (fault, store) = rig();
    fault.add(Rule::on(
        Operation::Put,
        When::Nth(1),
        Fault::Torn(10, None),
    ));
    store.put(&path, body.clone()).await.unwrap();
    assert_eq!(store.head(&path).await.unwrap().length, 10);
    assert_eq!(store.get(&path).await.unwrap_err().class(), Class::Corrupt);
    store.put(&path, body.clone()).await.unwrap();
    assert_eq!(store.get(&path).await.unwrap(), body);

    let (fault, store) = rig();
    fault.add(Rule::on(Operation::Put, When::Nth(1), Fault::Vanish));
    store.put(&path, body).await.unwrap();
    assert!(store.head(&path).await.unwrap_err().is_missing());
}

#[tokio::test(start_paused = true)]
async fn a_list_error_never_looks_like_a_shorter_list() {
    for names in 0..5 {
        let (fault, store) = rig();
        for number in 0..4 {
            fault.plant(&entry(number).to_path(), "entry");
        }
        let broken = Fault::ListBreak(names, Failing::Status(500));
        fault.add(Rule::on(Operation::List, When::First(1), broken));
        let listing = store.list(Prefix::Ledger(LEDGER)).await.unwrap();
        assert_eq!(listing.objects.len(), 4, "the second listing is whole");

        fault.heal();
        fault.add(Rule::on(Operation::List, When::Always, broken));
        let error = store.list(Prefix::Ledger(LEDGER)).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert!(
            error.to_string().contains("the listing of ledger/"),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_page_gives_each_name_once() {
    let (fault, store) = rig();
    for number in 0..4 {
        fault.plant(&entry(number).to_path(), "entry");
    }
    fault.plant("ledger/README", "foreign");
    fault.add(Rule::on(Operation::List, When::Always, Fault::ListTwice));
    let listing = store.list(Prefix::Ledgers).await.unwrap();
    assert_eq!(listing.objects.len(), 4);
    assert_eq!(listing.foreign, ["ledger/README"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_does_not_fit_is_retried_once_and_never_believed() {
    let (path, body) = pack("a pack of some length, to be read in parts");
    let whole = [
        Fault::Short(1),
        Fault::Short(1000),
        Fault::Flip(77),
        Fault::Stale,
    ];
    let parts = [Fault::Short(1), Fault::Shifted, Fault::Whole];
    for (kinds, ranged) in [(whole.as_slice(), false), (parts.as_slice(), true)] {
        for kind in kinds {
            let (fault, store) = rig();
            fault.plant(&path.to_path(), "an older state");
            fault.plant(&path.to_path(), body.clone());
            let read = || async {
                if ranged {
                    store.get_range(&path, 7..11).await
                } else {
                    store.get(&path).await
                }
            };
            fault.add(Rule::on(Operation::Get, When::First(1), *kind));
            let expected = if ranged {
                body.slice(7..11)
            } else {
                body.clone()
            };
            assert_eq!(read().await.unwrap(), expected, "{kind:?}");

            fault.heal();
            fault.add(Rule::on(Operation::Get, When::Always, *kind));
            let before = fault.count();
            let error = read().await.unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{kind:?}: {error}");
            assert_eq!(fault.count() - before, 2, "{kind:?}: tried again once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_within_a_body_is_retried() {
    let (path, body) = pack("a pack whose second half is lost on the way");
    let (fault, store) = rig();
    fault.plant(&path.to_path(), body.clone());
    let lost = Fault::LoseAnswer(Failing::Reset);
    fault.add(Rule::on(Operation::Get, When::First(3), lost));
    assert_eq!(store.get(&path).await.unwrap(), body);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_ends_by_its_deadline_and_others_go_on() {
    let (path, body) = pack("a pack");
    for operation in OPERATIONS {
        let (fault, store) = rig();
        furnish(&fault);
        fault.add(Rule::on(operation, When::Always, Fault::Hang));
        let hanging = tokio::spawn({
            let store = store.clone();
            async move { ask(&store, operation).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        if operation != Operation::Get {
            let other = tokio::time::timeout(Duration::from_secs(1), store.get(&path));
            assert_eq!(other.await.expect("others go on").unwrap(), body);
        }
        let asked = tokio::time::timeout(Duration::from_secs(3600), hanging);
        let error = asked.await.expect("it ends").unwrap().unwrap_err();
        assert!(
            matches!(error.class(), Class::Transient | Class::Unsettled),
            "{error}"
        );
        assert!(
            error.to_string().contains("no answer within 30 s"),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dripping_body_ends_by_a_deadline_reckoned_from_its_size() {
    let text = "x".repeat(1000);
    let (path, body) = pack(&text);
    let (fault, store) = rig();
    fault.plant(&path.to_path(), body.clone());
    let drip = Fault::Drip(Duration::from_secs(1));
    fault.add(Rule::on(Operation::Get, When::First(1), drip));
    assert_eq!(
        store.get(&path).await.unwrap(),
        body,
        "the second answer is quick"
    );
    fault.heal();
    fault.add(Rule::on(Operation::Get, When::Always, drip));
    let asked = tokio::time::timeout(Duration::from_secs(3600), store.get(&path));
    let error = asked.await.expect("it ends").unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
}

#[tokio::test(start_paused = true)]
async fn requests_in_parallel_keep_their_limit() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(0)));
    let fault = FaultStore::new(clock);
    let options = StoreOptions {
        requests_max: 3,
        ..StoreOptions::default()
    };
    let store = fault.open(&options, Arc::new(SeededRandom::new(1)));
    let (path, body) = pack("a pack");
    fault.plant(&path.to_path(), body);
    fault.add(Rule::any(
        When::Always,
        Fault::Delay(Duration::from_secs(1)),
    ));
    let nine = futures::future::join_all((0..9).map(|_| store.get(&path)));
    tokio::pin!(nine);
    let early = tokio::time::timeout(Duration::from_millis(2900), &mut nine).await;
    assert!(
        early.is_err(),
        "nine reads of a second, three at once, take three"
    );
    let done = tokio::time::timeout(Duration::from_millis(200), &mut nine).await;
    assert!(done.unwrap().iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn the_probe_finds_out_what_a_storage_cannot_carry() {
    let (_, store) = rig();
    let verdict = probe(&store).await.unwrap();
    assert!(verdict.several_writers() && verdict.maintenance());
    let kept = serde_json::to_string(&verdict).unwrap();
    assert_eq!(
        serde_json::from_str::<rowvault::store::probe::Verdict>(&kept).unwrap(),
        verdict
    );

    for (conditions, expected) in [
        (Conditions::Refused, Conditional::Refused),
        (Conditions::Ignored, Conditional::Ignored),
    ] {
        let (fault, store) = rig();
        fault.set_conditions(conditions);
        let verdict = probe(&store).await.unwrap();
        assert_eq!(verdict.conditional_create, expected);
        assert_eq!(verdict.conditional_replace, expected);
        assert!(!verdict.several_writers() && !verdict.maintenance());
        assert!(verdict.hashed_ledger_names());
        assert!(
            fault.objects().is_empty(),
            "the probe takes its objects away"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_probe_distrusts_clocks_lists_and_reads_that_lie() {
    for skew in [3600, -3600] {
        let (fault, store) = rig();
        fault.set_skew_seconds(skew);
        let verdict = probe(&store).await.unwrap();
        assert_eq!(verdict.clock_skew_seconds, skew);
        assert!(!verdict.several_writers() && !verdict.maintenance());
        assert!(verdict.to_string().contains("3600 s"), "{verdict}");
    }
    let (fault, store) = rig();
    fault.add(Rule::on(Operation::List, When::First(1), Fault::ListCut(0)));
    let verdict = probe(&store).await.unwrap();
    assert!(
        !verdict.list_after_write && !verdict.maintenance(),
        "{verdict}"
    );

    let (fault, store) = rig();
    fault.add(Rule::on(Operation::Get, When::Always, Fault::Whole).under("probe/"));
    let verdict = probe(&store).await.unwrap();
    assert!(!verdict.range_reads, "{verdict}");
}

#[tokio::test(start_paused = true)]
async fn the_probe_of_an_unusable_storage_is_an_error_and_no_verdict() {
    for (failing, class) in [
        (Failing::Code(403, "AccessDenied"), Class::Denied),
        (Failing::Code(404, "NoSuchBucket"), Class::Invalid),
        (Failing::Status(503), Class::Unsettled),
    ] {
        let (fault, store) = rig();
        fault.add(Rule::any(When::Always, Fault::Fail(failing)));
        let error = probe(&store).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
    }
}

/// Many clients race for the same names under seeded faults; each name has one winner at most, and
/// what stands there is what the winner wrote.
#[tokio::test(start_paused = true)]
async fn under_seeded_faults_no_name_has_two_winners() {
    let (mut ours, mut anothers, mut unsettled) = (0, 0, 0);
    let seeds = 300;
    for seed in 0..seeds {
        let (fault, store) = rig();
        let kinds = TRANSIENT
            .into_iter()
            .flat_map(|failing| [Fault::Fail(failing), Fault::LoseAnswer(failing)]);
        let kinds = kinds.chain([Fault::Fail(Failing::Status(409)), Fault::Hang]);
        let per_mille = if seed % 2 == 0 { 400 } else { 850 };
        fault.seed(seed, per_mille, kinds.collect());
        for number in 0..5 {
            let racers = (0..4).map(|racer| {
                let store = store.clone();
                async move {
                    let token = format!("racer-{racer}");
                    let body = Bytes::from(format!("entry of {token}"));
                    let path = entry(number);
                    let created = store.create(&path, body.clone(), token.as_bytes());
                    (created.await, body)
                }
            });
            let outcomes = futures::future::join_all(racers).await;
            let stands = fault.objects().get(&entry(number).to_path()).cloned();
            let mut winners = 0;
            for (created, body) in outcomes {
                match created {
                    Ok(Created::Ours) => {
                        winners += 1;
                        assert_eq!(stands, Some(body), "seed {seed}");
                    }
                    Ok(Created::Anothers(other)) => {
                        anothers += 1;
                        assert_eq!(stands, Some(other), "seed {seed}");
                    }
                    Err(error) => {
                        unsettled += 1;
                        assert_eq!(error.class(), Class::Unsettled, "seed {seed}: {error}");
                    }
                }
            }
            assert!(winners <= 1, "seed {seed}");
            ours += winners;
        }
    }
    println!("{seeds} seeds: {ours} ours, {anothers} another's, {unsettled} unsettled");
    assert!(ours > 1000);
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let trace = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (fault, store) = rig();
            fault.seed(seed, 200, vec![Fault::Fail(Failing::Status(503))]);
            life(&store).await.unwrap();
            fault.performed()
        })
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn errors_name_the_object_and_hold_no_credential() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_seconds(0)));
    let random = Arc::new(SeededRandom::new(1));
    let url = "s3://AKIAID:hunter2@bucket/prefix";
    let error = Store::open(url, &StoreOptions::default(), clock, random)
        .err()
        .unwrap();
    assert_eq!(error.class(), Class::Invalid);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}
