#include "dataserver/memory_limit.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include "common/base/bytes.h"

namespace simm::dataserver {
namespace {

// Version 1 says "no limit" by a number near 2^63.
constexpr uint64_t kNoLimit = uint64_t{1} << 62;

struct Names {
  const char* limit;
  const char* usage;
  const char* inactive;  // of memory.stat: page cache, tmpfs not included
  const char* active;
};
constexpr Names kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                             "total_inactive_file", "total_active_file"};
constexpr Names kVersion2 = {"memory.max", "memory.current", "inactive_file", "active_file"};

std::optional<uint64_t> ReadNumber(const std::string& path) {
  uint64_t value = 0;
  if (!(std::ifstream(path) >> value)) return std::nullopt;  // "max" is no number
  return value;
}

// "name value" lines.
std::map<std::string, uint64_t> ReadStat(const std::string& path) {
  std::map<std::string, uint64_t> stat;
  std::ifstream file(path);
  for (std::string name, value; file >> name >> value;)
    stat[name] = std::strtoull(value.c_str(), nullptr, 10);
  return stat;
}

void Narrow(AvailableMemory* least, uint64_t bytes, std::string bound) {
  if (bytes < least->bytes) *least = {bytes, std::move(bound)};
}

void LookAtGroup(const std::string& folder, const std::string& path, const Names& names,
                 AvailableMemory* least) {
  const auto limit = ReadNumber(folder + path + "/" + names.limit);
  const auto usage = ReadNumber(folder + path + "/" + names.usage);
  if (!limit || !usage || *limit >= kNoLimit) return;
  auto stat = ReadStat(folder + path + "/memory.stat");
  const uint64_t cache = stat[names.inactive] + stat[names.active];
  const uint64_t held = *usage > cache ? *usage - cache : 0;
  Narrow(least, *limit > held ? *limit - held : 0,
         "the control group " + (path.empty() ? "/" : path) + ", limit " + FormatSize(*limit));
}

// The group and those around it: each limit holds.
void LookUpwards(const std::string& folder, std::string path, const Names& names,
                 AvailableMemory* least) {
  while (!path.empty() && path.back() == '/') path.pop_back();
  while (true) {
    LookAtGroup(folder, path, names, least);
    if (path.empty()) return;
    path.erase(path.rfind('/'));
  }
}

bool HoldsMemory(const std::string& controllers) {
  const std::string list = "," + controllers + ",";
  return list.find(",memory,") != std::string::npos;
}

}  // namespace

AvailableMemory FindAvailableMemory(const std::string& proc, const std::string& cgroups) {
  AvailableMemory least;
  std::ifstream machine(proc + "/meminfo");
  for (std::string name, rest; machine >> name && std::getline(machine, rest);) {
    if (name == "MemAvailable:")
      Narrow(&least, std::strtoull(rest.c_str(), nullptr, 10) << 10, "this machine");
  }
  // "number:controllers:path"; version 2 has the number 0 and names none.
  std::ifstream groups(proc + "/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      LookUpwards(cgroups, path, kVersion2, &least);
      LookUpwards(cgroups + "/unified", path, kVersion2, &least);
    } else if (HoldsMemory(controllers)) {
      LookUpwards(cgroups + "/memory", path, kVersion1, &least);
    }
  }
  return least;
}

}  // namespace simm::dataserver
