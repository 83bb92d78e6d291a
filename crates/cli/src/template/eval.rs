// SPDX-License-Identifier: Apache-2.0
//! A template filled with a value.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    TemplateError,
    parse::{Expression, Node},
};

struct Scope<'a> {
    root: &'a Value,
    variables: Vec<(String, Value)>,
    text: String,
}

/// Fills `nodes` with `root`.
pub(super) fn render(nodes: &[Node], root: &Value) -> Result<String, TemplateError> {
    let mut scope = Scope {
        root,
        variables: Vec::new(),
        text: String::new(),
    };
    scope.nodes(nodes, root)?;
    Ok(scope.text)
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.text.push_str(text),
            Node::Show(expression) => {
                let value = self.value(expression, dot)?;
                show(&mut self.text, &value);
            }
            Node::Set(name, expression) => {
                let value = self.value(expression, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If {
                test,
                then,
                otherwise,
            } => {
                let taken = truth(&self.value(test, dot)?);
                self.nodes(if taken { then } else { otherwise }, dot)?;
            }
            Node::With {
                test,
                then,
                otherwise,
            } => {
                let value = self.value(test, dot)?;
                if truth(&value) {
                    self.nodes(then, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
            }
            Node::Range {
                over,
                index,
                item,
                each,
                none,
            } => {
                let pairs: Vec<(Value, Value)> = match self.value(over, dot)? {
                    Value::Array(items) => items
                        .into_iter()
                        .enumerate()
                        .map(|(at, value)| (at.into(), value))
                        .collect(),
                    Value::Object(fields) => {
                        let mut pairs: Vec<_> = fields.into_iter().collect();
                        pairs.sort_by(|one, other| one.0.cmp(&other.0));
                        pairs
                            .into_iter()
                            .map(|(key, value)| (Value::String(key), value))
                            .collect()
                    }
                    _ => Vec::new(),
                };
                if pairs.is_empty() {
                    return self.nodes(none, dot);
                }
                for (key, value) in pairs {
                    let outer = self.variables.len();
                    self.variables
                        .extend(index.iter().map(|name| (name.clone(), key.clone())));
                    self.variables
                        .extend(item.iter().map(|name| (name.clone(), value.clone())));
                    self.nodes(each, &value)?;
                    self.variables.truncate(outer);
                }
            }
        }
        Ok(())
    }

    fn value(&self, expression: &Expression, dot: &Value) -> Result<Value, TemplateError> {
        match expression {
            Expression::Field(path) => field(dot, path),
            Expression::Of(inner, path) => field(&self.value(inner, dot)?, path),
            Expression::Variable(name) if name == "$" => Ok(self.root.clone()),
            Expression::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| TemplateError::NoVariable(name.clone())),
            Expression::Text(text) => Ok(Value::String(text.clone())),
            Expression::Number(number) => Ok((*number).into()),
            Expression::Bool(value) => Ok(Value::Bool(*value)),
            Expression::Nil => Ok(Value::Null),
            Expression::Call(name, given) => {
                let given: Vec<Value> = given
                    .iter()
                    .map(|one| self.value(one, dot))
                    .collect::<Result<_, _>>()?;
                function(name, &given)
            }
        }
    }
}

/// Follows a path. The outermost field must exist (a mistyped one is the usual mistake); a deeper one may be missing, as in a map.
fn field(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut at = value;
    for (depth, name) in path.iter().enumerate() {
        let Some(next) = at.get(name) else {
            return match at {
                Value::Object(fields) if depth == 0 && !fields.is_empty() => {
                    Err(TemplateError::NoField {
                        field: name.clone(),
                        known: fields
                            .keys()
                            .map(String::as_str)
                            .collect::<Vec<_>>()
                            .join(" "),
                    })
                }
                _ => Ok(Value::Null),
            };
        };
        at = next;
    }
    Ok(at.clone())
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Writes a value as Go prints it.
fn show(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("<no value>"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(text, "{number}");
        }
        Value::String(value) => text.push_str(value),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                show(text, item);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push_str("map[");
            let mut pairs: Vec<_> = fields.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            for (index, (key, value)) in pairs.into_iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(key);
                text.push(':');
                show(text, value);
            }
            text.push(']');
        }
    }
}

fn shown(value: &Value) -> String {
    let mut text = String::new();
    show(&mut text, value);
    text
}

