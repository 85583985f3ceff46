//! What the sample's tables look like: names, columns, keys, relations.
//!
//! The relations hold each case that the recovery of records must master: a circle (accounts ⇄
//! contacts), a reference to the same table (users), CASCADE and SET NULL, a join table, and a
//! parent that only the application knows (attachments). Invariant: the columns are the values of
//! a [`Row`](super::Row), in their order.

use super::{Column, Kind, Reference, Table};
use crate::row::schema::OnDelete;

const fn must(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        nullable: false,
        references: None,
    }
}

const fn may(name: &'static str, kind: Kind) -> Column {
    Column {
        nullable: true,
        ..must(name, kind)
    }
}

/// A reference that goes with its parent.
const fn part_of(name: &'static str, kind: Kind, table: Table) -> Column {
    Column {
        references: Some(Reference {
            table,
            on_delete: OnDelete::Cascade,
        }),
        ..must(name, kind)
    }
}

/// A reference that becomes NULL when its parent goes.
const fn linked_to(name: &'static str, kind: Kind, table: Table) -> Column {
    Column {
        references: Some(Reference {
            table,
            on_delete: OnDelete::SetNull,
        }),
        ..may(name, kind)
    }
}

const USERS: &[Column] = &[
    must("id", Kind::Id),
    must("email", Kind::Text),
    must("name", Kind::Text),
    must("role", Kind::Text),
    must("locale", Kind::Text),
    linked_to("manager_id", Kind::Int, Table::Users),
    must("active", Kind::Bool),
    must("settings", Kind::Json),
    must("created_at", Kind::Timestamp),
];

const ACCOUNTS: &[Column] = &[
    must("id", Kind::Id),
    must("name", Kind::Text),
    must("industry", Kind::Text),
    may("website", Kind::Text),
    must("phone", Kind::Text),
    must("street", Kind::Text),
    must("city", Kind::Text),
    must("country", Kind::Text),
    may("vat_number", Kind::Text),
    may("annual_revenue", Kind::Decimal),
    linked_to("owner_id", Kind::Int, Table::Users),
    linked_to("primary_contact_id", Kind::Uuid, Table::Contacts),
    may("description", Kind::Prose),
    must("created_at", Kind::Timestamp),
    must("updated_at", Kind::Timestamp),
];

const CONTACTS: &[Column] = &[
    must("id", Kind::Uuid),
    part_of("account_id", Kind::Int, Table::Accounts),
    linked_to("owner_id", Kind::Int, Table::Users),
    must("first_name", Kind::Text),
    must("last_name", Kind::Text),
    must("email", Kind::Text),
    may("phone", Kind::Text),
    must("job_title", Kind::Text),
    must("city", Kind::Text),
    must("lead_source", Kind::Text),
    must("score", Kind::Int),
    must("opted_in", Kind::Bool),
    must("custom", Kind::Json),
    must("created_at", Kind::Timestamp),
    must("updated_at", Kind::Timestamp),
];

const DEALS: &[Column] = &[
    must("id", Kind::Uuid),
    part_of("account_id", Kind::Int, Table::Accounts),
    linked_to("contact_id", Kind::Uuid, Table::Contacts),
    linked_to("owner_id", Kind::Int, Table::Users),
    must("title", Kind::Text),
    must("stage", Kind::Text),
    must("amount", Kind::Decimal),
    must("currency", Kind::Text),
    must("probability", Kind::Int),
    may("closes_at", Kind::Timestamp),
    may("next_step", Kind::Prose),
    must("created_at", Kind::Timestamp),
    must("updated_at", Kind::Timestamp),
];

const ACTIVITIES: &[Column] = &[
    must("id", Kind::Id),
    part_of("contact_id", Kind::Uuid, Table::Contacts),
    linked_to("deal_id", Kind::Uuid, Table::Deals),
    linked_to("user_id", Kind::Int, Table::Users),
    must("kind", Kind::Text),
    must("subject", Kind::Text),
    must("body", Kind::Prose),
    may("outcome", Kind::Text),
    must("minutes", Kind::Int),
    must("done", Kind::Bool),
    may("due_at", Kind::Timestamp),
    must("created_at", Kind::Timestamp),
];

