// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

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
func (b *criBench) podMemory() error {
	const n = 10
	rows := []string{fmt.Sprintf("%d pods\tshim PSS\tdirty\tpause PSS\tdirty\tcontainer PSS\tpod PSS\tdirty\tratio", n)}
	var totals []memory
	for _, h := range criHandlers {
		var ids []string
		for range n {
			id, _, _, err := b.run(h)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		time.Sleep(3 * time.Second) // caches drain, collectors run
		var shims, pauses, containers memory
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
		}
		totals = append(totals, memory{shims.pss + pauses.pss + containers.pss, shims.dirty + pauses.dirty + containers.dirty})
		rows = append(rows, fmt.Sprintf("%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f", h.name, mb(shims.pss, n), mb(shims.dirty, n),
			mb(pauses.pss, n), mb(pauses.dirty, n), mb(containers.pss, n), mb(totals[len(totals)-1].pss, n), mb(totals[len(totals)-1].dirty, n)))
		if err := b.remove(ids...); err != nil {
			return err
		}
		for _, idle := range b.Processes(func(args []string) bool { return strings.Contains(args[0], "containerd-shim-wasmtime") }) {
			_ = syscall.Kill(idle.Pid, syscall.SIGTERM)
		}
	}
	for i, total := range totals {
		rows[i+1] += fmt.Sprintf("\t%.2f", float64(total.pss)/float64(totals[1].pss))
	}
	table("Memory in MB of a pod through CRI; ratio of its PSS to our shim's with a pause container", rows...)
	return nil
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
