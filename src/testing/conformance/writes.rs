//! What steps write themselves is there exactly if the commit is that brings it.
//!
//! Only the last case asks something of a storage that takes no writes. The statements are such that
//! SQLite and PostgreSQL understand them, and look by changing: an update that has to change a row is
//! refused if the row is not there.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::given::{A, B, begun, commit, id, ready};
use super::trial::{Trial, wait};
use crate::error::{Error, ErrorClass, ErrorKind};
use crate::id::StepKey;
use crate::storage::{Commit, Parameter, RefusedWrite, Statement, StepWrites};

/// A table of names and numbers that only this case has.
struct Table<'a> {
    on: &'a Trial<'a>,
    name: String,
}

fn of(step: u32, statements: impl IntoIterator<Item = Statement>) -> StepWrites {
    StepWrites { step: StepKey::root(step), statements: statements.into_iter().collect() }
}

fn writing(writes: impl IntoIterator<Item = StepWrites>, commit: Commit) -> Commit {
    Commit { writes: Some(writes.into_iter().collect()), ..commit }
}

/// None when the storage takes no writes.
fn table<'a>(on: &'a Trial<'a>) -> Option<Table<'a>> {
    if !on.storage().takes_writes() {
        return None;
    }
    // Several cases may share a database.
    let mut hasher = DefaultHasher::new();
    on.name().hash(&mut hasher);
    let name = format!("rows_{:016x}", hasher.finish());
    let table = Table { on, name };
    on.held("table", A);
    let gone = table.text("DROP TABLE IF EXISTS {}");
    let create = table.text("CREATE TABLE {} (name TEXT PRIMARY KEY, number BIGINT)");
    on.commit("table", writing([of(0, [gone, create])], commit(A, 0)));
    Some(table)
}

impl Table<'_> {
    /// A statement about it.
    fn text(&self, text: &str) -> Statement {
        Statement::new(text.replace("{}", &self.name))
    }

    fn insert(&self, name: &str, number: i64) -> Statement {
        self.text("INSERT INTO {} (name, number) VALUES ($1, $2)").bind(name).bind(number)
    }

    /// These are the rows, and no others.
    #[track_caller]
    fn holds(&self, rows: &[(&str, i64)]) {
        let there = |(name, number): &(&str, i64)| {
            let text = "UPDATE {} SET number = number WHERE name = $1 AND number = $2";
            self.text(text).bind(*name).bind(*number).changes(1)
        };
        let all = self.text("UPDATE {} SET number = number").changes(rows.len() as u64);
        let look = of(0, rows.iter().map(there).chain([all]));
        let length = self.on.length("table");
        let answer = self.on.refusal("table", writing([look], commit(A, length)));
        assert!(answer.is_ok(), "the rows are not {rows:?}: {answer:?}");
    }

    /// A refusal by which nothing has changed.
    #[track_caller]
    fn refuses(&self, name: &str, commit: Commit, rows: &[(&str, i64)]) -> RefusedWrite {
        let (before, text) = (self.on.dump(), format!("{commit:?}"));
        let refused = match self.on.refusal(name, commit) {
            Err(error) if error.kind() == ErrorKind::WriteRefused => error,
            other => panic!("this commit to {name} is refused for its writes: {text}: {other:?}"),
        };
        self.on.is_as(&before, "a commit that was refused has changed something");
        self.holds(rows);
        let why = RefusedWrite::of(&refused).cloned();
        why.unwrap_or_else(|| panic!("the source of {refused:?} is no `RefusedWrite`"))
    }
}

pub(super) fn what_a_step_writes_is_there_with_its_commit(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let writes = [of(0, [table.insert("a", 1), table.insert("b", -2)])];
    on.commit("r", writing(writes, Commit { events: vec![begun()], ..commit(A, 0) }));
    assert_eq!(on.length("r"), 1);
    table.holds(&[("a", 1), ("b", -2)]);
}

pub(super) fn several_steps_write_with_one_commit(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let writes = [of(1, [table.insert("a", 1)]), of(2, [table.insert("b", 2)])];
    on.commit("r", writing(writes, commit(A, 0)));
    table.holds(&[("a", 1), ("b", 2)]);
}

pub(super) fn statements_are_done_in_their_order(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let add = |number: i64| {
        let text = "UPDATE {} SET number = number * 10 + $1 WHERE name = $2";
        table.text(text).bind(number).bind("a").changes(1)
    };
    let writes = [of(0, [table.insert("a", 1), add(2)]), of(1, [add(3), add(4)])];
    on.commit("r", writing(writes, commit(A, 0)));
    table.holds(&[("a", 1234)]);
}

