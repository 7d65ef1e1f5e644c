//! What a step's statement says, as far as that has to be known before the server sees it: what it
//! begins with, and which parameters it has.

use std::collections::BTreeSet;

/// What a step may say; the server and [`Guests`](super::guests::Guests) see to whose tables.
const MAY: &str = "a step inserts, updates, deletes, merges or truncates, or creates, alters or drops \
                   tables, indexes, views, sequences and triggers; it does not begin or end \
                   transactions, make temporary or unlogged tables, or change settings";

/// Refuses what no step may say, and parameters that are not those that were given.
pub(super) fn check(sql: &str, given: usize) -> Result<(), String> {
    // The protocol would end the text there.
    if sql.contains('\0') {
        return Err("U+0000 cannot be in a statement".into());
    }
    let all: Vec<Token<'_>> = Tokens { rest: sql }.collect();
    if !writes(&all) {
        let reads = word(&all, 0).is_none_or(|word| one_of(word, &READS));
        let why = if reads { "it writes nothing" } else { "it is not allowed" };
        return Err(format!("{why}; {MAY}"));
    }
    if all.iter().any(Token::is_of_settings) {
        return Err(format!("it is about settings; {MAY}"));
    }
    numbers(&all, given)
}

const READS: [&str; 5] = ["SELECT", "VALUES", "TABLE", "SHOW", "EXPLAIN"];
const CHANGES: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "MERGE"];
/// What may stand between the first word and what is made.
const MADE_AS: [&str; 5] = ["OR", "REPLACE", "UNIQUE", "MATERIALIZED", "CONSTRAINT"];
const MADE: [&str; 5] = ["TABLE", "INDEX", "VIEW", "SEQUENCE", "TRIGGER"];

fn one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|other| word.eq_ignore_ascii_case(other))
}

fn word<'a>(all: &[Token<'a>], place: usize) -> Option<&'a str> {
    match all.get(place) {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn writes(all: &[Token<'_>]) -> bool {
    let Some(first) = word(all, 0) else { return false };
    if one_of(first, &["CREATE", "ALTER", "DROP"]) {
        let mut words = (1..).map_while(|place| word(all, place));
        return words.find(|word| !one_of(word, &MADE_AS)).is_some_and(|made| one_of(made, &MADE));
    }
    if one_of(first, &["WITH"]) {
        return verb_behind_with(all).is_some_and(|verb| one_of(verb, &CHANGES));
    }
    one_of(first, &CHANGES) || one_of(first, &["TRUNCATE"])
}

/// What a statement that begins with `WITH` does in the end. What it does in parentheses before does
/// not count: the server would not say how many rows that has changed.
fn verb_behind_with<'a>(all: &[Token<'a>]) -> Option<&'a str> {
    let mut depth = 0_usize;
    let mut before = Token::Other(' ');
    for token in all {
        match token {
            Token::Other('(') => depth += 1,
            Token::Other(')') => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 && is_verb(word) && !before.comes_before_a_name() => {
                return Some(word);
            }
            _ => {}
        }
        before = *token;
    }
    None
}

fn is_verb(word: &str) -> bool {
    one_of(word, &CHANGES) || one_of(word, &READS)
}

fn numbers(all: &[Token<'_>], given: usize) -> Result<(), String> {
    let mut unused: BTreeSet<usize> = (1..=given).collect();
    for token in all {
        let Token::Parameter(digits) = token else { continue };
        match digits.parse() {
            Ok(number) if (1..=given).contains(&number) => unused.remove(&number),
            _ => return Err(format!("it has a parameter ${digits}, and {given} were given")),
        };
    }
    match unused.first() {
        Some(number) => Err(format!("it has no parameter ${number}, which was given")),
        None => Ok(()),
    }
}

/// As PostgreSQL reads it ("Lexical Structure" in its manual), with less detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A word of the language, or a name without quotes.
    Word(&'a str),
    /// A name in quotes.
    Quoted(&'a str),
    /// The digits behind `$`.
    Parameter(&'a str),
    /// Another letter, or a constant.
    Other(char),
}

impl Token<'_> {
    /// Whether it names what changes settings: a function, and a view that calls it.
    fn is_of_settings(&self) -> bool {
        matches!(self, Self::Word(name) | Self::Quoted(name) if one_of(name, &["set_config", "pg_settings"]))
    }

    fn comes_before_a_name(&self) -> bool {
        match self {
            Self::Word(word) => one_of(word, &["WITH", "RECURSIVE", "BY", "SET"]),
            Self::Other(letter) => matches!(letter, ',' | '.'),
            _ => false,
        }
    }
}

/// What is left open at the end the server refuses.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let first = self.rest.chars().next()?;
        Some(match first {
            '\'' => self.constant(false),
            '"' => {
                let (name, rest) = quoted(self.rest, '"', false);
                self.rest = rest;
                Token::Quoted(name)
            }
            '$' => self.dollar(),
            letter if is_of_name(letter) => {
                let word = self.take(is_of_name);
                match word {
                    "e" | "E" if self.rest.starts_with('\'') => self.constant(true),
                    _ if letter.is_ascii_digit() => Token::Other('0'),
                    _ => Token::Word(word),
                }
            }
            other => {
                self.advance(other.len_utf8());
                Token::Other(other)
            }
        })
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '$') || !letter.is_ascii()
}

