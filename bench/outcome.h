#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/histogram.h"
#include "bench/options.h"

namespace simm::bench {

// What a run found. Sums over all threads.
struct Outcome {
  double seconds = 0;
  uint64_t ops = 0;    // keys
  uint64_t bytes = 0;  // of values moved
  Histogram latency;   // of calls
  uint64_t calls = 0;  // those of the warm-up too
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t errors = 0;   // keys that ended in neither an answer nor a miss
  uint64_t corrupt = 0;  // values that were not what their key and version say
  nlohmann::json extra = nlohmann::json::object();  // of this command

  void Merge(const Outcome& other) {
    ops += other.ops;
    bytes += other.bytes;
    latency.Merge(other.latency);
    calls += other.calls;
    hits += other.hits;
    misses += other.misses;
    errors += other.errors;
    corrupt += other.corrupt;
  }
};

nlohmann::json LatencyJson(const Histogram& latency);
// The object of --json.
nlohmann::json ToJson(const Options& options, const std::string& transport, const Outcome& outcome);
// The same for people, with commit, machine and command.
void PrintForPeople(const Options& options, const nlohmann::json& result);
// "AMD EPYC 7B13, 2 CPUs, 23.4 GiB".
std::string DescribeMachine();

}  // namespace simm::bench
