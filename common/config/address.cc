#include "common/config/address.h"

#include <charconv>

namespace simm::config {
namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

std::string Address::ToString() const {
  const std::string colon_port = ":" + std::to_string(port);
  return host.find(':') == std::string::npos ? host + colon_port : "[" + host + "]" + colon_port;
}

Result<Address> ParseAddress(std::string_view text, bool any_port) {
  const auto bad = [&](std::string_view why) {
    return Status(
        Code::kInvalidArgument,
        "'" + std::string(text) + "' " + std::string(why) +
            "; write HOST:PORT, such as 10.0.0.1:30001 or [::1]:30001, with a port from " +
            (any_port ? "0 (any free one)" : "1") + " to 65535");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return bad("has an IPv6 host without brackets");
  }
  if (host.empty()) return bad("has no host");
  if (host.find_first_of(" \t,/") != std::string_view::npos) return bad("is not one address");
  Address address{std::string(host), 0};
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), address.port);
  if (error != std::errc() || end != port_text.data() + port_text.size())
    return bad("has a wrong port");
  if (address.port == 0 && !any_port) return bad("has port 0");
  return address;
}

Result<std::vector<std::string>> ParseAddresses(std::string_view text) {
  std::vector<std::string> addresses;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = text.find(',', begin);
    if (end == std::string_view::npos) end = text.size();
    const std::string_view one = Trim(text.substr(begin, end - begin));
    Result<Address> address = ParseAddress(one, /*any_port=*/false);
    if (!address.ok()) return address.status();
    addresses.emplace_back(one);
    begin = end + 1;
  }
  return addresses;
}

}  // namespace simm::config
