#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <memory>
#include <utility>

#include "common/base/bytes.h"
#include "common/base/host_port.h"
#include "common/config/config.h"

// The types of options: how each reads its text and what it says is allowed.
namespace simm::config {
namespace {

Status Wrong(const std::string& why) { return Status(Code::kInvalidArgument, why); }

std::string ToLower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

bool ParseInteger(std::string_view text, int64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

Result<std::chrono::milliseconds> ParseMilliseconds(std::string_view text) {
  int64_t scale = 1;
  std::string_view number = text;
  if (number.ends_with("ms")) {
    number.remove_suffix(2);
  } else if (number.ends_with("s")) {
    number.remove_suffix(1);
    scale = 1000;
  } else if (number.ends_with("m")) {
    number.remove_suffix(1);
    scale = 60'000;
  }
  int64_t value = 0;
  if (!ParseInteger(number, &value) || value > INT64_MAX / scale || value < INT64_MIN / scale) {
    return Wrong("not a duration");
  }
  return std::chrono::milliseconds(value * scale);
}

// A number with the largest size unit that divides it, so that ParseSize gives it back.
std::string ExactSize(uint64_t bytes) {
  constexpr std::array<std::string_view, 4> kUnits = {"", "KiB", "MiB", "GiB"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return std::to_string(bytes) + std::string(kUnits[unit]);
}

std::string Join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += separator;
    text += part;
  }
  return text;
}

}  // namespace

void ConfigSpec::String(const std::string& name, std::string* field, const std::string& help) {
  Add({.name = name,
       .placeholder = "TEXT",
       .help = help,
       .allowed = "any text",
       .default_text = {},
       .set =
           [field](const std::string& text) {
             *field = text;
             return Status::Ok();
           },
       .get = [field] { return *field; },
       .place = {}});
}

void ConfigSpec::Bool(const std::string& name, bool* field, const std::string& help) {
  const auto set = [field](const std::string& text) {
    const std::string word = ToLower(text);
    if (word == "true" || word == "yes" || word == "on" || word == "1") {
      *field = true;
    } else if (word == "false" || word == "no" || word == "off" || word == "0") {
      *field = false;
    } else {
      return Wrong("is neither true nor false");
    }
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "",
       .help = help,
       .allowed = "true or false",
       .default_text = {},
       .set = set,
       .get = [field] { return std::string(*field ? "true" : "false"); },
       .is_bool = true,
       .place = {}});
}

void ConfigSpec::AddInteger(const std::string& name, int64_t value, int64_t min, int64_t max,
                            std::function<void(int64_t)> assign, const std::string& help) {
  auto current = std::make_shared<int64_t>(value);
  const auto set = [=](const std::string& text) {
    int64_t number = 0;
    if (!ParseInteger(text, &number)) return Wrong("is not a whole number");
    if (number < min || number > max) return Wrong("is out of range");
    *current = number;
    assign(number);
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "N",
       .help = help,
       .allowed = "a whole number from " + std::to_string(min) + " to " + std::to_string(max),
       .default_text = {},
       .set = set,
       .get = [current] { return std::to_string(*current); },
       .place = {}});
}

void ConfigSpec::Size(const std::string& name, uint64_t* field, uint64_t min, uint64_t max,
                      const std::string& help) {
  const auto set = [=](const std::string& text) {
    const Result<uint64_t> bytes = ParseSize(text);
    if (!bytes.ok()) return Wrong("is not a size");
    if (*bytes < min || *bytes > max) return Wrong("is out of range");
    *field = *bytes;
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "SIZE",
       .help = help,
       .allowed =
           "a size such as 4096, 64KiB or 1.5GiB, from " + ExactSize(min) + " to " + ExactSize(max),
       .default_text = {},
       .set = set,
       .get = [field] { return ExactSize(*field); },
       .place = {}});
}

void ConfigSpec::DurationMs(const std::string& name, std::chrono::milliseconds* field,
                            std::chrono::milliseconds min, std::chrono::milliseconds max,
                            const std::string& help) {
  const auto set = [=](const std::string& text) {
    const Result<std::chrono::milliseconds> value = ParseMilliseconds(text);
    if (!value.ok()) return Wrong("is not a duration");
    if (*value < min || *value > max) return Wrong("is out of range");
    *field = *value;
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "MS",
       .help = help,
       .allowed = "milliseconds from " + std::to_string(min.count()) + " to " +
                  std::to_string(max.count()) + ", or with a unit: 500ms, 3s, 1m",
       .default_text = {},
       .set = set,
       .get = [field] { return std::to_string(field->count()); },
       .place = {}});
}

void ConfigSpec::Choice(const std::string& name, std::string* field,
                        std::vector<std::string> choices, const std::string& help) {
  const std::string listed = Join(choices, "|");
  const auto set = [field, choices](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return Wrong("is not one of the choices");
    }
    *field = text;
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = listed,
       .help = help,
       .allowed = "one of " + Join(choices, ", "),
       .default_text = {},
       .set = set,
       .get = [field] { return *field; },
       .place = {}});
}

void ConfigSpec::ListenAddress(const std::string& name, std::string* field, bool may_be_off,
                               const std::string& help) {
  const auto set = [=](const std::string& text) {
    if (!(may_be_off && text == "off")) {
      const Result<HostPort> address = ParseHostPort(text);
      if (!address.ok()) return Wrong("is not an address");
    }
    *field = text;
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = may_be_off ? "HOST:PORT|off" : "HOST:PORT",
       .help = help,
       .allowed =
           std::string("HOST:PORT, such as 0.0.0.0:30001 or [::]:30001, port 0 for any free one") +
           (may_be_off ? ", or off" : ""),
       .default_text = {},
       .set = set,
       .get = [field] { return *field; },
       .place = {}});
}

void ConfigSpec::Names(const std::string& name, std::vector<std::string>* field,
                       const std::string& help) {
  const auto set = [field](const std::string& text) {
    std::vector<std::string> names;
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      const std::string one = text.substr(begin, end - begin);
      const size_t first = one.find_first_not_of(" \t");
      if (first != std::string::npos)
        names.push_back(one.substr(first, one.find_last_not_of(" \t") - first + 1));
      else if (!text.empty())
        return Wrong("has an empty name in it");
      begin = end + 1;
    }
    *field = std::move(names);
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "NAME[,..]",
       .help = help,
       .allowed = "names separated by commas, or nothing",
       .default_text = {},
       .set = set,
       .get = [field] { return Join(*field, ","); },
       .is_list = true,
       .place = {}});
}

void ConfigSpec::Addresses(const std::string& name, std::vector<std::string>* field,
                           const std::string& help) {
  const auto set = [field](const std::string& text) {
    Result<std::vector<std::string>> addresses = ParsePeerList(text);
    if (!addresses.ok()) return Wrong("is not a list of addresses");
    *field = std::move(*addresses);
    return Status::Ok();
  };
  Add({.name = name,
       .placeholder = "HOST:PORT[,..]",
       .help = help,
       .allowed = "HOST:PORT, several separated by commas, such as 10.0.0.1:30001,10.0.0.2:30001",
       .default_text = {},
       .set = set,
       .get = [field] { return Join(*field, ","); },
       .is_list = true,
       .place = {}});
}

}  // namespace simm::config
