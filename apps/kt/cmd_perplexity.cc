// kt perplexity: how well a model predicts a text, measured window by window.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "commands.h"
#include "input.h"
#include "options.h"
#include "print.h"
#include "progress.h"
#include "session/perplexity.h"

namespace kt::app {
namespace {

struct PerplexityArgs {
  session::Options options;
  std::string file;
};

int measure_perplexity(PerplexityArgs args) {
  constexpr std::int64_t kWindow = 512;
  const std::string text = read_text_file(args.file);
  const std::int64_t window = args.options.context > 0 ? args.options.context : kWindow;
  args.options.context = window;
  const auto loading = show_loading(args.options);
  const auto session = session::Session::open(args.options);
  loading->finish();
  const text::Tokenizer* tokenizer = session->tokenizer();
  if (tokenizer == nullptr) {
    fail(ErrorCode::kMismatch, args.options.model,
         "has no tokenizer; perplexity of a text needs one");
  }
  session::PerplexityOptions options;
  options.window = window;
  if (tokenizer->adds_bos()) options.bos = tokenizer->bos().value_or(-1);
  Progress bar("measuring");
  options.on_window = [&bar](std::int64_t done, std::int64_t total, double perplexity) {
    bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total),
               fmt::format("{} / {} windows  perplexity {:.4f}", done, total, perplexity));
  };
  const session::PerplexityResult result =
      session::perplexity(session->engine(), tokenizer->encode(text, true, false), options);
  bar.finish();
  std::fputs(fmt::format("perplexity: {:.4f} ± {:.4f} over {} tokens in windows of {} ({})\n",
                         result.perplexity, result.standard_error, result.n_scored, window,
                         format_duration(result.seconds))
                 .c_str(),
             stdout);
  finish_trace(*session, args.options.trace_file);
  return 0;
}

}  // namespace

void add_perplexity(CLI::App& root, Action& action) {
  auto args = std::make_shared<PerplexityArgs>();
  CLI::App* command = root.add_subcommand("perplexity", "Measure how well a model predicts a text");
  command->group("Measure");
  add_model_argument(*command, args->options.model);
  command->add_option("-f,--file", args->file, "UTF-8 text; -: standard input")
      ->required()
      ->type_name("FILE");
  add_model_options(*command, args->options);
  command->footer("--ctx sets the window (512); the second half of each window is scored.\n\n" +
                  examples({"kt perplexity model.gguf --file text.txt --ctx 512"}));
  command->callback([args, &action] { action = [args] { return measure_perplexity(*args); }; });
}

}  // namespace kt::app
