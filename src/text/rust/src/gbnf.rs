//! GBNF, the grammar notation of llama.cpp, as a Lark grammar. Rules that do not refer to themselves become
//! terminals, so that what is regular is matched as one expression and not letter by letter.

use crate::error::{Outcome, usage};
use std::collections::{BTreeMap, BTreeSet};

const MAX_DEPTH: usize = 100;
const MAX_REPEATS: usize = 4;

enum Node {
    Alternatives(Vec<Node>),
    Sequence(Vec<Node>),
    Rule(String),
    /// A regular expression of one or more characters.
    Regex(String),
    Repeat(Box<Node>, u32, Option<u32>),
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

pub fn to_lark(text: &str) -> Outcome<String> {
    let rules = Reader { text: text.as_bytes(), at: 0, depth: 0 }.rules()?;
    if !rules.contains_key("root") {
        return Err(usage("GBNF: there is no rule 'root'"));
    }
    let names: BTreeMap<&str, String> =
        rules.keys().enumerate().map(|(i, name)| (name.as_str(), format!("{i}"))).collect();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, body) in &rules {
        let mut used = BTreeSet::new();
        collect(body, &mut used);
        if let Some(missing) = used.iter().find(|u| !rules.contains_key(**u)) {
            return Err(usage(format_args!("GBNF: rule '{name}' refers to '{missing}', which is not there")));
        }
        uses.insert(name, used);
    }
    let recursive = recursive_rules(&uses);
    let writer = Writer { names: &names, recursive: &recursive };
    let mut out = String::new();
    for (name, body) in &rules {
        let number = &names[name.as_str()];
        if recursive.contains(name.as_str()) {
            out += &format!("rule_{number}: {}\n", writer.rule(body));
        } else {
            out += &format!("TERM_{number}: {}\n", writer.rule(body));
        }
    }
    Ok(format!("start: {}\n{out}", writer.name("root")))
}

fn collect<'a>(node: &'a Node, used: &mut BTreeSet<&'a str>) {
    match node {
        Node::Alternatives(nodes) | Node::Sequence(nodes) => nodes.iter().for_each(|n| collect(n, used)),
        Node::Repeat(inner, ..) => collect(inner, used),
        Node::Rule(name) => {
            used.insert(name);
        }
        Node::Regex(_) => {}
    }
}

/// Rules that can reach a cycle: what is left after those that use only finished ones are taken away.
fn recursive_rules<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut users: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    let mut open: BTreeMap<&'a str, usize> = BTreeMap::new();
    let mut ready: Vec<&'a str> = Vec::new();
    for (name, used) in uses {
        open.insert(name, used.len());
        used.iter().for_each(|u| users.entry(u).or_default().push(name));
        if used.is_empty() {
            ready.push(name);
        }
    }
    let mut left: BTreeSet<&'a str> = uses.keys().copied().collect();
    while let Some(name) = ready.pop() {
        left.remove(name);
        for user in users.get(name).into_iter().flatten() {
            if let Some(n) = open.get_mut(user) {
                *n -= 1;
                if *n == 0 {
                    ready.push(user);
                }
            }
        }
    }
    left
}

struct Writer<'a> {
    names: &'a BTreeMap<&'a str, String>,
    recursive: &'a BTreeSet<&'a str>,
}

impl Writer<'_> {
    fn name(&self, rule: &str) -> String {
        let kind = if self.recursive.contains(rule) { "rule" } else { "TERM" };
        format!("{kind}_{}", self.names[rule])
    }

    fn rule(&self, node: &Node) -> String {
        let joined = |nodes: &[Node], between: &str| {
            let parts: Vec<String> = nodes.iter().map(|n| self.rule(n)).collect();
            parts.join(between)
        };
        match node {
            Node::Alternatives(nodes) if nodes.len() == 1 => self.rule(&nodes[0]),
            Node::Alternatives(nodes) => format!("({})", joined(nodes, " | ")),
            Node::Sequence(nodes) if nodes.is_empty() => "\"\"".to_string(),
            Node::Sequence(nodes) => joined(nodes, " "),
            Node::Rule(name) => self.name(name),
            Node::Regex(text) => format!("/{text}/"),
            Node::Repeat(inner, min, max) => {
                let inner = self.rule(inner);
                match (*min, *max) {
                    (0, None) => format!("({inner})*"),
                    (1, None) => format!("({inner})+"),
                    (0, Some(1)) => format!("({inner})?"),
                    (min, None) => format!("({inner}){{{min},}}"),
                    (min, Some(max)) => format!("({inner}){{{min},{max}}}"),
                }
            }
        }
    }
}

