#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "common/metrics/metrics.h"

namespace simm::metrics {
namespace {

struct ProcessFacts {
  double cpu_seconds = 0;
  double resident_bytes = 0;
  double threads = 0;
};

// From /proc/self/stat; zeros where it cannot be read. See proc(5).
ProcessFacts ReadStat() {
  ProcessFacts facts;
  std::ifstream in("/proc/self/stat");
  std::string line;
  std::getline(in, line);
  // Field 2 is the program's name in parentheses and may hold anything; field 3 follows the last
  // one.
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return facts;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  double user = 0, system = 0, pages = 0;
  for (int number = 3; number <= 24 && fields >> field; ++number) {
    const double value = std::strtod(field.c_str(), nullptr);
    if (number == 14) user = value;
    if (number == 15) system = value;
    if (number == 20) facts.threads = value;
    if (number == 24) pages = value;
  }
  facts.cpu_seconds = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  facts.resident_bytes = pages * static_cast<double>(sysconf(_SC_PAGESIZE));
  return facts;
}

double CountOpenFiles() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  double count = 0;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(folder);
  return count - 1;  // the folder itself
}

}  // namespace

void AddProcessMetrics(Registry& registry, const std::string& program, const std::string& version) {
  const double started =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  registry.AddCollector([=](Sink& sink) {
    const ProcessFacts facts = ReadStat();
    sink.Gauge("simm_build_info", "1, with program and version",
               {{"program", program}, {"version", version}}, 1);
    sink.Counter("process_cpu_seconds_total", "user and system time", {}, facts.cpu_seconds);
    sink.Gauge("process_resident_memory_bytes", "resident memory, shared mappings included", {},
               facts.resident_bytes);
    sink.Gauge("process_threads", "threads of the process", {}, facts.threads);
    sink.Gauge("process_open_fds", "open file descriptors", {}, CountOpenFiles());
    sink.Gauge("process_start_time_seconds", "start, since the Unix epoch", {}, started);
  });
}

}  // namespace simm::metrics
