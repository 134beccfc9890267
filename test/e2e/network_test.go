// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// netGuest is testdata/net.rs as a component.
var netGuest = sync.OnceValues(func() ([]byte, error) { return rustcGuest("net.rs", "wasm32-wasip2") })

// netImage has the guest, and files about names.
func netImage(t *harness.T, more map[string]string) client.Image {
	t.Helper()
	needsFull(t, "has no network for guests")
	canBuild(t, "wasm32-wasip2")
	guest, err := netGuest()
	require.NoError(t, err)
	files := smoke.Files(t)
	files["net.wasm"] = harness.File{Data: guest}
	for name, text := range more {
		files[name] = harness.File{Data: []byte(text)}
	}
	return t.Image("net", files, ocispec.ImageConfig{})
}

// network is a network namespace with a loopback device, whose every address,
// 127.0.0.0/8, is somebody's.
type network struct {
	t    *harness.T
	path string
	do   chan func()
}

func newNetwork(t *harness.T) *network {
	n := &network{t: t, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespace
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = up("lo")
		}
		ready <- err
		for f := range n.do {
			f()
		}
	}()
	require.NoError(t, <-ready)
	t.Cleanup(func() { close(n.do) })
	return n
}

func up(device string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// inside calls a function in the namespace; sockets that it makes stay there.
func (n *network) inside(f func() error) {
	n.t.Helper()
	done := make(chan error)
	n.do <- func() { done <- f() }
	require.NoError(n.t, <-done)
}

func (n *network) opts() oci.SpecOpts {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: n.path})
}

// serve greets whoever connects.
func (n *network) serve(at string) {
	n.inside(func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				line, _ := bufio.NewReader(c).ReadString('\n')
				fmt.Fprintf(c, "%s got %s", at, line)
				c.Close()
			}
		}()
		return nil
	})
}

// answer answers datagrams; a nil answer is none.
func (n *network) answer(at string, answer func([]byte) []byte) {
	n.inside(func() error {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { c.Close() })
		go func() {
			piece := make([]byte, 4096)
			for {
				size, from, err := c.ReadFrom(piece)
				if err != nil {
					return
				}
				if data := answer(piece[:size]); data != nil {
					_, _ = c.WriteTo(data, from)
				}
			}
		}()
		return nil
	})
}

// say connects or sends from an address, says something and returns what is answered.
func (n *network) say(kind, from, to string) string {
	n.t.Helper()
	var c net.Conn
	reset := false
	n.inside(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		if kind == "udp" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		c, err = d.Dial(kind, to)
		if reset = errors.Is(err, unix.ECONNRESET); reset {
			return nil // that quickly is it closed
		}
		return err
	})
	if reset {
		return ""
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "from %s\n", from)
	wait := 10 * time.Second
	if kind == "udp" {
		wait = time.Second // nothing says that a datagram was dropped
	}
	require.NoError(n.t, c.SetDeadline(time.Now().Add(harness.Slow(wait))))
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line
}

// resolver answers questions about the names that it knows, and about no others.
func resolver(names map[string][]string) func([]byte) []byte {
	return func(query []byte) []byte {
		var labels []string
		at := 12
		for at < len(query) && query[at] != 0 {
			labels = append(labels, string(query[at+1:at+1+int(query[at])]))
			at += 1 + int(query[at])
		}
		kind := binary.BigEndian.Uint16(query[at+1:])
		addresses, known := names[strings.ToLower(strings.Join(labels, "."))]
		reply := slices.Concat(query[:2], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:at+5])
		if !known {
			reply[3] |= 3 // there is no such name
			return reply
		}
		for _, a := range addresses {
			ip := netip.MustParseAddr(a)
			if (kind == 1) != ip.Is4() {
				continue
			}
			data := ip.AsSlice()
			reply = slices.Concat(reply, []byte{0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(len(data))}, data)
			reply[7]++
		}
		return reply
	}
}

const resolvConf = "nameserver 127.0.0.53\nsearch pod.test svc.test\noptions timeout:1 attempts:1\n"

