// kt serve: the HTTP server. It answers from the start (503 while the model loads); the first
// Ctrl-C or SIGTERM lets replies end, the second ends them.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "commands.h"
#include "input.h"
#include "interrupt.h"
#include "options.h"
#include "placement/explain.h"
#include "placement/machine.h"
#include "progress.h"
#include "serve/service.h"

namespace kt::app {
namespace {

struct ServeArgs {
  std::vector<std::string> models;  // MODEL or NAME=MODEL
  serve::ModelOptions model;        // what they have in common
  std::string name;                 // of the first
  double keep_alive = 300.0;        // seconds; below 0: for ever
  serve::AccessOptions access;
  serve::http::ServerOptions server;
  std::string key_file;
  std::string log_file;
  std::string otlp_endpoint;
  int drain_seconds = 30;
  std::string cache_folder;
  std::string cache_bytes = "16GiB";
};

std::vector<std::string> read_keys(const std::string& path) {
  std::vector<std::string> keys;
  std::string text = read_text_file(path);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(std::move(line));
    begin = end + 1;
  }
  if (keys.empty()) fail(ErrorCode::kBadFile, path, "has no key; one a line is wanted");
  return keys;
}

// One line of JSON a request, to a file or to standard error.
std::function<void(const std::string&)> make_log(const std::string& path) {
  if (path.empty()) return {};
  std::FILE* file = path == "-" ? stderr : std::fopen(path.c_str(), "ae");
  if (file == nullptr) fail(ErrorCode::kIo, path, "cannot be written");
  const std::shared_ptr<std::FILE> shared(file, [](std::FILE* f) {
    if (f != stderr) std::fclose(f);
  });
  const auto mutex = std::make_shared<std::mutex>();
  return [shared, mutex](const std::string& line) {
    const std::lock_guard lock(*mutex);
    std::fputs((line + "\n").c_str(), shared.get());
    std::fflush(shared.get());
  };
}

std::vector<serve::ModelOptions> model_options(const ServeArgs& args) {
  std::vector<serve::ModelOptions> all;
  for (const std::string& text : args.models) {
    serve::ModelOptions options = args.model;
    const std::size_t equals = text.find('=');
    const bool named = equals != std::string::npos && text.find('/') > equals;
    if (named) options.id = text.substr(0, equals);
    options.session.model = named ? text.substr(equals + 1) : text;
    if (all.empty() && !args.name.empty()) options.id = args.name;
    all.push_back(std::move(options));
  }
  return all;
}

// Waits for the model with a progress bar, and tells what runs where. False when interrupted.
bool await_model(serve::ServedModel& model, const std::function<bool()>& interrupted) {
  Progress bar("loading");
  while (!model.wait_open(std::chrono::milliseconds(100))) {
    if (interrupted()) return false;
    const auto loading = model.worker().loading();
    bar.update(loading.done, loading.total,
               transfer_detail(loading.done, loading.total, loading.rate));
  }
  bar.finish();
  for (const std::string& warning : model.worker().warnings())
    std::fputs((warning + "\n").c_str(), stderr);
  std::string screen;
  model.worker().call([&](session::Session& session) { screen = ready_screen(session); });
  std::fputs(screen.c_str(), stderr);
  return true;
}

std::string url(const ServeArgs& args, std::uint16_t port) {
  const bool six = args.server.host.find(':') != std::string::npos;
  const char* scheme = args.server.certificate.empty() ? "http" : "https";
  return fmt::format("{}://{}:{}", scheme, six ? "[" + args.server.host + "]" : args.server.host,
                     port);
}

std::shared_ptr<io::PageStore> open_page_store(const ServeArgs& args) {
  const std::uint64_t bytes = placement::parse_bytes(args.cache_bytes, "--cache-disk-size");
  if (args.cache_folder.empty()) return nullptr;
  return std::make_shared<io::PageStore>(args.cache_folder, bytes);
}

int serve(ServeArgs args) {
  InterruptWatcher interrupts(InterruptWatcher::Kind::kService);
  for (const std::string& key : args.access.keys) {
    if (key.empty()) fail(ErrorCode::kUsage, "--api-key", "an empty key would let everybody in");
  }
  const std::vector<std::string> flag_keys = args.access.keys;
  const auto all_keys = [&] {
    std::vector<std::string> keys = read_keys(args.key_file);
    keys.insert(keys.end(), flag_keys.begin(), flag_keys.end());
    return keys;
  };
  if (!args.key_file.empty()) args.access.keys = all_keys();
  args.access.host = args.server.host;
  serve::ServiceOptions options;
  options.access = args.access;
  options.log = make_log(args.log_file);
  options.page_store = args.model.session.page_store = open_page_store(args);
  std::optional<serve::TraceSender> traces;
  if (!args.otlp_endpoint.empty()) {
    options.traces = &traces.emplace(serve::TraceSenderOptions{
        args.otlp_endpoint,
        [](const std::string& message) { std::fprintf(stderr, "kt: %s\n", message.c_str()); }});
  }
  std::atomic<bool> ready{false};  // ready_screen() tells of the first model's first opening
  args.model.on_open = [&](const std::string& id, const session::LoadReport& report) {
    if (!ready) return;
    const std::string gpus = report.gpus.empty() ? "" : report.gpus + "\n";
    std::fprintf(stderr, "kt: %s: %s%s", id.c_str(), load_line(report).c_str(), gpus.c_str());
  };
  serve::Models models(
      model_options(args),
      args.keep_alive < 0
          ? serve::Models::kForever
          : std::chrono::milliseconds(static_cast<std::int64_t>(args.keep_alive * 1000.0)));
  const std::shared_ptr<serve::ServedModel> model = models.peek({});
  serve::Service service(options, models);
  serve::http::Server server(args.server, service);
  std::atomic<int> n_signals{0};
  interrupts.set_handler([&] {
    const int n = ++n_signals;
    if (n == 1) std::fputs("\nkt: no new requests; once more ends those in progress\n", stderr);
    server.stop(n == 1 ? std::chrono::seconds(args.drain_seconds) : std::chrono::seconds(0));
  });
  interrupts.set_hangup_handler([&] {
    if (args.key_file.empty()) return;
    try {
      service.access().set_keys(all_keys());
    } catch (const std::exception& e) {
      std::fprintf(stderr, "kt: the keys stay as they were: %s\n", e.what());
    }
  });
  std::thread thread([&server] { server.run(); });
  int status = 0;
  try {
    if (await_model(*model, [&] { return n_signals > 0; })) {
      std::fprintf(stderr, "serving %s at %s\n", model->facts().id.c_str(),
                   url(args, server.port()).c_str());
      ready = true;
    }
  } catch (...) {
    interrupts.set_handler([] {});
    interrupts.set_hangup_handler({});
    server.stop(std::chrono::seconds(0));
    thread.join();
    models.close();
    throw;
  }
  thread.join();
  interrupts.set_handler([] {});
  interrupts.set_hangup_handler({});
  models.close();
  return status;
}

constexpr const char* kGroup = "Server";

CLI::Option* add_text(CLI::App& command, const char* name, std::string& value, const char* type,
                      const char* help) {
  return command.add_option(name, value, help)->type_name(type)->group(kGroup);
}

template <class T>
CLI::Option* add_number(CLI::App& command, const char* name, T& value, const CLI::Validator& check,
                        const char* help) {
  return command.add_option(name, value, help)
      ->type_name("N")
      ->check(check)
      ->capture_default_str()
      ->group(kGroup);
}

// Values with commas, or the flag several times.
void add_list(CLI::App& command, const char* name, std::vector<std::string>& values,
              const char* type, const char* help) {
  command.add_option(name, values, help)
      ->type_name(type)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->delimiter(',')
      ->group(kGroup);
}

void add_server_options(CLI::App& command, ServeArgs& args) {
  add_text(command, "--host", args.server.host, "NAME",
           "Address to listen on; 0.0.0.0: all of this machine")
      ->capture_default_str();
  add_number(command, "--port", args.server.port, whole_number(0, 65535),
             "Port to listen on; 0: any that is free");
  add_list(command, "--api-key", args.access.keys, "KEY",
           "Key that requests must show; several with commas");
  add_text(command, "--api-key-file", args.key_file, "FILE", "Keys, one a line");
  add_list(command, "--cors-origins", args.access.origins, "URL",
           "Pages of other sites that may ask; *: all");
  CLI::Option* certificate = add_text(command, "--ssl-certfile", args.server.certificate, "FILE",
                                      "Certificate chain in PEM: HTTPS; needs --ssl-keyfile");
  CLI::Option* key =
      add_text(command, "--ssl-keyfile", args.server.key, "FILE", "Its private key in PEM");
  certificate->needs(key);
  key->needs(certificate);
  add_text(command, "--log-jsonl", args.log_file, "FILE",
           "A line of JSON for each request; -: standard error");
  add_text(command, "--otlp-endpoint", args.otlp_endpoint, "URL",
           "Send traces of requests to this OpenTelemetry collector, http://HOST:PORT");
  add_number(command, "--drain", args.drain_seconds, whole_number(0, 86400),
             "Seconds that replies may take after Ctrl-C");
}

void add_batch_options(CLI::App& command, ServeArgs& args) {
  add_text(command, "--model-name", args.name, "NAME", "Name of the first model in requests");
  add_number(command, "--max-batch-size", args.model.max_running, whole_number(1, 1024),
             "Requests computed together");
  add_number(command, "--max-queue", args.model.max_waiting, whole_number(0, 100000),
             "Requests that may wait");
  add_number(command, "--cache-lens", args.model.session.cache_tokens,
             whole_number(0, std::int64_t{1} << 40),
             "Tokens in the key/value cache, of all requests together; 0: one context");
  CLI::Option* folder =
      add_text(command, "--cache-disk", args.cache_folder, "FOLDER",
               "Keep what leaves the key/value cache here, also for the next start");
  add_text(command, "--cache-disk-size", args.cache_bytes, "SIZE", "What that may take")
      ->capture_default_str()
      ->needs(folder);
  add_number(
      command, "--keep-alive", args.keep_alive, real_number(-1, 1e9),
      "Seconds that a model other than the first stays after its last request; -1: for ever");
  add_text(command, "--chat-template", args.model.session.chat_template, "FILE",
           "Jinja template to take instead of the model's own");
}

}  // namespace

void add_serve(CLI::App& root, Action& action) {
  auto args = std::make_shared<ServeArgs>();
  CLI::App* command = root.add_subcommand("serve", "Serve models over HTTP");
  command->option_defaults()->take_last();
  command->group("Talk to a model");
  command
      ->add_option(
          "MODEL", args->models,
          "As of `kt run`, or NAME=MODEL; the first is opened at once, others when asked for")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("");
  add_server_options(*command, *args);
  add_batch_options(*command, *args);
  add_model_options(*command, args->model.session);
  command->footer(
      "OpenAI's and Anthropic's APIs are at /v1, Ollama's at /api, the chat page at /.\n"
      "Flags and ~/.ktransformers/config.yaml of the original server are understood.\n\n" +
      examples(
          {"kt serve smollm2", "kt serve model.gguf --port 8080 --ctx 16384 --api-key SECRET"}));
  command->callback([args, &action] { action = [args] { return serve(*args); }; });
}

}  // namespace kt::app