const MAILS: &[Column] = &[
    must("id", Kind::Uuid),
    part_of("contact_id", Kind::Uuid, Table::Contacts),
    linked_to("user_id", Kind::Int, Table::Users),
    must("direction", Kind::Text),
    must("status", Kind::Text),
    must("subject", Kind::Text),
    must("body", Kind::Prose),
    must("headers", Kind::Json),
    must("sent_at", Kind::Timestamp),
];

const NOTES: &[Column] = &[
    must("id", Kind::Id),
    part_of("contact_id", Kind::Uuid, Table::Contacts),
    linked_to("author_id", Kind::Int, Table::Users),
    may("title", Kind::Text),
    must("body", Kind::Prose),
    must("pinned", Kind::Bool),
    must("created_at", Kind::Timestamp),
];

const AUDIT_LOG: &[Column] = &[
    must("id", Kind::Id),
    must("at", Kind::Timestamp),
    must("user_id", Kind::Int),
    must("action", Kind::Text),
    must("entity", Kind::Text),
    must("entity_id", Kind::Text),
    must("changes", Kind::Json),
    must("address", Kind::Text),
];

const TAGS: &[Column] = &[
    must("id", Kind::Id),
    must("name", Kind::Text),
    must("color", Kind::Text),
];

const CONTACT_TAGS: &[Column] = &[
    part_of("contact_id", Kind::Uuid, Table::Contacts),
    part_of("tag_id", Kind::Int, Table::Tags),
    must("added_at", Kind::Timestamp),
];

const ATTACHMENTS: &[Column] = &[
    must("id", Kind::Uuid),
    must("parent_type", Kind::Text),
    must("parent_id", Kind::Text),
    linked_to("uploaded_by", Kind::Int, Table::Users),
    must("file_name", Kind::Text),
    must("media_type", Kind::Text),
    must("size", Kind::Int),
    must("data", Kind::Bytes),
    must("created_at", Kind::Timestamp),
];

impl Table {
    /// Every table.
    pub const ALL: [Table; 11] = [
        Table::Users,
        Table::Accounts,
        Table::Contacts,
        Table::Deals,
        Table::Activities,
        Table::Mails,
        Table::Notes,
        Table::AuditLog,
        Table::Tags,
        Table::ContactTags,
        Table::Attachments,
    ];

    /// The table's name, the same in every engine.
    pub fn name(self) -> &'static str {
        match self {
            Table::Users => "users",
            Table::Accounts => "accounts",
            Table::Contacts => "contacts",
            Table::Deals => "deals",
            Table::Activities => "activities",
            Table::Mails => "mails",
            Table::Notes => "notes",
            Table::AuditLog => "audit_log",
            Table::Tags => "tags",
            Table::ContactTags => "contact_tags",
            Table::Attachments => "attachments",
        }
    }

    /// The columns, in the order of a row's values.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Table::Users => USERS,
            Table::Accounts => ACCOUNTS,
            Table::Contacts => CONTACTS,
            Table::Deals => DEALS,
            Table::Activities => ACTIVITIES,
            Table::Mails => MAILS,
            Table::Notes => NOTES,
            Table::AuditLog => AUDIT_LOG,
            Table::Tags => TAGS,
            Table::ContactTags => CONTACT_TAGS,
            Table::Attachments => ATTACHMENTS,
        }
    }

    /// How many leading columns are the primary key.
    pub fn key_columns(self) -> usize {
        if self == Table::ContactTags { 2 } else { 1 }
    }

    /// The position of the column `name`; none where the table has no such column.
    pub fn column(self, name: &str) -> Option<usize> {
        self.columns().iter().position(|column| column.name == name)
    }

    /// Rows at scale 1.0, and the fewest at any scale.
    pub(super) fn rows_at_scale_one(self) -> (u32, u32) {
        match self {
            Table::Users => (400, 12),
            Table::Accounts => (100_000, 20),
            Table::Contacts => (400_000, 60),
            Table::Deals => (200_000, 40),
            Table::Activities => (800_000, 120),
            Table::Mails => (240_000, 40),
            Table::Notes => (250_000, 40),
            Table::AuditLog => (1_200_000, 150),
            Table::Tags => (400, 16),
            Table::ContactTags => (800_000, 120),
            Table::Attachments => (12_000, 10),
        }
    }
}
