// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

//go:embed guests
var guests embed.FS

// check is one thing that an engine can do, or says that it does not.
type check struct {
	name string
	run  func(context.Context, *suite) error
}

// errNo is an engine's orderly no.
var errNo = errors.New("no")

// errCrash is what the shim says of an engine that was ended by a fault.
var errCrash = errors.New("the engine crashed")

// no says what an engine does instead.
func no(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errNo, fmt.Sprintf(format, args...))
}

var checks = []check{
	{"module", hello("hello.wasm")},
	{"component", hello("component-hello.wasm")},
	{"text format", hello("hello.wat")},
	{"runs one of them", anything},
	{"arguments", arguments},
	{"environment", environment},
	{"exit codes", exitCodes},
	{"exit codes above 125", highExitCodes},
	{"trap is 134, with the reason", traps},
	{"memory is bounded", faults},
	{"broken guest is 126", broken},
	{"missing import is 126", missing("import.wasm")},
	{"missing export is 126", missing("noexport.wasm")},
	{"other export (path#func)", otherExport},
	{"standard input", stdin},
	{"terminals, and no other device", terminals("terminals.wasm")},
	{"terminals of components", terminals("component-terminals.wasm")},
	{"files in the root", files},
	{"other preopens", preopens},
	{"stops by SIGTERM", stops},
	{"unknown option is refused", unknownOption},
	{"eight at once", atOnce},
	{"compiles ahead", compiles},
	{"bulk memory", proposal("bulk.wasm")},
	{"reference types", proposal("refs.wasm")},
	{"SIMD", proposal("simd.wasm")},
	{"tail calls", proposal("tailcall.wasm")},
}

// suite is a run of the checks on one binary.
type suite struct {
	binary string
	dir    string
	main   string // the guest that says hello, in a kind that the engine runs
	next   atomic.Int32
}

func read(name string) ([]byte, error) { return guests.ReadFile("guests/" + name) }

// do runs a guest of the kit's.
func (s *suite) do(ctx context.Context, guest string, j job) (result, error) {
	code, err := read(guest)
	if err != nil {
		return result{}, err
	}
	if j.files == nil {
		j.files = map[string][]byte{}
	}
	j.files[guest] = code
	if j.args == nil {
		j.args = []string{"/" + guest}
	}
	return s.container(ctx, j)
}

func (s *suite) container(ctx context.Context, j job) (result, error) {
	id := fmt.Sprintf("%d-%d", os.Getpid(), s.next.Add(1))
	j.binary = s.binary
	r, err := j.run(ctx, s.dir+"/"+id, id)
	return r, errgrpc.ToNative(err)
}

// expect compares what is the same for every engine.
func (r result) expect(exit int, stdout string) error {
	if r.exit != exit || r.stdout != stdout {
		return fmt.Errorf("exit status %d and output %.200q, want %d and %.200q; on stderr: %.500q", r.exit, r.stdout, exit, stdout, r.stderr)
	}
	return nil
}

// unavailable turns the two orderly ways of refusing a guest into a no: before
// it is started, for its kind, and when it is loaded.
func unavailable(r result, err error) error {
	switch {
	case errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "runs only"):
		return no("refused when it is created")
	case err == nil && r.exit == 126 && r.stderr != "":
		return no("%s", firstLine(r.stderr))
	}
	return err
}

func hello(guest string) func(context.Context, *suite) error {
	return func(ctx context.Context, s *suite) error {
		r, err := s.do(ctx, guest, job{})
		if err := unavailable(r, err); err != nil {
			return err
		}
		want := "hello\n"
		if strings.HasPrefix(guest, "component") {
			want = "hello from a component\n"
		}
		if err := r.expect(0, want); err != nil {
			return err
		}
		if s.main == "" {
			s.main = guest
		}
		return nil
	}
}

// anything is what the other checks need.
func anything(_ context.Context, s *suite) error {
	if s.main == "" {
		return errors.New("no guest has said hello: nothing else is tried")
	}
	return nil
}

func arguments(ctx context.Context, s *suite) error {
	args := []string{"/args.wasm", "", "two words", "ünïcödé", "--flag=x", strings.Repeat("long", 2000)}
	r, err := s.do(ctx, "args.wasm", job{args: args})
	if err := unavailable(r, err); err != nil {
		return err
	}
	want := strings.Join(args, "\n") + "\n"
	if r.exit != 0 || !strings.HasPrefix(r.stdout, want) {
		return r.expect(0, want+"…")
	}
	return nil
}

