//! Tables that are kept shut one by one, by a session each.
//!
//! `FLUSH TABLES t WITH READ LOCK` waits for an exclusive metadata lock, and so comes before
//! everything that wants to write; then it keeps writers out of this one table, where
//! `LOCK TABLES` would lock with it whatever foreign keys and triggers lead to. Invariant: a table
//! that was shut is opened by `open` or by the end of its session, and by nothing else.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::error::Error;
use super::quote;
use super::session::{Purpose, Session, number, text};
use crate::source::address::ServerUrl;

/// How long is waited between two looks at who waits for what.
pub const LOOK: Duration = Duration::from_millis(2);
/// How long a session may take until it is seen waiting in its place.
const QUEUEING: Duration = Duration::from_secs(2);

/// A table: the name of its database, and its own.
pub type Spot = (String, String);

/// A statement that runs by itself, and gives its session back.
pub type Running = JoinHandle<(Session, Result<(), Error>)>;

/// Runs a statement by itself.
pub fn start(mut session: Session, sql: String, doing: String) -> Running {
    tokio::spawn(async move {
        let ran = session.run(&sql, &doing).await;
        (session, ran)
    })
}

/// What is waited for with a running statement, whatever becomes of it.
///
/// # Errors
/// The task ended by itself, which only a bug can make it do.
pub async fn end(running: Running, doing: &str) -> Result<(Session, Result<(), Error>), Error> {
    running.await.map_err(|error| Error::Lost {
        doing: doing.to_owned(),
        what: error.to_string(),
    })
}

/// What somebody waits for, or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// The table for itself alone: to rename it.
    Alone,
    /// The table to write, with `LOCK TABLES`.
    Locked,
}

enum State {
    Waiting(Running),
    Shut(Session),
}

struct Gate {
    spot: Spot,
    id: u32,
    state: State,
}

/// The sessions that shut tables.
pub struct Fence {
    looking: Session,
    idle: Vec<Session>,
    gates: Vec<Gate>,
}

/// What is said of a lock that was waited for in vain.
pub fn late(doing: &str) -> Error {
    Error::Refused {
        doing: doing.to_owned(),
        code: 1205,
        message: "it did not come to its turn".into(),
    }
}

impl Fence {
    /// Connects so many sessions as may shut `tables` tables at a time.
    ///
    /// # Errors
    /// The server's: Busy where it has too few connections.
    pub async fn connect(url: &ServerUrl, database: &str, tables: usize) -> Result<Fence, Error> {
        let mut looking = Session::connect(url, Some(database), Purpose::Reading).await?;
        if looking.server().mariadb {
            let at_once = "SET SESSION lock_wait_timeout = 0";
            looking.run(at_once, "its settings").await?;
        }
        let mut idle = Vec::new();
        for _ in 0..tables {
            idle.push(Session::connect(url, Some(database), Purpose::Filling).await?);
        }
        let gates = Vec::new();
        Ok(Fence {
            looking,
            idle,
            gates,
        })
    }

    /// Begins to shut a table: when this comes back, it stands before all who want to write from
    /// now on, or has it already.
    ///
    /// # Errors
    /// The server's; Busy where it does not come to that.
    pub async fn shut(&mut self, spot: &Spot) -> Result<(), Error> {
        let doing = format!("shutting table {}", spot.1);
        let session = self.idle.pop().ok_or_else(|| late(&doing))?;
        let id = session.id();
        let name = quote::qualified(&spot.0, &spot.1);
        let sql = format!("FLUSH TABLES {name} WITH READ LOCK");
        let running = start(session, sql, doing.clone());
        self.gates.push(Gate {
            spot: spot.clone(),
            id,
            state: State::Waiting(running),
        });
        self.seen_waiting(id, &doing).await
    }

