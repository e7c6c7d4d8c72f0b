#[cxx::bridge(namespace = "kt::text::rs")]
mod ffi { extern "Rust" { fn probe() -> u32; } }
fn probe() -> u32 { 1 }
