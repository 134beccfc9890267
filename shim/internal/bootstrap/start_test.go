// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// starter is the part in C, which answers a start before there is Go.
type starter struct {
	program string
	dir     string // that it takes for the default one of sockets
}

func buildStarter(t *testing.T) starter {
	s := starter{filepath.Join(t.TempDir(), "start"), shortDir(t)}
	args := []string{
		"-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I../../../include", "-DDEFAULT_SOCKET_DIR=" + strconv.Quote(s.dir),
		"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", s.program, "../../../cabi/testdata/start.c",
	}
	for _, name := range []string{"start.c", "call.c", "sha256.c", "io.c"} {
		args = append(args, "../../../cabi/"+name)
	}
	out, err := exec.Command("gcc", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return s
}

// shortDir is a directory whose path has room for a socket's name behind it.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "s")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

const leftToGo = "left to Go\n"

// answer runs it in a bundle. While check runs, the socket listens.
func (s starter) answer(t *testing.T, bundle, line string, env []string, input []byte, check func(answer []byte)) {
	r, w, err := os.Pipe() // closed, it ends
	require.NoError(t, err)
	defer r.Close()
	cmd := exec.Command(s.program, strings.Fields(line)...)
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr, cmd.Stdin = bundle, []*os.File{r}, os.Stderr, bytes.NewReader(input)
	cmd.Env = append(env, "ASAN_OPTIONS=detect_leaks=0")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 64<<10)
	n, err := out.Read(buf)
	require.NoError(t, err)
	check(buf[:n])
	w.Close()
	require.NoError(t, cmd.Wait())
}

// usual is a start as containerd 2.4 asks for it.
func usual(dir string, o proto.Message) *bootapi.BootstrapParams {
	p := &bootapi.BootstrapParams{
		InstanceID: "one", Namespace: "ns", LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG, ContainerdVersion: "2.4.2",
		ContainerdGrpcAddress: "/c.sock", ContainerdTtrpcAddress: "/c.sock.ttrpc", ContainerdBinary: "/bin/containerd", SocketDir: &dir,
	}
	if o != nil {
		a, err := anypb.New(o)
		if err != nil {
			panic(err)
		}
		a.TypeUrl = string(o.ProtoReflect().Descriptor().FullName()) // as containerd writes it
		p.Extensions = []*bootapi.Extension{{Value: a}}
	}
	return p
}

