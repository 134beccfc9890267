// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fakeBus is a system bus with a systemd that knows transient units, and puts no
// process into a cgroup.
type fakeBus struct {
	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; what is written is, too
	units map[string]bool   // guarded by mu
	calls []string          // guarded by mu
}

func newFakeBus(t *testing.T) *fakeBus {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	b := &fakeBus{conns: map[net.Conn]bool{}, units: map[string]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[conn] = true
			b.mu.Unlock()
			go b.serve(conn)
		}
	}()
	return b
}

// open is how many connections there are.
func (b *fakeBus) open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// taken returns the calls since it was last called.
func (b *fakeBus) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *fakeBus) serve(conn net.Conn) {
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, conn)
		conn.Close()
	}()
	r := bufio.NewReader(conn)
	_, _ = r.ReadByte() // the NUL that comes with the credentials
	for line := ""; !strings.HasPrefix(line, "BEGIN"); {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
		answer := "ERROR"
		switch {
		case strings.HasPrefix(line, "AUTH EXTERNAL "), strings.HasPrefix(line, "DATA"):
			answer = "OK 0123456789abcdef0123456789abcdef"
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "DATA"
		case strings.HasPrefix(line, "AUTH"):
			answer = "REJECTED EXTERNAL"
		case strings.HasPrefix(line, "BEGIN"):
			continue
		}
		_, _ = conn.Write([]byte(answer + "\r\n"))
	}
	for {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		b.answer(conn, call)
	}
}

func (b *fakeBus) answer(conn net.Conn, call *dbus.Message) {
	const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/1")
	b.mu.Lock()
	defer b.mu.Unlock()
	reply := func(headers map[dbus.HeaderField]any, typ dbus.Type, body ...any) {
		headers[dbus.FieldReplySerial] = call.Serial()
		b.send(conn, typ, headers, body...)
	}
	headers := map[dbus.HeaderField]any{}
	member, _ := call.Headers[dbus.FieldMember].Value().(string)
	unit := ""
	if len(call.Body) > 0 {
		unit, _ = call.Body[0].(string)
	}
	switch member {
	case "Hello":
		reply(headers, dbus.TypeMethodReply, ":1.1")
		return
	case "AddMatch":
		reply(headers, dbus.TypeMethodReply)
		return
	case "Get":
		reply(headers, dbus.TypeMethodReply, dbus.MakeVariant("255"))
		return
	}
	b.calls = append(b.calls, member+" "+unit)
	switch {
	case member == "StartTransientUnit":
		b.units[unit] = true
	case !b.units[unit]:
		headers[dbus.FieldErrorName] = "org.freedesktop.systemd1.NoSuchUnit"
		reply(headers, dbus.TypeError)
		return
	case member == "StopUnit":
		delete(b.units, unit)
	default:
		reply(headers, dbus.TypeMethodReply)
		return
	}
	reply(headers, dbus.TypeMethodReply, job)
	for other := range b.conns {
		b.send(other, dbus.TypeSignal, map[dbus.HeaderField]any{
			dbus.FieldPath: dbus.ObjectPath("/org/freedesktop/systemd1"), dbus.FieldInterface: "org.freedesktop.systemd1.Manager",
			dbus.FieldMember: "JobRemoved", dbus.FieldSender: "org.freedesktop.systemd1",
		}, uint32(1), job, unit, "done")
	}
}

// send is called with mu held.
func (b *fakeBus) send(conn net.Conn, typ dbus.Type, headers map[dbus.HeaderField]any, body ...any) {
	m := &dbus.Message{Type: typ, Headers: map[dbus.HeaderField]dbus.Variant{}, Body: body}
	for name, value := range headers {
		m.Headers[name] = dbus.MakeVariant(value)
	}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	var text bytes.Buffer
	if err := m.EncodeTo(&text, binary.LittleEndian); err != nil {
		panic(err)
	}
	binary.LittleEndian.PutUint32(text.Bytes()[8:], 1) // the serial, which the package has no name for
	_, _ = conn.Write(text.Bytes())
}

