//! One tokenizer: the model shared by two pipelines, of which one reads control tokens in the text and the
//! other takes them as plain text; and the byte spelling of every token, taken from the decoder's rules.

use crate::error::{Outcome, bad_file, internal, unsupported};
use crate::ffi::Export;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, DecoderWrapper, Model, TokenizerBuilder, TokenizerImpl};

/// Larger ids mean a damaged file; the tables here are indexed by id.
pub const MAX_VOCAB: usize = 1 << 24;

#[derive(Clone)]
struct SharedModel(Arc<ModelWrapper>);

impl Model for SharedModel {
    type Trainer = TrainerWrapper;
    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<tokenizers::Token>> {
        self.0.tokenize(sequence)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.0.get_trainer()
    }
}

type Pipeline = TokenizerImpl<
    SharedModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The parts a tokenizer is put together from.
pub struct Parts {
    pub model: ModelWrapper,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub decoder: Option<DecoderWrapper>,
    /// Tokens found in the text before all else, in the order of their ids.
    pub added: Vec<AddedToken>,
    /// Must the given BOS come first unless the caller says otherwise?
    pub implies_bos: bool,
}

/// The decoder's rules as far as they concern one token at a time.
struct Spelling {
    byte_level: bool,
    byte_fallback: bool,
    replacements: Vec<(String, String)>,
    strips_leading_space: bool,
}

pub struct Tok {
    reads_control: Pipeline,
    plain: Pipeline,
    spelling: Spelling,
    implies_bos: bool,
}

impl Tok {
    pub fn from_json(json: &[u8]) -> Outcome<Tok> {
        let whole = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| bad_file(format_args!("not a tokenizer description: {e}")))?;
        let mut added: Vec<(u32, AddedToken)> = whole.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let tok = Tok::assemble(Parts {
            model: whole.get_model().clone(),
            normalizer: whole.get_normalizer().cloned(),
            pre_tokenizer: whole.get_pre_tokenizer().cloned(),
            post_processor: whole.get_post_processor().cloned(),
            decoder: whole.get_decoder().cloned(),
            added: added.iter().map(|(_, token)| token.clone()).collect(),
            implies_bos: false,
        })?;
        for (id, token) in &added {
            if tok.reads_control.token_to_id(&token.content) != Some(*id) {
                return Err(bad_file(format_args!(
                    "added token '{}' has id {id}, which does not follow the vocabulary",
                    token.content
                )));
            }
        }
        Ok(tok)
    }

    pub fn assemble(parts: Parts) -> Outcome<Tok> {
        let spelling = Spelling::of(parts.decoder.as_ref())?;
        let model = SharedModel(Arc::new(parts.model));
        let build = |control_is_text: bool| -> Outcome<Pipeline> {
            let mut pipeline: Pipeline = TokenizerBuilder::new()
                .with_model(model.clone())
                .with_normalizer(parts.normalizer.clone())
                .with_pre_tokenizer(parts.pre_tokenizer.clone())
                .with_post_processor(parts.post_processor.clone())
                .with_decoder(parts.decoder.clone())
                .build()
                .map_err(internal)?;
            pipeline.add_tokens(parts.added.iter().cloned()).map_err(bad_file)?;
            pipeline.set_encode_special_tokens(control_is_text);
            Ok(pipeline)
        };
        Ok(Tok {
            reads_control: build(false)?,
            plain: build(true)?,
            spelling,
            implies_bos: parts.implies_bos,
        })
    }

    pub fn ids_of(&self, text: &[u8], add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        let text = String::from_utf8_lossy(text);
        let pipeline = if parse_special { &self.reads_control } else { &self.plain };
        let encoding = pipeline.encode_fast(text.as_ref(), add_special).map_err(internal)?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn id_of(&self, piece: &[u8]) -> i64 {
        std::str::from_utf8(piece)
            .ok()
            .and_then(|piece| self.reads_control.token_to_id(piece))
            .map_or(-1, i64::from)
    }

    pub fn export(&self) -> Outcome<Export> {
        let added = self.reads_control.get_added_tokens_decoder();
        let mut pieces: Vec<Option<String>> = Vec::new();
        let mut put = |piece: String, id: u32| -> Outcome<()> {
            let id = id as usize;
            if id >= MAX_VOCAB {
                return Err(bad_file(format_args!("token id {id} is over the limit of {MAX_VOCAB}")));
            }
            if id >= pieces.len() {
                pieces.resize(id + 1, None);
            }
            pieces[id] = Some(piece);
            Ok(())
        };
        for (piece, id) in self.reads_control.get_model().get_vocab() {
            put(piece, id)?;
        }
        for (id, token) in &added {
            put(token.content.clone(), *id)?;
        }
        let mut out = Export {
            pieces: Vec::new(),
            piece_ends: Vec::with_capacity(pieces.len()),
            bytes: Vec::new(),
            byte_ends: Vec::with_capacity(pieces.len()),
            flags: Vec::with_capacity(pieces.len()),
            strips_leading_space: self.spelling.strips_leading_space,
            implies_bos: self.implies_bos,
        };
        for (id, piece) in pieces.iter().enumerate() {
            if let Some(piece) = piece {
                out.pieces.extend_from_slice(piece.as_bytes());
                self.spelling.append_bytes(piece, &mut out.bytes);
            }
            let control = added.get(&(id as u32)).is_some_and(|token| token.special);
            out.flags.push(u8::from(piece.is_some()) | (u8::from(control) << 1));
            out.piece_ends.push(out.pieces.len() as u64);
            out.byte_ends.push(out.bytes.len() as u64);
        }
        Ok(out)
    }
}

