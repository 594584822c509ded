{{- define "simm.managerConfig" -}}
listen: {{ include "simm.listen" (dict "top" . "port" .Values.manager.ports.grpc) | quote }}
http: {{ include "simm.listen" (dict "top" . "port" .Values.manager.ports.http) | quote }}
{{- if .Values.manager.etcd.endpoints }}
etcd:
{{- range .Values.manager.etcd.endpoints }}
  - {{ . }}
{{- end }}
etcd-prefix: {{ .Values.manager.etcd.prefix | default (printf "/simm/%s/%s" .Release.Namespace (include "simm.fullname" .)) }}
{{- else }}
state: /var/lib/simm
{{- end }}
log-level: {{ .Values.log.level }}
log-json: {{ .Values.log.json }}
{{- with .Values.manager.options }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "simm.dataserverConfig" -}}
{{- $server := .Values.dataserver -}}
manager:
{{- range splitList "," (include "simm.managers" .) }}
  - {{ . }}
{{- end }}
memory: {{ include "simm.size" $server.memory }}
mean-value: {{ include "simm.size" $server.meanValue }}
listen: {{ include "simm.listen" (dict "top" . "port" $server.ports.grpc) | quote }}
data-listen: {{ include "simm.listen" (dict "top" . "port" $server.ports.data) | quote }}
http: {{ include "simm.listen" (dict "top" . "port" $server.ports.http) | quote }}
transport: {{ $server.transport }}
{{- if $server.rdma.enabled }}
rdma-gid-index: {{ $server.rdma.gidIndex }}
{{- with $server.rdma.devices }}
rdma-device: {{ toJson . }}
{{- end }}
{{- end }}
huge-pages: {{ $server.hugepages.enabled }}
log-level: {{ .Values.log.level }}
log-json: {{ .Values.log.json }}
{{- with $server.options }}
{{ toYaml . }}
{{- end }}
{{- end }}

