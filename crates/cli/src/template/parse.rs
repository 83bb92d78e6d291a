// SPDX-License-Identifier: Apache-2.0
//! The pieces of a template put together: blocks, pipes, calls.

use super::{
    TemplateError,
    lex::{Piece, Word},
};

/// Blocks and parentheses nested deeper than this are refused.
const DEPTH_MAX: usize = 32;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Show(Expression),
    Set(String, Expression),
    If {
        test: Expression,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        test: Expression,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Expression,
        index: Option<String>,
        item: Option<String>,
        each: Vec<Node>,
        none: Vec<Node>,
    },
}

/// Something with a value.
#[derive(Debug)]
pub(super) enum Expression {
    /// A path from the current value.
    Field(Vec<String>),
    /// A path from something else.
    Of(Box<Expression>, Vec<String>),
    Variable(String),
    Text(String),
    Number(i64),
    Bool(bool),
    Nil,
    Call(String, Vec<Expression>),
}

struct Reader {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

/// Why a list of nodes ended.
enum Stop {
    End,
    Else(Vec<Word>),
    Finished,
}

/// Puts pieces together.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let mut reader = Reader {
        pieces: pieces.into_iter(),
        depth: 0,
    };
    match reader.nodes()? {
        (nodes, Stop::Finished) => Ok(nodes),
        (_, Stop::End) => Err(TemplateError::Alone("end".into())),
        (_, Stop::Else(_)) => Err(TemplateError::Alone("else".into())),
    }
}

/// Returns the heading line of a table template: each shown field by its heading, text as it is.
pub(super) fn headings(nodes: &[Node], heading: &impl Fn(&str) -> String) -> String {
    nodes
        .iter()
        .map(|node| match node {
            Node::Text(text) => text.clone(),
            Node::Show(expression) => last_field(expression).map(heading).unwrap_or_default(),
            _ => String::new(),
        })
        .collect()
}

fn last_field(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::Field(path) | Expression::Of(_, path) => path.last().map(String::as_str),
        Expression::Call(_, given) => given.iter().find_map(last_field),
        _ => None,
    }
}

impl Reader {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(TemplateError::TooDeep(DEPTH_MAX));
        }
        let mut nodes = Vec::new();
        let stop = loop {
            let words = match self.pieces.next() {
                None => break Stop::Finished,
                Some(Piece::Text(text)) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Some(Piece::Action(words)) => words,
            };
            match words.split_first() {
                None => {}
                Some((Word::Name(name), rest)) => match name.as_str() {
                    "end" => break Stop::End,
                    "else" => break Stop::Else(rest.to_vec()),
                    "if" => nodes.push(self.branch("if", rest)?),
                    "with" => nodes.push(self.branch("with", rest)?),
                    "range" => nodes.push(self.range(rest)?),
                    _ => nodes.push(Node::Show(expression(&words)?)),
                },
                Some((Word::Variable(name), [Word::Assign, rest @ ..])) => {
                    nodes.push(Node::Set(name.clone(), expression(rest)?));
                }
                Some(_) => nodes.push(Node::Show(expression(&words)?)),
            }
        };
        self.depth -= 1;
        Ok((nodes, stop))
    }

    fn branch(&mut self, keyword: &'static str, words: &[Word]) -> Result<Node, TemplateError> {
        let test = expression(words)?;
        let (then, stop) = self.nodes()?;
        let otherwise = self.otherwise(keyword, stop)?;
        Ok(if keyword == "if" {
            Node::If {
                test,
                then,
                otherwise,
            }
        } else {
            Node::With {
                test,
                then,
                otherwise,
            }
        })
    }

    fn otherwise(&mut self, keyword: &'static str, stop: Stop) -> Result<Vec<Node>, TemplateError> {
        match stop {
            Stop::End => Ok(Vec::new()),
            Stop::Finished => Err(TemplateError::NoEnd(keyword)),
            Stop::Else(words) => match words.split_first() {
                None => match self.nodes()? {
                    (nodes, Stop::End) => Ok(nodes),
                    (_, Stop::Finished) => Err(TemplateError::NoEnd(keyword)),
                    (_, Stop::Else(_)) => Err(TemplateError::Alone("else".into())),
                },
                // `else if` shares the `end` of the whole chain.
                Some((Word::Name(name), rest)) if name == "if" => {
                    Ok(vec![self.branch("if", rest)?])
                }
                Some(_) => Err(TemplateError::Alone("else".into())),
            },
        }
    }

    fn range(&mut self, words: &[Word]) -> Result<Node, TemplateError> {
        let (index, item, words) = match words {
            [
                Word::Variable(i),
                Word::Comma,
                Word::Variable(x),
                Word::Assign,
                rest @ ..,
            ] => (Some(i.clone()), Some(x.clone()), rest),
            [Word::Variable(x), Word::Assign, rest @ ..] => (None, Some(x.clone()), rest),
            _ => (None, None, words),
        };
        let over = expression(words)?;
        let (each, stop) = self.nodes()?;
        let none = self.otherwise("range", stop)?;
        Ok(Node::Range {
            over,
            index,
            item,
            each,
            none,
        })
    }
}

