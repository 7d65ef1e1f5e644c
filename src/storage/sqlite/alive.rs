//! Whether any other process uses the database: a lock of the operating system's on a file beside it,
//! which ends with its process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The lock of one opened database, held until it is dropped.
pub(super) struct Alive {
    /// None where the file system has no locks; then nobody is ever taken to be alone.
    file: Option<File>,
    alone: bool,
}

impl Alive {
    /// Takes the lock for as long as the database is being opened: alone, if nobody else has it.
    ///
    /// Waits while somebody else who was alone opens the same database.
    pub(super) fn begin(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push("-alive");
        let path = PathBuf::from(name);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let Ok(file) = opened else { return Self { file: None, alone: false } };
        let (locked, alone) = match file.try_lock() {
            Ok(()) => (true, true),
            Err(TryLockError::WouldBlock) => (file.lock_shared().is_ok(), false),
            Err(TryLockError::Error(_)) => (false, false),
        };
        Self { file: locked.then_some(file), alone }
    }

    /// Whether no other process uses the database, nor can begin to before `share`.
    pub(super) const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Lets others in. Between the two steps another one may be alone for a moment, who finds nobody
    /// that is alive; that is so, as nothing has been done with this one yet.
    pub(super) fn share(mut self) -> Self {
        if let Some(file) = self.file.take_if(|_| self.alone) {
            let shared = file.unlock().and_then(|()| file.lock_shared());
            self.file = shared.is_ok().then_some(file);
            self.alone = false;
        }
        self
    }
}
