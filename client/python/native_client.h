#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/client.h"

namespace simm::python {

struct OpenClient;

// simm._native.NativeClient: a Client for Python. Values are addresses and sizes: whoever calls
// keeps that memory alive until the call, or the callback, has ended. All methods want the GIL and
// give it up while they wait; they raise simm.errors.SimmError when there is no client behind them
// (any more), TypeError and ValueError for arguments that are no batch.
class NativeClient {
 public:
  explicit NativeClient(const ClientOptions& options);
  ~NativeClient();
  NativeClient(const NativeClient&) = delete;
  NativeClient& operator=(const NativeClient&) = delete;

  nanobind::object Put(nanobind::handle keys, nanobind::handle addresses, nanobind::handle sizes,
                       int64_t deadline_ms, bool replace, int64_t ttl_ms, uint32_t write_quorum);
  nanobind::object Get(nanobind::handle keys, nanobind::handle addresses, nanobind::handle sizes,
                       int64_t deadline_ms, bool allow_shorter);
  nanobind::object Exists(nanobind::handle keys, int64_t deadline_ms);
  nanobind::object Remove(nanobind::handle keys, int64_t deadline_ms);
  nanobind::object Touch(nanobind::handle keys, int64_t deadline_ms);
  nanobind::object ExistsFlags(nanobind::handle keys, int64_t deadline_ms);

  void PutAsync(nanobind::handle keys, nanobind::handle addresses, nanobind::handle sizes,
                int64_t deadline_ms, bool replace, nanobind::object callback, int64_t ttl_ms,
                uint32_t write_quorum);
  void GetAsync(nanobind::handle keys, nanobind::handle addresses, nanobind::handle sizes,
                int64_t deadline_ms, bool allow_shorter, nanobind::object callback);
  void ExistsAsync(nanobind::handle keys, int64_t deadline_ms, nanobind::object callback);
  void RemoveAsync(nanobind::handle keys, int64_t deadline_ms, nanobind::object callback);

  uint64_t ClearNamespace(int64_t deadline_ms);
  uint64_t RegisterMemory(uint64_t address, uint64_t size);
  void DeregisterMemory(uint64_t handle);
  nanobind::list Servers();
  nanobind::dict Stats();
  std::string MetricsAddress();
  nanobind::dict Locate(nanobind::handle key);
  void Close();

 private:
  class Use;
  using KeysCall = std::vector<KeyResult> (Client::*)(std::span<const std::string_view>,
                                                      const CallOptions&);
  using AsyncKeysCall = void (Client::*)(std::span<const std::string_view>, const CallOptions&,
                                         Done);
  std::vector<KeyResult> Run(KeysCall call, nanobind::handle keys, int64_t deadline_ms);
  void Start(AsyncKeysCall call, nanobind::handle keys, int64_t deadline_ms,
             nanobind::object callback);

  // Shared with CloseAll, which ends clients while other threads drop theirs.
  std::shared_ptr<OpenClient> open_;
};

// Ends all clients and the delivery, before the interpreter exits. With the GIL.
void CloseAll();

}  // namespace simm::python
