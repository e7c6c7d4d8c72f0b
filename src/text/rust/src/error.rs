//! Error texts with their class, and the wall that stops panics.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub type Outcome<T> = Result<T, String>;

pub fn bad_file(what: impl Display) -> String {
    format!("bad_file: {what}")
}

pub fn unsupported(what: impl Display) -> String {
    format!("unsupported: {what}")
}

pub fn usage(what: impl Display) -> String {
    format!("usage: {what}")
}

pub fn internal(what: impl Display) -> String {
    format!("internal: {what}")
}

/// Runs `work`; a panic becomes an internal error.
pub fn guard<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        Err(internal(format_args!("panic in the text library: {text}")))
    })
}