    /// Comes back when the session `id` waits for a table, or its statement is done.
    async fn seen_waiting(&mut self, id: u32, doing: &str) -> Result<(), Error> {
        let looks = QUEUEING.as_millis() / LOOK.as_millis();
        for _ in 0..looks {
            let done = self.gates.iter().any(|gate| {
                gate.id == id && matches!(&gate.state, State::Waiting(task) if task.is_finished())
            });
            if done || self.waits(id).await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(late(doing))
    }

    /// Whether a session waits for a table.
    ///
    /// # Errors
    /// The server's.
    pub async fn waits(&mut self, id: u32) -> Result<bool, Error> {
        let sql = format!("SELECT state FROM information_schema.processlist WHERE id = {id}");
        let answer = self.looking.one(&sql, "looking who waits").await?;
        // It is said once the session stands in the queue, not before.
        Ok(text(&answer, 0).starts_with("Waiting for table"))
    }

    /// Waits until a table is shut.
    ///
    /// # Errors
    /// The server's; Busy after `limit`.
    pub async fn hold(&mut self, spot: &Spot, limit: Duration) -> Result<(), Error> {
        let doing = format!("shutting table {}", spot.1);
        let found = self.gates.iter_mut().find(|gate| gate.spot == *spot);
        let Some(gate) = found else {
            return Err(late(&doing));
        };
        let State::Waiting(running) = &mut gate.state else {
            return Ok(());
        };
        let ended = tokio::time::timeout(limit, running).await;
        let ended = ended.map_err(|_| late(&doing))?;
        let (session, ran) = ended.map_err(|error| Error::Lost {
            doing,
            what: error.to_string(),
        })?;
        gate.state = State::Shut(session);
        ran
    }

    /// Waits until each table is shut that is going to be; one that is gone is not.
    ///
    /// # Errors
    /// As `hold`.
    pub async fn settle(&mut self, limit: Duration) -> Result<(), Error> {
        let mut spots: Vec<Spot> = self.gates.iter().map(|gate| gate.spot.clone()).collect();
        spots.dedup();
        for spot in spots {
            match self.hold(&spot, limit).await {
                Err(error) if error.code() != Some(1146) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether somebody waits for the table in this way, or has it.
    ///
    /// # Errors
    /// The server's.
    pub async fn sought(&mut self, spot: &Spot, sought: Sought) -> Result<bool, Error> {
        let doing = "looking who waits";
        let name = quote::qualified(&spot.0, &spot.1);
        let select = format!("SELECT 1 FROM {name} LIMIT 0");
        let sql = match (self.looking.server().mariadb, sought) {
            // To prepare takes the weakest lock, which yields to nobody but who waits for the
            // table alone; to read yields to who waits to lock it, too.
            (true, Sought::Alone) => format!("PREPARE look FROM {}", quote::text(&select)),
            (true, Sought::Locked) => select,
            (false, sought) => {
                let lock = match sought {
                    Sought::Alone => "EXCLUSIVE",
                    Sought::Locked => "SHARED_NO_READ_WRITE",
                };
                let sql = format!(
                    "SELECT COUNT(*) FROM performance_schema.metadata_locks \
                     WHERE object_type = 'TABLE' AND object_schema = {} AND object_name = {} \
                     AND lock_type = '{lock}'",
                    quote::text(&spot.0),
                    quote::text(&spot.1)
                );
                let count = number(&self.looking.one(&sql, doing).await?, 0);
                return Ok(count.unwrap_or_default() > 0);
            }
        };
        match self.looking.run(&sql, doing).await {
            Ok(()) => Ok(false),
            Err(error) if error.code() == Some(1205) => Ok(true),
            // One that is not there yet is not sought yet.
            Err(error) if error.code() == Some(1146) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a table again that was shut first, once it is; false where it is not shut.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(&mut self, spot: &Spot) -> Result<bool, Error> {
        let Some(at) = self.gates.iter().position(|gate| gate.spot == *spot) else {
            return Ok(false);
        };
        let doing = format!("opening table {}", spot.1);
        let mut session = match self.gates.remove(at).state {
            State::Shut(session) => session,
            // One that was not there to be shut needs no opening.
            State::Waiting(running) => end(running, &doing).await?.0,
        };
        session.run("UNLOCK TABLES", &doing).await?;
        self.idle.push(session);
        Ok(true)
    }

    /// Opens every table, and ends the sessions.
    pub async fn close(mut self) {
        for gate in std::mem::take(&mut self.gates) {
            match gate.state {
                State::Shut(session) => session.close().await,
                State::Waiting(running) => {
                    // One that still waits would have the table after us.
                    let end = format!("KILL {}", gate.id);
                    let _ = self.looking.run(&end, "ending a session").await;
                    let _ = running.await;
                }
            }
        }
        for session in self.idle {
            session.close().await;
        }
        self.looking.close().await;
    }
}
