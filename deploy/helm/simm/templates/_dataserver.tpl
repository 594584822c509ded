{{/* The folder of a release below a folder of the node. */}}
{{- define "simm.ownFolder" -}}
{{- printf "%s/%s.%s" (trimSuffix "/" .path) .top.Release.Namespace (include "simm.fullname" .top) -}}
{{- end -}}

{{/* One StatefulSet or DaemonSet. Argument: dict "top" $ "zone" (dict or an item of zones) */}}
{{- define "simm.dataserver" -}}
{{- $top := .top -}}
{{- $zone := .zone -}}
{{- $server := $top.Values.dataserver -}}
{{- $base := printf "%s-dataserver" (include "simm.fullname" $top) -}}
{{- $name := $base -}}
{{- with $zone.name }}{{ $name = printf "%s-%s" $base (. | lower | replace "_" "-" | replace "." "-") }}{{ end -}}
{{- $stateful := eq $server.kind "StatefulSet" -}}
{{- $scope := dict "top" $top "part" "dataserver" "name" $name "of" $server "zone" $zone -}}
apiVersion: apps/v1
kind: {{ $server.kind }}
metadata:
  {{- include "simm.metadata" $scope | nindent 2 }}
spec:
  {{- if $stateful }}
  serviceName: {{ $base }}
  replicas: {{ hasKey $zone "replicas" | ternary $zone.replicas $server.replicas }}
  podManagementPolicy: Parallel
  {{- end }}
  updateStrategy:
    type: RollingUpdate
    {{- if not $stateful }}
    rollingUpdate: {maxUnavailable: 1}
    {{- end }}
  selector:
    matchLabels:
      {{- include "simm.selector" $scope | nindent 6 }}
      {{- with $zone.name }}
      simm/zone: {{ . | quote }}
      {{- end }}
  template:
    metadata:
      labels:
        {{- include "simm.podLabels" $scope | nindent 8 }}
        {{- with $zone.name }}
        simm/zone: {{ . | quote }}
        {{- end }}
        {{- with $server.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # A change of the configuration restarts the pods, one after another.
        simm/config: {{ include "simm.dataserverConfig" $top | sha256sum | trunc 16 }}
        {{- with $server.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "simm.podSpec" $scope | nindent 6 }}
      {{- with include "simm.dataserverPlace" $scope | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if and (eq $server.pool.kind "hostPath") $server.pool.hostPath.prepare }}
      {{- $user := eq (include "simm.asRoot" $top) "true" | ternary "0:0" (printf "%v:%v" $top.Values.securityContext.user $top.Values.securityContext.group) }}
      initContainers:
        - name: own-the-pool-folder
          image: {{ include "simm.image" (dict "top" $top "part" "dataserver") }}
          imagePullPolicy: {{ $top.Values.image.pullPolicy }}
          # All that lies there: pools left by another user could not be opened.
          command: [chown, -R, {{ $user | quote }}, /pool
            {{- if $server.sharedMemory.enabled }}, /sockets{{ end }}]
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            runAsUser: 0
            runAsGroup: 0
            runAsNonRoot: false
            capabilities: {drop: [ALL], add: [CHOWN]}
          resources:
            requests: {cpu: 10m, memory: 16Mi}
            limits: {memory: 64Mi}
          volumeMounts:
            - {name: pool, mountPath: /pool}
            {{- if $server.sharedMemory.enabled }}
            - {name: sockets, mountPath: /sockets}
            {{- end }}
      {{- end }}
      containers:
        {{- include "simm.dataserverContainer" $scope | nindent 8 }}
      volumes:
        {{- include "simm.dataserverVolumes" $scope | nindent 8 }}
  {{- if eq $server.pool.kind "claim" }}
  volumeClaimTemplates:
    - metadata:
        name: pool
        labels:
          {{- include "simm.selector" $scope | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ $server.pool.claim.storageClass }}
        resources:
          requests:
            storage: {{ include "simm.quantity" (include "simm.bytes" $server.memory) }}
  {{- end }}
{{- end -}}

{{/* "true" when the container runs as user 0. */}}
{{- define "simm.asRoot" -}}
{{- if and .Values.dataserver.rdma.enabled .Values.dataserver.rdma.runAsRoot }}true{{ end -}}
{{- end -}}

{{/* Where the pods go. */}}
{{- define "simm.dataserverPlace" -}}
{{- $server := .of -}}
{{- if $server.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with $server.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- $selector := deepCopy $server.nodeSelector }}
{{- with .zone.name }}{{ $_ := set $selector $server.zoneNodeLabel . }}{{ end }}
{{- with .zone.nodeSelector }}{{ $selector = mergeOverwrite $selector . }}{{ end }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq $server.kind "StatefulSet" }}
topologySpreadConstraints:
  - topologyKey: {{ $server.topologySpread.topologyKey }}
    maxSkew: {{ $server.topologySpread.maxSkew }}
    whenUnsatisfiable: {{ $server.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "simm.selector" . | nindent 8 }}
        {{- with .zone.name }}
        simm/zone: {{ . | quote }}
        {{- end }}
{{- end }}
{{- end -}}

{{- define "simm.dataserverContainer" -}}
{{- $server := .of -}}
- name: dataserver
  image: {{ include "simm.image" . }}
  imagePullPolicy: {{ .top.Values.image.pullPolicy }}
  args: [--config, /etc/simm/dataserver.yaml]
  env:
    # The name stays the same over restarts: it is what gets its shards back.
    - name: SIMM_NAME
      valueFrom:
        fieldRef:
          fieldPath: {{ eq $server.kind "StatefulSet" | ternary "metadata.name" "spec.nodeName" }}
    - name: SIMM_ADVERTISE
      valueFrom: {fieldRef: {fieldPath: status.podIP}}
    {{- if ne $server.pool.kind "anonymous" }}
    - {name: SIMM_POOL, value: /pool/$(SIMM_NAME)}
    {{- end }}
    {{- if $server.sharedMemory.enabled }}
    - {name: SIMM_SHM_SOCKET, value: {{ include "simm.ownFolder" (dict "top" .top "path" $server.sharedMemory.hostPath) }}/$(SIMM_NAME)}
    {{- end }}
    {{- if .zone.name }}
    - {name: SIMM_ZONE, value: {{ .zone.name | quote }}}
    {{- else if $server.zoneFromPodLabel }}
    - name: SIMM_ZONE
      valueFrom:
        fieldRef:
          fieldPath: metadata.labels['{{ $server.zoneFromPodLabel }}']
    {{- end }}
    {{- with $server.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range $port := list "grpc" "data" "http" }}
    - name: {{ $port }}
      containerPort: {{ index $server.ports $port }}
      protocol: TCP
      {{- if $server.hostNetwork }}
      hostPort: {{ index $server.ports $port }}
      {{- end }}
    {{- end }}
  {{- include "simm.probes" (dict "startup" (include "simm.startupProbes" .top)) | nindent 2 }}
  {{- with include "simm.preStop" $server.preStopSeconds }}
  {{- . | nindent 2 }}
  {{- end }}
  resources:
    {{- include "simm.dataserverResources" .top | nindent 4 }}
  {{- include "simm.containerSecurity" (dict "top" .top "root" (include "simm.asRoot" .top)) | nindent 2 }}
  volumeMounts:
    - {name: config, mountPath: /etc/simm, readOnly: true}
    {{- if ne $server.pool.kind "anonymous" }}
    - {name: pool, mountPath: /pool}
    {{- end }}
    {{- if $server.sharedMemory.enabled }}
    - name: sockets
      mountPath: {{ include "simm.ownFolder" (dict "top" .top "path" $server.sharedMemory.hostPath) }}
    {{- end }}
{{- end -}}

{{- define "simm.dataserverVolumes" -}}
{{- $server := .of -}}
- name: config
  configMap:
    name: {{ printf "%s-dataserver" (include "simm.fullname" .top) }}
{{- if eq $server.pool.kind "hostPath" }}
- name: pool
  hostPath:
    path: {{ include "simm.ownFolder" (dict "top" .top "path" $server.pool.hostPath.path) }}
    type: DirectoryOrCreate
{{- else if eq $server.pool.kind "emptyDir" }}
- name: pool
  emptyDir:
    medium: {{ $server.hugepages.enabled | ternary (printf "HugePages-%s" $server.hugepages.size) "Memory" }}
    {{- if not $server.hugepages.enabled }}
    # A little above the pool: its lock file and page rounding.
    sizeLimit: {{ include "simm.quantity" (addf (include "simm.bytes" $server.memory) 4194304) }}
    {{- end }}
{{- end }}
{{- if $server.sharedMemory.enabled }}
- name: sockets
  hostPath:
    path: {{ include "simm.ownFolder" (dict "top" .top "path" $server.sharedMemory.hostPath) }}
    type: DirectoryOrCreate
{{- end }}
{{- end -}}
