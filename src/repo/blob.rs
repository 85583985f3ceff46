//! The one place where plaintext becomes sealed bytes, and back.
//!
//! Metadata objects are signed, compressed and sealed whole; chunks are compressed and sealed one
//! by one. Everything is bound to its repository and to its place by associated data. Invariant:
//! what is opened here was sealed by somebody who holds the key, for this very place, and is no
//! longer than it said.

use std::cell::RefCell;
use std::io::Cursor;
use std::sync::OnceLock;

use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{self, CCtx, DCtx};

use crate::crypto::key::SymmetricKey;
use crate::crypto::seal::{self, NONCE_BYTES};
use crate::crypto::sign::{self, SIGNATURE_BYTES, SigningKey};
use crate::failure::{Class, Failure};
use crate::format::object::{self, BODY_BYTES_MAX, HEADER_BYTES, Header, Kind};
use crate::format::pack::{ChunkKind, Codec, Entry, RAW_BYTES_MAX, SEAL_BYTES};
use crate::id::{ChunkId, RepositoryId, SignerId};
use crate::planted;
use crate::random::{Random, draw};

/// The zstd level of chunks and objects.
const LEVEL: i32 = 3;
/// The zstd level of chunks that have a dictionary: level 3 costs half as much time again there for
/// three percent of the bytes, while this costs what level 3 does without one.
const LEVEL_WITH_DICTIONARY: i32 = 2;
/// Raw length, signer and signature before an object's compressed body.
const PREFIX_BYTES: usize = 4 + 32 + SIGNATURE_BYTES;
/// The context under which objects are signed.
const SIGNED_OBJECT: &str = "object";

/// Why sealed bytes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The header is not what it should be.
    #[error(transparent)]
    Format(#[from] object::Error),
    /// Sealed with another key than ours.
    #[error("the {what} is sealed with another key")]
    OtherKey {
        /// What was being opened.
        what: &'static str,
    },
    /// The bytes were altered, or moved from another place.
    #[error("the {what} failed authentication: it was altered, cut or moved")]
    Tampered {
        /// What was being opened.
        what: &'static str,
    },
    /// The signature is not that of the signer it names.
    #[error("the signature of the {what} is wrong")]
    Signature {
        /// What was being opened.
        what: &'static str,
    },
    /// The content is not as long as it said, or does not decompress.
    #[error("the content of the {what} does not decompress to {length} bytes")]
    Content {
        /// What was being opened.
        what: &'static str,
        /// The length it said.
        length: usize,
    },
    /// The content has another name than it was stored under.
    #[error("chunk {chunk} holds other content than its name says")]
    Name {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Keys of an epoch that we do not have.
    #[error("the {what} is sealed with keys of epoch {epoch}, which this key file does not hold")]
    Epoch {
        /// What was being opened.
        what: &'static str,
        /// Its epoch.
        epoch: u16,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Format(error) => error.class(),
            _ => Class::Corrupt,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Format(error) => error.hint(),
            _ => Some("run 'rowvault verify' to see which snapshots are hurt".into()),
        }
    }
}

/// What seals metadata objects and chunks of one repository in one epoch.
#[derive(Clone, Copy, Debug)]
pub struct Realm {
    /// The repository.
    pub repository: RepositoryId,
    /// The epoch of the keys.
    pub epoch: u16,
}

