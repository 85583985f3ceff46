//! The keyring: who may write, what, and which of it counts.
//!
//! One object a change, each with the hash of the one before; the owner signs all of them, the
//! caller seals and checks that. A writer's rights are asked for here and nowhere else, so that
//! the same entry counts for every client. Invariant: what a keyring does not allow is forbidden,
//! and a revoked writer's entries count only where the keyring says up to which.
//! Bytes: docs/format.md, "Keyring".

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::keyslot::text::is_name;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::{ObjectId, SignerId, SourceName};

/// Features that this program understands.
pub const FEATURES_KNOWN: &[&str] = &[];
/// Longest body.
pub const BYTES_MAX: usize = 16 << 20;
/// Most writers, the revoked ones counted.
pub const WRITERS_MAX: usize = 4096;

const WHAT: &str = "keyring";

/// Which sources a writer may write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sources {
    /// All, those to come included.
    All,
    /// These.
    Only(BTreeSet<SourceName>),
}

/// Which ledger entries of a source count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first entry that counts.
    pub from: u64,
    /// The last entry that counts; none while there is no end.
    pub until: Option<u64>,
}

/// A writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its name: `[a-z0-9._-]{1,64}`.
    pub name: String,
    /// Its public key.
    pub signer: SignerId,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// Which sources it may write.
    pub sources: Sources,
    /// Whether its "forgotten" entries count.
    pub may_forget: bool,
    /// Which entries of a source count; where none is named, all do, until it is revoked.
    #[serde(default)]
    pub counts: BTreeMap<SourceName, Span>,
    /// When it was revoked: only what `counts` gives an end to still counts.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
}

/// The writers at one point in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    /// The number in its name, from 1.
    pub number: u64,
    /// BLAKE3 of the stored bytes of the one before; none for the first.
    pub previous: Option<ObjectId>,
    /// When it was written.
    pub created: Timestamp,
    /// The epoch that new backups use.
    pub epoch: u32,
    /// The owner, who may do everything.
    pub owner: SignerId,
    /// The writers, the revoked ones included.
    pub writers: Vec<Writer>,
    /// Names of what a client must understand.
    #[serde(default)]
    pub required: Vec<String>,
}

impl Writer {
    /// Whether an entry of `source` with this number counts.
    fn counts_at(&self, source: &SourceName, entry: u64) -> bool {
        let allowed = match &self.sources {
            Sources::All => true,
            Sources::Only(names) => names.contains(source),
        };
        let span = self.counts.get(source).copied();
        let span = span.unwrap_or(Span {
            from: 0,
            until: None,
        });
        let before_end = match span.until {
            Some(last) => entry <= last,
            None => self.revoked.is_none(),
        };
        allowed && entry >= span.from && before_end
    }
}

impl Keyring {
    /// The first keyring of a repository: the owner alone.
    pub fn first(owner: SignerId, epoch: u32, created: Timestamp) -> Self {
        Keyring {
            number: 1,
            previous: None,
            created,
            epoch,
            owner,
            writers: Vec::new(),
            required: Vec::new(),
        }
    }

    /// The body's bytes.
    ///
    /// # Errors
    /// [`Error::Body`] where the keyring contradicts itself; see [`read`].
    pub fn write(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        Ok(write_body(self))
    }

    /// Reads the body that stands under `number`.
    ///
    /// # Errors
    /// Not a keyring, another number, a feature that must be understood, or one that contradicts
    /// itself: two writers of a name or a key, a span that ends before it starts.
    pub fn read(bytes: &[u8], number: u64) -> Result<Keyring, Error> {
        if bytes.len() > BYTES_MAX {
            return Err(wrong(format!("{} bytes are too many", bytes.len())));
        }
        let keyring: Keyring = read_featured(bytes, FEATURES_KNOWN, WHAT)?;
        if keyring.number != number {
            return Err(Error::Misplaced {
                what: WHAT,
                field: "number",
                found: keyring.number.to_string(),
                expected: number.to_string(),
            });
        }
        keyring.check()?;
        Ok(keyring)
    }

    /// Whether entry `entry` of `source`, signed by `signer`, counts. The owner's always do.
    pub fn may_write(&self, signer: &SignerId, source: &SourceName, entry: u64) -> bool {
        let mut writers = self.writers.iter();
        *signer == self.owner
            || writers.any(|writer| writer.signer == *signer && writer.counts_at(source, entry))
    }

    /// Whether entry `entry` of `source`, signed by `signer`, may take snapshots out of the living.
    pub fn may_forget(&self, signer: &SignerId, source: &SourceName, entry: u64) -> bool {
        let forgets = |writer: &Writer| {
            writer.signer == *signer && writer.may_forget && writer.counts_at(source, entry)
        };
        *signer == self.owner || self.writers.iter().any(forgets)
    }

