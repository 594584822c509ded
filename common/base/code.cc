#include "common/base/code.h"

#include <array>

namespace simm {
namespace {

struct Row {
  std::string_view name;
  Reaction reaction;
};

constexpr std::array<Row, kMaxCode + 1> kTable = {{
    {"OK", Reaction::kDone},
    {"MISS", Reaction::kDone},
    {"EXISTS", Reaction::kDone},
    {"INVALID_ARGUMENT", Reaction::kGiveUp},
    {"TOO_LARGE", Reaction::kGiveUp},
    {"LENGTH_MISMATCH", Reaction::kDone},
    {"DEADLINE_EXCEEDED", Reaction::kFallBack},
    {"UNAVAILABLE", Reaction::kFallBack},
    {"BUSY", Reaction::kRetry},
    {"WRONG_OWNER", Reaction::kRefreshMap},
    {"LEASE_GONE", Reaction::kRetry},
    {"CORRUPT", Reaction::kFallBack},
    {"WRONG_CLUSTER", Reaction::kRefreshMap},
    {"PROTOCOL_ERROR", Reaction::kFallBack},
    {"FAILED_PRECONDITION", Reaction::kGiveUp},
    {"INTERNAL", Reaction::kGiveUp},
    {"REMOVED", Reaction::kDone},
}};

}  // namespace

std::string_view CodeName(Code code) {
  const auto i = static_cast<uint8_t>(code);
  return i <= kMaxCode ? kTable[i].name : "UNKNOWN";
}

Reaction ReactionTo(Code code) {
  const auto i = static_cast<uint8_t>(code);
  return i <= kMaxCode ? kTable[i].reaction : Reaction::kGiveUp;
}

}  // namespace simm
