//! Settling: conditional writes whose outcome is found out, whatever the storage answered.
//!
//! A conditional put that was retried on the way reports "already exists" for our own object, and
//! a lost acknowledgement reports failure for a success. So after anything but a plain yes the
//! object is read: ours, another's, or absent. Invariant: a lost race is a value, and where
//! reading could not settle it the error says so (`Unsettled`).

use bytes::Bytes;
use object_store::PutMode;

use crate::store::error::{Error, Trouble};
use crate::store::layout::ObjectPath;
use crate::store::objects::{Condition, Store};
use crate::store::wire::{Answer, Version};

/// What a conditional create came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// Our object stands there.
    Ours,
    /// Another's stood there first; these are its bytes.
    Anothers(Bytes),
}

/// A replaceable object and the state in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its state, to be handed to `replace`.
    pub version: Version,
}

impl From<Answer> for Versioned {
    fn from(answer: Answer) -> Self {
        Versioned {
            bytes: answer.bytes,
            version: answer.version,
        }
    }
}

/// What a conditional replacement came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Our object stands there, in this state.
    Ours(Version),
    /// Another's stands there now, or none at all.
    Anothers(Option<Versioned>),
}

impl Store {
    /// Creates an object where none stands. `token` is what makes `body` ours and nobody else's
    /// (a ulid): it stands in the body in plain sight.
    ///
    /// On a storage that honours no conditions (`Condition::Looked`) two who race may both be told
    /// "ours": there, whoever calls this keeps racers apart by intents and waiting.
    ///
    /// # Panics
    /// Where the body does not hold the token.
    ///
    /// # Errors
    /// `Unsettled`: it may have happened. `Corrupt`: an object with our token but other bytes.
    /// Anything else: it did not happen.
    pub async fn create(
        &self,
        path: &ObjectPath,
        body: Bytes,
        token: &[u8],
    ) -> Result<Created, Error> {
        assert!(holds(&body, token), "the body of {path} lacks its token");
        if self.conditions().create == Condition::Looked {
            return self.create_by_looking(path, body, token).await;
        }
        let mut attempts = self.attempts();
        let mut unclear = false;
        loop {
            let put = self.wire().put(path, body.clone(), PutMode::Create);
            let trouble = match put.await {
                Ok(_) => return Ok(Created::Ours),
                Err(trouble) => trouble,
            };
            unclear |= !trouble.is_definite();
            if unclear {
                let found = self.look(path, &trouble).await?;
                if let Some(found) = found {
                    return self.judge(path, found.bytes, &body, token);
                }
            }
            let Some(pause) = attempts.again(&trouble) else {
                return Err(self.given_up(path, trouble, attempts.failed(), unclear));
            };
            self.wire().counters().retried();
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks, writes, and looks again. Of two who race both may read "ours" before the other's
    /// write lands; intents and waiting keep them apart.
    async fn create_by_looking(
        &self,
        path: &ObjectPath,
        body: Bytes,
        token: &[u8],
    ) -> Result<Created, Error> {
        match self.get(path).await {
            Ok(found) => return self.judge(path, found, &body, token),
            Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        self.overwrite(path, body.clone()).await?;
        let written = Trouble::Transient("it was written".to_owned());
        match self.look(path, &written).await? {
            Some(found) => self.judge(path, found.bytes, &body, token),
            None => Err(Error::Unsettled {
                place: self.place(path),
                reason: "the storage took it and does not show it".to_owned(),
            }),
        }
    }

    /// Replaces the object that was seen as `expected`, and no other. `body` must differ from
    /// everything else that ever stood there (it holds a ulid or a counter).
    ///
    /// # Errors
    /// `Unsettled`: it may have happened. `NotSupported`: the storage cannot do it.
    pub async fn replace(
        &self,
        path: &ObjectPath,
        body: Bytes,
        expected: &Version,
    ) -> Result<Replaced, Error> {
        if self.conditions().replace == Condition::Looked {
            return self.replace_by_looking(path, body, expected).await;
        }
        let mut attempts = self.attempts();
        let mut unclear = false;
        loop {
            let update = self.wire().update(path, body.clone(), expected);
            let trouble = match update.await {
                Ok(version) => return Ok(Replaced::Ours(version)),
                Err(trouble) => trouble,
            };
            unclear |= !trouble.is_definite();
            if unclear {
                match self.look(path, &trouble).await? {
                    Some(found) if found.bytes == body => {
                        return Ok(Replaced::Ours(found.version));
                    }
                    Some(found) if found.version == *expected => {}
                    other => return Ok(Replaced::Anothers(other)),
                }
            }
            let Some(pause) = attempts.again(&trouble) else {
                return Err(self.given_up(path, trouble, attempts.failed(), unclear));
            };
            self.wire().counters().retried();
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks, writes, and looks again: for the one host that maintains.
    async fn replace_by_looking(
        &self,
        path: &ObjectPath,
        body: Bytes,
        expected: &Version,
    ) -> Result<Replaced, Error> {
        match self.get_versioned(path).await {
            Ok(found) if found.version == *expected => {}
            Ok(other) => return Ok(Replaced::Anothers(Some(other))),
            Err(Error::Missing { .. }) => return Ok(Replaced::Anothers(None)),
            Err(error) => return Err(error),
        }
        self.overwrite(path, body.clone()).await?;
        let written = Trouble::Transient("it was written".to_owned());
        Ok(match self.look(path, &written).await? {
            Some(found) if found.bytes == body => Replaced::Ours(found.version),
            other => Replaced::Anothers(other),
        })
    }

    /// Reads a replaceable object with the state that `replace` asks for.
    ///
    /// # Errors
    /// As `get`.
    pub async fn get_versioned(&self, path: &ObjectPath) -> Result<Versioned, Error> {
        let wire = self.wire();
        let attempt = || wire.get(path, None, path.length_max());
        let answer = self.repeat(self.place(path), attempt).await?;
        Ok(answer.into())
    }

    /// What stands there after an unclear answer; where that cannot be read, nothing is settled.
    async fn look(&self, path: &ObjectPath, why: &Trouble) -> Result<Option<Versioned>, Error> {
        match self.get_versioned(path).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(Error::Unsettled {
                place: self.place(path),
                reason: format!("{}; then reading it failed: {error}", why.reason()),
            }),
        }
    }

    /// Whose object was found where we wanted ours.
    fn judge(
        &self,
        path: &ObjectPath,
        found: Bytes,
        body: &Bytes,
        token: &[u8],
    ) -> Result<Created, Error> {
        if found == *body {
            Ok(Created::Ours)
        } else if holds(&found, token) {
            Err(Error::Corrupt {
                place: self.place(path),
                reason: "it is ours by its token, but its bytes are not those that were written"
                    .to_owned(),
            })
        } else {
            Ok(Created::Anothers(found))
        }
    }

    /// The end of the retries: a write that may still be on its way leaves things unsettled.
    fn given_up(&self, path: &ObjectPath, trouble: Trouble, failed: u32, unclear: bool) -> Error {
        if unclear {
            Error::Unsettled {
                place: self.place(path),
                reason: trouble.reason(),
            }
        } else {
            trouble.at(self.place(path), failed)
        }
    }
}

fn holds(body: &[u8], token: &[u8]) -> bool {
    !token.is_empty() && body.windows(token.len()).any(|window| window == token)
}
