//! A storage that fails on purpose: the test rig behind every promise about storage.
//!
//! An object_store over a model in memory, for tests and simulations only. It is scripted by rules
//! or seeded, fails before dispatch or after effect, and can be stopped at any operation, read,
//! altered and rolled back. Invariant: without rules it behaves as a perfect storage, which the
//! store contract test holds.

pub mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

use crate::clock::{Clock, Timestamp};
use crate::random::{Random, SeededRandom};
use crate::store::objects::Store;
use crate::store::options::StoreOptions;

pub use script::{Conditions, Failing, Fault, Operation, Rule, Stop, When};

const NAME: &str = "fault store";

/// One operation that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    /// Its place in the order of all, from 1.
    pub number: u64,
    /// Its kind.
    pub operation: Operation,
    /// The object, or the folder of a listing.
    pub path: String,
    /// What was done to it.
    pub fault: Option<Fault>,
}

/// All that is stored, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(BTreeMap<String, Object>);

/// A storage that fails on purpose. Clones are the same storage.
#[derive(Clone)]
pub struct FaultStore {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
    written: u64,
    before: Option<Bytes>,
}

struct State {
    objects: BTreeMap<String, Object>,
    performed: Vec<Performed>,
    rules: Vec<(Rule, u64)>,
    seeded: Option<(SeededRandom, u64, Vec<Fault>)>,
    stop: Option<(u64, Stop)>,
    conditions: Conditions,
    skew_seconds: i64,
    written: u64,
}

