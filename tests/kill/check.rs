//! What must be true of journals, and of what the witness has seen.

use std::collections::{BTreeMap, BTreeSet};

use stepwell::journal::{Event, Recorded};

use super::*;

type Journals = BTreeMap<String, Vec<Recorded>>;

/// What was stored when nobody was at work, and how much the witness had seen by then.
pub(super) struct Snapshot {
    lines: usize,
    journals: Journals,
}

impl Snapshot {
    pub(super) fn take(place: &Place, storage: &dyn Storage) -> Self {
        let runs = block_on(storage.list(Default::default())).unwrap();
        let journal = |id: &RunId| {
            let whole = block_on(storage.events(id, 0, usize::MAX)).unwrap();
            whole.into_iter().map(|(_, recorded)| recorded).collect()
        };
        let journals = runs.iter().map(|run| (run.id.to_string(), journal(&run.id))).collect();
        Self { lines: place.witness().text().lines().count(), journals }
    }

    /// For when somebody still had something to note, who was stopped in the middle of it.
    pub(super) fn without_notes(self) -> Self {
        Self { lines: usize::MAX, ..self }
    }
}

/// After somebody who was stopped has gone on, for whom others had done all meanwhile: it has written
/// nothing, and begun nothing.
pub(super) fn came_back(place: &Place, done: &Snapshot) {
    let now = Snapshot::take(place, &place.open());
    assert_eq!(now.journals, done.journals, "it wrote");
    let text = place.witness().text();
    let mut late = text.lines().skip(done.lines).filter_map(Line::of);
    assert!(late.all(|line| line.what != "start"), "it began something:\n{text}");
}

/// A line of the witness about an attempt.
struct Line<'a> {
    run: &'a str,
    step: &'a str,
    attempt: u32,
    key: &'a str,
    what: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [run, step, attempt, key, what] = *words.get(..5)? else { return None };
        let value = words.get(5).copied().unwrap_or_default();
        Some(Self { run, step, attempt: attempt.parse().unwrap(), key, what, value })
    }
}

/// What the steps of a run came to, as the journal has it.
fn results(journal: &[Recorded]) -> BTreeSet<&str> {
    fn result(recorded: &Recorded) -> Option<&str> {
        let Event::StepSucceeded { output, .. } = &recorded.event else { return None };
        output.as_str().filter(|text| text.starts_with('r'))
    }
    // Two equal ones would be one attempt that was recorded twice.
    let all: Vec<&str> = journal.iter().filter_map(result).collect();
    let set: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(set.len(), all.len());
    set
}

/// After all runs have ended.
pub(super) fn check(place: &Place, before: &[Snapshot]) {
    let text = place.witness().text();
    let storage = place.open();
    let last = Snapshot::take(place, &storage);
    let runs = block_on(storage.list(Default::default())).unwrap();

    for id in text.lines().filter_map(|line| line.strip_prefix("started ")) {
        assert!(last.journals.contains_key(id), "{id} was acknowledged");
    }
    for run in &runs {
        let id = run.id.as_str();
        let (_, status, steps) =
            *SHAPES.iter().find(|(name, ..)| id.starts_with(&format!("{name}-"))).unwrap();
        let journal = &last.journals[id];
        assert_eq!((run.status, run.events), (status, journal.len() as u64), "{id}");
        assert_eq!(results(journal).len(), steps, "{id} {journal:#?}");
        let count = |is: fn(&Event) -> bool| journal.iter().filter(|it| is(&it.event)).count();
        assert_eq!(count(|event| matches!(event, Event::RunFinished { .. })), 1, "{id}");
        assert!(matches!(journal.last().unwrap().event, Event::RunFinished { .. }), "{id}");
        let signals = count(|event| matches!(event, Event::SignalTaken { .. }));
        assert_eq!(signals, usize::from(id.starts_with("signal")), "{id}");
        let waits = count(|event| matches!(event, Event::WaitStarted { .. }));
        assert_eq!(waits, usize::from(id.starts_with("signal") || id.starts_with("timer")), "{id}");
    }
    ran_once(&text, &last);
    wrote_once(place, &last);
    for snapshot in before {
        stays(&text, snapshot, &last);
    }
}

/// Each result is of one attempt, and what starts has seen only results that are stored. An attempt
/// is begun again only after something has died, or by somebody who was just about to begin it when it
/// was stopped.
fn ran_once(text: &str, last: &Snapshot) {
    let mut keys: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut began: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
    let mut ended: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut deaths, mut came_back) = (0, false);
    for line in text.lines() {
        deaths += usize::from(line == "over");
        came_back |= line == "back";
        let Some(line) = Line::of(line) else { continue };
        let Line { run, step, attempt, key, what, value } = line;
        assert_eq!(*keys.entry((run, step)).or_insert(key), key, "whatever died");
        match what {
            "start" => {
                let known = results(&last.journals[run]);
                assert!(
                    value.is_empty() || value.split(',').all(|it| known.contains(it)),
                    "{key} {value}"
                );
                let (last, died) = began.get(key).copied().unwrap_or((0, deaths));
                let is_next = attempt == last + 1;
                let is_again = attempt == last && deaths > died;
                let is_late = attempt <= last && came_back;
                let is_once = run.starts_with("once-") && step == "a";
                assert!(!is_once || last == 0, "{key} is begun at most once\n{text}");
                assert!(is_next || is_again || is_late, "{key} {attempt}\n{text}");
                began.insert(key, (attempt.max(last), deaths));
            }
            "end" => drop(ended.insert(value, key)),
            _ => {}
        }
    }
    for (run, journal) in &last.journals {
        let results = results(journal);
        let keys: BTreeSet<&str> = results.iter().map(|result| ended[result]).collect();
        assert_eq!(keys.len(), results.len(), "{run}: one result for each step");
    }
    for (key, (attempts, _)) in began {
        assert_eq!(
            attempts,
            if key.contains("retry") && key.ends_with("/b") { 3 } else { 1 },
            "{key}"
        );
    }
}

/// Each step that writes in the transaction of its result has one row, and it is of that result.
fn wrote_once(place: &Place, last: &Snapshot) {
    let rows = place.base.rows();
    let steps: BTreeSet<&str> = rows.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps.len(), rows.len(), "no step has two rows: {rows:?}");
    let written: BTreeSet<&str> = rows.iter().map(|(_, result)| result.as_str()).collect();
    let all = last.journals.values().flat_map(|journal| results(journal)).collect::<BTreeSet<_>>();
    assert!(written.is_subset(&all), "{written:?} {all:?}");
    let expected = |run: &String| match run.split_once('-').map(|(shape, _)| shape) {
        Some("each") => 3,
        Some("retry") => 1,
        _ => 0,
    };
    assert_eq!(rows.len(), last.journals.keys().map(expected).sum::<usize>());
}

/// What was stored stays as it was, and what had a result is not begun again.
fn stays(text: &str, snapshot: &Snapshot, last: &Snapshot) {
    let lines: Vec<Option<Line<'_>>> = text.lines().map(Line::of).collect();
    let (seen, later) = lines.split_at(snapshot.lines.min(lines.len()));
    for (run, journal) in &snapshot.journals {
        assert!(last.journals[run].starts_with(journal), "{run}");
        for result in results(journal) {
            let is_it = |line: &&Line<'_>| line.what == "end" && line.value == result;
            let key = seen.iter().flatten().find(is_it).unwrap().key;
            assert!(later.iter().flatten().all(|line| line.key != key), "{key}\n{text}");
        }
    }
}