/// What is in the quotes that a text begins with, and what comes behind. Two quotes are one of it.
fn quoted(text: &str, quote: char, escapes: bool) -> (&str, &str) {
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if escapes && letter == '\\' {
            letters.next();
        } else if letter == quote && letters.next_if(|(_, next)| *next == quote).is_none() {
            return (text.get(1..at).unwrap_or(""), text.get(at + 1..).unwrap_or(""));
        }
    }
    (text.get(1..).unwrap_or(""), "")
}

impl<'a> Tokens<'a> {
    fn advance(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or("");
    }

    fn take(&mut self, is_part: fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|letter| !is_part(letter)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn constant(&mut self, escapes: bool) -> Token<'a> {
        self.rest = quoted(self.rest, '\'', escapes).1;
        Token::Other('\'')
    }

    /// `$1`, or a text in `$$` or `$tag$`.
    fn dollar(&mut self) -> Token<'a> {
        let text = self.rest;
        self.advance(1);
        if self.rest.starts_with(|letter: char| letter.is_ascii_digit()) {
            return Token::Parameter(self.take(|letter| letter.is_ascii_digit()));
        }
        let tag = self.take(|letter| is_of_name(letter) && letter != '$');
        if self.rest.starts_with('$') {
            self.advance(1);
            let tag = text.get(..tag.len() + 2).unwrap_or("$$");
            self.rest = self.rest.split_once(tag).map_or("", |(_, behind)| behind);
        }
        Token::Other('\'')
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with("--") {
                self.rest = self.rest.split_once(['\n', '\r']).map_or("", |(_, behind)| behind);
            } else if self.rest.starts_with("/*") {
                self.skip_comment();
            } else {
                return;
            }
        }
    }

    /// There may be comments in comments.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.advance(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.advance(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.advance(self.rest.chars().next().map_or(0, char::len_utf8));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_may_be_said() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            " \n-- SELECT\n/* a /* b */ c */ update t set a = 1;",
            "delete from t",
            "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
            "TRUNCATE t",
            "WITH a AS (SELECT 1), b (x) AS NOT MATERIALIZED (SELECT ')') INSERT INTO t SELECT 1",
            "WITH RECURSIVE select_1 AS (SELECT (1)) UPDATE t SET a = 1",
            "CREATE TABLE IF NOT EXISTS t (a int)",
            "CREATE UNIQUE INDEX i ON t (a)",
            "CREATE OR REPLACE VIEW v AS SELECT 1",
            "DROP TABLE t",
            "ALTER TABLE t ADD b int",
        ] {
            assert_eq!(check(sql, 0), Ok(()), "{sql}");
        }
    }

    #[test]
    fn what_reads_and_what_is_about_transactions_or_settings_is_refused() {
        for sql in [
            "",
            "  -- INSERT",
            "/* INSERT */",
            "/* open",
            "SELECT 1",
            "(SELECT 1)",
            "WITH a AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM a",
            "WITH insert AS (SELECT 1) SELECT 1",
            "WITH a AS (SELECT 1)",
            "BEGIN",
            "commit",
            "SET search_path = a",
            "CALL f()",
            "DO $$BEGIN END$$",
            "CREATE TEMP TABLE t (a int)",
            "CREATE UNLOGGED TABLE t (a int)",
            "CREATE ROLE r",
            "DROP SCHEMA s",
            "INSERT INTO t SELECT SET_CONFIG('a.b', 'c', false)",
            "INSERT INTO t SELECT pg_catalog.\"set_config\"('a.b', 'c', false)",
            "UPDATE pg_settings SET setting = 1",
            "INSERT INTO t VALUES ('\0')",
        ] {
            assert!(check(sql, 0).is_err(), "{sql}");
        }
        assert_eq!(check("INSERT INTO t VALUES ('set_config')", 0), Ok(()));
    }

    #[test]
    fn parameters_are_counted_where_they_are_some() {
        for (sql, given, good) in [
            ("INSERT INTO t VALUES ($1, $2)", 2, true),
            ("INSERT INTO t VALUES ($2, $1, $1)", 2, true),
            ("INSERT INTO t VALUES ($1)", 2, false),
            ("INSERT INTO t VALUES ($2)", 2, false),
            ("INSERT INTO t VALUES ($2)", 1, false),
            ("INSERT INTO t VALUES ($0)", 0, false),
            ("INSERT INTO t VALUES ($99999999999999999999)", 1, false),
            ("INSERT INTO t VALUES ($1::uuid, a$2, \"$3\", '$4', 'it''s $5')", 1, true),
            (r"INSERT INTO t VALUES ($1, E'\' $2', E'\\', '\', 'a')", 1, true),
            ("INSERT INTO t VALUES ($1, $$ $2 $$, $a$ $$ $3 $a$, $2)", 2, true),
            ("INSERT INTO t VALUES ($1 /* $2 */) -- $3", 1, true),
            ("UPDATE t SET a=$1 WHERE a>$2", 2, true),
            ("INSERT INTO t VALUES ('ü🦀', $1, 'open $2", 1, true),
        ] {
            assert_eq!(check(sql, given).is_ok(), good, "{sql} with {given}");
        }
    }
}