// A guest reaches what its container's network has, as far as its options say; each
// denial is the guest's own error.
func TestNetworkOut(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := netImage(tt, map[string]string{
		"etc/resolv.conf": resolvConf,
		"etc/hosts":       "127.0.0.1 localhost\n127.0.0.7 inhosts inhosts.alias # not.me\n",
	})
	n := newNetwork(tt)
	for _, at := range []string{"127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80", "127.0.0.7:80"} {
		n.serve(at)
	}
	n.answer("127.0.0.1:90", func(b []byte) []byte { return slices.Concat([]byte("got "), b) })
	n.answer("127.0.0.2:90", func(b []byte) []byte { return slices.Concat([]byte("got "), b) })
	n.answer("127.0.0.53:53", resolver(map[string][]string{
		"db.svc.test": {"127.0.0.2"}, "two.test": {"127.0.0.1", "127.0.0.2", "::1"}, "other.test": {"127.0.0.2"}, "empty.test": nil, "a.pod.test": {"127.0.0.1"},
	}))
	const (
		denied    = `PermissionDenied: .*\n`
		connected = `127\.0\.0\.\d:\d+ got from the guest\n`
		all       = "network = 'all'\n"
		outbound  = "network = 'outbound'\n"
	)
	for name, test := range map[string]struct {
		engine string
		args   []string
		want   string
	}{
		"nothing is the default": {"", []string{"connect", "127.0.0.1:80", "send", "127.0.0.1:90", "lookup", "inhosts", "listen", "127.0.0.1:8080"}, "connect: " + denied + "send: " + denied + "lookup: Uncategorized: .*\nlisten: " + denied},
		"none":                   {"network = 'none'\nconnect-to = ['127.0.0.0/8']", []string{"connect", "127.0.0.1:80"}, "connect: " + denied},
		"outbound":               {outbound, []string{"connect", "127.0.0.1:80", "send", "127.0.0.1:90"}, "connect: 127.0.0.1:80 got from the guest\nsend: got from the guest\n"},
		"outbound, no server":    {outbound, []string{"listen", "127.0.0.1:8080", "listen", "127.0.0.1:0", "receive", "127.0.0.1:8080"}, "listen: " + denied + "listen: " + denied + "receive: " + denied},
		"refused by the kernel":  {all, []string{"connect", "127.0.0.1:9"}, "connect: ConnectionRefused: .*\n"},

		"an address":          {outbound + "connect-to = ['127.0.0.2', '10.0.0.0/8']", []string{"connect", "127.0.0.2:80", "connect", "127.0.0.1:80"}, "connect: " + connected + "connect: " + denied},
		"an address, by UDP":  {outbound + "connect-to = ['127.0.0.2']", []string{"send", "127.0.0.2:90", "send", "127.0.0.1:90"}, "send: got from the guest\nsend: " + denied},
		"no address":          {all + "connect-to = []", []string{"connect", "127.0.0.2:80"}, "connect: " + denied},
		"a port":              {outbound + "connect-ports = [81, '8000-8100']", []string{"connect", "127.0.0.1:81", "connect", "127.0.0.1:80"}, "connect: " + connected + "connect: " + denied},
		"a port, by UDP":      {outbound + "connect-ports = 91", []string{"send", "127.0.0.1:90"}, "send: " + denied},
		"a name":              {outbound + "connect-names = ['db.svc.test']", []string{"connect", "127.0.0.2:80", "connect", "db.svc.test:80", "connect", "127.0.0.2:80", "connect", "127.0.0.1:80", "lookup", "other.test"}, "connect: " + denied + "connect: 127.0.0.2:80 got .*\nconnect: 127.0.0.2:80 got .*\nconnect: " + denied + "lookup: .*\n"},
		"a name of many":      {outbound + "connect-names = ['*.svc.test']", []string{"connect", "db:80", "lookup", "a.pod.test"}, "connect: 127.0.0.2:80 got .*\nlookup: .*denied.*\n|connect: 127.0.0.2:80 got .*\nlookup: Uncategorized: .*\n"},
		"a name and a port":   {outbound + "connect-names = ['db.svc.test']\nconnect-ports = [81]", []string{"connect", "db.svc.test:80"}, "connect: " + denied},
		"a name and a number": {outbound + "connect-names = ['db.svc.test']\nconnect-to = ['127.0.0.1']", []string{"connect", "127.0.0.1:80", "connect", "127.0.0.2:80"}, "connect: " + connected + "connect: " + denied},

		"names":                     {outbound, []string{"lookup", "two.test", "lookup", "db", "lookup", "a", "lookup", "DB.SVC.test."}, "lookup: 127.0.0.1 127.0.0.2 ::1\nlookup: 127.0.0.2\nlookup: 127.0.0.1\nlookup: 127.0.0.2\n"},
		"names of files":            {outbound, []string{"lookup", "inhosts", "lookup", "INHOSTS.alias", "connect", "inhosts:80", "lookup", "localhost", "lookup", "x.localhost"}, "lookup: 127.0.0.7\nlookup: 127.0.0.7\nconnect: 127.0.0.7:80 got .*\nlookup: 127.0.0.1\nlookup: 127.0.0.1 ::1\n"},
		"names that are numbers":    {outbound, []string{"lookup", "127.0.0.9", "lookup", "::1"}, "lookup: 127.0.0.9\nlookup: ::1\n"},
		"names that nobody has":     {outbound, []string{"lookup", "not.me", "lookup", "empty.test", "lookup", "a..b", "lookup", strings.Repeat("x", 300)}, strings.Repeat("lookup: Uncategorized: .*Name does not resolve\n", 2) + strings.Repeat("lookup: InvalidInput: .*\n", 2)},
		"by a number it is no name": {outbound + "connect-names = []", []string{"connect", "127.0.0.1:80"}, "connect: " + denied},
	} {
		t.Run(name, func(t *testing.T) {
			result := tt.Once(harness.Config{Image: image, Args: append([]string{"/net.wasm"}, test.args...), Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body("[engine]\n" + test.engine)})
			require.Zero(t, result.Code, "%+v", result)
			require.Regexp(t, regexp.MustCompile("^(?:"+test.want+")$"), result.Stdout)
		})
	}
	// From the pod, where the operator lets it.
	set := harness.Config{Runtime: smoke.Ours, Image: image, Args: []string{"/net.wasm", "connect", "127.0.0.1:80"}, Opts: []oci.SpecOpts{n.opts(), annotation("network", "all")}, RuntimeOptions: body("allow_annotations = ['network']\n[engine]\nconnect-ports = [81]")}
	require.Regexp(t, denied, tt.Once(set).Stdout, "the operator's lists hold")
	set.RuntimeOptions = body("allow_annotations = ['network']")
	require.Regexp(t, connected, tt.Once(set).Stdout)
	set.RuntimeOptions = body("")
	_, err := tt.Daemon.Create(tt.Ctx, set)
	require.ErrorContains(t, err, "network")
}

