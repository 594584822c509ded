#include "common/config/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "common/base/check.h"
#include "common/config/suggest.h"

namespace simm::config {
namespace {

// Variables of this house that programs other than the one being started read.
constexpr std::array<std::string_view, 4> kForeignVariables = {
    "SIMM_CLUSTER_MANAGER", "SIMM_REQUIRE_TRANSPORTS", "SIMM_CONFIG", "SIMM_TEST_SEED"};

std::string EnvironmentName(std::string_view name) {
  std::string variable = "SIMM_";
  for (const char c : name) {
    variable += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return variable;
}

// Kubernetes puts SIMM_..._SERVICE_HOST, ..._SERVICE_PORT and ..._PORT[_...] into every pod once a
// service's name begins with "simm": nobody's mistake.
bool IsFromKubernetes(std::string_view variable) {
  return variable.find("_SERVICE_HOST") != std::string_view::npos ||
         variable.find("_SERVICE_PORT") != std::string_view::npos || variable.ends_with("_PORT") ||
         variable.find("_PORT_") != std::string_view::npos;
}

Status Wrong(const std::string& why) { return Status(Code::kInvalidArgument, why); }

std::string YamlScalar(const std::string& text) {
  YAML::Emitter out;
  // An empty text, or one that YAML would read as something else, is quoted.
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
    out << YAML::DoubleQuoted;
  }
  out << text;
  return out.c_str();
}

std::string_view SourceName(Source source) {
  switch (source) {
    case Source::kDefault:
      return "default";
    case Source::kFile:
      return "file";
    case Source::kEnvironment:
      return "env";
    case Source::kFlag:
      return "flag";
  }
  return "";
}

// The scalar, or the elements of a sequence joined by commas for a list.
Result<std::string> FileValue(const YAML::Node& node, bool is_list) {
  if (node.IsScalar()) return node.Scalar();
  if (!is_list || !node.IsSequence()) {
    return Wrong(node.IsNull() ? "has no value" : "is not a single value");
  }
  std::string joined;
  for (const YAML::Node& element : node) {
    if (!element.IsScalar()) return Wrong("holds something that is not a single value");
    joined += (joined.empty() ? "" : ",") + element.Scalar();
  }
  return joined;
}

Status ReadYaml(const std::string& path, YAML::Node* root) {
  std::ifstream in(path);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) {
    // An empty file also ends here; it is a valid one.
    if (in && in.peek() == std::ifstream::traits_type::eof()) return Status::Ok();
    return Status(Code::kUnavailable, "the configuration file " + path +
                                          " (--config) cannot be read; check path and rights");
  }
  try {
    *root = YAML::Load(text.str());
  } catch (const YAML::Exception& error) {
    return Wrong("the configuration file " + path + " is not YAML: " + error.what());
  }
  if (!root->IsNull() && !root->IsMap()) {
    return Wrong("the configuration file " + path +
                 " must hold lines such as 'listen: 0.0.0.0:30001'");
  }
  return Status::Ok();
}

}  // namespace

struct ConfigSpec::Flags {
  std::vector<std::pair<std::string, std::string>> values;  // option name, text
  std::string config;
  bool help = false;
  bool version = false;
  bool print = false;
};

ConfigSpec::ConfigSpec(std::string program, std::string summary, std::string version)
    : program_(std::move(program)), summary_(std::move(summary)), version_(std::move(version)) {}

void ConfigSpec::Add(Option option) {
  SIMM_CHECK(Find(option.name) == nullptr, "option " + option.name + " is there twice");
  option.default_text = option.get();
  options_.push_back(std::move(option));
}

void ConfigSpec::Require(const std::string& name) {
  Option* option = Find(name);
  SIMM_CHECK(option != nullptr, "no option " + name);
  option->required = true;
}

void ConfigSpec::Check(std::function<Status()> check) { checks_.push_back(std::move(check)); }

ConfigSpec::Option* ConfigSpec::Find(std::string_view name) {
  return const_cast<Option*>(std::as_const(*this).Find(name));
}

const ConfigSpec::Option* ConfigSpec::Find(std::string_view name) const {
  const auto it = std::find_if(options_.begin(), options_.end(),
                               [&](const Option& option) { return option.name == name; });
  return it == options_.end() ? nullptr : &*it;
}

std::vector<std::string> ConfigSpec::Names() const {
  std::vector<std::string> names = {"config", "help", "version", "print-config"};
  for (const Option& option : options_) names.push_back(option.name);
  return names;
}