// What C answers is what Go would, and what it does is what Go does. All else it leaves to Go.
func TestStartInGoAndC(t *testing.T) {
	s := buildStarter(t)
	other := shortDir(t)
	const line = "-namespace ns -address /c.sock -publish-binary /bin/c -id one start"
	const config = `{"process":{"env":["A=\u003cb\u003e \u0026\n"]},"annotations":{"io.kubernetes.cri.sandbox-id":"one"}}`
	body := func(text string) proto.Message {
		return &runtimeoptions.Options{TypeUrl: "x", ConfigBody: []byte(text)}
	}
	type start struct {
		line, config string
		env          []string
		input        proto.Message
		prepare      func(t *testing.T, bundle string)
	}
	for name, c := range map[string]struct {
		change func(*start)
		left   bool
	}{
		"2.4":                         {change: func(*start) {}},
		"2.4, default directory":      {change: func(s *start) { s.input.(*bootapi.BootstrapParams).SocketDir = nil }},
		"2.4, options":                {change: func(s *start) { s.input = usual(other, body("SystemdCgroup = true")) }},
		"1.7":                         {change: func(s *start) { s.input = nil; s.env = []string{"MAX_SHIM_VERSION=2"} }},
		"1.6":                         {change: func(s *start) { s.input = nil }},
		"debug":                       {change: func(s *start) { s.line = "-debug " + s.line }},
		"flags with equals":           {change: func(s *start) { s.line = "--namespace=ns -address=/c.sock -id=one start" }},
		"no annotations":              {change: func(s *start) { s.config = `{}` }},
		"the last flag":               {change: func(s *start) { s.line = "-id two " + s.line }},
		"a long address":              {change: func(s *start) { s.line = strings.Replace(s.line, "/c.sock", "/"+strings.Repeat("long/", 100), 1) }},
		"1.7 with options":            {left: true, change: func(s *start) { s.input = body("x = 1") }},
		"params of another container": {left: true, change: func(s *start) { s.input.(*bootapi.BootstrapParams).InstanceID = "two" }},
		"params of another namespace": {left: true, change: func(s *start) { s.input.(*bootapi.BootstrapParams).Namespace = "n" }},
		"ShimCgroup":                  {left: true, change: func(s *start) { s.input = usual(other, body("shimCgroup = '/x'")) }},
		"escapes in options":          {left: true, change: func(s *start) { s.input = usual(other, body(`"Shim\u0043group" = '/x'`)) }},
		"options in a file":           {left: true, change: func(s *start) { s.input = usual(other, &runtimeoptions.Options{ConfigPath: "/x"}) }},
		"runc's options":              {left: true, change: func(s *start) { s.input = usual(other, &options.Options{}) }},
		"odd directory":               {left: true, change: func(s *start) { s.input = usual(other+"/.", nil) }},
		"no directory":                {left: true, change: func(s *start) { s.input = usual(other+"/d", nil) }},
		"long directory":              {left: true, change: func(s *start) { s.input = usual("/"+strings.Repeat("d", 80), nil) }},
		"core scheduling":             {left: true, change: func(s *start) { s.env = []string{"SCHED_CORE=1"} }},
		"unknown flag":                {left: true, change: func(s *start) { s.line = "-nonsense x " + s.line }},
		"info":                        {left: true, change: func(s *start) { s.line = "-info " + s.line }},
		"no id":                       {left: true, change: func(s *start) { s.line = "-namespace ns -address /c.sock start" }},
		"no namespace":                {left: true, change: func(s *start) { s.line = "-address /c.sock -id one start" }},
		"a bundle":                    {left: true, change: func(s *start) { s.line = "-bundle /b " + s.line }},
		"wrong id":                    {left: true, change: func(s *start) { s.line = strings.Replace(s.line, "-id one", "-id ..", 1) }},
		"a pod's":                     {left: true, change: func(s *start) { s.config = strings.Replace(s.config, `"one"`, `"pod"`, 1) }},
		"a longer pod's":              {left: true, change: func(s *start) { s.config = strings.Replace(s.config, `"one"`, `"one2"`, 1) }},
		"a group's":                   {left: true, change: func(s *start) { s.config = `{"annotations":{"io.containerd.runc.v2.group":"g"}}` }},
		"a pod's, in escapes":         {left: true, change: func(s *start) { s.config = `{"annotations":{"io.kubernetes.cri.sandbox-i\u0064":"pod"}}` }},
		"a pod's, with spaces":        {left: true, change: func(s *start) { s.config = `{"annotations":{"io.kubernetes.cri.sandbox-id" : "pod"}}` }},
		"no config":                   {left: true, change: func(s *start) { s.config = "" }},
		"socket of a dead daemon": {left: true, change: func(s *start) {
			s.prepare = func(t *testing.T, _ string) { require.NoError(t, os.WriteFile(socketOf(t, other), nil, 0o600)) }
		}},
		"an address that cannot be written": {left: true, change: func(s *start) {
			s.prepare = func(t *testing.T, bundle string) {
				require.NoError(t, os.Mkdir(filepath.Join(bundle, addressFile), 0o700))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			st := start{line: line, config: config, input: usual(other, nil)}
			c.change(&st)
			if st.config != "" {
				require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(st.config), 0o600))
			}
			if st.prepare != nil {
				st.prepare(t, bundle)
			}
			var input []byte
			if st.input != nil {
				input = marshal(t, st.input)
			}
			s.answer(t, bundle, st.line, st.env, input, func(answer []byte) {
				if c.left {
					require.Equal(t, leftToGo, string(answer))
					for _, name := range []string{s.dir, other} {
						sockets, err := filepath.Glob(name + "/*")
						require.NoError(t, err)
						require.Len(t, sockets, map[bool]int{true: 1}[st.prepare != nil && name == other && strings.HasPrefix(t.Name(), "TestStartInGoAndC/socket")])
					}
					return
				}
				s.compare(t, bundle, st.line, st.env, input, answer)
			})
			os.Remove(socketOf(t, other))
		})
	}
}

