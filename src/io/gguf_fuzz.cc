// libFuzzer target of the GGUF header parser and its lazy arrays.
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "io/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file =
        kt::io::GgufFile::parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const auto& tensor : file.tensors()) {
      if (file.data(tensor).size() != tensor.bytes) __builtin_trap();
    }
    for (const auto& item : file.metadata().items()) {
      if (item.value.type != kt::io::GgufType::kArray) continue;
      const auto& array = std::get<kt::io::GgufArray>(item.value.value);
      if (array.element == kt::io::GgufType::kString) {
        if (file.metadata().get_strings(item.key).size() != array.n) __builtin_trap();
      } else if (array.element == kt::io::GgufType::kF32 ||
                 array.element == kt::io::GgufType::kF64) {
        file.metadata().get_floats(item.key);
      } else {
        file.metadata().get_integers(item.key);
      }
    }
  } catch (const kt::Error&) {
  }
  return 0;
}
