#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace simm::config {

// Where the value of an option came from, in rising order of precedence.
enum class Source : uint8_t { kDefault, kFile, kEnvironment, kFlag };

// What Load has decided. With `exit` the program prints `output` to stdout and ends with success.
struct Loaded {
  bool exit = false;
  std::string output;                 // of --help, --version or --print-config
  std::vector<std::string> warnings;  // for the log: SIMM_ variables that no option reads
};

// An option in force: its value as text, and where that came from ("default", "flag --listen").
struct OptionValue {
  std::string name;
  std::string value;
  std::string source;
};

// The options of one program: each is bound to a field of the caller, whose value at the time of
// the call is the default. Load() then applies default < file (--config FILE, YAML) < environment
// (SIMM_<NAME>) < flags and checks every value, also those that a later source overrides.
// Thread-compatible; the fields must outlive it.
//
// Names are lower case with dashes ("data-listen"). In the file a dash may be written as an
// underscore; in the environment it is one and the name is upper case (SIMM_DATA_LISTEN).
class ConfigSpec {
 public:
  // `summary` is one line: what the program does.
  ConfigSpec(std::string program, std::string summary, std::string version);

  // Each adds one option. `help` is a phrase without a full stop; the default and what is allowed
  // are printed behind it.
  void String(const std::string& name, std::string* field, const std::string& help);
  // As a flag also without a value: --name means true. true/false, yes/no, on/off, 1/0.
  void Bool(const std::string& name, bool* field, const std::string& help);
  template <std::integral T>
  void Integer(const std::string& name, T* field, T min, T max, const std::string& help) {
    AddInteger(
        name, static_cast<int64_t>(*field), static_cast<int64_t>(min), static_cast<int64_t>(max),
        [field](int64_t value) { *field = static_cast<T>(value); }, help);
  }
  // Bytes, as ParseSize reads them.
  void Size(const std::string& name, uint64_t* field, uint64_t min, uint64_t max,
            const std::string& help);
  // Whole milliseconds, or a number with ms, s or m. The name ends in -ms by the house's rule.
  void DurationMs(const std::string& name, std::chrono::milliseconds* field,
                  std::chrono::milliseconds min, std::chrono::milliseconds max,
                  const std::string& help);
  void Choice(const std::string& name, std::string* field, std::vector<std::string> choices,
              const std::string& help);
  // HOST:PORT, port 0 (any free one) allowed; "off" too if `may_be_off`. The field keeps the text.
  void ListenAddress(const std::string& name, std::string* field, bool may_be_off,
                     const std::string& help);
  // NAME[,NAME..], or nothing for no names; in the file also a sequence.
  void Names(const std::string& name, std::vector<std::string>* field, const std::string& help);
  // HOST:PORT[,HOST:PORT..]; in the file also a sequence.
  void Addresses(const std::string& name, std::vector<std::string>* field, const std::string& help);

  // The option must be given by some source. --help and --print-config work without it.
  void Require(const std::string& name);
  // A check over several options; runs after all values are set. Its message should name the
  // options.
  void Check(std::function<Status()> check);

  // argv[0] is skipped; `environment` as in environ(7), may be null. kInvalidArgument names option,
  // value, source and what is allowed. kUnavailable: the file cannot be read.
  Result<Loaded> Load(int argc, const char* const* argv, const char* const* environment);

  // Load for a main(): prints output to stdout, an error to stderr. The exit code (0, or 2 after an
  // error) if the program must end now; otherwise nothing, and `warnings` (may be null) is filled.
  std::optional<int> LoadOrExit(int argc, const char* const* argv, const char* const* environment,
                                std::vector<std::string>* warnings);

  Source SourceOf(const std::string& name) const;
  // Each option as it is in force after Load.
  std::vector<OptionValue> Effective() const;
  // YAML, one option a line with its source as a comment; Load accepts it as a file.
  std::string PrintConfig() const;
  std::string Help() const;

 private:
  struct Option {
    std::string name;
    std::string placeholder;  // "SIZE"
    std::string help;
    std::string allowed;  // completes "allowed: ..."
    std::string default_text;
    std::function<Status(const std::string&)> set;  // its message says what is wrong with the text
    std::function<std::string()> get;               // as `set` would read it
    bool is_bool = false;
    bool is_list = false;
    bool required = false;
    Source source = Source::kDefault;
    std::string place;  // "simm.yaml:3", "SIMM_LISTEN", "--listen"
  };

  void Add(Option option);
  void AddInteger(const std::string& name, int64_t value, int64_t min, int64_t max,
                  std::function<void(int64_t)> assign, const std::string& help);
  Option* Find(std::string_view name);
  const Option* Find(std::string_view name) const;
  std::vector<std::string> Names() const;
  std::string DidYouMean(std::string_view name) const;

  struct Flags;
  Result<Flags> ReadFlags(int argc, const char* const* argv) const;
  Status SetValue(Option& option, const std::string& value, Source source,
                  const std::string& place);
  Status ApplyFile(const std::string& path);
  Status ApplyEnvironment(const char* const* environment, std::vector<std::string>* warnings);
  Status CheckAll() const;

  std::string program_;
  std::string summary_;
  std::string version_;
  std::vector<Option> options_;
  std::vector<std::function<Status()>> checks_;
};

}  // namespace simm::config
