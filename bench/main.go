// SPDX-License-Identifier: Apache-2.0

// Bench measures our shim against runc's on one private containerd: latencies,
// throughput, memory, and which programs run when.
//
//	go run ./bench [-n 30] [-gap 0] [-json FILE] [-only latency,rate,cpu,exec,throughput,memory,steps,inside,images,together,pods,client,cri]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/bench/result"
	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

const (
	ours = "io.containerd.wasmtime.v1"
	runc = harness.Runc
)

// node are the options of a runtime whose containers one daemon serves.
var node any = &runtimeoptions.Options{ConfigBody: []byte("daemon = 'node'")}

// subject is a guest on a runtime.
type subject struct {
	name    string
	runtime string
	args    []string
	image   client.Image // nil is the bench's
	options any          // the runtime's
}

// config is the container of a subject.
func (b *bench) config(s subject) harness.Config {
	c := harness.Config{Runtime: s.runtime, Image: s.image, RuntimeOptions: s.options}
	if c.Image == nil {
		c.Image = b.image
	}
	return c
}

// bench is one run of everything.
type bench struct {
	*harness.Daemon
	ctx   context.Context
	files map[string]harness.File
	image client.Image
	n     int
	gap   time.Duration
}

func main() {
	n := flag.Int("n", 30, "measured lives of each subject")
	only := flag.String("only", "latency,rate,cpu,exec,throughput,memory,steps,inside,images,together,pods,client,cri", "what to measure")
	gap := flag.Duration("gap", 0, "pause before each life whose latency is measured, as on a machine that has little to do")
	file := flag.String("json", "", "also write what was measured to this `file`, for go run ./bench/compare")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, *n, *gap, strings.Split(*only, ","))
	stop()
	if err == nil && *file != "" {
		err = results.Write(*file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, n int, gap time.Duration, only []string) (retErr error) {
	d, err := harness.Start(ctx, harness.Containerd24)
	if err != nil {
		return err
	}
	defer func() {
		if err := d.Stop(); err != nil && retErr == nil {
			retErr = err
		}
	}()
	files := map[string]harness.File{}
	b := &bench{Daemon: d, ctx: d.In(ctx), n: n, gap: gap, files: files}
	for _, name := range []string{"hello.wasm", "sleep.wasm", "copy.wasm", "go.wasm", "native"} {
		data, err := guests.Read(name)
		if err != nil {
			return err
		}
		files[name] = harness.File{Data: data}
	}
	cache, err := harness.CacheDir()
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(filepath.Join(cache, "busybox-static/bin/busybox"))
	if err != nil {
		return err
	}
	files["busybox"] = harness.File{Data: busybox}
	if b.image, err = d.Image(ctx, "bench", files, ocispec.ImageConfig{}); err != nil {
		return err
	}

	baseline := subject{name: "native, runc's shim", runtime: runc, args: []string{"/native"}}
	hellos := []subject{
		{name: "wasm, our shim", runtime: ours, args: []string{"/hello.wasm"}},
		{name: "native, our shim", runtime: ours, args: []string{"/native"}},
		{name: "wasm, the node's daemon", runtime: ours, args: []string{"/hello.wasm"}, options: node},
		{name: "native, the node's daemon", runtime: ours, args: []string{"/native"}, options: node},
		baseline,
	}
	sleepers := []subject{
		{name: "wasm, our shim", runtime: ours, args: []string{"/sleep.wasm"}},
		{name: "native, our shim", runtime: ours, args: []string{"/native", "sleep"}},
		{name: "wasm, the node's daemon", runtime: ours, args: []string{"/sleep.wasm"}, options: node},
		{name: "native, runc's shim", runtime: runc, args: []string{"/native", "sleep"}},
	}
	cats := []subject{
		{name: "wasm, our shim", runtime: ours, args: []string{"/copy.wasm"}},
		{name: "native, our shim", runtime: ours, args: []string{"/busybox", "cat"}},
		{name: "native, runc's shim", runtime: runc, args: []string{"/busybox", "cat"}},
	}
	hellos, sleepers, cats = b.present(hellos), b.present(sleepers), b.present(cats)

	var kernel syscall.Utsname
	_ = syscall.Uname(&kernel)
	fmt.Printf("containerd %s, %d CPUs, Linux %s, %s\n", d.Version, runtime.NumCPU(), cString(kernel.Release[:]), runtime.Version())
	for _, what := range only {
		switch what {
		case "latency":
			err = b.latency(hellos)
		case "rate":
			err = b.rate(hellos)
		case "cpu":
			err = b.cpu(hellos)
		case "exec":
			err = b.execs(sleepers, hellos)
		case "throughput":
			err = b.throughput(cats)
		case "memory":
			err = b.memory(sleepers)
		case "steps":
			err = b.steps(hellos)
		case "inside":
			err = b.inside(hellos)
		case "images":
			err = b.images()
		case "together":
			err = b.together()
		case "pods":
			err = b.pods()
		case "client":
			err = b.client()
		case "cri":
			err = b.cri()
		default:
			err = fmt.Errorf("nothing is called %q", what)
		}
		if err != nil {
			return fmt.Errorf("%s: %w\nthe last of containerd's log:\n%s", what, err, d.LogTail(20))
		}
	}
	return nil
}

// present leaves out the subjects whose shim is not built.
func (b *bench) present(all []subject) []subject {
	var found []subject
	for _, s := range all {
		if _, err := b.ShimBinary(s.runtime); err != nil {
			fmt.Fprintf(os.Stderr, "bench: without %s: %v\n", s.name, err)
			continue
		}
		found = append(found, s)
	}
	return found
}

func cString(s []int8) string {
	var b strings.Builder
	for _, c := range s {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// results are what was measured.
var results result.List

// table prints rows of tab-separated cells.
func table(title string, rows ...string) {
	results.Add(title, rows)
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(w, row+"\t")
	}
	w.Flush()
}
