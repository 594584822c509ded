#include "common/base/host_facts.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

namespace simm {
namespace {

namespace fs = std::filesystem;

// Of a machine with very many; the first by name.
constexpr size_t kMaxListed = 64;

std::string FirstLine(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

uint64_t NumberIn(const fs::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  file >> number;
  return file ? number : 0;
}

// /proc/meminfo: "MemTotal:       24637492 kB".
std::map<std::string, uint64_t> ReadMeminfo() {
  std::map<std::string, uint64_t> numbers;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream parts(line);
    std::string name, unit;
    uint64_t number = 0;
    if (!(parts >> name >> number) || name.empty()) continue;
    name.pop_back();
    numbers[name] = parts >> unit ? number * 1024 : number;
  }
  return numbers;
}

std::vector<fs::path> Entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
  }
  std::sort(entries.begin(), entries.end());
  if (entries.size() > kMaxListed) entries.resize(kMaxListed);
  return entries;
}

uint64_t LimitOf(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
}

}  // namespace

uint32_t RocePacketBytes(uint32_t interface_mtu) {
  // GRH 40, UDP 8, BTH 12, extended headers 4 + 28, ICRC 4: what the kernel leaves room for.
  constexpr uint32_t kHeaders = 96;
  for (uint32_t bytes = 4096; bytes >= 256; bytes /= 2) {
    if (bytes + kHeaders <= interface_mtu) return bytes;
  }
  return 0;
}

HostFacts ReadHostFacts() {
  HostFacts facts;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  facts.host_name = name.data();
  facts.processors = std::thread::hardware_concurrency();
  auto memory = ReadMeminfo();
  facts.memory_bytes = memory["MemTotal"];
  facts.available_bytes = memory["MemAvailable"];
  facts.huge_page_bytes = memory["Hugepagesize"];
  facts.huge_pages = memory["HugePages_Total"];
  facts.huge_pages_free = memory["HugePages_Free"];
  facts.memlock_bytes = LimitOf(RLIMIT_MEMLOCK);
  facts.open_files = LimitOf(RLIMIT_NOFILE);
  for (const fs::path& path : Entries("/sys/class/net")) {
    // 772: loopback (ARPHRD_LOOPBACK).
    if (NumberIn(path / "type") == 772) continue;
    const uint64_t mtu = NumberIn(path / "mtu");
    if (mtu == 0) continue;
    facts.interfaces.push_back(
        {path.filename(), static_cast<uint32_t>(mtu), FirstLine(path / "operstate") != "down"});
  }
  for (const fs::path& device : Entries("/sys/class/infiniband")) {
    for (const fs::path& port : Entries(device / "ports")) {
      // "4: ACTIVE"
      const std::string state = FirstLine(port / "state");
      const size_t colon = state.find(": ");
      RdmaPort entry{device.filename(),
                     static_cast<uint32_t>(std::stoul("0" + port.filename().string())),
                     colon == std::string::npos ? state : state.substr(colon + 2)};
      if (FirstLine(port / "link_layer") == "Ethernet") {
        entry.interface = FirstLine(port / "gid_attrs" / "ndevs" / "0");
        entry.interface_mtu =
            static_cast<uint32_t>(NumberIn(fs::path("/sys/class/net") / entry.interface / "mtu"));
      }
      facts.rdma_ports.push_back(std::move(entry));
    }
  }
  return facts;
}

}  // namespace simm
