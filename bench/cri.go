// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// criHandler is a kind of pod, with a container in it.
type criHandler struct {
	name, handler string
	args          []string
}

var criHandlers = []criHandler{
	{"wasm, our shim, no pause", "test", []string{"/sleep.wasm"}},
	{"wasm, our shim, pause", "paused", []string{"/sleep.wasm"}},
	{"wasm, the node's daemon, no pause", "nodetest", []string{"/sleep.wasm"}},
	{"wasm, the node's daemon, pause", "node", []string{"/sleep.wasm"}},
	{"native, runc's shim, pause", "runc", []string{"/native", "sleep"}},
}

// criBench is a containerd with its CRI plugin.
type criBench struct {
	*harness.CRI
	ctx   context.Context
	image string
}

// cri measures pods as Kubernetes has them: with a pause container, and without one.
func (b *bench) cri() (retErr error) {
	c, err := harness.StartCRI(b.ctx, b.Version, ours)
	if err != nil {
		return err
	}
	defer func() {
		if err := c.Stop(); err != nil && retErr == nil {
			retErr = err
		}
	}()
	inside := c.Inside()
	image, err := inside.Image(inside.In(b.ctx), "bench", b.files, ocispec.ImageConfig{})
	if err != nil {
		return err
	}
	pause := map[string]harness.File{"pause": b.files["native"]}
	if _, err := inside.Image(inside.In(b.ctx), "pause", pause, ocispec.ImageConfig{Entrypoint: []string{"/pause", "sleep"}}); err != nil {
		return err
	}
	cb := &criBench{CRI: c, ctx: b.ctx, image: image.Name()}
	for _, measure := range []func() error{func() error { return cb.starts(b.n) }, cb.podMemory, cb.atOnce} {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

// run runs a pod, and in it a container; pod and container are how long each took.
func (b *criBench) run(h criHandler) (id string, pod, container time.Duration, _ error) {
	config := b.Pod(harness.FreshID("pod"))
	config.Hostname = "bench"
	options := &criapi.NamespaceOption{Pid: criapi.NamespaceMode_CONTAINER}
	config.Linux.SecurityContext.NamespaceOptions = options
	begun := time.Now()
	run, err := b.RunPodSandbox(b.ctx, &criapi.RunPodSandboxRequest{Config: config, RuntimeHandler: h.handler})
	if err != nil {
		return "", 0, 0, err
	}
	pod = time.Since(begun)
	created, err := b.CreateContainer(b.ctx, &criapi.CreateContainerRequest{PodSandboxId: run.PodSandboxId, SandboxConfig: config, Config: &criapi.ContainerConfig{
		Metadata: &criapi.ContainerMetadata{Name: "c"}, Image: &criapi.ImageSpec{Image: b.image}, Command: h.args, LogPath: config.Metadata.Name + ".log",
		Linux: &criapi.LinuxContainerConfig{SecurityContext: &criapi.LinuxContainerSecurityContext{NamespaceOptions: options}},
	}})
	if err == nil {
		_, err = b.StartContainer(b.ctx, &criapi.StartContainerRequest{ContainerId: created.ContainerId})
	}
	return run.PodSandboxId, pod, time.Since(begun) - pod, err
}

// runs runs n pods, one after the other.
func (b *criBench) runs(h criHandler, n int) (ids []string, _ error) {
	for range n {
		id, _, _, err := b.run(h)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (b *criBench) remove(ids ...string) error {
	for _, id := range ids {
		if _, err := b.StopPodSandbox(b.ctx, &criapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			return err
		}
		if _, err := b.RemovePodSandbox(b.ctx, &criapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			return err
		}
	}
	return nil
}

// starts measures pods one after the other, each kind in turn.
func (b *criBench) starts(n int) error {
	const warm = 3
	pods, all := map[string][]time.Duration{}, map[string][]time.Duration{}
	for i := range warm + n {
		for _, h := range criHandlers {
			id, pod, container, err := b.run(h)
			if err != nil {
				return err
			}
			if i >= warm {
				pods[h.name], all[h.name] = append(pods[h.name], pod), append(all[h.name], pod+container)
			}
			if err := b.remove(id); err != nil {
				return err
			}
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds()) / 1000
	}
	rows := []string{"pod\tms\tratio\twith a container\tratio"}
	with := criHandlers[1].name
	for _, h := range criHandlers {
		rows = append(rows, fmt.Sprintf("%s\t%.1f\t%.2f\t%.1f\t%.2f", h.name, median(pods[h.name]), median(pods[h.name])/median(pods[with]),
			median(all[h.name]), median(all[h.name])/median(all[with])))
	}
	table("Start of a pod through CRI, median; ratio to our shim with a pause container", rows...)
	return nil
}

// podMemory measures pods of one sleeping container.
func (b *criBench) podMemory() (retErr error) {
	const n = 10
	rows := []string{fmt.Sprintf("%d pods\tshim PSS\tdirty\tpause PSS\tdirty\tcontainer PSS\tpod PSS\tdirty\tratio", n)}
	kinds := []string{"process\tGo's heap\tother anonymous\tprogram's data\tprogram's file\tPSS\tpage tables"}
	costs := []string{"pod\tkernel's memory\tprocesses\tthreads\tcgroups\tmounts\tin namespaces of\tPSS and kernel's memory\tratio"}
	g, err := measured(b.Daemon, "memory")
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, g.leave()) }()
	var totals []memory
	var alls []int // with the kernel's
	for _, h := range criHandlers {
		ids, err := b.runs(h, n)
		if err == nil {
			err = b.remove(ids...) // what the kernel and containerd keep of the first pods is there now
		}
		if err != nil {
			return err
		}
		isShim := func(args []string) bool { return strings.Contains(args[0], "containerd-shim-") }
		for begun := time.Now(); len(b.Processes(isShim)) > 0; time.Sleep(100 * time.Millisecond) { // the node's own stays for a while
			if time.Since(begun) > time.Minute {
				return fmt.Errorf("without pods, shims go on: %v", b.Processes(isShim))
			}
		}
		time.Sleep(3 * time.Second) // what is left of pods goes
		before, err := b.has(g)
		if err != nil {
			return err
		}
		if ids, err = b.runs(h, n); err != nil {
			return err
		}
		time.Sleep(3 * time.Second) // caches drain, collectors run
		after, err := b.has(g)
		if err != nil {
			return err
		}
		var shims, pauses, containers memory
		own := map[*memory]*pages{&shims: {}, &pauses: {}, &containers: {}}
		for _, p := range b.Processes(func([]string) bool { return true }) {
			kind := &containers
			args := strings.Fields(p.Args)
			switch {
			case strings.Contains(args[0], "containerd-shim-"):
				kind = &shims
			case args[0] == "/pause", args[0] == "wasmshim-pod":
				kind = &pauses
			case args[0] != h.args[0]:
				continue // containerd
			}
			if err := kind.add(p.Pid); err != nil {
				return err
			}
			its, err := pagesOf(p.Pid)
			if err != nil {
				return err
			}
			own[kind].add(its)
		}
		for _, part := range []struct {
			name string
			kind *memory
		}{{"shim", &shims}, {"pause", &pauses}, {"container", &containers}} {
			p := own[part.kind]
			kinds = append(kinds, fmt.Sprintf("%s: %s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f", h.name, part.name,
				mb(p.heap, n), mb(p.other, n), mb(p.data, n), mb(p.file, n), mb(part.kind.pss, n), mb(p.tables, n)))
		}
		per := func(after, before int) float64 { return float64(after-before) / n }
		alls = append(alls, shims.pss+pauses.pss+containers.pss+after.kernel-before.kernel)
		costs = append(costs, fmt.Sprintf("%s\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f", h.name, mb(after.kernel-before.kernel, n), per(after.processes, before.processes),
			per(after.threads, before.threads), per(after.cgroups, before.cgroups), per(after.mounts, before.mounts), per(after.inside, before.inside), mb(alls[len(alls)-1], n)))
		totals = append(totals, memory{shims.pss + pauses.pss + containers.pss, shims.dirty + pauses.dirty + containers.dirty})
		rows = append(rows, fmt.Sprintf("%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f", h.name, mb(shims.pss, n), mb(shims.dirty, n),
			mb(pauses.pss, n), mb(pauses.dirty, n), mb(containers.pss, n), mb(totals[len(totals)-1].pss, n), mb(totals[len(totals)-1].dirty, n)))
		if err := b.remove(ids...); err != nil {
			return err
		}
	}
	for i, total := range totals {
		rows[i+1] += fmt.Sprintf("\t%.2f", float64(total.pss)/float64(totals[1].pss))
		costs[i+1] += fmt.Sprintf("\t%.2f", float64(alls[i])/float64(alls[1]))
	}
	table("Memory in MB of a pod through CRI; ratio of its PSS to our shim's with a pause container", rows...)
	table("The same by process and kind of page", kinds...)
	table("What a pod has, of the kernel's memory in MB and in number; cgroups in one hierarchy", costs...)
	return nil
}

// has is what containerd and all that it has started have.
type has struct {
	kernel             int // the kernel's memory, in kB
	processes, threads int
	cgroups            int
	mounts, inside     int // in the machine's namespace, and in others
}

func (b *criBench) has(g *group) (h has, _ error) {
	file, key := "memory.kmem.usage_in_bytes", ""
	if cgroups.IsCgroup2UnifiedMode() {
		file, key = "memory.stat", "kernel "
	}
	bytes, err := g.number(file, key)
	if err != nil {
		return h, err
	}
	h.kernel = int(bytes / 1024)
	host, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return h, err
	}
	lines := func(pid string) int {
		text, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
		return strings.Count(string(text), "\n")
	}
	h.mounts = lines("self")
	seen := map[string]bool{host: true}
	for _, p := range b.Processes(func([]string) bool { return true }) {
		pid := strconv.Itoa(p.Pid)
		h.processes++
		threads, _ := os.ReadDir("/proc/" + pid + "/task")
		h.threads += len(threads)
		if namespace, err := os.Readlink("/proc/" + pid + "/ns/mnt"); err == nil && !seen[namespace] {
			seen[namespace] = true
			h.inside += lines(pid)
		}
	}
	return h, filepath.WalkDir(g.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			h.cgroups++
		}
		return err
	})
}

// atOnce starts many pods at once.
func (b *criBench) atOnce() error {
	const n = 50
	rows := []string{fmt.Sprintf("%d pods at once\tseconds\tratio", n)}
	var took []float64
	for _, h := range criHandlers {
		ids, errs := make([]string, n), make([]error, n)
		begun := time.Now()
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { ids[i], _, _, errs[i] = b.run(h) })
		}
		all.Wait()
		took = append(took, time.Since(begun).Seconds())
		for i, err := range errs {
			if err != nil {
				return err
			}
			if err := b.remove(ids[i]); err != nil {
				return err
			}
		}
	}
	for i, h := range criHandlers {
		rows = append(rows, fmt.Sprintf("%s\t%.2f\t%.2f", h.name, took[i], took[i]/took[1]))
	}
	table("Pods with a container each, started at once through CRI", rows...)
	return nil
}
