//! Signatures: who made an index, a manifest, a ledger entry or the keyring.
//!
//! Ed25519 over a BLAKE3 hash of context and message. The context (a fixed text for each kind of
//! object) keeps a signature made for one purpose from counting for another. Verification is
//! strict, so that one message has one signature per signer (no malleable forms, no small-order
//! keys). Source: RFC 8032.

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use zeroize::Zeroizing;

use super::Error;
use super::key::{RootSecret, context};
use crate::id::{RepositoryId, SignerId};
use crate::random::Random;

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A secret key that signs; zeroised when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key that belongs to a seed of 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Draws a new key.
    pub fn draw(random: &dyn Random) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        random.fill(&mut *seed);
        SigningKey::from_seed(&seed)
    }

    /// The seed, for a key file; never to be printed elsewhere.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public half: the name of who signs.
    pub fn id(&self) -> SignerId {
        SignerId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` for the purpose that `context` names.
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&signed_hash(context, message)).to_bytes()
    }
}

impl RootSecret {
    /// The owner's key: it signs the repository object and the keyring, and its own backups.
    pub fn owner(&self, repository: RepositoryId) -> SigningKey {
        SigningKey::from_seed(&self.derive(context::OWNER, repository, None))
    }
}

/// Checks that `signer` signed `message` for the purpose that `context` names.
///
/// # Errors
/// [`Error::Signature`]: it did not, or `signer` is no key at all.
pub fn verify(
    signer: &SignerId,
    context: &str,
    message: &[u8],
    signature: &[u8; SIGNATURE_BYTES],
) -> Result<(), Error> {
    let refused = Error::Signature { signer: *signer };
    let Ok(key) = VerifyingKey::from_bytes(&signer.0) else {
        return Err(refused);
    };
    key.verify_strict(
        &signed_hash(context, message),
        &Signature::from_bytes(signature),
    )
    .map_err(|_| refused)
}

/// What is signed: a hash, so that a message of any size is signed without a copy.
fn signed_hash(context: &str, message: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context::SIGNATURE);
    hasher.update(&(context.len() as u64).to_le_bytes());
    hasher.update(context.as_bytes());
    hasher.update(message);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    #[test]
    fn signature_counts_for_its_signer_purpose_and_message_only() {
        let signature = key().sign("index", b"bytes");
        verify(&key().id(), "index", b"bytes", &signature).unwrap();
        let other = SigningKey::from_seed(&[6; 32]).id();
        for (signer, context, message) in [
            (key().id(), "index", &b"byteS"[..]),
            (key().id(), "manifest", b"bytes"),
            (key().id(), "indexb", b"ytes"),
            (other, "index", b"bytes"),
        ] {
            let refused = verify(&signer, context, message, &signature);
            assert_eq!(refused, Err(Error::Signature { signer }));
        }
    }

    #[test]
    fn every_altered_byte_of_a_signature_is_refused() {
        for place in 0..SIGNATURE_BYTES {
            let mut signature = key().sign("index", b"bytes");
            signature[place] ^= 1;
            assert!(verify(&key().id(), "index", b"bytes", &signature).is_err());
        }
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(verify(&SignerId(identity), "index", b"any", &signature).is_err());
        assert!(verify(&SignerId([0xff; 32]), "index", b"any", &signature).is_err());
    }

    #[test]
    fn owner_is_bound_to_the_repository() {
        let root = RootSecret::from_bytes([1; 32]);
        let first = root.owner(RepositoryId([1; 16]));
        assert_eq!(first.id(), root.owner(RepositoryId([1; 16])).id());
        assert_ne!(first.id(), root.owner(RepositoryId([2; 16])).id());
    }
}
