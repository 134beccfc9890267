// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// linked is an image in which every kind of guest is reached by every kind of
// link.
func linked(t *harness.T, config ocispec.ImageConfig) *harness.Config {
	files := smoke.Files(t)
	for kind, target := range map[string]string{"module": "hello.wasm", "component": "component-hello.wasm", "native": "native"} {
		files["links/"+kind+"/absolute"] = harness.File{Link: "/" + target}
		files["links/"+kind+"/relative"] = harness.File{Link: "../../" + target}
		files["links/"+kind+"/twice"] = harness.File{Link: "relative"}
		files["links/"+kind+"/beyond"] = harness.File{Link: "../../../../../../" + target}
		files["links/"+kind+"/through"] = harness.File{Link: "/links/dir/" + target}
		files["path/"+kind+"-in-path"] = harness.File{Link: "/" + target}
	}
	files["links/dir"] = harness.File{Link: ".."}
	return &harness.Config{Image: t.Image("linked"+fmt.Sprintf("%x", md5.Sum(fmt.Append(nil, config)))[:8], files, config)}
}

func TestTrust1Links(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := *linked(tt, ocispec.ImageConfig{Env: []string{"PATH=/bin:/path"}})
	for _, kind := range []string{"module", "component", "native"} {
		for _, name := range []string{"/links/KIND/absolute", "/links/KIND/relative", "/links/KIND/twice", "/links/KIND/beyond", "/links/KIND/through", "KIND-in-path", "links/../links/./KIND/relative"} {
			c.Args = []string{strings.ReplaceAll(name, "KIND", kind)}
			result := tt.Once(c)
			require.Zero(t, result.Code, "%s: %+v", c.Args, result)
			require.Contains(t, result.Stdout, "hello")
		}
		// A relative path starts from the working directory.
		c.Args, c.Opts = []string{"./relative"}, []oci.SpecOpts{oci.WithProcessCwd("/links/" + kind)}
		result := tt.Once(c)
		require.Zero(t, result.Code, "%+v", result)
		require.Contains(t, result.Stdout, "hello")
		c.Opts = nil
	}
	result := tt.Once(harness.Config{Image: c.Image, Args: []string{"/links/module/relative#other"}})
	require.Equal(t, "Jello\n", result.Stdout)
}

// A guest that lies in no image: bound in as a file, and in a directory.
func TestTrust1BindMounts(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	dir, err := guests.Dir()
	require.NoError(t, err)
	for _, name := range []string{"hello.wasm", "component-hello.wasm", "native"} {
		for path, mount := range map[string]specs.Mount{
			"/mnt/it":      {Destination: "/mnt/it", Type: "bind", Source: filepath.Join(dir, name), Options: []string{"bind", "ro"}},
			"/new/" + name: {Destination: "/new", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
			"/hello.wasm":  {Destination: "/hello.wasm", Type: "bind", Source: filepath.Join(dir, name), Options: []string{"bind", "ro"}},
		} {
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{path}, Opts: []oci.SpecOpts{oci.WithMounts([]specs.Mount{mount})}})
			require.Zero(t, result.Code, "%s at %s: %+v", name, path, result)
			require.Contains(t, result.Stdout, "hello", "%s at %s", name, path)
		}
	}
}

