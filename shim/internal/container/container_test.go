// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestCreateErrorsLeaveNothing(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		name string
		edit func(*Config, *Process)
		code error
		want string
	}{
		{"no proc", func(c *Config, _ *Process) { c.Spec.Mounts = c.Spec.Mounts[1:] }, errdefs.ErrInvalidArgument, "no mount at /proc"},
		{"no rootfs", func(c *Config, _ *Process) { c.Spec.Root.Path = "/does/not/exist" }, errdefs.ErrInvalidArgument, "/does/not/exist"},
		{"no bundle", func(c *Config, _ *Process) { c.Bundle = "/does/not/exist" }, errdefs.ErrInvalidArgument, "find bundle"},
		{"bad id", func(c *Config, _ *Process) { c.ID = "a/b" }, errdefs.ErrInvalidArgument, `"a/b"`},
		{"bad namespace", func(c *Config, _ *Process) {
			c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "what"})
		}, errdefs.ErrInvalidArgument, "what"},
		{"bad device", func(c *Config, _ *Process) {
			c.Spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{}}
		}, errdefs.ErrInvalidArgument, "device access"},
		{"no network namespace there", func(c *Config, _ *Process) {
			for i, ns := range c.Spec.Linux.Namespaces {
				if ns.Type == specs.NetworkNamespace {
					c.Spec.Linux.Namespaces[i].Path = "/proc/self/ns/gone"
				}
			}
		}, nil, "/proc/self/ns/gone"},
		{"no program", func(_ *Config, p *Process) { p.Args = []string{"/bin/what"} }, nil, "/bin/what"},
		{"cwd is a file", func(_ *Config, p *Process) { p.Spec.Cwd = "/bin/guest" }, nil, "/bin/guest"},
		{"no mount source", func(c *Config, _ *Process) {
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/mnt", Source: "/does/not/exist", Options: []string{"bind"}})
		}, nil, "/does/not/exist"},
		{"hook", func(c *Config, _ *Process) {
			c.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		}, nil, "hook"},
		{"out of memory", func(c *Config, _ *Process) {
			limit := int64(1 << 20)
			c.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		}, nil, "memory limit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
			tc.edit(&cfg, &p)
			c, err := Create(cfg, p)
			if err == nil {
				endCreated(t, c)
			}
			require.ErrorContains(t, err, tc.want)
			if tc.code != nil {
				require.ErrorIs(t, err, tc.code)
			}
			requireNothing(t, cfg)
		})
	}
}

// TestCreateHangs: a hook in the container's namespaces that does not end is
// killed, one on the host is left behind.
func TestCreateHangs(t *testing.T) {
	needRoot(t)
	limit := patience{500 * time.Millisecond, 500 * time.Millisecond}
	t.Run("in the container", func(t *testing.T) {
		cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
		cfg.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: filepath.Join(rootfs, "bin/guest"), Args: guest("sleep")}}}
		_, err := create(cfg, p, limit)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requireNothing(t, cfg)
	})
	t.Run("on the host", func(t *testing.T) {
		cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
		cfg.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "3"}}}}
		begin := time.Now()
		_, err := create(cfg, p, limit)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "still hangs")
		require.Less(t, time.Since(begin), 2*time.Second)
		require.Eventually(t, func() bool { return len(children(t)) == 0 && !exists(cfg.Root) }, 10*time.Second, 50*time.Millisecond)
		requireNothing(t, cfg)
	})
}

func TestCreateTwice(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)

	_, err := Create(cfg, p)
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)

	// Another container in the same cgroup, and the cleanup after it.
	other := cfg
	other.ID, other.Root = "other", filepath.Join(t.TempDir(), "shim")
	_, err = Create(other, p)
	require.ErrorContains(t, err, "cgroup is not empty")
	require.NoError(t, Cleanup(other.ID, other.Root))
	require.NoDirExists(t, other.Root)
	require.False(t, c.init.dead(), "the first container was killed by the second's failure")
}

func TestStartAfterKill(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustCreate(t, cfg, p)
	require.NoError(t, syscall.Kill(c.Pid(), syscall.SIGKILL))
	begin := time.Now()
	err := c.Start()
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "before it was started")
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Equal(t, 137, mustWait(t, c))
}

