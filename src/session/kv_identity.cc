#include "session/kv_identity.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "placement/explain.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;

std::string stamp(const fs::path& file) {
  return fmt::format("{} {} {}\n", file.filename().string(), fs::file_size(file),
                     fs::last_write_time(file).time_since_epoch().count());
}

// A model is a file (of several shards, which change together) or a folder of files.
std::string model_stamp(const std::string& path) {
  if (!fs::is_directory(path)) return stamp(path);
  std::vector<std::string> stamps;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    if (entry.is_regular_file()) stamps.push_back(stamp(entry.path()));
  }
  std::sort(stamps.begin(), stamps.end());
  std::string all;
  for (const std::string& s : stamps) all += s;
  return all;
}

}  // namespace

std::string kv_identity(Session& session, const Options& options) {
  try {
    return fmt::format("{}{}{} {} {}\n{}{}", model_stamp(session.source().path()),
                       stamp(fs::canonical("/proc/self/exe")), session.cpu().caps, options.act,
                       options.kv, placement::explain_table(session.model(), session.placement()),
                       placement::explain_summary(session.model()));
  } catch (const fs::filesystem_error& e) {
    fail(ErrorCode::kIo, e.path1().string(), "cannot be looked at: {}", e.code().message());
  }
}

}  // namespace kt::session
