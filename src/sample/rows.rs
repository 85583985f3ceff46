//! The rows of the sample: every value of a row from its table, its index and its links.
//!
//! Invariant: a row is a function of its place alone; rows made later (churn) hand in their own
//! links, instant and dice.

use super::dice::Dice;
use super::links::Links;
use super::words::Language;
use super::{Row, Sample, Table, Value};

/// The first instant of the sample: 2024-01-01T00:00:00Z.
const FIRST: i64 = 1_704_067_200_000_000;
/// The instant up to which rows were made before any churn: 2026-11-01T00:00:00Z.
pub(super) const LAST: i64 = 1_793_491_200_000_000;
/// A day in microseconds.
pub(super) const DAY: i64 = 86_400_000_000;

/// Part of the place of a row's dice: what they are thrown for.
const FOR_VALUES: u64 = 0;
const FOR_UUID: u64 = 1;
const FOR_LANGUAGE: u64 = 2;
const FOR_NAME: u64 = 3;

/// What is known of a row before its text is drawn.
pub(super) struct Place {
    pub index: u32,
    pub links: Links,
    /// When the row was made.
    pub at: i64,
}

fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

/// A value, or NULL in `percent` of 100 cases.
fn null_in(percent: u32, dice: &mut Dice, make: impl FnOnce(&mut Dice) -> Value) -> Value {
    if dice.chance(percent) {
        Value::Null
    } else {
        make(dice)
    }
}

fn counter(index: u32) -> Value {
    Value::Int(i64::from(index) + 1)
}

fn linked(link: Option<u32>) -> Value {
    link.map_or(Value::Null, counter)
}

fn telephone(language: &Language, dice: &mut Dice) -> String {
    let area = 10 + dice.zipf(80);
    let (first, second) = (dice.below(1000), dice.below(10_000));
    format!("{} {area} {first:03} {second:04}", language.telephone)
}

const ROLES: [&str; 5] = ["sales", "support", "manager", "admin", "marketing"];
const INDUSTRIES: [&str; 9] = [
    "manufacturing",
    "retail",
    "software",
    "logistics",
    "healthcare",
    "construction",
    "finance",
    "education",
    "agriculture",
];
const SOURCES: [&str; 7] = [
    "web", "referral", "fair", "campaign", "phone", "partner", "import",
];
const TITLES: [&str; 10] = [
    "Purchasing manager",
    "CEO",
    "CTO",
    "Head of sales",
    "Accountant",
    "Warehouse manager",
    "Assistant",
    "Owner",
    "IT administrator",
    "Project manager",
];
const STAGES: [(&str, i64); 7] = [
    ("new", 5),
    ("qualified", 20),
    ("proposal", 45),
    ("negotiation", 70),
    ("won", 100),
    ("lost", 0),
    ("on_hold", 10),
];
const KINDS: [&str; 6] = ["call", "email", "meeting", "task", "visit", "chat"];
const OUTCOMES: [&str; 6] = [
    "reached",
    "left message",
    "no answer",
    "wants offer",
    "not interested",
    "rescheduled",
];
const ACTIONS: [&str; 5] = ["update", "create", "view", "export", "delete"];
const COLORS: [&str; 6] = [
    "#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02",
];

impl Sample {
    /// The rows that `table` has before any churn, in the order of their making.
    pub fn rows(self, table: Table) -> impl Iterator<Item = Row> {
        (0..self.count(table)).map(move |index| self.row(table, index))
    }

    /// The row at `index`, which must be below [`Sample::count`].
    pub fn row(&self, table: Table, index: u32) -> Row {
        let mut dice = Dice::at(self.seed, [table as u64, u64::from(index), FOR_VALUES]);
        let step = (LAST - FIRST) / i64::from(self.count(table));
        let within = (dice.any() % step.unsigned_abs().max(1)) as i64;
        let place = Place {
            index,
            links: self.links(table, index),
            at: FIRST + i64::from(index) * step + within,
        };
        self.make(table, &place, &mut dice)
    }

    /// The primary key of the row at `index`; a contact's tag needs its `links`.
    pub(super) fn key(&self, table: Table, index: u32, links: &Links) -> Vec<Value> {
        match table {
            Table::Contacts | Table::Deals | Table::Mails | Table::Attachments => {
                vec![self.uuid(table, index)]
            }
            Table::ContactTags => vec![
                self.linked_uuid(Table::Contacts, links.contact),
                linked(links.tag),
            ],
            _ => vec![counter(index)],
        }
    }

