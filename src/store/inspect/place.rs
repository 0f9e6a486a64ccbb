//! The data dir as a tool opens it: there, a directory, and with a store in it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ekokv_wal::RealDisk;

use crate::store::data_dir;
use crate::store::options::Failure;

/// Opens a data dir for reading.
pub(super) fn open(dir: &Path) -> Result<RealDisk, Failure> {
    RealDisk::open(dir).map_err(|error| {
        let said = format!("cannot open {}: {error}", dir.display());
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                match data_dir::refused(dir, &said, &error) {
                    Failure::Storage(said) => Failure::Settings(said),
                    other => other,
                }
            }
            _ => Failure::Storage(said),
        }
    })
}

/// What to say of a directory without a store.
pub(super) fn no_store(dir: &Path) -> Failure {
    Failure::Settings(format!("{} holds no store", dir.display()))
}

/// What to say if the output cannot be written.
pub(super) fn unwritten(error: &std::io::Error) -> Failure {
    Failure::Storage(format!("cannot write the output: {error}"))
}

/// Checks that `new` may be made into a data dir: it is not there, or empty, and not within `old`.
pub(super) fn check_new(new: &Path, old: &Path) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::Settings(format!("{} {why}", new.display())));
    match fs::read_dir(new) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return refuse("is not empty: name a directory that is empty or not there yet");
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return refuse(&format!("cannot be used: {error}")),
    }
    let old = fs::canonicalize(old)
        .map_err(|error| Failure::Storage(format!("cannot open {}: {error}", old.display())))?;
    // The nearest directory above that is there tells where the new one would lie.
    let nearest = new
        .ancestors()
        .map(|dir| {
            if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            }
        })
        .find_map(|dir| fs::canonicalize(dir).ok());
    if nearest.is_some_and(|nearest| nearest.starts_with(&old)) {
        return refuse("lies within the data dir, which is only read");
    }
    Ok(())
}
