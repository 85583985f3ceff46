//! Canaries: no plaintext of the source and no key stands in any file that rowvault leaves behind.
//!
//! A source full of marked names and values is backed up into a directory; then every file of the
//! repository and of the state directory is searched for the marks, the passphrase and the keys,
//! as they are and in the forms in which bytes are written down as text.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rowvault::clock::{Clock, SystemClock};
use rowvault::crypto::keyslot::{MEMORY_KIB_WRITTEN_MIN, PassphraseCost};
use rowvault::format::keyring::Sources;
use rowvault::format::keyslot::text::KeyFile;
use rowvault::id::hex;
use rowvault::job::init::{First, Request, init};
use rowvault::job::{Context, Silent, backup, verify};
use rowvault::random::{Random, SystemRandom};
use rowvault::repo::keys::writer::{Rights, draw_key, enrol};
use rowvault::repo::keys::{Opening, Unlock};
use rowvault::source::address::{SourceOptions, SourceUrl};
use rowvault::source::open;
use rowvault::store::{Root, Store, StoreOptions};
use rusqlite::Connection;
use secrecy::SecretString;

use crate::tiny::directory;

const PASSPHRASE: &str = "canary-passphrase-7391";

/// Values of the source, which no text for people may hold either.
const VALUES: &[&str] = &[
    "canary-in-sql-5515",
    "canary-value-5517",
    "canary-key-5518",
    "canary-large-5519",
];
/// Names, which may be shown to people and stand in no file.
const NAMES: &[&str] = &[
    "canary_table_5511",
    "canary_column_5512",
    "canary_keyed_5513",
    "canary_view_5514",
    "canary-source-5520",
    "canary-tag-5521",
    "canary-writer-5522",
];

/// What must be found nowhere, with a name for it.
struct Marks(Vec<(String, Vec<u8>)>);

impl Marks {
    fn text(&mut self, text: &str) {
        self.0.push((text.to_owned(), text.as_bytes().to_vec()));
        let utf16 = text.encode_utf16().flat_map(u16::to_le_bytes);
        self.0.push((format!("{text} in UTF-16"), utf16.collect()));
        self.written(text, text.as_bytes());
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.0.push((name.to_owned(), bytes.to_vec()));
        let reversed = bytes.iter().rev().copied().collect();
        self.0.push((format!("{name} reversed"), reversed));
        self.written(name, bytes);
    }

    fn written(&mut self, name: &str, bytes: &[u8]) {
        let forms = [
            ("hex", hex(bytes)),
            ("HEX", hex(bytes).to_uppercase()),
            ("base64", STANDARD.encode(bytes)),
            ("base64 without padding", STANDARD_NO_PAD.encode(bytes)),
            ("base64url", URL_SAFE_NO_PAD.encode(bytes)),
        ];
        for (form, text) in forms {
            self.0
                .push((format!("{name} in {form}"), text.into_bytes()));
        }
    }

    /// The marks that stand in any file below `root`, or in its name.
    fn found_below(&self, root: &Path) -> Vec<String> {
        let files = files_below(root);
        assert!(!files.is_empty(), "nothing below {}", root.display());
        let mut found = Vec::new();
        for file in files {
            let mut bytes = fs::read(&file).unwrap();
            bytes.extend(file.to_string_lossy().as_bytes());
            let place = file.display().to_string();
            found.extend(self.found_in(&place, &bytes));
        }
        found
    }

    fn found_in(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let text = as_text(bytes);
        let marks = self.0.iter();
        let found = marks.filter(|(_, mark)| text.contains(&as_text(mark)));
        found
            .map(|(name, _)| format!("{name} in {place}"))
            .collect()
    }
}

/// A character for each byte, since text is searched fast.
fn as_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