impl Realm {
    fn object_associated(&self, header: &[u8; HEADER_BYTES], place: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 16 + place.len());
        out.extend_from_slice(header);
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(place.as_bytes());
        out
    }

    fn signed(&self, kind: Kind, place: &str, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + place.len() + body.len());
        out.push(kind as u8);
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(&(place.len() as u32).to_le_bytes());
        out.extend_from_slice(place.as_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Seals a metadata object for `place`: its path, or the part of it that is known before its
    /// bytes are.
    pub fn seal_object(
        &self,
        kind: Kind,
        place: &str,
        body: &[u8],
        by: (&SymmetricKey, &SigningKey),
        random: &dyn Random,
    ) -> Vec<u8> {
        let (key, signer) = by;
        let header = Header {
            kind,
            epoch: self.epoch,
            check: key.check_value(),
            nonce: draw(random),
        };
        let head = header.write();
        let signature = signer.sign(SIGNED_OBJECT, &self.signed(kind, place, body));
        let mut sealed = Vec::with_capacity(PREFIX_BYTES + body.len() / 2 + 64);
        sealed.extend_from_slice(&(body.len() as u32).to_le_bytes());
        sealed.extend_from_slice(&signer.id().0);
        sealed.extend_from_slice(&signature);
        sealed.extend_from_slice(&compress(body, None));
        let associated = self.object_associated(&head, place);
        seal::seal(key, &header.nonce, &associated, &mut sealed);
        let mut out = Vec::with_capacity(HEADER_BYTES + sealed.len());
        out.extend_from_slice(&head);
        out.append(&mut sealed);
        out
    }

    /// Opens a metadata object from `place`, and says who signed it.
    ///
    /// # Errors
    /// Corrupt for anything that is not exactly what was sealed for this place.
    pub fn open_object(
        &self,
        kind: Kind,
        place: &str,
        bytes: &[u8],
        key: &SymmetricKey,
    ) -> Result<(SignerId, Vec<u8>), Error> {
        let what = kind.name();
        let (header, sealed) = Header::read(bytes, kind)?;
        if header.epoch != self.epoch {
            let epoch = header.epoch;
            return Err(Error::Epoch { what, epoch });
        }
        if header.check != key.check_value() {
            return Err(Error::OtherKey { what });
        }
        let associated = self.object_associated(&header.write(), place);
        let mut plain = sealed.to_vec();
        if kind == Kind::Index && planted::is("tag check skipped on index") {
            // The cipher's stream undoes itself.
            plain.truncate(sealed.len().saturating_sub(seal::TAG_BYTES));
            let length = plain.len();
            seal::seal(key, &header.nonce, &associated, &mut plain);
            plain.truncate(length);
        } else {
            seal::open(key, &header.nonce, &associated, &mut plain)
                .map_err(|_| Error::Tampered { what })?;
        }
        if plain.len() < PREFIX_BYTES {
            return Err(Error::Tampered { what });
        }
        let (prefix, packed) = plain.split_at(PREFIX_BYTES);
        let length = u32::from_le_bytes(fixed(&prefix[..4])) as usize;
        let signer = SignerId(fixed(&prefix[4..36]));
        let signature: [u8; SIGNATURE_BYTES] = fixed(&prefix[36..]);
        let body = decompress(packed, length, BODY_BYTES_MAX, None)
            .ok_or(Error::Content { what, length })?;
        let signed = self.signed(kind, place, &body);
        sign::verify(&signer, SIGNED_OBJECT, &signed, &signature)
            .map_err(|_| Error::Signature { what })?;
        Ok((signer, body))
    }

    fn chunk_associated(&self, facts: &ChunkFacts) -> [u8; 90] {
        let mut out = [0; 90];
        out[0] = object::VERSION;
        out[1..17].copy_from_slice(&self.repository.0);
        out[17..19].copy_from_slice(&self.epoch.to_le_bytes());
        if !planted::is("associated data without kind") {
            out[19] = facts.kind as u8;
        }
        if !planted::is("associated data without chunk id") {
            out[20..52].copy_from_slice(&facts.name.0);
        }
        out[52] = facts.codec as u8;
        if let Some(dictionary) = facts.dictionary {
            out[53] = 1;
            out[54..86].copy_from_slice(&dictionary.0);
        }
        out[86..90].copy_from_slice(&facts.raw_length.to_le_bytes());
        out
    }

    /// Seals a chunk in place: `packed` has room for the nonce, and then what [`pack`] made.
    pub fn seal_chunk(
        &self,
        facts: &ChunkFacts,
        packed: &mut Vec<u8>,
        key: &SymmetricKey,
        random: &dyn Random,
    ) {
        let mut nonce: [u8; NONCE_BYTES] = draw(random);
        if planted::is("constant nonce") {
            nonce = [0; NONCE_BYTES];
        }
        if planted::is("nonce from chunk id") {
            nonce.copy_from_slice(&facts.name.0[..NONCE_BYTES]);
        }
        packed[..NONCE_BYTES].copy_from_slice(&nonce);
        let associated = self.chunk_associated(facts);
        seal::seal_from(key, &nonce, &associated, packed, NONCE_BYTES);
    }

    /// Opens a sealed chunk and unpacks it to exactly its raw length. The caller compares the name.
    ///
    /// # Errors
    /// Corrupt: altered, moved, or not as long as it said.
    pub fn open_chunk(
        &self,
        facts: &ChunkFacts,
        sealed: &[u8],
        key: &SymmetricKey,
        dictionary: Option<&Dictionary>,
    ) -> Result<Vec<u8>, Error> {
        let mut opened = Opened::default();
        self.open_chunk_into(facts, sealed, (key, dictionary), &mut opened)?;
        Ok(opened.raw)
    }

    /// As [`Realm::open_chunk`], into buffers that were used before.
    ///
    /// # Errors
    /// As [`Realm::open_chunk`].
    pub fn open_chunk_into(
        &self,
        facts: &ChunkFacts,
        sealed: &[u8],
        (key, dictionary): (&SymmetricKey, Option<&Dictionary>),
        opened: &mut Opened,
    ) -> Result<(), Error> {
        let what = "chunk";
        if sealed.len() < SEAL_BYTES || facts.raw_length > RAW_BYTES_MAX {
            return Err(Error::Tampered { what });
        }
        let Opened { plain, raw } = opened;
        let (nonce, body) = sealed.split_at(NONCE_BYTES);
        plain.clear();
        plain.extend_from_slice(body);
        let associated = self.chunk_associated(facts);
        seal::open(key, &fixed(nonce), &associated, plain).map_err(|_| Error::Tampered { what })?;
        let length = facts.raw_length as usize;
        let whole = match facts.codec {
            Codec::Stored => {
                std::mem::swap(plain, raw);
                raw.len() == length
            }
            Codec::Zstd => decompress_into(plain, length, RAW_BYTES_MAX as usize, dictionary, raw),
        };
        whole.then_some(()).ok_or(Error::Content { what, length })
    }

    fn frame_associated(&self, generation: &[u8; 24], number: u64, last: bool) -> Vec<u8> {
        let mut out = b"rowvault v1 shadow frame".to_vec();
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(generation);
        out.extend_from_slice(&number.to_le_bytes());
        out.push(u8::from(last));
        out
    }

    /// Seals a frame of a local file: nonce, ciphertext, tag. `generation` is drawn for the file,
    /// so that no frame opens in another file, in another place of it, or without its end.
    pub fn seal_frame(
        &self,
        place: FramePlace<'_>,
        plain: &[u8],
        key: &SymmetricKey,
        random: &dyn Random,
    ) -> Vec<u8> {
        let nonce = draw(random);
        let associated = self.frame_associated(place.generation, place.number, place.last);
        let mut body = Vec::with_capacity(plain.len() + 16);
        body.extend_from_slice(plain);
        seal::seal(key, &nonce, &associated, &mut body);
        let mut out = Vec::with_capacity(24 + body.len());
        out.extend_from_slice(&nonce);
        out.append(&mut body);
        out
    }

    /// Opens a frame in the place that it was sealed for.
    ///
    /// # Errors
    /// Corrupt: altered, or from another place.
    pub fn open_frame(
        &self,
        place: FramePlace<'_>,
        sealed: &[u8],
        key: &SymmetricKey,
    ) -> Result<Vec<u8>, Error> {
        let what = "shadow";
        if sealed.len() < SEAL_BYTES {
            return Err(Error::Tampered { what });
        }
        let (nonce, body) = sealed.split_at(24);
        let associated = self.frame_associated(place.generation, place.number, place.last);
        let mut plain = body.to_vec();
        seal::open(key, &fixed(nonce), &associated, &mut plain)
            .map_err(|_| Error::Tampered { what })?;
        Ok(plain)
    }
}