pub(super) fn every_kind_of_parameter_is_kept(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let kinds = table.text(
        "CREATE TABLE {}_kinds (flag BOOLEAN, whole BIGINT, real DOUBLE PRECISION, text TEXT, \
         bytes BYTEA, none TEXT)",
    );
    let gone = table.text("DROP TABLE IF EXISTS {}_kinds");
    let values: [Parameter; 5] = [
        true.into(),
        i64::MIN.into(),
        0.1.into(),
        "it's \"ünï\" 🦀\n".into(),
        vec![0_u8, 255, 10].into(),
    ];
    let bind = |text: &str| {
        let all = values.iter().cloned();
        all.fold(table.text(text), |statement, value| statement.bind(value))
    };
    let insert = bind("INSERT INTO {}_kinds VALUES ($1, $2, $3, $4, $5, $6)").bind(None::<&str>);
    let find = "UPDATE {}_kinds SET text = text WHERE flag = $1 AND whole = $2 AND real = $3 \
                AND text = $4 AND bytes = $5 AND none IS NULL";
    let find = bind(find).changes(1);
    on.commit("r", writing([of(0, [gone, kinds, insert, find])], commit(A, 0)));
}

pub(super) fn parameters_stand_anywhere(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let turned = table.text("INSERT INTO {} (number, name) VALUES ($2, $1)").bind("a").bind(7);
    let twice = table.text("UPDATE {} SET number = number + $1 WHERE number <> $1").bind(5);
    on.commit("r", writing([of(0, [turned, twice.changes(1)])], commit(A, 0)));
    table.holds(&[("a", 12)]);
}

pub(super) fn data_that_does_not_fit_is_refused(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    on.commit("r", writing([of(0, [table.insert("a", 1)])], commit(A, 0)));
    let writes = [of(3, [table.insert("b", 2), table.insert("a", 3)])];
    let bad = writing(writes, Commit { events: vec![begun()], ..commit(A, 0) });
    let refused = table.refuses("r", bad, &[("a", 1)]);
    assert_eq!((refused.step, refused.class), (Some(StepKey::root(3)), ErrorClass::Fatal));
}

pub(super) fn a_refusal_names_the_step_and_undoes_those_before_it(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let number = on.signal("r", "x");
    let writes = [
        of(1, [table.insert("a", 1)]),
        of(2, [table.insert("b", 1), table.insert("b", 2)]),
        of(3, [table.insert("c", 1)]),
    ];
    let answers = vec![(number, Ok(()))];
    let bad = Commit { events: vec![begun(), ready(4)], answers, ..commit(A, 0) };
    let refused = table.refuses("r", writing(writes, bad), &[]);
    assert_eq!(refused.step, Some(StepKey::root(2)));
}

pub(super) fn another_number_of_rows_is_refused(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    on.commit("r", writing([of(0, [table.insert("a", 1), table.insert("b", 1)])], commit(A, 0)));
    let rows = [("a", 1), ("b", 1)];
    for (text, changes) in [
        ("UPDATE {} SET number = 9 WHERE name = 'a'", 2),
        ("UPDATE {} SET number = 9", 1),
        ("UPDATE {} SET number = 9 WHERE name = 'c'", 1),
        ("DELETE FROM {}", 0),
        ("INSERT INTO {} (name) VALUES ('c')", 2),
    ] {
        let write = table.text(text).changes(changes);
        let refused = table.refuses("r", writing([of(0, [write])], commit(A, 0)), &rows);
        assert_eq!(refused.class, ErrorClass::Fatal, "{text}");
    }
    let none = table.text("DELETE FROM {} WHERE name = 'c'").changes(0);
    on.commit("r", writing([of(0, [none])], commit(A, 0)));
}

pub(super) fn a_wrong_statement_is_refused(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    for text in [
        "",
        "nonsense",
        "INSERT INTO {}_is_not_there VALUES (1)",
        "INSERT INTO {} (name, color) VALUES ('a', 1)",
        "INSERT INTO {} (name) VALUES ($1)",
        "INSERT INTO {} (name) VALUES ('a'); INSERT INTO {} (name) VALUES ('b')",
    ] {
        let writes = of(0, [table.insert("x", 1), table.text(text)]);
        let refused = table.refuses("r", writing([writes], commit(A, 0)), &[]);
        assert_eq!(refused.class, ErrorClass::Configuration, "{text}");
    }
    let many = table.insert("a", 1).bind(2);
    let refused = table.refuses("r", writing([of(0, [many])], commit(A, 0)), &[]);
    assert_eq!(refused.class, ErrorClass::Configuration, "a parameter too many");
}

pub(super) fn nothing_a_step_says_ends_the_transaction(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    for text in ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "END"]
    {
        let writes = of(0, [table.insert("a", 1), Statement::new(text), table.insert("b", 1)]);
        let refused = table.refuses("r", writing([writes], commit(A, 0)), &[]);
        assert_eq!(refused.class, ErrorClass::Configuration, "{text}");
    }
    on.commit("r", Commit { events: vec![begun()], ..commit(A, 0) });
}

