// File types of the quantiser: which element format each tensor of a GGUF file gets.
// The mixes are those that llama.cpp's quantiser writes by default (tests/test_quantize_mixes.py
// compares them tensor by tensor): more bits for the output matrix, for attention values and for
// some down projections, by position in the file; other formats where a row does not divide into
// blocks; routers, norms and vectors stay F32.
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
/// By name, case-insensitive; Q3_K, Q4_K and Q5_K mean their _M types. Throws kUsage listing the
/// known ones.
const FileType& file_type(std::string_view name);

/// A tensor as GGUF stores it (experts stacked).
struct StoredTensor {
  std::string name;
  tensor::Shape shape;
};

/// Formats of all tensors of one file, in the order given. Some choices depend on a tensor's place
/// among its kind and on whether there is an importance matrix, so the list must be complete.
std::vector<formats::Format> tensor_formats(const FileType& type, const io::ModelConfig& config,
                                            const std::vector<StoredTensor>& tensors,
                                            bool has_imatrix);

/// Whether rounding this tensor to `format` without an importance matrix gives garbage.
bool requires_importance(const FileType& type, std::string_view gguf_name, formats::Format format);

}  // namespace kt::session
