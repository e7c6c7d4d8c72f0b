//! Python's lists change in place, the values here do not: a template that keeps a queue in a namespace
//! (Kimi-K2) assigns the changed list instead.
//!
//!   {% set _ = ns.ids.append(x) %} → {% set ns.ids = (ns.ids + [x]) | list %}
//!   {% set x = ns.ids.pop(0) %}    → {% set x = ns.ids | first %}{% set ns.ids = ns.ids[1:] %}

/// Looking no further than this for the end of a tag keeps hostile text from costing quadratic time.
const LONGEST_TAG: usize = 256;

pub fn as_assignments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let near = &tag.as_bytes()[..tag.len().min(LONGEST_TAG)];
        let end = near.windows(2).position(|pair| pair == b"%}").filter(|end| *end >= 2);
        match end.and_then(|end| assignment(&tag[2..end]).map(|text| (text, end))) {
            Some((text, end)) => {
                out.push_str(&text);
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

/// The tags that stand for a tag with this inside, when it is one of those above.
fn assignment(inside: &str) -> Option<String> {
    let is_mark = |c: char| c == '-' || c == '+';
    let body = inside.trim_start_matches(is_mark);
    let open = &inside[..inside.len() - body.len()];
    let trimmed = body.trim_end_matches(is_mark);
    let close = &body[trimmed.len()..];
    let (name, value) = trimmed.trim().strip_prefix("set ")?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim().strip_suffix(')')?);
    let (call, argument) = value.split_once('(')?;
    let (list, method) = call.rsplit_once('.')?;
    let (space, attribute) = list.split_once('.')?;
    if ![name, space, attribute].into_iter().all(is_identifier) {
        return None;
    }
    let argument = argument.trim();
    match (method, argument) {
        ("append", _) if balanced(argument) => {
            Some(format!("{{%{open} set {list} = ({list} + [{argument}]) | list {close}%}}"))
        }
        ("pop", "0") => Some(format!(
            "{{%{open} set {name} = {list} | first %}}{{% set {list} = {list}[1:] {close}%}}"
        )),
        ("pop", "" | "-1") => Some(format!(
            "{{%{open} set {name} = {list} | last %}}{{% set {list} = {list}[:-1] {close}%}}"
        )),
        _ => None,
    }
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One argument, whose brackets close where they opened; texts are not looked into.
fn balanced(argument: &str) -> bool {
    let mut depth = 0i32;
    for c in argument.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => return false,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && !argument.is_empty()
}