fn make_source(path: &Path, marks: &mut Marks) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "CREATE TABLE canary_table_5511(canary_column_5512 INTEGER PRIMARY KEY, a TEXT, b BLOB);
         CREATE TABLE canary_keyed_5513(k TEXT PRIMARY KEY NOT NULL, v) WITHOUT ROWID;
         CREATE VIEW canary_view_5514 AS SELECT 'canary-in-sql-5515' AS x FROM canary_table_5511;",
    )
    .unwrap();
    let blob = *b"\xfe\x00canary-blob-5516\xff\x01";
    for id in 0..500 {
        let text = format!("canary-value-5517 {id}");
        db.execute(
            "INSERT INTO canary_table_5511 VALUES(?1, ?2, ?3)",
            rusqlite::params![id, text, blob],
        )
        .unwrap();
        // Values that do not repeat, so that compression cannot hide them.
        db.execute(
            "INSERT INTO canary_keyed_5513 VALUES(?1, ?2)",
            rusqlite::params![format!("canary-key-5518-{id}"), id.to_string()],
        )
        .unwrap();
    }
    let large = [b"canary-large-5519".as_slice(), &vec![b'.'; 1_500_000]].concat();
    db.execute(
        "INSERT INTO canary_table_5511 VALUES(1000, ?1, NULL)",
        [String::from_utf8(large).unwrap()],
    )
    .unwrap();
    for text in VALUES {
        marks.text(text);
    }
    marks.bytes("a blob", &blob);
}

#[tokio::test]
async fn no_plaintext_and_no_key_stands_in_any_file() {
    let place = directory();
    let (repository, state_root) = (place.path().join("repository"), place.path().join("state"));
    let url = repository.to_str().unwrap().to_owned();
    let mut marks = Marks(Vec::new());
    let database = place.path().join("source.db");
    make_source(&database, &mut marks);
    for name in NAMES {
        marks.text(name);
    }

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let options = StoreOptions {
        root: Root::Create,
        ..StoreOptions::default()
    };
    let opening = Opening {
        store: Store::open(&url, &options, clock.clone(), random.clone()).unwrap(),
        clock: clock.clone(),
        random: random.clone(),
    };
    let cost = PassphraseCost {
        memory_kib: MEMORY_KIB_WRITTEN_MIN,
        passes: 1,
        lanes: 1,
    };
    let passphrase = || SecretString::from(PASSPHRASE.to_owned());
    let made = init(
        opening,
        &state_root,
        Request {
            first: First::Passphrase(passphrase(), cost),
            chunk_target_bytes: 16 << 10,
            recovery_out: None,
        },
    )
    .await
    .unwrap();
    let sheet = made.recovery_sheet.unwrap();
    let KeyFile::Slot(recovery) = KeyFile::parse(&sheet).unwrap() else {
        panic!("the recovery sheet holds no slot's key");
    };
    marks.bytes("the recovery secret", recovery.secret.as_ref());
    marks.text(PASSPHRASE);

    let context = Context {
        repository: url,
        store: StoreOptions::default(),
        unlock: Unlock::Passphrase(passphrase()),
        state_root: state_root.clone(),
        clock,
        random,
        progress: Arc::new(Silent),
    };
    let opened = context.open().await.unwrap();
    let writer = draw_key(&opened.vault, "canary-writer-5522").unwrap();
    let rights = Rights {
        sources: Sources::All,
        may_forget: false,
    };
    enrol(&opened.vault, &opened.keyring, &writer, rights)
        .await
        .unwrap();
    marks.bytes("a writer's seed", writer.seed.as_ref());
    let access = &opened.vault.access;
    marks.bytes("the root", access.root.as_ref().unwrap().expose());
    marks.bytes("the reader's key", access.reader.as_ref().unwrap().expose());
    marks.bytes("the owner's seed", access.signer.expose());
    for (at, key) in access.shared.to_bytes().chunks_exact(32).enumerate() {
        marks.bytes(&format!("shared key {at}"), key);
    }

    let source_url = SourceUrl::Sqlite(database.clone());
    for _ in 0..2 {
        let mut source = open::source(&source_url, &SourceOptions::default()).unwrap();
        let request = backup::Request {
            tags: vec!["canary-tag-5521".into()],
            ..backup::Request::new("canary-source-5520".parse().unwrap())
        };
        let taken = backup::run(&opened, source.as_mut(), &request).await;
        assert_eq!(taken.unwrap().record.totals.rows, 1001);
        let db = Connection::open(&database).unwrap();
        db.execute("DELETE FROM canary_keyed_5513 WHERE v = '7'", [])
            .unwrap();
        db.execute(
            "INSERT OR IGNORE INTO canary_keyed_5513 VALUES('canary-key-5518', '7')",
            [],
        )
        .unwrap();
    }
    let catalog = opened.catalog().await.unwrap();
    let found = verify::run(&opened, &catalog.snapshots(), verify::Data::All).await;
    assert!(found.unwrap().findings.is_empty());

    // The marks are found where they are: in the source.
    let sought = marks.found_below(place.path());
    assert!(sought.len() >= 9, "{sought:?}");
    assert_eq!(marks.found_below(&repository), Vec::<String>::new());
    assert_eq!(marks.found_below(&state_root), Vec::<String>::new());
}

