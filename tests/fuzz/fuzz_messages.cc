// Any bytes as a message body: every decoder must either refuse them or give a message that encodes
// to the same bytes.

#include <cstdlib>
#include <cstring>

#include "common/protocol/messages.h"

namespace simm::protocol {
namespace {

template <typename M>
void Check(ByteSpan body) {
  M message;
  if (!Decode(body, &message).ok()) return;
  MessageBuffer buffer;
  const ByteSpan again = Encode(message, buffer);
  M twice;
  if (!Decode(again, &twice).ok()) std::abort();
  // Reserved bytes are the one thing that decoding drops.
  if (again.size() != body.size()) std::abort();
}

}  // namespace
}  // namespace simm::protocol

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace simm::protocol;  // NOLINT
  if (size > simm::limits::kMaxMessageBytes) return 0;
  const simm::ByteSpan body(reinterpret_cast<const std::byte*>(data), size);
  (void)TypeOf(body);
  Check<KeysRequest>(body);
  Check<GetRecord>(body);
  Check<KeysReply>(body);
  Check<PutRequest>(body);
  Check<PutReply>(body);
  Check<ListRequest>(body);
  Check<ListReply>(body);
  Check<LeaseRequest>(body);
  Check<LeaseReply>(body);
  Check<CommitRequest>(body);
  Check<ReturnRequest>(body);
  Check<Recall>(body);
  Check<ResolveRequest>(body);
  Check<Location>(body);
  Check<TouchSlots>(body);
  Check<ReadReport>(body);
  Check<PinReply>(body);
  Ping ping;
  (void)Decode(body, &ping);
  return 0;
}