std::string ConfigSpec::DidYouMean(std::string_view name) const {
  const std::string meant = Suggest(name, Names());
  return meant.empty() ? "; see " + program_ + " --help" : "; did you mean " + meant + "?";
}

Result<ConfigSpec::Flags> ConfigSpec::ReadFlags(int argc, const char* const* argv) const {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "-h") {
      flags.help = true;
      continue;
    }
    if (!argument.starts_with("--") || argument.size() == 2) {
      return Wrong("'" + std::string(argument) + "' is no option; options begin with --; see " +
                   program_ + " --help");
    }
    const size_t equals = argument.find('=');
    const bool has_value = equals != std::string_view::npos;
    const std::string name(argument.substr(2, has_value ? equals - 2 : std::string_view::npos));
    bool* const wish = name == "help"           ? &flags.help
                       : name == "version"      ? &flags.version
                       : name == "print-config" ? &flags.print
                                                : nullptr;
    if (wish != nullptr && !has_value) {
      *wish = true;
      continue;
    }
    const Option* option = Find(name);
    if (option == nullptr && name != "config") {
      return Wrong("unknown option --" + name + DidYouMean(name));
    }
    std::string value;
    if (has_value) {
      value = argument.substr(equals + 1);
    } else if (option != nullptr && option->is_bool) {
      value = "true";
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      return Wrong("--" + name + " needs a value; allowed: " +
                   (option == nullptr ? "the path of a YAML file" : option->allowed));
    }
    if (option == nullptr) {
      flags.config = value;
    } else {
      flags.values.emplace_back(name, value);
    }
  }
  return flags;
}

Status ConfigSpec::SetValue(Option& option, const std::string& value, Source source,
                            const std::string& place) {
  if (const Status status = option.set(value); !status.ok()) {
    return Wrong(option.name + ": '" + value + "' (from " + place + ") " + status.message() +
                 "; allowed: " + option.allowed);
  }
  option.source = source;
  option.place = place;
  return Status::Ok();
}

Status ConfigSpec::ApplyFile(const std::string& path) {
  YAML::Node root;
  SIMM_RETURN_IF_ERROR(ReadYaml(path, &root));
  std::vector<std::string> seen;
  for (const auto& entry : root) {
    const std::string place = path + ":" + std::to_string(entry.first.Mark().line + 1);
    if (!entry.first.IsScalar())
      return Wrong(place + ": the name of an option is not a single word");
    std::string name = entry.first.Scalar();
    std::replace(name.begin(), name.end(), '_', '-');
    Option* option = Find(name);
    if (option == nullptr) {
      return Wrong(place + ": unknown option " + entry.first.Scalar() + DidYouMean(name));
    }
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return Wrong(place + ": option " + name + " is there twice");
    }
    seen.push_back(name);
    const Result<std::string> value = FileValue(entry.second, option->is_list);
    if (!value.ok()) {
      return Wrong(name + " (from " + place + ") " + value.status().message() +
                   "; allowed: " + option->allowed);
    }
    SIMM_RETURN_IF_ERROR(SetValue(*option, *value, Source::kFile, place));
  }
  return Status::Ok();
}

Status ConfigSpec::ApplyEnvironment(const char* const* environment,
                                    std::vector<std::string>* warnings) {
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view entry = *environment;
    const size_t equals = entry.find('=');
    if (!entry.starts_with("SIMM_") || equals == std::string_view::npos) continue;
    const std::string variable(entry.substr(0, equals));
    const auto option = std::find_if(
        options_.begin(), options_.end(),
        [&](const Option& candidate) { return EnvironmentName(candidate.name) == variable; });
    if (option != options_.end()) {
      SIMM_RETURN_IF_ERROR(
          SetValue(*option, std::string(entry.substr(equals + 1)), Source::kEnvironment, variable));
      continue;
    }
    const bool foreign = std::find(kForeignVariables.begin(), kForeignVariables.end(), variable) !=
                         kForeignVariables.end();
    if (foreign || IsFromKubernetes(variable)) continue;
    std::vector<std::string> variables;
    for (const Option& known : options_) variables.push_back(EnvironmentName(known.name));
    const std::string meant = Suggest(variable, variables);
    warnings->push_back("the environment variable " + variable + " is read by no option of " +
                        program_ + (meant.empty() ? "" : "; did you mean " + meant + "?"));
  }
  return Status::Ok();
}

