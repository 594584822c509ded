#include "client/cli/session.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "common/base/bytes.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"

namespace simm::cli {
namespace {

// -1 when `digit` is none.
int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

bool FromHex(const std::string& text, std::string* bytes) {
  if (text.size() % 2 != 0) return false;
  bytes->clear();
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = HexValue(text[i]);
    const int low = HexValue(text[i + 1]);
    if (high < 0 || low < 0) return false;
    *bytes += static_cast<char>(high * 16 + low);
  }
  return true;
}

}  // namespace

int Session::Connect(std::unique_ptr<Client>* client) const {
  ClientOptions options;
  options.name_space = name_space;
  return ConnectWith(std::move(options), client);
}

int Session::ConnectWith(ClientOptions options, std::unique_ptr<Client>* client) const {
  Result<std::vector<std::string>> addresses = ParsePeerList(manager);
  if (!addresses.ok()) {
    std::fprintf(stderr, "simmctl: --manager: %s\n", addresses.status().message().c_str());
    return kUsage;
  }
  options.metrics_listen = "off";  // gone before anybody scrapes it
  options.addresses = std::move(*addresses);
  options.connect_timeout = timeout();
  Result<std::unique_ptr<Client>> connected = Client::Connect(options);
  if (!connected.ok()) return Fail(connected.status());
  *client = std::move(*connected);
  return kDone;
}

int Session::OpenAdmin(std::unique_ptr<Admin>* admin) const {
  Result<std::vector<std::string>> addresses = ParsePeerList(manager);
  if (!addresses.ok()) {
    std::fprintf(stderr, "simmctl: --manager: %s\n", addresses.status().message().c_str());
    return kUsage;
  }
  *admin = std::make_unique<Admin>(std::move(*addresses));
  return kDone;
}

int Session::ReadKey(const std::string& text, std::string* key) const {
  *key = text;
  if (hex_keys && !FromHex(text, key)) {
    std::fprintf(stderr, "simmctl: key '%s' is not hexadecimal; --hex-key wants pairs of digits\n",
                 text.c_str());
    return kUsage;
  }
  if (key->empty() || key->size() > limits::kMaxKeyBytes) {
    std::fprintf(stderr, "simmctl: a key has 1 to %zu bytes, this one %zu\n", limits::kMaxKeyBytes,
                 key->size());
    return kUsage;
  }
  return kDone;
}

int Session::Fail(const Status& status) const {
  std::fprintf(stderr, "simmctl: %s\n", status.message().c_str());
  if (status.code() == Code::kInvalidArgument) return kUsage;
  if (status.code() != Code::kUnavailable && status.code() != Code::kDeadlineExceeded) {
    return kRefused;
  }
  std::fprintf(stderr,
               "  nobody answers at %s; what to do:\n"
               "  - is the manager elsewhere?  simmctl --manager HOST:PORT ..., or set "
               "SIMM_CLUSTER_MANAGER\n"
               "  - is it running?             simm-manager --state DIR (and simm-dataserver)\n"
               "  - to try SiMM here:          ./deploy/quickstart.sh --keep\n",
               manager.c_str());
  return kUnreachable;
}

int Session::Confirm(bool yes, const std::string& question) const {
  if (yes) return kDone;
  if (isatty(STDIN_FILENO) == 0) {
    std::fprintf(stderr, "simmctl: %s; add --yes to do it\n", question.c_str());
    return kUsage;
  }
  std::fprintf(stderr, "%s. Do it? [y/N] ", question.c_str());
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "yes") return kDone;
  std::fprintf(stderr, "simmctl: nothing was done\n");
  return kUsage;
}

std::string Session::Paint(const std::string& text, Colour colour) const {
  if (!colours || json) return text;
  const char* const code = colour == Colour::kGood      ? "32"
                           : colour == Colour::kWarning ? "33"
                                                        : "31";
  return std::string("\x1b[1;") + code + "m" + text + "\x1b[0m";
}

void Session::PrintJson(const nlohmann::json& object) const {
  // A key may hold any bytes: what is not UTF-8 is replaced; --hex-key shows such keys exactly.
  std::printf("%s\n",
              object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

std::string Session::ShowKey(const std::string& key) const {
  return hex_keys ? ToHex(AsBytes(key)) : PrintableKey(key);
}

}  // namespace simm::cli
