//! Envelopes: a backup's session key, sealed to the reader.
//!
//! A host that only writes can seal and never open: HPKE in base mode (RFC 9180) with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. Each envelope draws its own
//! ephemeral key, which must never repeat. An envelope says nothing about who made it; packs are
//! believed because a signed index names them.

use std::convert::Infallible;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroize;

use super::Error;
pub use super::key::ReaderSecret;
use super::key::SymmetricKey;
use crate::random::Random;

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Bytes of an ephemeral public key.
const ENCAPPED_BYTES: usize = 32;
const NOT_A_KEY: &str = "any 32 bytes are an X25519 secret";

/// The reader's X25519 public key: whoever has it can seal to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderPublic(pub [u8; 32]);

/// A session key under an envelope: ephemeral public key, then sealed key and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSession(pub [u8; SealedSession::BYTES]);

impl SealedSession {
    /// Length of the byte form.
    pub const BYTES: usize = ENCAPPED_BYTES + 32 + 16;
}

impl ReaderSecret {
    /// The half that writers get.
    pub fn public(&self) -> ReaderPublic {
        let secret = PrivateKey::from_bytes(self.expose()).expect(NOT_A_KEY);
        ReaderPublic(X25519HkdfSha256::sk_to_pk(&secret).to_bytes().into())
    }
}

/// Seals `session` to the reader. `info` binds it to its place and is needed to open it.
///
/// # Errors
/// [`Error::ReaderKey`]: the public key is no valid point (a damaged key file).
pub fn seal_session(
    to: &ReaderPublic,
    session: &SymmetricKey,
    info: &[u8],
    random: &dyn Random,
) -> Result<SealedSession, Error> {
    let to = PublicKey::from_bytes(&to.0).map_err(|_| Error::ReaderKey)?;
    let (encapped, sealed) =
        hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &to,
            info,
            session.expose(),
            b"",
            &mut Drawn(random),
        )
        .map_err(|_| Error::ReaderKey)?;
    let mut out = [0; SealedSession::BYTES];
    out[..ENCAPPED_BYTES].copy_from_slice(&encapped.to_bytes());
    out[ENCAPPED_BYTES..].copy_from_slice(&sealed);
    Ok(SealedSession(out))
}

/// Opens what [`seal_session`] sealed to this reader with the same `info`.
///
/// # Errors
/// [`Error::Session`]: another reader's, another place's, or altered.
pub fn open_session(
    reader: &ReaderSecret,
    sealed: &SealedSession,
    info: &[u8],
) -> Result<SymmetricKey, Error> {
    let secret = PrivateKey::from_bytes(reader.expose()).expect(NOT_A_KEY);
    let (encapped, ciphertext) = sealed.0.split_at(ENCAPPED_BYTES);
    let encapped = EncappedKey::from_bytes(encapped).map_err(|_| Error::Session)?;
    let mut opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapped,
        info,
        ciphertext,
        b"",
    )
    .map_err(|_| Error::Session)?;
    let mut key = [0; 32];
    key.copy_from_slice(&opened);
    opened.zeroize();
    let session = SymmetricKey::from_bytes(key);
    key.zeroize();
    Ok(session)
}

/// Our randomness in the shape that the HPKE crate asks for.
struct Drawn<'a>(&'a dyn Random);

impl TryRng for Drawn<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(crate::random::draw(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(crate::random::draw(self.0)))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Drawn<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    fn reader(seed: u64) -> ReaderSecret {
        ReaderSecret::draw(&SeededRandom::new(seed))
    }

    fn sealed(random: &SeededRandom) -> (SymmetricKey, SealedSession) {
        let session = SymmetricKey::draw(random);
        let sealed = seal_session(&reader(1).public(), &session, b"pack", random).unwrap();
        (session, sealed)
    }

    #[test]
    fn reader_opens_what_a_writer_sealed() {
        let (session, sealed) = sealed(&SeededRandom::new(2));
        let opened = open_session(&reader(1), &sealed, b"pack").unwrap_or_else(|e| panic!("{e}"));
        assert!(opened == session);
    }

    #[test]
    fn two_envelopes_of_one_key_differ() {
        let random = SeededRandom::new(2);
        let session = SymmetricKey::draw(&random);
        let public = reader(1).public();
        let first = seal_session(&public, &session, b"", &random).unwrap();
        let second = seal_session(&public, &session, b"", &random).unwrap();
        assert_ne!(first.0[..32], second.0[..32]);
        assert_ne!(first.0[32..], second.0[32..]);
    }

    #[test]
    fn every_altered_byte_another_reader_and_another_place_are_refused() {
        let (_, sealed) = sealed(&SeededRandom::new(2));
        for place in 0..SealedSession::BYTES {
            let mut altered = sealed;
            altered.0[place] ^= 1;
            let opened = open_session(&reader(1), &altered, b"pack");
            assert_eq!(opened.err(), Some(Error::Session), "byte {place}");
        }
        let other = open_session(&reader(3), &sealed, b"pack");
        assert_eq!(other.err(), Some(Error::Session));
        let elsewhere = open_session(&reader(1), &sealed, b"index");
        assert_eq!(elsewhere.err(), Some(Error::Session));
    }

    #[test]
    fn public_keys_of_small_order_are_refused() {
        let session = SymmetricKey::from_bytes([1; 32]);
        let sealed = seal_session(&ReaderPublic([0; 32]), &session, b"", &SeededRandom::new(1));
        assert_eq!(sealed, Err(Error::ReaderKey));
    }
}
