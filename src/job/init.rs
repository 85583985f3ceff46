//! `init`: a repository where none was, the storage probed, and a recovery sheet.
//!
//! Files with keys are durable before the repository is, and get their names after. Invariant: a
//! run that was cut short leaves no repository that nobody can open, and the next run with the
//! same arguments starts anew or brings the first one to its end.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::crypto::keyslot::PassphraseCost;
use crate::failpoint;
use crate::failure::AnyFailure;
use crate::format::keyslot::text::{KeyFile, SlotKey};
use crate::id::RepositoryId;
use crate::repo::keys::create::{Draft, check_vacant, create};
use crate::repo::keys::file::{Staged, recovery_sheet};
use crate::repo::keys::slot::Keeping;
use crate::repo::keys::{self, Opening, check_keyring_seen};
use crate::repo::verdict;
use crate::state::State;
use crate::store::Store;
use crate::store::probe::{Verdict, probe};

/// What will open the repository, besides its recovery sheet.
pub enum First {
    /// A passphrase.
    Passphrase(SecretString, PassphraseCost),
    /// A key file, which is made; none may stand there.
    KeyFile(PathBuf),
    /// An `age` recipient.
    Recipient(String),
}

/// What is asked for.
pub struct Request {
    /// What will open it.
    pub first: First,
    /// About how many bytes of rows a chunk holds.
    pub chunk_target_bytes: u32,
    /// Where the recovery sheet goes; none to have it returned.
    pub recovery_out: Option<PathBuf>,
}

/// What was made.
pub struct Outcome {
    /// The repository.
    pub repository: RepositoryId,
    /// The storage's URL, without credentials.
    pub url: String,
    /// What the storage can carry; none where an earlier run was brought to its end.
    pub verdict: Option<Verdict>,
    /// The key file that was made.
    pub key_file: Option<PathBuf>,
    /// The recovery sheet as a file.
    pub recovery_file: Option<PathBuf>,
    /// The recovery sheet, where no file was asked for: to be printed once, and kept nowhere.
    pub recovery_sheet: Option<Zeroizing<String>>,
}

/// Makes a repository. `opening` has a storage whose directory may be made ([`Root::Create`]).
///
/// # Errors
/// Conflict: a repository, or anything else, stands there; a key file exists already.  Denied,
/// Invalid: the storage cannot be used.  Unsettled: it may have been made; run it again.
///
/// [`Root::Create`]: crate::store::Root::Create
pub async fn init(
    mut opening: Opening,
    state_root: &Path,
    request: Request,
) -> Result<Outcome, AnyFailure> {
    if let Some(outcome) = finish(&opening.store, &request).await? {
        return Ok(outcome);
    }
    check_vacant(&opening.store).await?;
    let verdict = probe(&opening.store).await?;
    opening.store = verdict.apply(&opening.store);
    let mut draft = Draft::draw(&opening);
    let state = State::open(state_root, &draft.repository())?;
    let key_file = add_first(&mut draft, &request.first).await?;
    let recovery = draft.add_key(Keeping::RecoverySheet, "recovery sheet");
    let sheet = recovery_sheet(&recovery, &opening.store, draft.created());
    let files = Files::stage(&request, key_file.as_ref(), &sheet)?;
    failpoint::reach("init: key files staged");
    let made = create(opening, draft, request.chunk_target_bytes).await;
    let (vault, keyring) = files.keep_if(made)?;
    failpoint::reach("init: repository stored");
    // Both are caches: what is missing is found out again, and the sheet must reach the person.
    let _ = verdict::keep(&vault, &state, &verdict);
    let _ = check_keyring_seen(&vault, &state, &keyring);
    let (key_file, recovery_file) = files.publish()?;
    Ok(Outcome {
        repository: vault.realm.repository,
        url: vault.store.url().to_owned(),
        verdict: Some(verdict),
        key_file,
        recovery_sheet: recovery_file.is_none().then_some(sheet),
        recovery_file,
    })
}

async fn add_first(draft: &mut Draft, first: &First) -> Result<Option<SlotKey>, keys::Error> {
    match first {
        First::Passphrase(passphrase, cost) => {
            draft.add_passphrase(passphrase, *cost, "").await?;
        }
        First::Recipient(recipient) => {
            draft.add_recipient(recipient, "").await?;
        }
        First::KeyFile(_) => return Ok(Some(draft.add_key(Keeping::KeyFile, ""))),
    }
    Ok(None)
}

/// The files of this run, under their waiting names.
#[derive(Default)]
struct Files {
    key: Option<Staged>,
    recovery: Option<Staged>,
}

impl Files {
    fn stage(
        request: &Request,
        key: Option<&SlotKey>,
        sheet: &Zeroizing<String>,
    ) -> Result<Files, keys::Error> {
        let mut files = Files::default();
        if let (First::KeyFile(path), Some(key)) = (&request.first, key) {
            files.key = Some(Staged::write(path, &key.text())?);
        }
        if let Some(path) = &request.recovery_out {
            files.recovery = Some(files.keep_if(Staged::write(path, sheet))?);
        }
        Ok(files)
    }

    fn keep_if<T>(&self, answer: Result<T, keys::Error>) -> Result<T, keys::Error> {
        let staged = [&self.key, &self.recovery].into_iter().flatten();
        staged.fold(answer, |answer, one| one.keep_if(answer))
    }

    fn publish(self) -> Result<(Option<PathBuf>, Option<PathBuf>), keys::Error> {
        let key = self.key.map(Staged::publish).transpose()?;
        let recovery = self.recovery.map(Staged::publish).transpose()?;
        Ok((key, recovery))
    }
}

/// Publishes what a run that was cut short after its repository stood had staged.
async fn finish(store: &Store, request: &Request) -> Result<Option<Outcome>, keys::Error> {
    let found = |path: &Path| match Staged::find(path) {
        Some((staged, KeyFile::Slot(key))) => Some((staged, key.repository)),
        _ => None,
    };
    let key = match &request.first {
        First::KeyFile(path) => found(path),
        _ => None,
    };
    let recovery = request.recovery_out.as_deref().and_then(found);
    if key.is_none() && recovery.is_none() {
        return Ok(None);
    }
    let standing = match keys::read_repository(store).await {
        Ok(repository) => repository.id,
        Err(error) if error.is_unfinished() => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = |found: Option<(Staged, RepositoryId)>| {
        found.and_then(|(staged, id)| (id == standing).then_some(staged))
    };
    let files = Files {
        key: ours(key),
        recovery: ours(recovery),
    };
    if files.key.is_none() && files.recovery.is_none() {
        return Ok(None);
    }
    let (key_file, recovery_file) = files.publish()?;
    Ok(Some(Outcome {
        repository: standing,
        url: store.url().to_owned(),
        verdict: None,
        key_file,
        recovery_file,
        recovery_sheet: None,
    }))
}
