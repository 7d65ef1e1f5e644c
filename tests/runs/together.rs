//! Writes that come at once.

use std::thread;

use futures::future::join_all;
use stepwell::ErrorKind;

use super::*;

/// Each to a run of its own.
pub(crate) fn many_threads_commit(storage: &(impl Storage + Clone), turns: u32) {
    let work = |number: u32| {
        let storage = storage.clone();
        thread::spawn(move || {
            let name = format!("r{number}");
            create(&storage, &name);
            for turn in 0..turns {
                write(&storage, &name, commit(A, turn.into(), vec![ready(turn)])).unwrap();
                assert_eq!(load(&storage, &name).journal.len() as u32, turn + 1);
            }
        })
    };
    let writers: Vec<_> = (0..16).map(work).collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    for number in 0..16 {
        let journal = load(storage, &format!("r{number}")).journal;
        assert_eq!(journal, (0..turns).map(ready).collect::<Vec<_>>());
    }
}

/// One in ten of many is refused, and whoever writes to a run that is not there.
pub(crate) fn some_of_many_are_refused(storage: &impl Storage) {
    let names: Vec<String> = (0..200).map(|number| format!("r{number:03}")).collect();
    let creates =
        names.iter().map(|name| storage.create(new_run(name, &workflow("w"), Holding::Held(A))));
    let created = block_on(join_all(creates.collect::<Vec<_>>()));
    assert!(created.iter().all(|created| matches!(created, Ok(Created::New))));
    let number = block_on(storage.post(&id("r007"), signal("s"))).unwrap();
    let commits = names.iter().enumerate().map(|(place, name)| {
        let expected = if place % 10 == 7 { 5 } else { 0 };
        let answers = if place == 7 { vec![(number, Ok(()))] } else { Vec::new() };
        storage.commit(&id(name), Commit { answers, ..commit(A, expected, vec![ready(0)]) })
    });
    let mut all: Vec<_> = commits.collect();
    all.push(storage.commit(&id("nobody"), commit(A, 0, vec![ready(0)])));
    // Nobody waits before all are sent.
    let mut done = block_on(join_all(all));
    assert_eq!(done.pop().unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    for (place, (name, done)) in names.iter().zip(done).enumerate() {
        let refused = place % 10 == 7;
        match done {
            Ok(_) => assert!(!refused, "{name}"),
            Err(error) => {
                assert_eq!((error.kind(), error.run()), (ErrorKind::Conflict, Some(&id(name))));
                assert!(refused);
            }
        }
        assert_eq!(load(storage, name).journal.len(), usize::from(!refused));
    }
    assert_eq!(block_on(storage.inbox(&id("r007"))).unwrap().len(), 1);
}
