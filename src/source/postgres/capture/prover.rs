//! A running capture as a witness of what did not change.
//!
//! Counts and parts of tables are read over the capture's own connections, under its own snapshot.
//! Invariant: what is counted and what is read belong to the one database snapshot that the whole
//! backup is made of.

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Begun, Capture, not_begun};
use crate::failure::AnyFailure;
use crate::row::schema::Table;
use crate::source::address::ServerUrl;
use crate::source::postgres::error::Error;
use crate::source::postgres::{part, ranges, rows};
use crate::source::{Count, Order, Part, PieceSender, Places, Prover};

#[async_trait]
impl Prover for Capture {
    async fn witness(&self) -> Result<Option<String>, AnyFailure> {
        let begun = self.begun.as_ref().ok_or_else(not_begun)?;
        let mut main = begun.main.lock().await;
        Ok(begun.proof.witness(&mut main, &self.server).await?)
    }

    fn mark(&self, table: &Table) -> Option<String> {
        self.begun.as_ref()?.proof.mark(table)
    }

    fn doubt(&self, witness: &str) -> Option<&'static str> {
        match &self.begun {
            Some(begun) => begun.proof.doubt(witness),
            None => Some("the capture has not begun"),
        }
    }

    fn has_ranges(&self, table: &Table) -> bool {
        ranges::has_ranges(table)
    }

    async fn count(&self, table: &Table, witness: &str) -> Result<(Count, Places), AnyFailure> {
        let begun = self.begun.as_ref().ok_or_else(not_begun)?;
        let _slot = begun.slots.acquire().await.map_err(|_| not_begun())?;
        let (mut client, stray) = begun.held(&self.server).await?;
        let counted = part::count(&mut client, table, witness).await?;
        begun.give_back(client, stray);
        Ok(counted)
    }

    async fn count_ranges(&self, table: &Table, edges: &[String]) -> Result<Vec<u64>, AnyFailure> {
        let begun = self.begun.as_ref().ok_or_else(not_begun)?;
        let _slot = begun.slots.acquire().await.map_err(|_| not_begun())?;
        let (mut client, stray) = begun.held(&self.server).await?;
        let counts = part::count_ranges(&mut client, table, edges).await?;
        begun.give_back(client, stray);
        Ok(counts)
    }

    async fn read_part(
        &self,
        table: &Table,
        witness: &str,
        part: &Part,
        out: PieceSender,
    ) -> Result<u64, AnyFailure> {
        let begun = self.begun.as_ref().ok_or_else(not_begun)?;
        let _slot = begun.slots.acquire().await.map_err(|_| not_begun())?;
        begun.cancel_strays().await?;
        let wanted = (witness, part);
        let read = begun.read_some(&self.server, table, wanted, &out).await;
        if read.is_err() {
            // The first error is the one to tell.
            let _ = begun.cancel_strays().await;
        }
        Ok(read?)
    }
}

impl Begun {
    /// Reads the rows of a part, in the order of the key.
    async fn read_some(
        &self,
        server: &ServerUrl,
        table: &Table,
        (witness, part): (&str, &Part),
        out: &PieceSender,
    ) -> Result<u64, Error> {
        let doing = format!("reading table {}", table.name);
        let (mut client, stray) = self.held(server).await?;
        let candidates = rows::candidates(&mut client, table).await?;
        let way = part::Way::choose(&mut client, table, &candidates, witness, part).await?;
        // Its turn has come already.
        let (_turns, turn) = watch::channel(0);
        let read = rows::Read {
            table,
            order: Order::Key,
            encoding: &self.encoding,
            side: &self.main,
            candidates: &candidates,
            range: Some((&way.condition, rows::Turn::new(0, turn))),
            instead: way.instead.as_deref(),
        };
        match rows::read(&mut client, &read, out).await {
            Ok(count) => {
                client.run(part::IN_ANY_ORDER, &doing).await?;
                self.give_back(client, stray);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error)
            }
        }
    }
}
