//! The data dir as a place: made if it is missing, and looked at before anything is written into it.
//!
//! What always holds: a place that cannot serve is refused with the settings or the command that help,
//! and with nothing changed in it.

use std::io::{self, ErrorKind};
use std::path::Path;

use ekokv_wal::{FileSystem, RealDisk};
use rustix::process::geteuid;

use super::options::Failure;

/// Files whose owner is the owner of the store.
const STORE_FILES: [&str; 2] = ["CURRENT", "lock"];

const SETTING: &str = "--data-dir (EKOKV_DATA_DIR)";

/// Opens the data dir, which is made if it is missing.
pub(super) fn open(dir: &Path) -> Result<RealDisk, Failure> {
    let cannot = |verb: &'static str| {
        move |error: io::Error| {
            let said = format!("cannot {verb} the data dir {}: {error}", dir.display());
            refused(dir, &said, &error)
        }
    };
    let disk = RealDisk::create_root(dir).map_err(cannot("use"))?;
    disk.check_writable().map_err(cannot("write to"))?;
    let place = disk.file_system().map_err(cannot("look at"))?;
    // Remote ones show owners as they are told to.
    if !matches!(place, FileSystem::Remote(_)) {
        for file in STORE_FILES {
            if let Some(owner) = disk.owner(file).map_err(cannot("look at"))? {
                check_owner(dir, owner)?;
            }
        }
    }
    warn(dir, place);
    Ok(disk)
}

/// A store is opened by the user that made it. As another one, root say, it could be read as well, but
/// what that start writes the store's own user could then not open any more.
fn check_owner(dir: &Path, owner: u32) -> Result<(), Failure> {
    let me = geteuid().as_raw();
    if owner == me {
        return Ok(());
    }
    let dir = dir.display();
    Err(Failure::Settings(format!(
        "the store in {dir} belongs to the user with id {owner}, and this process runs as {me}: run it \
         as user {owner}, or give the whole data dir to user {me}, as with `chown -R {me} {dir}`"
    )))
}

fn warn(dir: &Path, place: FileSystem) {
    let dir = dir.display();
    match place {
        FileSystem::Lasting => {}
        FileSystem::Memory => tracing::warn!(
            data_dir = %dir,
            "the data dir lies in memory (tmpfs): all data is lost with a reboot"
        ),
        FileSystem::Layer => tracing::warn!(
            data_dir = %dir,
            "the data dir lies in the writable layer of a container or live system (overlay): all \
             data is lost with it; mount a volume there"
        ),
        FileSystem::Remote(kind) => tracing::warn!(
            data_dir = %dir,
            kind,
            "the data dir does not lie on a local file system: what is synced is as safe as its \
             server makes it, and its locks may not keep a second process away"
        ),
    }
}

/// What to say where something else has the name of a file.
pub(super) const NO_FILE: &str =
    "What lies under that name is no file, and none of ekokv's making: move it away";

/// Whether an error means that there is a directory, a pipe, a socket or a device in place of a file.
pub(super) fn is_no_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::IsADirectory | ErrorKind::NotSeekable
    )
}

/// The link on the way to `dir`, if one leads nowhere. A place is never made through a link: what it led to
/// may be a disk that is not mounted.
fn dangling_link(dir: &Path) -> Option<&Path> {
    dir.ancestors()
        .find(|place| place.is_symlink() && !place.exists())
}

/// Why the data dir cannot be used, `said` as a sentence and `error` its cause, in the class of who can
/// help: whoever gives the settings and permissions, or whoever looks after the disk.
pub(super) fn refused(dir: &Path, said: &str, error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::NotFound
        && let Some(link) = dangling_link(dir)
    {
        return Failure::Settings(format!(
            "{said}. {} is a link to a place that is not there: make that place, or name another data \
             dir with {SETTING}",
            link.display()
        ));
    }
    let dir = dir.display();
    match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Failure::Settings(format!(
            "{said}. {SETTING} is {dir}: that, or something above it, is no directory"
        )),
        _ if is_no_file(error) => Failure::Settings(format!("{said}. {NO_FILE}")),
        ErrorKind::PermissionDenied => Failure::Settings(format!(
            "{said}. This process runs as the user with id {}: give the whole data dir to that user, \
             or name another one with {SETTING}",
            geteuid().as_raw()
        )),
        ErrorKind::ReadOnlyFilesystem => Failure::Settings(format!(
            "{said}. The file system is mounted read-only: mount it for writing, or name another data \
             dir with {SETTING}"
        )),
        // EINVAL is what fsync says where there is nothing to sync.
        ErrorKind::Unsupported | ErrorKind::InvalidInput => Failure::Settings(format!(
            "{said}. The file system cannot do what a store needs, which is to lock, to rename, and to \
             sync files and directories: name a data dir on another one with {SETTING}"
        )),
        _ => Failure::Storage(said.to_owned()),
    }
}
