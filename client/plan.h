#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/code.h"
#include "common/base/limits.h"
#include "common/routing/route_table.h"

// Whom a key of a call is asked at next, where its row of the map names more than one server: what
// each has said so far leads to the next questions or to the result (DESIGN 3). Pure.
namespace simm::client {

// kReal: the operation of the call. kProbe: only whether the key is there.
enum class Ask : uint8_t { kReal, kProbe };

// What a server has said about a key.
enum class Answer : uint8_t {
  kNone,     // it was not asked
  kAgain,    // busy, or it has another map: to be asked once more
  kThere,    // a probe has found it
  kHit,      // the operation has found it
  kMiss,     // it is not there
  kRemoved,  // nor does it count elsewhere
  kFailed,   // no answer can be had
};

struct Heard {
  ServerId server = kNoServer;
  Answer answer = Answer::kNone;
};

// Servers that a row can name: owners, and a source of each.
inline constexpr size_t kMaxRowServers = 2 * limits::kMaxReplicas;

struct Question {
  ServerId server = kNoServer;
  Ask ask = Ask::kReal;
  bool tell_removed = false;  // its shard has a source: a removed key is not just a miss
  bool extra = false;  // may turn out not to be needed: it is not the first whose word counts
};

// What a read does next: its questions, all in one round; or, without any, its result: the answer
// of `hit`, or if that is kNoServer kMiss or kUnavailable.
struct ReadStep {
  std::array<Question, kMaxRowServers> questions;
  size_t count = 0;
  ServerId hit = kNoServer;
  Code code = Code::kMiss;

  std::span<const Question> asked() const { return {questions.data(), count}; }
};

// The next step of a read. `owners`: the present owners of the key's row, those to be preferred
// first. `each_real`: the operation needs no memory of the caller (exists, touch), so that it can
// be asked at several servers at once; else one server at a time may be asked kReal.
//
// - Owners without a source come first: they have all that there is.
// - An owner and its source are asked in one round, so that a miss costs no further one. The
//   source's word counts once no owner is left to be asked, never when one has removed the key.
// - After the first owner's miss or failure all others are asked in one round.
ReadStep NextRead(std::span<const ShardOwner> owners, std::span<const Heard> heard, bool each_real);

// When a write counts as done. `quorum` of its owners must have taken it, or all.
struct WriteRule {
  bool all = false;
  uint32_t quorum = 1;
};

// The result of a write that has ended at every owner; `codes` in the row's order. Between kOk and
// kExists (put), and kOk and kMiss (remove: kOk if any had it), the first owner that has taken it
// decides, so that of two writers of a key at most one is told kOk.
Code WriteResult(std::span<const Code> codes, const WriteRule& rule);

}  // namespace simm::client
