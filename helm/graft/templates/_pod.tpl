{{/* What all pods have in common. Takes (list $ seconds-of-grace placement). */}}
{{- define "graft.podSpec" -}}
{{- $ := index . 0 -}}
{{- $placed := index . 2 -}}
serviceAccountName: {{ include "graft.serviceAccount" $ }}
automountServiceAccountToken: false
# A Service named like a setting would otherwise put variables such as VLLM_PORT=tcp://... into every container.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ index . 1 }}
{{- include "graft.podSecurity" $ }}
{{- with $.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $placed.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $placed.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $placed.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $placed.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "graft.podSecurity" }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "graft.containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Takes (list $ "component" placement). */}}
{{- define "graft.spread" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- with (index . 2).topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  {{- $when := .whenUnsatisfiable }}
  {{- range .topologyKeys }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels:
        {{- include "graft.pods" (list $ $component) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The environment of every container: where the configuration is, and where may be written. */}}
{{- define "graft.environment" -}}
- {name: GRAFT_HOME, value: /data}
- {name: GRAFT_CONFIG, value: /etc/graft/graft.yaml}
- {name: HOME, value: /cache}
- {name: TMPDIR, value: /tmp}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: HF_HOME, value: /cache/huggingface}
- {name: TRITON_CACHE_DIR, value: /cache/triton}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/inductor}
- {name: VLLM_CACHE_ROOT, value: /cache/vllm}
{{- end -}}

{{/* The ledger: its database and its bucket. Secrets by reference only. */}}
{{- define "graft.ledgerEnvironment" -}}
{{- if eq .Values.database.type "postgresql" }}
- name: GRAFT_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.secretKey }}}
{{- end }}
{{- if eq .Values.storage.type "bucket" }}
{{- with .Values.storage.bucket }}
- {name: GRAFT_STORE_URL, value: {{ .url | quote }}}
{{- with .endpoint }}
- {name: GRAFT_STORE_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with .region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: AWS_ACCESS_KEY_ID}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: AWS_SECRET_ACCESS_KEY}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "graft.hubEnvironment" -}}
{{- if .Values.modelDownload.enabled }}
{{- with .Values.modelDownload }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .secretKey }}}
{{- end }}
{{- end }}
{{- else }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- end -}}

{{/* Writable places of one container, its own. Takes its name. */}}
{{- define "graft.writable" -}}
- {name: {{ . }}-tmp, mountPath: /tmp}
- {name: {{ . }}-cache, mountPath: /cache}
{{- end -}}

{{- define "graft.writableVolumes" -}}
- {name: {{ . }}-tmp, emptyDir: {}}
- {name: {{ . }}-cache, emptyDir: {}}
{{- end -}}

{{/* Resources, with as many GPUs asked for as allowed. Takes (list resources gpu). */}}
{{- define "graft.resources" -}}
{{- $resources := deepCopy (index . 0) -}}
{{- $gpu := index . 1 -}}
{{- if $gpu.count -}}
{{- $count := toString $gpu.count -}}
{{- $_ := set $resources "limits" (set ($resources.limits | default dict) $gpu.resourceName $count) -}}
{{- $_ := set $resources "requests" (set ($resources.requests | default dict) $gpu.resourceName $count) -}}
{{- end -}}
resources:
  {{- toYaml $resources | nindent 2 }}
{{- end -}}

{{/* Fetches and converts the base models before anything else starts. */}}
{{- define "graft.prepare" -}}
- name: prepare
  image: {{ include "graft.image" (list . "trainer") }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  command: [python, -m, trainer, prepare]
  env:
    {{- include "graft.environment" . | nindent 4 }}
    {{- include "graft.hubEnvironment" . | nindent 4 }}
  {{- include "graft.containerSecurity" . | nindent 2 }}
  resources:
    {{- toYaml .Values.trainer.resources | nindent 4 }}
  volumeMounts:
    - {name: home, mountPath: /data}
    - {name: config, mountPath: /etc/graft, readOnly: true}
    {{- include "graft.writable" "prepare" | nindent 4 }}
{{- end -}}

{{/* Of everything that is Ray's. Without the token nobody may use the cluster. */}}
{{- define "graft.rayEnvironment" -}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.trainer.ray.existingSecret }}, key: {{ .Values.trainer.ray.secretKey }}}
{{- end -}}

{{/* Nothing travels through Ray's store but words: the least that it takes, and not in /dev/shm, which is training's. */}}
{{- define "graft.rayStore" -}}
object-store-memory: "80000000"
plasma-directory: /tmp
{{- end -}}
