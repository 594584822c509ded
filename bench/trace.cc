#include "bench/trace.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "common/protocol/pool_layout.h"

namespace simm::bench {
namespace {

constexpr uint64_t kDefaultValueBytes = 64 << 10;
constexpr uint64_t kLeastValueBytes = 1 << 10;
// Of the machine's memory, for all pools together.
constexpr double kMemoryShare = 0.4;
constexpr uint64_t kLeastPoolBytes = 1 << 20;

uint64_t DataBytesWanted(const Trace& trace, const Options& options) {
  const double blocks = options.capacity_fraction * static_cast<double>(trace.distinct());
  return static_cast<uint64_t>(std::ceil(blocks)) *
         protocol::ExtentBytes(kTraceKeyBytes, options.value_bytes);
}

}  // namespace

Result<Trace> Trace::Read(const std::string& path, uint64_t limit) {
  std::ifstream in(path);
  if (!in) return Status(Code::kInvalidArgument, "--file: " + path + " cannot be read");
  Trace trace;
  std::unordered_set<uint64_t> distinct;
  uint64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool good = json.is_object() && json.contains("hash_ids") &&
                      json["hash_ids"].is_array() &&
                      std::all_of(json["hash_ids"].begin(), json["hash_ids"].end(),
                                  [](const auto& id) { return id.is_number_unsigned(); });
    if (!good) {
      return Status(Code::kInvalidArgument,
                    path + ":" + std::to_string(number) +
                        ": no object with hash_ids, a list of whole numbers");
    }
    trace.requests_.push_back(json["hash_ids"].get<std::vector<uint64_t>>());
    const std::vector<uint64_t>& ids = trace.requests_.back();
    trace.blocks_ += ids.size();
    trace.longest_ = std::max(trace.longest_, ids.size());
    distinct.insert(ids.begin(), ids.end());
    if (limit != 0 && trace.requests_.size() == limit) break;
  }
  trace.distinct_ = distinct.size();
  if (trace.blocks_ == 0) return Status(Code::kInvalidArgument, path + " holds no requests");
  return trace;
}

Status SizeForTrace(const Trace& trace, Options* options) {
  if (options->value_bytes == 0) {
    const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                          static_cast<double>(sysconf(_SC_PAGESIZE)) * kMemoryShare;
    options->value_bytes = kDefaultValueBytes;
    while (options->value_bytes > kLeastValueBytes &&
           static_cast<double>(DataBytesWanted(trace, *options)) > memory) {
      options->value_bytes /= 2;
    }
  }
  options->verify = true;
  options->batch = static_cast<uint32_t>(trace.longest());
  options->threads = options->concurrency;
  if (options->embedded == 0) return Status::Ok();
  const uint64_t each = DataBytesWanted(trace, *options) / options->embedded;
  const uint64_t mean = std::max<uint64_t>(64, options->value_bytes);
  // The index grows with the memory it is part of: a few rounds find the smallest that is enough.
  uint64_t memory = std::max(kLeastPoolBytes, each);
  for (;;) {
    const uint64_t got = protocol::ComputeGeometry(memory, mean).data_bytes;
    if (got >= each) break;
    memory += std::max<uint64_t>(4096, each - got);
  }
  options->memory_bytes = memory;
  return Status::Ok();
}

}  // namespace simm::bench
