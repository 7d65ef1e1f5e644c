//! The storage in a SQLite file: what outlasts what, and who may write when others do.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(feature = "testing")]
mod damage;
mod files;
mod history;
mod power;
mod queries;
#[path = "../runs/mod.rs"]
mod runs;
mod shared;
#[cfg(feature = "testing")]
#[path = "../slow/mod.rs"]
mod slow;
mod together;
#[cfg(feature = "testing")]
mod writes;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::executor::block_on;
use runs::*;
use stepwell::journal::{Reason, Recorded};
use stepwell::storage::{
    Beat, Claim, Commit, Holding, Message, NewRun, Owner, Sqlite, SqliteOptions, Storage,
    Synchronous,
};
use stepwell::{ErrorClass, Event, Result, RunStatus, Step, StepKey, Timestamp, Value, Workflow};

const B: Owner = Owner(u128::MAX);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("stepwell-sqlite-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("runs.db")
    }

    /// As nearly all tests want it: they do not cut the power.
    fn open(&self) -> Sqlite {
        SqliteOptions::new().synchronous(Synchronous::Normal).open(self.file()).unwrap()
    }

    fn plain(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn started() -> Recorded {
    started_with("ä \"quoted\" {}")
}

fn pause() -> Message {
    Message::Pause(Reason::new("ann", "lunch"))
}