func TestStartTwice(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	require.ErrorIs(t, c.Start(), errdefs.ErrFailedPrecondition)
}

func TestExitStatus(t *testing.T) {
	needRoot(t)
	for args, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "exit 256": 0} {
		cfg, p := newConfigFor(t.TempDir(), guest(strings.Fields(args)...)...)
		c := mustRun(t, cfg, p)
		require.Equal(t, want, mustWait(t, c), args)
	}
	// The init ignores signals that it has no handler for; another process does not.
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	e, err := c.Exec(p.with("sleep"))
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, e.Signal(syscall.SIGTERM))
	require.Equal(t, 143, mustWait(t, e))
	exit, err := e.Wait(t.Context())
	require.NoError(t, err)
	require.WithinRange(t, exit.At, begin, time.Now())
	require.ErrorIs(t, e.Signal(syscall.SIGTERM), errdefs.ErrNotFound)
	require.NoError(t, c.Signal(syscall.SIGKILL, false))
	require.Equal(t, 137, mustWait(t, c))
	for _, all := range []bool{false, true} {
		require.ErrorIs(t, c.Signal(syscall.SIGTERM, all), errdefs.ErrNotFound)
		require.ErrorIs(t, c.Signal(syscall.SIGKILL, all), errdefs.ErrNotFound)
	}
}

func TestWaitIsCancelled(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Wait(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, c.Delete(), errdefs.ErrFailedPrecondition)
}

// TestInitExitsLast: who learns of the init's exit finds all others known.
func TestInitExitsLast(t *testing.T) {
	needRoot(t)
	for name, share := range map[string]func(Config) Config{"own pids": func(c Config) Config { return c }, "host pids": hostPID} {
		t.Run(name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
			c := mustRun(t, share(cfg), p)
			var execs []*Exec
			for range 5 {
				e, err := c.Exec(p.with("sleep"))
				require.NoError(t, err)
				execs = append(execs, e)
			}
			require.NoError(t, syscall.Kill(c.Pid(), syscall.SIGKILL))
			require.Equal(t, 137, mustWait(t, c))
			for _, e := range execs {
				require.True(t, closed(e.done))
			}
		})
	}
}

// TestWaitTakesNoThread: many waited-for processes, no thread for each.
func TestWaitTakesNoThread(t *testing.T) {
	needRoot(t)
	threads := func() int { return pprof.Lookup("threadcreate").Count() }
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	before := threads()
	var wg sync.WaitGroup
	for range 30 {
		e, err := c.Exec(p.with("sleep"))
		require.NoError(t, err)
		for range 10 {
			wg.Go(func() { mustWait(t, e) })
		}
	}
	entries, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	t.Logf("%d threads, %d made since the first container", len(entries), threads()-before)
	require.Less(t, threads()-before, 15)
	require.NoError(t, c.Signal(syscall.SIGKILL, false))
	wg.Wait()
}

func TestSignalAll(t *testing.T) {
	needRoot(t)
	run := func(t *testing.T, share func(Config) Config) (*Container, *Exec) {
		cfg, p := newConfigFor(t.TempDir(), guest("term")...)
		p, ready := announced(t, p)
		c := mustRun(t, share(cfg), p)
		ready()
		p, ready = announced(t, p)
		e, err := c.Exec(p)
		require.NoError(t, err)
		ready()
		pids, err := c.Pids()
		require.NoError(t, err)
		require.ElementsMatch(t, []int{c.Pid(), e.Pid()}, pids)
		return c, e
	}
	own := func(c Config) Config { return c }
	t.Run("only the init", func(t *testing.T) {
		c, e := run(t, hostPID)
		require.NoError(t, c.Signal(syscall.SIGTERM, false))
		require.Equal(t, 7, mustWait(t, c))
		require.Equal(t, 137, mustWait(t, e), "what the init leaves behind is killed")
	})
	t.Run("everything, host pid namespace", func(t *testing.T) {
		c, e := run(t, hostPID)
		require.NoError(t, e.Signal(0))
		require.NoError(t, c.Signal(syscall.SIGSTOP, true))
		require.NoError(t, c.Signal(syscall.SIGCONT, true))
		require.NoError(t, c.Signal(syscall.SIGKILL, true))
		require.Equal(t, 137, mustWait(t, c))
		require.Equal(t, 137, mustWait(t, e))
	})
	t.Run("everything, own pid namespace", func(t *testing.T) {
		c, e := run(t, own)
		require.NoError(t, c.Signal(syscall.SIGTERM, true))
		require.Equal(t, 7, mustWait(t, c))
		require.Contains(t, []int{7, 137}, mustWait(t, e))
	})
	t.Run("SIGKILL reaches what is paused", func(t *testing.T) {
		c, _ := run(t, own)
		m, err := c.cgroup.manager()
		require.NoError(t, err)
		require.NoError(t, m.Freeze(cgroups.Frozen))
		_, err = c.Exec(Process{Args: guest("exit"), Spec: &specs.Process{Cwd: "/"}})
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		require.ErrorContains(t, err, "paused")
		require.NoError(t, c.Signal(syscall.SIGKILL, false))
		require.Equal(t, 137, mustWait(t, c))
	})
}

