#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "client/cli/session.h"

namespace simm::cli {
namespace {

// One command ("node drain"; empty: simmctl itself) with what may follow it.
struct Level {
  std::string command;
  std::vector<std::pair<std::string, std::string>> words;  // commands and options, with their help
};

void Collect(const CLI::App& app, const std::string& command, std::vector<Level>& levels) {
  Level level{command, {}};
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    level.words.emplace_back(sub->get_name(), sub->get_description());
    for (const std::string& alias : sub->get_aliases()) {
      level.words.emplace_back(alias, sub->get_description());
    }
  }
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      level.words.emplace_back("--" + name, option->get_description());
    }
  }
  levels.push_back(level);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    const std::string below = command + (command.empty() ? "" : " ");
    Collect(*sub, below + sub->get_name(), levels);
    for (const std::string& alias : sub->get_aliases()) Collect(*sub, below + alias, levels);
  }
}

std::string Quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// The words typed so far that are commands make the level; options of simmctl itself fit anywhere.
// The part that both shells read: inside a loop over the words before the cursor.
void PrintLevels(const std::vector<Level>& levels) {
  std::printf("    case \"${level:+$level }$word\" in\n");
  for (const Level& level : levels) {
    if (!level.command.empty()) std::printf("      %s) ;;\n", Quoted(level.command).c_str());
  }
  std::printf(
      "      *) continue ;;\n    esac\n    level=\"${level:+$level }$word\"\n  done\n"
      "  case \"$level\" in\n");
  for (const Level& level : levels) {
    std::string words;
    for (const auto& [word, help] : level.words) words += (words.empty() ? "" : " ") + word;
    if (!level.command.empty()) {
      for (const auto& [word, help] : levels.front().words) {
        if (word.starts_with("--")) words += " " + word;
      }
    }
    std::printf("    %s) candidates=%s ;;\n", Quoted(level.command).c_str(), Quoted(words).c_str());
  }
  std::printf("  esac\n");
}

void PrintBash(const std::vector<Level>& levels) {
  std::printf(
      "_simmctl() {\n  local word level= candidates=\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n");
  PrintLevels(levels);
  std::printf(
      "  mapfile -t COMPREPLY < <(compgen -W \"$candidates\" -- \"${COMP_WORDS[COMP_CWORD]}\")\n"
      "}\ncomplete -o default -F _simmctl simmctl\n");
}

void PrintZsh(const std::vector<Level>& levels) {
  std::printf(
      "#compdef simmctl\n_simmctl() {\n  local word level= candidates=\n"
      "  for word in \"${words[@]:1:CURRENT-2}\"; do\n");
  PrintLevels(levels);
  std::printf("  compadd -- ${=candidates}\n  _files\n}\ncompdef _simmctl simmctl\n");
}

void PrintFish(const std::vector<Level>& levels) {
  std::printf("complete -c simmctl -f\n");
  for (const Level& level : levels) {
    std::string condition = "__fish_use_subcommand";
    if (!level.command.empty()) {
      condition = "__fish_seen_subcommand_from " + level.command.substr(0, level.command.find(' '));
      const size_t space = level.command.find(' ');
      if (space != std::string::npos) {
        condition += "; and __fish_seen_subcommand_from " + level.command.substr(space + 1);
      }
    }
    for (const auto& [word, help] : level.words) {
      const bool is_option = word.starts_with("--");
      // simmctl's own options fit anywhere.
      const bool always = is_option && level.command.empty();
      std::printf("complete -c simmctl%s %s %s -d %s\n",
                  always ? "" : (" -n " + Quoted(condition)).c_str(), is_option ? "-l" : "-a",
                  Quoted(is_option ? word.substr(2) : word).c_str(), Quoted(help).c_str());
    }
  }
}

}  // namespace

void AddCompletion(CLI::App& app, Session& session) {
  auto shell = std::make_shared<std::string>();
  CLI::App* completion =
      app.add_subcommand("completion", "Prints what makes a shell complete simmctl's commands");
  completion->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([&app, &session, shell] {
    session.command = [&app, shell] {
      std::vector<Level> levels;
      Collect(app, "", levels);
      if (*shell == "bash") PrintBash(levels);
      if (*shell == "zsh") PrintZsh(levels);
      if (*shell == "fish") PrintFish(levels);
      return static_cast<int>(kDone);
    };
  });
}

}  // namespace simm::cli
