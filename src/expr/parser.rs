//! From words to a tree: precedence climbing in one function, which keeps the stack small.

use regex::{Regex, RegexBuilder};

use super::ast::{Arithmetic, Ast, Compare, Comparison, Path, Root, Segment};
use super::error::{Span, SyntaxError};
use super::functions::Function;
use super::lexer::{Token, tokens};
use super::{Aspect, DEPTH_MAX, ROOTS};
use crate::error::nearest;
use crate::value::Json;

/// Bytes of a compiled pattern; the engine is linear in the text whatever the pattern.
const REGEX_BYTES_MAX: usize = 256 * 1024;

pub(super) fn parse(text: &str) -> Result<Ast, SyntaxError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let ast = parser.binary(OR)?;
    match parser.peek() {
        Token::End => Ok(ast),
        other => {
            let message = format!("expected an operator or the end, found {}", other.describe());
            Err(SyntaxError::new(parser.span(), message))
        }
    }
}

pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build().map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("the pattern is not valid: {last}")
    })
}

struct Parser {
    /// Ends with [`Token::End`], which is never taken.
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
}

impl Parser {
    /// An expression whose operators all bind at least this tightly.
    fn binary(&mut self, least: u8) -> Result<Ast, SyntaxError> {
        let mut left = self.prefix(least)?;
        while let Some(level) = level(self.operator()).filter(|level| *level >= least) {
            left = match level {
                OR | AND => self.logical(left, level)?,
                COMPARISON => self.comparison(left)?,
                _ => self.arithmetic(left, level)?,
            };
        }
        Ok(left)
    }

    fn prefix(&mut self, least: u8) -> Result<Ast, SyntaxError> {
        let span = self.span();
        match self.operator() {
            "not" | "!" if least <= NOT => {
                self.at += 1;
                Ok(Ast::Not(Box::new(self.nested(span, NOT)?), span))
            }
            "-" => {
                self.at += 1;
                Ok(Ast::Negate(Box::new(self.nested(span, NEGATION)?), span))
            }
            _ => self.primary(),
        }
    }

    fn logical(&mut self, first: Ast, own: u8) -> Result<Ast, SyntaxError> {
        let mut items = vec![first];
        while level(self.operator()) == Some(own) {
            self.at += 1;
            items.push(self.binary(own + 1)?);
        }
        Ok(if own == AND { Ast::And(items) } else { Ast::Or(items) })
    }

    fn comparison(&mut self, left: Ast) -> Result<Ast, SyntaxError> {
        let span = self.span();
        let Some(operator) = compare(self.operator()) else {
            return Ok(left);
        };
        self.at += 1;
        let right = self.binary(COMPARISON + 1)?;
        if compare(self.operator()).is_some() {
            let message = "comparisons cannot be chained";
            return Err(SyntaxError::new(self.span(), message).hint("join them with `and`"));
        }
        let regex = match (operator, &right) {
            (Compare::Matches, Ast::Literal(Json::String(pattern))) => {
                Some(regex(pattern).map_err(|message| SyntaxError::new(span, message))?)
            }
            _ => None,
        };
        Ok(Ast::Compare(Box::new(Comparison { left, operator, right, span, regex })))
    }

    fn arithmetic(&mut self, first: Ast, own: u8) -> Result<Ast, SyntaxError> {
        let (mut rest, span) = (Vec::new(), self.span());
        while let Some(operator) =
            arithmetic(self.operator()).filter(|_| level(self.operator()) == Some(own))
        {
            self.at += 1;
            rest.push((operator, self.binary(own + 1)?));
        }
        Ok(Ast::Arithmetic { first: Box::new(first), rest, span })
    }