// TestBusIsLetGo: the systemd driver has no connection to the bus while nobody
// uses it, and gets a new one when somebody does.
func TestBusIsLetGo(t *testing.T) {
	b := newFakeBus(t)
	use := func() {
		m, err := systemd.NewLegacyManager(&cgroups.Cgroup{Name: "x", Resources: &cgroups.Resources{}}, map[string]string{"": filepath.Join(t.TempDir(), "gone")})
		require.NoError(t, err)
		require.NoError(t, m.Destroy())
	}
	none := func() bool { return b.open() == 0 }
	for range 2 {
		done, other := useBus(true), useBus(true)
		use()
		require.Positive(t, b.open())
		done()
		use()
		require.Positive(t, b.open(), "closed while it was used")
		other()
		require.Eventually(t, none, 10*time.Second, time.Millisecond, "connections stay open")
		require.Contains(t, b.taken(), "StopUnit -x.scope")
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			defer useBus(true)()
			use()
		})
	}
	wg.Wait()
	require.Eventually(t, none, 10*time.Second, time.Millisecond, "connections stay open")
}

// TestSystemdDriver takes containers through their lives with the systemd driver
// and cgroup names of the driver's choice. systemd is the fake; the cgroups that
// the driver makes itself are real.
func TestSystemdDriver(t *testing.T) {
	needRoot(t)
	if cgroups.IsCgroup2UnifiedMode() {
		t.Skip("on cgroup v2 systemd makes the cgroup, and the fake does not")
	}
	if os.Getenv("WASMSHIM_TEST_SYSTEMD") == "" {
		if systemd.IsRunningSystemd() {
			t.Skip("systemd runs here, and the fake would be in its place")
		}
		// In mounts of its own, /run/systemd/system can say that systemd runs.
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSystemdDriver$", "-test.v")
		cmd.Env = append(os.Environ(), "WASMSHIM_TEST_SYSTEMD=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestSystemdDriver")
		return
	}
	b := newFakeBus(t)
	idle := func() {
		t.Helper()
		require.Eventually(t, func() bool { return b.open() == 0 }, 10*time.Second, time.Millisecond, "an idle daemon is connected to the bus")
	}
	for name, end := range map[string]func(c *Container) error{
		"delete":  func(c *Container) error { return c.Delete() },
		"cleanup": func(c *Container) error { return Cleanup(c.id, c.root) },
		"cleanup without libcontainer's state": func(c *Container) error {
			require.NoError(t, os.Remove(filepath.Join(c.stateDir(), "state.json")))
			return Cleanup(c.id, c.root)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, p := newConfigFor(t.TempDir(), guest("sleep")...)
			cfg.SystemdCgroup, cfg.Spec.Linux.CgroupsPath = true, ""
			c, err := Create(cfg, p)
			require.NoError(t, err)
			t.Cleanup(func() { endCreated(t, c) })
			scope := "runc-" + cfg.ID + ".scope"
			require.Contains(t, b.taken(), "StartTransientUnit "+scope)
			idle()
			require.NoError(t, c.Start())
			require.NoError(t, c.Pause())
			require.NoError(t, c.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}}))
			require.Contains(t, b.taken(), "SetUnitProperties "+scope)
			require.Equal(t, "67108864\n", readCgroup(t, c, "memory", "memory.limit_in_bytes"))
			require.Equal(t, "FROZEN\n", readCgroup(t, c, "freezer", "freezer.state"), "an update ends no pause")
			require.NoError(t, c.Resume())
			idle()
			if name == "delete" {
				require.NoError(t, c.Signal(syscall.SIGKILL, false))
				require.Equal(t, 137, mustWait(t, c))
				idle()
			}
			require.NoError(t, end(c))
			require.Contains(t, b.taken(), "StopUnit "+scope)
			require.Empty(t, b.units)
			require.Equal(t, 137, mustWait(t, c))
			for _, path := range c.cgroup.Paths {
				require.NoDirExists(t, path)
			}
			require.NoError(t, c.Delete())
			idle()
		})
	}
}

// pretendSystemd makes this process, which has mounts of its own, believe that
// systemd runs. What it returns removes the slices that the driver leaves.
func pretendSystemd() func() {
	for _, err := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		os.MkdirAll("/run/systemd/system", 0o755),
	} {
		if err != nil {
			panic(err)
		}
	}
	return func() {
		slices, _ := filepath.Glob("/sys/fs/cgroup/*/system.slice")
		for _, slice := range slices {
			os.Remove(slice)
		}
	}
}
