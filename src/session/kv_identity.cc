#include "session/kv_identity.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "io/files.h"
#include "placement/explain.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;

std::string stamp(const fs::path& file) {
  return fmt::format("{} {} {}\n", fs::canonical(file).string(), fs::file_size(file),
                     fs::last_write_time(file).time_since_epoch().count());
}

// Of a folder, or of the shards of a file, all files: they make one model.
std::string model_stamp(const std::string& path) {
  const bool sharded = path.find("-of-0") != std::string::npos;
  if (!fs::is_directory(path) && !sharded) return stamp(path);
  std::vector<std::string> stamps;
  for (const fs::directory_entry& entry : fs::directory_iterator(io::folder_of(path))) {
    if (entry.is_regular_file()) stamps.push_back(stamp(entry.path()));
  }
  std::sort(stamps.begin(), stamps.end());
  std::string all;
  for (const std::string& s : stamps) all += s;
  return all;
}

// Kernels are chosen, and cut into blocks, by the device; cuBLASLt chooses by its version too,
// which comes with the driver's.
std::string gpu_stamp(const backend::Gpu& gpu) {
  const backend::GpuDescription& d = gpu.description();
  return fmt::format("{}{} {} {}.{} {} {} {} {} {}\n", stamp(gpu.library().path()), gpu.index(),
                     d.name, d.major, d.minor, d.driver, d.info.n_sms, d.info.l2_bytes,
                     d.info.shared_bytes, gpu.blas() != nullptr);
}

}  // namespace

std::string kv_identity(Session& session, const Options& options, const KvMachine& machine) {
  try {
    std::string plugins;
    for (const std::string& plugin : options.plugins) plugins += stamp(plugin);
    for (const auto& gpu : machine.gpus) plugins += gpu_stamp(*gpu);
    return fmt::format("{}{}{}{} {} {} {} {} {} {} {} {}\n{}{}",
                       model_stamp(session.source().path()), plugins, stamp("/proc/self/exe"),
                       session.cpu().caps, options.act, options.kv, options.defer_experts,
                       options.stream_experts, options.expert_cache, machine.chunk_size,
                       session.placement().layer_wise_threshold,
                       session.placement().devices.emulated ? "emulated" : "real",
                       placement::explain_table(session.model(), session.placement()),
                       placement::explain_summary(session.model()));
  } catch (const fs::filesystem_error& e) {
    fail(ErrorCode::kIo, e.path1().string(), "cannot be looked at: {}", e.code().message());
  }
}

}  // namespace kt::session