func TestTrust1ImageConfig(t *testing.T) {
	for name, test := range map[string]struct {
		config ocispec.ImageConfig
		want   string
	}{
		"ENTRYPOINT only, module":    {ocispec.ImageConfig{Entrypoint: []string{"/go.wasm", "args"}}, `["go.wasm" "args"]`},
		"CMD only, module":           {ocispec.ImageConfig{Cmd: []string{"/go.wasm", "args"}}, `["go.wasm" "args"]`},
		"both, module":               {ocispec.ImageConfig{Entrypoint: []string{"/go.wasm"}, Cmd: []string{"echo=a", "args"}}, "a\n" + `["go.wasm" "echo=a" "args"]`},
		"ENTRYPOINT only, component": {ocispec.ImageConfig{Entrypoint: []string{"/component-hello.wasm"}}, "hello"},
		"CMD only, component":        {ocispec.ImageConfig{Cmd: []string{"/component-hello.wasm"}}, "hello"},
		"both, component":            {ocispec.ImageConfig{Entrypoint: []string{"/component-hello.wasm"}, Cmd: []string{"x"}}, "hello"},
		"ENTRYPOINT only, native":    {ocispec.ImageConfig{Entrypoint: []string{"/bin/echo", "a b"}}, "a b\n"},
		"CMD only, native":           {ocispec.ImageConfig{Cmd: []string{"/bin/echo", "a"}}, "a\n"},
		"both, native":               {ocispec.ImageConfig{Entrypoint: []string{"/bin/echo"}, Cmd: []string{"b"}}, "b\n"},
		"WorkingDir":                 {ocispec.ImageConfig{Cmd: []string{"../go.wasm", "cwd"}, WorkingDir: "/work"}, "/work\n"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := *linked(tt, test.config)
			result := tt.Once(c)
			require.Zero(t, result.Code, "%+v", result)
			require.Contains(t, strings.ReplaceAll(result.Stdout, `["/go.wasm"`, `["go.wasm"`), test.want)
		})
	}
}

// The user, the groups and the limits are the process's, whatever runs in it.
func TestTrust1UserAndLimits(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	for _, args := range [][]string{{"/go.wasm", "read=/proc/self/status", "read=/proc/self/limits"}, {"/bin/cat", "/proc/self/status", "/proc/self/limits"}} {
		result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000, 4000}}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 123, Hard: 456}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
		})}})
		require.Zero(t, result.Code, "%+v", result)
		for _, want := range []string{`Uid:\s+1000\s+1000\s+1000\s+1000`, `Gid:\s+2000\s+2000\s+2000\s+2000`, `Groups:\s+3000 4000`, `Max open files\s+123\s+456`, `Max core file size\s+0\s+0`} {
			require.Regexp(t, want, result.Stdout)
		}
	}
}

func TestTrust1ReadonlyRoot(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	opts := []oci.SpecOpts{withTmp, oci.WithRootFSReadonly()}
	for _, args := range [][]string{{"/go.wasm", "write=/tmp/x", "read=/tmp/x"}, {"/bin/sh", "-c", "echo written >/tmp/x; cat /tmp/x"}} {
		result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: opts})
		require.Equal(t, "written\n", result.Stdout, "%+v", result)
	}
	for _, args := range [][]string{{"/go.wasm", "write=/x"}, {"/bin/sh", "-c", "echo written >/x"}} {
		require.EqualValues(t, 1, tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: opts}).Code)
	}
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/component-hello.wasm"}, Opts: opts})
	require.Zero(t, result.Code, "%+v", result)
}

