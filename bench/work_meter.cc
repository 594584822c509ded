#include "bench/work_meter.h"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

namespace simm::bench {
namespace {

// User and system time of a process, in seconds; proc(5), fields 14 and 15 of stat.
double CpuSeconds(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

WorkMeter::WorkMeter(Target& target)
    : target_(target),
      start_(std::chrono::steady_clock::now()),
      before_(target.client().Stats()),
      cpu_before_(ServerCpuSeconds()) {}

double WorkMeter::ServerCpuSeconds() const {
  double seconds = 0;
  for (const pid_t pid : target_.ServerPids()) seconds += CpuSeconds(pid);
  return seconds;
}

void WorkMeter::AddTo(Outcome* outcome) const {
  const ClientStats now = target_.client().Stats();
  nlohmann::json& extra = outcome->extra;
  if (outcome->calls > 0) {
    extra["round_trips_per_call"] = static_cast<double>(now.round_trips - before_.round_trips) /
                                    static_cast<double>(outcome->calls);
  }
  extra["work_requests"] = now.work_requests - before_.work_requests;
  extra["doorbells"] = now.doorbells - before_.doorbells;
  extra["completions"] = now.completions - before_.completions;
  extra["validation_retries"] = now.validation_retries - before_.validation_retries;
  extra["lookups"] = now.lookups - before_.lookups;
  extra["retries"] = now.retries - before_.retries;
  extra["bounced_values"] = now.bounced_values - before_.bounced_values;
  extra["payload_bytes_copied"] = now.payload_bytes_copied - before_.payload_bytes_copied;
  extra["metered_seconds"] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  if (!target_.ServerPids().empty()) extra["server_cpu_seconds"] = ServerCpuSeconds() - cpu_before_;
}

}  // namespace simm::bench
