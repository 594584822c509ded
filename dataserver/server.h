#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "common/metrics/http_server.h"
#include "common/metrics/metrics.h"
#include "common/routing/map_holder.h"
#include "common/rpc/control_services.h"
#include "common/rpc/map_watcher.h"
#include "common/transport/tcp/tcp_transport.h"
#include "dataserver/data_metrics.h"
#include "dataserver/data_service.h"
#include "dataserver/migrator.h"
#include "dataserver/options.h"
#include "dataserver/pool.h"
#include "dataserver/registrar.h"
#include "dataserver/roads.h"
#include "dataserver/session_table.h"

namespace simm::dataserver {

// One data server: pool, data port, control port, registration, eviction and HTTP put together.
// Destroy to stop.
class Server final : public rpc::DataServerHandler {
 public:
  // The first thing that fails, in words for the operator.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options);
  ~Server() override;
  // Finishes what clients have asked for, at most `grace`.
  void Stop(Duration grace);

  const std::string& control_address() const { return control_address_; }  // as advertised
  const std::string& data_address() const { return data_address_; }
  std::string http_address() const { return http_ ? http_->address() : "off"; }
  const std::string& name() const { return options_.name; }

  Result<rpc::HandshakeReply> Handshake(const rpc::HandshakeRequest& request,
                                        const std::string& peer) override;
  Result<std::string> OpenLane(const rpc::OpenLaneRequest& request) override;
  Result<uint64_t> ClearNamespace(const rpc::ClearNamespaceRequest& request,
                                  const std::function<bool()>& cancelled) override;
  Result<rpc::SampleKeysReply> SampleKeys(const rpc::SampleKeysRequest& request,
                                          const std::function<bool()>& cancelled) override;
  Result<rpc::NodeStatus> GetStatus() override;

 private:
  explicit Server(ServerOptions options);
  Status Open();
  Status OpenPorts();
  // Who this server is, once its ports are open.
  rpc::RegisterRequest Registration() const;
  // Counts the heartbeats.
  std::function<void(Duration took, bool answered)> HeartbeatMeter();
  void OnTable(std::shared_ptr<const RouteTable> table);
  void OnRegistered(ServerId id);
  Result<std::unique_ptr<transport::Connection>> ConnectToSource(const ServerRecord& source,
                                                                 const MapVersion& map);
  void EvictLoop();
  void SweepLoop();
  void HousekeepLoop();
  Status Ready() const;
  Status CheckAddressee(const Id128& cluster, ServerId server) const;
  rpc::ServerStats Stats() const;
  rpc::NodeDescription Describe() const;
  void Collect(metrics::Sink& sink) const;
  void CollectMigration(metrics::Sink& sink) const;
  std::string AdvertisedHost() const;

  ServerOptions options_;
  const Id128 boot_id_;
  metrics::Registry registry_;
  DataMetrics data_metrics_;
  MapHolder map_;
  rpc::MapBoard board_;
  std::atomic<ServerId> self_{kNoServer};
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<SessionTable> sessions_;
  std::unique_ptr<OneSidedState> one_sided_;
  std::unique_ptr<DataContext> context_;
  transport::TcpTransport tcp_;
  Roads roads_;
  std::unique_ptr<DataService> data_;
  std::unique_ptr<rpc::ControlServer> control_;
  std::unique_ptr<metrics::HttpServer> http_;
  std::unique_ptr<Migrator> migrator_;
  std::unique_ptr<Registrar> registrar_;
  std::unique_ptr<rpc::MapWatcher> watcher_;
  std::string control_address_;
  std::string data_address_;

  std::atomic<bool> started_{false};
  std::atomic<bool> stopping_{false};
  std::thread evictor_;
  std::thread sweeper_;
  std::thread housekeeper_;
  Mutex rows_mutex_;  // whose rows are whose: map and id change one after the other
  ServerId registered_as_ SIMM_GUARDED_BY(rows_mutex_) = kNoServer;
  Mutex mutex_;
  CondVar table_changed_;
  CondVar stop_;
  uint64_t table_changes_ SIMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace simm::dataserver
