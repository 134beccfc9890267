// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// TestKubelet does what users of Kubernetes do, twice: with guests on this runtime, and
// with the same program, built for this machine, on runc. Both have to have the same
// results. Images: $app is the program beside a shell, $v2 another version of it,
// $layer the program alone (of the guest a Wasm image), $sh a shell. $class is the
// RuntimeClass, $dir a directory of the node.
func TestKubelet(t *testing.T) {
	n := newCluster(t, setup{version: harness.Containerd24, images: allImages("")})
	n.write("runtimeclasses.yaml", runtimeClasses)
	_, err := n.run(time.Minute, "kubectl", "apply", "-f", n.Dir+"/runtimeclasses.yaml")
	require.NoError(t, err)
	kinds := []kind{newKind(t, n, "guest"), newKind(t, n, "native")}
	t.Run("20 pods at once", func(t *testing.T) {
		for _, k := range kinds {
			k.T = t
			k.atOnce("many", "$app", 20)
			require.Equal(t, 1, strings.Count(n.logOf(t), "compiled sha256:"), "compilations")
		}
		for _, image := range []string{"$v2", "$layer"} { // what the steps run
			kinds[0].T = t
			kinds[0].atOnce(image[1:], image, 1)
		}
	})
	t.Run("steps", func(t *testing.T) {
		for _, k := range kinds {
			for _, s := range steps {
				t.Run(s.name+"/"+k.name, func(t *testing.T) {
					t.Parallel()
					s.do(kind{t, n, k.name})
				})
			}
		}
	})
	for _, k := range kinds {
		k.survivor()
	}
	t.Run("quiet log", func(t *testing.T) {
		before := n.logOf(t)
		require.NotContains(t, before, "config.json", "a warning of libcontainer's")
		// The kubelet has asked for statistics and for the results of probes meanwhile.
		time.Sleep(15 * time.Second)
		for line := range strings.Lines(strings.TrimPrefix(n.logOf(t), before)) {
			require.NotContains(t, line, "runtime=io.containerd.wasmtime.v1")
		}
	})
	survive(t, n, kinds)
}

// TestKubeletSandboxes has the faults happen to a pod without a pause container.
func TestKubeletSandboxes(t *testing.T) {
	t.Parallel()
	n := newCluster(t, setup{version: harness.Containerd24, images: allImages("")})
	n.write("runtimeclasses.yaml", strings.ReplaceAll(runtimeClasses, "handler: wasmtime", "handler: sandboxes"))
	_, err := n.run(time.Minute, "kubectl", "apply", "-f", n.Dir+"/runtimeclasses.yaml")
	require.NoError(t, err)
	k := newKind(t, n, "guest")
	k.survivor()
	require.Len(t, n.Processes(func(args []string) bool { return args[0] == waiter }), 1)
	survive(t, n, []kind{k})
	require.Empty(t, n.Processes(func(args []string) bool { return args[0] == waiter }))
	files, _ := filepath.Glob(n.Dir + "/root/io.containerd.grpc.v1.cri/sandboxes/*")
	require.Empty(t, files)
}

// waiter is what holds a pod that has no pause container.
const waiter = "wasmshim-pod"

// survive has the faults happen to survivors, which are there, and removes them.
func survive(t *testing.T, n *node, kinds []kind) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			own := slices.Clone(kinds)
			for i := range own {
				own[i].T = t
			}
			f.do(n, own)
		})
	}
	t.Run("nothing left", func(t *testing.T) {
		for _, k := range kinds {
			_, err := n.run(3*time.Minute, "kubectl", "delete", "namespace", k.name, "--timeout=150s")
			require.NoError(t, err)
		}
		// The kubelet removes what is left of pods once in a minute.
		require.NoError(t, eventually(2*time.Minute, func() error {
			if left := n.left(); len(left) > 0 {
				return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			return nil
		}))
	})
}