    /// Whether `signer` may maintain the repository now: mark packs, and write indexes anew that
    /// others wrote. That takes the right to forget in every source, those to come included.
    pub fn may_maintain(&self, signer: &SignerId) -> bool {
        let maintains = |writer: &Writer| {
            let forgets = writer.may_forget && writer.sources == Sources::All;
            writer.signer == *signer && forgets && writer.revoked.is_none()
        };
        *signer == self.owner || self.writers.iter().any(maintains)
    }

    /// Whether `signer` may add anything now: new indexes, packs and intents of others are not
    /// built upon.
    pub fn is_active(&self, signer: &SignerId) -> bool {
        let active = |writer: &Writer| writer.signer == *signer && writer.revoked.is_none();
        *signer == self.owner || self.writers.iter().any(active)
    }

    /// The writer of this name.
    pub fn writer(&self, name: &str) -> Option<&Writer> {
        self.writers.iter().find(|writer| writer.name == name)
    }

    /// The name of who signs with this key: a writer's, or `owner`.
    pub fn name_of(&self, signer: &SignerId) -> Option<&str> {
        if *signer == self.owner {
            return Some("owner");
        }
        let found = self.writers.iter().find(|writer| writer.signer == *signer);
        found.map(|writer| writer.name.as_str())
    }

    /// The keyring that comes after this one, whose stored bytes hash to `hash`.
    pub fn next(&self, hash: ObjectId, created: Timestamp) -> Keyring {
        Keyring {
            number: self.number + 1,
            previous: Some(hash),
            created,
            ..self.clone()
        }
    }

    /// Adds a writer.
    ///
    /// # Errors
    /// [`Error::Body`]: the name or the key is taken, or is no name.
    pub fn enrol(&mut self, writer: Writer) -> Result<(), Error> {
        self.writers.push(writer);
        self.check().inspect_err(|_| {
            self.writers.pop();
        })
    }

    /// Revokes a writer: of each source, nothing after the entry that `heads` names counts, and
    /// nothing at all of a source that it does not name. False where no such writer is active.
    pub fn revoke(
        &mut self,
        name: &str,
        heads: &BTreeMap<SourceName, u64>,
        now: Timestamp,
    ) -> bool {
        let found = self.writers.iter_mut().find(|writer| writer.name == name);
        let Some(writer) = found.filter(|writer| writer.revoked.is_none()) else {
            return false;
        };
        for (source, head) in heads {
            let span = writer.counts.entry(source.clone()).or_insert(Span {
                from: 0,
                until: None,
            });
            let last = span.until.map_or(*head, |until| until.min(*head));
            // A span that would end before it starts counts nothing, and is said by no end.
            span.until = (last >= span.from).then_some(last);
        }
        writer.revoked = Some(now);
        true
    }

    fn check(&self) -> Result<(), Error> {
        if self.number == 0 || (self.number == 1) != self.previous.is_none() {
            return Err(wrong("its number and the one before do not agree".into()));
        }
        if self.writers.len() > WRITERS_MAX {
            return Err(wrong(format!(
                "{} writers are too many",
                self.writers.len()
            )));
        }
        let mut names = BTreeSet::from(["owner"]);
        let mut signers = BTreeSet::from([self.owner]);
        for writer in &self.writers {
            if !is_name(&writer.name) {
                return Err(wrong(format!("{:?} is not a writer's name", writer.name)));
            }
            if !names.insert(&writer.name) || !signers.insert(writer.signer) {
                return Err(wrong(format!("writer {} or its key is taken", writer.name)));
            }
            let backward = |span: &Span| span.until.is_some_and(|until| until < span.from);
            if writer.counts.values().any(backward) {
                return Err(wrong(format!(
                    "writer {} has a span that ends before it starts",
                    writer.name
                )));
            }
        }
        Ok(())
    }
}

