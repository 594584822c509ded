{{/* What the schema cannot say: values that do not fit together. */}}
{{- define "simm.checks" -}}
{{- $m := .Values.manager -}}
{{- $d := .Values.dataserver -}}
{{- $optionNames := dict "manager" (list "new-cluster" "lease-ms" "heartbeat-ms" "suspect-ms" "dead-ms" "replicas") "dataserver" (list "rdma-port" "numa-node" "threads" "migration-bandwidth" "slow-op-ms" "prefault" "verify-puts" "verify-commits" "session-timeout-ms") -}}
{{- range $part, $allowed := $optionNames -}}
{{- range $option, $value := (index $.Values $part).options -}}
{{- if not (has $option $allowed) -}}
{{- fail (printf "%s.options.%s: '%v' is set, but there is no such option, or the chart sets it itself; allowed: %s" $part $option $value (join ", " $allowed)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (has (int $m.replicas) (list 1 3 5)) -}}
{{- fail (printf "manager.replicas: %d is not allowed; allowed: 1, and with etcd also 3, 5" (int $m.replicas)) -}}
{{- end -}}
{{- if and (gt (int $m.replicas) 1) (not $m.etcd.endpoints) -}}
{{- fail (printf "manager.replicas: %d needs manager.etcd.endpoints: the embedded store is for 1 manager; set the URLs of etcd, or replicas: 1" (int $m.replicas)) -}}
{{- end -}}
{{- if and $m.persistence.existingClaim $m.etcd.endpoints -}}
{{- fail "manager.persistence.existingClaim: not used with manager.etcd.endpoints; leave one of them empty" -}}
{{- end -}}
{{- if and (eq $d.pool.kind "claim") (eq $d.kind "DaemonSet") -}}
{{- fail "dataserver.pool.kind: 'claim' needs dataserver.kind: StatefulSet (a DaemonSet has no claims of its own); allowed here: hostPath, emptyDir, anonymous" -}}
{{- end -}}
{{- if and (eq $d.pool.kind "claim") (not $d.pool.claim.storageClass) -}}
{{- fail "dataserver.pool.claim.storageClass: '' is not allowed with dataserver.pool.kind: claim; name a class of local volumes that lie on tmpfs or hugetlbfs (deploy/README.md)" -}}
{{- end -}}
{{- if and $d.hugepages.enabled (eq $d.pool.kind "hostPath") (hasPrefix "/dev/shm" $d.pool.hostPath.path) -}}
{{- fail (printf "dataserver.pool.hostPath.path: '%s' is no hugetlbfs, but dataserver.hugepages.enabled is true; mount one on the nodes and name a folder on it, such as /dev/hugepages/simm" $d.pool.hostPath.path) -}}
{{- end -}}
{{- if and $d.zones $d.zoneFromPodLabel -}}
{{- fail "dataserver.zones and dataserver.zoneFromPodLabel: only one of them may be set" -}}
{{- end -}}
{{- $names := list -}}
{{- range $d.zones -}}
{{- $long := printf "%s-dataserver-%s" (include "simm.fullname" $) .name -}}
{{- if gt (len $long) 52 -}}{{- fail (printf "dataserver.zones: the name '%s' makes '%s', longer than the 52 characters that Kubernetes allows; use a shorter one, or a shorter fullnameOverride" .name $long) -}}{{- end -}}
{{- if has .name $names -}}{{- fail (printf "dataserver.zones: the name '%s' is there twice; each zone needs its own" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if and (eq $d.transport "verbs") (not $d.rdma.enabled) -}}
{{- fail "dataserver.transport: 'verbs' needs dataserver.rdma.enabled: true; allowed without: auto, shm, tcp" -}}
{{- end -}}
{{- $ports := list $d.ports.grpc $d.ports.data $d.ports.http -}}
{{- if lt (len (uniq $ports)) 3 -}}
{{- fail (printf "dataserver.ports: %v: the three ports must differ" (toJson $d.ports)) -}}
{{- end -}}
{{- if eq (int $m.ports.grpc) (int $m.ports.http) -}}
{{- fail (printf "manager.ports: %v: the two ports must differ" (toJson $m.ports)) -}}
{{- end -}}
{{- if lt (float64 (include "simm.bytes" $d.memory)) (float64 (mulf 16 (include "simm.bytes" $d.meanValue))) -}}
{{- fail (printf "dataserver.memory: '%v' holds less than 16 values of dataserver.meanValue: %v; raise the memory or lower the mean" $d.memory $d.meanValue) -}}
{{- end -}}
{{- end -}}