/// Where a frame of a local file stands.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace<'a> {
    /// What was drawn for the file.
    pub generation: &'a [u8; 24],
    /// The frame's number, from 0.
    pub number: u64,
    /// Whether the file ends with it.
    pub last: bool,
}

fn fixed<const N: usize>(slice: &[u8]) -> [u8; N] {
    slice
        .try_into()
        .expect("every caller slices exactly this many bytes")
}

/// What a chunk's seal binds it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkFacts {
    /// Its name.
    pub name: ChunkId,
    /// What it is.
    pub kind: ChunkKind,
    /// How it is packed.
    pub codec: Codec,
    /// The dictionary that it is packed with.
    pub dictionary: Option<ChunkId>,
    /// Its length before packing.
    pub raw_length: u32,
}

impl ChunkFacts {
    /// The facts of an entry whose footer lists `dictionaries`.
    pub fn of(entry: &Entry, dictionaries: &[ChunkId]) -> ChunkFacts {
        ChunkFacts {
            name: entry.name,
            kind: entry.kind,
            codec: entry.codec,
            dictionary: match entry.dictionary {
                0 => None,
                n => dictionaries.get(usize::from(n) - 1).copied(),
            },
            raw_length: entry.raw_length,
        }
    }
}

/// A zstd dictionary, ready for use in both directions.
pub struct Dictionary {
    /// Its chunk's name.
    pub name: ChunkId,
    bytes: Vec<u8>,
    // Costs several times the dictionary's size, and who only reads does not need it.
    encoder: OnceLock<Option<EncoderDictionary<'static>>>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionary {
    /// The dictionary that the chunk `name` holds; none where zstd does not take it for one.
    pub fn new(name: ChunkId, bytes: Vec<u8>) -> Option<Self> {
        Some(Dictionary {
            name,
            decoder: DecoderDictionary::try_copy(&bytes).ok()?,
            encoder: OnceLock::new(),
            bytes,
        })
    }

