//! Key files: secrets as text that a person can store, print and type.
//!
//! A key file is a text with one line that counts; everything else in it is for people, so that
//! the recovery sheet is a key file too. Each line ends with a checksum, which finds a mistyped
//! character before anything is tried. Invariant: no error shows any of the line.
//! Lines: docs/format.md, "Key files".

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::id::{RepositoryId, SignerId, SlotId, hex, unhex};

/// Longest text that is looked at.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// Length of the keys that every writer has, as bytes.
pub const SHARED_BYTES: usize = 7 * 32;
/// Longest name of a writer.
pub const NAME_BYTES_MAX: usize = 64;

const SLOT_PREFIX: &str = "rowvault-key-1:";
const WRITER_PREFIX: &str = "rowvault-writer-1:";
const WRITER_FIXED_BYTES: usize = 16 + 4 + SHARED_BYTES + 32 + 32 + 32 + 1;

/// Why a text is no key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No line that counts.
    #[error("the key file holds no key")]
    NoKey,
    /// More than one line that counts.
    #[error("the key file holds {count} keys, where one is expected")]
    ManyKeys {
        /// How many.
        count: usize,
    },
    /// Far longer than any key file.
    #[error("the key file has {bytes} bytes, the most is {TEXT_BYTES_MAX}")]
    Long {
        /// How long it is.
        bytes: usize,
    },
    /// Not what was written.
    #[error("the key's checksum does not match: a character was mistyped")]
    Checksum,
    /// Parts are missing, or are not of their alphabet.
    #[error("the key's line is incomplete or has characters that cannot stand there")]
    Malformed,
    /// A kind or version of line that is not known here.
    #[error("the key file has a line {prefix:?}, which this rowvault does not know")]
    Unknown {
        /// What the line starts with, up to the first colon.
        prefix: String,
    },
    /// A writer's name that cannot be written.
    #[error("{name:?} is not a writer's name")]
    Name {
        /// What was given.
        name: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NoKey => {
                "a key file has a line that starts with rowvault-key-1:, rowvault-writer-1: or \
                 AGE-SECRET-KEY-1"
            }
            Error::ManyKeys { .. } => "keep one key in each file",
            Error::Long { .. } => "check the path: this is another file",
            Error::Checksum | Error::Malformed => "compare the line with the original",
            Error::Unknown { .. } => "use a newer rowvault",
            Error::Name { .. } => "use 1 to 64 of a-z, 0-9, '.', '_' and '-'",
        };
        Some(hint.to_owned())
    }
}

/// What opens one key slot.
#[derive(Clone)]
pub struct SlotKey {
    /// The repository.
    pub repository: RepositoryId,
    /// The slot.
    pub slot: SlotId,
    /// The secret that the slot's root is wrapped under.
    pub secret: Zeroizing<[u8; 32]>,
}

/// What a host has that may write and not read.
#[derive(Clone)]
pub struct WriterKey {
    /// The repository.
    pub repository: RepositoryId,
    /// The epoch of the keys.
    pub epoch: u32,
    /// The keys that every writer has.
    pub shared: Zeroizing<[u8; SHARED_BYTES]>,
    /// The reader's X25519 public key.
    pub reader: [u8; 32],
    /// The owner's Ed25519 public key.
    pub owner: SignerId,
    /// The seed of the writer's own Ed25519 key.
    pub seed: Zeroizing<[u8; 32]>,
    /// What the keyring calls the writer: `[a-z0-9._-]{1,64}`.
    pub name: String,
}

/// What a key file turned out to be.
#[derive(Clone)]
pub enum KeyFile {
    /// Opens a key slot; from a key file or a recovery sheet.
    Slot(SlotKey),
    /// A writer's.
    Writer(Box<WriterKey>),
    /// `age` identities, for a recipient's slot; the whole text.
    AgeIdentity(Zeroizing<String>),
}

