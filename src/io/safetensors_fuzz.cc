// libFuzzer target of the safetensors header parser.
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file =
        kt::io::SafetensorsFile::parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const auto& tensor : file.tensors()) {
      const auto bytes =
          static_cast<std::uint64_t>(tensor.shape.count()) * kt::io::safe_type_bytes(tensor.type);
      if (file.data(tensor).size() != bytes) __builtin_trap();
    }
  } catch (const kt::Error&) {
  }
  return 0;
}
