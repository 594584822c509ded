#include "client/read_news.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace simm::client {
namespace {

using namespace std::chrono_literals;
using protocol::MessageType;

constexpr Instant kStart{1'000'000'000};

// What has been sent, decoded as a server does it.
struct Sent {
  size_t messages = 0;
  size_t touches = 0;
  size_t reports = 0;
  protocol::ReadTotals totals;
};

void Take(ReadNews& news, Instant now, Sent* sent) {
  protocol::MessageBuffer buffer;
  const ByteSpan body = news.Take(now, buffer);
  ++sent->messages;
  if (*protocol::TypeOf(body) == MessageType::kTouchSlots) {
    protocol::TouchSlots message;
    ASSERT_TRUE(protocol::Decode(body, &message).ok());
    sent->touches += message.touches.size();
    return;
  }
  protocol::ReadReport report;
  ASSERT_TRUE(protocol::Decode(body, &report).ok());
  ++sent->reports;
  sent->touches += report.touches.size();
  sent->totals.get_hits += report.totals.get_hits;
  sent->totals.get_misses += report.totals.get_misses;
  sent->totals.get_bytes += report.totals.get_bytes;
}

// A read each millisecond for ten seconds, and a look whether something is due.
Sent ReadForTenSeconds(ReadNews& news, bool hits, Instant* now) {
  Sent sent;
  *now = kStart;
  for (uint32_t i = 0; i < 10'000; ++i, *now = *now + 1ms) {
    if (hits) {
      news.Touch({i % 500, i}, *now);
      ++news.totals().get_hits;
      news.totals().get_bytes += 100;
    } else {
      ++news.totals().get_misses;
    }
    if (news.Due(*now)) Take(news, *now, &sent);
  }
  return sent;
}

TEST(ReadNews, CountsTravelWithTouchesAndCostNoMessageOfTheirOwn) {
  Instant now;
  ReadNews plain(/*counts=*/false);
  const Sent touches = ReadForTenSeconds(plain, true, &now);
  ReadNews counting(/*counts=*/true);
  Sent both = ReadForTenSeconds(counting, true, &now);
  EXPECT_EQ(both.messages, touches.messages);
  EXPECT_EQ(both.touches, touches.touches);
  EXPECT_LE(both.messages, 10u * 25 + 1);
  Take(counting, now, &both);
  EXPECT_EQ(both.totals.get_hits, 10'000u) << "each of them once";
  EXPECT_EQ(both.totals.get_bytes, 1'000'000u);
  EXPECT_FALSE(counting.HasTotals());
}

TEST(ReadNews, WhoOnlyMissesReportsOnceASecond) {
  Instant now;
  ReadNews news(/*counts=*/true);
  Sent sent = ReadForTenSeconds(news, false, &now);
  EXPECT_GE(sent.messages, 9u);
  EXPECT_LE(sent.messages, 10u);
  EXPECT_EQ(sent.reports, sent.messages);
  EXPECT_FALSE(news.Due(now)) << "the last second's are younger than that";
  EXPECT_TRUE(news.Due(now + limits::kReadReport)) << "nothing more has to be read for it";
  Take(news, now, &sent);
  EXPECT_EQ(sent.totals.get_misses, 10'000u);
  EXPECT_FALSE(news.Due(now + 1h)) << "nothing is left";
}

TEST(ReadNews, AServerThatTakesNoCountsIsSentTouchesOnly) {
  Instant now;
  ReadNews news(/*counts=*/false);
  const Sent misses = ReadForTenSeconds(news, false, &now);
  EXPECT_EQ(misses.messages, 0u);
  EXPECT_FALSE(news.HasTotals());
  const Sent hits = ReadForTenSeconds(news, true, &now);
  EXPECT_GE(hits.messages, 45u);
  EXPECT_EQ(hits.reports, 0u);
}

TEST(ReadNews, OneUseIsToldOnceAndTheOldestGoWhenTooManyWait) {
  ReadNews news(/*counts=*/true);
  for (int i = 0; i < 3; ++i) news.Touch({7, 1}, kStart);
  Sent sent;
  EXPECT_FALSE(news.Due(kStart + 100ms));
  EXPECT_TRUE(news.Due(kStart + ReadNews::kMaxAge));
  Take(news, kStart, &sent);
  EXPECT_EQ(sent.touches, 1u);
  EXPECT_EQ(sent.reports, 0u) << "nothing was counted: the shorter message";
  for (uint32_t i = 0; i < 2 * ReadNews::kMostPending; ++i) news.Touch({i, 1}, kStart);
  while (news.HasTouches()) Take(news, kStart, &sent);
  EXPECT_EQ(sent.touches, 1 + ReadNews::kMostPending);
}

}  // namespace
}  // namespace simm::client