fn function(name: &str, given: &[Value]) -> Result<Value, TemplateError> {
    let one = |function: &'static str| {
        given
            .last()
            .ok_or_else(|| argument(function, "needs a value".to_owned()))
    };
    Ok(match name {
        "json" => Value::String(one("json")?.to_string()),
        "len" => length(one("len")?)?.into(),
        "upper" => Value::String(shown(one("upper")?).to_uppercase()),
        "lower" => Value::String(shown(one("lower")?).to_lowercase()),
        "title" => Value::String(title(&shown(one("title")?))),
        "not" => Value::Bool(!truth(one("not")?)),
        "and" => given
            .iter()
            .find(|value| !truth(value))
            .or(given.last())
            .cloned()
            .unwrap_or_default(),
        "or" => given
            .iter()
            .find(|value| truth(value))
            .or(given.last())
            .cloned()
            .unwrap_or_default(),
        "eq" => Value::Bool(given.iter().skip(1).any(|other| equal(&given[0], other))),
        "ne" => Value::Bool(given.len() == 2 && !equal(&given[0], &given[1])),
        "lt" | "le" | "gt" | "ge" => Value::Bool(ordered(name, given)?),
        "index" => index(given)?,
        "join" => join(given)?,
        "split" => match given {
            [Value::String(text), Value::String(separator)] => text
                .split(separator.as_str())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
            _ => return Err(argument("split", "needs a text and a separator".to_owned())),
        },
        "print" => Value::String(given.iter().map(shown).collect()),
        "println" => Value::String(given.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::String(printf(given)?),
        _ => return Err(TemplateError::NoFunction(name.to_owned())),
    })
}

fn argument(function: &'static str, problem: String) -> TemplateError {
    TemplateError::Argument { function, problem }
}

fn length(value: &Value) -> Result<usize, TemplateError> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(fields) => Ok(fields.len()),
        Value::Null => Ok(0),
        _ => Err(argument("len", format!("{value} has no length"))),
    }
}

fn title(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn ordered(name: &str, given: &[Value]) -> Result<bool, TemplateError> {
    let order = match given {
        [Value::Number(one), Value::Number(other)] => one.as_f64().partial_cmp(&other.as_f64()),
        [Value::String(one), Value::String(other)] => Some(one.cmp(other)),
        _ => None,
    };
    let order = order
        .ok_or_else(|| argument("lt, le, gt, ge", "need two numbers or two texts".to_owned()))?;
    Ok(match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn index(given: &[Value]) -> Result<Value, TemplateError> {
    let Some((value, keys)) = given.split_first() else {
        return Err(argument("index", "needs a value".to_owned()));
    };
    let mut at = value;
    for key in keys {
        at = match (at, key) {
            (Value::Array(items), Value::Number(number)) => number
                .as_u64()
                .and_then(|index| items.get(usize::try_from(index).ok()?))
                .ok_or_else(|| {
                    argument(
                        "index",
                        format!("{number} is out of range, there are {}", items.len()),
                    )
                })?,
            (Value::Object(fields), Value::String(key)) => fields.get(key).unwrap_or(&Value::Null),
            _ => return Err(argument("index", format!("cannot index {at} with {key}"))),
        };
    }
    Ok(at.clone())
}

fn join(given: &[Value]) -> Result<Value, TemplateError> {
    match given {
        [Value::Array(items), Value::String(separator)] => Ok(Value::String(
            items.iter().map(shown).collect::<Vec<_>>().join(separator),
        )),
        [Value::Null, Value::String(_)] => Ok(Value::String(String::new())),
        _ => Err(argument("join", "needs a list and a separator".to_owned())),
    }
}

/// `%s %d %v %q %x %t %%`, with a width and `-`.
fn printf(given: &[Value]) -> Result<String, TemplateError> {
    /// Wider columns than this are a mistake.
    const WIDTH_MAX: usize = 1024;
    let Some((Value::String(form), values)) = given.split_first() else {
        return Err(argument("printf", "needs a form".to_owned()));
    };
    let mut values = values.iter();
    let mut text = String::new();
    let mut letters = form.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let left = letters.next_if_eq(&'-').is_some();
        let zero = letters.next_if_eq(&'0').is_some();
        let mut width = 0usize;
        while let Some(digit) = letters.next_if(char::is_ascii_digit) {
            width = (width * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(WIDTH_MAX);
        }
        let verb = letters
            .next()
            .ok_or_else(|| argument("printf", "ends with %".to_owned()))?;
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| argument("printf", format!("has no value for %{verb}")))?;
        let cell = match verb {
            's' | 'v' | 'd' | 't' => shown(value),
            'q' => Value::String(shown(value)).to_string(),
            'x' => match value.as_i64() {
                Some(number) => format!("{number:x}"),
                None => shown(value).bytes().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                }),
            },
            _ => return Err(argument("printf", format!("does not serve %{verb}"))),
        };
        let _ = match (left, zero) {
            (true, _) => write!(text, "{cell:<width$}"),
            (false, true) => write!(text, "{cell:0>width$}"),
            (false, false) => write!(text, "{cell:>width$}"),
        };
    }
    Ok(text)
}
