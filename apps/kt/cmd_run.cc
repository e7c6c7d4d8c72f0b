// kt run: completes a prompt. The text goes to standard output, everything else to standard error.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "commands.h"
#include "conversation.h"
#include "input.h"
#include "interrupt.h"
#include "options.h"
#include "placement/explain.h"
#include "progress.h"

namespace kt::app {
namespace {

struct RunArgs {
  session::Options options;
  SamplingArgs sampling;
  std::string prompt;
  std::string prompt_file;
  std::string system;
  bool chat = false;
  bool echo = false;
  bool show_placement = false;
  bool quiet = false;
};

std::string wanted_prompt(const RunArgs& args, const CLI::App& command) {
  const bool given = command.count("--prompt") > 0;
  if (given == !args.prompt_file.empty()) {
    fail(ErrorCode::kUsage, "kt run", "give the prompt with either -p TEXT or --prompt-file FILE");
  }
  if (!args.system.empty() && !args.chat) {
    fail(ErrorCode::kUsage, "--system", "needs --chat, which makes a chat turn of the prompt");
  }
  if (!given) return read_text_file(args.prompt_file);
  check_utf8(args.prompt, "--prompt");
  return args.prompt;
}

bool print_piece(std::string_view piece) {
  return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size() &&
         std::fflush(stdout) == 0;
}

int run(RunArgs args, const std::string& prompt, session::TextRequest request) {
  InterruptWatcher interrupts;
  const auto loading = show_loading(args.options);
  const auto session = session::Session::open(args.options);
  loading->finish();
  args.sampling.advise(session->config().sampling, &request.sampling);
  if (args.show_placement) {
    std::fputs(placement::explain_table(session->model(), session->placement()).c_str(), stderr);
    std::fputs(("\n" + ready_screen(*session)).c_str(), stderr);
  }
  request.prompt = prompt;
  if (args.chat) {
    Conversation conversation;
    conversation.set_system(args.system);
    conversation.add("user", prompt);
    request.prompt = conversation.render(*session);
    request.parse_special = true;
    request.add_special = false;
  }
  const auto reading = show_prefill(request);
  if (args.echo) print_piece(prompt);
  bool unfinished_line = args.echo && !prompt.empty() && prompt.back() != '\n';
  request.on_text = [&](std::string_view piece) {
    reading->finish();
    if (!piece.empty()) unfinished_line = piece.back() != '\n';
    return print_piece(piece);
  };
  interrupts.set_handler([&session] { session->engine().cancel(); });
  const session::TextResult result = session::generate_text(*session, request);
  interrupts.set_handler({});
  reading->finish();
  if (unfinished_line) print_piece("\n");
  finish_trace(*session, args.options.trace_file);
  if (!args.quiet) {
    const std::string speed = session::speed_report(result.engine);
    std::fputs((load_line(session->load_report()) + speed).c_str(), stderr);
  }
  if (result.engine.reason == engine::FinishReason::kContextFull) {
    std::fprintf(stderr, "kt: the context of %lld tokens is full; --ctx makes it larger\n",
                 static_cast<long long>(session->engine().options().context));
  }
  return result.engine.reason == engine::FinishReason::kCancelled
             ? exit_status(ErrorCode::kCancelled)
             : 0;
}

}  // namespace

void add_run(CLI::App& root, Action& action) {
  auto args = std::make_shared<RunArgs>();
  CLI::App* command = root.add_subcommand("run", "Complete a prompt");
  command->group("Talk to a model");
  add_model_argument(*command, args->options.model);
  command->add_option("-p,--prompt", args->prompt, "The text to go on from")->type_name("TEXT");
  command
      ->add_option("--prompt-file", args->prompt_file,
                   "A file that holds the prompt; -: standard input")
      ->type_name("FILE");
  command->add_flag("--chat", args->chat,
                    "Make a user's chat turn of the prompt with the model's template");
  command->add_option("--system", args->system, "System message of --chat")->type_name("TEXT");
  command->add_flag("--echo", args->echo, "Print the prompt before its completion");
  command->add_flag("--show-placement", args->show_placement, "Print what runs where");
  command->add_flag("-q,--quiet", args->quiet, "No speed report");
  add_sampling_options(*command, args->sampling);
  add_model_options(*command, args->options);
  command->footer("The prompt is completed as it stands, unless --chat is given.\n\n" +
                  examples({"kt run model.gguf -p 'Once upon a time' -n 100",
                            "kt run smollm2 --chat -p 'Why is the sky blue?' --temp 0",
                            "git diff | kt run model.gguf --chat --prompt-file -"}));
  command->callback([args, command, &action] {
    action = [args, command] {
      const session::TextRequest request = args->sampling.request();
      return run(*args, wanted_prompt(*args, *command), request);
    };
  });
}

}  // namespace kt::app
