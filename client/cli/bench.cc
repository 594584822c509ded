#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "client/cli/session.h"
#include "client/cli/table.h"
#include "common/base/bytes.h"

namespace simm::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr char kNamespace[] = "simmctl-bench";
constexpr uint64_t kMaxBytes = 256 << 20;  // of values, of all threads

struct Arguments {
  double seconds = 3;
  uint64_t value_bytes = 1 << 20;
  size_t batch = 16;
  size_t threads = 1;
  std::string transport = "auto";
};

// What one phase did, of all threads.
struct Phase {
  uint64_t keys = 0;
  uint64_t failed = 0;  // neither done nor, of a get, a miss
  uint64_t misses = 0;
  uint64_t wrong = 0;  // bytes that nobody has put
  double seconds = 0;
  std::vector<double> call_ms;

  void Add(const Phase& other) {
    keys += other.keys;
    failed += other.failed;
    misses += other.misses;
    wrong += other.wrong;
    seconds = std::max(seconds, other.seconds);
    call_ms.insert(call_ms.end(), other.call_ms.begin(), other.call_ms.end());
  }
  double Percentile(double share) {
    if (call_ms.empty()) return 0;
    const auto at = static_cast<ptrdiff_t>(share * static_cast<double>(call_ms.size() - 1));
    std::nth_element(call_ms.begin(), call_ms.begin() + at, call_ms.end());
    return call_ms[static_cast<size_t>(at)];
  }
};

// One caller with its own keys. A value begins and ends with its key's number.
class Caller {
 public:
  Caller(Client& client, const Arguments& arguments, size_t number, size_t keys)
      : client_(client), arguments_(arguments), buffer_(arguments.batch * arguments.value_bytes) {
    for (size_t i = 0; i < keys; ++i) {
      keys_.push_back(std::to_string(number) + "-" + std::to_string(i));
    }
  }

  Phase Run(bool put) {
    Phase phase;
    const auto start = SteadyClock::now();
    const auto end = start + std::chrono::duration<double>(arguments_.seconds);
    for (size_t first = 0; SteadyClock::now() < end || (put && first < keys_.size());
         first += arguments_.batch) {
      const auto before = SteadyClock::now();
      put ? Put(first, phase) : Get(first, phase);
      const std::chrono::duration<double, std::milli> took = SteadyClock::now() - before;
      phase.call_ms.push_back(took.count());
    }
    phase.seconds = std::chrono::duration<double>(SteadyClock::now() - start).count();
    return phase;
  }

 private:
  size_t KeyAt(size_t position) const { return position % keys_.size(); }
  char* Value(size_t i) { return buffer_.data() + i * arguments_.value_bytes; }

  void Put(size_t first, Phase& phase) {
    std::vector<PutItem> items;
    for (size_t i = 0; i < arguments_.batch; ++i) {
      const size_t key = KeyAt(first + i);
      Mark(Value(i), key);
      items.push_back({keys_[key], Value(i), arguments_.value_bytes});
    }
    PutOptions options;
    options.replace = true;
    options.ttl = std::chrono::minutes(10);
    for (const KeyResult& result : client_.Put(items, options)) {
      ++(result.code == Code::kOk ? phase.keys : phase.failed);
    }
  }
  void Get(size_t first, Phase& phase) {
    std::vector<GetItem> items;
    for (size_t i = 0; i < arguments_.batch; ++i) {
      items.push_back({keys_[KeyAt(first + i)], Value(i), arguments_.value_bytes});
    }
    const auto results = client_.Get(items, {});
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i].code == Code::kOk) {
        ++phase.keys;
        phase.wrong += !IsMarked(Value(i), KeyAt(first + i));
      } else {
        ++(results[i].code == Code::kMiss ? phase.misses : phase.failed);
      }
    }
  }
  void Mark(char* value, uint64_t key) const {
    std::memcpy(value, &key, sizeof key);
    std::memcpy(value + arguments_.value_bytes - sizeof key, &key, sizeof key);
  }
  bool IsMarked(const char* value, uint64_t key) const {
    return std::memcmp(value, &key, sizeof key) == 0 &&
           std::memcmp(value + arguments_.value_bytes - sizeof key, &key, sizeof key) == 0;
  }

  Client& client_;
  const Arguments& arguments_;
  std::vector<std::string> keys_;
  std::vector<char> buffer_;
};

Phase RunAll(std::vector<Caller>& callers, bool put) {
  std::vector<Phase> phases(callers.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < callers.size(); ++i) {
    threads.emplace_back([&, i] { phases[i] = callers[i].Run(put); });
  }
  for (std::thread& thread : threads) thread.join();
  Phase all;
  for (const Phase& phase : phases) all.Add(phase);
  return all;
}

