#pragma once

#include "bench/outcome.h"
#include "bench/target.h"

namespace simm::bench {

// One of each command of simm-bench. kInvalidArgument: the options cannot be run on this cluster.
Result<Outcome> RunPut(Target& target);
Result<Outcome> RunGet(Target& target);
Result<Outcome> RunExists(Target& target);
Result<Outcome> RunMixed(Target& target);
Result<Outcome> RunFill(Target& target);

class Trace;
Result<Outcome> RunTrace(Target& target, const Trace& trace);

}  // namespace simm::bench