impl KeyFile {
    /// Finds the key in a text.
    ///
    /// # Errors
    /// No key, more than one, an unknown one (by its prefix), or a mistyped one.
    pub fn parse(text: &str) -> Result<KeyFile, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::Long { bytes: text.len() });
        }
        let lines = text.lines().map(str::trim);
        let ours: Vec<&str> = lines
            .clone()
            .filter(|line| line.starts_with("rowvault-") && line.contains(':'))
            .collect();
        match ours[..] {
            [line] => Self::parse_line(line),
            [] if lines.clone().any(is_identity) => {
                Ok(KeyFile::AgeIdentity(Zeroizing::new(text.to_owned())))
            }
            [] => Err(Error::NoKey),
            _ => Err(Error::ManyKeys { count: ours.len() }),
        }
    }

    fn parse_line(line: &str) -> Result<KeyFile, Error> {
        if let Some(rest) = line.strip_prefix(SLOT_PREFIX) {
            return parse_slot(rest).map(KeyFile::Slot);
        }
        if let Some(rest) = line.strip_prefix(WRITER_PREFIX) {
            return parse_writer(rest).map(|key| KeyFile::Writer(Box::new(key)));
        }
        let prefix = line.split(':').next().unwrap_or_default();
        Err(Error::Unknown {
            prefix: prefix.chars().take(32).collect(),
        })
    }
}

impl SlotKey {
    /// The line that counts: prefix, repository, slot, secret and checksum.
    pub fn line(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex(&*self.secret));
        let body = Zeroizing::new(format!("{}:{}:{}", self.repository, self.slot, *secret));
        let checksum = checksum(SLOT_PREFIX, &body);
        Zeroizing::new(format!("{SLOT_PREFIX}{}:{checksum}", *body))
    }

    /// The text of a key file.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "# rowvault key file: opens repository {} by its key slot {}.\n\
             # Whoever has it can read every backup. Keep it off the database's host.\n{}\n",
            self.repository,
            self.slot,
            *self.line()
        ))
    }

    /// The recovery sheet: all that is needed to start from nothing. `repository_url` has no
    /// password in it.
    pub fn recovery_sheet(&self, repository_url: &str, printed: Timestamp) -> Zeroizing<String> {
        let url: String = repository_url.chars().filter(|c| !c.is_control()).collect();
        Zeroizing::new(format!(
            "ROWVAULT RECOVERY SHEET\n\
             \n\
             Print this, and keep it where fire, thieves and the database's host do not reach.\n\
             Whoever holds it and can reach the repository can read every backup.\n\
             \n\
             Repository:  {url}\n\
             Id:          {}\n\
             Key slot:    {}\n\
             Made:        {}\n\
             \n\
             The key, one line (0 is zero, there is no letter o in its long parts; a mistyped\n\
             character is noticed):\n\
             \n\
             {}\n\
             \n\
             To recover on a new machine:\n\
             1. Install rowvault.\n\
             2. Type the line above into a file, say recovery.txt, and run: chmod 600 recovery.txt\n\
             3. Have the storage's own credentials at hand (for S3: AWS_ACCESS_KEY_ID and so on).\n\
             4. rowvault --repo '{url}' --key-file recovery.txt snapshots\n\
             5. rowvault --repo '{url}' --key-file recovery.txt restore SNAPSHOT --to URL\n\
             \n\
             Rehearse it: rowvault drill SOURCE --from-recovery recovery.txt\n",
            self.repository,
            self.slot,
            printed.rfc3339(),
            *self.line(),
        ))
    }
}

impl WriterKey {
    /// The text of a writer's key file.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn text(&self) -> Result<Zeroizing<String>, Error> {
        if !is_name(&self.name) {
            return Err(Error::Name {
                name: self.name.clone(),
            });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(WRITER_FIXED_BYTES + NAME_BYTES_MAX));
        bytes.extend(self.repository.0);
        bytes.extend(self.epoch.to_le_bytes());
        bytes.extend(*self.shared);
        bytes.extend(self.reader);
        bytes.extend(self.owner.0);
        bytes.extend(*self.seed);
        bytes.push(self.name.len() as u8);
        bytes.extend(self.name.as_bytes());
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        let checksum = checksum(WRITER_PREFIX, &body);
        Ok(Zeroizing::new(format!(
            "# rowvault writer's key file: {} adds backups to repository {}.\n\
             # It cannot open them; it sees structure and counts. Keep it readable by its user only.\n\
             {WRITER_PREFIX}{}:{checksum}\n",
            self.name, self.repository, *body
        )))
    }
}