/// Reads a pipe: each call gets the value before it as its last argument.
fn expression(words: &[Word]) -> Result<Expression, TemplateError> {
    let mut position = 0;
    let read = pipe(words, &mut position, 0)?;
    match words.get(position) {
        None => Ok(read),
        Some(word) => Err(TemplateError::Unexpected(spell(word))),
    }
}

fn pipe(words: &[Word], position: &mut usize, depth: usize) -> Result<Expression, TemplateError> {
    if depth > DEPTH_MAX {
        return Err(TemplateError::TooDeep(DEPTH_MAX));
    }
    let mut value = call(words, position, None, depth)?;
    while words.get(*position) == Some(&Word::Pipe) {
        *position += 1;
        value = call(words, position, Some(value), depth)?;
    }
    Ok(value)
}

fn call(
    words: &[Word],
    position: &mut usize,
    piped: Option<Expression>,
    depth: usize,
) -> Result<Expression, TemplateError> {
    if let Some(Word::Name(name)) = words.get(*position) {
        *position += 1;
        match name.as_str() {
            "true" => return Ok(Expression::Bool(true)),
            "false" => return Ok(Expression::Bool(false)),
            "nil" => return Ok(Expression::Nil),
            _ => {}
        }
        let mut given = Vec::new();
        while !matches!(words.get(*position), None | Some(Word::Pipe | Word::Close)) {
            given.push(operand(words, position, depth)?);
        }
        given.extend(piped);
        return Ok(Expression::Call(name.clone(), given));
    }
    match piped {
        None => operand(words, position, depth),
        Some(_) => Err(TemplateError::Unexpected("|".into())),
    }
}

fn operand(
    words: &[Word],
    position: &mut usize,
    depth: usize,
) -> Result<Expression, TemplateError> {
    let word = words
        .get(*position)
        .ok_or_else(|| TemplateError::Unexpected("}}".into()))?;
    *position += 1;
    let value = match word {
        Word::Field(path) => return Ok(Expression::Field(path.clone())),
        Word::Text(text) => Expression::Text(text.clone()),
        Word::Number(number) => Expression::Number(*number),
        Word::Variable(name) => Expression::Variable(name.clone()),
        Word::Name(name) => match name.as_str() {
            "true" => Expression::Bool(true),
            "false" => Expression::Bool(false),
            "nil" => Expression::Nil,
            _ => Expression::Call(name.clone(), Vec::new()),
        },
        Word::Open => {
            let inner = pipe(words, position, depth + 1)?;
            if words.get(*position) != Some(&Word::Close) {
                return Err(TemplateError::Unexpected("}}".into()));
            }
            *position += 1;
            inner
        }
        Word::Pipe | Word::Close | Word::Assign | Word::Comma => {
            return Err(TemplateError::Unexpected(spell(word)));
        }
    };
    // `$x.A` and `(index .X 0).A`: a path from the value just read.
    let carries = matches!(word, Word::Variable(_) | Word::Open);
    match words.get(*position) {
        Some(Word::Field(path)) if carries && !path.is_empty() => {
            *position += 1;
            Ok(Expression::Of(Box::new(value), path.clone()))
        }
        _ => Ok(value),
    }
}

fn spell(word: &Word) -> String {
    match word {
        Word::Field(path) => format!(".{}", path.join(".")),
        Word::Variable(name) | Word::Name(name) | Word::Text(name) => name.clone(),
        Word::Number(number) => number.to_string(),
        Word::Pipe => "|".into(),
        Word::Open => "(".into(),
        Word::Close => ")".into(),
        Word::Assign => ":=".into(),
        Word::Comma => ",".into(),
    }
}