// A name has an end where no server answers.
func TestNetworkSilentResolver(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := netImage(tt, map[string]string{"etc/resolv.conf": resolvConf})
	n := newNetwork(tt)
	n.answer("127.0.0.53:53", func([]byte) []byte { return nil })
	result := tt.Once(harness.Config{Image: image, Args: []string{"/net.wasm", "lookup", "db.svc.test"}, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body("[engine]\nnetwork = 'outbound'")})
	require.Zero(t, result.Code, "%+v", result)
	require.Regexp(t, "lookup: Uncategorized: .*ry again", result.Stdout)
}

// Others reach a guest where it may listen, from where they may.
func TestNetworkIn(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := netImage(tt, nil)
	n := newNetwork(tt)
	const all = "network = 'all'\n"
	for name, test := range map[string]struct {
		engine string
		op, at string
		from   map[string]bool // from where it hears
		denied bool
	}{
		"all":                        {engine: all, op: "listen", at: "127.0.0.1:8080", from: map[string]bool{"127.0.0.9": true}},
		"all, a port that is free":   {engine: all, op: "listen", at: "127.0.0.1:0", from: map[string]bool{"127.0.0.9": true}},
		"all, by UDP":                {engine: all, op: "receive", at: "127.0.0.1:8080", from: map[string]bool{"127.0.0.9": true}},
		"a port":                     {engine: all + "listen-ports = [8080]", op: "listen", at: "127.0.0.1:8080", from: map[string]bool{"127.0.0.9": true}},
		"another port":               {engine: all + "listen-ports = [8081]", op: "listen", at: "127.0.0.1:8080", denied: true},
		"another port, that is free": {engine: all + "listen-ports = [8081]", op: "listen", at: "127.0.0.1:0", denied: true},
		"another port, by UDP":       {engine: all + "listen-ports = [8081]", op: "receive", at: "127.0.0.1:8080", denied: true},
		"outbound":                   {engine: "network = 'outbound'", op: "listen", at: "127.0.0.1:8080", denied: true},
		"an address":                 {engine: all + "accept-from = ['127.0.0.9']", op: "listen", at: "127.0.0.1:8080", from: map[string]bool{"127.0.0.8": false, "127.0.0.9": true}},
		"an address, by UDP":         {engine: all + "accept-from = ['127.0.0.9']\nconnect-to = []", op: "receive", at: "127.0.0.1:8080", from: map[string]bool{"127.0.0.8": false, "127.0.0.9": true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := tt.Run(harness.Config{Image: image, Args: []string{"/net.wasm", test.op, test.at}, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body("[engine]\n" + test.engine)})
			if !test.denied {
				require.NoError(t, c.Stdout.WaitFor("listening at ", 10*time.Second))
				_, port, _ := strings.Cut(c.Stdout.String(), "listening at ")
				to := "127.0.0.1:" + strings.TrimSpace(port)
				for _, from := range slices.Sorted(maps.Keys(test.from)) {
					want := ""
					if test.from[from] {
						want = "from " + from + "\n"
					}
					require.Equal(t, want, n.say(map[string]string{"listen": "tcp", "receive": "udp"}[test.op], from, to), from)
				}
			}
			result, err := tt.Finish(c)
			require.NoError(t, err)
			require.Zero(t, result.Code, "%+v", result)
			if test.denied {
				require.Regexp(t, "^"+test.op+": PermissionDenied: .*\n$", result.Stdout)
			}
		})
	}
}

