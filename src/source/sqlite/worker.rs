//! A SQLite connection on a thread of its own.
//!
//! A connection is not `Sync` and its calls block, so async code hands work to it as closures.
//! Invariant: work runs in the order it was handed in, one piece at a time; dropping the worker
//! interrupts what runs and closes the connection.

use std::sync::mpsc;

use rusqlite::{Connection, InterruptHandle};
use tokio::sync::oneshot;

use super::Error;

type Work = Box<dyn FnOnce(&mut Option<Connection>) + Send>;

/// The way to a connection that lives on another thread.
pub struct Worker {
    work: mpsc::Sender<Work>,
    interrupt: Option<InterruptHandle>,
}

impl Worker {
    /// Starts a thread, lets it open a connection there, and waits for that.
    ///
    /// # Errors
    /// What `open` says; [`Error::Io`] where no thread can be started.
    pub async fn start<T: Send + 'static>(
        name: &str,
        open: impl FnOnce() -> Result<(Connection, T), Error> + Send + 'static,
    ) -> Result<(Worker, T), Error> {
        let (work, waiting) = mpsc::channel::<Work>();
        let (opened, answer) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("sqlite {name}"));
        let started = thread.spawn(move || {
            let mut connection = match open() {
                Ok((connection, more)) => {
                    let interrupt = connection.get_interrupt_handle();
                    if opened.send(Ok((interrupt, more))).is_err() {
                        return;
                    }
                    Some(connection)
                }
                Err(error) => {
                    // Nobody waits any more only where the caller was dropped.
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            for work in waiting {
                work(&mut connection);
            }
        });
        started.map_err(|error| Error::from_io(name.as_ref(), "starting a thread", error))?;
        let (interrupt, more) = answer.await.map_err(|_| Self::gone())??;
        let worker = Worker {
            work,
            interrupt: Some(interrupt),
        };
        Ok((worker, more))
    }

    /// Runs `work` on the connection's thread and waits for its answer. Where the waiting ends
    /// early, the work goes on unless it notices by itself.
    ///
    /// # Errors
    /// What `work` says; [`Error::NotOpen`] after `close`.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let result = match connection {
                Some(connection) => work(connection),
                None => Err(Self::gone()),
            };
            let _ = done.send(result);
        });
        self.work.send(work).map_err(|_| Self::gone())?;
        answer.await.map_err(|_| Self::gone())?
    }

    /// Closes the connection and waits until its files are closed.
    ///
    /// # Errors
    /// What SQLite says about closing.
    pub async fn close(mut self) -> Result<(), rusqlite::Error> {
        self.interrupt = None;
        let (done, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let result = match connection.take() {
                Some(connection) => connection.close().map_err(|(_, error)| error),
                None => Ok(()),
            };
            let _ = done.send(result);
        });
        if self.work.send(work).is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }

    /// Stops what runs now, as soon as SQLite looks up.
    pub fn interrupt(&self) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.interrupt();
        }
    }

    fn gone() -> Error {
        Error::NotOpen { what: "work" }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.interrupt();
    }
}
