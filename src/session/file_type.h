// File types of the quantiser: which element format each tensor of a GGUF file gets.
// The mixes are those that llama.cpp's quantiser writes by default: more bits for the output
// matrix, for attention values and for the down projections of the outer and every third layer;
// other formats where a row does not divide into blocks; routers, norms and vectors stay F32.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "io/model_config.h"
#include "tensor/tensor.h"

namespace kt::session {

struct FileType {
  std::string_view name;      // "Q4_K_M"
  formats::Format base;       // of most matrices
  std::uint32_t llama_ftype;  // general.file_type of GGUF
};

const std::vector<FileType>& file_types();
/// By name, case-insensitive; throws kUsage listing the known ones.
const FileType& file_type(std::string_view name);

/// Format of the tensor that GGUF calls `gguf_name` in a file of this type.
formats::Format tensor_format(const FileType& type, const io::ModelConfig& config,
                              std::string_view gguf_name, const tensor::Shape& shape);

}  // namespace kt::session
