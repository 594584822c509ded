#pragma once

#include <cstdint>
#include <vector>

#include "manager/quota.h"

namespace simm::manager {

inline constexpr uint32_t kNobody = UINT32_MAX;  // index of no server

// The rows of one distribution of replicas on their way from what is to what shall be: who holds
// each place, and which servers have how many. Pure, one use: build, Settle(). Servers are named by
// their index in the shares.
class RowBoard {
 public:
  // `rows`: row-major, `replicas` places a row; what stays if it can. `pinned`: places that stay in
  // any case; empty: none. Pinned servers of a row differ, and so do their zones as far as the
  // number of zones allows.
  RowBoard(Shares shares, std::vector<uint32_t> rows, uint32_t replicas,
           std::vector<bool> pinned = {});

  // Fills every row with as many servers as it can have, all different, in different zones as far
  // as there are enough, and gives each server its quota. `hints`, empty or of the size of `rows`:
  // who gets a free place rather than the preferred server. Returns the rows.
  std::vector<uint32_t> Settle(const std::vector<uint32_t>& hints);

 private:
  class Receivers;
  class Demand;

  // True when the row of `place` stays lawful with `server` in `place`, whoever is there now.
  bool Legal(size_t place, uint32_t server) const;
  // Empty, and to be filled.
  bool IsOpen(size_t place) const;
  void Put(size_t place, uint32_t server);
  void Free(size_t place);
  bool DropUnlawful();
  void FreeExcess();
  void TakeHints(const std::vector<uint32_t>& hints);
  void AssignFreed();
  // For a place that no server below its quota may take: another place gives it one that may, and
  // gets a server below its quota instead. False: there is no such pair.
  bool Exchange(size_t place, Receivers& receivers);
  bool TryExchange(size_t place, size_t other, Receivers& receivers);
  // The server that is least above its target, of those that may.
  void Force(size_t place);

  Shares shares_;
  std::vector<uint32_t> rows_;
  const uint32_t replicas_;
  uint32_t zones_ = 0;
  uint32_t in_row_ = 0;    // places of a row that are filled in the end
  uint32_t zone_cap_ = 0;  // servers of one zone in a row
  std::vector<bool> pinned_;
  std::vector<size_t> fresh_;  // places that were assigned in this run
  size_t fresh_at_ = 0;        // where the search for an exchange goes on
  size_t any_at_ = 0;
  size_t tries_left_ = 0;
};

}  // namespace simm::manager
