//! What is looked at before minijinja sees a template.
//!
//! - How deep it nests and how long its tags are, as minijinja's parser and compiler recurse.
//! - That it uses nothing by which few words make huge values: texts that are multiplied or joined
//!   by operators, variables that are set, macros.
//! - The paths that it reads, as far as they are written out.

use std::ops::Range;

use super::grammar::{
    Path, before, directly_inside, head_of_for, is_test, is_variable, literal, path, sign,
};
use super::guard::{Guarded, Insert, guard};
use super::tokens::{Kind, Tag, Token};
use super::{DEPTH_MAX, filters};
use crate::error::nearest;
use crate::expr::{Span, SyntaxError};

pub(super) struct Checked<'a> {
    pub(super) guarded: Guarded,
    pub(super) paths: Vec<Path<'a>>,
}

pub(super) fn check<'a>(source: &'a str, tags: &[Tag<'a>]) -> Result<Checked<'a>, SyntaxError> {
    let mut check = Check { inserts: Vec::new(), paths: Vec::new(), blocks: Vec::new() };
    for tag in tags {
        check.tag(tag)?;
    }
    Ok(Checked { guarded: Guarded::new(source, &check.inserts), paths: check.paths })
}

struct Check<'a> {
    inserts: Vec<Insert>,
    paths: Vec<Path<'a>>,
    blocks: Vec<Block<'a>>,
}

/// A block that is open.
struct Block<'a> {
    word: &'a str,
    /// How many levels it nests: an `elif` nests in the `if`.
    levels: usize,
    /// Names that it gives to items.
    bound: Vec<&'a str>,
}

impl<'a> Check<'a> {
    fn tag(&mut self, tag: &Tag<'a>) -> Result<(), SyntaxError> {
        let tokens = &tag.tokens;
        let word = tokens.first().filter(|_| tag.is_block).map_or("", |token| token.text);
        let (list, condition) = if word == "for" { head_of_for(tokens) } else { (0, tokens.len()) };
        if word == "for" {
            self.check_for(tokens, list..condition)?;
        }
        self.names(tokens, list.max(usize::from(tag.is_block))..condition)?;
        if tag.is_block {
            self.block(word, tag.span)?;
        }
        self.check_depth(tag)?;
        if word == "for"
            && let Some(block) = self.blocks.last_mut()
        {
            // The list does not see the items, the condition behind it does.
            block.bound.extend(tokens[1..list].iter().map(|token| token.text));
            block.bound.push("loop");
            self.names(tokens, condition..tokens.len())?;
        }
        Ok(())
    }

    fn names(&mut self, tokens: &[Token<'a>], range: Range<usize>) -> Result<(), SyntaxError> {
        for at in range {
            self.token(tokens, at)?;
            let name = tokens[at].text;
            let is_bound = self.blocks.iter().any(|block| block.bound.contains(&name));
            if is_variable(tokens, at) && !is_bound {
                self.paths.push(path(tokens, at));
            }
        }
        Ok(())
    }

    fn block(&mut self, word: &'a str, span: Span) -> Result<(), SyntaxError> {
        match (word, self.blocks.last_mut()) {
            ("if" | "for", _) => self.blocks.push(Block { word, levels: 1, bound: Vec::new() }),
            ("elif", Some(block)) => block.levels += 1,
            ("else", Some(block)) => block.bound.clear(),
            ("endif" | "endfor", Some(_)) => drop(self.blocks.pop()),
            // minijinja says what is wrong with it.
            ("elif" | "else" | "endif" | "endfor", None) => {}
            _ => {
                let hint = "a template has holes {{ }}, `if`, `for`, `raw` and comments {# #}";
                return Err(SyntaxError::new(span, format!("`{word}` is not known")).hint(hint));
            }
        }
        Ok(())
    }

    fn check_depth(&self, tag: &Tag<'a>) -> Result<(), SyntaxError> {
        let (mut brackets, mut most, mut signs) = (0_usize, 0, 0);
        for (at, token) in tag.tokens.iter().enumerate() {
            let is_prefix = matches!(token.text, "-" | "not");
            signs = if is_prefix { signs + 1 } else { 0 };
            if signs > SIGNS_MAX {
                let message = format!("more than {SIGNS_MAX} signs in a row");
                return Err(SyntaxError::new(token.span(), message));
            }
            match sign(&tag.tokens, at) {
                "(" | "[" | "{" => brackets += 1,
                ")" | "]" | "}" => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            most = most.max(brackets);
        }
        if self.blocks.iter().map(|block| block.levels).sum::<usize>() + most > DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} blocks and brackets inside each other");
            return Err(SyntaxError::new(tag.span, message));
        }
        Ok(())
    }

    fn check_for(&self, tokens: &[Token<'a>], list: Range<usize>) -> Result<(), SyntaxError> {
        if let Some(token) = tokens[..list.start].iter().find(|token| token.text == "steps") {
            return Err(SyntaxError::new(token.span(), "`steps` cannot be the name of an item"));
        }
        if let Some(token) = tokens.last().filter(|token| token.text == "recursive") {
            return Err(SyntaxError::new(token.span(), "loops cannot be recursive"));
        }
        // Lists of lists of the same list would grow with every level, and be compared for ever.
        let is_inner = self.blocks.iter().any(|block| block.word == "for");
        for inside in list.filter(|_| is_inner).filter_map(|at| literal(tokens, at)) {
            if let Some(token) = inside.into_iter().find(|at| is_variable(tokens, *at)) {
                let message = "a `for` inside a `for` cannot go through a list made of names";
                return Err(SyntaxError::new(tokens[token].span(), message));
            }
        }
        Ok(())
    }

    fn token(&mut self, tokens: &[Token<'a>], at: usize) -> Result<(), SyntaxError> {
        let token = tokens[at];
        let wrong = |message: String| SyntaxError::new(token.span(), message);
        if token.kind == Kind::Name && before(tokens, at) == "|" {
            return filters::FILTERS.contains(&token.text).then_some(()).ok_or_else(|| {
                let error = wrong(format!("there is no filter `{}`", token.text));
                match nearest(token.text, filters::FILTERS.iter().copied()) {
                    Some(name) => error.hint(format!("did you mean `{name}`?")),
                    None => error,
                }
            });
        }
        if token.kind == Kind::Name && is_test(tokens, at) && !filters::TESTS.contains(&token.text)
        {
            return Err(wrong(format!("there is no test `{}`", token.text)));
        }
        match token.text {
            "~" if token.kind == Kind::Sign => {
                let hint = "put holes side by side, as in {{ a }}{{ b }}";
                Err(wrong("`~` does not join texts here".into()).hint(hint))
            }
            "*" | "+" if token.kind == Kind::Sign => guard(tokens, at, &mut self.inserts),
            "[" if token.kind == Kind::Sign && directly_inside(tokens, at, ":") > 1 => {
                Err(wrong("a part of a list has a beginning and an end, no step".into()))
            }
            _ => Ok(()),
        }
    }
}

/// `-` and `not` in a row, each of which nests.
const SIGNS_MAX: usize = 4;
