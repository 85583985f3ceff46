//! Days of edits on the sample: what a CRM's users do to it.
//!
//! A [`Churn`] knows which rows live and what later rows refer to, but no text, so that a history
//! of many days needs little memory; the values of an edit are drawn when it is asked for.
//! Invariant: the edits of a day, applied in order and whole, keep every foreign key, and each
//! hits exactly one row whether or not the database cascades by itself.

use std::collections::HashSet;

use super::dice::Dice;
use super::links::Links;
use super::rows::{DAY, LAST, Place};
use super::{Row, Sample, Table, Value};

/// Part of the place of a day's dice: what they are thrown for.
const FOR_CHURN: u64 = 1 << 32;

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A new row.
    Insert {
        /// Its table.
        table: Table,
        /// Its values.
        row: Row,
    },
    /// New values of some columns.
    Update {
        /// The row's table.
        table: Table,
        /// The values of its primary key.
        key: Vec<Value>,
        /// Positions of the columns, and their new values.
        columns: Vec<(usize, Value)>,
    },
    /// A row goes.
    Delete {
        /// The row's table.
        table: Table,
        /// The values of its primary key.
        key: Vec<Value>,
    },
}

/// An edit whose values have not been drawn.
#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(Table, u32, Links),
    Update(Table, u32, Links),
    /// The column at the position becomes NULL.
    Clear(Table, u32, usize),
    Delete(Table, u32, Links),
}

/// The rows of one table after some days.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// Links of the rows that were not there before any churn.
    grown: Vec<Links>,
    gone: HashSet<u32>,
}

/// The sample as the days change it.
#[derive(Clone, Debug)]
pub struct Churn {
    sample: Sample,
    day: u32,
    rows: [Rows; Table::ALL.len()],
}

/// The edits of one day, in an order in which they can be applied.
#[derive(Debug)]
pub struct Day {
    sample: Sample,
    seed: u64,
    number: u32,
    steps: std::vec::IntoIter<Step>,
}

/// Which rows are deleted on a day, beside their dependents.
#[derive(Default)]
struct Leaving {
    contacts: HashSet<u32>,
    deals: HashSet<u32>,
    others: Vec<(Table, u32)>,
}

/// `share` of `count` in parts of 100,000, at least one.
fn share_of(count: u32, share: u32) -> u32 {
    ((u64::from(count) * u64::from(share) / 100_000) as u32)
        .max(1)
        .min(count)
}

impl Churn {
    /// The sample before its first day.
    pub fn new(sample: &Sample) -> Self {
        Churn {
            sample: *sample,
            day: 0,
            rows: Default::default(),
        }
    }

    /// How many rows of `table` live now.
    pub fn count(&self, table: Table) -> u32 {
        self.next(table) - self.rows[table as usize].gone.len() as u32
    }

    /// A CRM's day: 0.5 % of contacts and deals updated, 1 % new activities, mails and audit
    /// rows, 0.05 % of contacts, deals, activities, mails and notes deleted with their dependents.
    pub fn crm_day(&mut self, seed: u64) -> Day {
        let mut dice = self.begin(seed);
        let mut steps = Vec::new();
        for table in [Table::Contacts, Table::Deals] {
            self.update(table, 500, &mut dice, &mut steps);
        }
        for table in [Table::Activities, Table::Mails, Table::AuditLog] {
            self.append(table, 1000, &mut dice, &mut steps);
        }
        let mut leaving = Leaving::default();
        if self.may_leave(Table::Contacts) {
            let contacts = self.choose(Table::Contacts, 50, &mut dice);
            leaving.contacts.extend(contacts);
        }
        if self.may_leave(Table::Deals) {
            let deals = self.choose(Table::Deals, 50, &mut dice);
            leaving.deals.extend(deals);
        }
        for table in [Table::Activities, Table::Mails, Table::Notes] {
            let chosen = self.choose(table, 50, &mut dice);
            leaving
                .others
                .extend(chosen.into_iter().map(|index| (table, index)));
        }
        self.delete(&leaving, &mut steps);
        self.end(seed, steps)
    }

    /// A day on which rows are only added: 1 % of contacts, deals, activities, mails, notes and
    /// audit rows.
    pub fn append_only(&mut self, seed: u64) -> Day {
        let mut dice = self.begin(seed);
        let mut steps = Vec::new();
        for table in [
            Table::Contacts,
            Table::Deals,
            Table::Activities,
            Table::Mails,
            Table::Notes,
            Table::AuditLog,
        ] {
            self.append(table, 1000, &mut dice, &mut steps);
        }
        self.end(seed, steps)
    }

