// SPDX-License-Identifier: Apache-2.0

// Http measures how an HTTP service is served: by our shim in a container, and, where
// there is one, by the wasmtime command on the same component.
//
//	go run ./bench/http [-time 5s] [-rounds 5] [-connections 1,16,256] [-starts 15] [-requests 1000000] [-wasmtime FILE] [-json FILE]
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
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

// subject is one that serves. What it is measured against is the last one, if that is
// the wasmtime command.
type subject struct {
	name  string
	start func(address string) (*server, error)
	all   []measured
}

// server is a subject that runs.
type server struct {
	address string
	pid     int
	begun   time.Time // when it was told to start
	stop    func() error
}

// measured is one subject at one number of connections.
type measured struct {
	Subject     string
	Connections int
	Rate        float64 // answers per second, the median of the rounds
	P50, P99    time.Duration
	CPU         time.Duration // of the server, for each answer
	Memory      int64         // of the server, PSS in KiB, afterwards
}

type settings struct {
	span             time.Duration
	rounds, starts   int
	requests         int
	connections      []int
	wasmtime, report string
}

func main() {
	var s settings
	flag.DurationVar(&s.span, "time", 5*time.Second, "how long each subject is measured at each number of connections")
	flag.IntVar(&s.rounds, "rounds", 5, "in how many pieces that is done, the subjects by turns")
	list := flag.String("connections", "1,16,256", "how many at once")
	flag.IntVar(&s.starts, "starts", 15, "how often each is started, for the time to its first answer")
	flag.IntVar(&s.requests, "requests", 1_000_000, "after how many memory and descriptors must be what they were; 0 leaves it out")
	flag.StringVar(&s.wasmtime, "wasmtime", "", "the wasmtime command; without it, only our shim is measured")
	flag.StringVar(&s.report, "json", "", "also write what was measured to this `file`")
	flag.Parse()
	var err error
	for text := range strings.SplitSeq(*list, ",") {
		n, failed := strconv.Atoi(text)
		s.connections, err = append(s.connections, n), errors.Join(err, failed)
	}
	if err == nil {
		err = run(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/http:", err)
		os.Exit(1)
	}
}

func run(s settings) (retErr error) {
	d, err := harness.Start(context.Background(), harness.Containerd24)
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, d.Stop()) }()
	b, err := newBench(d)
	if err != nil {
		return err
	}
	subjects := []*subject{
		{name: "our shim, fresh", start: b.container("http-log = 'off'\n")},
		{name: "our shim, fresh, with its log", start: b.container("")},
		{name: "our shim, reused", start: b.container("http-log = 'off'\nhttp-reuse = 128\n")},
	}
	ours := []*subject{subjects[0], subjects[2]}
	if s.wasmtime != "" {
		subjects = append(subjects,
			&subject{name: "wasmtime serve, reused", start: command(s.wasmtime, "--max-instance-reuse-count=128")},
			&subject{name: "wasmtime serve, fresh", start: command(s.wasmtime)})
	}
	if err := b.starts(subjects, s.starts); err != nil {
		return err
	}
	if err := rates(subjects, s); err != nil {
		return err
	}
	for _, subject := range ours {
		if s.requests == 0 {
			break
		}
		if err := subject.stays(s.requests); err != nil {
			return fmt.Errorf("%s: %w", subject.name, err)
		}
	}
	if s.report == "" {
		return nil
	}
	var all []measured
	for _, subject := range subjects {
		all = append(all, subject.all...)
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(s.report, data, 0o600)
}

func table(title string, rows ...string) error {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(w, row+"\t")
	}
	return w.Flush()
}

