//! Tokenizers and chat templates behind one small C++ bridge.
//!
//! Every entry point returns `Result`; the text of an error begins with its class (`bad_file: …`,
//! `unsupported: …`, `usage: …`, `internal: …`), which the C++ side turns into an error code. A panic in a
//! dependency becomes `internal: …` and never crosses the bridge.

mod error;
mod fuel;
mod gbnf;
mod gguf;
mod grammar;
mod list_methods;
mod pre_tokenizers;
mod python;
mod strftime;
mod template;
mod tokenizer;

use error::{guard, guard_reading, guard_request, on_deep_stack};
use grammar::{Factory, Matcher};
use template::Template;
use tokenizer::Tok;

#[cxx::bridge(namespace = "kt::text::rs")]
mod ffi {
    /// A vocabulary as a GGUF file holds it. Texts lie end to end; `*_ends[i]` is where the i-th ends.
    struct GgufRaw<'a> {
        model: &'a [u8],
        pre: &'a [u8],
        tokens: &'a [u8],
        token_ends: &'a [u64],
        scores: &'a [f32],
        types: &'a [i32],
        merges: &'a [u8],
        merge_ends: &'a [u64],
        charsmap: &'a [u8],
        unk: i64,
        add_space_prefix: bool,
    }

    /// What the C++ side keeps of a tokenizer. `flags`: 1 the id exists, 2 it is a control token.
    struct Export {
        pieces: Vec<u8>,
        piece_ends: Vec<u64>,
        bytes: Vec<u8>,
        byte_ends: Vec<u64>,
        flags: Vec<u8>,
        strips_leading_space: bool,
        implies_bos: bool,
    }

    /// A vocabulary for grammars: the bytes of every token, end to end, as in Export.
    struct VocabRaw<'a> {
        bytes: &'a [u8],
        byte_ends: &'a [u64],
        flags: &'a [u8],
        end_tokens: &'a [u32],
        n_vocab: u32,
    }

    #[derive(Debug)]
    enum GrammarKind {
        JsonObject,
        JsonSchema,
        Regex,
        Lark,
        Gbnf,
    }

    /// Open: more must come; Accepting: it may end here; Complete: nothing but an end may come.
    #[derive(Debug)]
    enum MatcherState {
        Open,
        Accepting,
        Complete,
        Failed,
    }

    /// One rendering; the JSON texts may be empty.
    struct RenderRaw<'a> {
        messages: &'a [u8],
        tools: &'a [u8],
        documents: &'a [u8],
        kwargs: &'a [u8],
        add_generation_prompt: bool,
        bos: &'a [u8],
        eos: &'a [u8],
        now: DateTime,
    }

    /// Local time: month 1-12, weekday 0 = Sunday, yearday 1-366.
    struct DateTime {
        year: i32,
        month: u32,
        day: u32,
        hour: u32,
        minute: u32,
        second: u32,
        weekday: u32,
        yearday: u32,
    }

    extern "Rust" {
        type Tok;
        fn tokenizer_from_json(json: &[u8]) -> Result<Box<Tok>>;
        fn tokenizer_from_gguf(raw: &GgufRaw) -> Result<Box<Tok>>;
        fn export_vocab(self: &Tok) -> Result<Export>;
        fn encode(self: &Tok, text: &[u8], add_special: bool, parse_special: bool)
            -> Result<Vec<u32>>;
        fn token_to_id(self: &Tok, piece: &[u8]) -> i64;

        type Factory;
        fn grammar_factory(raw: &VocabRaw) -> Result<Box<Factory>>;
        fn compile(self: &Factory, kind: GrammarKind, text: &[u8]) -> Result<Box<Matcher>>;

        type Matcher;
        fn fresh(self: &Matcher) -> Result<Box<Matcher>>;
        fn fill(self: &mut Matcher, mask: &mut [u32]) -> MatcherState;
        fn accept(self: &mut Matcher, token: u32) -> MatcherState;
        fn error(self: &Matcher) -> String;

        type Template;
        fn template_compile(source: &[u8]) -> Result<Box<Template>>;
        fn render(self: &Template, raw: &RenderRaw) -> Result<Vec<u8>>;
    }
}

fn tokenizer_from_json(json: &[u8]) -> Result<Box<Tok>, String> {
    guard_reading(|| Tok::from_json(json).map(Box::new))
}

fn tokenizer_from_gguf(raw: &ffi::GgufRaw) -> Result<Box<Tok>, String> {
    guard_reading(|| gguf::build(raw).map(Box::new))
}

impl Tok {
    fn export_vocab(&self) -> Result<ffi::Export, String> {
        guard(|| self.export())
    }

    fn encode(&self, text: &[u8], add_special: bool, parse_special: bool) -> Result<Vec<u32>, String> {
        guard(|| self.ids_of(text, add_special, parse_special))
    }

    fn token_to_id(&self, piece: &[u8]) -> i64 {
        guard(|| Ok(self.id_of(piece))).unwrap_or(-1)
    }
}

fn grammar_factory(raw: &ffi::VocabRaw) -> Result<Box<Factory>, String> {
    guard(|| Factory::new(raw).map(Box::new))
}

impl Factory {
    fn compile(&self, kind: ffi::GrammarKind, text: &[u8]) -> Result<Box<Matcher>, String> {
        guard_request(|| on_deep_stack(|| self.matcher(kind, text).map(Box::new)))
    }
}

impl Matcher {
    fn fresh(&self) -> Result<Box<Matcher>, String> {
        guard(|| Ok(Box::new(self.copy())))
    }

    fn fill(&mut self, mask: &mut [u32]) -> ffi::MatcherState {
        self.guarded(|m| m.fill_mask(mask))
    }

    fn accept(&mut self, token: u32) -> ffi::MatcherState {
        self.guarded(|m| m.take(token))
    }

    fn error(&self) -> String {
        self.error_text()
    }
}

fn template_compile(source: &[u8]) -> Result<Box<Template>, String> {
    guard(|| on_deep_stack(|| Template::compile(source).map(Box::new)))
}

impl Template {
    fn render(&self, raw: &ffi::RenderRaw) -> Result<Vec<u8>, String> {
        guard(|| on_deep_stack(|| self.render_raw(raw)))
    }
}
