#include "client/call_trace.h"

#include "common/base/bytes.h"
#include "common/base/log.h"

namespace simm::client {
namespace {

double Millis(Duration time) { return ToSeconds(time) * 1e3; }

std::string Outcomes(const SlowCall& call) {
  std::string text;
  for (size_t code = 0; code <= kMaxCode; ++code) {
    if (call.outcomes[code] == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(call.outcomes[code]) + " " +
            std::string(CodeName(static_cast<Code>(code)));
  }
  return text;
}

std::string Slowest(const CallTrace::Part& part) {
  if (part.took + part.connect == Duration::zero()) return "no server took long";
  const auto stage = [&](Stage which) { return Millis(part.stages[static_cast<size_t>(which)]); };
  return fmt::format(
      "slowest {} ({}) with {} keys over {}: connect {:.1f}, resolve {:.1f}, post {:.1f}, wire "
      "{:.1f}, validate {:.1f} ms; session {:016x}, request {}",
      part.server, part.address, part.keys,
      part.transport.empty() ? "no connection" : part.transport, Millis(part.connect),
      stage(Stage::kResolve), stage(Stage::kPost), stage(Stage::kWire), stage(Stage::kValidate),
      part.session, part.request);
}

}  // namespace

void LogSlowCall(const SlowCall& call, const CallTrace& trace) {
  SIMM_LOG_WARN(
      "slow {}: {:.1f} ms of {:.0f} for {} keys, {} ({}); queued {:.1f} ms, rounds {}, pauses "
      "{:.1f} ms; {}; client {}",
      call.op, Millis(call.took), Millis(call.deadline), call.keys, FormatSize(call.bytes),
      Outcomes(call), Millis(call.queued), trace.rounds, Millis(trace.pauses),
      Slowest(trace.slowest), call.client);
}

}  // namespace simm::client