// Whatever JSON can carry arrives, however much of it.
func TestTrust1ArgumentsAndEnvironment(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	const odd = "\x01\x1b[31m\x7f\t\r\n \"'`$(x)\\ ü 世界 \U0001F600 \ufffd =,:#%"
	many := make([]string, 10000)
	for i := range many {
		many[i] = fmt.Sprintf("VARIABLE_%05d=%s %d", i, odd, i)
	}
	few := []string{"EMPTY=", "EQUALS=a=b", "ODD=" + odd}
	kilobytes := make([]string, 1000)
	for i := range kilobytes {
		kilobytes[i] = strings.Repeat(string(rune('a'+i%26)), 1023)
	}
	slices64 := slices.Repeat([]string{strings.Repeat("x", 64<<10)}, 16)
	sum := func(list []string) string {
		return fmt.Sprintf("%d %x\n", len(list), md5.Sum([]byte(strings.Join(list, "\x00"))))
	}
	for name, test := range map[string]struct {
		args, env  []string
		guestsOnly bool // more than the kernel lets a native program have
	}{
		"odd":                {[]string{odd, "", odd}, few, false},
		"10,000 variables":   {nil, many, false},
		"1 MB in a thousand": {kilobytes, few, false},
		"1 MB in sixteen":    {slices64, few, false},
		"1 MB in one":        {[]string{strings.Repeat("y", 1<<20)}, few, true},
		"8 MB":               {slices.Repeat(slices64, 8), many, true},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			set := harness.WithSpec(func(s *oci.Spec) { s.Process.Env = test.env })
			args := append([]string{"/go.wasm", "sum"}, test.args...)
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{set}})
			require.Zero(t, result.Code, "%.1000s", result.Stderr)
			require.Equal(t, sum(args)+sum(append(slices.Clone(test.env), "HOME=/")), result.Stdout)
			if test.guestsOnly {
				return
			}
			args = append([]string{"/bin/busybox", "sh", "-c", `echo $#; printf '%s\0' "$@" | /bin/busybox md5sum; /bin/busybox env | /bin/busybox grep -c '^[A-Z0-9_]*='`, "sh"}, test.args...)
			result = tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{set}})
			require.Zero(t, result.Code, "%.1000s", result.Stderr)
			joined := ""
			for _, a := range test.args {
				joined += a + "\x00"
			}
			if len(test.args) == 0 {
				joined = "\x00"
			}
			require.True(t, strings.HasPrefix(result.Stdout, fmt.Sprintf("%d\n%x  -\n", len(test.args), md5.Sum([]byte(joined)))), result.Stdout)
		})
	}
	for name, test := range map[string]struct {
		args, env []string
		message   string
	}{
		"NUL in an argument":     {[]string{"/hello.wasm", "a\x00b"}, nil, `process.args has "a\x00b"; an argument cannot hold a NUL byte`},
		"NUL in a variable":      {[]string{"/hello.wasm"}, []string{"A=\x00"}, `process.env has "A=\x00"; it must be NAME=value, without a NUL byte`},
		"a variable of no name":  {[]string{"/hello.wasm"}, []string{"=x"}, `process.env has "=x"; it must be NAME=value`},
		"a variable without '='": {[]string{"/hello.wasm"}, []string{"A"}, `process.env has "A"; it must be NAME=value`},
	} {
		t.Run(name, func(t *testing.T) {
			requireRefused(harness.New(t, smoke.Ours), harness.Config{
				Image: smoke.Image(tt), Args: []string{"/hello.wasm"},
				Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) { s.Process.Args, s.Process.Env = test.args, test.env })},
			}, codes.InvalidArgument, test.message)
		})
	}
}

// hooks makes one hook of each kind, which write to dir: the order, and what
// they were told.
func hooks(dir string) oci.SpecOpts {
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + name + " >>" + dir + "/order; cat >" + dir + "/" + name}}}
	}
	return harness.WithSpec(func(s *oci.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind"}})
		s.Hooks = &specs.Hooks{
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), //nolint:staticcheck // deprecated, still used
			StartContainer: hook("startContainer"), Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	})
}

// hookOrder is the order in which hooks run. The two in the middle run at the
// same time: one in the container, one beside it.
var hookOrder = regexp.MustCompile("^prestart\ncreateRuntime\ncreateContainer\n(startContainer\npoststart|poststart\nstartContainer)\npoststop\n$")

func TestTrust1Hooks(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Runc} {
		for program := range outputs {
			if runtime == smoke.Runc && program != "/native" {
				continue
			}
			t.Run(runtime+program, func(t *testing.T) {
				tt := harness.New(t, runtime)
				dir := t.TempDir()
				c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{program}, Opts: []oci.SpecOpts{hooks(dir)}})
				pid := c.Task.Pid()
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.Zero(t, result.Code, "%+v", result)
				order, err := os.ReadFile(filepath.Join(dir, "order"))
				require.NoError(t, err)
				require.Regexp(t, hookOrder, string(order))
				for name, status := range map[string]specs.ContainerState{"createRuntime": specs.StateCreating, "startContainer": specs.StateCreated, "poststart": specs.StateRunning, "poststop": specs.StateStopped} {
					text, err := os.ReadFile(filepath.Join(dir, name))
					require.NoError(t, err)
					var state specs.State
					require.NoError(t, json.Unmarshal(text, &state), "%s", text)
					require.Equal(t, c.ID(), state.ID)
					if name != "poststart" { // which races with the start
						require.Equal(t, status, state.Status, name)
					}
					require.Equal(t, tt.Bundle(c.ID()), state.Bundle)
					if status == specs.StateRunning {
						require.EqualValues(t, pid, state.Pid)
					}
				}
			})
		}
	}
	// The shim is killed: containerd has what is left cleaned up.
	t.Run("killed", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		dir := t.TempDir()
		c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}, Opts: []oci.SpecOpts{hooks(dir)}})
		require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
		require.NoError(t, syscall.Kill(tt.Shims()[0].Pid, syscall.SIGKILL))
		require.Eventually(t, func() bool {
			order, _ := os.ReadFile(filepath.Join(dir, "order"))
			return hookOrder.Match(order)
		}, 10*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool { return tt.Remove(tt.Ctx, c) == nil }, 10*time.Second, 10*time.Millisecond)
		c.Task.IO().Cancel()
		require.NoError(t, c.Task.IO().Close())
	})
}

