#include "common/transport/verbs/device.h"

#include <arpa/inet.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "common/base/bytes.h"

namespace simm::transport {
namespace {

struct DeviceList {
  DeviceList() : devices(ibv_get_device_list(&count)) {}
  ~DeviceList() {
    if (devices != nullptr) ibv_free_device_list(devices);
  }
  DeviceList(const DeviceList&) = delete;
  DeviceList& operator=(const DeviceList&) = delete;
  int count = 0;
  ibv_device** devices;
};

int NumaNodeOf(const ibv_device* device) {
  std::ifstream file(std::string(device->ibdev_path) + "/device/numa_node");
  int node = -1;
  file >> node;
  return file ? node : -1;
}

int NumaNodeOfThisThread() {
  unsigned cpu = 0, node = 0;
  return getcpu(&cpu, &node) == 0 ? static_cast<int>(node) : -1;
}

bool IsIpv4Mapped(const ibv_gid& gid) {
  static constexpr uint8_t kPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::memcmp(gid.raw, kPrefix, sizeof kPrefix) == 0;
}
bool IsLinkLocal(const ibv_gid& gid) { return gid.raw[0] == 0xfe && (gid.raw[1] & 0xc0) == 0x80; }

int Rank(const ibv_gid& gid) {
  if (IsIpv4Mapped(gid)) return 3;
  return IsLinkLocal(gid) ? 1 : 2;
}

Status NoDevice() {
  return Status(Code::kUnavailable,
                "no RDMA device: load its driver (`ibv_devices` must show it), install "
                "ibverbs-providers, and pass /dev/infiniband into a container; or use tcp");
}

}  // namespace

Status VerbsError(const std::string& what, int error) {
  std::string why = what + ": " + std::strerror(error);
  if (error == ENOMEM || error == EAGAIN) {
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur != RLIM_INFINITY) {
      why += "; the limit of locked memory is " + FormatSize(limit.rlim_cur) +
             ", raise it: `ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, "
             "--ulimit memlock=-1 for a container";
    } else {
      why += "; memory, or a resource of the device, has run out";
    }
  } else if (error == EPERM || error == EACCES) {
    why += "; this user may not use /dev/infiniband";
  }
  return Status(Code::kUnavailable, why);
}

std::string GidText(const std::array<uint8_t, 16>& gid) {
  ibv_gid raw;
  std::memcpy(raw.raw, gid.data(), gid.size());
  char text[INET6_ADDRSTRLEN] = "";
  if (IsIpv4Mapped(raw)) {
    inet_ntop(AF_INET, raw.raw + 12, text, sizeof text);
  } else {
    inet_ntop(AF_INET6, raw.raw, text, sizeof text);
  }
  return text;
}

Result<std::shared_ptr<Device>> Device::Open(const DeviceOptions& options) {
  const DeviceList list;
  if (list.devices == nullptr || list.count == 0) return NoDevice();
  const int near = options.numa_node >= 0 ? options.numa_node : NumaNodeOfThisThread();
  std::vector<ibv_device*> candidates;
  std::string there;
  for (int i = 0; i < list.count; ++i) {
    const std::string name = ibv_get_device_name(list.devices[i]);
    there += (there.empty() ? "" : ", ") + name;
    if (options.names.empty() ||
        std::find(options.names.begin(), options.names.end(), name) != options.names.end()) {
      candidates.push_back(list.devices[i]);
    }
  }
  if (candidates.empty()) {
    std::string wanted;
    for (const auto& name : options.names) wanted += (wanted.empty() ? "" : ", ") + name;
    return Status(Code::kUnavailable,
                  "no RDMA device is called " + wanted + "; here are: " + there);
  }
  std::stable_partition(candidates.begin(), candidates.end(),
                        [near](const ibv_device* d) { return NumaNodeOf(d) == near; });
  std::string reasons;
  for (ibv_device* candidate : candidates) {
    std::shared_ptr<Device> device(new Device);
    const Status status = device->OpenOne(candidate, options);
    if (status.ok()) return device;
    reasons += (reasons.empty() ? "" : "; ") + device->name_ + ": " + status.message();
  }
  return Status(Code::kUnavailable, "no RDMA device can be used: " + reasons);
}

Device::~Device() {
  if (protection_domain_ != nullptr) ibv_dealloc_pd(protection_domain_);
  if (context_ != nullptr) ibv_close_device(context_);
}

Status Device::OpenOne(ibv_device* device, const DeviceOptions& options) {
  name_ = ibv_get_device_name(device);
  numa_node_ = NumaNodeOf(device);
  context_ = ibv_open_device(device);
  if (context_ == nullptr) return VerbsError("cannot be opened", errno);
  if (const int error = ibv_query_device(context_, &limits_); error != 0) {
    return VerbsError("cannot be queried", error);
  }
  SIMM_RETURN_IF_ERROR(PickPort(options));
  protection_domain_ = ibv_alloc_pd(context_);
  if (protection_domain_ == nullptr) return VerbsError("no protection domain", errno);
  return Status::Ok();
}

Status Device::PickPort(const DeviceOptions& options) {
  Status why(Code::kUnavailable, "has no port " + std::to_string(options.port));
  for (int number = 1; number <= limits_.phys_port_cnt; ++number) {
    if (options.port != 0 && number != options.port) continue;
    ibv_port_attr attributes{};
    if (const int error = ibv_query_port(context_, static_cast<uint8_t>(number), &attributes);
        error != 0) {
      why = VerbsError("port " + std::to_string(number), error);
      continue;
    }
    if (attributes.state != IBV_PORT_ACTIVE) {
      why = Status(Code::kUnavailable, "port " + std::to_string(number) + " is " +
                                           ibv_port_state_str(attributes.state) +
                                           ": bring up its link (`ip link set DEV up`)");
      continue;
    }
    port_.number = static_cast<uint8_t>(number);
    port_.roce = attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
    port_.lid = attributes.lid;
    port_.mtu = attributes.active_mtu;
    why = PickGid(options.gid_index, attributes.gid_tbl_len);
    if (why.ok()) return why;
  }
  return why;
}

Status Device::PickGid(int wanted, int table_length) {
  int best = 0;
  for (int index = 0; index < std::min(table_length, 256); ++index) {
    if (wanted >= 0 && index != wanted) continue;
    if (!port_.roce && wanted < 0 && index > 0) break;  // InfiniBand: the port's own
    ibv_gid_entry entry{};
    if (ibv_query_gid_ex(context_, port_.number, static_cast<uint32_t>(index), &entry, 0) != 0) {
      continue;
    }
    if (port_.roce && entry.gid_type != IBV_GID_TYPE_ROCE_V2) continue;
    if (Rank(entry.gid) <= best) continue;
    best = Rank(entry.gid);
    port_.gid_index = static_cast<uint8_t>(index);
    std::memcpy(port_.gid.data(), entry.gid.raw, port_.gid.size());
  }
  if (best > 0 || !port_.roce) return Status::Ok();
  const std::string which = wanted >= 0 ? "GID " + std::to_string(wanted) + " is not" : "no GID is";
  return Status(Code::kUnavailable, which +
                                        " of type RoCE v2: give its network interface an IP "
                                        "address, or choose another index (`ibv_devinfo -v`)");
}

}  // namespace simm::transport