func environment(ctx context.Context, s *suite) error {
	env := []string{"A=1", "EMPTY=", "EQUALS=a=b", "WORDS=two words"}
	r, err := s.do(ctx, "args.wasm", job{env: env})
	if err := unavailable(r, err); err != nil {
		return err
	}
	for _, kv := range env {
		if !strings.Contains(r.stdout, "\n"+kv+"\n") {
			return fmt.Errorf("the guest has no %q: %q", kv, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "WASMSHIM") {
		return fmt.Errorf("the guest sees what is the shim's: %q", r.stdout)
	}
	return nil
}

func exits(ctx context.Context, s *suite, code int) (result, error) {
	args := []string{"/exit.wasm"}
	for i := range code {
		args = append(args, strconv.Itoa(i))
	}
	r, err := s.do(ctx, "exit.wasm", job{args: args})
	return r, unavailable(r, err)
}

func exitCodes(ctx context.Context, s *suite) error {
	for _, code := range []int{1, 2, 42, 125} {
		r, err := exits(ctx, s, code)
		if err == nil {
			err = r.expect(code, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// highExitCodes: some implementations of WASI make a trap of them.
func highExitCodes(ctx context.Context, s *suite) error {
	r, err := exits(ctx, s, 255)
	if err == nil && r.exit == 134 && r.stderr != "" {
		return no("the engine makes a trap of them")
	}
	if err == nil {
		err = r.expect(255, "")
	}
	return err
}

// ends runs a guest that ends badly, by an exit status and with a reason.
func ends(ctx context.Context, s *suite, guest string, exit int, j job) error {
	r, err := s.do(ctx, guest, j)
	if err != nil {
		return unavailable(r, err)
	}
	if err := r.expect(exit, ""); err != nil {
		return err
	}
	if strings.TrimSpace(r.stderr) == "" {
		return fmt.Errorf("exit status %d, and no reason on stderr", r.exit)
	}
	if !strings.Contains(r.log, "guest failed") {
		return fmt.Errorf("exit status %d, and no reason in the shim's log", r.exit)
	}
	return nil
}

func traps(ctx context.Context, s *suite) error { return ends(ctx, s, "trap.wasm", 134, job{}) }

func faults(ctx context.Context, s *suite) error { return ends(ctx, s, "fault.wasm", 134, job{}) }

func broken(ctx context.Context, s *suite) error {
	return ends(ctx, s, "hello.wasm", 126, job{
		args:  []string{"/broken.wasm"},
		files: map[string][]byte{"broken.wasm": []byte("\x00asm\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff")},
	})
}

func missing(guest string) func(context.Context, *suite) error {
	return func(ctx context.Context, s *suite) error { return ends(ctx, s, guest, 126, job{}) }
}

func otherExport(ctx context.Context, s *suite) error {
	r, err := s.do(ctx, "hello.wasm", job{args: []string{"/hello.wasm#other"}})
	if err := unavailable(r, err); err != nil {
		return err
	}
	return r.expect(0, "Jello\n")
}

func stdin(ctx context.Context, s *suite) error {
	r, err := s.do(ctx, "cat.wasm", job{stdin: []byte("one\ntwo\n")})
	if err := unavailable(r, err); err != nil {
		return err
	}
	return r.expect(0, "one\ntwo\nend\n")
}

func copies(ctx context.Context, s *suite, dir string, j job) error {
	j.files = map[string][]byte{dir + "/in": []byte("contents")}
	r, err := s.do(ctx, "files.wasm", j)
	if err := unavailable(r, err); err != nil {
		return err
	}
	if err := r.expect(0, "contents"); err != nil {
		return err
	}
	out, err := os.ReadFile(filepath.Join(r.root, dir, "out"))
	if err == nil && string(out) != "contents" {
		err = fmt.Errorf("the guest wrote %q, want %q", out, "contents")
	}
	return err
}

func files(ctx context.Context, s *suite) error { return copies(ctx, s, "data", job{}) }

func preopens(ctx context.Context, s *suite) error {
	if err := copies(ctx, s, "srv/data", job{toml: "[engine]\npreopens = [\"/srv:/\"]\n"}); err != nil {
		return err
	}
	// Without any directory, its first step fails.
	r, err := s.do(ctx, "files.wasm", job{toml: "[engine]\npreopens = []\n", files: map[string][]byte{"data/in": []byte("contents")}})
	if err != nil {
		return err
	}
	return r.expect(1, "")
}

// grace is what Kubernetes gives a pod, less a lot.
const grace = 10 * time.Second

func stops(ctx context.Context, s *suite) error {
	r, err := s.do(ctx, "spin.wasm", job{until: "ready\n", during: func(c *container) error { return c.kill(ctx, unix.SIGTERM) }})
	if err := unavailable(r, err); err != nil {
		return err
	}
	if r.ended > grace {
		return fmt.Errorf("it took %s", r.ended)
	}
	return r.expect(143, "ready\n")
}

func unknownOption(ctx context.Context, s *suite) error {
	_, err := s.do(ctx, s.main, job{toml: "[engine]\nno-such-option = 1\n"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "no-such-option") {
		return fmt.Errorf("create answered: %w", err)
	}
	return nil
}

func atOnce(ctx context.Context, s *suite) error {
	g, ctx := errgroup.WithContext(ctx)
	for range 8 {
		g.Go(func() error { return hello(s.main)(ctx, s) })
	}
	return g.Wait()
}

// compiles has the binary's own command compile a guest in the compiler's
// process and run the artifact.
func compiles(ctx context.Context, s *suite) error {
	code, err := read(s.main)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, s.main)
	if err := os.WriteFile(path, code, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.binary, "run", "--compile", "--log-level", "info", path)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	switch {
	case strings.Contains(stderr.String(), "does not compile ahead"):
		return no("its descriptor has no compile")
	case err != nil:
		return fmt.Errorf("run --compile: %w: %s", err, stderr.String())
	case !strings.Contains(stderr.String(), "an artifact of") || strings.Contains(stderr.String(), "does not load"):
		return fmt.Errorf("run --compile: %s", stderr.String())
	case !strings.HasPrefix(stdout.String(), "hello"):
		return fmt.Errorf("run --compile printed %q", stdout.String())
	}
	return nil
}

func proposal(guest string) func(context.Context, *suite) error {
	return func(ctx context.Context, s *suite) error {
		r, err := s.do(ctx, guest, job{})
		if err := unavailable(r, err); err != nil {
			return err
		}
		if r.exit == 0 {
			return nil
		}
		if _, why, ok := strings.Cut(r.log, "guest failed: "); ok {
			why, _, _ = strings.Cut(why, "\" ")
			if _, how, ok := strings.Cut(why, errCrash.Error()+", "); ok {
				return fmt.Errorf("%w %s", errCrash, how)
			}
			return no("%s", firstLine(why))
		}
		return no("exit status %d", r.exit)
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
