//! The `repository` object: what a client must know before it has any key.
//!
//! The only object that is not sealed: version, repository, required features and the owner's
//! public key, signed by the owner. The signature is checked by the caller's closure, since this
//! room knows no keys; it proves a whole object, and who the owner is only to a client that has
//! the root or a key file.   Bytes: docs/format.md, "Repository".

use crate::clock::Timestamp;
use crate::format::object::{Error, Fields, VERSION, check_features};
use crate::id::{RepositoryId, SignerId};

/// First bytes of the object.
pub const MAGIC: [u8; 8] = *b"ROWVAULT";
/// What the owner's signature is made for.
pub const SIGNATURE_CONTEXT: &str = "repository";
/// Chunk target of a repository that asks for no other.
pub const CHUNK_TARGET_BYTES: u32 = 64 << 10;
/// Smallest and largest chunk target.
pub const CHUNK_TARGET_BOUNDS: (u32, u32) = (4 << 10, 4 << 20);
/// Features that this program understands.
pub const FEATURES_KNOWN: &[&str] = &[];
/// Longest object.
pub const BYTES_MAX: usize = 8 << 10;

const WHAT: &str = "repository";
const FEATURES_MAX: u16 = 64;
const SIGNATURE_BYTES: usize = 64;

/// What the `repository` object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The repository.
    pub id: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// About how many bytes of rows go into a chunk.
    pub chunk_target_bytes: u32,
    /// Who may enrol writers.
    pub owner: SignerId,
    /// Names (`a-z`, `0-9`, `-`) of what a client must understand.
    pub features: Vec<String>,
}

/// The object's bytes, signed by `sign`.
///
/// # Errors
/// [`Error::Field`]: a chunk target outside of its bounds, or features that do not fit.
pub fn write(
    repository: &Repository,
    sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
) -> Result<Vec<u8>, Error> {
    check_target(repository.chunk_target_bytes)?;
    let count = u16::try_from(repository.features.len()).unwrap_or(u16::MAX);
    check_feature_count(count)?;
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.extend(repository.id.0);
    out.extend(repository.created.0.to_le_bytes());
    out.extend(repository.chunk_target_bytes.to_le_bytes());
    out.extend(repository.owner.0);
    out.extend(count.to_le_bytes());
    for feature in &repository.features {
        check_feature_name(feature.as_bytes())?;
        out.push(feature.len() as u8);
        out.extend(feature.as_bytes());
    }
    let signature = sign(&out);
    out.extend(signature);
    Ok(out)
}

/// Reads the object. `verify` says whether a signature by this signer over these bytes is good.
///
/// # Errors
/// Not a repository, a newer version (by number), damaged or altered, a feature that must be
/// understood (by name).
pub fn read(
    bytes: &[u8],
    verify: impl FnOnce(&SignerId, &[u8], &[u8; SIGNATURE_BYTES]) -> bool,
) -> Result<Repository, Error> {
    let mut fields = Fields::new(bytes, WHAT);
    if fields.array::<8>().ok() != Some(MAGIC) {
        return Err(Error::Foreign { what: WHAT });
    }
    let version = fields.u8()?;
    if version != VERSION {
        return Err(Error::Version {
            what: WHAT,
            version,
        });
    }
    if bytes.len() > BYTES_MAX {
        return Err(Error::Field {
            what: WHAT,
            field: "a length of",
            value: bytes.len() as u64,
        });
    }
    let id = RepositoryId(fields.array()?);
    let created = Timestamp(i64::from_le_bytes(fields.array()?));
    let chunk_target_bytes = fields.u32()?;
    let owner = SignerId(fields.array()?);
    let features = read_features(&mut fields)?;
    let signature = fields.array()?;
    fields.end()?;
    let signed = &bytes[..bytes.len() - SIGNATURE_BYTES];
    if !verify(&owner, signed, &signature) {
        return Err(Error::Damaged {
            what: WHAT,
            proof: "signature",
        });
    }
    check_features(&features, FEATURES_KNOWN, WHAT)?;
    check_target(chunk_target_bytes)?;
    Ok(Repository {
        id,
        created,
        chunk_target_bytes,
        owner,
        features,
    })
}

