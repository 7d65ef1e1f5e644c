//! The contract of `BlobStore`, one test a sentence, on every store.
#![allow(clippy::unwrap_used)]

use futures::executor::block_on;
use stepwell::storage::{BLOB_NAME_BYTES_MAX, BlobStore, MemoryBlobs};
use stepwell::{ErrorKind, RunId};

#[cfg(feature = "files")]
use self::files::each;

#[cfg(not(feature = "files"))]
fn each(_: &str, test: impl Fn(&dyn BlobStore)) {
    test(&MemoryBlobs::new());
}

fn id(name: &str) -> RunId {
    RunId::new(name).unwrap()
}

fn put(blobs: &dyn BlobStore, run: &str, name: &str, bytes: &[u8]) {
    block_on(blobs.put(&id(run), name, bytes.to_vec())).unwrap();
}

fn get(blobs: &dyn BlobStore, run: &str, name: &str) -> Option<Vec<u8>> {
    block_on(blobs.get(&id(run), name)).unwrap()
}

/// Names that are nasty for files, and pairs of which the one could be taken for the other.
fn odd_names() -> Vec<String> {
    let long = "x".repeat(198);
    let mut names: Vec<String> = [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a",
        "A",
        "a\\b",
        "/etc/passwd",
        "CON",
        "con",
        "nul.txt",
        "a.",
        "a ",
        " a",
        "a\0b",
        "a\nb",
        "%61",
        "p-a",
        "x-61",
        "+",
        "a+",
        "t-1-1",
        "é",
        "e\u{301}",
        "日本語",
        "~",
        "-",
    ]
    .map(Into::into)
    .into();
    let more = ["", "y", "yy", "/", "+", "y+", "/y", "Y", ".", "+/y"];
    names.extend(more.map(|end| format!("{long}{end}")));
    names.push("ab".repeat(150));
    names.push("é".repeat(300));
    names.push("日".repeat(300));
    names.push("x".repeat(BLOB_NAME_BYTES_MAX));
    names.push("X".repeat(BLOB_NAME_BYTES_MAX));
    names
}

#[test]
fn what_is_put_is_got() {
    each("got", |blobs| {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        put(blobs, "run", "a", &bytes);
        put(blobs, "run", "empty", b"");
        assert_eq!(get(blobs, "run", "a").unwrap(), bytes);
        assert_eq!(get(blobs, "run", "empty").unwrap(), b"");
    });
}

#[test]
fn the_same_name_again_replaces() {
    each("replaces", |blobs| {
        put(blobs, "run", "a", b"first, longer");
        put(blobs, "run", "a", b"second");
        assert_eq!(get(blobs, "run", "a").unwrap(), b"second");
    });
}

#[test]
fn what_is_not_there_is_none() {
    each("none", |blobs| {
        assert_eq!(get(blobs, "run", "a"), None);
        put(blobs, "run", "a", b"1");
        assert_eq!(get(blobs, "run", "b"), None);
        assert_eq!(get(blobs, "other", "a"), None);
    });
}

#[test]
fn deleting_a_run_removes_all_of_it_and_nothing_else() {
    each("deleting", |blobs| {
        let long = "r".repeat(198);
        let runs = ["run", "Run", "run-2", "../run", "r/u", &long, &format!("{long}un")];
        for deleted in runs {
            for run in runs {
                put(blobs, run, "a", b"1");
                put(blobs, run, &"long/".repeat(100), b"2");
            }
            block_on(blobs.delete_run(&id(deleted))).unwrap();
            for run in runs {
                assert_eq!(get(blobs, run, "a").is_none(), run == deleted, "{deleted}: {run}");
                assert_eq!(get(blobs, run, &"long/".repeat(100)).is_none(), run == deleted);
            }
        }
        block_on(blobs.delete_run(&id("never seen"))).unwrap();
        put(blobs, "run", "a", b"again");
        assert_eq!(get(blobs, "run", "a").unwrap(), b"again");
    });
}

