{{- /* The container that serves; $ is a dict of the entry, the argv and whether it answers. */ -}}
{{- define "endpoint.container" -}}
{{- $e := .endpoint -}}
name: engine
image: {{ $e.image | quote }}
command: {{ toJson .command }}
env:
  - name: HOME
    value: /tmp
  {{- range $name, $value := $e.env }}
  - name: {{ $name | quote }}
    value: {{ $value | quote }}
  {{- end }}
{{- if .answers }}
ports:
  - name: http
    containerPort: {{ $e.port }}
    protocol: TCP
# Three probes, one path: starting may take as long as loading the weights does;
# after that, one that hangs is out of the Service in seconds and restarted in minutes.
startupProbe:
  httpGet: {path: {{ $e.probe.path | quote }}, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int $e.probe.startupSeconds) 9) 10 }}
readinessProbe:
  httpGet: {path: {{ $e.probe.path | quote }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {path: {{ $e.probe.path | quote }}, port: http}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 6
lifecycle:
  preStop:
    # Endpoints and gateways learn of the end first; requests in flight then drain.
    sleep: {seconds: 5}
{{- end }}
resources:
  requests: {{ toJson $e.requests }}
  limits: {{ toJson $e.limits }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  - {name: scratch, mountPath: /tmp}
  {{- if $e.weights }}
  - {name: weights, mountPath: /weights, readOnly: true}
  {{- end }}
  {{- if $e.adapters }}
  - {name: adapters, mountPath: /adapters, readOnly: true}
  {{- end }}
{{- end }}

{{- define "endpoint.pod" -}}
{{- $e := .endpoint -}}
metadata:
  labels:
    {{- include "endpoint.selector" $e | nindent 4 }}
    app.kubernetes.io/component: endpoint
    foundry.bud/answers: {{ .answers | quote }}
spec:
  serviceAccountName: {{ $e.name | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (int $e.rollout.drainSeconds) 5 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with $e.nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- with $e.tolerations }}
  tolerations:
    {{- range . }}
    - key: {{ .key | quote }}
      {{- if .value }}
      operator: Equal
      value: {{ .value | quote }}
      {{- else }}
      operator: Exists
      {{- end }}
      effect: {{ .effect }}
    {{- end }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "endpoint.selector" $e | nindent 10 }}
          foundry.bud/answers: "true"
    {{- end }}
  {{- with $e.adapters }}
  initContainers:
    {{- range . }}
    - name: {{ printf "adapter-%s" .name | trunc 63 | trimSuffix "-" | quote }}
      image: {{ .image | quote }}
      command: {{ toJson .command }}
      env:
        - {name: HOME, value: /tmp}
        {{- if .secret }}
        - name: {{ .secretEnv }}
          valueFrom: {secretKeyRef: {name: {{ .secret.name | quote }}, key: value}}
        {{- end }}
      resources:
        requests: {cpu: "1", memory: 1Gi}
        limits: {memory: 4Gi}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: scratch, mountPath: /tmp}
        - {name: adapters, mountPath: /adapters}
    {{- end }}
  {{- end }}
  containers:
    - {{- include "endpoint.container" . | nindent 6 }}
  volumes:
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $e.shm }}}
    - name: scratch
      emptyDir: {}
    {{- if $e.weights }}
    - name: weights
      persistentVolumeClaim: {claimName: {{ $e.weights | quote }}, readOnly: true}
    {{- end }}
    {{- if $e.adapters }}
    - name: adapters
      emptyDir: {}
    {{- end }}
{{- end }}
