{{- define "model.metadata" -}}
namespace: {{ .namespace | quote }}
labels:
  app.kubernetes.io/name: {{ .name | quote }}
  app.kubernetes.io/component: model
  app.kubernetes.io/managed-by: bud-foundry
  foundry.bud/project: {{ .project | quote }}
{{- end }}

{{- /* The value is filled in by the target, when it writes, or fetched by the operator. */ -}}
{{- define "model.secret" -}}
{{- with .secret -}}
apiVersion: {{ ternary "external-secrets.io/v1" "v1" (not (empty .external)) }}
kind: {{ ternary "ExternalSecret" "Secret" (not (empty .external)) }}
metadata:
  name: {{ .name | quote }}
  {{- include "model.metadata" $ | nindent 2 }}
  {{- if .external }}
{{ include "model.external-secret" . }}
  {{- else }}
  annotations:
    foundry.bud/credential: {{ toJson .credential | quote }}
type: Opaque
  {{- end }}
{{- end }}
{{- end }}

{{- /* Fetched by the operator into a Secret of this name, which the pods wait for.
The template keeps our labels off that Secret: it is not of our making. */ -}}
{{- define "model.external-secret" -}}
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

{{- define "model.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .claim | quote }}
  {{- include "model.metadata" . | nindent 2 }}
spec:
  # Every replica on every node reads the same bytes.
  accessModes: [ReadWriteMany]
  {{- with .storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources: {requests: {storage: {{ .size }}}}
{{- end }}

{{- define "model.network-policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ printf "%s-transfer" .claim | trunc 63 | quote }}
  {{- include "model.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      foundry.bud/transfer: {{ .claim | quote }}
  policyTypes: [Ingress, Egress]
  egress:
    - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
      ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
    - ports: [{port: 443, protocol: TCP}]
{{- end }}

{{- define "model.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .job | quote }}
  {{- include "model.metadata" . | nindent 2 }}
spec:
  backoffLimit: 6
  activeDeadlineSeconds: {{ .deadlineSeconds }}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {{ .name | quote }}
        app.kubernetes.io/component: model
        foundry.bud/transfer: {{ .claim | quote }}
    spec:
      restartPolicy: OnFailure
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: transfer
          image: {{ .image | quote }}
          command: {{ toJson .command }}
          env:
            {{- range $name, $value := .env }}
            - name: {{ $name | quote }}
              value: {{ $value | quote }}
            {{- end }}
            {{- if .secret }}
            - name: {{ .secretEnv }}
              valueFrom: {secretKeyRef: {name: {{ .secret.name | quote }}, key: value}}
            {{- end }}
          resources:
            requests: {cpu: "1", memory: 2Gi}
            limits: {memory: 8Gi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: scratch, mountPath: /tmp}
            - {name: weights, mountPath: /weights}
      volumes:
        - name: scratch
          emptyDir: {}
        - name: weights
          persistentVolumeClaim: {claimName: {{ .claim | quote }}}
{{- end }}
