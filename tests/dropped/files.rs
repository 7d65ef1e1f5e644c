//! Databases that go with their test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell::storage::{Sqlite, SqliteOptions, Storage, Synchronous};
use stepwell::testing::Faulty;

/// A folder for them.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell-dropped-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// Nobody cuts the power here.
    pub(crate) fn open(&self) -> Sqlite {
        self.database("runs.db")
    }

    /// One that answers at once, so that virtual time does not pass meanwhile.
    pub(crate) fn open_as(&self, number: u32) -> Arc<dyn Storage> {
        Arc::new(Faulty::new(self.database(&format!("{number}.db")), |_| None))
    }

    fn database(&self, name: &str) -> Sqlite {
        let options = SqliteOptions::new().synchronous(Synchronous::Normal);
        options.open(self.0.join(name)).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
