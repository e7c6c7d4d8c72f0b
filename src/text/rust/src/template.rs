//! Chat templates in the dialect that transformers renders: Jinja with trimmed blocks, Python's string and
//! dict methods, `tojson` as `json.dumps`, `raise_exception`, `strftime_now`, loop controls, and the
//! `generation` tag, which marks text without changing it.

use crate::error::{Outcome, bad_file, internal, usage};
use crate::ffi::{DateTime, RenderRaw};
use crate::fuel;
use crate::list_methods;
use crate::python::{JsonStyle, float_repr, json_dumps};
use crate::strftime::strftime;
use minijinja::machinery::{eval, get_compiled_template, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use std::collections::BTreeMap;
use std::fmt;

const MAX_SOURCE: usize = 1 << 19;
const MAX_OUTPUT: usize = 256 << 20;
/// Work units of one rendering: a unit is an instruction, an item or 64 bytes; more for longer input.
const BASE_FUEL: u64 = 2_000_000;
const FUEL_PER_INPUT_BYTE: u64 = 16;
const MAX_FUEL: u64 = 32_000_000;
const MAX_RECURSION: usize = 120;
const NAME: &str = "chat";

pub struct Template {
    env: Environment<'static>,
}

/// What the template itself refuses by `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl Template {
    pub fn compile(source: &[u8]) -> Outcome<Template> {
        if source.len() > MAX_SOURCE {
            return Err(bad_file(format_args!("{} bytes, at most {MAX_SOURCE}", source.len())));
        }
        let source = std::str::from_utf8(source).map_err(|_| bad_file("not UTF-8"))?;
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(internal)?;
        let mut env = Environment::new();
        env.set_syntax(syntax);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_recursion_limit(MAX_RECURSION);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_formatter(print_like_python);
        env.add_filter("tojson", tojson);
        // Not Jinja's; joined maps nest, and a lookup costs two to the power of their depth.
        env.remove_filter("chain");
        env.add_function("raise_exception", raise_exception);
        env.add_test("sequence", |v: &Value| {
            v.is_undefined() || matches!(v.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
        });
        env.add_test("iterable", |v: &Value| {
            v.is_undefined() || v.kind() == ValueKind::String || v.try_iter().is_ok()
        });
        let source = list_methods::as_assignments(&neutral_generation_tags(source));
        env.add_template_owned(NAME, source)
            .map_err(|e| bad_file(describe(&e)))?;
        Ok(Template { env })
    }

    pub fn render_raw(&self, raw: &RenderRaw) -> Outcome<Vec<u8>> {
        let json = |name: &str, bytes: &[u8]| -> Outcome<Value> {
            if bytes.is_empty() {
                return Ok(Value::from(()));
            }
            serde_json::from_slice(bytes).map_err(|e| usage(format_args!("{name}: {e}")))
        };
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        let mut set = |name: &str, value: Value| variables.insert(name.to_string(), value);
        set("bos_token", text(raw.bos));
        set("eos_token", text(raw.eos));
        let now = copy(&raw.now);
        set("strftime_now", Value::from_function(move |format: &str| strftime(format, &now)));
        let kwargs = json("kwargs", raw.kwargs)?;
        if !kwargs.is_none() {
            if kwargs.kind() != ValueKind::Map {
                return Err(usage("kwargs: wanted a JSON object"));
            }
            for key in kwargs.try_iter().map_err(usage)? {
                let value = kwargs.get_item(&key).map_err(usage)?;
                set(key.as_str().unwrap_or(""), value);
            }
        }
        let messages = json("messages", raw.messages)?;
        if messages.kind() != ValueKind::Seq {
            return Err(usage("messages: wanted a JSON array"));
        }
        set("messages", messages);
        set("tools", json("tools", raw.tools)?);
        set("documents", json("documents", raw.documents)?);
        set("add_generation_prompt", Value::from(raw.add_generation_prompt));

        for (name, function) in fuel::functions() {
            set(name, function);
        }

        let input = raw.messages.len() + raw.tools.len() + raw.documents.len() + raw.kwargs.len();
        let mut env = self.env.clone();
        env.set_fuel(Some((BASE_FUEL + FUEL_PER_INPUT_BYTE * input as u64).min(MAX_FUEL)));
        let template = env.get_template(NAME).map_err(internal)?;
        let compiled = get_compiled_template(&template);
        let program = fuel::guarded(&compiled.instructions);
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        let done = eval(&env, &program, variables.into(), &compiled.blocks, &mut out, AutoEscape::None);
        match done.map(drop) {
            Ok(()) if text.len() > MAX_OUTPUT => Err(bad_file(format_args!(
                "the template wrote {} bytes, at most {MAX_OUTPUT}",
                text.len()
            ))),
            Ok(()) => Ok(text.into_bytes()),
            Err(e) => Err(match raised(&e) {
                Some(message) => usage(format_args!("the chat template refuses: {message}")),
                None => bad_file(describe(&e)),
            }),
        }
    }
}

fn copy(t: &DateTime) -> DateTime {
    DateTime { ..*t }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn raised(error: &Error) -> Option<&str> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(raised) = cause.downcast_ref::<Raised>() {
            return Some(&raised.0);
        }
        next = cause.source();
    }
    None
}

