#include "dataserver/options.h"

#include "common/base/version.h"

namespace simm::dataserver {

namespace {

void AddRdma(config::ConfigSpec& spec, ServerOptions* options) {
  spec.Names("rdma-device", &options->rdma.devices,
             "RDMA devices that may be used; empty: all. The first that works is taken, those near "
             "this process first");
  spec.Integer("rdma-port", &options->rdma.port, uint8_t{0}, uint8_t{255},
               "port of the RDMA device; 0: the first that is up");
  spec.Integer("rdma-gid-index", &options->rdma.gid_index, -1, 255,
               "index of the address that RDMA uses; -1: RoCE v2, IPv4 before IPv6");
  spec.Integer("numa-node", &options->rdma.numa_node, -1, 1023,
               "node to which RDMA devices should be near; -1: where the process starts");
}

}  // namespace

config::ConfigSpec MakeSpec(ServerOptions* options) {
  config::ConfigSpec spec("simm-dataserver",
                          "Lends memory to a SiMM cluster and serves it to clients.", kVersion);
  spec.Addresses("manager", &options->managers, "managers of the cluster");
  spec.Size("memory", &options->memory_bytes, 1 << 20, 1ULL << 46,
            "memory to lend, index included; comes on top of about 64 MiB for the process");
  spec.Size("mean-value", &options->mean_value_bytes, 64, 1ULL << 30,
            "mean size of the values that will be stored; sizes the index");
  spec.ListenAddress("listen", &options->listen, false, "where gRPC listens");
  spec.ListenAddress("data-listen", &options->data_listen, false,
                     "where the tcp data port listens");
  spec.String("advertise", &options->advertise,
              "host name or address under which clients reach this server; empty: the one that "
              "faces the manager");
  spec.ListenAddress("http", &options->http, true,
                     "where /metrics, /healthz and /readyz are served");
  spec.String("name", &options->name,
              "name in the cluster, the same after a restart; empty: host name and data port");
  spec.String("zone", &options->zone, "failure domain, such as a rack");
  spec.String("pool", &options->pool,
              "path of the pool's files, on tmpfs or hugetlbfs: a restart finds its entries again. "
              "While another server has them, this one waits. Empty: anonymous memory, whose "
              "entries end with the process");
  spec.Choice("transport", &options->transport, {"auto", "shm", "verbs", "tcp"},
              "what clients may use besides tcp, which always works; auto: shared memory on this "
              "host and RDMA, what of them can be had; shm, verbs (RDMA): that one, or do not "
              "start; tcp: nothing else");
  spec.String("shm-socket", &options->shm_socket,
              "Unix socket at which clients on this host get the pool's memory, a path or @name; "
              "empty: a name of its own. A path on a shared volume serves other containers");
  AddRdma(spec, options);
  spec.Integer("threads", &options->threads, 0u, 256u,
               "threads of the data port; 0: one per processor, at most 16");
  spec.Size("migration-bandwidth", &options->migration_bandwidth, 0, 1ULL << 46,
            "bytes a second at most that this server pulls of shards that come to it; 0: no limit");
  spec.Bool("prefault", &options->prefault, "touch all of the pool's memory at the start");
  spec.Bool("huge-pages", &options->huge_pages,
            "lay the pool on huge pages if enough are free (sysctl vm.nr_hugepages), else on "
            "ordinary ones; with --pool: put its path on hugetlbfs instead");
  spec.Bool("verify-puts", &options->verify_puts,
            "compare the checksum of a put over tcp with its bytes before it is stored; readers "
            "compare in any case");
  spec.Bool("verify-commits", &options->verify_commits,
            "the same for values that clients write by themselves (shm, verbs): one more pass over "
            "their bytes, by this process");
  spec.DurationMs("session-timeout-ms", &options->session_timeout, std::chrono::milliseconds(1000),
                  std::chrono::minutes(10), "silence after which a client's session ends");
  spec.DurationMs("slow-op-ms", &options->slow_op, std::chrono::milliseconds(0),
                  std::chrono::minutes(10), "requests that take longer are logged; 0: none");
  spec.Choice("log-level", &options->log_level, {"debug", "info", "warn", "error"}, "what to log");
  spec.Bool("log-json", &options->log_json, "log one JSON object a line");
  spec.String("ready-file", &options->ready_file,
              "file to write with the bound addresses once serving");
  return spec;
}

}  // namespace simm::dataserver