impl Spelling {
    fn of(decoder: Option<&DecoderWrapper>) -> Outcome<Spelling> {
        let mut spelling = Spelling {
            byte_level: false,
            byte_fallback: false,
            replacements: Vec::new(),
            strips_leading_space: false,
        };
        let Some(decoder) = decoder else {
            return Err(unsupported("a tokenizer without a decoder"));
        };
        let value = serde_json::to_value(decoder).map_err(internal)?;
        spelling.take(&value, &mut false, 0)?;
        Ok(spelling)
    }

    fn take(&mut self, step: &Value, fused: &mut bool, depth: u32) -> Outcome<()> {
        let text = |key: &str| step[key].as_str().unwrap_or("").to_string();
        match step["type"].as_str().unwrap_or("") {
            "ByteLevel" => {
                self.byte_level = true;
                *fused = true;
            }
            "Sequence" if depth < 8 => {
                for inner in step["decoders"].as_array().into_iter().flatten() {
                    self.take(inner, fused, depth + 1)?;
                }
            }
            "Replace" if step["pattern"]["String"].is_string() && !*fused => {
                let pattern = step["pattern"]["String"].as_str().unwrap_or("").to_string();
                self.replacements.push((pattern, text("content")));
            }
            "Metaspace" => {
                self.replacements.push((text("replacement"), " ".to_string()));
                self.strips_leading_space = step["prepend_scheme"].as_str() != Some("never");
            }
            "ByteFallback" if !*fused => self.byte_fallback = true,
            "Fuse" => *fused = true,
            "Strip" if *fused && text("content") == " " && step["stop"].as_u64() == Some(0) => {
                match step["start"].as_u64() {
                    Some(0) => {}
                    Some(1) => self.strips_leading_space = true,
                    _ => return Err(unsupported("a Strip decoder of more than one space")),
                }
            }
            other => return Err(unsupported(format_args!("decoder step '{other}' ({step})"))),
        }
        Ok(())
    }

    fn append_bytes(&self, piece: &str, out: &mut Vec<u8>) {
        if self.byte_level {
            let start = out.len();
            for c in piece.chars() {
                match byte_of_char(c) {
                    Some(byte) => out.push(byte),
                    None => {
                        out.truncate(start);
                        out.extend_from_slice(piece.as_bytes());
                        return;
                    }
                }
            }
            return;
        }
        if self.byte_fallback && piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>') {
            if let Some(Ok(byte)) = piece.get(3..5).map(|hex| u8::from_str_radix(hex, 16)) {
                out.push(byte);
                return;
            }
        }
        let mut text = piece.to_string();
        for (from, to) in self.replacements.iter().filter(|(from, _)| !from.is_empty()) {
            text = text.replace(from.as_str(), to);
        }
        out.extend_from_slice(text.as_bytes());
    }
}

/// Byte-level BPE writes printable Latin-1 bytes as themselves and the other 68 as U+0100 and up, in order.
fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}
