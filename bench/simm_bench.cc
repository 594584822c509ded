#include <cstdio>
#include <memory>
#include <optional>

#include "bench/commands.h"
#include "bench/options.h"
#include "bench/outcome.h"
#include "bench/progress.h"
#include "bench/target.h"
#include "bench/trace.h"
#include "common/base/log.h"

namespace simm::bench {
namespace {

enum ExitCode : int { kDone = 0, kWrong = 1, kUsage = 2, kNoCluster = 3 };

Result<Outcome> RunOp(Target& target, const std::optional<Trace>& trace) {
  const std::string& op = target.options().op;
  if (op == "put") return RunPut(target);
  if (op == "get") return RunGet(target);
  if (op == "exists") return RunExists(target);
  if (op == "mixed") return RunMixed(target);
  if (op == "fill") return RunFill(target);
  return RunTrace(target, *trace);
}

int Complain(const Status& status, ExitCode code) {
  std::fprintf(stderr, "simm-bench: %s\n", status.message().c_str());
  return status.code() == Code::kInvalidArgument ? kUsage : code;
}

// What the same trace gave simulated caches, one LRU of the whole capacity among them.
void PrintTraceTable() {
  std::printf(
      "  prefix hit rates of the conversation trace, simulated, by capacity in distinct blocks:\n"
      "    capacity   FIFO    LRU   S3-FIFO  Belady (bound)\n"
      "       1 %%     .051   .052    .077     .243\n"
      "       3 %%     .118   .125    .152     .346\n"
      "      10 %%     .248   .278    .244     .366\n"
      "      30 %%     .337   .358    .349     .366\n");
}

int Main(int argc, char** argv) {
  Options options;
  if (const std::optional<int> code = ParseOptions(argc, argv, &options)) return *code;
  InitLog("simm-bench", "warn", false);
  CatchInterrupts();
  std::optional<Trace> trace;
  if (options.op == "trace") {
    Result<Trace> read = Trace::Read(options.file, options.limit);
    if (!read.ok()) return Complain(read.status(), kUsage);
    trace = std::move(*read);
    if (const Status sized = SizeForTrace(*trace, &options); !sized.ok()) {
      return Complain(sized, kUsage);
    }
  }
  Result<std::unique_ptr<Target>> target = Target::Open(options);
  if (!target.ok()) return Complain(target.status(), kNoCluster);
  Result<Outcome> outcome = RunOp(**target, trace);
  if (!outcome.ok()) return Complain(outcome.status(), kWrong);
  // Values that the library's own validation kept from us: served as misses, wrong all the same.
  outcome->corrupt += (*target)->client().Stats().corrupt;
  const nlohmann::json json = ToJson(options, (*target)->Transport(), *outcome);
  if (options.json) {
    std::printf("%s\n", json.dump().c_str());
  } else {
    PrintForPeople(options, json);
    if (trace.has_value()) PrintTraceTable();
  }
  if (outcome->corrupt > 0) {
    std::fprintf(stderr, "simm-bench: %lu values were WRONG\n", outcome->corrupt);
  }
  return outcome->corrupt > 0 || outcome->ops == 0 || Interrupted() ? kWrong : kDone;
}

}  // namespace
}  // namespace simm::bench

int main(int argc, char** argv) { return simm::bench::Main(argc, argv); }
