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

/// Stack of the threads that compile and render templates: a chain of operators or a nest of lists costs
/// stack per link, and both are bounded by the template's size and fuel. Untouched pages cost nothing.
const DEEP_STACK: usize = 1 << 30;

/// Runs `work`, which may recurse deeply, on a thread with a large stack.
pub fn on_deep_stack<T: Send>(work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, || guard(work));
        thread.map_err(internal)?.join().unwrap_or_else(|_| Err(internal("a thread panicked")))
    })
}

/// Runs `work`; a panic becomes an internal error.
pub fn guard<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    stop_panics(internal, work)
}

/// Runs `work`, which reads a file; a panic means that the file is one the dependency does not expect.
pub fn guard_reading<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    stop_panics(bad_file, work)
}

/// Runs `work`, which reads a part of a request; a panic means that it is one the dependency does not expect.
pub fn guard_request<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    stop_panics(usage, work)
}

fn stop_panics<T>(class: fn(String) -> String, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        Err(class(format!("panic in the text library: {text}")))
    })
}