// announced returns p with its output going to a pipe, and what waits for it to
// say something.
func announced(t *testing.T, p Process) (Process, func()) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	p.Stdout = w
	return p, func() {
		_, err := r.Read(make([]byte, 100))
		require.NoError(t, err)
	}
}

func TestExecErrors(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	bad := p
	bad.Args = []string{"/bin/what"}
	_, err := c.Exec(bad)
	require.ErrorContains(t, err, "/bin/what")
	require.Len(t, children(t), 1, "only the init")
	require.NoError(t, c.Signal(syscall.SIGKILL, false))
	require.Equal(t, 137, mustWait(t, c))
	_, err = c.Exec(p)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

// TestProcess checks each field of the spec's process where the kernel shows it.
func TestProcess(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir())
	s := p.Spec
	s.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002, 1003}}
	s.NoNewPrivileges = true
	s.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
	s.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 123, Hard: 456}}
	oom := 321
	s.OOMScoreAdj = &oom
	s.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 5}
	s.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
	cfg.Spec.Root.Readonly = true

	cat := func(file string) string {
		next, q := newConfigFor(t.TempDir())
		next.Spec.Process, q.Spec = s, s
		return output(t, next, q.with("cat", "/proc/self/"+file))
	}
	status := cat("status")
	for _, line := range []string{"Uid:\t1000\t1000", "Gid:\t1001\t1001", "Groups:\t1002 1003", "NoNewPrivs:\t1", "CapBnd:\t0000000000000020"} {
		require.Contains(t, status, line)
	}
	require.Regexp(t, `Max open files +123 +456 `, cat("limits"))
	require.Equal(t, "321\n", cat("oom_score_adj"))
	require.Regexp(t, `policy +: +3\n`, cat("sched"))
}

func TestEnvironment(t *testing.T) {
	needRoot(t)
	t.Setenv("SECRET", "1")
	cfg, p := newConfigFor(t.TempDir(), guest("env")...)
	p.Env = []string{"A=B"}
	require.Equal(t, "A=B\nHOME=/\n", output(t, cfg, p))
}

// TestDescriptors: the streams and the extra files, nothing else (CVE-2024-21626).
func TestDescriptors(t *testing.T) {
	needRoot(t)
	leak, err := os.Open("/") // not close-on-exec, as a careless library would have it
	require.NoError(t, err)
	defer leak.Close()
	fd, err := syscall.Dup(int(leak.Fd()))
	require.NoError(t, err)
	defer syscall.Close(fd)
	null, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer null.Close()

	cfg, p := newConfigFor(t.TempDir(), guest("fds")...)
	require.Equal(t, "0\n1\n2\n", output(t, cfg, p))
	cfg, p = newConfigFor(t.TempDir(), guest("fds")...)
	p.ExtraFiles = []*os.File{null, null}
	require.Equal(t, "0\n1\n2\n3\n4\n", output(t, cfg, p))

	cfg, p = newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	q := p.with("fds")
	q.Stdout, q.ExtraFiles = w, []*os.File{null}
	e, err := c.Exec(q)
	w.Close()
	require.NoError(t, err)
	require.Zero(t, mustWait(t, e))
	b := make([]byte, 100)
	n, _ := r.Read(b)
	require.Equal(t, "0\n1\n2\n3\n", string(b[:n]))
}

