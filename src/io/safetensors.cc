#include "io/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/bytes.h"
#include "io/atomic_file.h"
#include "io/quote.h"

namespace kt::io {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

struct TypeRow {
  SafeType type;
  std::string_view name;
  std::size_t bytes;
};
constexpr TypeRow kTypes[] = {
    {SafeType::kF64, "F64", 8},         {SafeType::kF32, "F32", 4},
    {SafeType::kF16, "F16", 2},         {SafeType::kBF16, "BF16", 2},
    {SafeType::kF8_E4M3, "F8_E4M3", 1}, {SafeType::kF8_E5M2, "F8_E5M2", 1},
    {SafeType::kF8_E8M0, "F8_E8M0", 1}, {SafeType::kI64, "I64", 8},
    {SafeType::kI32, "I32", 4},         {SafeType::kI16, "I16", 2},
    {SafeType::kI8, "I8", 1},           {SafeType::kU64, "U64", 8},
    {SafeType::kU32, "U32", 4},         {SafeType::kU16, "U16", 2},
    {SafeType::kU8, "U8", 1},           {SafeType::kBool, "BOOL", 1},
};

/// Receives the header as a stream of JSON events. Depth 1 is the header object, depth 2 one
/// tensor's record (or __metadata__), depth 3 its shape or data_offsets.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& path, std::vector<SafeTensor>* tensors,
                std::map<std::string, std::string>* metadata)
      : path_(path), tensors_(tensors), metadata_(metadata) {}

  bool start_object(std::size_t) override {
    if (++depth_ > 2 || in_array_) wrong("an object");
    if (depth_ == 2) begin_record();
    return true;
  }
  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_) end_record();
    in_metadata_ = false;
    return true;
  }
  bool key(std::string& text) override {
    if (depth_ == 1) {
      name_ = text;
      if (!names_.insert(text).second) {
        fail(ErrorCode::kBadFile, path_, "has the tensor {} twice; the file is damaged",
             quote(text));
      }
    } else {
      field_ = text;
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata_ ||
        (field_ != "shape" && field_ != "data_offsets")) {
      wrong("an array");
    }
    in_array_ = true;
    (field_ == "shape" ? has_shape_ : has_offsets_) = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool string(std::string& text) override {
    if (in_metadata_) {
      (*metadata_)[field_] = text;
    } else if (depth_ == 2 && !in_array_ && field_ == "dtype") {
      set_type(text);
    } else {
      wrong("a string");
    }
    return true;
  }
  bool number_unsigned(std::uint64_t value) override {
    if (!in_array_) wrong("a number");
    if (value > static_cast<std::uint64_t>(INT64_MAX)) wrong("a number beyond 63 bits");
    auto& list = field_ == "shape" ? dims_ : offsets_;
    if (list.size() >= tensor::Shape::kMaxRank) {
      fail(ErrorCode::kUnsupported, path_, "tensor {} has more than 4 entries in {}", quote(name_),
           field_);
    }
    list.push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_integer(std::int64_t) override { wrong("a negative number"); }
  bool number_float(double, const std::string&) override { wrong("a fraction"); }
  bool boolean(bool) override { wrong("a bool"); }
  bool null() override { wrong("null"); }
  bool binary(nlohmann::json::binary_t&) override { wrong("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    fail(ErrorCode::kBadFile, path_,
         "has a header that is no valid JSON at byte {}; it is not a safetensors "
         "file, or damaged",
         position);
  }

 private:
  [[noreturn]] void wrong(const char* got) const {
    fail(ErrorCode::kBadFile, path_,
         "has {} in the header record of {}, where {{dtype, shape, data_offsets}} is "
         "wanted; the file is damaged",
         got, quote(name_));
  }
  void begin_record() {
    in_metadata_ = name_ == "__metadata__";
    dims_.clear();
    offsets_.clear();
    field_.clear();
    has_type_ = has_shape_ = has_offsets_ = false;
  }
  void set_type(const std::string& text) {
    for (const TypeRow& row : kTypes) {
      if (row.name == text) {
        type_ = row.type;
        has_type_ = true;
        return;
      }
    }
    fail(ErrorCode::kUnsupported, path_,
         "tensor {} has element type {}, which this build does not know", quote(name_),
         quote(text));
  }
  void end_record() {
    if (!has_type_ || !has_shape_ || !has_offsets_ || offsets_.size() != 2 ||
        offsets_[0] > offsets_[1]) {
      wrong("an incomplete entry");
    }
    SafeTensor tensor{name_,
                      type_,
                      {},
                      static_cast<std::uint64_t>(offsets_[0]),
                      static_cast<std::uint64_t>(offsets_[1] - offsets_[0])};
    std::int64_t bytes = static_cast<std::int64_t>(safe_type_bytes(type_));
    bool fits = true;
    for (const std::int64_t d : dims_) {
      fits = fits && checked_multiply(bytes, d, &bytes);
      tensor.shape.push_back(d);
    }
    if (!fits || static_cast<std::uint64_t>(bytes) != tensor.bytes) {
      fail(ErrorCode::kBadFile, path_,
           "tensor {} of {} {} lies in {} bytes, which is not its size; the file is "
           "damaged",
           quote(name_), safe_type_name(type_), tensor.shape.to_string(), tensor.bytes);
    }
    tensors_->push_back(std::move(tensor));
  }

  const std::string& path_;
  std::vector<SafeTensor>* tensors_;
  std::map<std::string, std::string>* metadata_;
  std::unordered_set<std::string> names_;
  std::string name_;
  std::string field_;
  std::vector<std::int64_t> dims_;
  std::vector<std::int64_t> offsets_;
  SafeType type_{};
  int depth_ = 0;
  bool in_array_ = false;
  bool in_metadata_ = false;
  bool has_type_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

}  // namespace

std::string_view safe_type_name(SafeType type) {
  return kTypes[static_cast<std::size_t>(type)].name;
}
std::size_t safe_type_bytes(SafeType type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.file_ = MmapFile(path);
  file.bytes_ = file.file_.bytes();
  file.parse_header();
  return file;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  SafetensorsFile file;
  file.path_ = name;
  file.bytes_ = bytes;
  file.parse_header();
  return file;
}

void SafetensorsFile::parse_header() {
  ByteReader in(bytes_, path_);
  const auto length = in.read<std::uint64_t>("the header length");
  if (length > kMaxHeaderBytes || length > in.remaining()) {
    fail(ErrorCode::kBadFile, path_,
         "claims a header of {} bytes, {} bytes are left and at most {} are accepted; "
         "it is not a safetensors file, or truncated",
         length, in.remaining(), kMaxHeaderBytes);
  }
  const auto header = in.take(length, "the header");
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  if (text.empty() || text.front() != '{') {
    fail(ErrorCode::kBadFile, path_,
         "has a header that does not start with '{{'; it is not a safetensors file");
  }
  HeaderHandler handler(path_, &tensors_, &metadata_);
  try {
    if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
      fail(ErrorCode::kBadFile, path_, "has a header that is no valid JSON");
    }
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kBadFile, path_, "has a header that is no valid JSON: {}", quote(error.what()));
  }
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const SafeTensor& a, const SafeTensor& b) { return a.offset < b.offset; });
  const std::uint64_t data_begin = in.position();
  const std::uint64_t available = in.remaining();
  std::uint64_t end = 0;
  for (SafeTensor& tensor : tensors_) {
    if (tensor.bytes > available || tensor.offset > available - tensor.bytes) {
      fail(ErrorCode::kBadFile, path_,
           "tensor {} lies at bytes {} to {} of the data, which has {}; the file is "
           "truncated or damaged, get it again",
           quote(tensor.name), tensor.offset, tensor.offset + tensor.bytes, available);
    }
    if (tensor.offset < end) {
      fail(ErrorCode::kBadFile, path_,
           "the data of tensor {} overlaps another's; the file is damaged", quote(tensor.name));
    }
    end = tensor.offset + tensor.bytes;
    tensor.offset += data_begin;
  }
}

void write_safetensors(const std::string& path, std::span<const SafeTensorData> tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::uint64_t offset = 0;
  for (const SafeTensorData& tensor : tensors) {
    const auto count = static_cast<std::uint64_t>(tensor.shape.count());
    if (tensor.data.size() != count * safe_type_bytes(tensor.type)) {
      fail(ErrorCode::kInternal, path, "tensor {} of shape {} given {} bytes", quote(tensor.name),
           tensor.shape.to_string(), tensor.data.size());
    }
    nlohmann::ordered_json record;
    record["dtype"] = safe_type_name(tensor.type);
    record["shape"] = nlohmann::ordered_json::array();
    for (int d = 0; d < tensor.shape.rank(); ++d) record["shape"].push_back(tensor.shape[d]);
    record["data_offsets"] = {offset, offset + tensor.data.size()};
    header[tensor.name] = std::move(record);
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const SafeTensorData& tensor : tensors) file.write(tensor.data);
  file.finish();
}

}  // namespace kt::io