Status ConfigSpec::CheckAll() const {
  for (const Option& option : options_) {
    if (option.required && option.source == Source::kDefault) {
      return Wrong("--" + option.name + " must be given (as a flag, as " +
                   EnvironmentName(option.name) +
                   " or in the file of --config); allowed: " + option.allowed);
    }
  }
  for (const auto& check : checks_) SIMM_RETURN_IF_ERROR(check());
  return Status::Ok();
}

Result<Loaded> ConfigSpec::Load(int argc, const char* const* argv, const char* const* environment) {
  Result<Flags> flags = ReadFlags(argc, argv);
  if (!flags.ok()) return flags.status();
  Loaded loaded;
  if (flags->help || flags->version) {
    loaded.exit = true;
    loaded.output = flags->help ? Help() : program_ + " " + version_ + "\n";
    return loaded;
  }
  std::string file = flags->config;
  for (auto entry = environment; file.empty() && entry != nullptr && *entry != nullptr; ++entry) {
    constexpr std::string_view kPrefix = "SIMM_CONFIG=";
    if (std::string_view(*entry).starts_with(kPrefix)) file = *entry + kPrefix.size();
  }
  if (!file.empty()) {
    if (const Status status = ApplyFile(file); !status.ok()) return status;
  }
  if (const Status status = ApplyEnvironment(environment, &loaded.warnings); !status.ok())
    return status;
  for (const auto& [name, value] : flags->values) {
    if (const Status status = SetValue(*Find(name), value, Source::kFlag, "--" + name);
        !status.ok()) {
      return status;
    }
  }
  if (flags->print) {
    loaded.exit = true;
    loaded.output = PrintConfig();
    return loaded;
  }
  if (const Status status = CheckAll(); !status.ok()) return status;
  return loaded;
}

std::optional<int> ConfigSpec::LoadOrExit(int argc, const char* const* argv,
                                          const char* const* environment,
                                          std::vector<std::string>* warnings) {
  Result<Loaded> loaded = Load(argc, argv, environment);
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), loaded.status().message().c_str());
    return 2;
  }
  if (loaded->exit) {
    std::fputs(loaded->output.c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  if (warnings != nullptr) *warnings = std::move(loaded->warnings);
  return std::nullopt;
}

Source ConfigSpec::SourceOf(const std::string& name) const {
  const Option* option = Find(name);
  SIMM_CHECK(option != nullptr, "no option " + name);
  return option->source;
}

std::vector<OptionValue> ConfigSpec::Effective() const {
  std::vector<OptionValue> values;
  for (const Option& option : options_) {
    std::string source(SourceName(option.source));
    if (option.source != Source::kDefault) source += " " + option.place;
    values.push_back({option.name, option.get(), std::move(source)});
  }
  return values;
}

std::string ConfigSpec::PrintConfig() const {
  std::string text;
  for (const Option& option : options_) {
    std::string line = option.name + ": ";
    const std::string value = option.get();
    line += option.is_list && value.empty() ? "[]" : YamlScalar(value);
    if (line.size() < 40) line.resize(40, ' ');
    line += "  # " + std::string(SourceName(option.source));
    if (option.source != Source::kDefault) line += " " + option.place;
    text += line + "\n";
  }
  return text;
}

std::string ConfigSpec::Help() const {
  std::string text = program_ + " " + version_ + ": " + summary_ + "\n\nUsage: " + program_ +
                     " [--option VALUE | --option=VALUE]...\n\nOptions:\n";
  const auto add = [&text](const std::string& left, const std::string& right) {
    std::string line = "  " + left;
    if (line.size() > 36) {
      text += line + "\n";
      line.clear();
    }
    line.resize(38, ' ');
    text += line + right + "\n";
  };
  for (const Option& option : options_) {
    std::string right = option.help;
    if (option.required) {
      right += " (must be given)";
    } else if (!option.default_text.empty()) {
      right += " [" + option.default_text + "]";
    }
    add("--" + option.name + (option.placeholder.empty() ? "" : " " + option.placeholder), right);
  }
  add("--config FILE", "YAML file with the same names (also SIMM_CONFIG)");
  add("--print-config",
      "print the configuration that would be used, and where each value came from");
  add("--version", "print the version");
  add("--help", "print this");
  const std::string example = options_.empty() ? "config" : options_.front().name;
  text += "\nIn rising order of precedence: default, file, environment variable (--" + example +
          " is " + EnvironmentName(example) +
          "),\nflag. Sizes: 4096, 64KiB, 1.5GiB. A wrong value or an unknown name "
          "ends the program with exit code 2.\n";
  return text;
}

}  // namespace simm::config