    /// What its chunk holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What its chunk holds, when it is needed for nothing else.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn encoder(&self) -> Option<&EncoderDictionary<'static>> {
        let make = || EncoderDictionary::try_copy(&self.bytes, LEVEL_WITH_DICTIONARY).ok();
        self.encoder.get_or_init(make).as_ref()
    }
}

thread_local! {
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

const COMPRESSES: &str = "zstd compresses any bytes into a buffer of its own bound";

/// A zstd frame of `raw`.
pub fn compress(raw: &[u8], dictionary: Option<&Dictionary>) -> Vec<u8> {
    let mut frame = Vec::new();
    compress_after(raw, dictionary, &mut frame);
    frame
}

/// Appends a zstd frame of `raw`.
fn compress_after(raw: &[u8], dictionary: Option<&Dictionary>, out: &mut Vec<u8>) {
    out.reserve(zstd_safe::compress_bound(raw.len()));
    let start = out.len() as u64;
    let mut out = Cursor::new(out);
    out.set_position(start);
    COMPRESSOR.with_borrow_mut(|context| {
        // A frame that was made without a dictionary opens with any.
        let done = match dictionary.and_then(Dictionary::encoder) {
            Some(encoder) => context.compress_using_cdict(&mut out, raw, encoder.as_cdict()),
            None => context.compress(&mut out, raw, LEVEL),
        };
        done.expect(COMPRESSES)
    });
}

/// The `length` bytes that a frame holds; none if it holds anything else, or `length` is over `max`.
pub fn decompress(
    packed: &[u8],
    length: usize,
    max: usize,
    dictionary: Option<&Dictionary>,
) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    decompress_into(packed, length, max, dictionary, &mut raw).then_some(raw)
}