// TestSealedSelf runs this test's binary by descriptor, and tries to write it
// from inside.
func TestSealedSelf(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	self, err := SealedSelf(tmp)
	require.NoError(t, err)
	defer self.Close()
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)

	fd := "/proc/self/fd/" + strconv.Itoa(int(self.Fd()))
	_, err = os.OpenFile(fd, os.O_RDWR, 0)
	require.Error(t, err)

	// A static program in an empty rootfs, reached only through the descriptor.
	prog, err := os.Open(filepath.Join(rootfs, "bin/guest"))
	require.NoError(t, err)
	defer prog.Close()
	cfg, p := newConfigFor(t.TempDir(), "/proc/self/fd/3", "exit", "42")
	empty := t.TempDir()
	require.NoError(t, os.Chmod(empty, 0o755))
	cfg.Spec.Root = &specs.Root{Path: empty}
	p.ExtraFiles = []*os.File{prog}
	c := mustRun(t, cfg, p)
	require.Equal(t, 42, mustWait(t, c))

	cfg, p = newConfigFor(t.TempDir(), guest("write", "/proc/self/fd/3")...)
	p.ExtraFiles = []*os.File{self}
	c = mustRun(t, cfg, p)
	require.Equal(t, 1, mustWait(t, c), "the clone can be opened for writing")
}

func TestCleanup(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		name string
		edit func(t *testing.T, state string)
	}{
		{"state is there", func(*testing.T, string) {}},
		{"no state.json", func(t *testing.T, state string) { require.NoError(t, os.Remove(state)) }},
		{"half a state.json", func(t *testing.T, state string) { require.NoError(t, os.Truncate(state, 100)) }},
		{"empty state.json", func(t *testing.T, state string) { require.NoError(t, os.Truncate(state, 0)) }},
		{"state.json without anything", func(t *testing.T, state string) {
			require.NoError(t, os.WriteFile(state, []byte("{}"), 0o600))
		}},
		{"state.json is null", func(t *testing.T, state string) {
			require.NoError(t, os.WriteFile(state, []byte("null"), 0o600))
		}},
		{"paused", func(t *testing.T, state string) {
			cg, found := loadCgroup(filepath.Dir(state))
			require.True(t, found)
			m, err := cg.manager()
			require.NoError(t, err)
			require.NoError(t, m.Freeze(cgroups.Frozen))
		}},
	} {
		for kind, share := range map[string]func(Config) Config{"own pids": func(c Config) Config { return c }, "host pids": hostPID} {
			t.Run(tc.name+", "+kind, func(t *testing.T) {
				cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
				c, err := Create(share(cfg), p)
				require.NoError(t, err)
				require.NoError(t, c.Start())
				for range 3 {
					_, err := c.Exec(p.with("sleep"))
					require.NoError(t, err)
				}
				tc.edit(t, filepath.Join(cfg.Root, cfg.ID, "state.json"))
				for range 2 {
					require.NoError(t, Cleanup(cfg.ID, cfg.Root))
				}
				require.Equal(t, 137, mustWait(t, c))
				require.NoError(t, c.Delete(), "after somebody else's cleanup")
				requireNothing(t, cfg)
			})
		}
	}
}

// TestCleanupAfterKilledDaemon kills a process at random moments of creating and
// running a container.
func TestCleanupAfterKilledDaemon(t *testing.T) {
	needRoot(t)
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		cfg, _ := newConfigFor(t.TempDir(), guest("sleep")...)
		b, err := json.Marshal(cfg)
		require.NoError(t, err)
		daemon := exec.Command("/proc/self/exe")
		daemon.Env = append(os.Environ(), "WASMSHIM_TEST_DAEMON="+string(b))
		daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		require.NoError(t, daemon.Start())
		time.Sleep(rand.N(100 * time.Millisecond))
		require.NoError(t, daemon.Process.Kill())
		require.Error(t, daemon.Wait())

		for range 2 {
			require.NoError(t, Cleanup(cfg.ID, cfg.Root))
		}
		require.NoDirExists(t, cfg.Root)
		requireNoCgroup(t, cfg)
		// What had not entered the cgroup yet sees the end of a pipe.
		require.Eventually(t, func() bool {
			return errors.Is(syscall.Kill(-daemon.Process.Pid, 0), syscall.ESRCH)
		}, 5*time.Second, time.Millisecond)
	}
}

