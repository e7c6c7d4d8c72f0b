//! Builds the tokenizer of a GGUF vocabulary: byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) and
//! SentencePiece Unigram (`t5`).

use crate::error::{Outcome, bad_file, internal, unsupported};
use crate::ffi::GgufRaw;
use crate::pre_tokenizers;
use crate::tokenizer::{MAX_VOCAB, Parts, Tok};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Splits tried when SentencePiece pieces are turned into merges; real vocabularies need some millions.
const MAX_SPLIT_BYTES: usize = 1 << 31;

struct Vocab<'a> {
    raw: &'a GgufRaw<'a>,
    tokens: Vec<&'a str>,
}

pub fn build(raw: &GgufRaw) -> Outcome<Tok> {
    let vocab = Vocab::read(raw)?;
    match std::str::from_utf8(raw.model) {
        Ok("gpt2") => vocab.byte_level_bpe(),
        Ok("llama") => vocab.sentence_piece_bpe(),
        Ok("t5") => vocab.unigram(),
        _ => Err(unsupported(format_args!(
            "tokenizer model '{}' (known: gpt2, llama, t5)",
            String::from_utf8_lossy(raw.model)
        ))),
    }
}

fn texts<'a>(bytes: &'a [u8], ends: &[u64], what: &str) -> Outcome<Vec<&'a str>> {
    let mut start = 0usize;
    let mut out = Vec::with_capacity(ends.len());
    for (i, end) in ends.iter().enumerate() {
        let end = usize::try_from(*end).map_err(internal)?;
        let piece = bytes.get(start..end).ok_or_else(|| internal("offsets out of order"))?;
        out.push(std::str::from_utf8(piece).map_err(|_| bad_file(format_args!("{what} {i} is not UTF-8")))?);
        start = end;
    }
    Ok(out)
}

fn part<T: DeserializeOwned>(value: Value) -> Outcome<T> {
    serde_json::from_value(value).map_err(bad_file)
}