/// As [`decompress`], into `raw`, whose old content goes; whether the frame held that.
fn decompress_into(
    packed: &[u8],
    length: usize,
    max: usize,
    dictionary: Option<&Dictionary>,
    raw: &mut Vec<u8>,
) -> bool {
    if planted::is("unbounded decompression") && dictionary.is_none() {
        return zstd::decode_all(packed).is_ok_and(|all| {
            *raw = all;
            true
        });
    }
    if length > max {
        return false;
    }
    raw.clear();
    raw.reserve(length);
    let done = DECOMPRESSOR.with_borrow_mut(|context| match dictionary {
        Some(dictionary) => {
            let decoder = dictionary.decoder.as_ddict();
            context.decompress_using_ddict(raw, packed, decoder)
        }
        None => context.decompress(raw, packed),
    });
    done.is_ok() && raw.len() == length
}

/// Packs a chunk's raw bytes into `out`, whose old content goes, behind room for the nonce that
/// [`Realm::seal_chunk`] draws: compressed where that makes them shorter.
pub fn pack(raw: &[u8], dictionary: Option<&Dictionary>, out: &mut Vec<u8>) -> Codec {
    out.clear();
    out.resize(NONCE_BYTES, 0);
    compress_after(raw, dictionary, out);
    if out.len() - NONCE_BYTES < raw.len() {
        return Codec::Zstd;
    }
    out.truncate(NONCE_BYTES);
    out.extend_from_slice(raw);
    Codec::Stored
}

/// What a chunk opens to: its content, and working space.
#[derive(Default)]
pub struct Opened {
    plain: Vec<u8>,
    /// The content.
    pub raw: Vec<u8>,
}