impl FaultStore {
    /// An empty storage without faults, whose times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        FaultStore {
            state: Arc::new(Mutex::new(State {
                objects: BTreeMap::new(),
                performed: Vec::new(),
                rules: Vec::new(),
                seeded: None,
                stop: None,
                conditions: Conditions::default(),
                skew_seconds: 0,
                written: 0,
            })),
            clock,
        }
    }

    /// A store over this storage, as the vault uses it.
    pub fn open(&self, options: &StoreOptions, random: Arc<dyn Random>) -> Store {
        let objects = Arc::new(self.clone());
        Store::from_object_store(objects, "fault:", options, self.clock.clone(), random)
    }

    /// Adds a rule; of several that match, the first one wins.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push((rule, 0));
    }

    /// From now on each operation meets one of `faults` with this probability.
    pub fn seed(&self, seed: u64, per_mille: u64, faults: Vec<Fault>) {
        self.state().seeded = Some((SeededRandom::new(seed), per_mille, faults));
    }

    /// Ends all faults; what is stored stays, and conditions and skew stay as they are.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.seeded = None;
        state.stop = None;
    }

    /// The client dies at operation `number` (from 1, over all): it and all after it fail.
    pub fn stop_at(&self, number: u64, how: Stop) {
        self.state().stop = Some((number, how));
    }

    /// What the storage makes of conditional writes.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.state().conditions = conditions;
    }

    /// How far the storage's clock is ahead of the right time.
    pub fn set_skew_seconds(&self, seconds: i64) {
        self.state().skew_seconds = seconds;
    }

    /// Every operation so far: the fail points of what ran.
    pub fn performed(&self) -> Vec<Performed> {
        self.state().performed.clone()
    }

    /// How many operations there were.
    pub fn count(&self) -> u64 {
        self.state().performed.len() as u64
    }

    /// All objects and their bytes.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        let state = self.state();
        let pair = |(path, object): (&String, &Object)| (path.clone(), object.bytes.clone());
        state.objects.iter().map(pair).collect()
    }

    /// Puts bytes behind the client's back.
    pub fn plant(&self, path: &str, bytes: impl Into<Bytes>) {
        let now = self.clock.now();
        self.state().write(path, bytes.into(), now);
    }

    /// Takes an object away behind the client's back; true if it was there.
    pub fn lose(&self, path: &str) -> bool {
        self.state().objects.remove(path).is_some()
    }

    /// All that is stored.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().objects.clone())
    }

    /// Puts the storage back to an earlier moment.
    pub fn roll_back(&self, to: &Snapshot) {
        self.state().objects = to.0.clone();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Notes the operation and waits or fails as its fault says; gives the fault for the rest.
    async fn begin(&self, operation: Operation, path: &str) -> Result<Option<Fault>> {
        let fault = self.state().note(operation, path);
        match fault {
            Some(Fault::Fail(failing)) => return Err(failure(failing)),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        Ok(fault)
    }
}

impl State {
    fn note(&mut self, operation: Operation, path: &str) -> Option<Fault> {
        let number = self.performed.len() as u64 + 1;
        let fault = match self.stop {
            Some((at, how)) if number >= at => Some(stopped(operation, number == at, how)),
            _ => self.ruled(operation, path).or_else(|| self.drawn()),
        };
        self.performed.push(Performed {
            number,
            operation,
            path: path.to_owned(),
            fault,
        });
        fault
    }

    fn ruled(&mut self, operation: Operation, path: &str) -> Option<Fault> {
        let mut fault = None;
        for (rule, seen) in &mut self.rules {
            if rule.matches(operation, path) {
                *seen += 1;
                if fault.is_none() && rule.when.covers(*seen) {
                    fault = Some(rule.fault);
                }
            }
        }
        fault
    }

    fn drawn(&self) -> Option<Fault> {
        let (random, per_mille, faults) = self.seeded.as_ref()?;
        let hit = random.below(1000) < *per_mille && !faults.is_empty();
        hit.then(|| faults[random.below(faults.len() as u64) as usize])
    }

    fn write(&mut self, path: &str, bytes: Bytes, now: Timestamp) -> u64 {
        self.written += 1;
        let before = self.objects.get(path).map(|object| object.bytes.clone());
        let object = Object {
            bytes,
            modified: Timestamp(now.0 + self.skew_seconds * 1_000_000),
            written: self.written,
            before,
        };
        self.objects.insert(path.to_owned(), object);
        self.written
    }

    /// Whether a conditional write may go on.
    fn permit(&self, path: &str, mode: &PutMode) -> Result<()> {
        let conditional = !matches!(mode, PutMode::Overwrite);
        match self.conditions {
            Conditions::Refused if conditional => return Err(failure(Failing::Status(501))),
            Conditions::Ignored => return Ok(()),
            _ => {}
        }
        let found = self.objects.get(path).map(|object| tag(object.written));
        match mode {
            PutMode::Overwrite => Ok(()),
            PutMode::Create if found.is_none() => Ok(()),
            PutMode::Update(expected) if found.is_some() && found == expected.e_tag => Ok(()),
            _ => Err(failure(Failing::Status(412))),
        }
    }

    /// The listing as `fault` makes it, and the failure at its end, if any.
    fn list(&self, folder: &str, fault: Option<Fault>) -> Vec<Result<ObjectMeta>> {
        let under = |path: &str| {
            folder.is_empty()
                || path
                    .strip_prefix(folder)
                    .is_some_and(|r| r.starts_with('/'))
        };
        let mut found: Vec<(&String, &Object)> = self
            .objects
            .iter()
            .filter(|(path, _)| under(path))
            .collect();
        let last = found.iter().map(|(_, object)| object.written).max();
        match fault {
            Some(Fault::Stale) => found.retain(|(_, object)| Some(object.written) != last),
            Some(Fault::ListCut(length) | Fault::ListBreak(length, _)) => found.truncate(length),
            Some(Fault::ListTwice) => found.extend(found.clone()),
            _ => {}
        }
        let mut list: Vec<_> = found
            .into_iter()
            .map(|(path, o)| Ok(meta(path, o)))
            .collect();
        if let Some(Fault::ListBreak(_, failing) | Fault::LoseAnswer(failing)) = fault {
            list.push(Err(failure(failing)));
        }
        list
    }
}

fn stopped(operation: Operation, here: bool, how: Stop) -> Fault {
    match how {
        Stop::AfterEffect if here => Fault::LoseAnswer(Failing::Reset),
        Stop::Torn if here && operation.writes() && operation != Operation::Delete => {
            Fault::Torn(usize::MAX, Some(Failing::Reset))
        }
        _ => Fault::Fail(Failing::Reset),
    }
}

fn failure(failing: Failing) -> Error {
    let answered = |status: u16, code: &str| {
        format!("Server returned non-2xx status code: {status}: <Code>{code}</Code>").into()
    };
    let source: Box<dyn std::error::Error + Send + Sync> = match failing {
        Failing::Reset => Box::new(io::Error::from(io::ErrorKind::ConnectionReset)),
        Failing::Status(status) => answered(status, ""),
        Failing::Code(status, code) => answered(status, code),
    };
    Error::Generic {
        store: NAME,
        source,
    }
}

fn missing(path: &str) -> Error {
    Error::NotFound {
        path: path.to_owned(),
        source: "no such object".into(),
    }
}

fn not_supported(what: &str) -> Error {
    Error::NotSupported {
        source: format!("the {NAME} knows no {what}").into(),
    }
}

fn tag(written: u64) -> String {
    format!("\"{written}\"")
}

fn meta(path: &str, object: &Object) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(path),
        last_modified: object.modified.utc().unwrap_or_default(),
        size: object.bytes.len() as u64,
        e_tag: Some(tag(object.written)),
        version: None,
    }
}

