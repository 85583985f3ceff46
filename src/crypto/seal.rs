//! Sealing: XChaCha20-Poly1305 over a buffer, in place.
//!
//! The nonce of 24 bytes is drawn at random for every sealing, which is safe for more messages
//! than a repository can hold. What must never repeat is a pair of key and nonce: two texts sealed
//! under one pair give away their difference and the authenticator. The cipher does not commit
//! to its key; callers compare [`SymmetricKey::check_value`] first.
//! Source: draft-irtf-cfrg-xchacha-03.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use super::Error;
use super::key::SymmetricKey;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes that sealing adds.
pub const TAG_BYTES: usize = 16;

/// Seals `buffer` in place and appends the tag. `nonce` is fresh: 24 random bytes, never used
/// with this key before.
pub fn seal(
    key: &SymmetricKey,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    buffer: &mut Vec<u8>,
) {
    seal_from(key, nonce, associated, buffer, 0);
}

/// Seals what `buffer` has from `start` (at most its length) on, as [`seal`] does; what stands
/// before stays as it is and is not covered.
pub fn seal_from(
    key: &SymmetricKey,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    buffer: &mut Vec<u8>,
    start: usize,
) {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    let tag = cipher
        .encrypt_inout_detached(nonce.into(), associated, (&mut buffer[start..]).into())
        .expect("a buffer that fits memory is below the cipher's limit of 256 GiB");
    buffer.extend_from_slice(&tag);
}

/// Opens `buffer` in place and takes the tag away.
///
/// # Errors
/// [`Error::Tampered`]: wrong key, nonce or associated data, or altered bytes; `buffer` is then
/// empty, so that nobody takes what it holds for plaintext.
pub fn open(
    key: &SymmetricKey,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), Error> {
    XChaCha20Poly1305::new(key.expose().into())
        .decrypt_in_place(nonce.into(), associated, buffer)
        .map_err(|_| {
            buffer.clear();
            Error::Tampered
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{hex, unhex};

    const KEY: [u8; 32] = [1; 32];
    const NONCE: [u8; 24] = [2; 24];

    fn sealed() -> Vec<u8> {
        let mut buffer = b"a row of a person".to_vec();
        seal(
            &SymmetricKey::from_bytes(KEY),
            &NONCE,
            b"chunk 7",
            &mut buffer,
        );
        buffer
    }

    #[test]
    fn sealed_bytes_open_to_what_was_sealed() {
        let mut buffer = sealed();
        assert_eq!(buffer.len(), 17 + TAG_BYTES);
        open(
            &SymmetricKey::from_bytes(KEY),
            &NONCE,
            b"chunk 7",
            &mut buffer,
        )
        .unwrap();
        assert_eq!(buffer, b"a row of a person");
    }

    #[test]
    fn any_altered_bit_length_key_nonce_or_context_is_refused() {
        let key = SymmetricKey::from_bytes(KEY);
        let refused = |key: &SymmetricKey, nonce: &[u8; 24], associated: &[u8], mut buffer| {
            assert_eq!(
                open(key, nonce, associated, &mut buffer),
                Err(Error::Tampered)
            );
            assert!(buffer.is_empty());
        };
        for place in 0..sealed().len() * 8 {
            let mut buffer = sealed();
            buffer[place / 8] ^= 1 << (place % 8);
            refused(&key, &NONCE, b"chunk 7", buffer);
        }
        for length in 0..sealed().len() {
            refused(&key, &NONCE, b"chunk 7", sealed()[..length].to_vec());
        }
        refused(&key, &NONCE, b"chunk 8", sealed());
        refused(&key, &[3; 24], b"chunk 7", sealed());
        refused(
            &SymmetricKey::from_bytes([9; 32]),
            &NONCE,
            b"chunk 7",
            sealed(),
        );
    }

    #[test]
    fn the_draft_of_xchacha_gives_the_same_bytes() {
        // draft-irtf-cfrg-xchacha-03, A.3.1.
        let key: Vec<u8> = (0x80..0xa0).collect();
        let nonce: Vec<u8> = (0x40..0x58).collect();
        let associated = unhex("50515253c0c1c2c3c4c5c6c7").unwrap();
        let mut buffer = b"Ladies and Gentlemen of the class of '99: If I could offer you \
            only one tip for the future, sunscreen would be it."
            .to_vec();
        let key = SymmetricKey::from_bytes(key.try_into().unwrap());
        seal(&key, &nonce.try_into().unwrap(), &associated, &mut buffer);
        assert!(hex(&buffer).starts_with("bd6d179d3e83d43b9576579493c0e939"));
        assert!(hex(&buffer).ends_with("c0875924c1c7987947deafd8780acf49"));
    }
}