fn parse_slot(rest: &str) -> Result<SlotKey, Error> {
    let mut typed = Zeroizing::new(String::with_capacity(rest.len()));
    typed.extend(rest.chars().filter(|c| *c != ' '));
    typed.make_ascii_lowercase();
    let body = check(SLOT_PREFIX, &typed)?;
    let parts: Vec<&str> = body.split(':').collect();
    let [repository, slot, secret] = parts[..] else {
        return Err(Error::Malformed);
    };
    let secret = unhex(secret).map(Zeroizing::new).ok_or(Error::Malformed)?;
    Ok(SlotKey {
        repository: repository.parse().map_err(|_| Error::Malformed)?,
        slot: slot.parse().map_err(|_| Error::Malformed)?,
        secret: take(&mut &secret[..])
            .filter(|_| secret.len() == 32)
            .map(Zeroizing::new)
            .ok_or(Error::Malformed)?,
    })
}

fn parse_writer(rest: &str) -> Result<WriterKey, Error> {
    let body = check(WRITER_PREFIX, rest)?;
    let bytes = URL_SAFE_NO_PAD
        .decode(body)
        .map(Zeroizing::new)
        .map_err(|_| Error::Malformed)?;
    read_writer(&bytes).ok_or(Error::Malformed)
}

fn read_writer(bytes: &[u8]) -> Option<WriterKey> {
    let mut rest = bytes;
    let repository = RepositoryId(take(&mut rest)?);
    let epoch = u32::from_le_bytes(take(&mut rest)?);
    let shared = Zeroizing::new(take(&mut rest)?);
    let reader = take(&mut rest)?;
    let owner = SignerId(take(&mut rest)?);
    let seed = Zeroizing::new(take(&mut rest)?);
    let [length] = take(&mut rest)?;
    let name = std::str::from_utf8(rest).ok()?;
    (name.len() == usize::from(length) && is_name(name)).then(|| WriterKey {
        repository,
        epoch,
        shared,
        reader,
        owner,
        seed,
        name: name.to_owned(),
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

/// What stands before the last colon, if what stands after it is its checksum.
fn check<'a>(prefix: &str, rest: &'a str) -> Result<&'a str, Error> {
    let (body, found) = rest.rsplit_once(':').ok_or(Error::Malformed)?;
    if checksum(prefix, body) == found {
        Ok(body)
    } else {
        Err(Error::Checksum)
    }
}

fn checksum(prefix: &str, body: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prefix.as_bytes());
    hasher.update(body.as_bytes());
    hex(&hasher.finalize().as_bytes()[..4])
}

/// Whether `name` can stand for a writer.
pub fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

