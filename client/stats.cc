#include "client/stats.h"

namespace simm {

void ClientStats::Add(const ClientStats& other) {
  gets += other.gets;
  hits += other.hits;
  misses += other.misses;
  puts += other.puts;
  put_failures += other.put_failures;
  exists += other.exists;
  removes += other.removes;
  touches += other.touches;
  errors += other.errors;
  corrupt += other.corrupt;
  bytes_read += other.bytes_read;
  bytes_written += other.bytes_written;
  requests += other.requests;
  round_trips += other.round_trips;
  retries += other.retries;
  breaker_opens += other.breaker_opens;
  breaker_rejections += other.breaker_rejections;
  late_answers += other.late_answers;
  payload_bytes_copied += other.payload_bytes_copied;
  connections_opened += other.connections_opened;
  work_requests += other.work_requests;
  doorbells += other.doorbells;
  completions += other.completions;
  validation_retries += other.validation_retries;
  lookups += other.lookups;
  bounced_values += other.bounced_values;
  calls_refused += other.calls_refused;
  lease_hits += other.lease_hits;
  resolves += other.resolves;
  pins += other.pins;
  source_hits += other.source_hits;
  replica_hits += other.replica_hits;
  partial_puts += other.partial_puts;
}

}  // namespace simm

namespace simm::client {

ClientStats StatsCounters::Snapshot() const {
  ClientStats s;
  s.gets = gets.load();
  s.hits = hits.load();
  s.misses = misses.load();
  s.puts = puts.load();
  s.put_failures = put_failures.load();
  s.exists = exists.load();
  s.removes = removes.load();
  s.touches = touches.load();
  s.errors = errors.load();
  s.corrupt = corrupt.load();
  s.bytes_read = bytes_read.load();
  s.bytes_written = bytes_written.load();
  s.requests = requests.load();
  s.round_trips = round_trips.load();
  s.retries = retries.load();
  s.breaker_opens = breaker_opens.load();
  s.breaker_rejections = breaker_rejections.load();
  s.late_answers = late_answers.load();
  s.payload_bytes_copied = payload_bytes_copied.load();
  s.connections_opened = connections_opened.load();
  s.work_requests = work_requests.load();
  s.doorbells = doorbells.load();
  s.completions = completions.load();
  s.validation_retries = validation_retries.load();
  s.lookups = lookups.load();
  s.bounced_values = bounced_values.load();
  s.calls_refused = calls_refused.load();
  s.lease_hits = lease_hits.load();
  s.resolves = resolves.load();
  s.pins = pins.load();
  s.source_hits = source_hits.load();
  s.replica_hits = replica_hits.load();
  s.partial_puts = partial_puts.load();
  return s;
}

}  // namespace simm::client