var steps = []struct {
	name string
	do   func(k kind)
}{
	{"plain image", func(k kind) {
		k.pod("plain", `
restartPolicy: Never
containers: [{name: app, image: $app, args: ["echo=a word", "args"], env: [{name: A, value: b}], workingDir: /tmp}]`)
		require.Equal(k, "a word\n[\"/app\" \"echo=a word\" \"args\"]\n", k.ends("plain"))
	}},
	{"image of the program alone", func(k kind) {
		k.pod("layer", `
restartPolicy: Never
containers: [{name: app, image: $layer, args: [echo=alone]}]`)
		require.Equal(k, "alone\n", k.ends("layer"))
	}},
	{"two versions", func(k kind) {
		k.pod("versions", `
restartPolicy: Never
initContainers: [{name: old, image: $app, args: ["try-read=/mark-v2"]}]
containers: [{name: app, image: $v2, args: ["try-read=/mark-v2"]}]`)
		require.Equal(k, "try-read /mark-v2 works\n", k.ends("versions"))
		require.Contains(k, strings.ToLower(k.kubectl("logs", "versions", "-c", "old")), "no such file")
	}},
	{"exit status", func(k kind) {
		k.pod("status", `
restartPolicy: Never
containers: [{name: app, image: $app, args: [exit=3]}]`)
		k.becomes("pod/status", ".status.phase", "Failed")
		require.Equal(k, "3 Error", k.field("pod/status", ".status.containerStatuses[0].state.terminated.exitCode")+" "+k.field("pod/status", ".status.containerStatuses[0].state.terminated.reason"))
	}},
	{"restarts", func(k kind) {
		k.pod("restarts", `
containers: [{name: app, image: $app, args: [echo=once, exit=1]}]`)
		k.n.eventually(2*time.Minute, func() error {
			if count := k.field("pod/restarts", ".status.containerStatuses[0].restartCount"); count == "0" || count == "" {
				return fmt.Errorf("restarted %s times", count)
			}
			return nil
		})
		k.logged("restarts", "once\n", "--previous") // when the next restart is under way, there is none for a moment
	}},
	{"environment", func(k kind) {
		k.apply(`
{apiVersion: v1, kind: ConfigMap, metadata: {name: env}, data: {FROM_MAP: map}}
---
{apiVersion: v1, kind: Secret, metadata: {name: env}, stringData: {key: hidden}}`)
		k.pod("environment", `
restartPolicy: Never
containers:
- name: app
  image: $app
  args: [env]
  resources: {limits: {memory: 512Mi, cpu: 500m}}
  envFrom: [{configMapRef: {name: env}}]
  env:
  - {name: SECRET, valueFrom: {secretKeyRef: {name: env, key: key}}}
  - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
  - {name: COMPOSED, value: "$(POD)-$(SECRET)"}`)
		said := k.ends("environment")
		for _, line := range []string{"FROM_MAP=map", "SECRET=hidden", "POD=environment", "MEMORY=536870912", "COMPOSED=environment-hidden", "KUBERNETES_SERVICE_PORT=443", "HOSTNAME=environment"} {
			assert.Contains(k, said, line+"\n")
		}
	}},
	{"volumes", func(k kind) {
		k.apply(`
{apiVersion: v1, kind: ConfigMap, metadata: {name: files}, data: {a: text of a, b: text of b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: files}, stringData: {key: hidden}}`)
		k.pod("volumes", `
restartPolicy: Never
volumes:
- {name: map, configMap: {name: files}}
- {name: secret, secret: {secretName: files}}
- {name: empty, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
- {name: image, image: {reference: $v2}}
- {name: token, projected: {sources: [{serviceAccountToken: {path: token}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}
containers:
- name: app
  image: $app
  args: [read=/map/a, read=/file, read=/secret/key, write=/empty/f, read=/empty/f, write=/memory/f, read=/memory/f, ls=/sub, read=/token/name, try-read=/token/token,
    try-read=/image/mark-v2, try-create=/map/new, try-create=/image/new, try-create=/empty/new]
  volumeMounts:
  - {name: map, mountPath: /map}
  - {name: map, mountPath: /file, subPath: b}
  - {name: secret, mountPath: /secret, readOnly: true}
  - {name: empty, mountPath: /empty}
  - {name: empty, mountPath: /sub, subPath: sub}
  - {name: memory, mountPath: /memory}
  - {name: image, mountPath: /image}
  - {name: token, mountPath: /token}`)
		require.Equal(k, `text of atext of bhiddenwritten
written
volumestry-read /token/token works
try-read /image/mark-v2 works
try-create open /map/new: read-only
try-create open /image/new: read-only
try-create /empty/new works
`, readOnly(k.ends("volumes")))
	}},
	{"init and sidecar", func(k kind) {
		k.pod("init", `
restartPolicy: Never
volumes: [{name: v, emptyDir: {}}]
initContainers:
- {name: one, image: $app, args: [write=/v/one], volumeMounts: [{name: v, mountPath: /v}]}
- {name: two, image: $sh, args: [sh, -c, "cat /v/one >/v/two"], volumeMounts: [{name: v, mountPath: /v}]}
- name: sidecar
  image: $app
  restartPolicy: Always
  args: [write=/v/sidecar, tick]
  startupProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: [/app, read=/v/sidecar]}}
  volumeMounts: [{name: v, mountPath: /v}]
- {name: web, image: $sh, restartPolicy: Always, args: [web, "80"], startupProbe: {periodSeconds: 1, timeoutSeconds: 30, tcpSocket: {port: 80}}}
containers:
- {name: app, image: $app, args: [read=/v/two, read=/v/sidecar], volumeMounts: [{name: v, mountPath: /v}]}
- {name: shell, image: $sh, args: [sh, -c, "wget -qO- http://127.0.0.1"]}`)
		require.Equal(k, "written\nwritten\n", k.ends("init"))
		require.Equal(k, "Welcome\n", k.kubectl("logs", "init", "-c", "shell"))
	}},
	{"logs", func(k kind) {
		k.pod("logs", `
containers: [{name: app, image: $app, args: [stderr=problem, fill=200, tick]}]`)
		k.logged("logs", "tick 30")
		require.Contains(k, k.kubectl("logs", "logs", "--limit-bytes=400000"), "tick")
		require.Contains(k, k.kubectl("logs", "logs", "--since=60s", "--tail=2", "--timestamps"), "tick")
		k.n.eventually(time.Minute, func() error { // as the kubelet rotates it
			rotated, _ := filepath.Glob(k.n.Dir + "/log/pods/" + k.name + "_logs_*/app/0.log.*")
			if len(rotated) == 0 {
				return fmt.Errorf("no log is rotated")
			}
			return nil
		})
		before := k.kubectl("logs", "logs", "--tail=1")
		k.n.eventually(time.Minute, func() error {
			if k.kubectl("logs", "logs", "--tail=1") == before {
				return fmt.Errorf("nothing after %q", before)
			}
			return nil
		})
		// --follow goes on until kubectl is ended.
		out, _ := k.n.run(time.Minute, "timeout", "3", "kubectl", "-n", k.name, "logs", "--follow", "--tail=1", "logs")
		require.Greater(k, strings.Count(out, "tick"), 5, out)
	}},
	{"attach", func(k kind) {
		k.pod("attach", `
restartPolicy: Never
containers: [{name: app, image: $app, args: [stdin], stdin: true, stdinOnce: true}]`)
		k.ready("attach")
		require.Contains(k, k.with("words\n", "attach", "-i", "attach"), "words\n")
		require.Equal(k, "words\nstdin ended after 6 bytes\n", k.ends("attach"))
	}},
	{"exec", func(k kind) {
		k.pod("exec", `
containers: [{name: app, image: $app, args: [tick], workingDir: /tmp, env: [{name: A, value: b}]}]`)
		k.ready("exec")
		require.Equal(k, "b /tmp exec\n", k.exec("exec", "sh", "-c", `echo $A $PWD $(hostname)`))
		require.Equal(k, "of the program\n", k.exec("exec", "/app", "echo=of the program"))
		require.Equal(k, "6\n", k.with("words\n", "exec", "-i", "exec", "--", "sh", "-c", "wc -c"))
		_, err := k.try("exec", "exec", "--", "sh", "-c", "exit 7")
		require.ErrorContains(k, err, "exit code 7")
		_, err = k.try("exec", "exec", "--", "/app", "exit=8")
		require.ErrorContains(k, err, "exit code 8")
		_, err = k.try("exec", "exec", "--", "/not-there")
		require.ErrorContains(k, err, "/not-there")
		terminal, err := k.n.run(time.Minute, "script", "-qec", "kubectl -n "+k.name+" exec -it exec -- sh -c 'tty; stty size | wc -w'", "/dev/null")
		require.NoError(k, err)
		require.Contains(k, terminal, "/dev/pts/")
	}},
	{"copy", func(k kind) {
		k.pod("copy", `
containers: [{name: app, image: $app, args: [tick]}]`)
		k.ready("copy")
		name := "copied-" + k.name
		k.n.write(name, "a text")
		k.kubectl("cp", k.n.Dir+"/"+name, "copy:/tmp/in")
		require.Equal(k, "a text", k.exec("copy", "/app", "read=/tmp/in"))
		k.kubectl("cp", "copy:/tmp/in", k.n.Dir+"/"+name+"-back")
		back, err := os.ReadFile(k.n.Dir + "/" + name + "-back")
		require.NoError(k, err)
		require.Equal(k, "a text", string(back))
	}},
	{"port-forward", func(k kind) {
		k.pod("forward", `
containers:
- {name: app, image: $app, args: [tick]}
- {name: web, image: $sh, args: [web, "80"], readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, tcpSocket: {port: 80}}}`)
		k.ready("forward")
		out, err := k.n.run(time.Minute, "sh", "-c", "kubectl -n "+k.name+` port-forward forward :80 >$TMPDIR/forward-`+k.name+` & i=0
while [ $i -lt 100 ] && ! port=$(sed -n 's/.*127.0.0.1:\([0-9]*\) .*/\1/p' $TMPDIR/forward-`+k.name+` | grep .); do sleep 0.1; i=$((i + 1)); done
busybox wget -qO- http://127.0.0.1:$port; kill $!`)
		require.NoError(k, err)
		require.Equal(k, "Welcome\n", out)
	}},
	{"debug container", func(k kind) {
		k.pod("debug", `
containers: [{name: app, image: $app, args: [tick]}]`)
		k.ready("debug")
		k.kubectl("debug", "debug", "--image="+k.text("$sh"), "--target=app", "--container=d", "--", "sh", "-c", "ps; echo done")
		k.logged("debug", "done", "-c", "d")
		require.Contains(k, k.kubectl("logs", "debug", "-c", "d"), "/app tick")
	}},
	{"probes", func(k kind) {
		k.pod("probes", `
containers:
- name: app
  image: $app
  args: [write=/tmp/alive, tick]
  startupProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: [/app, read=/tmp/alive]}}
  readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: [/app, read=/tmp/ready]}}
  livenessProbe: {periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2, exec: {command: [cat, /tmp/alive]}}
- name: web
  image: $sh
  args: [web, "80"]
  readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, httpGet: {port: 80}}
  livenessProbe: {periodSeconds: 1, timeoutSeconds: 30, initialDelaySeconds: 2, tcpSocket: {port: 80}}
- name: grpc
  image: $sh
  args: [grpc, "90"]
  readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, grpc: {port: 90}}`)
		k.becomes("pod/probes", `.status.containerStatuses[?(@.name=="grpc")].ready`, "true")
		k.becomes("pod/probes", `.status.containerStatuses[?(@.name=="web")].ready`, "true")
		require.Equal(k, "false", k.field("pod/probes", `.status.containerStatuses[?(@.name=="app")].ready`))
		k.exec("probes", "touch", "/tmp/ready")
		k.ready("probes")
		k.exec("probes", "rm", "/tmp/alive")
		k.becomes("pod/probes", `.status.containerStatuses[?(@.name=="app")].restartCount`, "1")
	}},
	{"hooks", func(k kind) {
		require.NoError(k, os.MkdirAll(k.text("$dir"), 0o755))
		k.pod("hooks", `
volumes: [{name: v, hostPath: {path: $dir}}]
containers:
- name: app
  image: $app
  args: [tick]
  lifecycle: {postStart: {exec: {command: [/app, write=/v/started]}}, preStop: {exec: {command: [sh, -c, "sleep 1; echo >/v/stopped"]}}}
  volumeMounts: [{name: v, mountPath: /v}]`)
		k.ready("hooks")
		require.FileExists(k, k.text("$dir/started"))
		k.kubectl("delete", "pod", "hooks", "--grace-period=60")
		require.FileExists(k, k.text("$dir/stopped"))
	}},
	{"jobs", func(k kind) {
		k.apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      completions: 3
      parallelism: 2
      template: {spec: {runtimeClassName: $class, restartPolicy: Never, containers: [{name: app, image: $app, args: [echo=done]}]}}`)
		k.kubectl("create", "job", "--from=cronjob/cron", "job")
		k.becomes("job/job", ".status.succeeded", "3")
		require.Equal(k, "done\ndone\ndone\n", k.kubectl("logs", "-l", "job-name=job"))
	}},
	{"deployment", func(k kind) {
		k.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: deployment}
spec:
  replicas: 3
  selector: {matchLabels: {of: deployment}}
  template:
    metadata: {labels: {of: deployment}}
    spec:
      runtimeClassName: $class
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: $app, args: [tick], readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: [/app]}}}]`)
		k.kubectl("rollout", "status", "deployment/deployment", "--timeout=150s")
		k.kubectl("set", "image", "deployment/deployment", "app="+k.text("$v2"))
		k.kubectl("rollout", "status", "deployment/deployment", "--timeout=150s")
		pod := k.field("pod", `.items[?(@.metadata.labels.of=="deployment")].metadata.name`)
		for _, name := range strings.Fields(pod) {
			if out, err := k.try("exec", name, "--", "/app", "try-read=/mark-v2"); err == nil { // the old ones may be there yet
				require.Contains(k, out, "works")
			}
		}
		k.kubectl("scale", "deployment/deployment", "--replicas=0")
		k.kubectl("wait", "pod", "-l", "of=deployment", "--for=delete", "--timeout=150s")
	}},
	{"daemon set and stateful set", func(k kind) {
		k.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemons}
spec:
  selector: {matchLabels: {of: daemons}}
  template:
    metadata: {labels: {of: daemons}}
    spec: {runtimeClassName: $class, terminationGracePeriodSeconds: 1, containers: [{name: app, image: $app, args: [tick]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: state}
spec:
  replicas: 2
  serviceName: state
  selector: {matchLabels: {of: state}}
  template:
    metadata: {labels: {of: state}}
    spec: {runtimeClassName: $class, terminationGracePeriodSeconds: 1, containers: [{name: app, image: $layer, args: [tick]}]}`)
		k.kubectl("rollout", "status", "daemonset/daemons", "--timeout=150s")
		k.kubectl("rollout", "status", "statefulset/state", "--timeout=150s")
		k.logged("state-1", "tick 1")
		k.kubectl("delete", "daemonset/daemons", "statefulset/state", "--timeout=150s")
	}},
	{"OOMKilled", func(k kind) {
		k.pod("oom", `
restartPolicy: Never
containers:
- {name: app, image: $app, args: [eat=256, sleep=1h], resources: {limits: {memory: 64Mi}}}
- {name: beside, image: $app, args: [tick]}`)
		k.becomes("pod/oom", `.status.containerStatuses[?(@.name=="app")].state.terminated.reason`, "OOMKilled")
		require.Equal(k, "137", k.field("pod/oom", `.status.containerStatuses[?(@.name=="app")].state.terminated.exitCode`))
		require.Equal(k, "true", k.field("pod/oom", `.status.containerStatuses[?(@.name=="beside")].ready`))
	}},
	{"resources", func(k kind) {
		k.pod("resources", `
containers:
- name: app
  image: $app
  args: [tick]
  resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 200m, memory: 128Mi}}
  resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: NotRequired}]`)
		k.ready("resources")
		limits := func() string {
			return k.exec("resources", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/memory/memory.limit_in_bytes")
		}
		require.Equal(k, "20000\n10\n134217728\n", limits())
		k.kubectl("patch", "pod", "resources", "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"20m"},"limits":{"cpu":"300m","memory":"192Mi"}}}]}}`)
		k.becomes("pod/resources", ".status.containerStatuses[0].resources.limits.memory", "192Mi")
		require.Equal(k, "30000\n20\n201326592\n", limits())
		require.Equal(k, "0", k.field("pod/resources", ".status.containerStatuses[0].restartCount"))
	}},
	{"a pod's own resources", func(k kind) {
		k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: pod-level}
spec:
  runtimeClassName: $class-overhead
  terminationGracePeriodSeconds: 1
  resources: {limits: {memory: 100Mi}}
  containers: [{name: app, image: $app, args: [tick]}, {name: beside, image: $app, args: [tick]}]`)
		k.ready("pod-level")
		require.Equal(k, "16Mi", k.field("pod/pod-level", ".spec.overhead.memory"))
		uid := k.field("pod/pod-level", ".metadata.uid")
		found, _ := filepath.Glob(filepath.Join(cgroupFS, "memory", k.n.Namespace, "kubepods/*/pod"+uid, "memory.limit_in_bytes"))
		require.Len(k, found, 1)
		limit, err := os.ReadFile(found[0])
		require.NoError(k, err)
		require.Equal(k, fmt.Sprintln((100+16)<<20), string(limit))
	}},
	{"user and group", func(k kind) {
		k.pod("user", `
securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, runAsNonRoot: true, supplementalGroups: [4000], seccompProfile: {type: RuntimeDefault}}
volumes: [{name: v, emptyDir: {}}]
containers:
- name: app
  image: $app
  args: [write=/v/f, try-create=/etc/new, tick]
  securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  volumeMounts: [{name: v, mountPath: /v}]`)
		k.ready("user")
		k.logged("user", "tick 1")
		require.Contains(k, readOnly(k.kubectl("logs", "user")), "try-create open /etc/new: read-only\n")
		require.Equal(k, "1000:2000\n", k.exec("user", "stat", "-c", "%u:%g", "/v/f"))
		require.Equal(k, "1000 3000 2000 3000 4000\n", k.exec("user", "sh", "-c", "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)"))
		// The program's own state is the first process's.
		require.Equal(k, "1000 0000000000000000 1 2\n", k.exec("user", "sh", "-c", `echo $(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p; s/^\(CapBnd\|NoNewPrivs\|Seccomp\):\t//p' /proc/1/status)`))
	}},
	{"must not be root", func(k kind) {
		k.pod("root", `
securityContext: {runAsNonRoot: true}
containers: [{name: app, image: $app}]`)
		k.becomes("pod/root", ".status.containerStatuses[0].state.waiting.reason", "CreateContainerConfigError")
	}},
	{"seccomp profile", func(k kind) {
		k.n.write("kubelet/seccomp/"+k.name+".json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`)
		k.pod("seccomp", `
containers:
- name: app
  image: $app
  args: [tick]
  securityContext: {seccompProfile: {type: Localhost, localhostProfile: $class.json}}`)
		k.ready("seccomp")
		_, err := k.try("exec", "seccomp", "--", "mkdir", "/tmp/d")
		require.ErrorContains(k, err, "not supported")
		require.Equal(k, "2\n", k.exec("seccomp", "sed", "-n", `s/^Seccomp:\t//p`, "/proc/1/status"))
	}},
	{"capabilities", func(k kind) {
		k.pod("capabilities", `
containers: [{name: app, image: $app, args: [tick], securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}}]`)
		k.ready("capabilities")
		require.Equal(k, "0000000000001000\n", k.exec("capabilities", "sed", "-n", `s/^CapEff:\t//p`, "/proc/self/status"))
		require.Equal(k, "0000000000001000\n", k.exec("capabilities", "sed", "-n", `s/^CapBnd:\t//p`, "/proc/1/status"))
	}},
	{"user namespace", func(k kind) {
		k.pod("hostusers", `
hostUsers: false
volumes: [{name: v, emptyDir: {}}]
containers: [{name: app, image: $app, args: [write=/v/f, tick], volumeMounts: [{name: v, mountPath: /v}]}]`)
		k.ready("hostusers")
		k.logged("hostusers", "tick 1")
		require.Equal(k, "0 65536\n", k.exec("hostusers", "sh", "-c", "read a b c </proc/1/uid_map; [ $b -gt 0 ] && echo $a $c"))
		require.Equal(k, "0:0\n", k.exec("hostusers", "stat", "-c", "%u:%g", "/v/f"))
	}},
	{"namespaces of others", func(k kind) {
		k.pod("shared", `
shareProcessNamespace: true
containers: [{name: app, image: $app, args: [tick]}, {name: beside, image: $sh, args: [top]}]`)
		k.pod("hosts", `
hostPID: true
hostNetwork: true
containers: [{name: app, image: $app, args: [tick]}]`)
		k.ready("shared")
		processes := k.exec("shared", "ps")
		for _, name := range []string{"/pause", "/app tick", "top"} {
			assert.Contains(k, processes, name)
		}
		k.ready("hosts")
		require.Contains(k, k.exec("hosts", "ps"), "kubelet")
		require.Contains(k, k.exec("hosts", "cat", "/proc/net/route"), "eth0")
	}},
	{"stops at a signal", func(k kind) {
		k.pod("stop", `
containers: [{name: app, image: $app, args: [tick]}]`)
		k.ready("stop")
		k.kubectl("delete", "pod", "stop", "--grace-period=170", "--timeout=100s")
	}},
	{"statistics", func(k kind) {
		k.pod("statistics", `
containers: [{name: app, image: $app, args: [eat=20, tick]}]`)
		k.ready("statistics")
		k.n.eventually(time.Minute, func() error {
			metrics, err := k.try("get", "--raw=/api/v1/nodes/node1/proxy/metrics/resource")
			if err != nil {
				return err
			}
			for _, name := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes"} {
				line := fmt.Sprintf(`%s{container="app",namespace="%s",pod="statistics"} `, name, k.name)
				_, value, found := strings.Cut(metrics, line)
				if !found || strings.HasPrefix(value, "0 ") {
					return fmt.Errorf("no value of %s", line)
				}
			}
			return nil
		})
		summary := k.kubectl("get", "--raw=/api/v1/nodes/node1/proxy/stats/summary")
		require.Contains(k, summary, `"workingSetBytes"`)
	}},
	{"deleted while it starts", func(k kind) {
		for i := range 4 {
			name := fmt.Sprint("early-", i)
			k.pod(name, `
containers: [{name: app, image: $app, args: [tick]}]`)
			time.Sleep(time.Duration(i) * 300 * time.Millisecond)
			k.kubectl("delete", "pod", name, "--timeout=100s")
		}
	}},
}

