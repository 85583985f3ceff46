//! Peak memory of a backup and of a restore of 1 GiB, with a row that has a cell of 256 MiB.
//!
//! Memory must not grow with the database nor with its largest row; a key file opens the
//! repository, since a passphrase costs Argon2's memory once by design.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rowvault::sample::Sample;
use rusqlite::{Connection, MAIN_DB};

use crate::database::Database;
use crate::database::sqlite::Sqlite;
use crate::report::Report;
use crate::tools::{Rowvault, Tool};
use crate::{Options, scratch};

/// At this size the sample's file is over 1 GiB.
const SHARE: f64 = 1.1;
const CELL_BYTES: usize = 256 << 20;
const LIMIT: f64 = 160.0;

/// Backs up and restores.
pub fn run(options: &Options, report: &mut Report) {
    let scratch = scratch(options);
    let mut crm = Sqlite::new(scratch.path());
    let sample = Sample::new(options.seed, options.size * SHARE);
    crm.fill(&sample);
    add_cell(crm.file()).expect("the file takes another table");
    let length = crm.file().metadata().expect("it was filled").len();
    let title = format!(
        "Memory: a file of {} MiB, one cell of 256 MiB in it",
        length >> 20
    );
    report.table(&title, &crm.version(), sample.count_all() + 1);
    let mut rowvault = Rowvault::new(&options.binary, scratch.path(), "rowvault");
    let taken = rowvault.backup(&crm.url(), "");
    let restored = rowvault.restore(&crm.copy("restored"));
    for (step, taken) in [("full", &taken), ("restore", &restored)] {
        report.line(step, "rowvault", taken);
        report.peak(&format!("memory: {step}, peak"), taken.cost.peak, LIMIT);
    }
    report.print();
}

/// Adds a table with one row, whose cell no compression makes smaller.
fn add_cell(file: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         CREATE TABLE recordings (id INTEGER PRIMARY KEY, name TEXT, body BLOB)",
    )?;
    connection.execute(
        "INSERT INTO recordings VALUES (1, 'a long call', zeroblob(?))",
        [CELL_BYTES as i64],
    )?;
    let mut cell = connection.blob_open(MAIN_DB, "recordings", "body", 1, false)?;
    let mut random = blake3::Hasher::new().update(b"recording").finalize_xof();
    let mut slice = vec![0; 1 << 20];
    for at in (0..CELL_BYTES).step_by(slice.len()) {
        random.fill(&mut slice);
        let written = cell
            .seek(SeekFrom::Start(at as u64))
            .and_then(|_| cell.write_all(&slice));
        written.expect("the cell is as long as it was made");
    }
    Ok(())
}