    /// A day on which 1 % of the rows of every table that has something to update is updated.
    pub fn random_updates(&mut self, seed: u64) -> Day {
        let mut dice = self.begin(seed);
        let mut steps = Vec::new();
        for table in Table::ALL {
            if !mutable(table).is_empty() {
                self.update(table, 1000, &mut dice, &mut steps);
            }
        }
        self.end(seed, steps)
    }

    /// The day of an accident: `count` contacts (at most all) deleted with their dependents.
    pub fn delete_contacts(&mut self, seed: u64, count: u32) -> Day {
        let mut dice = self.begin(seed);
        let mut steps = Vec::new();
        let contacts = self.choose_many(Table::Contacts, count, &mut dice);
        let leaving = Leaving {
            contacts: contacts.into_iter().collect(),
            ..Leaving::default()
        };
        self.delete(&leaving, &mut steps);
        self.end(seed, steps)
    }

    fn begin(&mut self, seed: u64) -> Dice {
        self.day += 1;
        Dice::at(self.sample.seed, [FOR_CHURN, seed, u64::from(self.day)])
    }

    fn end(&self, seed: u64, steps: Vec<Step>) -> Day {
        Day {
            sample: self.sample,
            seed,
            number: self.day,
            steps: steps.into_iter(),
        }
    }

    /// The index that the next new row of `table` gets.
    fn next(&self, table: Table) -> u32 {
        self.sample.count(table) + self.rows[table as usize].grown.len() as u32
    }

    fn lives(&self, table: Table, index: u32) -> bool {
        !self.rows[table as usize].gone.contains(&index)
    }

    fn links(&self, table: Table, index: u32) -> Links {
        match index.checked_sub(self.sample.count(table)) {
            None => self.sample.links(table, index),
            Some(grown) => self.rows[table as usize].grown[grown as usize],
        }
    }

    /// Every living row of `table` with its links.
    fn living(&self, table: Table) -> impl Iterator<Item = (u32, Links)> {
        (0..self.next(table))
            .filter(move |&index| self.lives(table, index))
            .map(move |index| (index, self.links(table, index)))
    }

    /// Living rows of `table`, none twice: `share` of them in parts of 100,000.
    fn choose(&self, table: Table, share: u32, dice: &mut Dice) -> Vec<u32> {
        self.choose_many(table, share_of(self.count(table), share), dice)
    }

    fn choose_many(&self, table: Table, count: u32, dice: &mut Dice) -> Vec<u32> {
        let count = count.min(self.count(table)) as usize;
        let mut seen = HashSet::new();
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let index = dice.below(self.next(table));
            if self.lives(table, index) && seen.insert(index) {
                chosen.push(index);
            }
        }
        chosen
    }

    /// New rows belong to those that were there before any churn, so half of them stay: a tiny
    /// sample, of which one row a day is a large share, would run out of them within weeks.
    fn may_leave(&self, table: Table) -> bool {
        let gone = self.rows[table as usize].gone.len();
        gone < self.sample.count(table) as usize / 2
    }

    fn update(&self, table: Table, share: u32, dice: &mut Dice, steps: &mut Vec<Step>) {
        let chosen = self.choose(table, share, dice);
        steps.extend(
            chosen
                .into_iter()
                .map(|index| Step::Update(table, index, self.links(table, index))),
        );
    }

    fn append(&mut self, table: Table, share: u32, dice: &mut Dice, steps: &mut Vec<Step>) {
        for _ in 0..share_of(self.sample.count(table), share) {
            let index = self.next(table);
            let links = loop {
                let links = self.sample.draw_links(table, index, dice);
                if self.all_live(&links) {
                    break links;
                }
            };
            self.rows[table as usize].grown.push(links);
            steps.push(Step::Insert(table, index, links));
        }
    }

    /// Whether everything that can be deleted, of what `links` names, lives.
    fn all_live(&self, links: &Links) -> bool {
        let lives = |table, link: Option<u32>| link.is_none_or(|index| self.lives(table, index));
        lives(Table::Contacts, links.contact) && lives(Table::Deals, links.deal)
    }

    /// Children first, then what loses a reference, then parents.
    fn delete(&mut self, leaving: &Leaving, steps: &mut Vec<Step>) {
        let mut gone: Vec<(Table, u32, Links)> = leaving
            .others
            .iter()
            .map(|&(table, index)| (table, index, self.links(table, index)))
            .collect();
        let chosen: HashSet<(Table, u32)> = leaving.others.iter().copied().collect();
        for table in [
            Table::Activities,
            Table::Mails,
            Table::Notes,
            Table::ContactTags,
            Table::Attachments,
        ] {
            for (index, links) in self.living(table) {
                if leaving.takes(table, &links) && !chosen.contains(&(table, index)) {
                    gone.push((table, index, links));
                }
            }
        }
        for &(table, index, _) in &gone {
            self.rows[table as usize].gone.insert(index);
        }
        steps.extend(
            gone.into_iter()
                .map(|(table, index, links)| Step::Delete(table, index, links)),
        );
        for (table, column) in [
            (Table::Accounts, "primary_contact_id"),
            (Table::Deals, "contact_id"),
            (Table::Activities, "deal_id"),
        ] {
            self.clear(table, column, leaving, steps);
        }
        for (table, parents) in [
            (Table::Deals, &leaving.deals),
            (Table::Contacts, &leaving.contacts),
        ] {
            let mut parents: Vec<u32> = parents.iter().copied().collect();
            parents.sort_unstable();
            for index in parents {
                self.rows[table as usize].gone.insert(index);
                steps.push(Step::Delete(table, index, Links::default()));
            }
        }
    }

    /// References to what leaves become NULL in the rows that stay.
    fn clear(&self, table: Table, column: &str, leaving: &Leaving, steps: &mut Vec<Step>) {
        let Some(position) = table.column(column) else {
            unreachable!("{} has the column {column}", table.name())
        };
        for (index, links) in self.living(table) {
            let leaves = match table {
                Table::Activities => links.deal.is_some_and(|deal| leaving.deals.contains(&deal)),
                Table::Deals if leaving.deals.contains(&index) => false,
                _ => links
                    .contact
                    .is_some_and(|contact| leaving.contacts.contains(&contact)),
            };
            if leaves {
                steps.push(Step::Clear(table, index, position));
            }
        }
    }
}

