//! Grammars over tokens: a JSON schema, regular expression, Lark or GBNF grammar compiled for one vocabulary,
//! and the state of one reply in it, which says what tokens may come next.

use crate::error::{Outcome, internal, unsupported, usage};
use crate::ffi::{GrammarKind, MatcherState, VocabRaw};
use crate::gbnf;
use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{ParserFactory, earley::SlicedBiasComputer};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const MAX_SOURCE: usize = 512 << 10;
const MAX_REGEX: usize = 16 << 10;
/// Tokens and trie nodes are numbered with 24 bits and some of their values are taken.
const MAX_VOCAB: u32 = (1 << 24) - 2;
/// Longer tokens are never allowed: the trie has no room for them.
const MAX_TOKEN_BYTES: usize = 1000;
const CONTROL: u8 = 2;
/// Whitespace between the parts of JSON has a limit, as a small model would otherwise write it for ever.
const JSON_SPACE: &str = r"[ \n\r\t]{0,64}";

struct Vocab {
    trie: TokTrie,
}

impl TokenizerEnv for Vocab {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }
    /// Nothing is forced, so how a text would be cut into tokens does not matter.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

pub struct Factory {
    factory: ParserFactory,
}

impl Factory {
    pub fn new(raw: &VocabRaw) -> Outcome<Factory> {
        if raw.n_vocab > MAX_VOCAB {
            return Err(unsupported(format_args!("grammars for a vocabulary of {} tokens", raw.n_vocab)));
        }
        let n_vocab = raw.n_vocab as usize;
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(n_vocab);
        let mut begin = 0;
        for (id, end) in raw.byte_ends.iter().enumerate().take(n_vocab) {
            let end = *end as usize;
            let bytes = raw.bytes.get(begin..end).ok_or_else(|| internal("token bytes out of range"))?;
            begin = end;
            let mut word = Vec::new();
            if bytes.len() <= MAX_TOKEN_BYTES && !bytes.is_empty() {
                if raw.flags.get(id).is_some_and(|flags| flags & CONTROL != 0) {
                    word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                }
                word.extend_from_slice(bytes);
            }
            words.push(word);
        }
        words.resize(n_vocab, Vec::new());
        let ends: Vec<TokenId> = raw.end_tokens.iter().copied().filter(|id| *id < raw.n_vocab).collect();
        let Some(first) = ends.first() else {
            return Err(unsupported("grammars for a model without an end-of-text token"));
        };
        let trie = TokTrie::from(&TokRxInfo::new(raw.n_vocab, *first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(Vocab { trie });
        let caps = InferenceCapabilities { ff_tokens: false, conditional_ff_tokens: false, backtrack: false, fork: false };
        let mut factory =
            ParserFactory::new(&env, caps, &SlicedBiasComputer::general_slices()).map_err(internal)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Factory { factory })
    }

    pub fn matcher(&self, kind: GrammarKind, text: &[u8]) -> Outcome<Matcher> {
        let grammar = grammar_of(kind, text)?;
        let parser = self.factory.create_parser(grammar).map_err(|e| usage(one_line(&format!("{e:#}"))))?;
        let inner = llguidance::Matcher::new(Ok(parser));
        match inner.get_error() {
            Some(error) => Err(usage(one_line(&error))),
            None => Ok(Matcher { inner, failed: None }),
        }
    }
}

fn grammar_of(kind: GrammarKind, text: &[u8]) -> Outcome<TopLevelGrammar> {
    let limit = if kind == GrammarKind::Regex { MAX_REGEX } else { MAX_SOURCE };
    if text.len() > limit {
        return Err(usage(format_args!("{} bytes, at most {limit} are accepted", text.len())));
    }
    let text = std::str::from_utf8(text).map_err(|_| usage("not UTF-8"))?;
    match kind {
        GrammarKind::JsonObject => json_grammar(json!({"type": "object"})),
        GrammarKind::JsonSchema => {
            json_grammar(serde_json::from_str(text).map_err(|e| usage(format_args!("not JSON: {e}")))?)
        }
        GrammarKind::Regex => Ok(TopLevelGrammar::from_regex(text)),
        GrammarKind::Lark => Ok(TopLevelGrammar::from_lark(text.to_string())),
        GrammarKind::Gbnf => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
        _ => Err(internal("unknown kind of grammar")),
    }
}

/// A schema with our options; its own may not loosen what is checked.
fn json_grammar(schema: Value) -> Outcome<TopLevelGrammar> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Object(_) => schema,
        _ => return Err(usage("a schema is a JSON object")),
    };
    let members = schema.as_object_mut().ok_or_else(|| internal("no object"))?;
    if members.contains_key("x-guidance") {
        return Err(usage("x-guidance is not accepted"));
    }
    members.insert("x-guidance".to_string(), json!({"whitespace_pattern": JSON_SPACE}));
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn one_line(text: &str) -> String {
    let text = text.split("\n<").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub struct Matcher {
    inner: llguidance::Matcher,
    failed: Option<String>,
}

impl Matcher {
    /// A matcher of its own in the same state.
    pub fn copy(&self) -> Matcher {
        Matcher { inner: self.inner.deep_clone(), failed: self.failed.clone() }
    }

    /// Runs `work`; an error or a panic is kept as the reason why this matcher failed.
    pub fn guarded(&mut self, work: impl FnOnce(&mut Matcher) -> anyhow::Result<MatcherState>) -> MatcherState {
        if self.failed.is_some() {
            return MatcherState::Failed;
        }
        let error = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(state)) => return state,
            Ok(Err(error)) => one_line(&error.to_string()),
            Err(_) => "a panic in the grammar library".to_string(),
        };
        self.failed = Some(error);
        MatcherState::Failed
    }

    pub fn fill_mask(&mut self, mask: &mut [u32]) -> anyhow::Result<MatcherState> {
        let allowed = self.inner.compute_mask_or_eos()?;
        let words = allowed.as_slice();
        let n = words.len().min(mask.len());
        mask[..n].copy_from_slice(&words[..n]);
        mask[n..].fill(0);
        self.state()
    }

    pub fn take(&mut self, token: u32) -> anyhow::Result<MatcherState> {
        self.inner.consume_token(token)?;
        self.state()
    }

    fn state(&mut self) -> anyhow::Result<MatcherState> {
        if self.inner.is_stopped() {
            let reason = self.inner.stop_reason();
            anyhow::ensure!(reason.is_ok() && reason != StopReason::NotStopped, "stopped: {reason}");
            return Ok(MatcherState::Complete);
        }
        Ok(if self.inner.is_accepting()? { MatcherState::Accepting } else { MatcherState::Open })
    }

    pub fn error_text(&self) -> String {
        self.failed.clone().unwrap_or_default()
    }
}