// begin starts it at an address that nobody has.
func (s *subject) begin() (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	running, err := s.start(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	running.address = address
	return running, nil
}

// starts measures the time to the first answer, and that of a whole hello beside it.
func (b *bench) starts(subjects []*subject, n int) error {
	took := make([][]time.Duration, len(subjects)+1)
	for range n {
		for i, s := range subjects {
			running, err := s.begin()
			if err != nil {
				return err
			}
			first, err := running.firstAnswer()
			if err := errors.Join(err, running.stop()); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			took[i] = append(took[i], first)
		}
		hello, err := b.hello()
		if err != nil {
			return fmt.Errorf("hello: %w", err)
		}
		took[len(subjects)] = append(took[len(subjects)], hello)
	}
	if n == 0 {
		return nil
	}
	base := median(took[len(subjects)])
	rows := []string{"\tmedian\tmost\tratio"}
	for i, all := range took {
		name := "our shim, hello, from create to exit"
		if i < len(subjects) {
			name = subjects[i].name
		}
		rows = append(rows, fmt.Sprintf("%s\t%.1f\t%.1f\t%.2f", name, ms(median(all)), ms(slices.Max(all)), float64(median(all))/float64(base)))
	}
	return table(fmt.Sprintf("From create to the first answer, in ms, %d starts by turns", n), rows...)
}

func median[T cmp.Ordered](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rates measures all of them by turns, so that whatever else the machine does hits all
// alike.
func rates(subjects []*subject, s settings) (retErr error) {
	var servers []*server
	defer func() {
		for _, server := range servers {
			retErr = errors.Join(retErr, server.stop())
		}
	}()
	for _, subject := range subjects {
		running, err := subject.begin()
		if err != nil {
			return err
		}
		servers = append(servers, running)
		if _, err := running.firstAnswer(); err != nil {
			return fmt.Errorf("%s: %w", subject.name, err)
		}
	}
	for _, n := range s.connections {
		perRound := make([][]float64, len(subjects))
		took := make([][]time.Duration, len(subjects))
		used := make([]time.Duration, len(subjects))
		for range s.rounds {
			for i, running := range servers {
				before, err := cpu(running.pid)
				if err != nil {
					return err
				}
				begun := time.Now()
				answers, err := load(running.address, n, begun.Add(s.span/time.Duration(s.rounds)), math.MaxInt)
				if err != nil {
					return fmt.Errorf("%s: %w", subjects[i].name, err)
				}
				perRound[i] = append(perRound[i], float64(len(answers))/time.Since(begun).Seconds())
				took[i] = append(took[i], answers...)
				after, err := cpu(running.pid)
				if err != nil {
					return err
				}
				used[i] += after - before
			}
		}
		for i, subject := range subjects {
			all := took[i]
			slices.Sort(all)
			m := measured{
				Subject: subject.name, Connections: n, Rate: median(perRound[i]), P50: all[len(all)/2], P99: all[len(all)*99/100],
				CPU: used[i] / time.Duration(len(all)),
			}
			var err error
			if m.Memory, err = memory(servers[i].pid); err != nil {
				return err
			}
			subject.all = append(subject.all, m)
		}
	}
	base := subjects[len(subjects)-1].all
	rows := []string{"\tconnections\tanswers/s\tratio\tp50\tp99\tCPU\tratio\tPSS, KiB"}
	for _, subject := range subjects {
		for i, m := range subject.all {
			rows = append(rows, fmt.Sprintf("%s\t%d\t%.0f\t%.2f\t%v\t%v\t%v\t%.2f\t%d", m.Subject, m.Connections, m.Rate, m.Rate/base[i].Rate,
				m.P50.Round(time.Microsecond), m.P99.Round(time.Microsecond), m.CPU.Round(100*time.Nanosecond),
				float64(base[i].CPU)/float64(m.CPU), m.Memory))
		}
	}
	return table("Answers, by turns; the client has a share of the same CPUs. CPU is the server's for each answer; ratios are to the last subject", rows...)
}

// stays serves so many requests; what it holds may not grow.
func (s *subject) stays(requests int) (retErr error) {
	running, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, running.stop()) }()
	if _, err := running.firstAnswer(); err != nil {
		return err
	}
	rows := []string{"requests\tPSS, KiB\tdescriptors"}
	var pss, open []int64
	for done, piece := 0, requests/10; done < requests; {
		if _, err := load(running.address, 16, time.Now().Add(time.Hour), piece); err != nil {
			return err
		}
		done += piece
		time.Sleep(100 * time.Millisecond) // its clients' ends are seen
		m, err := memory(running.pid)
		if err != nil {
			return err
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", running.pid))
		if err != nil {
			return err
		}
		pss, open = append(pss, m), append(open, int64(len(fds)))
		rows = append(rows, fmt.Sprintf("%d\t%d\t%d", done, m, len(fds)))
	}
	if err := table(s.name+": what it holds after so many requests", rows...); err != nil {
		return err
	}
	if first, last := open[0], open[len(open)-1]; last > first {
		return fmt.Errorf("%d descriptors are open, and %d were at first", last, first)
	}
	// What the first tenth needed, and a tenth more.
	if first, last := pss[0], pss[len(pss)-1]; last > first+first/10 {
		return fmt.Errorf("it takes %d KiB, and took %d at first", last, first)
	}
	return nil
}

// bench has an image with both guests, whose artifacts are there once they have run.
type bench struct {
	*harness.Daemon
	image client.Image
}

func newBench(d *harness.Daemon) (*bench, error) {
	files := map[string]harness.File{"proc/": {}, "dev/": {}, "sys/": {}}
	for _, name := range []string{guest, "hello.wasm"} {
		code, err := guests.Read(name)
		if err != nil {
			return nil, err
		}
		files[name] = harness.File{Data: code}
	}
	image, err := d.Image(context.Background(), "http", files, ocispec.ImageConfig{})
	if err != nil {
		return nil, err
	}
	b := &bench{d, image}
	if _, err := b.hello(); err != nil {
		return nil, err
	}
	running, err := (&subject{name: "our shim", start: b.container("")}).begin()
	if err != nil {
		return nil, err
	}
	_, err = running.firstAnswer()
	return b, errors.Join(err, running.stop())
}

// begin starts a container; making it, and its snapshot, is containerd's own work.
func (b *bench) begin(c harness.Config) (*harness.Container, time.Time, error) {
	ctx := context.Background()
	c.Runtime, c.Image, c.Stdout = runtime, b.image, io.Discard
	container, err := b.NewContainer(b.In(ctx), c)
	if err != nil {
		return nil, time.Time{}, err
	}
	begun := time.Now()
	running, err := b.RunTask(b.In(ctx), container, c)
	return running, begun, err
}

func (b *bench) hello() (time.Duration, error) {
	c, begun, err := b.begin(harness.Config{Args: []string{"/hello.wasm"}})
	if err != nil {
		return 0, err
	}
	err = c.Wait(context.Background())
	took := time.Since(begun)
	result, failed := b.Finish(context.Background(), c)
	if failed == nil && result.Code != 0 {
		failed = fmt.Errorf("exit status %d: %s", result.Code, result.Stderr)
	}
	return took, errors.Join(err, failed)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// container starts the guest by our shim.
func (b *bench) container(options string) func(string) (*server, error) {
	return func(address string) (*server, error) {
		c, begun, err := b.begin(harness.Config{
			Args: []string{"/" + guest}, Opts: []oci.SpecOpts{oci.WithHostNamespace(specs.NetworkNamespace)},
			RuntimeOptions: &runtimeoptions.Options{ConfigBody: []byte("[engine]\nhttp-address = '" + address + "'\n" + options)},
		})
		if err != nil {
			return nil, err
		}
		stop := func() error {
			ctx := context.Background()
			if err := c.Task.Kill(b.In(ctx), syscall.SIGTERM); err != nil {
				return err
			}
			result, err := b.Finish(ctx, c)
			if err == nil && result.Code != 0 {
				err = fmt.Errorf("exit status %d: %s", result.Code, result.Stderr)
			}
			return err
		}
		return &server{pid: int(c.Task.Pid()), begun: begun, stop: stop}, nil
	}
}

// command starts it by the wasmtime command.
func command(wasmtime string, args ...string) func(string) (*server, error) {
	return func(address string) (*server, error) {
		dir, err := guests.Dir()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(wasmtime, slices.Concat([]string{"serve", "-Scli", "--addr", address}, args, []string{filepath.Join(dir, guest)})...)
		begun := time.Now()
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		stop := func() error {
			err := cmd.Process.Kill()
			_ = cmd.Wait()
			return err
		}
		return &server{pid: cmd.Process.Pid, begun: begun, stop: stop}, nil
	}
}

func (s *server) firstAnswer() (time.Duration, error) {
	for {
		_, err := load(s.address, 1, time.Now().Add(time.Minute), 1)
		if took := time.Since(s.begun); err == nil || took > time.Minute {
			return took, err
		}
		time.Sleep(time.Millisecond)
	}
}

// load sends requests by so many connections, one after the other on each, until it is
// time or enough. Returns how long each answer took.
func load(address string, connections int, until time.Time, most int) ([]time.Duration, error) {
	var left atomic.Int64
	left.Store(int64(most))
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wait sync.WaitGroup
	for range connections {
		wait.Go(func() {
			took, err := ask(address, until, &left)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	wait.Wait()
	return all, failed
}

// ask sends one request after the other. All answers have the length of the first one:
// what a client of HTTP would do with each, is not measured.
func ask(address string, until time.Time, left *atomic.Int64) ([]time.Duration, error) {
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
	for now := time.Now(); now.Before(until) && left.Add(-1) >= 0; {
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

// cpu is how much a process has used, of a clock of 100 Hz.
func cpu(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, text, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(text)
	user, err1 := strconv.Atoi(fields[11])
	kernel, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+kernel) * 10 * time.Millisecond, errors.Join(err1, err2)
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
