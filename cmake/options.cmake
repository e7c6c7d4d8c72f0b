# Compiler and sanitizer options of every target. ISA flags live in isa.cmake and nowhere else.
find_program(KT_CCACHE ccache)
if(KT_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${KT_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${KT_CCACHE})
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

# GCC 12 warns wrongly about std::string here; clang has no such warning and would warn about the option.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-Wrestrict KT_HAS_WRESTRICT)
set(kt_no_restrict $<$<BOOL:${KT_HAS_WRESTRICT}>:-Wno-restrict>)

add_library(kt_options INTERFACE)
set(kt_compile_options -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers ${kt_no_restrict}
  -fvisibility=hidden -ffp-contract=off)
target_compile_options(kt_options INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${kt_compile_options}>")
target_include_directories(kt_options INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
if(KT_SANITIZE)
  target_compile_options(kt_options INTERFACE -fsanitize=${KT_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer -g)
  target_link_options(kt_options INTERFACE -fsanitize=${KT_SANITIZE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
if(KT_TESTS)
  find_package(GTest REQUIRED)
endif()
find_package(nlohmann_json REQUIRED)
