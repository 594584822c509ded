{{- define "simm.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "simm.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "simm.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}
{{- define "simm.managerPolicy" -}}
{{- $net := .net -}}
{{ include "simm.policyHead" . }}
  ingress:
    - from:
        {{- include "simm.ownPods" . | nindent 8 }}
        {{- with .net.clients }}{{ toYaml . | nindent 8 }}{{ end }}
      ports: [{port: grpc, protocol: TCP}]
    {{- with .net.metrics }}
    - from:
        {{- toYaml . | nindent 8 }}
      ports: [{port: http, protocol: TCP}]
    {{- end }}
  egress:
    {{- include "simm.dnsEgress" . | nindent 4 }}
    - to:
        {{- include "simm.ownPods" . | nindent 8 }}
    {{- with .of.etcd.endpoints }}
    - ports:
        {{- range . }}
        - {port: {{ include "simm.urlPort" . }}, protocol: TCP}
        {{- end }}
      {{- with $net.etcd }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
{{- end }}
{{- define "simm.dataserverPolicy" -}}
{{ include "simm.policyHead" . }}
  ingress:
    - from:
        {{- include "simm.ownPods" . | nindent 8 }}
        {{- with .net.clients }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {port: grpc, protocol: TCP}
        - {port: data, protocol: TCP}
    {{- with .net.metrics }}
    - from:
        {{- toYaml . | nindent 8 }}
      ports: [{port: http, protocol: TCP}]
    {{- end }}
  egress:
    {{- include "simm.dnsEgress" . | nindent 4 }}
    - to:
        {{- include "simm.ownPods" . | nindent 8 }}
{{- end }}
{{/* Every pod of this release: managers and data servers call each other. */}}
{{- define "simm.ownPods" -}}
- podSelector:
    matchLabels:
      {{- include "simm.selector" (dict "top" .top) | nindent 6 }}
{{- end }}
{{- define "simm.dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}
{{- define "simm.urlPort" -}}
{{- regexFind "[0-9]+$" (trimSuffix "/" .) -}}
{{- end }}
