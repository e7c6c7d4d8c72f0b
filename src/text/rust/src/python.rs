//! Values written as Python writes them: `json.dumps` with its options, and `repr` of a float.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write;

/// The options of `json.dumps`.
pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// Asked before each value with the bytes written so far; an error stops the writing.
pub type Spend<'a> = dyn FnMut(usize) -> Result<(), Error> + 'a;

const MAX_DEPTH: usize = 200;

/// `json.dumps(value)`; an error for what JSON cannot say, what is too deep, or what `spend` refuses.
pub fn json_dumps(value: &Value, style: &JsonStyle, spend: &mut Spend) -> Result<String, Error> {
    let mut writer = Writer { style, spend, out: String::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn failed(text: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

struct Writer<'a, 'b> {
    style: &'a JsonStyle,
    spend: &'a mut Spend<'b>,
    out: String,
}

impl Writer<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        (self.spend)(self.out.len())?;
        if depth > MAX_DEPTH {
            return Err(failed("tojson: nested too deeply".into()));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write_number(value, &mut self.out),
            ValueKind::String => {
                write_string(value.as_str().unwrap_or(""), self.style.ensure_ascii, &mut self.out);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.block(value.try_iter()?, depth, ['[', ']'], |writer, item| {
                    writer.value(item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.block(keys.into_iter(), depth, ['{', '}'], |writer, key| {
                    writer.key(key)?;
                    writer.out.push_str(&writer.style.key_separator);
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(failed(format!("tojson: JSON has no {kind}"))),
        }
        Ok(())
    }

    /// Keys of other kinds are written as the text of their value.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        let text = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or("").to_string(),
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
            ValueKind::None => "null".to_string(),
            ValueKind::Number => {
                let mut text = String::new();
                write_number(key, &mut text);
                text
            }
            kind => return Err(failed(format!("tojson: a key of kind {kind}"))),
        };
        write_string(&text, self.style.ensure_ascii, &mut self.out);
        Ok(())
    }

    fn block(
        &mut self,
        items: impl Iterator<Item = Value>,
        depth: usize,
        brackets: [char; 2],
        mut write_item: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(brackets[0]);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out.push_str(&self.style.item_separator);
            }
            empty = false;
            self.new_line(depth + 1);
            write_item(self, &item)?;
        }
        if !empty {
            self.new_line(depth);
        }
        self.out.push(brackets[1]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }
}

fn write_number(value: &Value, out: &mut String) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
    } else {
        let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
        out.push_str(&match number {
            n if n.is_nan() => "NaN".to_string(),
            n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_string(),
            n => float_repr(n),
        });
    }
}

fn write_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && c as u32 > 0x7e) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The shortest digits that read back as the same number, with an exponent where Python has one.
pub fn float_repr(number: f64) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() { "-0.0" } else { "0.0" }.to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}