impl<'a> Vocab<'a> {
    fn read(raw: &'a GgufRaw<'a>) -> Outcome<Vocab<'a>> {
        let n = raw.token_ends.len();
        if n == 0 || n > MAX_VOCAB {
            return Err(bad_file(format_args!("{n} tokens, wanted 1 to {MAX_VOCAB}")));
        }
        for (name, length) in [("scores", raw.scores.len()), ("token types", raw.types.len())] {
            if length != 0 && length != n {
                return Err(bad_file(format_args!("{length} {name} for {n} tokens")));
            }
        }
        if raw.scores.iter().any(|score| score.is_nan()) {
            return Err(bad_file("a token score is not a number"));
        }
        let tokens = texts(raw.tokens, raw.token_ends, "token")?;
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(n);
        for (id, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
            if let Some(first) = seen.insert(token, id) {
                return Err(bad_file(format_args!("token '{token}' has ids {first} and {id}")));
            }
        }
        Ok(Vocab { raw, tokens })
    }

    fn kind(&self, id: usize) -> i32 {
        self.raw.types.get(id).copied().unwrap_or(NORMAL)
    }

    fn score(&self, id: usize) -> f32 {
        self.raw.scores.get(id).copied().unwrap_or(0.0)
    }

    fn filled(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        self.tokens.iter().copied().enumerate().filter(|(_, token)| !token.is_empty())
    }

    /// Control, unknown and user-defined tokens: found in the text as they stand.
    fn added(&self) -> Vec<AddedToken> {
        self.filled()
            .filter(|(id, _)| matches!(self.kind(*id), UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(id, token)| {
                AddedToken::from(token, self.kind(id) != USER_DEFINED).normalized(false)
            })
            .collect()
    }

    fn unknown(&self) -> Option<usize> {
        let given = usize::try_from(self.raw.unk).ok().filter(|id| *id < self.tokens.len());
        given.or_else(|| (0..self.tokens.len()).find(|id| self.kind(*id) == UNKNOWN))
    }

    fn byte_level_bpe(&self) -> Outcome<Tok> {
        let name = String::from_utf8_lossy(self.raw.pre);
        let rules = pre_tokenizers::find(&name)
            .ok_or_else(|| unsupported(format_args!("pre-tokenizer '{name}' (tokenizer.ggml.pre)")))?;
        let lines = texts(self.raw.merges, self.raw.merge_ends, "merge")?;
        let mut merges = Vec::with_capacity(lines.len());
        for (i, line) in lines.iter().enumerate() {
            // A piece may itself begin with a space, so the separator is looked for after its first byte.
            let cut = line.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let Some(cut) = cut.filter(|cut| cut + 1 < line.len()) else {
                return Err(bad_file(format_args!("merge {i} '{line}' is not two pieces")));
            };
            merges.push((line[..cut].to_string(), line[cut + 1..].to_string()));
        }
        let model = BPE::builder()
            .vocab_and_merges(
                self.filled()
                    .map(|(id, token)| (token.to_string(), id as u32))
                    .collect::<tokenizers::models::bpe::Vocab>(),
                merges,
            )
            .ignore_merges(rules.ignore_merges)
            .build()
            .map_err(bad_file)?;
        let mut steps: Vec<Value> = rules
            .patterns
            .iter()
            .map(|pattern| {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            })
            .collect();
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
        steps.push(byte_level.clone());
        Tok::assemble(Parts {
            model: model.into(),
            normalizer: rules.nfc.then(|| part(json!({"type": "NFC"}))).transpose()?,
            pre_tokenizer: Some(part(json!({"type": "Sequence", "pretokenizers": steps}))?),
            post_processor: None,
            decoder: Some(part(byte_level)?),
            added: self.added(),
            implies_bos: rules.adds_bos,
        })
    }

    /// Ranks every way to cut a piece into two pieces by the piece's score, best first, as SentencePiece
    /// merges by score.
    fn merges_of_scores(&self) -> Outcome<Vec<(String, String)>> {
        let mergeable = |id: &usize| matches!(self.kind(*id), NORMAL | USER_DEFINED);
        let ids: HashMap<&str, usize> =
            self.filled().filter(|(id, _)| mergeable(id)).map(|(id, token)| (token, id)).collect();
        let mut work = 0usize;
        let mut found: Vec<(f32, usize, usize, usize, usize)> = Vec::new();
        for (id, token) in self.filled().filter(|(id, _)| mergeable(id)) {
            work = work.saturating_add(token.len().saturating_mul(token.len()));
            if work > MAX_SPLIT_BYTES {
                return Err(bad_file("the tokens are too long to be SentencePiece pieces"));
            }
            let n_chars = token.chars().count();
            let first = found.len();
            for (i, (cut, _)) in token.char_indices().enumerate().skip(1) {
                if let (Some(left), Some(right)) = (ids.get(&token[..cut]), ids.get(&token[cut..])) {
                    found.push((self.score(id), i, n_chars - i, *left, *right));
                }
            }
            found[first..].sort_by_key(|split| (split.3, split.4));
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        let spell = |id: usize| self.tokens[id].to_string();
        Ok(found.iter().map(|split| (spell(split.3), spell(split.4))).collect())
    }

    fn sentence_piece_bpe(&self) -> Outcome<Tok> {
        if self.raw.scores.is_empty() {
            return Err(bad_file("a SentencePiece vocabulary without scores"));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(
                self.filled()
                    .map(|(id, token)| (token.to_string(), id as u32))
                    .collect::<tokenizers::models::bpe::Vocab>(),
                self.merges_of_scores()?,
            )
            .fuse_unk(true)
            .byte_fallback((0..self.tokens.len()).any(|id| self.kind(id) == BYTE));
        if let Some(unknown) = self.unknown() {
            builder = builder.unk_token(self.tokens[unknown].to_string());
        }
        let model = builder.build().map_err(bad_file)?;
        let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut normalize = vec![escape];
        let mut decode = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.raw.add_space_prefix {
            normalize.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decode.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Tok::assemble(Parts {
            model: model.into(),
            normalizer: Some(part(json!({"type": "Sequence", "normalizers": normalize}))?),
            pre_tokenizer: None,
            post_processor: None,
            decoder: Some(part(json!({"type": "Sequence", "decoders": decode}))?),
            added: self.added(),
            implies_bos: true,
        })
    }

    fn unigram(&self) -> Outcome<Tok> {
        if self.raw.scores.is_empty() {
            return Err(bad_file("a Unigram vocabulary without scores"));
        }
        let pieces = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| match token.is_empty() {
                true => (format!("[EMPTY_{id}]"), f64::from(self.score(id))),
                false => (token.to_string(), f64::from(self.score(id))),
            })
            .collect();
        let model = Unigram::from(pieces, self.unknown(), false).map_err(bad_file)?;
        let mut normalize = Vec::new();
        if !self.raw.charsmap.is_empty() {
            let map = base64(self.raw.charsmap);
            normalize.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
        }
        normalize.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
        normalize.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}));
        let scheme = if self.raw.add_space_prefix { "always" } else { "never" };
        let metaspace =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
        Tok::assemble(Parts {
            model: model.into(),
            normalizer: Some(part(json!({"type": "Sequence", "normalizers": normalize}))?),
            pre_tokenizer: Some(part(metaspace.clone())?),
            post_processor: None,
            decoder: Some(part(metaspace)?),
            added: self.added(),
            implies_bos: false,
        })
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i > chunk.len() { '=' } else { digit as char });
        }
    }
    out
}
