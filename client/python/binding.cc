// The Python module simm._native: NativeClient, the result codes, the library's log.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <spdlog/spdlog.h>

#include "client/python/copies.h"
#include "client/python/delivery.h"
#include "client/python/native_client.h"
#include "client/python/process.h"
#include "common/base/code.h"
#include "common/base/version.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace simm::python {
namespace {

Verify VerifyOf(const std::string& name) {
  if (name == "always") return Verify::kAlways;
  if (name == "sampled") return Verify::kSampled;
  if (name == "off") return Verify::kOff;
  Raise(static_cast<int>(Code::kInvalidArgument),
        ("verify '" + name + "' is unknown; allowed: always, sampled, off").c_str());
}

void MakeClient(NativeClient* self, const std::vector<std::string>& addresses,
                const std::string& name_space, const std::string& transport,
                const std::string& verify, int64_t connect_timeout_ms,
                uint32_t max_lanes_per_server, const std::vector<std::string>& rdma_devices,
                int numa_node, const std::string& metrics_listen, int64_t slow_op_ms) {
  ClientOptions options;
  options.addresses = addresses;
  options.name_space = name_space;
  options.transport = transport;
  options.verify = VerifyOf(verify);
  options.connect_timeout = std::chrono::milliseconds(connect_timeout_ms);
  options.max_lanes_per_server = max_lanes_per_server;
  options.rdma_devices = rdma_devices;
  options.numa_node = numa_node;
  options.metrics_listen = metrics_listen;
  if (slow_op_ms >= 0) options.slow_op = std::chrono::milliseconds(slow_op_ms);
  new (self) NativeClient(options);
}

uint64_t BufferAddress(nb::handle view) {
  if (!PyMemoryView_Check(view.ptr())) throw nb::type_error("not a memoryview");
  return reinterpret_cast<uint64_t>(PyMemoryView_GET_BUFFER(view.ptr())->buf);
}

void SetLogLevel(const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    Raise(static_cast<int>(Code::kInvalidArgument),
          ("log level '" + level + "' is unknown; allowed: debug, info, warning, error, off")
              .c_str());
  }
  spdlog::set_level(parsed);
}

void BindClient(nb::module_& module) {
  nb::class_<NativeClient>(module, "NativeClient")
      .def("__init__", &MakeClient, "addresses"_a, "namespace"_a = "default",
           "transport"_a = "auto", "verify"_a = "always", "connect_timeout_ms"_a = 10'000,
           "max_lanes_per_server"_a = 16, nb::kw_only(),
           "rdma_devices"_a = std::vector<std::string>(), "numa_node"_a = -1,
           "metrics_listen"_a = "", "slow_op_ms"_a = -1)
      .def("put", &NativeClient::Put, "keys"_a, "addresses"_a, "sizes"_a, "deadline_ms"_a,
           "replace"_a = false, nb::kw_only(), "ttl_ms"_a = 0, "write_quorum"_a = 1)
      .def("get", &NativeClient::Get, "keys"_a, "addresses"_a, "sizes"_a, "deadline_ms"_a,
           "allow_shorter"_a = false)
      .def("exists", &NativeClient::Exists, "keys"_a, "deadline_ms"_a)
      .def("exists_flags", &NativeClient::ExistsFlags, "keys"_a, "deadline_ms"_a)
      .def("remove", &NativeClient::Remove, "keys"_a, "deadline_ms"_a)
      .def("touch", &NativeClient::Touch, "keys"_a, "deadline_ms"_a)
      .def("put_async", &NativeClient::PutAsync, "keys"_a, "addresses"_a, "sizes"_a,
           "deadline_ms"_a, "replace"_a = false, "callback"_a, nb::kw_only(), "ttl_ms"_a = 0,
           "write_quorum"_a = 1)
      .def("get_async", &NativeClient::GetAsync, "keys"_a, "addresses"_a, "sizes"_a,
           "deadline_ms"_a, "allow_shorter"_a = false, "callback"_a)
      .def("exists_async", &NativeClient::ExistsAsync, "keys"_a, "deadline_ms"_a, "callback"_a)
      .def("remove_async", &NativeClient::RemoveAsync, "keys"_a, "deadline_ms"_a, "callback"_a)
      .def("clear_namespace", &NativeClient::ClearNamespace, "deadline_ms"_a)
      .def("register_memory", &NativeClient::RegisterMemory, "address"_a, "size"_a)
      .def("deregister_memory", &NativeClient::DeregisterMemory, "handle"_a)
      .def("servers", &NativeClient::Servers)
      .def("stats", &NativeClient::Stats)
      .def("metrics_address", &NativeClient::MetricsAddress)
      .def("locate", &NativeClient::Locate, "key"_a)
      .def("close", &NativeClient::Close);
}

}  // namespace
}  // namespace simm::python

NB_MODULE(_native, module) {
  using namespace simm::python;
  Delivery::Get().TakeLog();
  BindClient(module);
  nb::dict codes;
  for (int code = 0; code <= simm::kMaxCode; ++code) {
    const std::string_view name = simm::CodeName(static_cast<simm::Code>(code));
    codes[nb::str(name.data(), name.size())] = code;
  }
  module.attr("CODES") = codes;
  module.attr("VERSION") = simm::kVersion;
  module.def("buffer_address", &BufferAddress, "view"_a);
  module.def("set_log_level", &SetLogLevel, "level"_a);
  module.def("gather", &Gather, "addresses"_a, "sizes"_a, "target"_a);
  module.def("scatter", &Scatter, "addresses"_a, "sizes"_a, "source"_a);
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&CloseAll));
  // Objects may outlive the module's teardown at exit; that is no leak.
  nb::set_leak_warnings(false);
}
