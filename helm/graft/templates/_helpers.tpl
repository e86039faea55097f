{{/* Names are at most 40 long, so that whatever is put behind them stays below 63. A longer one keeps what tells it apart. */}}
{{- define "graft.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) -}}
{{- if gt (len $full) 40 -}}
{{- printf "%s-%s" ($full | trunc 31 | trimSuffix "-") (sha256sum $full | trunc 8) -}}
{{- else -}}
{{- $full | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "graft.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 }}
{{- end -}}

{{- define "graft.labels" -}}
{{ include "graft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: graft
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* metadata of an object. Takes (list $ "component" "suffix of the name"). */}}
{{- define "graft.meta" -}}
{{- $ := index . 0 -}}
name: {{ include "graft.fullname" $ }}{{ with index . 2 }}-{{ . }}{{ end }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "graft.labels" $ | nindent 2 }}
  app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The labels that a component's pods are found by. Takes (list $ "component"). */}}
{{- define "graft.pods" -}}
{{ include "graft.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Takes (list $ "service" | "trainer" | "engine"). */}}
{{- define "graft.image" -}}
{{- $ := index . 0 -}}
{{- $image := index $.Values.images (index . 1) -}}
{{- with $.Values.images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{- define "graft.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "graft.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "graft.claim" -}}
{{ .Values.storage.pvc.existingClaim | default (printf "%s-home" (include "graft.fullname" .)) }}
{{- end -}}

{{/* Whether all pods that use the claim have to be on one node. */}}
{{- define "graft.oneNode" -}}
{{- if and (eq .Values.storage.type "pvc") (or (eq .Values.storage.pvc.accessMode "ReadWriteOnce") (eq .Values.database.type "sqlite")) }}yes{{ end -}}
{{- end -}}

{{/* Seconds that requests have to end, once the service has been told to stop: a fifth more than the longest takes. */}}
{{- define "graft.drainSeconds" -}}
{{- mulf .Values.server.drain.maxRequestSeconds 1.2 | ceil | int -}}
{{- end -}}

{{/* What the kubelet allows in all: half as much again as getting around and draining take. */}}
{{- define "graft.graceSeconds" -}}
{{- mulf (add .Values.server.drain.propagationSeconds (include "graft.drainSeconds" . | int)) 1.5 | ceil | int -}}
{{- end -}}

{{- define "graft.placedByRay" -}}
{{- if and .Values.trainer.enabled (eq .Values.trainer.placement "ray") }}yes{{ end -}}
{{- end -}}

{{/* GPUs of one trainer: as many as it has ranks. */}}
{{- define "graft.gpusPerTrainer" -}}
{{- ternary (dig "trainer" "ranks" 1 .Values.config) 0 (gt (int .Values.trainer.gpu.count) 0) -}}
{{- end -}}

{{/* Trainers for which a pod of Ray's has room: a trainer has its GPUs, or the pod's CPUs. */}}
{{- define "graft.trainersPerPod" -}}
{{- with include "graft.gpusPerTrainer" . | int -}}
{{- div $.Values.trainer.gpu.count . -}}
{{- else -}}
1
{{- end -}}
{{- end -}}

{{/* Names of the ports that trainers of one pod have their metrics on. */}}
{{- define "graft.metricsPorts" -}}
metrics
{{- if eq (include "graft.placedByRay" .) "yes" }}
{{- range untilStep 1 (include "graft.trainersPerPod" . | int) 1 }},metrics-{{ . }}{{ end }}
{{- end -}}
{{- end -}}