pub(super) fn the_fence_comes_before_what_would_be_refused(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let good = || [of(0, [table.insert("a", 1)])];
    let bad = || [of(0, [Statement::new("nonsense")])];
    on.refuses("r", writing(good(), commit(A, 1)));
    on.refuses("r", writing(bad(), commit(A, 1)));
    on.refuses("r", writing(good(), commit(B, 0)));
    on.refuses("r", writing(bad(), commit(B, 0)));
    let missing = on.try_commit("missing", writing(good(), commit(A, 0)));
    assert_eq!(missing, Err(ErrorKind::NotFound));
    table.holds(&[]);
}

pub(super) fn after_a_refusal_the_same_commit_without_the_step_is_good(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    let bad = of(2, [table.insert("a", 1), table.insert("a", 2)]);
    let writes = [of(1, [table.insert("b", 1)]), bad];
    let events = || vec![begun()];
    table.refuses("r", writing(writes, Commit { events: events(), ..commit(A, 0) }), &[]);
    let writes = [of(1, [table.insert("b", 1)])];
    on.commit("r", writing(writes, Commit { events: events(), ..commit(A, 0) }));
    table.holds(&[("b", 1)]);
}

pub(super) fn others_do_not_suffer_from_a_refusal(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    let names: Vec<String> = (0..24).map(|number| format!("r{number:02}")).collect();
    names.iter().for_each(|name| on.held(name, A));
    let write = |at: usize| {
        // Every sixth takes a name that is taken.
        let name = if at % 6 == 5 { "r00".to_string() } else { format!("r{at:02}") };
        let writes = [of(0, [table.insert(&format!("own-{at:02}"), 0), table.insert(&name, 1)])];
        writing(writes, Commit { events: vec![begun()], ..commit(A, 0) })
    };
    // All are on their way before the first is waited for.
    let storage = on.storage();
    let sent = names.iter().enumerate().map(|(at, name)| storage.commit(&id(name), write(at)));
    let sent: Vec<_> = sent.collect();
    for (at, reply) in sent.into_iter().enumerate() {
        let answer = wait(on.factory(), reply).map(drop).map_err(|error| error.kind());
        let expected = if at % 6 == 5 { Err(ErrorKind::WriteRefused) } else { Ok(()) };
        assert_eq!(answer, expected, "commit {at}");
        assert_eq!(on.length(&names[at]), u64::from(at % 6 != 5), "commit {at}");
    }
    let good = || (0..24).filter(|at| at % 6 != 5);
    let own: Vec<String> = good().map(|at| format!("own-{at:02}")).collect();
    let rows = own.iter().map(|name| (name.as_str(), 0));
    let rows: Vec<(&str, i64)> = rows.chain(good().map(|at| (names[at].as_str(), 1))).collect();
    table.holds(&rows);
}

pub(super) fn what_only_the_end_can_tell_is_refused(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    on.held("s", A);
    let child = table.text(
        "CREATE TABLE {}_child (name TEXT REFERENCES {} (name) DEFERRABLE INITIALLY DEFERRED)",
    );
    let gone = table.text("DROP TABLE IF EXISTS {}_child");
    on.commit("r", writing([of(0, [gone, child])], commit(A, 0)));
    let child = |name: &str| table.text("INSERT INTO {}_child (name) VALUES ($1)").bind(name);
    let orphan = || writing([of(0, [child("b"), table.insert("a", 1)])], commit(A, 0));
    let refused = table.refuses("r", orphan(), &[]);
    assert_eq!(refused.class, ErrorClass::Fatal);
    // What comes together with it does not suffer.
    let good = writing([of(0, [child("c"), table.insert("c", 1)])], commit(A, 0));
    let storage = on.storage();
    let sent = [storage.commit(&id("r"), orphan()), storage.commit(&id("s"), good)];
    let [bad, good] = sent.map(|reply| wait(on.factory(), reply).map(drop).map_err(|e| e.kind()));
    assert_eq!((bad, good), (Err(ErrorKind::WriteRefused), Ok(())));
    table.holds(&[("c", 1)]);
}

pub(super) fn writes_are_there_after_a_reopening(on: &Trial<'_>) {
    let Some(table) = table(on) else { return };
    on.held("r", A);
    on.commit("r", writing([of(0, [table.insert("a", 1)])], commit(A, 0)));
    if on.reopen() {
        table.holds(&[("a", 1)]);
    }
}

pub(super) fn who_takes_no_writes_says_so(on: &Trial<'_>) {
    if on.storage().takes_writes() {
        return;
    }
    on.held("r", A);
    let before = on.dump();
    let writes = [of(0, [Statement::new("INSERT INTO t VALUES (1)")])];
    let commit = writing(writes, Commit { events: vec![begun()], ..commit(A, 0) });
    assert_eq!(on.try_commit("r", commit), Err(ErrorKind::Configuration));
    on.is_as(&before, "a commit that was refused has changed something");
}

impl Trial<'_> {
    fn refusal(&self, name: &str, commit: Commit) -> Result<(), Error> {
        wait(self.factory(), self.storage().commit(&id(name), commit)).map(drop)
    }
}
