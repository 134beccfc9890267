// SPDX-License-Identifier: Apache-2.0

// Http measures how an HTTP service is served: by our shim in a container, and, where
// there is one, by the wasmtime command on the same component.
//
//	go run ./bench/http [-time 5s] [-connections 1,16,256] [-wasmtime FILE] [-json FILE]
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

const (
	guest   = "component-http.wasm"
	runtime = "io.containerd.wasmtime.v1"
)

// measured is one subject at one number of connections.
type measured struct {
	Subject     string
	Connections int
	Rate        float64 // answers per second
	P50, P99    time.Duration
	Memory      int64         // of the server, PSS in KiB, afterwards
	First       time.Duration // from the start of the server to the first answer
}

func main() {
	span := flag.Duration("time", 5*time.Second, "how long each number of connections is measured")
	list := flag.String("connections", "1,16,256", "how many at once")
	wasmtime := flag.String("wasmtime", "", "the wasmtime command; without it, only our shim is measured")
	file := flag.String("json", "", "also write what was measured to this `file`")
	flag.Parse()
	if err := run(*span, *list, *wasmtime, *file); err != nil {
		fmt.Fprintln(os.Stderr, "bench/http:", err)
		os.Exit(1)
	}
}

func run(span time.Duration, list, wasmtime, file string) (retErr error) {
	var connections []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		connections = append(connections, n)
	}
	d, err := harness.Start(context.Background(), harness.Containerd24)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, d.Stop()) }()
	subjects := []struct {
		name  string
		start func(address string) (pid int, stop func() error, err error)
	}{
		{"our shim, fresh", container(d, "http-log = 'off'\n")},
		{"our shim, fresh, with its log", container(d, "")},
		{"our shim, reused", container(d, "http-log = 'off'\nhttp-reuse = 128\n")},
	}
	if wasmtime != "" {
		subjects = append(subjects, subjects[0], subjects[0])
		subjects[3].name, subjects[3].start = "wasmtime serve, fresh", command(wasmtime)
		subjects[4].name, subjects[4].start = "wasmtime serve, reused", command(wasmtime, "--max-instance-reuse-count=128")
	}
	var all []measured
	for _, s := range subjects {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		begun := time.Now()
		pid, stop, err := s.start(address)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		first, err := firstAnswer(address, begun)
		for _, n := range connections {
			if err != nil {
				break
			}
			m := measured{Subject: s.name, Connections: n, First: first}
			if m.Rate, m.P50, m.P99, err = load(address, n, span); err == nil {
				m.Memory, err = memory(pid)
				all = append(all, m)
			}
		}
		if err := errors.Join(err, stop()); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tconnections\tanswers/s\tp50\tp99\tPSS, KiB\tfirst answer\t")
	for _, m := range all {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%v\t%v\t%d\t%v\t\n", m.Subject, m.Connections, m.Rate, m.P50, m.P99, m.Memory, m.First.Round(time.Millisecond))
	}
	if err := w.Flush(); err != nil || file == "" {
		return err
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// container starts the guest by our shim. Its artifact is there: it has run before.
func container(d *harness.Daemon, options string) func(string) (int, func() error, error) {
	return func(address string) (int, func() error, error) {
		ctx := context.Background()
		code, err := guests.Read(guest)
		if err != nil {
			return 0, nil, err
		}
		image, err := d.Image(ctx, "http", map[string]harness.File{guest: {Data: code}, "proc/": {}, "dev/": {}, "sys/": {}}, ocispec.ImageConfig{})
		if err != nil {
			return 0, nil, err
		}
		c, err := d.Run(ctx, harness.Config{
			Runtime: runtime, Image: image, Args: []string{"/" + guest}, Stdout: io.Discard,
			Opts:           []oci.SpecOpts{oci.WithHostNamespace(specs.NetworkNamespace)},
			RuntimeOptions: &runtimeoptions.Options{ConfigBody: []byte("[engine]\nhttp-address = '" + address + "'\n" + options)},
		})
		if err != nil {
			return 0, nil, err
		}
		stop := func() error {
			if err := c.Task.Kill(d.In(ctx), syscall.SIGTERM); err != nil {
				return err
			}
			result, err := d.Finish(ctx, c)
			if err == nil && result.Code != 0 {
				err = fmt.Errorf("exit status %d: %s", result.Code, result.Stderr)
			}
			return err
		}
		return int(c.Task.Pid()), stop, nil
	}
}

// command starts it by the wasmtime command.
func command(wasmtime string, args ...string) func(string) (int, func() error, error) {
	return func(address string) (int, func() error, error) {
		dir, err := guests.Dir()
		if err != nil {
			return 0, nil, err
		}
		cmd := exec.Command(wasmtime, slices.Concat([]string{"serve", "-Scli", "--addr", address}, args, []string{filepath.Join(dir, guest)})...)
		if err := cmd.Start(); err != nil {
			return 0, nil, err
		}
		return cmd.Process.Pid, func() error {
			err := cmd.Process.Kill()
			_ = cmd.Wait()
			return err
		}, nil
	}
}

func firstAnswer(address string, begun time.Time) (time.Duration, error) {
	for {
		resp, err := http.Get("http://" + address)
		if err == nil {
			return time.Since(begun), resp.Body.Close()
		}
		if time.Since(begun) > time.Minute {
			return 0, err
		}
		time.Sleep(time.Millisecond)
	}
}

// load sends requests by so many connections, one after the other on each.
func load(address string, connections int, span time.Duration) (rate float64, p50, p99 time.Duration, err error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wait sync.WaitGroup
	begun := time.Now()
	for range connections {
		wait.Go(func() {
			took, err := ask(address, begun.Add(span))
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	wait.Wait()
	if failed != nil || len(all) == 0 {
		return 0, 0, 0, fmt.Errorf("%d answers: %w", len(all), failed)
	}
	elapsed := time.Since(begun)
	slices.Sort(all)
	return float64(len(all)) / elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100], nil
}

// ask sends one request after the other until it is time. All answers have the length
// of the first one: what a client of HTTP would do with each, is not measured.
func ask(address string, until time.Time) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	request := []byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var first bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &first)), nil)
	if err != nil {
		return nil, err
	}
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello\n" {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	answer := make([]byte, first.Len())
	var took []time.Duration
	for now := time.Now(); now.Before(until); {
		if _, err := conn.Write(request); err != nil {
			return took, err
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			return took, err
		}
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
			return took, fmt.Errorf("answer: %q", answer)
		}
		end := time.Now()
		took = append(took, end.Sub(now))
		now = end
	}
	return took, nil
}

// memory is a process's share of the memory that it has mapped.
func memory(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == "Pss:" {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, errors.New("smaps_rollup has no Pss")
}