#[test]
fn deleting_some_removes_these_and_no_others() {
    each("some", |blobs| {
        let mut names = odd_names();
        for (run, name) in
            ["run", "other"].iter().flat_map(|run| names.iter().map(move |n| (run, n)))
        {
            put(blobs, run, name, name.as_bytes());
        }
        let gone: Vec<String> = names.iter().step_by(2).cloned().collect();
        let too_long = "x".repeat(BLOB_NAME_BYTES_MAX + 1);
        let more = ["never seen".to_owned(), too_long].into_iter().chain(gone.clone());
        block_on(blobs.delete(&id("run"), more.collect())).unwrap();
        for name in &names {
            assert_eq!(get(blobs, "run", name).is_none(), gone.contains(name), "{name:?}");
            assert_eq!(get(blobs, "other", name).unwrap(), name.as_bytes(), "{name:?}");
        }
        block_on(blobs.delete(&id("run"), gone.clone())).unwrap();
        block_on(blobs.delete(&id("never seen"), gone.clone())).unwrap();
        names.retain(|name| gone.contains(name));
        for name in &names {
            put(blobs, "run", name, b"again");
            assert_eq!(get(blobs, "run", name).unwrap(), b"again");
        }
    });
}

#[test]
fn any_name_is_good_and_no_two_are_the_same() {
    each("names", |blobs| {
        let names = odd_names();
        for name in &names {
            put(blobs, "run", name, name.as_bytes());
        }
        for name in &names {
            assert_eq!(get(blobs, "run", name).unwrap(), name.as_bytes(), "{name:?}");
        }
        let runs = names.iter().filter_map(|name| RunId::new(name).ok());
        let runs: Vec<RunId> = runs.collect();
        assert!(runs.len() > 20);
        for run in &runs {
            block_on(blobs.put(run, "a", run.as_str().into())).unwrap();
        }
        for run in &runs {
            let found = block_on(blobs.get(run, "a")).unwrap();
            assert_eq!(found.as_deref(), Some(run.as_str().as_bytes()), "{run}");
        }
    });
}