// TestCleanupNeedsState: a cgroup that nobody entered is nobody's to kill.
func TestCleanupNeedsState(t *testing.T) {
	needRoot(t)
	cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
	c := mustRun(t, cfg, p)
	require.NoError(t, Cleanup("other", t.TempDir()))
	require.False(t, c.init.dead())
	require.ErrorIs(t, Cleanup("../x", cfg.Root), errdefs.ErrInvalidArgument)
}

// TestCgroupsPathIsAbsolute: Create and Cleanup, in different cgroups
// themselves, mean the same one.
func TestCgroupsPathIsAbsolute(t *testing.T) {
	needRoot(t)
	for _, path := range []string{"", cgroupParent[1:] + "/relative"} {
		cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
		cfg.Spec.Linux.CgroupsPath = path
		c, err := Create(cfg, p)
		require.NoError(t, err)
		require.NoError(t, os.Remove(filepath.Join(cfg.Root, cfg.ID, "state.json")))
		require.NoError(t, Cleanup(cfg.ID, cfg.Root))
		require.Equal(t, 137, mustWait(t, c))
		require.NoError(t, c.Delete())
		for _, dir := range cgroupPaths(cgroupsPath(cfg.Spec, cfg.ID, false)) {
			require.NoDirExists(t, dir)
		}
	}
}

// TestMovedInit: whoever moved the init out of its cgroup, it is signalled and
// listed.
func TestMovedInit(t *testing.T) {
	needRoot(t)
	move := func(t *testing.T, pid int) {
		other, err := manager.New(&cgroups.Cgroup{Path: cgroupParent + "/elsewhere", Resources: &cgroups.Resources{}})
		require.NoError(t, err)
		require.NoError(t, other.Apply(pid))
		t.Cleanup(func() { require.NoError(t, other.Destroy()) })
	}
	for name, kill := range map[string]func(c *Container) error{
		"SIGKILL":          func(c *Container) error { return c.Signal(syscall.SIGKILL, false) },
		"SIGKILL to all":   func(c *Container) error { return c.Signal(syscall.SIGKILL, true) },
		"by somebody else": func(c *Container) error { return c.init.signal(syscall.SIGKILL) },
	} {
		for pids, share := range map[string]func(Config) Config{"own pids": func(c Config) Config { return c }, "host pids": hostPID} {
			t.Run(name+", "+pids, func(t *testing.T) {
				cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
				c := mustRun(t, share(cfg), p)
				e, err := c.Exec(p.with("sleep"))
				require.NoError(t, err)
				move(t, c.Pid())
				move(t, e.Pid())
				listed, err := c.Pids()
				require.NoError(t, err)
				require.Contains(t, listed, c.Pid())
				require.NoError(t, kill(c))
				require.Equal(t, 137, mustWait(t, c))
				require.Equal(t, 137, mustWait(t, e))
				require.ErrorIs(t, kill(c), errdefs.ErrNotFound)
			})
		}
	}
	t.Run("SIGTERM to all", func(t *testing.T) {
		cfg, p := newConfigFor(t.TempDir(), guest("term")...)
		p, ready := announced(t, p)
		c := mustRun(t, hostPID(cfg), p)
		ready()
		move(t, c.Pid())
		require.NoError(t, c.Signal(syscall.SIGTERM, true))
		require.Equal(t, 7, mustWait(t, c))
	})
}

// TestNestedContainer: a container whose cgroup is below another's outlives it.
func TestNestedContainer(t *testing.T) {
	needRoot(t)
	for name, remove := range map[string]func(c *Container) error{
		"delete":  func(c *Container) error { return c.Delete() },
		"cleanup": func(c *Container) error { return Cleanup(c.id, c.root) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
			outer := mustRun(t, cfg, p)
			cfg, p = newConfigFor(t.TempDir(), guest("sleep")...)
			cfg.Spec.Linux.CgroupsPath = outer.cgroup.Config.Path + "/inner"
			inner := mustRun(t, cfg, p)

			require.NoError(t, outer.Signal(syscall.SIGKILL, false))
			require.Equal(t, 137, mustWait(t, outer))
			err := remove(outer)
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			require.ErrorContains(t, err, strconv.Itoa(inner.Pid()))
			require.False(t, inner.init.dead())

			endCreated(t, inner)
			require.NoError(t, remove(outer))
		})
	}
}