nlohmann::json ToJson(Phase& phase, uint64_t value_bytes) {
  const double keys = static_cast<double>(phase.keys);
  return {{"keys", phase.keys},
          {"failed", phase.failed},
          {"misses", phase.misses},
          {"wrong", phase.wrong},
          {"seconds", phase.seconds},
          {"keys_per_s", keys / phase.seconds},
          {"bytes_per_s", keys * static_cast<double>(value_bytes) / phase.seconds},
          {"call_p50_ms", phase.Percentile(0.5)},
          {"call_p99_ms", phase.Percentile(0.99)}};
}

void PrintPhase(const char* name, Phase& phase, uint64_t value_bytes) {
  const double rate = static_cast<double>(phase.keys) / phase.seconds;
  std::printf("%s  %s (%s keys), a call p50 %.2f ms, p99 %.2f ms", name,
              FormatByteRate(rate * static_cast<double>(value_bytes)).c_str(),
              FormatRate(rate).c_str(), phase.Percentile(0.5), phase.Percentile(0.99));
  if (phase.misses != 0) std::printf(", %s misses", WithCommas(phase.misses).c_str());
  if (phase.failed != 0) std::printf(", %s FAILED", WithCommas(phase.failed).c_str());
  if (phase.wrong != 0) std::printf(", %s WRONG", WithCommas(phase.wrong).c_str());
  std::printf("\n");
}

int Run(const Session& session, const Arguments& arguments) {
  ClientOptions options;
  options.name_space = kNamespace;
  options.transport = arguments.transport;
  std::unique_ptr<Client> client;
  if (const int code = session.ConnectWith(options, &client); code != kDone) return code;
  const size_t keys = std::clamp<uint64_t>(kMaxBytes / arguments.value_bytes / arguments.threads,
                                           arguments.batch, 65536);
  std::vector<Caller> callers;
  for (size_t i = 0; i < arguments.threads; ++i) callers.emplace_back(*client, arguments, i, keys);
  Phase puts = RunAll(callers, true);
  Phase gets = RunAll(callers, false);
  (void)client->ClearNamespace({.deadline = session.timeout()});
  if (session.json) {
    session.PrintJson({{"value_bytes", arguments.value_bytes},
                       {"batch", arguments.batch},
                       {"threads", arguments.threads},
                       {"put", ToJson(puts, arguments.value_bytes)},
                       {"get", ToJson(gets, arguments.value_bytes)}});
  } else {
    std::printf(
        "%zu threads, %zu keys a call, %s a value; %zu keys of namespace %s, dropped "
        "afterwards\n",
        arguments.threads, arguments.batch, FormatSize(arguments.value_bytes).c_str(),
        keys * arguments.threads, kNamespace);
    PrintPhase("put", puts, arguments.value_bytes);
    PrintPhase("get", gets, arguments.value_bytes);
  }
  const bool good = puts.keys > 0 && puts.failed + gets.failed + puts.wrong + gets.wrong == 0;
  return good ? kDone : kRefused;
}

}  // namespace

void AddBench(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<Arguments>();
  auto size = std::make_shared<std::string>("1MiB");
  CLI::App* bench = app.add_subcommand(
      "bench", "A short load through the client library: puts, then gets (simm-bench has more)");
  bench->add_option("--seconds", arguments->seconds, "Of puts, and of gets")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  bench->add_option("--value-size", *size, "Bytes of a value: 8 to 256MiB")->capture_default_str();
  bench->add_option("--batch", arguments->batch, "Keys a call")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  bench->add_option("--threads", arguments->threads, "Callers at a time")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  bench->add_option("--transport", arguments->transport, "auto, shm, verbs or tcp")
      ->check(CLI::IsMember({"auto", "shm", "verbs", "tcp"}));
  bench->callback([&session, arguments, size] {
    session.command = [&session, arguments, size] {
      const Result<uint64_t> bytes = ParseSize(*size);
      if (!bytes.ok() || *bytes < sizeof(uint64_t) || *bytes > kMaxBytes ||
          *bytes * arguments->batch * arguments->threads > 16 * kMaxBytes) {
        std::fprintf(stderr,
                     "simmctl: --value-size '%s' is not a size from 8 to 256MiB, or --batch and "
                     "--threads make it more than 4 GiB\n",
                     size->c_str());
        return static_cast<int>(kUsage);
      }
      arguments->value_bytes = *bytes;
      return Run(session, *arguments);
    };
  });
}

}  // namespace simm::cli
