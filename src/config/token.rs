//! Tokens of HTTP: drawn here, handed to who asks, kept as hashes.
//!
//! A token has 256 random bits and its own form, so that one keyed hash is enough and nobody's
//! password is taken for one. Invariant: hashes are compared in constant time, and the token
//! itself stands nowhere but with who asks.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use crate::random::{Random, draw};

/// What every token begins with, so that it is known where it turns up.
const TOKEN_PREFIX: &str = "rvt_";
/// What every hash begins with, so that nobody writes one for the other.
const HASH_PREFIX: &str = "rvh_";
/// What the hash is of, for BLAKE3.
const CONTEXT: &str = "rowvault 2026 token of http";
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What a token lets do; each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Starts backups and drills.
    Operator,
    /// Ends freezes too.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

    /// Its word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The name that the ledger shows.
    pub name: String,
    /// What it lets do.
    pub role: Role,
    /// The hash of what is brought.
    pub hash: TokenHash,
}

/// The hash of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// The hash of `token`; none where that is no token.
    pub fn of(token: &str) -> Option<TokenHash> {
        let text = token.strip_prefix(TOKEN_PREFIX)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() != TOKEN_BYTES {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&bytes);
        Some(TokenHash(hasher.finalize()))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", self.0.to_hex())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

impl FromStr for TokenHash {
    type Err = ();

    fn from_str(text: &str) -> Result<TokenHash, ()> {
        let digits = text.strip_prefix(HASH_PREFIX).ok_or(())?;
        let hash = blake3::Hash::from_hex(digits).map_err(|_| ())?;
        Ok(TokenHash(hash))
    }
}

/// Draws a token.
pub fn draw_token(random: &dyn Random) -> SecretString {
    let bytes: [u8; TOKEN_BYTES] = draw(random);
    let text = URL_SAFE_NO_PAD.encode(bytes);
    SecretString::from(format!("{TOKEN_PREFIX}{text}"))
}

/// The token of `tokens` that `brought` is; all are compared, whichever it is.
pub fn find<'a>(tokens: &'a [Token], brought: &SecretString) -> Option<&'a Token> {
    let hash = TokenHash::of(brought.expose_secret())?;
    let mut found = None;
    for token in tokens {
        if token.hash == hash {
            found = Some(token);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn token_is_found_by_its_hash_and_by_nothing_else() {
        let random = SeededRandom::new(7);
        let (one, other) = (draw_token(&random), draw_token(&random));
        let hash = TokenHash::of(one.expose_secret()).unwrap();
        let written: TokenHash = hash.to_string().parse().unwrap();
        let tokens = [Token {
            name: "ops".into(),
            role: Role::Operator,
            hash: written,
        }];
        assert_eq!(find(&tokens, &one), Some(&tokens[0]));
        assert_eq!(find(&tokens, &other), None);
        for text in ["", "rvt_", "rvt_AAAA", &hash.to_string(), "hunter2"] {
            assert_eq!(find(&tokens, &SecretString::from(text.to_owned())), None);
        }
    }

    #[test]
    fn hashes_that_are_none_are_refused_and_not_shown() {
        for text in ["", "rvh_", "rvh_00", "rvt_0000", &"0".repeat(64)] {
            assert!(text.parse::<TokenHash>().is_err(), "{text}");
        }
        let hash = TokenHash::of(draw_token(&SeededRandom::new(1)).expose_secret()).unwrap();
        assert_eq!(format!("{hash:?}"), "TokenHash");
    }
}