    fn primary(&mut self) -> Result<Ast, SyntaxError> {
        let (token, span) = self.next();
        match token {
            Token::Number(number) => Ok(Ast::Literal(number)),
            Token::Text(text) => Ok(Ast::Literal(text.into())),
            Token::Percent(number) => Ok(Ast::Percent(number)),
            Token::Duration(seconds) => Ok(Ast::Duration(seconds)),
            Token::Symbol("(") => {
                let inner = self.nested(span, OR)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => Ok(Ast::List(self.items(span, "]")?)),
            Token::Word(word) => match word.as_str() {
                "true" => Ok(Ast::Literal(true.into())),
                "false" => Ok(Ast::Literal(false.into())),
                "null" => Ok(Ast::Literal(Json::Null)),
                _ if is_operator(&word) => Err(expected_value(&Token::Word(word), span)),
                _ if *self.peek() == Token::Symbol("(") => self.call(&word, span),
                _ => self.path(&word, span),
            },
            other => Err(expected_value(&other, span)),
        }
    }

    fn call(&mut self, name: &str, span: Span) -> Result<Ast, SyntaxError> {
        let known = Function::ALL.iter().find(|(known, ..)| *known == name);
        let Some((_, function, least, most)) = known else {
            let error = SyntaxError::new(span, format!("there is no function `{name}`"));
            return Err(match nearest(name, Function::ALL.iter().map(|(known, ..)| *known)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        };
        self.at += 1;
        let arguments = self.items(span, ")")?;
        let span = span.to(self.tokens[self.at - 1].1);
        if arguments.len() < *least || arguments.len() > *most {
            let message = format!(
                "`{name}` takes {least}{} arguments, not {}",
                if most > least { " or more" } else { "" },
                arguments.len()
            );
            return Err(SyntaxError::new(span, message));
        }
        if *function == Function::Exists && !matches!(arguments[0], Ast::Path(_)) {
            let message = "`exists` takes a path, as in exists(input.name)";
            return Err(SyntaxError::new(span, message));
        }
        Ok(Ast::Call { function: *function, arguments, span })
    }

    /// Expressions up to the closing symbol, which is taken too.
    fn items(&mut self, span: Span, close: &'static str) -> Result<Vec<Ast>, SyntaxError> {
        let mut items = Vec::new();
        while *self.peek() != Token::Symbol(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(self.nested(span, OR)?);
        }
        self.at += 1;
        Ok(items)
    }

    fn path(&mut self, first: &str, span: Span) -> Result<Ast, SyntaxError> {
        let mut segments = self.segments()?;
        let end = self.tokens[self.at - 1].1;
        let span = span.to(end);
        let root = match ROOTS.iter().find(|root| **root == first) {
            Some(root) => Root::Name(root),
            None if first == "steps" => step_root(&mut segments, span)?,
            None => Root::Step { id: first.into(), aspect: Aspect::Output, bare: true },
        };
        Ok(Ast::Path(Path { root, segments, span }))
    }

    fn segments(&mut self) -> Result<Vec<Segment>, SyntaxError> {
        let mut segments = Vec::new();
        loop {
            if *self.peek() == Token::Symbol(".") {
                self.at += 1;
                match self.next() {
                    (Token::Word(word), _) => segments.push(Segment::Field(word)),
                    (other, span) => {
                        let message = format!("expected a name, found {}", other.describe());
                        let hint = "other names go in brackets, as in a[\"b-c\"]";
                        return Err(SyntaxError::new(span, message).hint(hint));
                    }
                }
            } else if *self.peek() == Token::Symbol("[") {
                self.at += 1;
                match self.next() {
                    (Token::Text(text), _) => segments.push(Segment::Field(text)),
                    (Token::Number(number), _) if number.as_u64().is_some() => {
                        let index = number.as_u64().and_then(|index| usize::try_from(index).ok());
                        segments.push(Segment::Index(index.unwrap_or(usize::MAX)));
                    }
                    (other, span) => {
                        let found = other.describe();
                        let message = format!("expected a text or a whole number, found {found}");
                        return Err(SyntaxError::new(span, message));
                    }
                }
                self.expect("]")?;
            } else {
                return Ok(segments);
            }
        }
    }

    fn nested(&mut self, span: Span, least: u8) -> Result<Ast, SyntaxError> {
        if self.depth >= DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} levels inside each other");
            return Err(SyntaxError::new(span, message));
        }
        self.depth += 1;
        let ast = self.binary(least)?;
        self.depth -= 1;
        Ok(ast)
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), SyntaxError> {
        if *self.peek() == Token::Symbol(symbol) {
            self.at += 1;
            return Ok(());
        }
        let message = format!("expected `{symbol}`, found {}", self.peek().describe());
        Err(SyntaxError::new(self.span(), message))
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// The next token as an operator's text; empty for anything else.
    fn operator(&self) -> &str {
        match self.peek() {
            Token::Symbol(symbol) => symbol,
            Token::Word(word) => word,
            _ => "",
        }
    }

    fn span(&self) -> Span {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> (Token, Span) {
        let taken = self.tokens[self.at].clone();
        if taken.0 != Token::End {
            self.at += 1;
        }
        taken
    }
}

/// Takes the id and the aspect from the segments behind `steps`.
fn step_root(segments: &mut Vec<Segment>, span: Span) -> Result<Root, SyntaxError> {
    let usage = || {
        SyntaxError::new(span, "`steps` needs a step and what of it is read")
            .hint("as in steps.build.output, steps.build.status or steps.build.error")
    };
    let mut taken = segments.drain(..segments.len().min(2));
    let (Some(Segment::Field(id)), Some(Segment::Field(aspect))) = (taken.next(), taken.next())
    else {
        return Err(usage());
    };
    let aspect = match aspect.as_str() {
        "output" => Aspect::Output,
        "status" => Aspect::Status,
        "error" => Aspect::Error,
        _ => return Err(usage()),
    };
    Ok(Root::Step { id: id.into(), aspect, bare: false })
}

fn expected_value(found: &Token, span: Span) -> SyntaxError {
    SyntaxError::new(span, format!("expected a value, found {}", found.describe()))
}

/// How tightly operators bind, loosest first; `not` and the sign stand before their operand.
const OR: u8 = 0;
const AND: u8 = 1;
const NOT: u8 = 2;
const COMPARISON: u8 = 3;
const SUM: u8 = 4;
const PRODUCT: u8 = 5;
const NEGATION: u8 = 6;

fn level(operator: &str) -> Option<u8> {
    match operator {
        "or" | "||" => Some(OR),
        "and" | "&&" => Some(AND),
        "+" | "-" => Some(SUM),
        "*" | "/" | "mod" => Some(PRODUCT),
        other => compare(other).map(|_| COMPARISON),
    }
}

fn arithmetic(operator: &str) -> Option<Arithmetic> {
    Some(match operator {
        "+" => Arithmetic::Add,
        "-" => Arithmetic::Subtract,
        "*" => Arithmetic::Multiply,
        "/" => Arithmetic::Divide,
        "mod" => Arithmetic::Remainder,
        _ => return None,
    })
}

fn is_operator(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "mod") || compare(word).is_some()
}

fn compare(word: &str) -> Option<Compare> {
    Some(match word {
        "==" => Compare::Equal,
        "!=" => Compare::NotEqual,
        "<" => Compare::Less,
        "<=" => Compare::LessOrEqual,
        ">" => Compare::Greater,
        ">=" => Compare::GreaterOrEqual,
        "in" => Compare::In,
        "contains" => Compare::Contains,
        "matches" => Compare::Matches,
        "startsWith" => Compare::StartsWith,
        "endsWith" => Compare::EndsWith,
        _ => return None,
    })
}