impl Reader<'_> {
    fn fail<T>(&self, what: &str) -> Outcome<T> {
        let line = 1 + self.text[..self.at.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
        Err(usage(format_args!("GBNF: line {line}: {what}")))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Space and comments; line ends too where a rule may go on.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                b' ' | b'\t' => self.at += 1,
                b'\n' | b'\r' if lines => self.at += 1,
                b'#' => {
                    while self.peek().is_some_and(|c| c != b'\n') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    fn word(&mut self) -> Outcome<String> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            self.at += 1;
        }
        if begin == self.at {
            return self.fail("a name is wanted");
        }
        Ok(String::from_utf8_lossy(&self.text[begin..self.at]).into_owned())
    }

    fn rules(mut self) -> Outcome<BTreeMap<String, Node>> {
        let mut rules = BTreeMap::new();
        loop {
            self.space(true);
            if self.peek().is_none() {
                return Ok(rules);
            }
            let name = self.word()?;
            self.space(false);
            if !self.text[self.at..].starts_with(b"::=") {
                return self.fail("'::=' is wanted");
            }
            self.at += 3;
            self.space(true);
            let body = self.alternatives(false)?;
            if !matches!(self.peek(), None | Some(b'\n') | Some(b'\r')) {
                return self.fail("the rule should end here");
            }
            if rules.insert(name.clone(), body).is_some() {
                return self.fail(&format!("there are two rules '{name}'"));
            }
        }
    }

    fn alternatives(&mut self, nested: bool) -> Outcome<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("nests too deeply");
        }
        let mut all = vec![self.sequence(nested)?];
        while self.peek() == Some(b'|') {
            self.at += 1;
            self.space(true);
            all.push(self.sequence(nested)?);
        }
        self.depth -= 1;
        Ok(Node::Alternatives(all))
    }

    fn sequence(&mut self, nested: bool) -> Outcome<Node> {
        let mut all = Vec::new();
        loop {
            let node = match self.peek() {
                Some(b'"') => self.literal()?,
                Some(b'[') => self.class()?,
                Some(b'.') => {
                    self.at += 1;
                    Node::Regex(r"(?s:.)".to_string())
                }
                Some(b'(') => {
                    self.at += 1;
                    self.space(true);
                    let inner = self.alternatives(true)?;
                    if self.peek() != Some(b')') {
                        return self.fail("')' is wanted");
                    }
                    self.at += 1;
                    inner
                }
                Some(c) if c.is_ascii_alphanumeric() || c == b'_' => Node::Rule(self.word()?),
                _ => return Ok(Node::Sequence(all)),
            };
            all.push(self.repeated(node)?);
            self.space(nested);
        }
    }

    fn repeated(&mut self, node: Node) -> Outcome<Node> {
        let mut node = node;
        for _ in 0..MAX_REPEATS {
            let (min, max) = match self.peek() {
                Some(b'*') => (0, None),
                Some(b'+') => (1, None),
                Some(b'?') => (0, Some(1)),
                Some(b'{') => self.counts()?,
                _ => return Ok(node),
            };
            self.at += 1;
            node = Node::Repeat(Box::new(Node::Alternatives(vec![node])), min, max);
        }
        self.fail("too many repetitions of one item")
    }

    /// "{m}", "{m,}" or "{m,n}", up to the closing brace.
    fn counts(&mut self) -> Outcome<(u32, Option<u32>)> {
        let rest = &self.text[self.at + 1..];
        let Some(end) = rest.iter().take(32).position(|c| *c == b'}') else {
            return self.fail("'}' is wanted");
        };
        let inside = String::from_utf8_lossy(&rest[..end]).replace(' ', "");
        let number = |text: &str| text.parse::<u32>().ok();
        let counts = match inside.split_once(',') {
            None => number(&inside).map(|n| (n, Some(n))),
            Some((min, "")) => number(min).map(|n| (n, None)),
            Some((min, max)) => number(if min.is_empty() { "0" } else { min })
                .zip(number(max))
                .map(|(min, max)| (min, Some(max))),
        };
        match counts.filter(|(min, max)| max.is_none_or(|max| *min <= max)) {
            Some(counts) => {
                self.at += 1 + end;
                Ok(counts)
            }
            None => self.fail("a count such as {1,3} is wanted"),
        }
    }

    fn literal(&mut self) -> Outcome<Node> {
        self.at += 1;
        let mut regex = String::new();
        while self.peek() != Some(b'"') {
            push_escaped(&mut regex, self.character()?);
        }
        self.at += 1;
        Ok(if regex.is_empty() { Node::Sequence(Vec::new()) } else { Node::Regex(regex) })
    }

    fn class(&mut self) -> Outcome<Node> {
        self.at += 1;
        let mut regex = "[".to_string();
        if self.peek() == Some(b'^') {
            self.at += 1;
            regex.push('^');
        }
        let begin = regex.len();
        while self.peek() != Some(b']') {
            push_escaped(&mut regex, self.character()?);
            if self.peek() == Some(b'-') && self.text.get(self.at + 1) != Some(&b']') {
                self.at += 1;
                regex.push('-');
                push_escaped(&mut regex, self.character()?);
            }
        }
        self.at += 1;
        if regex.len() == begin {
            return self.fail("a set of characters is empty");
        }
        regex.push(']');
        Ok(Node::Regex(regex))
    }

    /// One character of a literal or a set, escapes understood.
    fn character(&mut self) -> Outcome<char> {
        let rest = String::from_utf8_lossy(&self.text[self.at..(self.at + 12).min(self.text.len())]).into_owned();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else {
            return self.fail("a quote or bracket is not closed");
        };
        if first != '\\' {
            self.at += first.len_utf8();
            return Ok(first);
        }
        let n_digits = match chars.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) => {
                self.at += 1 + c.len_utf8();
                return match c {
                    'n' => Ok('\n'),
                    'r' => Ok('\r'),
                    't' => Ok('\t'),
                    '"' | '\\' | '[' | ']' | '-' | '^' | '/' => Ok(c),
                    _ => self.fail(&format!("unknown escape '\\{c}'")),
                };
            }
            None => return self.fail("a quote or bracket is not closed"),
        };
        let digits = rest.get(2..2 + n_digits).and_then(|d| u32::from_str_radix(d, 16).ok());
        match digits.and_then(char::from_u32) {
            Some(c) => {
                self.at += 2 + n_digits;
                Ok(c)
            }
            None => self.fail("bad character number"),
        }
    }
}

/// A character as it stands in a regular expression between slashes, in or out of a set.
fn push_escaped(regex: &mut String, c: char) {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '_' => regex.push(c),
        c if c.is_ascii_graphic() => {
            regex.push('\\');
            regex.push(c);
        }
        c if (c as u32) < 0x80 => *regex += &format!("\\x{:02x}", c as u32),
        c => *regex += &format!("\\u{{{:x}}}", c as u32),
    }
}