fn read_features(fields: &mut Fields<'_>) -> Result<Vec<String>, Error> {
    let count = fields.u16()?;
    check_feature_count(count)?;
    let mut features = Vec::new();
    for _ in 0..count {
        let length = fields.u8()?;
        let name = fields.slice(usize::from(length))?;
        features.push(check_feature_name(name)?);
    }
    Ok(features)
}

fn check_target(bytes: u32) -> Result<(), Error> {
    let (least, most) = CHUNK_TARGET_BOUNDS;
    if (least..=most).contains(&bytes) {
        return Ok(());
    }
    Err(Error::Field {
        what: WHAT,
        field: "a chunk target of",
        value: u64::from(bytes),
    })
}

fn check_feature_count(count: u16) -> Result<(), Error> {
    if count <= FEATURES_MAX {
        return Ok(());
    }
    Err(Error::Field {
        what: WHAT,
        field: "a feature count of",
        value: u64::from(count),
    })
}

fn check_feature_name(name: &[u8]) -> Result<String, Error> {
    let fits = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-';
    match std::str::from_utf8(name) {
        Ok(text) if (1..=64).contains(&name.len()) && name.iter().all(fits) => Ok(text.to_owned()),
        _ => Err(Error::Field {
            what: WHAT,
            field: "a feature whose name has a length of",
            value: name.len() as u64,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository {
            id: RepositoryId([1; 16]),
            created: Timestamp(1_700_000_000_000_000),
            chunk_target_bytes: CHUNK_TARGET_BYTES,
            owner: SignerId([2; 32]),
            features: Vec::new(),
        }
    }

    /// Stands for Ed25519: any change of the bytes or of the signer shows.
    fn sign(bytes: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        blake3::Hasher::new()
            .update(bytes)
            .finalize_xof()
            .fill(&mut out);
        out
    }

    fn verify(_: &SignerId, bytes: &[u8], signature: &[u8; 64]) -> bool {
        sign(bytes) == *signature
    }

    #[test]
    fn repository_read_is_the_one_written() {
        let bytes = write(&repository(), sign).unwrap();
        assert_eq!(bytes.len(), 8 + 1 + 16 + 8 + 4 + 32 + 2 + 64);
        assert_eq!(read(&bytes, verify), Ok(repository()));
    }

    #[test]
    fn something_else_a_newer_version_and_an_unknown_feature_are_refused_by_name() {
        let says = |bytes: &[u8]| read(bytes, verify).unwrap_err().to_string();
        assert_eq!(says(b"SQLite format 3\0"), "this is no rowvault repository");
        assert_eq!(says(b""), "this is no rowvault repository");
        let mut newer = write(&repository(), sign).unwrap();
        newer[8] = 2;
        assert!(says(&newer).contains("format version 2"));
        let mut needs = repository();
        needs.features = vec!["post-quantum".into()];
        let bytes = write(&needs, sign).unwrap();
        assert!(says(&bytes).contains("\"post-quantum\""));
    }

    #[test]
    fn every_cut_and_every_altered_byte_are_refused() {
        let mut whole = repository();
        whole.features = vec!["a".into(), "bc".into()];
        let bytes = write(&whole, sign).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end], verify).is_err(), "cut at {end}");
        }
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[place] ^= 1 << bit;
                let refused = read(&altered, verify).unwrap_err();
                assert!(
                    !matches!(refused, Error::Feature { .. }),
                    "byte {place}: {refused}"
                );
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(read(&longer, verify), Err(Error::Body { .. })));
    }

    #[test]
    fn absurd_values_are_refused_though_they_are_signed() {
        for bytes in [0, 4095, (4 << 20) + 1, u32::MAX] {
            let mut absurd = repository();
            absurd.chunk_target_bytes = bytes;
            assert!(matches!(write(&absurd, sign), Err(Error::Field { .. })));
            let mut written = write(&repository(), sign).unwrap();
            written.truncate(written.len() - 64);
            written[33..37].copy_from_slice(&bytes.to_le_bytes());
            let signature = sign(&written);
            written.extend(signature);
            assert!(matches!(read(&written, verify), Err(Error::Field { .. })));
        }
    }
}