#[test]
fn a_name_has_a_limit() {
    each("limit", |blobs| {
        let name = "x".repeat(BLOB_NAME_BYTES_MAX + 1);
        let error = block_on(blobs.put(&id("run"), &name, Vec::new())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        let message = "run run: a blob's name of 1001 bytes is too long (limit 1000)";
        assert_eq!(error.to_string(), message);
        assert_eq!(get(blobs, "run", &name), None);
    });
}

#[test]
fn clones_share() {
    let blobs = MemoryBlobs::new();
    put(&blobs.clone(), "run", "a", b"1");
    assert_eq!(get(&blobs, "run", "a").unwrap(), b"1");
}

#[cfg(feature = "files")]
mod files {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::thread;

    use stepwell::storage::FileBlobs;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("stepwell-blobs-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// All files and folders in it, with their paths from here.
        fn entries(&self) -> Vec<String> {
            fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    found.push(path.clone());
                    if path.is_dir() {
                        walk(&path, found);
                    }
                }
            }
            let mut found = Vec::new();
            walk(&self.0, &mut found);
            let relative = |path: &PathBuf| path.strip_prefix(&self.0).unwrap().to_owned();
            let text = |path: &PathBuf| relative(path).to_string_lossy().replace('\\', "/");
            let mut entries: Vec<String> = found.iter().map(text).collect();
            entries.sort();
            entries
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(super) fn each(name: &str, test: impl Fn(&dyn BlobStore)) {
        test(&MemoryBlobs::new());
        let folder = Folder::new(name);
        test(&FileBlobs::open(folder.0.join("new/blobs")).unwrap());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "something reached outside");
    }

    #[test]
    fn file_names_are_harmless() {
        let folder = Folder::new("harmless");
        let blobs = FileBlobs::open(&folder.0).unwrap();
        for name in odd_names() {
            put(&blobs, "Order-4711", &name, b"");
        }
        let mut lower = Vec::new();
        for entry in folder.entries() {
            assert!(entry.starts_with("p-%4frder-4711"), "{entry}");
            for part in entry.split('/') {
                let good =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "%-_+".contains(c);
                assert!(part.len() < 250 && part.chars().all(good), "{entry}");
                assert!(part.starts_with("p-") || part.starts_with("x-"), "{entry}");
            }
            lower.push(entry);
        }
        lower.dedup();
        assert_eq!(lower.len(), folder.entries().len());
    }

    #[test]
    fn another_process_finds_the_same() {
        let folder = Folder::new("another");
        put(&FileBlobs::open(&folder.0).unwrap(), "run", "a", b"1");
        let reopened = FileBlobs::open(&folder.0).unwrap();
        assert_eq!(get(&reopened, "run", "a").unwrap(), b"1");
        assert_eq!(folder.entries(), ["p-run", "p-run/p-a"]);
    }

    #[test]
    fn what_a_crash_leaves_is_ignored_and_goes_with_the_run() {
        let folder = Folder::new("crash");
        let blobs = FileBlobs::open(&folder.0).unwrap();
        put(&blobs, "run", "a", b"1");
        // Written by a process of the same number, up to the moment before it was renamed.
        for number in 0..1000 {
            let left = format!("p-run/t-{}-{number}", std::process::id());
            fs::write(folder.0.join(left), b"half of").unwrap();
        }
        assert_eq!(get(&blobs, "run", "a").unwrap(), b"1");
        put(&blobs, "run", "a", b"2");
        assert_eq!(get(&blobs, "run", "a").unwrap(), b"2");
        block_on(blobs.delete_run(&id("run"))).unwrap();
        assert_eq!(folder.entries(), Vec::<String>::new());
    }

    #[test]
    fn long_names_leave_no_folders_when_they_are_deleted() {
        let folder = Folder::new("empty");
        let blobs = FileBlobs::open(&folder.0).unwrap();
        let names: Vec<String> = (0..10).map(|turn| format!("{turn}/").repeat(200)).collect();
        names.iter().for_each(|name| put(&blobs, "run", name, b"1"));
        put(&blobs, "run", "a", b"1");
        block_on(blobs.delete(&id("run"), names)).unwrap();
        assert_eq!(folder.entries(), ["p-run", "p-run/p-a"]);
        block_on(blobs.delete(&id("run"), vec!["a".into()])).unwrap();
        assert_eq!(folder.entries(), ["p-run"]);
    }

    #[test]
    fn what_is_put_beside_what_is_deleted_is_there() {
        let folder = Folder::new("beside");
        let blobs = FileBlobs::open(&folder.0).unwrap();
        // The same folders, which go when they are empty.
        let name = |n: u32| format!("{}{n}", "x".repeat(500));
        thread::scope(|scope| {
            for writer in 0..3 {
                let blobs = blobs.clone();
                scope.spawn(move || {
                    for round in 0..200 {
                        let name = name(3 * round + writer);
                        put(&blobs, "run", &name, b"1");
                        assert_eq!(get(&blobs, "run", &name).unwrap(), b"1");
                        block_on(blobs.delete(&id("run"), vec![name.clone()])).unwrap();
                        assert_eq!(get(&blobs, "run", &name), None);
                    }
                });
            }
        });
        assert_eq!(folder.entries(), ["p-run"]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = Folder::new("unwritable");
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        let inside = file.join("blobs");
        let error = FileBlobs::open(&inside).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert_eq!(error.to_string(), format!("cannot write to the folder {}", inside.display()));
        assert!(std::error::Error::source(&error).is_some());

        // It was fine when it was opened.
        let later = folder.0.join("later");
        let blobs = FileBlobs::open(&later).unwrap();
        fs::remove_dir(&later).unwrap();
        fs::write(&later, "").unwrap();
        let error = block_on(blobs.put(&id("r"), "a", Vec::new())).unwrap_err();
        let message = format!("run r: cannot keep the blob \"a\" in {}", later.display());
        assert_eq!(error.to_string(), message);
        let error = block_on(blobs.get(&id("r"), "a")).unwrap_err();
        assert!(error.to_string().contains("cannot read the blob \"a\""), "{error}");
        let error = block_on(blobs.delete(&id("r"), vec!["a".into()])).unwrap_err();
        assert!(error.to_string().contains("run r: cannot delete blobs in"), "{error}");
        let error = block_on(blobs.delete_run(&id("r"))).unwrap_err();
        assert!(error.to_string().contains("cannot delete the run's blobs"), "{error}");
    }

    #[test]
    fn readers_see_the_old_or_the_new_and_never_a_part() {
        let folder = Folder::new("atomic");
        let blobs = FileBlobs::open(&folder.0).unwrap();
        put(&blobs, "run", "a", &[0; 100_000]);
        thread::scope(|scope| {
            for writer in 1..4_u8 {
                let blobs = blobs.clone();
                scope.spawn(move || {
                    for _ in 0..20 {
                        put(&blobs, "run", "a", &vec![writer; 100_000 + usize::from(writer)]);
                    }
                });
            }
            for _ in 0..200 {
                let bytes = get(&blobs, "run", "a").unwrap();
                assert_eq!(bytes.len(), 100_000 + usize::from(bytes[0]));
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            }
        });
        assert_eq!(folder.entries(), ["p-run", "p-run/p-a"]);
    }
}
