#pragma once

#include <string>
#include <string_view>

#include "common/base/status.h"
#include "manager/durable_state.h"

namespace simm::manager {

// The bytes of a state file: a header {magic, CRC-32C of all that follows, format version, length},
// then the state in fixed little-endian fields.
std::string EncodeState(const DurableState& state);
// kCorrupt: cut short, changed, or contradicting itself. kFailedPrecondition: a newer format.
Result<DurableState> DecodeState(std::string_view bytes);

}  // namespace simm::manager
