//! Which row of the sample refers to which.
//!
//! Kept apart from the rows' text, so that the dependents of a deleted record are found by
//! reckoning through a table's links and never through its text. Invariant: a link of a row is an
//! index below the count of the table that it refers to.

use super::dice::Dice;
use super::{Sample, Table};

/// What a row refers to, as indices into other tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// Owner, author, manager, uploader.
    pub user: Option<u32>,
    /// The account that it belongs to.
    pub account: Option<u32>,
    /// The contact that it belongs to, or an account's primary contact.
    pub contact: Option<u32>,
    /// The deal that it belongs to.
    pub deal: Option<u32>,
    /// The tag of a contact's tag.
    pub tag: Option<u32>,
}

/// Part of the place of a row's dice: what they are thrown for.
const FOR_LINKS: u64 = u64::MAX;

impl Sample {
    /// The links of a row that was there before any churn.
    pub(super) fn links(&self, table: Table, index: u32) -> Links {
        let place = [table as u64, u64::from(index), FOR_LINKS];
        self.draw_links(table, index, &mut Dice::at(self.seed, place))
    }

    /// Links for a row at `index`, drawn among the rows that were there before any churn.
    pub(super) fn draw_links(&self, table: Table, index: u32, dice: &mut Dice) -> Links {
        let user = dice.chance(96).then(|| dice.zipf(self.count(Table::Users)));
        let none = Links::default();
        match table {
            Table::Users => Links {
                user: (index > 0).then(|| dice.zipf(index)),
                ..none
            },
            Table::Accounts => Links {
                user,
                contact: (index < self.count(Table::Contacts) && dice.chance(70)).then_some(index),
                ..none
            },
            Table::Contacts => Links {
                user,
                account: Some(self.account_of_contact(index, dice)),
                ..none
            },
            Table::Deals => {
                let contact = self.draw_contact(dice);
                let account = self.links(Table::Contacts, contact).account;
                Links {
                    user,
                    account,
                    contact: Some(contact),
                    ..none
                }
            }
            Table::Activities if dice.chance(40) => {
                let deal = dice.below(self.count(Table::Deals));
                Links {
                    user,
                    contact: self.links(Table::Deals, deal).contact,
                    deal: Some(deal),
                    ..none
                }
            }
            Table::Activities | Table::Mails | Table::Notes => Links {
                user,
                contact: Some(self.draw_contact(dice)),
                ..none
            },
            Table::AuditLog | Table::Attachments => Links {
                user,
                ..self.draw_one_parent(dice)
            },
            Table::Tags => none,
            Table::ContactTags => self.links_of_contact_tag(index),
        }
    }

    /// The first contacts go round the accounts, so that each has its primary one; a few accounts
    /// have many.
    fn account_of_contact(&self, index: u32, dice: &mut Dice) -> u32 {
        let accounts = self.count(Table::Accounts);
        if index < accounts {
            index
        } else if dice.chance(80) {
            dice.below(accounts)
        } else {
            dice.zipf(accounts)
        }
    }

    /// Most contacts are seldom heard of, some often.
    fn draw_contact(&self, dice: &mut Dice) -> u32 {
        let contacts = self.count(Table::Contacts);
        if dice.chance(90) {
            dice.below(contacts)
        } else {
            dice.zipf(contacts)
        }
    }

    fn draw_one_parent(&self, dice: &mut Dice) -> Links {
        let mut links = Links::default();
        match dice.below(10) {
            0..5 => links.contact = Some(self.draw_contact(dice)),
            5..8 => links.deal = Some(dice.below(self.count(Table::Deals))),
            _ => links.account = Some(dice.below(self.count(Table::Accounts))),
        }
        links
    }

    /// The contacts in turn, each time round with the tag after the last: no pair comes twice
    /// while there are more tags than times round.
    fn links_of_contact_tag(&self, index: u32) -> Links {
        let contacts = self.count(Table::Contacts);
        let tags = self.count(Table::Tags);
        let (round, contact) = (index / contacts, index % contacts);
        let place = [Table::ContactTags as u64, u64::from(contact), FOR_LINKS];
        let first = Dice::at(self.seed, place).zipf(tags);
        Links {
            contact: Some(contact),
            tag: Some((first + round) % tags),
            ..Links::default()
        }
    }
}
