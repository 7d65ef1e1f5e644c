//! Mistakes that show before anything runs: unknown names, fields that cannot be there, operands of
//! the wrong type.

use super::Aspect;
use super::ast::{Arithmetic, Ast, Compare, Comparison, Path, Root, Segment};
use super::error::TypeError;
use super::functions::Function;
use super::types::Type;
use crate::error::nearest;
use crate::value::Json;

/// What is known of names before anything runs.
pub trait TypeScope {
    /// The type of one of the [`ROOTS`](super::ROOTS); none when it does not exist here.
    fn root(&self, name: &str) -> Option<Type>;

    /// The type of a step's output; none when no such step can be seen from here.
    fn step(&self, id: &str) -> Option<Type>;

    /// The step most like this one that can be seen, for the hint.
    fn suggest(&self, id: &str) -> Option<String>;
}

pub(super) fn check(ast: &Ast, types: &dyn TypeScope) -> Result<Type, Vec<TypeError>> {
    let mut checker = Checker { types, errors: Vec::new(), lenient: 0 };
    let found = checker.infer(ast);
    if checker.errors.is_empty() { Ok(found) } else { Err(checker.errors) }
}

struct Checker<'a> {
    types: &'a dyn TypeScope,
    errors: Vec<TypeError>,
    /// Inside `exists` and `default` a root may be missing.
    lenient: usize,
}

