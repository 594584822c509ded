#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "client/op_metrics.h"
#include "client/stage_times.h"
#include "common/base/clock.h"
#include "common/base/code.h"

namespace simm::client {

// What a call tells of itself at its end, where slow calls are logged.
struct CallTrace {
  // One server's part of one round.
  struct Part {
    std::string server, address;
    std::string_view transport;  // empty: it never got a connection
    uint64_t session = 0;
    uint64_t request = 0;  // the first message to the server; 0: one-sided
    size_t keys = 0;
    Duration connect = Duration::zero();  // until there was a connection for it
    Duration took = Duration::zero();     // from then on
    StageTimes stages{};
  };
  Instant begun;
  uint32_t rounds = 0;
  Duration pauses = Duration::zero();  // between the rounds
  Part slowest;                        // of the parts that took long; took 0: there was none
};

struct SlowCall {
  std::string_view op;
  std::string_view client;  // what data servers know this process by
  size_t keys = 0;
  uint64_t bytes = 0;  // of buffers or values
  Duration took = Duration::zero();
  Duration deadline = Duration::zero();
  Duration queued = Duration::zero();  // before it was begun
  std::array<size_t, kMaxCode + 1> outcomes{};
};

// One line, bounded as every line is.
void LogSlowCall(const SlowCall& call, const CallTrace& trace);

}  // namespace simm::client
