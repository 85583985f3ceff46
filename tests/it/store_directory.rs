//! A directory as a storage, where it is not as it should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rowvault::failure::{Class, Failure};
use rowvault::id::ObjectId;
use rowvault::store::{Error, ObjectPath, Prefix, Root, Store, StoreOptions};

use crate::store::open;

fn made(path: &Path) -> Store {
    let options = StoreOptions {
        root: Root::Create,
        ..StoreOptions::default()
    };
    open(path.to_str().unwrap(), &options).unwrap()
}

fn pack(byte: u8) -> ObjectPath {
    ObjectPath::Pack(ObjectId([byte; 32]))
}

#[test]
fn a_directory_that_is_not_there_is_refused_by_name_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mistyped");
    let error = open(path.to_str().unwrap(), &StoreOptions::default())
        .err()
        .unwrap();
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("mistyped"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_file_is_no_storage() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = open(file.path().to_str().unwrap(), &StoreOptions::default())
        .err()
        .unwrap();
    assert_eq!(error.class(), Class::Invalid, "{error}");
}

#[test]
fn a_new_directory_is_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    made(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn no_symbolic_link_below_the_root_is_followed() {
    let outside = tempfile::tempdir().unwrap();
    let name = pack(0xab).to_path();
    let planted = outside.path().join(name.strip_prefix("packs/ab/").unwrap());
    fs::write(&planted, "planted").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    fs::create_dir(directory.path().join("packs")).unwrap();
    symlink(outside.path(), directory.path().join("packs/ab")).unwrap();

    for error in [
        store.get(&pack(0xab)).await.unwrap_err(),
        store.head(&pack(0xab)).await.unwrap_err(),
        store.put(&pack(0xab), "ours".into()).await.unwrap_err(),
        store.delete(&pack(0xab)).await.unwrap_err(),
        store.list(Prefix::Packs).await.unwrap_err(),
    ] {
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
    assert_eq!(fs::read(&planted).unwrap(), b"planted");
}

#[tokio::test]
async fn a_root_that_is_gone_or_exchanged_is_no_empty_repository() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("mounted");
    let store = made(&root);
    store.put(&pack(1), "one".into()).await.unwrap();
    for exchanged in [false, true] {
        let away = directory.path().join("away");
        fs::rename(&root, &away).unwrap();
        if exchanged {
            fs::create_dir(&root).unwrap();
        }
        for error in [
            store.list(Prefix::Packs).await.unwrap_err(),
            store.get(&pack(1)).await.unwrap_err(),
            store.put(&pack(2), "two".into()).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), Class::Invalid, "{error}");
        }
        if exchanged {
            assert_eq!(
                fs::read_dir(&root).unwrap().count(),
                0,
                "nothing was written there"
            );
            fs::remove_dir(&root).unwrap();
        }
        fs::rename(&away, &root).unwrap();
        assert_eq!(store.list(Prefix::Packs).await.unwrap().objects.len(), 1);
    }
}

#[tokio::test]
async fn foreign_files_are_named_apart_and_unfinished_ones_are_not_seen() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    store.put(&pack(1), "one".into()).await.unwrap();
    let staged = format!("{}#1", pack(2).to_path());
    fs::create_dir_all(directory.path().join("packs/02")).unwrap();
    fs::write(directory.path().join(staged), "half").unwrap();
    fs::write(directory.path().join("packs/README"), "hello").unwrap();
    fs::write(directory.path().join("lost+found"), "").unwrap();
    let listing = store.list(Prefix::All).await.unwrap();
    assert_eq!(listing.objects.len(), 1);
    assert_eq!(listing.foreign, ["lost+found", "packs/README"]);
}

#[tokio::test]
async fn what_killed_writers_left_is_cleared_once_it_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    store.put(&pack(1), "one".into()).await.unwrap();
    let folder = directory.path().join("packs/01");
    fs::write(folder.join("half#1"), "half").unwrap();
    fs::write(folder.join("foreign#x"), "kept").unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(
        store.clear_unfinished(hour).await.unwrap(),
        0,
        "it may be in use"
    );
    let old = SystemTime::now() - 2 * hour;
    let half = fs::File::options().write(true).open(folder.join("half#1"));
    half.unwrap().set_modified(old).unwrap();
    assert_eq!(store.clear_unfinished(hour).await.unwrap(), 1);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    let memory = open("memory:", &StoreOptions::default()).unwrap();
    assert_eq!(memory.clear_unfinished(hour).await.unwrap(), 0);
}

#[tokio::test]
async fn an_object_is_whole_or_absent_and_leaves_no_staging_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    store.put(&pack(1), vec![7; 100_000].into()).await.unwrap();
    let folder = directory.path().join("packs/01");
    let names: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn an_object_longer_than_its_kind_may_be_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    let file = fs::File::create(directory.path().join("repository")).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = store.get(&ObjectPath::Repository).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(store.requests().bytes_down, 0);
}
