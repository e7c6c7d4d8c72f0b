// Generates the bridge's header and compiles its C++ half into the static library.
fn main() {
    cxx_build::bridge("src/lib.rs").std("c++20").compile("kt_text_bridge");
    println!("cargo:rerun-if-changed=src/lib.rs");
}