impl Checker<'_> {
    fn infer(&mut self, ast: &Ast) -> Type {
        match ast {
            Ast::Literal(value) => of_literal(value),
            Ast::Percent(_) | Ast::Duration(_) => Type::Number,
            Ast::List(items) => {
                let types: Vec<Type> = items.iter().map(|item| self.infer(item)).collect();
                let same = types.windows(2).all(|pair| pair[0] == pair[1]);
                let first = types.into_iter().next().filter(|_| same);
                Type::List(Box::new(first.unwrap_or(Type::Any)))
            }
            Ast::Path(path) => self.path(path),
            Ast::Call { function, arguments, .. } => self.call(*function, arguments, ast),
            Ast::Not(inner, _) => {
                self.truth(inner);
                Type::Boolean
            }
            Ast::Negate(inner, span) => {
                let found = self.infer(inner);
                if !found.may_be_number() {
                    self.error(TypeError::new(*span, format!("`-` cannot take {found}")));
                }
                Type::Number
            }
            Ast::And(items) | Ast::Or(items) => {
                items.iter().for_each(|item| self.truth(item));
                Type::Boolean
            }
            Ast::Arithmetic { first, rest, span } => {
                let mut total = self.infer(first);
                for (operator, item) in rest {
                    let found = self.infer(item);
                    let numbers = total.may_be_number() && found.may_be_number();
                    let texts =
                        *operator == Arithmetic::Add && total.may_be_text() && found.may_be_text();
                    if !numbers && !texts {
                        let symbol = operator.symbol();
                        let message = format!("`{symbol}` cannot take {total} and {found}");
                        self.error(TypeError::new(*span, message));
                    }
                    total = match (numbers, texts) {
                        (true, true) => Type::Any,
                        (false, true) => Type::Text,
                        _ => Type::Number,
                    };
                }
                total
            }
            Ast::Compare(comparison) => {
                self.compare(comparison);
                Type::Boolean
            }
        }
    }

    fn truth(&mut self, ast: &Ast) {
        let found = self.infer(ast);
        if !matches!(found, Type::Any | Type::Boolean) {
            let message = format!("expected true or false, found {found}");
            self.error(TypeError::new(ast.span(), message));
        }
    }

    fn path(&mut self, path: &Path) -> Type {
        let mut at = match &path.root {
            Root::Name(name) => match self.types.root(name) {
                Some(found) => found,
                None => {
                    if self.lenient == 0 {
                        let message = format!("`{name}` has no meaning here");
                        self.error(TypeError::new(path.span, message));
                    }
                    Type::Any
                }
            },
            Root::Step { id, aspect, .. } => match (self.types.step(id.as_str()), aspect) {
                (Some(_), Aspect::Status) => Type::Text,
                (Some(_), Aspect::Error) => Type::Any,
                (Some(output), Aspect::Output) => output,
                (None, _) => {
                    let error =
                        TypeError::new(path.span, format!("there is no step `{id}` to be seen"));
                    let near = self.types.suggest(id.as_str());
                    let near = near.as_deref().or_else(|| nearest(id.as_str(), super::ROOTS));
                    self.error(match near {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error,
                    });
                    Type::Any
                }
            },
        };
        for segment in &path.segments {
            at = self.segment(at, segment, path);
        }
        at
    }

    fn segment(&mut self, at: Type, segment: &Segment, path: &Path) -> Type {
        match (at, segment) {
            (Type::Object { fields, open }, Segment::Field(name)) => match fields.get(name) {
                Some(found) => found.clone(),
                None if open => Type::Any,
                None => {
                    let error = TypeError::new(path.span, format!("there is no field `{name}`"));
                    self.error(match nearest(name, fields.keys().map(String::as_str)) {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error,
                    });
                    Type::Any
                }
            },
            (Type::List(items), Segment::Index(_)) => *items,
            (Type::Any, _) => Type::Any,
            // Null-safe: a part of nothing is nothing.
            (Type::Null, _) => Type::Null,
            (found, Segment::Field(name)) => {
                let message = format!("{found} has no field `{name}`");
                self.error(TypeError::new(path.span, message));
                Type::Any
            }
            (found, Segment::Index(index)) => {
                let message = format!("{found} has no item {index}");
                self.error(TypeError::new(path.span, message));
                Type::Any
            }
        }
    }

    fn compare(&mut self, comparison: &Comparison) {
        let Comparison { left, operator, right, span, .. } = comparison;
        let (a, b) = (self.infer(left), self.infer(right));
        let percent = matches!(left, Ast::Percent(_)) || matches!(right, Ast::Percent(_));
        let fits = match operator {
            // Comparing different types is legal, and a mistake where it is known beforehand.
            Compare::Equal | Compare::NotEqual => percent || may_be_equal(&a, &b),
            Compare::Less | Compare::LessOrEqual | Compare::Greater | Compare::GreaterOrEqual => {
                (a.may_be_number() && b.may_be_number())
                    || (a.may_be_text() && b.may_be_text())
                    || (percent && (a.may_be_text() || b.may_be_text()))
            }
            Compare::Contains => may_contain(&a, &b),
            Compare::In => may_contain(&b, &a),
            Compare::Matches | Compare::StartsWith | Compare::EndsWith => {
                a.may_be_text() && b.may_be_text()
            }
        };
        if !fits {
            let message = format!("`{}` cannot take {a} and {b}", operator.symbol());
            self.error(TypeError::new(*span, message));
        }
    }

    fn call(&mut self, function: Function, arguments: &[Ast], call: &Ast) -> Type {
        let lenient = usize::from(matches!(function, Function::Exists | Function::Default));
        self.lenient += lenient;
        let types: Vec<Type> = arguments.iter().map(|argument| self.infer(argument)).collect();
        self.lenient -= lenient;
        let first = types.first().unwrap_or(&Type::Any);
        let (wanted, fits, result) = match function {
            Function::Len => {
                let fits =
                    !matches!(first, Type::Null | Type::Boolean | Type::Number | Type::Secret);
                ("a text, a list or an object", fits, Type::Number)
            }
            Function::Lower | Function::Upper => ("a text", first.may_be_text(), Type::Text),
            Function::Time => ("a text", first.may_be_text(), Type::Number),
            Function::Abs | Function::Round => ("a number", first.may_be_number(), Type::Number),
            Function::Number => {
                let fits = first.may_be_number() || first.may_be_text();
                ("a number or a text of one", fits, Type::Number)
            }
            Function::Exists => ("", true, Type::Boolean),
            Function::String => ("anything but a secret", *first != Type::Secret, Type::Text),
            Function::Now => ("", true, Type::Number),
            Function::Min | Function::Max => {
                let list = matches!(types.as_slice(), [Type::List(_)]);
                let fits = list || types.iter().all(Type::may_be_number);
                ("numbers, or one list of them", fits, Type::Any)
            }
            Function::Default => match types.as_slice() {
                [a, b] if a == b => ("", true, a.clone()),
                _ => ("", true, Type::Any),
            },
        };
        if !fits {
            let message = format!("`{}` takes {wanted}, not {first}", function.name());
            self.error(TypeError::new(call.span(), message));
        }
        result
    }

    fn error(&mut self, error: TypeError) {
        self.errors.push(error);
    }
}

/// Null is compared with everything, to see whether it is there.
fn may_be_equal(a: &Type, b: &Type) -> bool {
    let open = |t: &Type| matches!(t, Type::Any | Type::Null);
    let secret = |t: &Type| matches!(t, Type::Secret);
    let same = std::mem::discriminant(a) == std::mem::discriminant(b);
    open(a) || open(b) || (same && !secret(a))
}

fn may_contain(whole: &Type, part: &Type) -> bool {
    match whole {
        Type::Any | Type::List(_) => true,
        Type::Text | Type::Object { .. } => part.may_be_text(),
        Type::Null | Type::Boolean | Type::Number | Type::Secret => false,
    }
}

fn of_literal(value: &Json) -> Type {
    match value {
        Json::Null => Type::Null,
        Json::Bool(_) => Type::Boolean,
        Json::Number(_) => Type::Number,
        Json::String(_) => Type::Text,
        Json::Array(_) => Type::List(Box::new(Type::Any)),
        Json::Object(_) => Type::Object { fields: Default::default(), open: true },
    }
}