/// One line: what, the line of the template, and the causes.
fn describe(error: &Error) -> String {
    let mut out = String::new();
    if let Some(line) = error.line() {
        out = format!("line {line}: ");
    }
    out += &error.kind().to_string();
    if let Some(detail) = error.detail() {
        out += &format!(": {detail}");
    }
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        out += &format!(" ({cause})");
        next = cause.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        out += " (the template runs too long or builds too much text)";
    }
    out.replace('\n', " ")
}

fn tojson(state: &State, value: &Value, ensure: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let failed = |text: String| Error::new(ErrorKind::InvalidOperation, text);
    let named: Option<bool> = kwargs.get("ensure_ascii")?;
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.is_none() => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(v).map_err(|_| failed("tojson: bad indent".into()))?.min(64)),
        }),
    };
    let mut item_separator = if indent.is_some() { "," } else { ", " }.to_string();
    let mut key_separator = ": ".to_string();
    if let Some(pair) = kwargs.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        let texts: Vec<Value> = pair.try_iter()?.take(3).collect();
        match texts.as_slice() {
            [item, key] => (item_separator, key_separator) = (item.to_string(), key.to_string()),
            _ => return Err(failed("tojson: separators wants two texts".into())),
        }
    }
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let style = JsonStyle {
        ensure_ascii: named.or(ensure).unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys,
    };
    let mut paid = 0;
    let mut spend = |written: usize| {
        state.consume_fuel(1 + (written - paid) as u64 / 64)?;
        paid = written;
        Ok(())
    };
    json_dumps(value, &style, &mut spend).map(Value::from)
}

/// Floats print as Python's repr; all else as minijinja does, which follows Python too.
fn print_like_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        if let Ok(number) = f64::try_from(value.clone()) {
            if number.is_finite() {
                return Ok(out.write_str(&float_repr(number))?);
            }
        }
    }
    minijinja::escape_formatter(out, state, value)
}

/// Turns `{% generation %}` and `{% endgeneration %}` into an always-true condition, keeping the marks of
/// whitespace control.
fn neutral_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // These tags are short; looking no further keeps hostile text from costing quadratic time.
        let near = &tag.as_bytes()[..tag.len().min(64)];
        let Some(end) = near.windows(2).position(|pair| pair == b"%}") else {
            out.push_str("{%");
            rest = &tag[2..];
            continue;
        };
        let inner = &tag[2..end.max(2)];
        let is_mark = |c: char| c == '-' || c == '+';
        let word = inner.trim_start_matches(is_mark).trim_end_matches(is_mark).trim();
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(text) => {
                out.push_str("{%");
                out.push_str(&inner.replacen(word, text, 1));
                out.push_str("%}");
                rest = &tag[end + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}