fn wrong(why: String) -> Error {
    Error::Body { what: WHAT, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: SignerId = SignerId([1; 32]);
    const HOST: SignerId = SignerId([2; 32]);
    const KEEPER: SignerId = SignerId([3; 32]);

    fn source(name: &str) -> SourceName {
        name.parse().unwrap()
    }

    fn writer(name: &str, signer: SignerId) -> Writer {
        Writer {
            name: name.into(),
            signer,
            enrolled: Timestamp(1),
            sources: Sources::Only([source("crm")].into()),
            may_forget: false,
            counts: BTreeMap::new(),
            revoked: None,
        }
    }

    fn keyring() -> Keyring {
        let mut keyring = Keyring::first(OWNER, 1, Timestamp(0));
        keyring.enrol(writer("host", HOST)).unwrap();
        let mut keeper = writer("keeper", KEEPER);
        keeper.sources = Sources::All;
        keeper.may_forget = true;
        keyring.enrol(keeper).unwrap();
        keyring
    }

    #[test]
    fn keyring_read_is_the_one_written() {
        let first = keyring();
        let mut second = first.next(ObjectId([9; 32]), Timestamp(8));
        assert!(second.revoke("host", &[(source("crm"), 12)].into(), Timestamp(8)));
        for keyring in [first, second] {
            let bytes = keyring.write().unwrap();
            assert_eq!(Keyring::read(&bytes, keyring.number), Ok(keyring));
        }
    }

    #[test]
    fn writer_writes_its_own_sources_and_forgets_only_with_the_right() {
        let keyring = keyring();
        let (crm, erp) = (source("crm"), source("erp"));
        assert!(keyring.may_write(&HOST, &crm, 1));
        assert!(!keyring.may_write(&HOST, &erp, 1));
        assert!(!keyring.may_forget(&HOST, &crm, 1));
        assert!(keyring.may_write(&KEEPER, &erp, 1) && keyring.may_forget(&KEEPER, &erp, 1));
        let stranger = SignerId([9; 32]);
        assert!(!keyring.may_write(&stranger, &crm, 1) && !keyring.is_active(&stranger));
        assert!(keyring.may_write(&OWNER, &erp, 1) && keyring.may_forget(&OWNER, &erp, 1));
    }

    #[test]
    fn spans_bound_what_counts_at_both_ends() {
        let mut keyring = keyring();
        let span = Span {
            from: 5,
            until: Some(7),
        };
        keyring.writers[0].counts.insert(source("crm"), span);
        let counted: Vec<u64> = (0..10)
            .filter(|entry| keyring.may_write(&HOST, &source("crm"), *entry))
            .collect();
        assert_eq!(counted, [5, 6, 7]);
    }

    #[test]
    fn revoked_writer_counts_up_to_the_heads_that_were_named() {
        let mut keyring = keyring();
        let (crm, erp) = (source("crm"), source("erp"));
        assert!(keyring.revoke("keeper", &[(crm.clone(), 12)].into(), Timestamp(9)));
        assert!(!keyring.revoke("keeper", &BTreeMap::new(), Timestamp(9)));
        assert!(!keyring.revoke("nobody", &BTreeMap::new(), Timestamp(9)));
        assert!(keyring.may_forget(&KEEPER, &crm, 12));
        assert!(!keyring.may_forget(&KEEPER, &crm, 13));
        assert!(!keyring.may_write(&KEEPER, &crm, 13));
        assert!(!keyring.may_write(&KEEPER, &erp, 1));
        assert!(!keyring.is_active(&KEEPER));
    }

    #[test]
    fn revoking_before_a_span_starts_leaves_nothing() {
        let mut keyring = keyring();
        let span = Span {
            from: 5,
            until: None,
        };
        keyring.writers[0].counts.insert(source("crm"), span);
        assert!(keyring.revoke("host", &[(source("crm"), 3)].into(), Timestamp(9)));
        assert!((0..10).all(|entry| !keyring.may_write(&HOST, &source("crm"), entry)));
        keyring.write().unwrap();
    }

    #[test]
    fn keyring_that_contradicts_itself_is_neither_written_nor_read() {
        let broken: [fn(&mut Keyring); 7] = [
            |keyring| keyring.number = 0,
            |keyring| keyring.number = 2,
            |keyring| keyring.previous = Some(ObjectId([0; 32])),
            |keyring| keyring.writers[0].name = "keeper".into(),
            |keyring| keyring.writers[0].name = "a b".into(),
            |keyring| keyring.writers[0].signer = OWNER,
            |keyring| {
                let span = Span {
                    from: 2,
                    until: Some(1),
                };
                keyring.writers[0].counts.insert(source("crm"), span);
            },
        ];
        for change in broken {
            let mut keyring = keyring();
            change(&mut keyring);
            assert!(matches!(keyring.write(), Err(Error::Body { .. })));
            let read = Keyring::read(&write_body(&keyring), keyring.number);
            assert!(matches!(read, Err(Error::Body { .. })), "{read:?}");
        }
        let mut keyring = keyring();
        assert!(keyring.enrol(writer("host", SignerId([7; 32]))).is_err());
        assert_eq!(keyring.writers.len(), 2);
    }

    #[test]
    fn keyring_of_another_number_and_unknown_features_are_refused() {
        let bytes = keyring().write().unwrap();
        assert!(matches!(
            Keyring::read(&bytes, 2),
            Err(Error::Misplaced { .. })
        ));
        let mut needs = keyring();
        needs.required = vec!["quorum".into()];
        let refused = Keyring::read(&write_body(&needs), 1).unwrap_err();
        assert!(refused.to_string().contains("\"quorum\""), "{refused}");
    }

    #[test]
    fn every_cut_is_refused_and_no_altered_byte_panics() {
        let bytes = keyring().write().unwrap();
        for end in 0..bytes.len() {
            assert!(Keyring::read(&bytes[..end], 1).is_err(), "cut at {end}");
        }
        for place in 0..bytes.len() {
            for value in [0, 0x7f, 0x80, 0xc1, 0xdd, 0xdf, 0xff] {
                let mut altered = bytes.clone();
                altered[place] = value;
                let _ = Keyring::read(&altered, 1);
            }
        }
        let mut longer = bytes;
        longer.push(0xc0);
        assert!(Keyring::read(&longer, 1).is_err());
    }
}