#[test]
fn no_value_and_no_secret_is_printed_or_logged() {
    let place = directory();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut marks = Marks(Vec::new());
    make_source(Path::new(&at("source.db")), &mut marks);
    marks.text(PASSPHRASE);
    fs::write(at("passphrase"), PASSPHRASE).unwrap();
    fs::set_permissions(at("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    let source = format!("sqlite:{}", at("source.db"));
    let (taken, gone) = (
        format!("sqlite:{}", at("passphrase")),
        format!("sqlite:{}", at("gone.db")),
    );
    let restored = format!("sqlite:{}", at("restored.db"));
    let (sheet, key) = (at("sheet.txt"), at("key.txt"));
    let commands: &[(&[&str], i32)] = &[
        (&["init", "--recovery-out", &sheet], 0),
        (&["key", "add", "--key-file", &key], 0),
        (&["backup", &source, "--name", "crm"], 0),
        (&["backup", &gone, "--name", "gone"], 1),
        (&["backup", &source, "--name", "crm", "--json"], 0),
        (&["snapshots"], 0),
        (&["show", "crm@latest", "--json"], 0),
        (&["verify", "--data", "all"], 0),
        (&["restore", "latest", "--to", &taken], 4),
        (&["restore", "latest", "--to", &restored], 0),
        (&["key", "list"], 0),
        (&["ledger"], 0),
        (&["doctor"], 0),
    ];
    let mut printed = Vec::new();
    for (at_command, (arguments, code)) in commands.iter().enumerate() {
        // A passphrase costs memory each time; it is what the first commands show.
        let (flag, secret) = match at_command {
            0..=2 => ("--passphrase-file", at("passphrase")),
            _ => ("--key-file", key.clone()),
        };
        let log_format = ["text", "json"][at_command % 2];
        let output = Command::new(env!("CARGO_BIN_EXE_rowvault"))
            .args(["--repo", &at("repository"), "--state-dir", &at("state")])
            .args([flag, &secret, "-v", "--log-format", log_format])
            .args(*arguments)
            .env_clear()
            .output()
            .unwrap();
        printed.extend(output.stdout);
        printed.extend(output.stderr);
        let told = String::from_utf8_lossy(&printed);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {told}");
    }
    for file in [&sheet, &key] {
        let KeyFile::Slot(key) = KeyFile::parse(&fs::read_to_string(file).unwrap()).unwrap() else {
            panic!("{file} holds no slot's key");
        };
        marks.bytes("a slot's secret", key.secret.as_ref());
    }
    assert!(
        printed.len() > 2_000,
        "{}",
        String::from_utf8_lossy(&printed)
    );
    assert_eq!(
        marks.found_in("what was printed", &printed),
        Vec::<String>::new()
    );
    assert_eq!(
        marks.found_below(Path::new(&at("repository"))),
        Vec::<String>::new()
    );
    assert_eq!(
        marks.found_below(Path::new(&at("state"))),
        Vec::<String>::new()
    );
}