fn is_identity(line: &str) -> bool {
    line.starts_with("AGE-SECRET-KEY-") || line.starts_with("AGE-PLUGIN-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot_key() -> SlotKey {
        SlotKey {
            repository: RepositoryId([0xab; 16]),
            slot: "k3ysloot".parse().unwrap(),
            secret: Zeroizing::new(std::array::from_fn(|place| place as u8)),
        }
    }

    fn writer_key() -> WriterKey {
        WriterKey {
            repository: RepositoryId([1; 16]),
            epoch: 7,
            shared: Zeroizing::new([2; SHARED_BYTES]),
            reader: [3; 32],
            owner: SignerId([4; 32]),
            seed: Zeroizing::new([5; 32]),
            name: "db-host.1".into(),
        }
    }

    fn parse_slot_key(text: &str) -> SlotKey {
        match KeyFile::parse(text) {
            Ok(KeyFile::Slot(key)) => key,
            Ok(_) => panic!("another kind of key"),
            Err(error) => panic!("{error}"),
        }
    }

    fn refused(text: &str) -> Error {
        KeyFile::parse(text)
            .err()
            .expect("a bad key file was taken")
    }

    #[test]
    fn key_file_and_recovery_sheet_give_back_the_key() {
        let key = slot_key();
        let sheet = key.recovery_sheet("s3://acme-backup/crm", Timestamp(0));
        assert!(sheet.contains("1970-01-01T00:00:00Z"));
        assert!(sheet.contains("--repo 's3://acme-backup/crm'"));
        let typed = key.line().replace(':', ": ").to_ascii_uppercase();
        let typed = typed.replace("ROWVAULT-KEY-1", "rowvault-key-1");
        for text in [
            &*key.text(),
            &*sheet,
            &key.text().replace('\n', "\r\n"),
            &typed,
        ] {
            let parsed = parse_slot_key(text);
            assert_eq!(parsed.repository, key.repository);
            assert_eq!(parsed.slot, key.slot);
            assert_eq!(*parsed.secret, *key.secret);
        }
    }

    #[test]
    fn url_of_the_sheet_cannot_smuggle_a_second_key() {
        let sheet = slot_key().recovery_sheet("s3://x\nrowvault-key-1:evil", Timestamp(0));
        assert_eq!(*parse_slot_key(&sheet).secret, *slot_key().secret);
    }

    #[test]
    fn writers_file_gives_back_every_field() {
        let key = writer_key();
        let text = key.text().unwrap();
        let Ok(KeyFile::Writer(parsed)) = KeyFile::parse(&text) else {
            panic!("not a writer's file");
        };
        assert_eq!(parsed.repository, key.repository);
        assert_eq!(parsed.epoch, 7);
        assert_eq!(*parsed.shared, *key.shared);
        assert_eq!(parsed.reader, key.reader);
        assert_eq!(parsed.owner, key.owner);
        assert_eq!(*parsed.seed, *key.seed);
        assert_eq!(parsed.name, key.name);
    }

    #[test]
    fn every_mistyped_character_is_noticed_and_shown_nowhere() {
        for line in [slot_key().line(), writer_key().text().unwrap()] {
            let start = line.rfind("-1:").unwrap() + 3;
            for place in start..line.trim_end().len() {
                for wrong in ['a', '7', 'z', ':', '!'] {
                    let mut typed: Vec<char> = line.chars().collect();
                    let was = std::mem::replace(&mut typed[place], wrong);
                    if was == wrong {
                        continue;
                    }
                    let error = refused(&typed.into_iter().collect::<String>());
                    let no_separator = was == ':' && error == Error::Malformed;
                    assert!(
                        error == Error::Checksum || no_separator,
                        "place {place}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_cut_is_refused() {
        for line in [slot_key().line(), writer_key().text().unwrap()] {
            let line = line.trim_end();
            let start = line.rfind("rowvault-").unwrap();
            for end in start..line.len() {
                KeyFile::parse(&line[..end])
                    .err()
                    .expect("a cut line was taken");
            }
            assert!(matches!(refused(&format!("{line}0")), Error::Checksum));
        }
    }

    #[test]
    fn parts_of_a_wrong_length_are_refused_though_the_checksum_fits() {
        for body in ["", ":", "::", "ab:k3ysloot:00", "zz", ":::::"] {
            let line = format!("{SLOT_PREFIX}{body}:{}", checksum(SLOT_PREFIX, body));
            assert_eq!(refused(&line), Error::Malformed);
        }
        let text = writer_key().text().unwrap();
        let body = text.rsplit(':').nth(1).unwrap();
        for end in 0..body.len() {
            let body = &body[..end];
            let line = format!("{WRITER_PREFIX}{body}:{}", checksum(WRITER_PREFIX, body));
            assert_eq!(refused(&line), Error::Malformed);
        }
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        assert_eq!(refused(""), Error::NoKey);
        assert_eq!(refused("-----BEGIN PRIVATE KEY-----"), Error::NoKey);
        let two = format!("{}\n{}", *slot_key().line(), *slot_key().line());
        assert_eq!(refused(&two), Error::ManyKeys { count: 2 });
        let newer = refused("rowvault-key-2:abc");
        assert!(newer.to_string().contains("rowvault-key-2"), "{newer}");
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert!(matches!(refused(&long), Error::Long { .. }));
        let mut named = writer_key();
        named.name = "a\nb".into();
        assert!(matches!(named.text(), Err(Error::Name { .. })));
    }

    #[test]
    fn age_identities_are_known_by_their_lines() {
        let text = "# created by hand\nAGE-SECRET-KEY-1QQQ\n";
        assert!(matches!(KeyFile::parse(text), Ok(KeyFile::AgeIdentity(found)) if *found == text));
    }
}
