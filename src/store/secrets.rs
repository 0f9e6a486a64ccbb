//! Random bytes, and the two secrets that lie beside the log: `jwt-secret` and `admin-key`.
//!
//! Both are for the owner of the data dir alone (0600) and never part of the log.

use std::io;

use ekokv_wal::{Disk, publish};

use super::data_dir::{NO_FILE, is_no_file};
use super::options::Failure;

/// The secret under which tokens are signed.
pub(super) const JWT_SECRET: &str = "jwt-secret";
/// The bootstrap admin key, if the first start made it.
pub(super) const ADMIN_KEY: &str = "admin-key";

/// A signing secret of fewer bytes can be guessed; RFC 7518 section 3.2 asks for 32 with HS256.
const JWT_SECRET_BYTES_MIN: usize = 32;
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// `N` bytes from the operating system.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a signing secret: 64 hexadecimal digits, which are the secret as they stand.
pub(super) fn new_jwt_secret(disk: &dyn Disk) -> Result<Vec<u8>, ekokv_wal::Error> {
    let bytes = random::<32>().map_err(|source| ekokv_wal::Error::Io {
        operation: "get random bytes for",
        path: JWT_SECRET.to_owned(),
        source,
    })?;
    let secret = hex(&bytes).into_bytes();
    publish(disk, JWT_SECRET, &secret)?;
    Ok(secret)
}

/// The signing secret; makes a new one if there is none: tokens end, data stays.
pub(super) fn jwt_secret(disk: &dyn Disk) -> Result<Vec<u8>, Failure> {
    match kept_jwt_secret(disk)? {
        Some(secret) => Ok(secret),
        None => {
            tracing::warn!("{JWT_SECRET} is missing; a new one is made, and earlier tokens end");
            new_jwt_secret(disk).map_err(|error| Failure::Storage(error.to_string()))
        }
    }
}

/// The signing secret, `None` if there is none.
pub(super) fn kept_jwt_secret(disk: &dyn Disk) -> Result<Option<Vec<u8>>, Failure> {
    match read(disk, JWT_SECRET)? {
        Some(secret) if secret.len() < JWT_SECRET_BYTES_MIN => Err(Failure::Settings(format!(
            "{JWT_SECRET} is shorter than {JWT_SECRET_BYTES_MIN} bytes: remove the file to have a \
             new secret made; clients then fetch new tokens"
        ))),
        kept => Ok(kept),
    }
}

/// The key in the file `admin-key`, if there is one.
pub(super) fn kept_admin_key(disk: &dyn Disk) -> Result<Option<String>, Failure> {
    let kept = read(disk, ADMIN_KEY)?;
    Ok(kept.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Removes what a crash left of publishing one of the secrets.
pub(super) fn remove_unfinished(disk: &dyn Disk) {
    for secret in [JWT_SECRET, ADMIN_KEY] {
        // Mostly there is none, and if it cannot be removed it is in nobody's way.
        let _ = disk.remove(&format!("{secret}.tmp"));
    }
}

/// A small file's content, `None` if there is none.
fn read(disk: &dyn Disk, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |error: io::Error| {
        let said = format!("cannot read {path}: {error}");
        if is_no_file(&error) {
            Failure::Settings(format!("{said}. {NO_FILE}"))
        } else {
            Failure::Storage(said)
        }
    };
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let length = file.length().map_err(failed)?.min(SECRET_FILE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(filled as u64, rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}