impl Leaving {
    /// Whether a row with `links` goes with what leaves.
    fn takes(&self, table: Table, links: &Links) -> bool {
        let with_contact = links
            .contact
            .is_some_and(|contact| self.contacts.contains(&contact));
        let with_deal = table == Table::Attachments
            && links.deal.is_some_and(|deal| self.deals.contains(&deal));
        with_contact || with_deal
    }
}

/// The columns that users change.
fn mutable(table: Table) -> &'static [&'static str] {
    match table {
        Table::Users => &["settings"],
        Table::Accounts => &["phone", "description", "updated_at"],
        Table::Contacts => &["phone", "job_title", "score", "custom", "updated_at"],
        Table::Deals => &["stage", "probability", "amount", "next_step", "updated_at"],
        Table::Activities => &["outcome", "done", "minutes"],
        Table::Mails => &["status"],
        Table::Notes => &["body", "pinned"],
        Table::AuditLog | Table::Tags | Table::ContactTags | Table::Attachments => &[],
    }
}

impl Day {
    /// How many edits are left.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether no edit is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row as somebody makes it on this day.
    fn row(&self, table: Table, index: u32, links: Links) -> Row {
        let what = u64::from(index) << 8 | table as u64;
        let day = u64::from(self.number) << 34 | FOR_CHURN;
        let mut dice = Dice::at(self.sample.seed, [day, self.seed, what]);
        let within = (dice.any() % DAY.unsigned_abs()) as i64;
        let at = LAST + i64::from(self.number) * DAY + within;
        self.sample
            .make(table, &Place { index, links, at }, &mut dice)
    }

    /// Some of the columns that users change, with new values.
    fn update(&self, table: Table, index: u32, links: Links) -> Edit {
        let mut row = self.row(table, index, links);
        let columns = mutable(table)
            .iter()
            .filter_map(|name| table.column(name))
            .map(|position| (position, std::mem::replace(&mut row[position], Value::Null)))
            .collect();
        let key = self.sample.key(table, index, &links);
        Edit::Update {
            table,
            key,
            columns,
        }
    }
}

impl Iterator for Day {
    type Item = Edit;

    fn next(&mut self) -> Option<Edit> {
        Some(match self.steps.next()? {
            Step::Insert(table, index, links) => {
                let row = self.row(table, index, links);
                Edit::Insert { table, row }
            }
            Step::Update(table, index, links) => self.update(table, index, links),
            Step::Clear(table, index, position) => Edit::Update {
                table,
                key: self.sample.key(table, index, &Links::default()),
                columns: vec![(position, Value::Null)],
            },
            Step::Delete(table, index, links) => Edit::Delete {
                table,
                key: self.sample.key(table, index, &links),
            },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}
