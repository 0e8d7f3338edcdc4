{{- define "endpoint.selector" -}}
app.kubernetes.io/name: {{ .name | quote }}
foundry.bud/project: {{ .project | quote }}
{{- end }}

{{- define "endpoint.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .namespace | quote }}
labels:
  {{- include "endpoint.selector" . | nindent 2 }}
  app.kubernetes.io/component: endpoint
  app.kubernetes.io/managed-by: bud-foundry
  foundry.bud/model: {{ .model | quote }}
{{- end }}

{{- define "endpoint.scale-target" -}}
{{- if gt (int .nodes) 1 -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
{{- else -}}
apiVersion: apps/v1
kind: Deployment
{{- end }}
name: {{ .name | quote }}
{{- end }}
