//! Values written as Python writes them: `json.dumps` with its options, and `repr` of a float.

use minijinja::value::{Value, ValueKind};
use std::fmt::Write;

/// The options of `json.dumps`.
pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
    /// The longest text that may come out, in bytes.
    pub max_bytes: usize,
}

const MAX_DEPTH: usize = 200;

/// `json.dumps(value)`; an error text for what JSON cannot say or what is too deep or too long.
pub fn json_dumps(value: &Value, style: &JsonStyle) -> Result<String, String> {
    let mut out = String::new();
    write_value(value, style, 0, &mut out)?;
    Ok(out)
}

fn write_value(value: &Value, style: &JsonStyle, depth: usize, out: &mut String) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("tojson: nested too deeply".into());
    }
    if out.len() > style.max_bytes {
        return Err("tojson: the text is too long".into());
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::String => write_string(value.as_str().unwrap_or(""), style.ensure_ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().map_err(|e| e.to_string())?.collect();
            write_block(items, style, depth, out, ['[', ']'], |item, out| {
                write_value(item, style, depth + 1, out)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter().map_err(|e| e.to_string())?.collect();
            if style.sort_keys {
                keys.sort();
            }
            write_block(keys, style, depth, out, ['{', '}'], |key, out| {
                match key.kind() {
                    ValueKind::String => write_string(key.as_str().unwrap_or(""), style.ensure_ascii, out),
                    ValueKind::Bool => out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
                    ValueKind::None => out.push_str("\"null\""),
                    ValueKind::Number => {
                        out.push('"');
                        write_number(key, out);
                        out.push('"');
                    }
                    kind => return Err(format!("tojson: a key of kind {kind}")),
                }
                out.push_str(&style.key_separator);
                let item = value.get_item(key).map_err(|e| e.to_string())?;
                write_value(&item, style, depth + 1, out)
            })?;
        }
        kind => return Err(format!("tojson: a value of kind {kind} cannot be written as JSON")),
    }
    Ok(())
}

fn write_block(
    items: Vec<Value>,
    style: &JsonStyle,
    depth: usize,
    out: &mut String,
    brackets: [char; 2],
    mut write_item: impl FnMut(&Value, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    out.push(brackets[0]);
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    };
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(depth + 1, out);
        write_item(item, out)?;
    }
    if !items.is_empty() {
        new_line(depth, out);
    }
    out.push(brackets[1]);
    Ok(())
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