/// The bytes of a read, the range that is announced for them, as `fault` makes them.
fn read(whole: &Bytes, range: Range<u64>, fault: Option<Fault>) -> (Bytes, Range<u64>) {
    let size = whole.len() as u64;
    let cut = |r: &Range<u64>| whole.slice(r.start.min(size) as usize..r.end.min(size) as usize);
    let shifted = range.start + 1..range.end + 1;
    match fault {
        Some(Fault::Whole) => (whole.clone(), 0..size),
        Some(Fault::Shifted) => (cut(&shifted), shifted),
        Some(Fault::ShiftedUnsaid) => (cut(&shifted), range),
        Some(Fault::Short(by)) => {
            let end = range.end.saturating_sub(by).max(range.start);
            (cut(&(range.start..end)), range)
        }
        Some(Fault::Flip(bit)) => {
            let mut bytes = cut(&range).to_vec();
            if !bytes.is_empty() {
                let bit = bit % (bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            (bytes.into(), range)
        }
        _ => (cut(&range), range),
    }
}

fn body(bytes: Bytes, fault: Option<Fault>) -> BoxStream<'static, Result<Bytes>> {
    match fault {
        Some(Fault::LoseAnswer(failing)) => {
            let half = bytes.slice(..bytes.len() / 2);
            stream::iter([Ok(half), Err(failure(failing))]).boxed()
        }
        Some(Fault::Drip(pause)) => stream::iter(0..bytes.len())
            .then(move |at| {
                let byte = bytes.slice(at..at + 1);
                async move {
                    tokio::time::sleep(pause).await;
                    Ok(byte)
                }
            })
            .boxed(),
        _ => stream::once(async { Ok(bytes) }).boxed(),
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({} operations)", self.count())
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let operation = match options.mode {
            PutMode::Overwrite => Operation::Put,
            PutMode::Create => Operation::Create,
            PutMode::Update(_) => Operation::Update,
        };
        let path = location.as_ref();
        let fault = self.begin(operation, path).await?;
        let now = self.clock.now();
        let mut state = self.state();
        state.permit(path, &options.mode)?;
        let mut bytes = Bytes::from(payload);
        if let Some(Fault::Torn(kept, _)) = fault {
            let half = bytes.len() / 2;
            bytes.truncate(if kept < bytes.len() { kept } else { half });
        }
        let written = match fault {
            Some(Fault::Vanish) => 0,
            _ => state.write(path, bytes, now),
        };
        match fault {
            Some(Fault::LoseAnswer(failing) | Fault::Torn(_, Some(failing))) => {
                Err(failure(failing))
            }
            _ => Ok(PutResult {
                e_tag: Some(tag(written)),
                version: None,
                extensions: Default::default(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(not_supported("multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head {
            Operation::Head
        } else {
            Operation::Get
        };
        let path = location.as_ref();
        let fault = self.begin(operation, path).await?;
        let mut object = self.state().objects.get(path).cloned();
        if let (Some(Fault::Stale), Some(found)) = (fault, &object) {
            object = found.before.clone().map(|bytes| Object {
                bytes,
                ..found.clone()
            });
        }
        let object = object.ok_or_else(|| missing(path))?;
        let size = object.bytes.len() as u64;
        let range = match &options.range {
            None => 0..size,
            Some(range) => range
                .as_range(size)
                .map_err(|_| failure(Failing::Status(416)))?,
        };
        let (bytes, range) = read(&object.bytes, range, fault);
        let payload = if options.head { Bytes::new() } else { bytes };
        Ok(GetResult {
            payload: GetResultPayload::Stream(body(payload, fault)),
            meta: meta(path, &object),
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let one = move |location: Path| {
            let store = store.clone();
            async move {
                let fault = store.begin(Operation::Delete, location.as_ref()).await?;
                let removed = match fault {
                    Some(Fault::Vanish) => true,
                    _ => store.lose(location.as_ref()),
                };
                match fault {
                    Some(Fault::LoseAnswer(failing)) => Err(failure(failing)),
                    _ if removed => Ok(location),
                    _ => Err(missing(location.as_ref())),
                }
            }
        };
        locations.and_then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let folder = prefix.map(ToString::to_string).unwrap_or_default();
        let all = async move {
            let fault = store.begin(Operation::List, &folder).await?;
            let names = store.state().list(&folder, fault);
            Ok::<_, Error>(stream::iter(names))
        };
        stream::once(all).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map(ToString::to_string).unwrap_or_default();
        let fault = self.begin(Operation::List, &folder).await?;
        let names = self.state().list(&folder, fault);
        let mut folders = BTreeSet::new();
        for name in names {
            let name = name?.location;
            let mut below = name
                .prefix_match(&Path::from(folder.as_str()))
                .into_iter()
                .flatten();
            let first = below.next();
            if let (Some(first), Some(_)) = (first, below.next()) {
                folders.insert(Path::from(format!("{folder}/{}", first.as_ref())));
            }
        }
        Ok(ListResult {
            common_prefixes: folders.into_iter().collect(),
            objects: Vec::new(),
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_supported("copying"))
    }
}