// A hook that fails does to a container what it does with runc's shim.
func TestTrust1FailingHooks(t *testing.T) {
	numbers := regexp.MustCompile(`\d{2,}|[a-z]+\d+`)
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"} {
		t.Run(kind, func(t *testing.T) {
			answers := map[string]string{}
			for _, runtime := range []string{smoke.Runc, smoke.Ours} {
				t.Run(runtime, func(t *testing.T) {
					tt := harness.New(t, runtime)
					failing := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo it broke >&2; exit 3"}}}
					c := harness.Config{Runtime: runtime, Image: smoke.Image(tt), Args: []string{"/native"}, Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
						s.Hooks = map[string]*specs.Hooks{
							"prestart": {Prestart: failing}, "createRuntime": {CreateRuntime: failing}, "createContainer": {CreateContainer: failing}, //nolint:staticcheck // the same
							"startContainer": {StartContainer: failing}, "poststart": {Poststart: failing}, "poststop": {Poststop: failing},
						}[kind]
					})}}
					step := "create failed"
					made, err := tt.Daemon.Create(tt.Ctx, c)
					if err != nil {
						require.Contains(t, err.Error(), "it broke")
					} else {
						if err := made.Task.Start(tt.Ctx); err != nil {
							step = "start failed"
						} else if result, err := tt.Finish(made); err != nil {
							step = "delete failed"
						} else {
							step = fmt.Sprintf("ran, exit %d, stdout %q", result.Code, result.Stdout)
						}
						if strings.HasSuffix(step, "failed") {
							require.NoError(t, tt.Remove(tt.Ctx, made))
						}
					}
					answers[runtime] = numbers.ReplaceAllString(step, "N")
				})
			}
			require.Equal(t, answers[smoke.Runc], answers[smoke.Ours])
		})
	}
}

// What the kernel says of a program that it cannot run reaches the user as with
// runc's shim.
func TestTrust1NativePrograms(t *testing.T) {
	files := smoke.Files(t)
	native := slices.Clone(files["native"].Data)
	native[18], native[19] = 0xb7, 0 // e_machine: AArch64
	files["foreign"] = harness.File{Data: native}
	files["truncated"] = harness.File{Data: native[:40]}
	files["with-arguments.sh"] = harness.File{Data: []byte("#!/bin/busybox sh -e\necho \"$0 $1\"\nfalse\necho not reached\n")}
	files["no-interpreter"] = harness.File{Data: []byte("#!/no/such/shell\n")}
	for _, program := range []string{"/foreign", "/truncated", "/with-arguments.sh", "/no-interpreter"} {
		answers := map[string]string{}
		for _, runtime := range []string{smoke.Runc, smoke.Ours} {
			t.Run(program+" "+runtime, func(t *testing.T) {
				tt := harness.New(t, runtime)
				image := tt.Image("foreign", files, ocispec.ImageConfig{})
				made, err := tt.Daemon.Run(tt.Ctx, harness.Config{Runtime: runtime, Image: image, Args: []string{program, "argument"}})
				if err != nil {
					answers[runtime] = regexp.MustCompile(`exec .*`).FindString(err.Error())
					return
				}
				result, err := tt.Finish(made)
				require.NoError(t, err)
				answers[runtime] = fmt.Sprintf("exit %d, %q, %q", result.Code, result.Stdout, result.Stderr)
			})
		}
		t.Logf("%s: %v", program, answers)
		require.NotEmpty(t, answers[smoke.Ours])
		require.Equal(t, answers[smoke.Runc], answers[smoke.Ours], program)
	}
}
