#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "common/protocol/pool_layout.h"

namespace simm::dataserver {

// Access to the head of an extent (header and key) in the data memory. One-sided readers may look
// at a head while its extent is reused, so every word is accessed atomically; what is torn they
// find out from the slot.

// key: at most limits::kMaxKeyBytes. Writes ExtentHeadBytes(key.size()) bytes, zero-padded.
void WriteHead(std::byte* at, const protocol::ExtentHeader& header, std::string_view key);
protocol::ExtentHeader ReadHeader(const std::byte* at);
std::string ReadKey(const std::byte* at, size_t key_bytes);
bool KeyIs(const std::byte* at, std::string_view key);
// Whether generation, namespace and lengths are those of the slot.
bool HeaderAgrees(const protocol::ExtentHeader& header, const protocol::Slot& slot);

}  // namespace simm::dataserver
