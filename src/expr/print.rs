//! From a tree back to text that parses to the same tree.

use std::fmt::{self, Write};
use std::time::Duration;

use super::Aspect;
use super::ast::{Arithmetic, Ast, Path, Root, Segment};
use crate::value::Json;

pub(super) fn print(ast: &Ast, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = String::new();
    write_ast(ast, 0, &mut text)?;
    f.write_str(&text)
}

/// How tightly each kind of node binds; a looser one inside a tighter one needs parentheses.
fn level(ast: &Ast) -> u8 {
    match ast {
        Ast::Or(_) => 0,
        Ast::And(_) => 1,
        Ast::Not(..) => 2,
        Ast::Compare(_) => 3,
        Ast::Arithmetic { rest, .. } => match rest.first() {
            Some((operator, _)) if operator.is_product() => 5,
            _ => 4,
        },
        Ast::Negate(..) => 6,
        _ => 7,
    }
}

fn write_ast(ast: &Ast, least: u8, out: &mut String) -> fmt::Result {
    if level(ast) < least {
        out.push('(');
        write_ast(ast, 0, out)?;
        out.push(')');
        return Ok(());
    }
    match ast {
        Ast::Literal(value) => write_literal(value, out),
        Ast::Percent(number) => write!(out, "{number}%"),
        Ast::Duration(seconds) => {
            let length = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
            out.push_str(&crate::time::format_duration(length));
            Ok(())
        }
        Ast::List(items) => {
            out.push('[');
            write_items(items, out)?;
            out.push(']');
            Ok(())
        }
        Ast::Path(path) => write_path(path, out),
        Ast::Call { function, arguments, .. } => {
            out.push_str(function.name());
            out.push('(');
            write_items(arguments, out)?;
            out.push(')');
            Ok(())
        }
        Ast::Not(inner, _) => {
            out.push_str("not ");
            write_ast(inner, 2, out)
        }
        Ast::Negate(inner, _) => {
            out.push('-');
            write_ast(inner, 6, out)
        }
        Ast::And(items) => write_joined(items, " and ", 2, out),
        Ast::Or(items) => write_joined(items, " or ", 1, out),
        Ast::Arithmetic { first, rest, .. } => write_arithmetic(first, rest, level(ast), out),
        Ast::Compare(comparison) => {
            write_ast(&comparison.left, 4, out)?;
            write!(out, " {} ", comparison.operator.symbol())?;
            write_ast(&comparison.right, 4, out)
        }
    }
}

fn write_arithmetic(
    first: &Ast,
    rest: &[(Arithmetic, Ast)],
    level: u8,
    out: &mut String,
) -> fmt::Result {
    write_ast(first, level + 1, out)?;
    for (operator, item) in rest {
        write!(out, " {} ", operator.symbol())?;
        write_ast(item, level + 1, out)?;
    }
    Ok(())
}

fn write_joined(items: &[Ast], between: &str, least: u8, out: &mut String) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(between);
        }
        write_ast(item, least, out)?;
    }
    Ok(())
}

fn write_items(items: &[Ast], out: &mut String) -> fmt::Result {
    write_joined(items, ", ", 0, out)
}

fn write_literal(value: &Json, out: &mut String) -> fmt::Result {
    match value {
        Json::String(text) => write_text(text, out),
        other => write!(out, "{other}"),
    }
}

fn write_text(text: &str, out: &mut String) -> fmt::Result {
    out.push('\'');
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('\'');
    Ok(())
}

fn write_path(path: &Path, out: &mut String) -> fmt::Result {
    match &path.root {
        Root::Name(name) => out.push_str(name),
        Root::Step { id, bare: true, .. } => out.push_str(id.as_str()),
        Root::Step { id, aspect, .. } => {
            out.push_str("steps");
            write_field(id.as_str(), out)?;
            out.push_str(match aspect {
                Aspect::Output => ".output",
                Aspect::Status => ".status",
                Aspect::Error => ".error",
            });
        }
    }
    for segment in &path.segments {
        match segment {
            Segment::Field(name) => write_field(name, out)?,
            Segment::Index(index) => write!(out, "[{index}]")?,
        }
    }
    Ok(())
}

fn write_field(name: &str, out: &mut String) -> fmt::Result {
    let mut letters = name.chars();
    let word = letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && letters.all(|c| c.is_alphanumeric() || c == '_');
    if word {
        write!(out, ".{name}")
    } else {
        out.push('[');
        write_text(name, out)?;
        out.push(']');
        Ok(())
    }
}
