{{/* Bytes of a size in SiMM's or Kubernetes' way: 64GiB, 64Gi, 64G, 65536. As a whole number. */}}
{{- define "simm.bytes" -}}
{{- $text := . | toString -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- $binary := dict "" 1 "B" 1 "Ki" 1024 "KiB" 1024 "Mi" 1048576 "MiB" 1048576 "Gi" 1073741824 "GiB" 1073741824 "Ti" 1099511627776 "TiB" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- if or (eq $number "") (not (hasKey $binary $unit)) -}}
{{- fail (printf "'%s' is not a size; write a number with a unit, such as 512MiB or 64GiB" $text) -}}
{{- end -}}
{{- mulf $number (get $binary $unit) | ceil | printf "%.0f" -}}
{{- end -}}

{{/* Kubernetes' way for a number of bytes: whole MiB, upwards. */}}
{{- define "simm.quantity" -}}
{{- printf "%.0fMi" (divf . 1048576 | ceil) -}}
{{- end -}}

{{/* The programs' way. */}}
{{- define "simm.size" -}}
{{- $text := . | toString -}}
{{- if hasSuffix "i" $text }}{{ $text }}B{{ else }}{{ $text }}{{ end -}}
{{- end -}}

{{/* What a data server needs besides the pool: the process and its connections (192 MiB), and 256 B
a value for bookkeeping: about 110 B are used, and there may be twice as many values as memory /
meanValue, since the index holds that many. tests/deploy measures it. */}}
{{- define "simm.overheadBytes" -}}
{{- $values := divf (include "simm.bytes" .Values.dataserver.memory) (include "simm.bytes" .Values.dataserver.meanValue) -}}
{{- addf 201326592 (mulf 256 $values) | ceil | printf "%.0f" -}}
{{- end -}}

{{/* Bytes of one huge page. */}}
{{- define "simm.hugepageBytes" -}}
{{- include "simm.bytes" .Values.dataserver.hugepages.size -}}
{{- end -}}

{{/* Bytes of huge pages: two files, each in whole pages. */}}
{{- define "simm.hugepagesBytes" -}}
{{- $page := include "simm.hugepageBytes" . -}}
{{- mulf (addf (divf (include "simm.bytes" .Values.dataserver.memory) $page | ceil) 1) $page | printf "%.0f" -}}
{{- end -}}

{{/* Bytes that count against the pod's memory limit. Files on tmpfs count where they are first
touched, so the pool is part of it; huge pages are accounted apart. */}}
{{- define "simm.neededBytes" -}}
{{- if .Values.dataserver.hugepages.enabled -}}
{{- /* An anonymous pool has its index (about 200 B a value) on ordinary pages. */ -}}
{{- $values := divf (include "simm.bytes" .Values.dataserver.memory) (include "simm.bytes" .Values.dataserver.meanValue) -}}
{{- $index := ternary (mulf 220 $values) 0 (eq .Values.dataserver.pool.kind "anonymous") -}}
{{- addf $index (include "simm.overheadBytes" .) | ceil | printf "%.0f" -}}
{{- else -}}
{{- addf (include "simm.bytes" .Values.dataserver.memory) (include "simm.overheadBytes" .) | printf "%.0f" -}}
{{- end -}}
{{- end -}}

{{/* resources of a data server */}}
{{- define "simm.dataserverResources" -}}
{{- $server := .Values.dataserver -}}
{{- $needed := include "simm.neededBytes" . -}}
{{- $limit := $needed -}}
{{- with $server.resources.limits.memory -}}
{{- $limit = include "simm.bytes" . -}}
{{- if lt (float64 $limit) (float64 $needed) -}}
{{- fail (printf "dataserver.resources.limits.memory: '%v' is too small for dataserver.memory: %v: the pool%s and the process need %s; raise the limit to at least %s, leave it out (it is computed), or lower dataserver.memory" . $server.memory (ternary "'s bookkeeping" "" $server.hugepages.enabled) (include "simm.quantity" $needed) (include "simm.quantity" $needed)) -}}
{{- end -}}
{{- end -}}
{{- $memory := include "simm.quantity" $limit -}}
{{- $extra := dict -}}
{{- if $server.hugepages.enabled -}}
{{- $_ := set $extra (printf "hugepages-%s" $server.hugepages.size) (include "simm.quantity" (include "simm.hugepagesBytes" .)) -}}
{{- end -}}
{{- if $server.rdma.enabled -}}
{{- $_ := set $extra $server.rdma.resource (toString $server.rdma.count) -}}
{{- end -}}
{{- $requests := mergeOverwrite (dict "memory" $memory) (omit $server.resources.requests "memory") $extra -}}
{{- $limits := mergeOverwrite (deepCopy $server.resources.limits) (dict "memory" $memory) $extra -}}
requests:
  {{- toYaml $requests | nindent 2 }}
limits:
  {{- toYaml $limits | nindent 2 }}
{{- end -}}

{{/* How often the start is probed, every 5 s: a minute, and a second a GiB for touching and
registering the pool. */}}
{{- define "simm.startupProbes" -}}
{{- addf 12 (divf (include "simm.bytes" .Values.dataserver.memory) 5368709120) | ceil | int -}}
{{- end -}}
