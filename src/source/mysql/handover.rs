//! The one `RENAME TABLE` of an exchange, and who is kept out around it.
//!
//! A table with triggers cannot change its database, so theirs are dropped before and the new ones
//! made after; a statement in between would fire nothing. So such a table is never without a
//! session that keeps writers out of it: one holds all while triggers go; then one holds each
//! table until the renaming waits for it, and another stands behind the renaming by then; those
//! hold the new tables until one has locked them all and made their triggers. Invariant: when
//! writers come in, a table has its triggers, the old ones or the new.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::fence::{self, Fence, LOOK, Running, Sought, Spot};
use super::program;
use super::quote;
use super::session::{Purpose, Session, number};
use super::structure::{Definitions, Kind, Program};
use crate::clock::Clock;
use crate::failure::{AnyFailure, Class};
use crate::planted::reach;
use crate::source::address::ServerUrl;
use crate::source::{Exchange, Others};

/// The longest that one try to lock may keep others waiting.
const TRY_SECONDS: u32 = 1;
/// How long transactions of others may still run where they are respected.
const COURTESY: Duration = Duration::from_secs(20);
/// The same where they may come to their end.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long is waited between two tries.
const BREATH: Duration = Duration::from_millis(300);
/// How long the renaming may take to get to all its tables.
const PASSING: Duration = Duration::from_millis(1500);
/// After so long without a step, whoever waits for us in a transaction gives way, as in a deadlock.
const STUCK: Duration = Duration::from_millis(150);
/// How long the sessions behind the renaming may take to lock the tables.
const TAKING_OVER: Duration = Duration::from_secs(5);

/// What is to be moved.
pub struct Handover<'a> {
    /// The live database.
    pub url: &'a ServerUrl,
    /// For how long it may last.
    pub clock: &'a Arc<dyn Clock>,
    /// The names.
    pub names: &'a Exchange,
    /// Who else works there.
    pub others: Others,
    /// What goes out.
    pub outgoing: &'a Definitions,
    /// The tables that come in.
    pub coming: &'a Definitions,
    /// The programs that they have.
    pub incoming: &'a Definitions,
}

/// Tables that were moved.
pub struct Moved {
    /// Since when the old ones could not be used.
    pub since: Duration,
    /// The session that has locked the new tables with triggers, to make them.
    pub locked: Option<Session>,
}

/// The names of tables and sequences.
fn names(definitions: &Definitions) -> impl Iterator<Item = &String> {
    let tables = definitions.tables.iter().map(|table| &table.name);
    tables.chain(definitions.sequences.iter().map(|sequence| &sequence.name))
}

/// The triggers, in their order.
pub fn triggers(definitions: &Definitions) -> impl Iterator<Item = &Program> {
    let programs = definitions.programs.iter();
    programs.filter(|program| program.kind == Kind::Trigger)
}

/// The tables of `tables` that the triggers of `programs` are on.
fn with_triggers(programs: &Definitions, tables: &Definitions) -> BTreeSet<String> {
    let named = triggers(programs).filter_map(program::table);
    let found = named.filter_map(|named| {
        let mut all = tables.tables.iter().map(|table| &table.name);
        let mut alike = all.clone();
        let same = all.find(|name| **name == named);
        // A server may take names alike that differ in their case.
        same.or_else(|| alike.find(|name| name.eq_ignore_ascii_case(&named)))
    });
    found.cloned().collect()
}

/// A lock that was waited for in vain; the same may work later.
fn is_late(error: &Error) -> bool {
    matches!(error.code(), Some(1205 | 1213 | 1317))
}