/// The first 16 bytes of the BLAKE3 of sealed bytes: what a scrub compares.
pub fn sealed_hash(sealed: &[u8]) -> [u8; 16] {
    fixed(&blake3::hash(sealed).as_bytes()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    const REALM: Realm = Realm {
        repository: RepositoryId([1; 16]),
        epoch: 1,
    };

    #[test]
    fn object_opens_only_where_it_was_sealed() {
        let random = SeededRandom::new(1);
        let key = SymmetricKey::draw(&random);
        let signer = SigningKey::draw(&random);
        let sealed = REALM.seal_object(Kind::Ledger, "a/1", b"body", (&key, &signer), &random);
        let opened = REALM.open_object(Kind::Ledger, "a/1", &sealed, &key);
        assert_eq!(opened.unwrap(), (signer.id(), b"body".to_vec()));
        let refused = |realm: Realm, kind, place| {
            assert!(realm.open_object(kind, place, &sealed, &key).is_err());
        };
        refused(REALM, Kind::Ledger, "a/2");
        refused(REALM, Kind::Manifest, "a/1");
        let repository = RepositoryId([2; 16]);
        refused(
            Realm {
                repository,
                ..REALM
            },
            Kind::Ledger,
            "a/1",
        );
        let strange = SymmetricKey::draw(&random);
        assert!(matches!(
            REALM.open_object(Kind::Ledger, "a/1", &sealed, &strange),
            Err(Error::OtherKey { .. })
        ));
    }

    #[test]
    fn object_altered_at_any_byte_or_cut_anywhere_is_refused() {
        let random = SeededRandom::new(2);
        let key = SymmetricKey::draw(&random);
        let signer = SigningKey::draw(&random);
        let sealed = REALM.seal_object(Kind::Index, "i", &[7; 100], (&key, &signer), &random);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(REALM.open_object(Kind::Index, "i", &altered, &key).is_err());
            assert!(
                REALM
                    .open_object(Kind::Index, "i", &sealed[..at], &key)
                    .is_err()
            );
        }
    }

    #[test]
    fn chunk_opens_only_under_the_facts_it_was_sealed_with() {
        let random = SeededRandom::new(3);
        let key = SymmetricKey::draw(&random);
        let raw = vec![5u8; 1000];
        let mut sealed = Vec::new();
        let codec = pack(&raw, None, &mut sealed);
        let name = ChunkId([1; 32]);
        let facts = ChunkFacts {
            name,
            kind: ChunkKind::Rows,
            codec,
            dictionary: None,
            raw_length: 1000,
        };
        REALM.seal_chunk(&facts, &mut sealed, &key, &random);
        assert_eq!(REALM.open_chunk(&facts, &sealed, &key, None).unwrap(), raw);
        let name = ChunkId([2; 32]);
        let (kind, codec, dictionary) = (ChunkKind::Cell, Codec::Stored, Some(ChunkId([0; 32])));
        let others = [
            ChunkFacts { name, ..facts },
            ChunkFacts { kind, ..facts },
            ChunkFacts { codec, ..facts },
            ChunkFacts {
                dictionary,
                ..facts
            },
            ChunkFacts {
                raw_length: 999,
                ..facts
            },
        ];
        for other in others {
            assert!(REALM.open_chunk(&other, &sealed, &key, None).is_err());
        }
    }

    #[test]
    fn frame_with_a_dictionary_opens_with_it_alone() {
        let words = |seed: u64| {
            let random = SeededRandom::new(seed);
            let word = |_| format!("word number {} of many; ", random.below(500));
            (0..400).map(word).collect::<String>().into_bytes()
        };
        let name = ChunkId([7; 32]);
        let dictionary = Dictionary::new(name, words(1)).unwrap();
        let other = Dictionary::new(name, words(2)).unwrap();
        let raw = words(3);
        let (with, without) = (compress(&raw, Some(&dictionary)), compress(&raw, None));
        assert!(with.len() < without.len());
        let opened = |packed: &[u8], with| decompress(packed, raw.len(), 1 << 20, with);
        assert_eq!(opened(&with, Some(&dictionary)).as_ref(), Some(&raw));
        assert_ne!(opened(&with, Some(&other)).as_ref(), Some(&raw));
        assert_ne!(opened(&with, None).as_ref(), Some(&raw));
        // The contexts are shared: what came before must not show.
        assert_eq!(opened(&without, None).as_ref(), Some(&raw));
    }

    #[test]
    fn dictionary_that_zstd_refuses_is_none() {
        // The magic number of a dictionary, and nothing that follows it.
        let mut bytes = 0xEC30_A437_u32.to_le_bytes().to_vec();
        bytes.extend([0xff; 60]);
        assert!(Dictionary::new(ChunkId([0; 32]), bytes).is_none());
    }

    #[test]
    fn nonce_of_a_chunk_is_drawn_anew_each_time() {
        let random = SeededRandom::new(9);
        let key = SymmetricKey::draw(&random);
        let facts = ChunkFacts {
            name: ChunkId([1; 32]),
            kind: ChunkKind::Rows,
            codec: Codec::Stored,
            dictionary: None,
            raw_length: 4,
        };
        let nonces: std::collections::HashSet<Vec<u8>> = (0..64)
            .map(|_| {
                let mut packed = [&[0; NONCE_BYTES], &b"rows"[..]].concat();
                REALM.seal_chunk(&facts, &mut packed, &key, &random);
                packed[..NONCE_BYTES].to_vec()
            })
            .collect();
        assert_eq!(nonces.len(), 64);
    }

    #[test]
    fn bomb_is_not_inflated() {
        let bomb = compress(&vec![0u8; 1 << 20], None);
        assert!(decompress(&bomb, 1 << 10, 1 << 30, None).is_none());
        assert!(decompress(&bomb, 1 << 20, 1 << 10, None).is_none());
        assert!(decompress(&bomb, 1 << 20, 1 << 30, None).is_some());
    }
}
