{{- define "endpoint.workload" -}}
{{- $answering := dict "endpoint" . "command" .command "answers" true -}}
{{- if gt (int .nodes) 1 -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  {{- if kindIs "float64" .replicas }}
  replicas: {{ .replicas }}
  {{- end }}
  startupPolicy: LeaderCreated
  rolloutStrategy:
    type: RollingUpdate
    rollingUpdateConfiguration:
      maxUnavailable: {{ ternary 1 0 (eq .rollout.strategy "Recreate") }}
      maxSurge: {{ ternary 0 (int .rollout.maxSurge) (eq .rollout.strategy "Recreate") }}
  leaderWorkerTemplate:
    size: {{ .nodes }}
    # The ranks of one replica share every collective: one lost is all lost.
    restartPolicy: RecreateGroupOnPodRestart
    leaderTemplate:
      {{- include "endpoint.pod" $answering | nindent 6 }}
    workerTemplate:
      {{- include "endpoint.pod" (dict "endpoint" . "command" .workerCommand "answers" false) | nindent 6 }}
{{- else -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  {{- if kindIs "float64" .replicas }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  progressDeadlineSeconds: {{ add (int .rollout.readySeconds) 120 }}
  selector:
    matchLabels:
      {{- include "endpoint.selector" . | nindent 6 }}
  strategy:
    {{- if eq .rollout.strategy "Recreate" }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate:
      # What serves goes on serving until the new one answers.
      maxUnavailable: 0
      maxSurge: {{ .rollout.maxSurge }}
    {{- end }}
  template:
    {{- include "endpoint.pod" $answering | nindent 4 }}
{{- end }}
{{- end }}

{{- define "endpoint.disruption-budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  {{- if kindIs "float64" .rollout.floor }}
  minAvailable: {{ .rollout.floor }}
  {{- else }}
  maxUnavailable: 1
  {{- end }}
  # A pod that does not answer protects nobody, and must not hold up a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "endpoint.selector" . | nindent 6 }}
      foundry.bud/answers: "true"
{{- end }}

{{- define "endpoint.autoscaler" -}}
{{- with .scaling }}
{{- if eq .by "keda" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "endpoint.metadata" $ | nindent 2 }}
spec:
  scaleTargetRef:
    {{- include "endpoint.scale-target" $ | nindent 4 }}
  minReplicaCount: {{ .min }}
  maxReplicaCount: {{ .max }}
  cooldownPeriod: {{ .cooldownSeconds }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown: {stabilizationWindowSeconds: {{ min 3600 (int .cooldownSeconds) }}}
  triggers:
    {{- range .triggers }}
    - type: prometheus
      name: {{ .name }}
      metricType: {{ .type }}
      metadata:
        serverAddress: {{ $.scaling.prometheus | quote }}
        query: {{ .query | quote }}
        threshold: {{ .threshold | quote }}
    {{- end }}
{{- else -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "endpoint.metadata" $ | nindent 2 }}
spec:
  scaleTargetRef:
    {{- include "endpoint.scale-target" $ | nindent 4 }}
  minReplicas: {{ .min }}
  maxReplicas: {{ .max }}
  behavior:
    scaleDown: {stabilizationWindowSeconds: {{ min 3600 (int .cooldownSeconds) }}}
  metrics:
    {{- range .triggers }}
    - type: Pods
      pods:
        metric: {name: {{ .metric | quote }}}
        # A gauge from 0 to 1 is compared as such; a percentage was written.
        target:
          type: AverageValue
          averageValue: {{ if eq .type "Value" }}{{ printf "%dm" (mul 10 (int .threshold)) }}{{ else }}{{ .threshold | quote }}{{ end }}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}
