#include "bench/options.h"

#include <CLI/CLI.hpp>

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/version.h"

namespace simm::bench {
namespace {

constexpr char kFooter[] = R"(Examples:
  simm-bench get --embedded 1 --value-size 1MiB --batch 16 --verify
  simm-bench mixed --embedded 3 --memory 2GiB --value-size 1MiB --replace-fraction 0
  simm-bench fill --embedded 1 --memory 2GiB --value-size 4497408
  simm-bench trace --embedded 3 --file conversation_trace.jsonl --capacity-fraction 0.1
  simm-bench exists --manager 10.0.0.5:30001 --batch 256 --json

One operation is one key; latency is that of one call of a whole batch. Exit code 0: done; 1: bytes
were wrong, or nothing could be measured; 2: wrong command line; 3: no cluster.)";

// A size on the command line, read by ParseSize.
void AddSize(CLI::App& app, const std::string& name, uint64_t* field, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [field, name](const std::string& text) {
           const Result<uint64_t> bytes = ParseSize(text);
           if (!bytes.ok()) throw CLI::ValidationError(name, bytes.status().message());
           *field = *bytes;
         },
         help)
      ->type_name("SIZE")
      ->default_str(*field == 0 ? "" : FormatSize(*field));
}

void AddCluster(CLI::App& app, Options& o) {
  app.add_option("--manager", o.manager, "Use this cluster")
      ->envname("SIMM_CLUSTER_MANAGER")
      ->capture_default_str();
  app.add_option("--embedded", o.embedded, "Start a manager and N data servers for this run")
      ->check(CLI::Range(1, 256));
  AddSize(app, "--memory", &o.memory_bytes, "Of each embedded data server (trace computes it)");
  app.add_option("--transport", o.transport, "auto, shm, verbs or tcp")
      ->check(CLI::IsMember({"auto", "shm", "verbs", "tcp"}))
      ->capture_default_str();
  app.add_option("--rdma-device", o.rdma_devices, "Devices that may be used [all]")->delimiter(',');
  app.add_option("--checksum", o.checksum, "Which gets the client library verifies")
      ->check(CLI::IsMember({"always", "sampled", "off"}))
      ->capture_default_str();
  app.add_option("--namespace", o.name_space, "Namespace of the keys")->capture_default_str();
  app.add_option("--deadline-ms", o.deadline_ms, "Of each call")->capture_default_str();
  app.add_option("--http", o.http,
                 "Where this process shows its client metrics, HOST:PORT or off [off]");
  app.add_flag("--json", o.json, "The result as one JSON object in the last line");
}

void AddLoad(CLI::App& app, Options& o) {
  AddSize(app, "--value-size", &o.value_bytes,
          "Bytes of each value [1 MiB; trace: 64 KiB or what fits the machine]");
  app.add_option("--batch", o.batch, "Keys a call")
      ->check(CLI::Range(size_t{1}, limits::kMaxBatchKeys))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Calling threads, one client between them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seconds", o.seconds, "How long to measure")
      ->check(CLI::Range(0.01, 1e6))
      ->capture_default_str();
  app.add_option("--warmup-seconds", o.warmup_seconds, "Not measured, before")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_flag("--verify", o.verify,
               "Check each value that comes back against its key and version");
  app.add_option("--keys", o.keys, "Keys to work on [as many as fill half of the cluster]");
  AddSize(app, "--arena", &o.arena_bytes, "Buffers of all threads; larger than the caches is cold");
  app.add_option("--seed", o.seed, "Of the choice of keys")->capture_default_str();
}

void AddOps(CLI::App& app, Options& o) {
  const auto op = [&](const char* name, const char* help) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->callback([&o, name] { o.op = name; });
    return sub;
  };
  const auto replace = [&](CLI::App* sub) {
    sub->add_option("--replace-fraction", o.replace_fraction,
                    "Share of puts that replace one of --keys; the others are new keys")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
  };
  replace(op("put", "Puts, as fast as possible"));
  op("get", "Puts --keys, then gets random ones");
  op("exists", "Puts --keys, then asks for random ones");
  CLI::App* mixed = op("mixed", "Gets in --threads while --put-threads put; latency is the gets'");
  replace(mixed);
  mixed->add_option("--put-threads", o.put_threads, "Threads that put")->capture_default_str();
  mixed->add_option("--put-rate", o.put_rate, "Values a second, all threads [no limit]");
  CLI::App* fill = op("fill", "Puts new keys beyond the capacity; how much of it holds values?");
  fill->add_option("--fill-factor", o.fill_factor, "Bytes to put, in capacities")
      ->capture_default_str();
  CLI::App* trace = op("trace", "Replays a request trace: prefix hit rate, every byte checked");
  trace->add_option("--file", o.file, "JSON lines with hash_ids")->required();
  trace
      ->add_option("--capacity-fraction", o.capacity_fraction,
                   "Of the distinct blocks, in the data files of the embedded servers together")
      ->check(CLI::Range(1e-6, 100.0))
      ->capture_default_str();
  trace->add_option("--limit", o.limit, "Only the first requests [all]");
  trace->add_option("--concurrency", o.concurrency, "Requests at a time")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  trace->add_flag("--touch-after-put", o.touch_after_put, "Touch each request's keys at its end");
  trace->add_option("--key-prefix", o.key_prefix, "In front of each key, to keep runs apart");
}

}  // namespace

std::optional<int> ParseOptions(int argc, char** argv, Options* options) {
  CLI::App app("simm-bench: measures a SiMM cluster");
  app.footer(kFooter);
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(kVersion));
  AddCluster(app, *options);
  AddLoad(app, *options);
  AddOps(app, *options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  for (int i = 0; i < argc; ++i) {
    options->command += (i == 0 ? "" : " ") + std::string(argv[i]);
  }
  if (options->value_bytes == 0 && options->op != "trace") options->value_bytes = 1 << 20;
  return std::nullopt;
}

}  // namespace simm::bench
