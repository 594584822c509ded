{{- define "simm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "simm" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-simm" (.Release.Name | trunc 35 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Of an object or pod. Argument: dict "top" $ "part" "manager" */}}
{{- define "simm.selector" -}}
app.kubernetes.io/name: simm
app.kubernetes.io/instance: {{ .top.Release.Name }}
{{- with .part }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Of pods: without versions, so that an upgrade of the chart alone restarts nothing. */}}
{{- define "simm.podLabels" -}}
{{ include "simm.selector" . }}
app.kubernetes.io/part-of: simm
{{- with .top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "simm.labels" -}}
{{ include "simm.selector" . }}
app.kubernetes.io/part-of: simm
app.kubernetes.io/version: {{ .top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .top.Chart.Name .top.Chart.Version }}
{{- with .top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object. Argument: dict "top" $ "part" "manager" "name" "..." */}}
{{- define "simm.metadata" -}}
name: {{ .name }}
namespace: {{ .top.Release.Namespace }}
labels:
  {{- include "simm.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := mergeOverwrite (deepCopy .top.Values.commonAnnotations) (.annotations | default dict) }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "simm.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "simm.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Argument: dict "top" $ "part" "manager" */}}
{{- define "simm.image" -}}
{{- $image := .top.Values.image -}}
{{- $tag := $image.tag | default .top.Chart.AppVersion -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- index $image .part -}}
{{- if hasPrefix "sha256:" $tag }}@{{ else }}:{{ end }}{{ $tag -}}
{{- end -}}

{{- define "simm.domain" -}}
{{- printf "%s.svc.%s" .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- define "simm.listen" -}}
{{- printf "%s:%d" .top.Values.listenHost (int .port) -}}
{{- end -}}

{{/* Addresses of all managers, joined by commas. One: its service. Several: each pod by name, since
a client goes on with the next one by itself. */}}
{{- define "simm.managers" -}}
{{- $name := printf "%s-manager" (include "simm.fullname" .) -}}
{{- $end := printf "%s:%d" (include "simm.domain" .) (int .Values.manager.ports.grpc) -}}
{{- if eq (int .Values.manager.replicas) 1 -}}
{{- printf "%s.%s" $name $end -}}
{{- else -}}
{{- $all := list -}}
{{- range $i := until (int .Values.manager.replicas) -}}
{{- $all = append $all (printf "%s-%d.%s-pods.%s" $name $i $name $end) -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}
{{- end -}}
