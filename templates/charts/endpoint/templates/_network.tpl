{{- define "endpoint.service-account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{- /* The value is filled in by the target, when it writes, or fetched by the operator. */ -}}
{{- define "endpoint.secrets" -}}
{{- $written := dict }}
{{- range .adapters }}
{{- with .secret }}
{{- if not (hasKey $written .name) }}
{{- if $written }}
---
{{ end -}}
{{- $_ := set $written .name true -}}
apiVersion: {{ ternary "external-secrets.io/v1" "v1" (not (empty .external)) }}
kind: {{ ternary "ExternalSecret" "Secret" (not (empty .external)) }}
metadata:
  {{- include "endpoint.metadata" (merge (dict "name" .name) $) | nindent 2 }}
  {{- if .external }}
{{ include "endpoint.external-secret" . }}
  {{- else }}
  annotations:
    foundry.bud/credential: {{ toJson .credential | quote }}
type: Opaque
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Fetched by the operator into a Secret of this name, which the pods wait for.
The template keeps our labels off that Secret: it is not of our making. */ -}}
{{- define "endpoint.external-secret" -}}
spec:
  refreshInterval: 1h
  secretStoreRef: {kind: {{ .external.storeKind }}, name: {{ .external.store | quote }}}
  target:
    name: {{ .name | quote }}
    creationPolicy: Owner
    template:
      type: Opaque
      metadata: {labels: {app.kubernetes.io/managed-by: external-secrets}}
  data:
    - secretKey: value
      remoteRef:
        key: {{ .external.key | quote }}
        {{- with .external.property }}
        property: {{ . | quote }}
        {{- end }}
{{- end }}

{{- define "endpoint.service" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  type: ClusterIP
  selector:
    {{- include "endpoint.selector" . | nindent 4 }}
    foundry.bud/answers: "true"
  ports:
    - name: http
      port: 80
      targetPort: http
      protocol: TCP
{{- end }}

{{- define "endpoint.network-policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "endpoint.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    # The gateway asks, Prometheus scrapes, an ingress controller forwards.
    - from:
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bud-system}}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
        {{- if .ingress }}
        - namespaceSelector: {matchLabels: {foundry.bud/ingress: "true"}}
        {{- end }}
      ports: [{port: http, protocol: TCP}]
    {{- if gt (int .nodes) 1 }}
    - from:
        - podSelector:
            matchLabels:
              {{- include "endpoint.selector" . | nindent 14 }}
    {{- end }}
  egress:
    - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
      ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
    {{- if .adapters }}
    - ports: [{port: 443, protocol: TCP}]
    {{- end }}
    {{- if gt (int .nodes) 1 }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "endpoint.selector" . | nindent 14 }}
    {{- end }}
{{- end }}

{{- define "endpoint.ingress" -}}
{{- with .ingress }}
{{- if eq .kind "gateway-api" -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  {{- include "endpoint.metadata" $ | nindent 2 }}
spec:
  parentRefs:
    - {name: {{ .className | quote }}, namespace: bud-system}
  {{- with .host }}
  hostnames: [{{ . | quote }}]
  {{- end }}
  rules:
    - matches: [{path: {type: PathPrefix, value: {{ .path | quote }}}}]
      filters:
        - type: URLRewrite
          urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
      # A stream lives as long as the model speaks.
      timeouts: {request: 0s, backendRequest: 0s}
      backendRefs: [{name: {{ $.name | quote }}, port: 80}]
{{- else -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  {{- include "endpoint.metadata" $ | nindent 2 }}
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$2
    nginx.ingress.kubernetes.io/proxy-buffering: "off"
    nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"
spec:
  ingressClassName: {{ .className | quote }}
  rules:
    - http:
        paths:
          - path: {{ printf "%s(/|$)(.*)" .path | quote }}
            pathType: ImplementationSpecific
            backend: {service: {name: {{ $.name | quote }}, port: {name: http}}}
      {{- with .host }}
      host: {{ . | quote }}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "endpoint.service-monitor" -}}
{{- if .monitored -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "endpoint.metadata" . | nindent 2 }}
spec:
  selector:
    matchLabels:
      {{- include "endpoint.selector" . | nindent 6 }}
  endpoints:
    - {port: http, path: {{ .metricsPath | quote }}, interval: 15s}
{{- end }}
{{- end }}