// socketOf is the socket of the usual start's.
func socketOf(t *testing.T, dir string) string {
	path, err := socketPath(dir, Engine{ShimName: "test"}.Runtime(), "/c.sock", "ns", "one")
	require.NoError(t, err)
	return path
}

// compare finds out what Go does, once what C has done is gone.
func (s starter) compare(t *testing.T, bundle, line string, env []string, input, answer []byte) {
	e := Engine{ShimName: "test"}
	c, err := parseInvocation(strings.Fields(line), true)
	require.NoError(t, err)
	c.bundle = bundle
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	written, err := os.ReadFile(filepath.Join(bundle, addressFile))
	require.NoError(t, err)
	path := namedSocket(bundle)
	require.Equal(t, served, useOf(path))
	info, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()

	require.NoError(t, os.Remove(path))
	req := parseRequest(input, e, c)
	if req.socketDir == "" {
		req.socketDir = s.dir
	}
	config, err := readConfig(bundle)
	require.NoError(t, err)
	group, err := groupOf(c, config)
	require.NoError(t, err)
	mine, err := socketPath(req.socketDir, e.Runtime(), c.address, c.namespace, group)
	require.NoError(t, err)
	require.Equal(t, mine, path)
	require.Equal(t, scheme+mine, string(written))
	out, err := req.dialect.answer(scheme + mine)
	require.NoError(t, err)
	require.Equal(t, "\x00"+string(out), string(answer))
	require.Empty(t, req.options.ShimCgroup)
}

// Bytes of containerd's that are not as they should be are never taken for others.
func TestStartInCHostile(t *testing.T) {
	s := buildStarter(t)
	bundle := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600))
	const line = "-namespace ns -address /c.sock -id one start"
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	good := marshal(t, usual(s.dir, &runtimeoptions.Options{ConfigBody: []byte("log_level = 'debug'")}))
	for range 100 {
		input := bytes.Clone(good)
		for range 1 + random.IntN(3) {
			input[random.IntN(len(input))] = byte(random.Uint32())
		}
		input = input[:len(input)-random.IntN(2)*random.IntN(len(input))]
		s.answer(t, bundle, line, nil, input, func(answer []byte) {
			if string(answer) != leftToGo {
				s.compare(t, bundle, line, nil, input, answer)
			}
		})
		if path := namedSocket(bundle); path != "" {
			os.Remove(path)
		}
	}
}

// A bundle of a sandbox has no config.json that says anything.
func TestStartOfSandboxInC(t *testing.T) {
	s := buildStarter(t)
	bundle := filepath.Join(t.TempDir(), "io.containerd.sandbox.controller.v1.shim/ns/one")
	require.NoError(t, os.MkdirAll(bundle, 0o700))
	const line = "-namespace ns -address /c.sock -id one start"
	s.answer(t, bundle, line, nil, nil, func(answer []byte) { s.compare(t, bundle, line, nil, nil, answer) })
}

// The daemon serves the socket that it finds bound, and removes it.
func TestAdopt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	first, err := listen(path)
	require.NoError(t, err)
	f, err := first.File()
	require.NoError(t, err)
	fd, err := unix.Dup(int(f.Fd()))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	l, err := adopt(fd)
	require.NoError(t, err)
	require.Equal(t, path, l.path)
	require.NoError(t, first.UnixListener.Close())
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)
}