    fn uuid(&self, table: Table, index: u32) -> Value {
        let mut dice = Dice::at(self.seed, [table as u64, u64::from(index), FOR_UUID]);
        let (high, low) = (dice.any(), dice.any());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        // Version 4 of RFC 9562.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Value::Uuid(bytes)
    }

    fn linked_uuid(&self, table: Table, link: Option<u32>) -> Value {
        link.map_or(Value::Null, |index| self.uuid(table, index))
    }

    fn language_of_account(&self, account: u32) -> &'static Language {
        let place = [Table::Accounts as u64, u64::from(account), FOR_LANGUAGE];
        Language::draw(&mut Dice::at(self.seed, place))
    }

    /// The language of what belongs to `links`: its account's, its contact's account's.
    fn language(&self, links: &Links) -> &'static Language {
        let account = match (links.account, links.contact) {
            (Some(account), _) => account,
            (None, Some(contact)) if contact < self.count(Table::Contacts) => {
                self.links(Table::Contacts, contact).account.unwrap_or(0)
            }
            (None, contact) => contact.unwrap_or(0),
        };
        self.language_of_account(account)
    }

    /// First and last name of a contact and their forms in an address; the same wherever it is
    /// greeted.
    fn name_of(&self, contact: u32, language: &'static Language) -> [&'static str; 4] {
        let place = [Table::Contacts as u64, u64::from(contact), FOR_NAME];
        let mut dice = Dice::at(self.seed, place);
        let first = dice.pick_early(&language.first_names);
        let last = dice.pick_early(&language.last_names);
        [first.0, last.0, first.1, last.1]
    }

    /// Every value of a row.
    pub(super) fn make(&self, table: Table, place: &Place, dice: &mut Dice) -> Row {
        let mut row = match table {
            Table::Users => self.user(place, dice),
            Table::Accounts => self.account(place, dice),
            Table::Contacts => self.contact(place, dice),
            Table::Deals => self.deal(place, dice),
            Table::Activities => self.activity(place, dice),
            Table::Mails => self.mail(place, dice),
            Table::Notes => self.note(place, dice),
            Table::AuditLog => self.audit(place, dice),
            Table::Tags => tag(place, dice),
            Table::ContactTags => vec![Value::Timestamp(place.at)],
            Table::Attachments => self.attachment(place, dice),
        };
        row.splice(0..0, self.key(table, place.index, &place.links));
        row
    }

    fn user(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = Language::draw(dice);
        let first = dice.pick(&language.first_names);
        let last = dice.pick(&language.last_names);
        let settings = format!(
            r#"{{"theme": "{}", "rows_per_page": {}, "signature": "{} {}", "notify": [{}]}}"#,
            dice.pick(&["light", "dark"]),
            dice.pick(&[20, 50, 100]),
            first.0,
            last.0,
            dice.pick(&[r#""mail""#, r#""mail", "push""#, ""]),
        );
        vec![
            text(format!("{}.{}{}@crm.example", first.1, last.1, place.index).to_lowercase()),
            text(format!("{} {}", first.0, last.0)),
            text(*dice.pick_early(&ROLES)),
            text(language.locale),
            linked(place.links.user),
            Value::Bool(dice.chance(90)),
            text(settings),
            Value::Timestamp(place.at),
        ]
    }

    fn account(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language_of_account(place.index);
        let family = dice.pick(&language.last_names);
        let name = format!("{} {}", family.0, dice.pick(&language.companies));
        let site = format!("www.{}{}.{}", family.1, place.index, language.domain).to_lowercase();
        let updated = place.at + i64::from(dice.below(90)) * DAY;
        vec![
            text(name),
            text(*dice.pick_early(&INDUSTRIES)),
            null_in(20, dice, |_| text(format!("https://{site}/"))),
            text(telephone(language, dice)),
            text(format!(
                "{} {}",
                dice.pick(&language.streets),
                1 + dice.zipf(200)
            )),
            text(*dice.pick_early(&language.cities)),
            text(language.country),
            null_in(30, dice, |dice| {
                text(format!(
                    "{}{:010}",
                    language.country,
                    dice.any() % 10_000_000_000
                ))
            }),
            null_in(25, dice, |dice| {
                Value::Decimal(i64::from(dice.zipf(2_000_000_000)) * 100)
            }),
            linked(place.links.user),
            self.linked_uuid(Table::Contacts, place.links.contact),
            null_in(30, dice, |dice| {
                let words = 8 + dice.zipf(60);
                text(language.prose(dice, words))
            }),
            Value::Timestamp(place.at),
            Value::Timestamp(updated),
        ]
    }

    fn contact(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let [first, last, first_ascii, last_ascii] = self.name_of(place.index, language);
        let number = place.index;
        let custom = format!(
            r#"{{"newsletter": {}, "segment": "{}", "visits": {}, "last_page": "/{}/{}"}}"#,
            dice.chance(40),
            dice.pick(&["A", "B", "C", "D"]),
            dice.zipf(500),
            dice.pick_early(&["pricing", "docs", "blog", "contact", "shop"]),
            dice.zipf(300),
        );
        let address = format!(
            "{first_ascii}.{last_ascii}{number}@mail.{}",
            language.domain
        );
        vec![
            linked(place.links.account),
            linked(place.links.user),
            text(first),
            text(last),
            text(address.to_lowercase()),
            null_in(15, dice, |dice| text(telephone(language, dice))),
            text(*dice.pick_early(&TITLES)),
            text(*dice.pick_early(&language.cities)),
            text(*dice.pick_early(&SOURCES)),
            Value::Int(i64::from(dice.below(101))),
            Value::Bool(dice.chance(60)),
            text(custom),
            Value::Timestamp(place.at),
            Value::Timestamp(place.at + i64::from(dice.below(120)) * DAY),
        ]
    }

    fn deal(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let (stage, probability) = *dice.pick_early(&STAGES);
        let words = 3 + dice.below(5);
        vec![
            linked(place.links.account),
            self.linked_uuid(Table::Contacts, place.links.contact),
            linked(place.links.user),
            text(language.phrase(dice, words)),
            text(stage),
            Value::Decimal(i64::from(dice.zipf(40_000_000)) + 10_000),
            text(language.currency),
            Value::Int(probability),
            null_in(20, dice, |dice| {
                Value::Timestamp((place.at / DAY + i64::from(dice.below(200))) * DAY)
            }),
            null_in(35, dice, |dice| {
                let words = 4 + dice.below(14);
                text(language.prose(dice, words))
            }),
            Value::Timestamp(place.at),
            Value::Timestamp(place.at + (dice.any() % (60 * DAY as u64)) as i64),
        ]
    }

    fn activity(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let words = 2 + dice.below(5);
        let length = 6 + dice.zipf(60);
        vec![
            self.linked_uuid(Table::Contacts, place.links.contact),
            self.linked_uuid(Table::Deals, place.links.deal),
            linked(place.links.user),
            text(*dice.pick_early(&KINDS)),
            text(language.phrase(dice, words)),
            text(language.prose(dice, length)),
            null_in(40, dice, |dice| text(*dice.pick_early(&OUTCOMES))),
            Value::Int(i64::from(dice.below(24)) * 5),
            Value::Bool(dice.chance(80)),
            null_in(30, dice, |dice| {
                Value::Timestamp((place.at / DAY + i64::from(dice.below(30))) * DAY + DAY / 2)
            }),
            Value::Timestamp(place.at),
        ]
    }

    fn mail(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let name = self.name_of(place.links.contact.unwrap_or(0), language);
        let mut body = format!(
            "{} {} {},\r\n\r\n",
            dice.pick(&language.greetings),
            name[0],
            name[1]
        );
        for _ in 0..1 + dice.below(4) {
            let words = 12 + dice.below(56);
            language.push_prose(dice, words, &mut body);
            body.push_str("\r\n\r\n");
        }
        body.push_str(&format!(
            "{}\r\n-- \r\n{}\r\n",
            dice.pick(&language.greetings),
            telephone(language, dice)
        ));
        if dice.chance(40) {
            body.push_str("> ");
            language.push_prose(dice, 30, &mut body);
        }
        let headers = format!(
            r#"{{"message-id": "<{:016x}@mail.{}>", "x-mailer": "{}", "received": ["from mx{}.mail.{} by in.crm.example"], "dkim": "{}"}}"#,
            dice.any(),
            language.domain,
            dice.pick_early(&["Outlook 16.0", "Apple Mail", "Thunderbird", "K-9 Mail"]),
            1 + dice.below(4),
            language.domain,
            dice.pick_early(&["pass", "none", "fail"]),
        );
        let words = 3 + dice.below(6);
        vec![
            self.linked_uuid(Table::Contacts, place.links.contact),
            linked(place.links.user),
            text(*dice.pick(&["in", "out"])),
            text(*dice.pick_early(&["read", "new", "answered", "archived"])),
            text(language.phrase(dice, words)),
            text(body),
            text(headers),
            Value::Timestamp(place.at),
        ]
    }

    fn note(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let words = 15 + dice.zipf(250);
        vec![
            self.linked_uuid(Table::Contacts, place.links.contact),
            linked(place.links.user),
            null_in(50, dice, |dice| text(language.phrase(dice, 3))),
            text(language.prose(dice, words)),
            Value::Bool(dice.chance(5)),
            Value::Timestamp(place.at),
        ]
    }

    /// The type and the id of the one row that `links` names, as text.
    fn parent(&self, links: &Links) -> (&'static str, String) {
        let (name, key) = match (links.contact, links.deal, links.account) {
            (Some(contact), _, _) => ("contact", self.uuid(Table::Contacts, contact)),
            (_, Some(deal), _) => ("deal", self.uuid(Table::Deals, deal)),
            (_, _, account) => ("account", counter(account.unwrap_or(0))),
        };
        (name, key.to_text())
    }

    fn audit(&self, place: &Place, dice: &mut Dice) -> Row {
        let (entity, id) = self.parent(&place.links);
        let action = *dice.pick_early(&ACTIONS);
        let changes = if action == "update" {
            format!(
                r#"{{"{}": ["{}", "{}"], "revision": {}}}"#,
                dice.pick_early(&["stage", "score", "phone", "owner", "next_step", "city"]),
                dice.zipf(10_000),
                dice.zipf(10_000),
                1 + dice.zipf(40),
            )
        } else {
            format!(r#"{{"revision": {}}}"#, 1 + dice.zipf(40))
        };
        let user = place.links.user.unwrap_or(0);
        vec![
            Value::Timestamp(place.at),
            counter(user),
            text(action),
            text(entity),
            text(id),
            text(changes),
            text(format!(
                "10.{}.{}.{}",
                user % 8,
                user / 8 % 256,
                1 + dice.zipf(250)
            )),
        ]
    }

    fn attachment(&self, place: &Place, dice: &mut Dice) -> Row {
        let language = self.language(&place.links);
        let (parent, id) = self.parent(&place.links);
        let (ending, media_type) = *dice.pick_early(&[
            ("pdf", "application/pdf"),
            ("csv", "text/csv"),
            ("png", "image/png"),
        ]);
        let data = attached_bytes(ending, language, dice);
        vec![
            text(parent),
            text(id),
            linked(place.links.user),
            text(format!(
                "{} {}.{ending}",
                language.phrase(dice, 2),
                1 + dice.zipf(999)
            )),
            text(media_type),
            Value::Int(data.len() as i64),
            Value::Bytes(data),
            Value::Timestamp(place.at),
        ]
    }
}

fn tag(place: &Place, dice: &mut Dice) -> Row {
    let language = Language::draw(dice);
    let words = 1 + dice.below(2);
    vec![
        text(format!("{} {}", language.phrase(dice, words), place.index)),
        text(*dice.pick(&COLORS)),
    ]
}

/// A table of text, or bytes that no compressor makes smaller.
fn attached_bytes(ending: &str, language: &Language, dice: &mut Dice) -> Vec<u8> {
    let length = 200 + dice.zipf(6000) as usize;
    if ending == "csv" {
        let mut lines = String::new();
        while lines.len() < length {
            let amount = dice.zipf(100_000);
            lines.push_str(&format!("{};{amount}\n", language.phrase(dice, 3)));
        }
        return lines.into_bytes();
    }
    let mut data = match ending {
        "pdf" => b"%PDF-1.7\n".to_vec(),
        _ => b"\x89PNG\r\n\x1a\n".to_vec(),
    };
    while data.len() < length {
        data.extend_from_slice(&dice.any().to_le_bytes());
    }
    data
}
