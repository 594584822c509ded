{{/* Security of a container. Argument: dict "top" $ "root" false */}}
{{- define "simm.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  {{- if .root }}
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
  capabilities: {drop: [ALL], add: [IPC_LOCK]}
  {{- else }}
  runAsUser: {{ .top.Values.securityContext.user }}
  runAsGroup: {{ .top.Values.securityContext.group }}
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  {{- end }}
{{- end -}}

{{/* What all pods have. Argument: dict "top" $ "of" .Values.manager */}}
{{- define "simm.podSpec" -}}
serviceAccountName: {{ include "simm.serviceAccount" .top }}
automountServiceAccountToken: false
# Kubernetes would put SIMM_..._PORT and the like into the environment, which are options here.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .of.terminationGracePeriodSeconds }}
securityContext:
  fsGroup: {{ .top.Values.securityContext.group }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .top.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Probes of a program's http port. Argument: dict "startup" 24 */}}
{{- define "simm.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ .startup }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- define "simm.preStop" -}}
{{- if gt (int .) 0 -}}
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ . | toString | quote }}]
{{- end -}}
{{- end -}}
