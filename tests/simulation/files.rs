//! A database that goes with its test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell::storage::{Sqlite, SqliteOptions, Synchronous};

/// A folder with one.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell-simulation-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Nobody cuts the power here.
    pub(crate) fn open(&self) -> Sqlite {
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        options.open(self.0.join("runs.db")).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
