//! Blobs as files: one folder per run, one file per blob.
//!
//! ```text
//! folder/p-order-4711/p-invoice       plain names as they are
//! folder/p-order-4711/p-%49nvoice     `Invoice`: what is not plain as the hexadecimal of its bytes
//! folder/p-order-4711/x-c3a4c3b6      `äö`: all of it, where that is shorter
//! folder/p-order-4711/p-xxx...+/p-y   long ones in parts, the last of which has no `+`
//! folder/p-order-4711/t-17-3          being written, or left by a crash
//! ```
//!
//! File names have lower-case letters, digits and few signs, so they mean the same on every file
//! system, and what precedes them keeps them from being names that some system reserves.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blocking::unblock;

use super::Reply;
use super::blob::{BlobStore, check_name};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunId;

/// Blobs in a folder, each a file. Clones share it, and so can other processes.
///
/// A blob that `put` said `Ok` to outlasts a crash of the process and of the machine, as far as the
/// file system keeps what it was told to. Files are read and written on threads of their own.
///
/// ```
/// use futures::executor::block_on;
/// use stepwell::RunId;
/// use stepwell::storage::{BlobStore, FileBlobs};
///
/// let folder = std::env::temp_dir().join(format!("blobs-{}", std::process::id()));
/// let blobs = FileBlobs::open(&folder)?;
/// let run = RunId::new("order-4711")?;
/// block_on(blobs.put(&run, "invoice", b"...".to_vec()))?;
/// assert_eq!(block_on(blobs.get(&run, "invoice"))?.as_deref(), Some(&b"..."[..]));
/// block_on(blobs.delete_run(&run))?;
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct FileBlobs(Arc<Path>);

/// Bytes of a file's name: file systems take 255, with room for what precedes it.
const PART_MAX: usize = 200;

impl FileBlobs {
    /// The blobs in this folder, which is made if there is none.
    ///
    /// Waits for the file system: call it before anything else runs.
    ///
    /// # Errors
    /// `Storage`, with the folder in the message, if it cannot be made or written to.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let given = folder.as_ref();
        let opened = std::path::absolute(given).and_then(|folder| {
            make_folder(&folder)?;
            let (path, file) = new_file(&folder)?;
            drop(file);
            fs::remove_file(path)?;
            Ok(folder)
        });
        match opened {
            Ok(folder) => Ok(Self(folder.into())),
            Err(error) => {
                Err(failed(format!("cannot write to the folder {}", given.display()), error))
            }
        }
    }

    fn run(&self, run: &RunId) -> PathBuf {
        self.0.join(path_of(run.as_str()))
    }
}

impl BlobStore for FileBlobs {
    fn put(&self, run: &RunId, name: &str, bytes: Vec<u8>) -> Reply<Result<()>> {
        if let Err(error) = check_name(run, name) {
            return Reply::ready(Err(error));
        }
        let path = self.run(run).join(path_of(name));
        let (folder, run, name) = (Arc::clone(&self.0), run.clone(), name.to_owned());
        Reply::later(unblock(move || {
            write(&path, &bytes).map_err(|error| {
                let message = format!("cannot keep the blob {name:?} in {}", folder.display());
                failed(message, error).of_run(&run)
            })
        }))
    }

    fn get(&self, run: &RunId, name: &str) -> Reply<Result<Option<Vec<u8>>>> {
        if check_name(run, name).is_err() {
            return Reply::ready(Ok(None));
        }
        let path = self.run(run).join(path_of(name));
        let (folder, run, name) = (Arc::clone(&self.0), run.clone(), name.to_owned());
        Reply::later(unblock(move || match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let message = format!("cannot read the blob {name:?} in {}", folder.display());
                Err(failed(message, error).of_run(&run))
            }
        }))
    }

    fn delete(&self, run: &RunId, names: Vec<String>) -> Reply<Result<()>> {
        let (path, run) = (self.run(run), run.clone());
        let folder = Arc::clone(&self.0);
        Reply::later(unblock(move || {
            let names = names.iter().filter(|name| check_name(&run, name).is_ok());
            let files: Vec<PathBuf> = names.map(|name| path.join(path_of(name))).collect();
            remove(&path, &files).map_err(|error| {
                let message = format!("cannot delete blobs in {}", folder.display());
                failed(message, error).of_run(&run)
            })
        }))
    }

    fn delete_run(&self, run: &RunId) -> Reply<Result<()>> {
        let path = self.run(run);
        let (folder, run) = (Arc::clone(&self.0), run.clone());
        Reply::later(unblock(move || {
            let removed = fs::remove_dir_all(&path).and_then(|()| sync_around(&path));
            removed.or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => {
                    let message = format!("cannot delete the run's blobs in {}", folder.display());
                    Err(failed(message, error).of_run(&run))
                }
            })
        }))
    }
}

impl fmt::Debug for FileBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileBlobs({})", self.0.display())
    }
}

fn failed(what: String, why: io::Error) -> Error {
    Error::new(ErrorKind::Storage, what).because(why)
}

/// A path for a name; different names have different paths, none of which lies inside another.
fn path_of(name: &str) -> PathBuf {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => text.push(byte.into()),
            _ => text += &format!("%{byte:02x}"),
        }
    }
    let mut mark = "p-";
    if text.len() > 2 * name.len() {
        mark = "x-";
        text = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    }
    let mut path = PathBuf::new();
    let mut rest = &*text;
    // All of it is ASCII, so it can be split anywhere.
    while rest.len() > PART_MAX
        && let Some((part, behind)) = rest.split_at_checked(PART_MAX)
    {
        path.push(format!("{mark}{part}+"));
        rest = behind;
    }
    path.push(format!("{mark}{rest}"));
    path
}

/// Removes files of a run, and the folders around them that are empty then.
fn remove(run: &Path, files: &[PathBuf]) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for path in files {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => folders.extend(path.parent()),
        }
    }
    // Those inside come last.
    while let Some(folder) = folders.pop_last() {
        match folder != run && fs::remove_dir(folder).is_ok() {
            true => folders.extend(folder.parent()),
            false => match sync(folder) {
                // Somebody else was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            },
        }
    }
    Ok(())
}

/// Writes a file so that at any moment it is there as a whole, or as it was.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let (temporary, mut file) = new_file_in(folder)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync(folder));
    if written.is_err() {
        // What cannot be removed either goes with its run.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// A file that nobody else writes; numbers may be those that a crash has left behind.
fn new_file(folder: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("t-{}-{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same, in a folder that is made if there is none: a removal may take it away as long as it is empty.
fn new_file_in(folder: &Path) -> io::Result<(PathBuf, File)> {
    let mut removed = 0;
    loop {
        match make_folder(folder).and_then(|()| new_file(folder)) {
            Err(error) if is_gone(&error) && removed < 100 => removed += 1,
            opened => return opened,
        }
    }
}

/// Also somebody else's, which went between two looks.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

/// Makes a folder that outlasts a crash, with those around it.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(around) = folder.parent() {
        make_folder(around)?;
    }
    match fs::create_dir(folder) {
        // Someone else was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.and_then(|()| sync_around(folder)),
    }
}

fn sync_around(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync)
}

/// Makes what was done to the names in a folder last.
fn sync(folder: &Path) -> io::Result<()> {
    // Elsewhere folders cannot be opened, and names last by themselves.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