// readOnly is what a program says where a file system is read-only: Go for WASI has other
// words for it than Go for Linux, and wasmtime's prebuilt library has no error for it.
func readOnly(said string) string {
	return strings.NewReplacer(": read-only file system\n", ": read-only\n", ": Read-only file system\n", ": read-only\n", ": I/O error\n", ": read-only\n").Replace(said)
}

// atOnce pulls an image for the first time for that many pods. Of a guest's code one
// compilation is made, by what the pods may have of processors.
func (k kind) atOnce(name, image string, count int) {
	k.Helper()
	k.apply(fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
  completions: %d
  parallelism: %[2]d
  template:
    spec:
      runtimeClassName: $class
      restartPolicy: Never
      containers: [{name: app, image: %s, args: [echo=done], resources: {requests: {cpu: 50m}}}]`, name, count, image))
	k.becomes("job/"+name, ".status.succeeded", strconv.Itoa(count))
}

// faults are what a node must survive, with a pod of each kind.
var faults = []struct {
	name string
	do   func(n *node, kinds []kind)
}{
	{"containerd killed", func(n *node, kinds []kind) {
		unharmed(kinds, func() {
			n.kill("containerd")
			n.containerd()
		})
	}},
	{"kubelet killed", func(n *node, kinds []kind) {
		unharmed(kinds, func() {
			n.kill("kubelet")
			n.kubelet()
		})
	}},
	{"all killed but the containers", func(n *node, kinds []kind) {
		unharmed(kinds, func() {
			for _, name := range []string{"kubelet", "containerd", "kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler"} {
				n.kill(name)
			}
			n.containerd()
			n.controlPlane()
			n.kubelet()
		})
	}},
	{"shim killed", func(n *node, kinds []kind) {
		for _, k := range kinds {
			k.comesBack(func() {
				sandbox, err := n.run(time.Minute, "crictl", "-r", "unix://"+address, "pods", "-q", "--name", "survivor", "--namespace", k.name, "--state", "ready")
				require.NoError(k, err)
				shims := n.Processes(func(args []string) bool {
					return args[0] != waiter && slices.Contains(args, strings.TrimSpace(lastLine(sandbox)))
				})
				require.Len(k, shims, 1)
				require.NoError(k, syscall.Kill(shims[0].Pid, syscall.SIGKILL))
			})
		}
	}},
	{"all of a pod killed", func(n *node, kinds []kind) {
		for _, k := range kinds {
			uid := k.field("pod/survivor", ".metadata.uid")
			k.comesBack(func() {
				files, _ := filepath.Glob(filepath.Join(cgroupFS, "memory", n.Namespace, "kubepods/*/pod"+uid, "*/cgroup.procs"))
				for _, file := range files {
					text, _ := os.ReadFile(file)
					for _, field := range strings.Fields(string(text)) {
						pid, err := strconv.Atoi(field)
						require.NoError(k, err)
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			})
		}
	}},
	{"node restarts", func(n *node, kinds []kind) {
		restarts := map[string]string{}
		for _, k := range kinds {
			restarts[k.name] = k.restarts()
		}
		n.reboot()
		n.controlPlane()
		n.kubelet()
		for _, k := range kinds {
			k.restarted(restarts[k.name])
		}
	}},
}

// logOf is containerd's log, in which shims write, too.
func (n *node) logOf(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(n.Dir + "/containerd.log")
	require.NoError(t, err)
	return string(text)
}

// survivor is a pod with which faults are tried.
func (k kind) survivor() {
	k.pod("survivor", `
containers:
- {name: app, image: $app, args: [tick], readinessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: [/app]}}}
- {name: beside, image: $sh, args: [top]}`)
	k.ready("survivor")
}

// restarts says how often each container of the survivor was started again.
func (k kind) restarts() string {
	k.Helper()
	return k.field("pod/survivor", ".status.containerStatuses[*].restartCount")
}

// unharmed says that a fault does not end the survivors' containers.
func unharmed(kinds []kind, fault func()) {
	var before []string
	for _, k := range kinds {
		before = append(before, k.restarts())
	}
	fault()
	for i, k := range kinds {
		k.goesOn()
		require.Equal(k, before[i], k.restarts(), k.name)
	}
}

// goesOn says that the survivor is there, and that its guest runs.
func (k kind) goesOn() {
	k.Helper()
	k.ready("survivor")
	k.n.eventually(time.Minute, func() error { // a kubelet that starts may not know the pod yet
		said, err := k.try("exec", "survivor", "-c", "app", "--", "/app", "echo=here")
		if err == nil && said != "here\n" {
			err = fmt.Errorf("exec said %q", said)
		}
		return err
	})
	count := len(k.kubectl("logs", "survivor", "-c", "app"))
	k.n.eventually(time.Minute, func() error {
		if len(k.kubectl("logs", "survivor", "-c", "app")) == count {
			return fmt.Errorf("nothing more in the log of %s", k.name)
		}
		return nil
	})
}

// comesBack says that the survivor's containers are started again after a fault.
func (k kind) comesBack(fault func()) {
	k.Helper()
	before := k.restarts()
	fault()
	k.restarted(before)
}

func (k kind) restarted(before string) {
	k.Helper()
	k.n.eventually(2*time.Minute, func() error {
		if now := k.restarts(); strings.Fields(now)[0] == strings.Fields(before)[0] {
			return fmt.Errorf("the containers of %s were not started again: %s", k.name, now)
		}
		return nil
	})
	k.goesOn()
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