impl Handover<'_> {
    /// Moves all tables out and in.
    ///
    /// # Errors
    /// Busy where others do not let go; the server's. The old tables are then there, with their
    /// triggers, unless the connection was lost.
    pub async fn run(&self, control: &mut Session) -> Result<Moved, AnyFailure> {
        let until = self.clock.elapsed()
            + match self.others {
                Others::Wait => PATIENCE,
                Others::Respect | Others::End => COURTESY,
            };
        loop {
            let mut tables = Tables::connect(self).await?;
            let since = self.lock(&mut tables.locking, control, until).await?;
            match tables.exchange(control).await {
                Ok(locked) => return Ok(Moved { since, locked }),
                Err(error) if is_late(&error) && self.clock.elapsed() < until => {
                    tokio::time::sleep(BREATH).await;
                }
                Err(error) if is_late(&error) => return Err(self.busy(&error)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn busy(&self, error: &Error) -> AnyFailure {
        let live = self.url.database();
        let what = format!("transactions of others work in database {live}: {error}");
        let hint = "try again, --wait for their end, or end them with --force";
        AnyFailure::new(Class::Busy, what, Some(hint.into()))
    }

    /// Locks all tables of the live database against everybody, and says since when.
    async fn lock(
        &self,
        locking: &mut Session,
        control: &mut Session,
        until: Duration,
    ) -> Result<Duration, AnyFailure> {
        let locks = names(self.outgoing).map(|name| quote::identifier(name) + " WRITE");
        let locks: Vec<String> = locks.collect();
        let timeout = format!("SET SESSION lock_wait_timeout = {TRY_SECONDS}");
        locking.run(&timeout, "its settings").await?;
        loop {
            if self.others == Others::End {
                end_transactions(control, &self.url.database()).await?;
            }
            let since = self.clock.elapsed();
            if locks.is_empty() {
                return Ok(since);
            }
            let sql = format!("LOCK TABLES {}", locks.join(", "));
            match locking.run(&sql, "locking the tables").await {
                Ok(()) => return Ok(since),
                Err(error) if is_late(&error) && self.clock.elapsed() < until => {
                    tokio::time::sleep(BREATH).await;
                }
                Err(error) if is_late(&error) => return Err(self.busy(&error)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All moves, out and in, as one statement; none where there is nothing to move.
    fn renaming(&self) -> Option<String> {
        let live = self.url.database();
        let mut moves = Vec::new();
        for (definitions, from, to) in [
            (self.outgoing, &live, &self.names.kept),
            (self.coming, &self.names.side, &live),
        ] {
            for name in names(definitions) {
                let (from, to) = (quote::qualified(from, name), quote::qualified(to, name));
                moves.push(format!("{from} TO {to}"));
            }
        }
        (!moves.is_empty()).then(|| format!("RENAME TABLE {}", moves.join(", ")))
    }

    /// The last of the tables that the renaming comes to: it takes its locks in this order.
    fn last(&self) -> Option<Spot> {
        let live = self.url.database();
        let outgoing = names(self.outgoing).map(|name| (live.clone(), name.clone()));
        let coming = names(self.coming).map(|name| (self.names.side.clone(), name.clone()));
        outgoing.chain(coming).max()
    }
}

/// Ends whoever is in a transaction in the live database.
async fn end_transactions(control: &mut Session, live: &str) -> Result<(), Error> {
    let sql = format!(
        "SELECT p.id FROM information_schema.innodb_trx t \
         JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
         WHERE p.db = {} AND p.id <> CONNECTION_ID()",
        quote::text(live)
    );
    for row in control.ask(&sql, "looking who works in it").await? {
        if let Some(id) = number(&row, 0) {
            // One that has ended by itself is fine.
            let _ = control.run(&format!("KILL {id}"), "ending a session").await;
        }
    }
    Ok(())
}

/// The sessions of one try.
struct Tables<'a> {
    handover: &'a Handover<'a>,
    live: String,
    /// Has all tables of the live database at first.
    locking: Session,
    renaming: Option<Session>,
    /// Has the tables with triggers at last.
    closing: Option<Session>,
    fence: Fence,
    old: BTreeSet<String>,
    new: BTreeSet<String>,
    /// The tables at which the renaming is stopped, in its order.
    guards: Vec<Spot>,
}

impl<'a> Tables<'a> {
    async fn connect(handover: &'a Handover<'a>) -> Result<Tables<'a>, Error> {
        let live = handover.url.database();
        let old = with_triggers(handover.outgoing, handover.outgoing);
        let new = with_triggers(handover.incoming, handover.coming);
        let mut guards: BTreeSet<Spot> = BTreeSet::new();
        if !old.is_empty() || !new.is_empty() {
            guards.extend(old.iter().map(|name| (live.clone(), name.clone())));
            guards.extend(handover.last());
        }
        // Where one is let go, another stands behind it already.
        let shut = guards.len() + new.difference(&old).count() + 1;
        // Whoever connects while others wait keeps them waiting.
        let connect = || Session::connect(handover.url, Some(&live), Purpose::Filling);
        let (locking, mut renaming) = (connect().await?, connect().await?);
        let waits = "SET SESSION lock_wait_timeout = 10";
        renaming.run(waits, "its settings").await?;
        let closing = connect().await?;
        let fence = Fence::connect(handover.url, &live, shut).await?;
        Ok(Tables {
            handover,
            live,
            locking,
            renaming: Some(renaming),
            closing: Some(closing),
            fence,
            old,
            new,
            guards: guards.into_iter().collect(),
        })
    }

    fn spot(&self, name: &str) -> Spot {
        (self.live.clone(), name.to_owned())
    }

    /// Exchanges the tables, which are locked; gives the session that has those with triggers.
    async fn exchange(mut self, control: &mut Session) -> Result<Option<Session>, Error> {
        let (renaming, closing) = (self.renaming.take(), self.closing.take());
        let (Some(renaming), Some(closing)) = (renaming, closing) else {
            return Err(fence::late("exchanging the tables"));
        };
        let begun = self.begin().await;
        reach("exchange locked");
        if let Err(error) = begun {
            // All tables are ours still.
            put_back(&mut self.locking, self.handover.outgoing, &self.live).await?;
            self.fence.close().await;
            return Err(error);
        }
        let renamed = match self.handover.renaming() {
            None => Ok(()),
            Some(sql) if self.guards.is_empty() => self.rename(renaming, sql).await,
            Some(sql) => self.rename_guarded(renaming, sql, control).await,
        };
        let tables = match renamed {
            Ok(()) => self.new.clone(),
            Err(_) => self.old.clone(),
        };
        let mut locked = self.take_over(closing, &tables).await?;
        self.fence.close().await;
        if let (Err(_), Some(locked)) = (&renamed, &mut locked) {
            put_back(locked, self.handover.outgoing, &self.live).await?;
        }
        renamed.map(|()| locked)
    }

    /// Drops the triggers, and puts a session before each table that had some.
    async fn begin(&mut self) -> Result<(), Error> {
        for trigger in triggers(self.handover.outgoing) {
            let sql = format!("DROP TRIGGER {}", quote::identifier(&trigger.name));
            let doing = format!("dropping trigger {}", trigger.name);
            self.locking.run(&sql, &doing).await?;
        }
        for guard in &self.guards {
            self.fence.shut(guard).await?;
        }
        Ok(())
    }

    /// Renames tables none of which has triggers: those who write come when it is done.
    async fn rename(&mut self, renaming: Session, sql: String) -> Result<(), Error> {
        let doing = "exchanging the tables";
        let id = renaming.id();
        let running = fence::start(renaming, sql, doing.into());
        // One that waits comes before all that write.
        for _ in 0..PASSING.as_millis() / LOOK.as_millis() {
            if running.is_finished() || self.fence.waits(id).await? {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.locking.run("UNLOCK TABLES", doing).await?;
        fence::end(running, doing).await?.1
    }

    /// Renames tables that are handed over one by one.
    async fn rename_guarded(
        &mut self,
        renaming: Session,
        sql: String,
        control: &mut Session,
    ) -> Result<(), Error> {
        let doing = "exchanging the tables";
        self.locking.run("UNLOCK TABLES", doing).await?;
        for guard in &self.guards {
            self.fence.hold(guard, PASSING).await?;
        }
        let id = renaming.id();
        let running = fence::start(renaming, sql, doing.into());
        let passed = self.pass(control, id, &running).await;
        if passed.is_err() {
            let stop = format!("KILL QUERY {id}");
            control.run(&stop, "stopping the renaming").await?;
        }
        // One that came through before it was stopped is done.
        let renamed = fence::end(running, doing).await?.1;
        renamed.map_err(|error| passed.err().unwrap_or(error))
    }

    /// Opens each table when the renaming waits for it and somebody stands behind.
    async fn pass(
        &mut self,
        control: &mut Session,
        renaming: u32,
        running: &Running,
    ) -> Result<(), Error> {
        let clock = self.handover.clock;
        let begun = clock.elapsed();
        let (mut moved, mut left) = (begun, self.guards.clone());
        while !left.is_empty() && !running.is_finished() {
            let Some(at) = self.arrived(&left).await? else {
                let now = clock.elapsed();
                if now - begun > PASSING {
                    return Err(fence::late("exchanging the tables"));
                }
                if now - moved > STUCK {
                    self.end_waiting(control, renaming).await?;
                }
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let guard = left.remove(at);
            if left.is_empty() {
                self.stand_behind_new().await?;
            }
            if guard.0 == self.live && (self.old.contains(&guard.1) || self.new.contains(&guard.1))
            {
                self.fence.shut(&guard).await?;
            }
            self.fence.open(&guard).await?;
            moved = clock.elapsed();
        }
        Ok(())
    }

    /// Which of the tables the renaming waits for; the last one only when it is the last.
    async fn arrived(&mut self, left: &[Spot]) -> Result<Option<usize>, Error> {
        let but_the_last = (left.len() - 1).max(1);
        for (at, guard) in left.iter().take(but_the_last).enumerate() {
            if self.fence.sought(guard, Sought::Alone).await? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The renaming has all tables but the last: those that get their first triggers too.
    async fn stand_behind_new(&mut self) -> Result<(), Error> {
        let first: Vec<String> = self.new.difference(&self.old).cloned().collect();
        for name in first {
            let spot = self.spot(&name);
            let guarded = self.guards.contains(&spot);
            if !guarded && self.fence.sought(&spot, Sought::Alone).await? {
                self.fence.shut(&spot).await?;
            }
        }
        Ok(())
    }

    /// Stops the statements that wait for our tables in transactions that hold others.
    async fn end_waiting(&self, control: &mut Session, renaming: u32) -> Result<(), Error> {
        let sql = format!(
            "SELECT p.id FROM information_schema.innodb_trx t \
             JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
             WHERE p.db = {} AND p.id <> {renaming} AND p.state LIKE 'Waiting for table%'",
            quote::text(&self.live)
        );
        let doing = "looking who waits";
        for row in control.ask(&sql, doing).await? {
            if let Some(id) = number(&row, 0) {
                let _ = control.run(&format!("KILL QUERY {id}"), doing).await;
            }
        }
        Ok(())
    }

    /// Locks `tables` for one session, before all who wait to write.
    async fn take_over(
        &mut self,
        closing: Session,
        tables: &BTreeSet<String>,
    ) -> Result<Option<Session>, Error> {
        if tables.is_empty() {
            closing.close().await;
            return Ok(None);
        }
        let doing = "locking the tables for their triggers";
        self.fence.settle(TAKING_OVER).await?;
        let locks: Vec<String> = tables
            .iter()
            .map(|name| quote::identifier(name) + " WRITE")
            .collect();
        let sql = format!("LOCK TABLES {}", locks.join(", "));
        let running = fence::start(closing, sql, doing.into());
        let mut left: Vec<Spot> = tables.iter().map(|name| self.spot(name)).collect();
        let since = self.handover.clock.elapsed();
        while !running.is_finished() {
            let mut waiting = Vec::new();
            for spot in left {
                match self.fence.sought(&spot, Sought::Locked).await? {
                    true => while self.fence.open(&spot).await? {},
                    false => waiting.push(spot),
                }
            }
            left = waiting;
            if self.handover.clock.elapsed() - since > TAKING_OVER {
                return Err(fence::late(doing));
            }
            tokio::time::sleep(LOOK).await;
        }
        let (session, ran) = fence::end(running, doing).await?;
        ran.map(|()| Some(session))
    }
}

/// Makes the triggers of `definitions` again, whichever are there, in a session that has locked
/// their tables; and lets go.
async fn put_back(
    session: &mut Session,
    definitions: &Definitions,
    live: &str,
) -> Result<(), Error> {
    for trigger in triggers(definitions) {
        let name = quote::qualified(live, &trigger.name);
        let doing = format!("putting trigger {} back", trigger.name);
        let sql = format!("DROP TRIGGER IF EXISTS {name}");
        session.run(&sql, &doing).await?;
    }
    let place = program::Place {
        database: live,
        definitions,
        skip_definer: false,
    };
    for trigger in triggers(definitions) {
        program::make_trigger(session, &place, trigger).await?;
    }
    session.run("UNLOCK TABLES", "letting the tables go").await
}
