# kt_rust_library(<target> CRATE <folder> LIB <name>): the static library of a Cargo crate that
# uses cxx, as an imported target with the bridge's headers. Built by `cargo build --release --locked` inside
# the build folder, or in KT_CARGO_TARGET.
set(KT_RUST_MINIMUM 1.87)
set(KT_CARGO_TARGET "" CACHE PATH "Folder for what cargo builds, to share it between build folders")
find_program(KT_CARGO cargo REQUIRED)

execute_process(COMMAND ${KT_CARGO} --version OUTPUT_VARIABLE kt_cargo_version COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "[0-9]+\\.[0-9]+(\\.[0-9]+)?" kt_cargo_version "${kt_cargo_version}")
if(kt_cargo_version VERSION_LESS KT_RUST_MINIMUM)
  message(FATAL_ERROR "cargo ${kt_cargo_version} at ${KT_CARGO}: ${KT_RUST_MINIMUM} or newer is needed; "
    "set -DKT_CARGO=<path> to another one")
endif()

function(kt_rust_library target)
  cmake_parse_arguments(ARG "" "CRATE;LIB" "" ${ARGN})
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_CRATE})
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${ARG_CRATE})
  if(KT_CARGO_TARGET)
    set(output ${KT_CARGO_TARGET}/${ARG_CRATE})
  endif()
  set(library ${output}/release/lib${ARG_LIB}.a)
  set(cargo ${KT_CARGO})
  set(target_option)
  if(KT_FUZZ)
    # Coverage counters for libFuzzer. A named target keeps them out of build scripts and procedural macros.
    execute_process(COMMAND rustc -vV OUTPUT_VARIABLE version COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCH "host: ([^\n]+)" ignored "${version}")
    set(library ${output}/${CMAKE_MATCH_1}/release/lib${ARG_LIB}.a)
    set(target_option --target ${CMAKE_MATCH_1})
    string(JOIN " " flags -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
      -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1)
    set(cargo ${CMAKE_COMMAND} -E env "RUSTFLAGS=${flags}" ${KT_CARGO})
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/src/*.rs)
  add_custom_command(
    OUTPUT ${library}
    COMMAND ${cargo} build --quiet --release --locked ${target_option} --manifest-path ${folder}/Cargo.toml
      --target-dir ${output}
    # cargo leaves an unchanged library's time alone; without this it would be asked again every time.
    COMMAND ${CMAKE_COMMAND} -E touch ${library}
    DEPENDS ${sources} ${folder}/Cargo.toml ${folder}/Cargo.lock ${folder}/build.rs
    COMMENT "Building the Rust library ${ARG_LIB}"
    VERBATIM)
  add_custom_target(${target}_build DEPENDS ${library})
  file(MAKE_DIRECTORY ${output}/cxxbridge)
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES
    IMPORTED_LOCATION ${library}
    INTERFACE_INCLUDE_DIRECTORIES ${output}/cxxbridge
    INTERFACE_LINK_LIBRARIES "${CMAKE_DL_LIBS};Threads::Threads;m")
  add_dependencies(${target} ${target}_build)
endfunction()