// What is no address, port or name is refused before the guest runs, whatever kind of
// guest it is.
func TestNetworkBadOptions(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := netImage(tt, nil)
	for engine, want := range map[string]string{
		"connect-to = ['10.0.0.0/8', 'db.example.com']":    `engine option connect-to: found "db.example.com", accepted: addresses, as in 10.0.0.0/8, 192.0.2.1 or fd00::/8`,
		"accept-from = '10.0.0.0/99'":                      `engine option accept-from: found "10.0.0.0/99", accepted: addresses`,
		"connect-ports = ['http']":                         `engine option connect-ports: found "http", accepted: ports from 1 to 65535, as in 443 or 8000-8080`,
		"listen-ports = [70000]":                           `engine option listen-ports: found "70000", accepted: ports`,
		"connect-names = ['https://db']":                   `engine option connect-names: found "https://db", accepted: names, as in db.example.com`,
		"network = 'all'\ntcplisten = '8080'":              `engine option tcplisten: found "8080", accepted: `,
		"network = 'outbound'\ntcplisten = '0.0.0.0:8080'": `engine option tcplisten: found "0.0.0.0:8080", accepted: `,
	} {
		t.Run(engine, func(t *testing.T) {
			for _, guest := range []string{"/hello.wasm", "/component-hello.wasm"} {
				result := tt.Once(harness.Config{Image: image, Args: []string{guest}, RuntimeOptions: body("[engine]\n" + engine)})
				require.EqualValues(t, 126, result.Code, "%+v", result)
				require.Contains(t, result.Stderr, want)
				require.NotContains(t, result.Stdout, "hello")
			}
		})
	}
	_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image, Args: []string{"/hello.wasm"}, RuntimeOptions: body("[engine]\nnetwork = 'host'")})
	require.ErrorContains(t, err, `engine option network: found "host", accepted: all, outbound, none`)
}

// The prebuilt library has no network for guests, and says so.
func TestNetworkPrebuilt(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	if isFull(t) {
		t.Skip("wasmtime's full library has a network for guests")
	}
	for engine, want := range map[string]string{
		"network = 'all'":             `engine option network: found "all", accepted: none`,
		"connect-to = ['10.0.0.0/8']": `unknown engine option "connect-to"`,
	} {
		_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: body("[engine]\n" + engine)})
		require.ErrorContains(t, err, want)
	}
	require.Zero(t, tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: body("[engine]\nnetwork = 'none'")}).Code)
}

// A module of preview 1, which cannot make sockets, is started with some.
func TestNetworkListener(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "has no network for guests")
	files := smoke.Files(t)
	files["listener.wasm"] = harness.File{Data: goGuest(t, "listener", "-ldflags=-s -w")}
	image := tt.Image("listener", files, ocispec.ImageConfig{})
	n := newNetwork(tt)
	const socket = "network = 'all'\ntcplisten = '127.0.0.1:8080'\n"
	for name, test := range map[string]struct {
		engine string
		from   []string // who connects, until somebody is heard
		code   uint32
		want   string // on its streams
	}{
		"one socket":             {socket, []string{"127.0.0.9"}, 0, "listening\n"},
		"from an address":        {socket + "accept-from = ['127.0.0.9']", []string{"127.0.0.8", "127.0.0.9"}, 0, "listening\n"},
		"at another port":        {socket + "listen-ports = [80]", nil, 126, "accepted: the ports that the engine option listen-ports has"},
		"none":                   {"", nil, 1, "listen: "},
		"without a network":      {"tcplisten = '127.0.0.1:8080'", nil, 126, "accepted: one only where the engine option network is all"},
		"where somebody listens": {"network = 'all'\ntcplisten = ['127.0.0.1:8080', '127.0.0.1:8080']", nil, 126, "cannot listen at 127.0.0.1:8080: Address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			c := tt.Run(harness.Config{Image: image, Args: []string{"/listener.wasm"}, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body("[engine]\n" + test.engine)})
			for i, from := range test.from {
				require.NoError(t, c.Stdout.WaitFor("listening", 10*time.Second))
				want := ""
				if i == len(test.from)-1 {
					want = "from " + from + "\n"
				}
				require.Equal(t, want, n.say("tcp", from, "127.0.0.1:8080"))
			}
			result, err := tt.Finish(c)
			require.NoError(t, err)
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Contains(t, result.Stdout+result.Stderr, test.want)
		})
	}
}
