//! Large objects to the disk past the page cache.
//!
//! A pack is written once and not read soon. Through the page cache it would cost the kernel a copy
//! of each page and take the place of pages that a database on the same machine works with.
//! Invariant: as with any other object, it appears whole and synced, or not at all; where the file
//! system cannot do it, nothing has been done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use object_store::PutPayload;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Objects from this length on are written so.
pub(super) const BYTES_MIN: usize = 1 << 20;
/// How much goes to the disk at once.
const BUFFER_BYTES: usize = 1 << 20;
/// No disk and no file system asks for a coarser alignment of memory, offset and length.
const ALIGNMENT: usize = 4096;

/// How an object comes to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publish {
    /// In place of what is there.
    Replace,
    /// Only if nothing is there, else `AlreadyExists`.
    Create,
}

/// Writes an object, and makes the directories that it lies in; false where the file system cannot.
///
/// # Errors
/// As the file system says; `AlreadyExists` as [`Publish::Create`] says.
pub(super) fn put(path: &Path, payload: &PutPayload, publish: Publish) -> io::Result<bool> {
    let (file, staged) = stage(path)?;
    let written = write(file, payload).and_then(|written| {
        if written {
            self::publish(&staged, path, publish)?;
        }
        Ok(written)
    });
    // What was renamed is not there any more.
    let _ = fs::remove_file(&staged);
    written
}

/// A new file beside the object, named as object_store names its own.
fn stage(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&staged)
        {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => match path.parent() {
                Some(parent) => make(parent)?,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

/// Makes a directory, with those above it that are missing, each synced in the one above.
fn make(directory: &Path) -> io::Result<()> {
    let Some(above) = directory.parent() else {
        return Ok(());
    };
    if !above.try_exists()? {
        make(above)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync(above),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Sets whether writes go past the page cache; false where they cannot.
fn set_direct(file: &File, direct: bool) -> io::Result<bool> {
    let mut flags = fcntl_getfl(file.as_fd())?;
    flags.set(OFlags::DIRECT, direct);
    match fcntl_setfl(file.as_fd(), flags) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes and syncs the whole payload; false where the file system refuses the first of it.
fn write(mut file: File, payload: &PutPayload) -> io::Result<bool> {
    if !set_direct(&file, true)? {
        return Ok(false);
    }
    let mut memory = vec![0; BUFFER_BYTES + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + BUFFER_BYTES];
    let mut filled = 0;
    for part in payload {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let taken = rest.len().min(buffer.len() - filled);
            let (head, tail) = rest.split_at(taken);
            buffer[filled..filled + taken].copy_from_slice(head);
            (rest, filled) = (tail, filled + taken);
            if filled == buffer.len() {
                match file.write_all(buffer) {
                    Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(false),
                    written => written?,
                }
                filled = 0;
            }
        }
    }
    // The end is no whole number of blocks.
    set_direct(&file, false)?;
    file.write_all(&buffer[..filled])?;
    file.sync_all()?;
    Ok(true)
}

fn publish(staged: &Path, path: &Path, publish: Publish) -> io::Result<()> {
    match publish {
        Publish::Replace => fs::rename(staged, path)?,
        Publish::Create => fs::hard_link(staged, path)?,
    }
    path.parent().map_or(Ok(()), sync)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn payload(parts: &[usize]) -> (PutPayload, Vec<u8>) {
        let part = |(at, length): (usize, &usize)| -> Bytes {
            let byte = |n: usize| (n * 31 + at * 7) as u8;
            (0..*length).map(byte).collect()
        };
        let parts: Vec<Bytes> = parts.iter().enumerate().map(part).collect();
        let whole = parts.concat();
        (parts.into_iter().collect(), whole)
    }

    /// Beside the tests' program: where file systems are in memory, they may not do it.
    fn directory() -> tempfile::TempDir {
        let program = std::env::current_exe().unwrap();
        tempfile::tempdir_in(program.parent().unwrap()).unwrap()
    }

    #[test]
    fn object_of_any_length_is_there_whole_and_nothing_else() {
        let directory = directory();
        let path = directory.path().join("pack");
        let lengths: [&[usize]; 6] = [
            &[],
            &[1],
            &[4096],
            &[BUFFER_BYTES],
            &[3, BUFFER_BYTES, 4095, 2],
            &[700_000, 900_000, 1_400_001],
        ];
        for lengths in lengths {
            let (payload, whole) = payload(lengths);
            assert!(put(&path, &payload, Publish::Replace).unwrap());
            assert_eq!(fs::read(&path).unwrap(), whole);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn object_that_is_there_is_not_written_over_and_no_rest_stays() {
        let directory = directory();
        let path = directory.path().join("pack");
        let (first, whole) = payload(&[5000]);
        let (second, _) = payload(&[9, 5000]);
        // Of a writer that died.
        fs::write(directory.path().join("pack#1"), b"rest").unwrap();
        assert!(put(&path, &first, Publish::Create).unwrap());
        let refused = put(&path, &second, Publish::Create).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn missing_directories_are_made() {
        let directory = directory();
        let (payload, whole) = payload(&[5000]);
        let path = directory.path().join("packs/00/pack");
        assert!(put(&path, &payload, Publish::Create).unwrap());
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
