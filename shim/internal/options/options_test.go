// SPDX-License-Identifier: Apache-2.0

package options

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

const binary = "containerd-shim-probe-v1"

// declared has one option of each type.
var declared = []Declaration{
	{Key: "text", Type: String},
	{Key: "flag", Type: Boolean},
	{Key: "fuel", Type: Integer},
	{Key: "memory", Type: Size},
	{Key: "timeout", Type: Duration},
	{Key: "level", Type: Choice, Choices: []string{"none", "speed"}},
}

// pack is what containerd sends: the type's bare name, without a host.
func pack(t testing.TB, m proto.Message) *anypb.Any {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}

func body(t testing.TB, text string) *anypb.Any {
	return pack(t, &runtimeoptions.Options{ConfigBody: []byte(text)})
}

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shim.toml")
	require.NoError(t, os.WriteFile(file, []byte("NoPivotRoot = true"), 0o600))
	long, err := anypb.New(&runtimeoptions.Options{ConfigBody: []byte("NoNewKeyring = true")})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		any  *anypb.Any
		want Options
	}{
		"none":    {nil, Options{}},
		"no type": {&anypb.Any{}, Options{}},
		// Debian's containerd 1.6 sends a type of its own, empty.
		"empty, of any type": {&anypb.Any{TypeUrl: "some.Options"}, Options{}},
		"runc's": {
			pack(t, &options.Options{SystemdCgroup: true, NoPivotRoot: true, NoNewKeyring: true, Root: "/r", ShimCgroup: "/s", IoUid: 1, IoGid: 2}),
			Options{SystemdCgroup: true, NoPivotRoot: true, NoNewKeyring: true, Root: "/r", ShimCgroup: "/s", IoUID: 1, IoGID: 2},
		},
		"slice":              {body(t, "compile_cgroup = 'kube-compilers.slice'"), Options{CompileCgroup: "kube-compilers.slice"}},
		"empty body":         {body(t, ""), Options{}},
		"URL with a host":    {long, Options{NoNewKeyring: true}},
		"path":               {pack(t, &runtimeoptions.Options{ConfigPath: file}), Options{NoPivotRoot: true}},
		"path before a body": {pack(t, &runtimeoptions.Options{ConfigPath: file, ConfigBody: []byte("x = 1")}), Options{NoPivotRoot: true}},
		"table that says its type": {
			body(t, "TypeUrl = 'runtimeoptions.v1.Options'\nBinaryName = ''\nSystemdCgroup = false"), Options{},
		},
		"switches as texts": {
			body(t, "SystemdCgroup = 'true'\nNoPivotRoot = 'false'\nNoNewKeyring = 'true'"), Options{SystemdCgroup: true, NoNewKeyring: true},
		},
		"all of it": {
			body(t, `
				SystemdCgroup = true
				NoPivotRoot = true
				NoNewKeyring = true
				Root = "/r"
				ShimCgroup = "/s"
				IoUid = 1
				IoGid = 4294967295
				log_level = "debug"
				guest_proc = "hidden"
				compilers = 3
				compile_cgroup = "/compilers"
				allow_annotations = ["fuel", "preopens"]
				[engine]
				text = "a=b"
				flag = true
				fuel = 18446744
				memory = "64MiB"
				timeout = "1m30s"
				level = "speed"
				preopens = ["/data", "/in:/out"]
			`),
			Options{
				SystemdCgroup: true, NoPivotRoot: true, NoNewKeyring: true, Root: "/r", ShimCgroup: "/s", IoUID: 1, IoGID: 4294967295,
				LogLevel: "debug", GuestProc: "hidden", Compilers: 3, CompileCgroup: "/compilers", AllowAnnotations: []string{"fuel", "preopens"},
				Engine: map[string]string{
					"text": "a=b", "flag": "true", "fuel": "18446744", "memory": "67108864", "timeout": "90000", "level": "speed", "preopens": "/data,/in:/out",
				},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.any, declared, binary)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestParseErrors(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxConfig+1), 0o600))
	at := func(name string) *anypb.Any { return pack(t, &runtimeoptions.Options{ConfigPath: name}) }
	const keys = "accepted: IoGid, IoUid, NoNewKeyring, NoPivotRoot, Root, ShimCgroup, SystemdCgroup, allow_annotations, compile_cgroup, compile_memory, compile_timeout, compilers, daemon, daemon_pods, engine, guest_proc, log_level"
	const known = "the engine knows: flag, fuel, level, memory, preopens, text, timeout"
	for _, tc := range []struct {
		any  *anypb.Any
		is   func(error) bool
		want string
	}{
		{
			&anypb.Any{TypeUrl: "no.such", Value: []byte("x")}, errdefs.IsInvalidArgument,
			"runtime options of type no.such are not supported; accepted: runtimeoptions.v1.Options, containerd.runc.v1.Options: invalid argument",
		},
		{&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, errdefs.IsInvalidArgument, "parse runtime options of type containerd.runc.v1.Options: "},
		{&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}}, errdefs.IsInvalidArgument, "parse runtime options of type runtimeoptions.v1.Options: "},
		{
			pack(t, &options.Options{BinaryName: "crun"}), errdefs.IsInvalidArgument,
			`runtime option BinaryName is not supported: found "crun", accepted: this shim's own file, containerd-shim-probe-v1: it runs containers itself, without another program; remove the option: invalid argument`,
		},
		{
			pack(t, &options.Options{Root: "r"}), errdefs.IsInvalidArgument,
			`runtime option Root: found "r", accepted: an absolute path: invalid argument`,
		},
		{
			pack(t, &options.Options{CriuImagePath: "/r"}), errdefs.IsInvalidArgument,
			"runtime option CriuImagePath is not supported: checkpoints are not supported; remove it from the runtime's options: invalid argument",
		},
		{
			pack(t, &options.Options{CriuWorkPath: "/r"}), errdefs.IsInvalidArgument,
			"runtime option CriuWorkPath is not supported: checkpoints are not supported; remove it from the runtime's options: invalid argument",
		},
		{at("etc/x"), errdefs.IsInvalidArgument, `runtime option ConfigPath: "etc/x" is not an absolute path: invalid argument`},
		{at(dir + "/none"), errdefs.IsNotFound, `runtime option ConfigPath: open ` + dir + `/none: no such file or directory: not found`},
		{at(dir), errdefs.IsInvalidArgument, `runtime option ConfigPath: ` + dir + ` is not a regular file: invalid argument`},
		{at(dir + "/fifo"), errdefs.IsInvalidArgument, `runtime option ConfigPath: ` + dir + `/fifo is not a regular file: invalid argument`},
		{at(dir + "/large"), errdefs.IsInvalidArgument, `runtime option ConfigPath: ` + dir + `/large has more than 1048576 bytes: invalid argument`},
		{body(t, "a = [\n\n}"), errdefs.IsInvalidArgument, `runtime options: line 3, column 1: `},
		{body(t, "a = 1\na = 2"), errdefs.IsInvalidArgument, `runtime options: line 2`},
		{body(t, "\xff = 1"), errdefs.IsInvalidArgument, `runtime options: line 1`},
		{body(t, "fuel = 1"), errdefs.IsInvalidArgument, `runtime options: unknown key "fuel"; ` + keys + `: invalid argument`},
		{
			body(t, "BinaryName = 'crun'"), errdefs.IsInvalidArgument,
			`runtime options: runtime option BinaryName is not supported: found "crun", accepted: this shim's own file, containerd-shim-probe-v1: it runs`,
		},
		{body(t, "BinaryName = 1"), errdefs.IsInvalidArgument, `runtime options: BinaryName: found 1, accepted: a string: invalid argument`},
		{
			body(t, "CriuPath = 'criu'"), errdefs.IsInvalidArgument,
			"runtime options: runtime option CriuPath is not supported: checkpoints are not supported; remove it from the runtime's options: invalid argument",
		},
		{body(t, "SystemdCgroup = 'yes'"), errdefs.IsInvalidArgument, `runtime options: SystemdCgroup: found "yes", accepted: a bool: invalid argument`},
		{body(t, "Root = 'r'"), errdefs.IsInvalidArgument, `runtime options: Root: found "r", accepted: an absolute path: invalid argument`},
		{body(t, "ShimCgroup = 1"), errdefs.IsInvalidArgument, `runtime options: ShimCgroup: found 1, accepted: a string: invalid argument`},
		{body(t, "IoUid = -1"), errdefs.IsInvalidArgument, `runtime options: IoUid: found -1, accepted: a number from 0 to 4294967295: invalid argument`},
		{body(t, "IoGid = 4294967296"), errdefs.IsInvalidArgument, `runtime options: IoGid: found 4294967296, accepted: a number from 0 to 4294967295: invalid argument`},
		{body(t, "log_level = 'loud'"), errdefs.IsInvalidArgument, `runtime options: log_level: found "loud", accepted: error, warn, info, debug, trace: invalid argument`},
		{body(t, "guest_proc = true"), errdefs.IsInvalidArgument, `runtime options: guest_proc: found true, accepted: auto, hidden, readonly, full: invalid argument`},
		{body(t, "compile_timeout = 5"), errdefs.IsInvalidArgument, `runtime options: compile_timeout: found 5, accepted: a duration like "60s", or "0s" to compile nothing ahead: invalid argument`},
		{body(t, "compilers = 0"), errdefs.IsInvalidArgument, `runtime options: compilers: found 0, accepted: a whole number from 1 to 2147483647: invalid argument`},
		{body(t, "compilers = '2'"), errdefs.IsInvalidArgument, `runtime options: compilers: found "2", accepted: `},
		{body(t, "compile_cgroup = 'a/b'"), errdefs.IsInvalidArgument, `runtime options: compile_cgroup: found "a/b", accepted: a cgroup's absolute path like "/compilers", or a systemd slice like "compilers.slice": invalid argument`},
		{body(t, "compile_cgroup = '/'"), errdefs.IsInvalidArgument, `runtime options: compile_cgroup: found "/", accepted: `},
		{body(t, "compile_cgroup = '/a/../b'"), errdefs.IsInvalidArgument, `runtime options: compile_cgroup: found "/a/../b", accepted: `},
		{body(t, "compile_cgroup = '.slice'"), errdefs.IsInvalidArgument, `runtime options: compile_cgroup: found ".slice", accepted: `},
		{body(t, "compile_cgroup = 'a-.slice'"), errdefs.IsInvalidArgument, `runtime options: compile_cgroup: found "a-.slice", accepted: `},
		{body(t, "allow_annotations = 'fuel'"), errdefs.IsInvalidArgument, `runtime options: allow_annotations: found "fuel", accepted: a list of engine options' keys: invalid argument`},
		{body(t, "allow_annotations = [1]"), errdefs.IsInvalidArgument, `runtime options: allow_annotations: found 1 in the list, accepted: engine options' keys: invalid argument`},
		{body(t, "allow_annotations = ['fule']"), errdefs.IsInvalidArgument, `runtime options: allow_annotations: unknown engine option "fule"; ` + known + `: invalid argument`},
		{body(t, "engine = 'fuel=1'"), errdefs.IsInvalidArgument, `runtime options: engine: found "fuel=1", accepted: a table, [engine]: invalid argument`},
		{body(t, "[engine]\nfule = 1"), errdefs.IsInvalidArgument, `runtime options: engine: unknown engine option "fule"; ` + known + `: invalid argument`},
		{body(t, "[engine.fuel]\nx = 1"), errdefs.IsInvalidArgument, `runtime options: engine: fuel: found a table, accepted: text, a number, true, false, or a list of these: invalid argument`},
		{body(t, "[engine]\nfuel = [[1]]"), errdefs.IsInvalidArgument, `runtime options: engine: fuel: found a list in a list, accepted: text, a number, true, false, or a list of these: invalid argument`},
		{body(t, "[engine]\nfuel = 2024-01-01"), errdefs.IsInvalidArgument, `runtime options: engine: fuel: found 2024-01-01, accepted: text, a number, true, false, or a list of these: invalid argument`},
		{body(t, "[engine]\nflag = 1"), errdefs.IsInvalidArgument, `runtime options: engine: engine option flag: found "1", accepted: true, false: invalid argument`},
		{body(t, "[engine]\nfuel = -1"), errdefs.IsInvalidArgument, `engine option fuel: found "-1", accepted: a whole number from 0 to 18446744073709551615: invalid argument`},
		{body(t, "[engine]\nfuel = 1.5"), errdefs.IsInvalidArgument, `engine option fuel: found "1.5", accepted: a whole number`},
		{body(t, "[engine]\nfuel = '18446744073709551616'"), errdefs.IsInvalidArgument, `engine option fuel: found "18446744073709551616", accepted: a whole number`},
		{body(t, "[engine]\nmemory = '1G'"), errdefs.IsInvalidArgument, `engine option memory: found "1G", accepted: a number of bytes, or of KiB, MiB, GiB, as in 64MiB: invalid argument`},
		{body(t, "[engine]\nmemory = '18446744073709551615Ki'"), errdefs.IsInvalidArgument, `engine option memory: found "18446744073709551615Ki", accepted: `},
		{body(t, "[engine]\nmemory = 'MiB'"), errdefs.IsInvalidArgument, `engine option memory: found "MiB", accepted: `},
		{body(t, "[engine]\ntimeout = 5"), errdefs.IsInvalidArgument, `engine option timeout: found "5", accepted: a duration in whole milliseconds, as in 1m30s, 5s, 250ms: invalid argument`},
		{body(t, "[engine]\ntimeout = '-5s'"), errdefs.IsInvalidArgument, `engine option timeout: found "-5s", accepted: `},
		{body(t, "[engine]\ntimeout = '5us'"), errdefs.IsInvalidArgument, `engine option timeout: found "5us", accepted: `},
		{body(t, "[engine]\nlevel = 'fast'"), errdefs.IsInvalidArgument, `engine option level: found "fast", accepted: none, speed: invalid argument`},
		{body(t, "[engine]\ntext = \"a\\u0000\""), errdefs.IsInvalidArgument, `engine option text: found "a\x00", accepted: text without a NUL byte: invalid argument`},
		{body(t, "[engine]\npreopens = 'data'"), errdefs.IsInvalidArgument, `engine option preopens: found "data", accepted: an absolute path of the container, or two as in /data:/d: invalid argument`},
		{body(t, "[engine]\npreopens = ['', '/a']"), errdefs.IsInvalidArgument, `engine option preopens: found "", accepted: `},
		{body(t, "[engine]\npreopens = ['/a:']"), errdefs.IsInvalidArgument, `engine option preopens: found "/a:", accepted: `},
		{body(t, "[engine]\npreopens = ['/a:/x', '/b:/x']"), errdefs.IsInvalidArgument, `engine option preopens: "/x" is given twice: invalid argument`},
	} {
		_, err := Parse(tc.any, declared, binary)
		require.ErrorContains(t, err, tc.want)
		require.True(t, tc.is(err), "%v", err)
	}
}

func TestForContainer(t *testing.T) {
	o := Options{AllowAnnotations: []string{"fuel", "memory"}, Engine: map[string]string{"fuel": "1", "level": "none"}}
	got, err := o.ForContainer(map[string]string{
		AnnotationPrefix + "fuel": "7", AnnotationPrefix + "memory": "1KiB", "else": "x",
	}, declared)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"fuel": "7", "level": "none", "memory": "1024"}, got)
	require.Equal(t, "1", o.Engine["fuel"], "the runtime's own value changed")
	require.Equal(t, []string{"fuel=7", "level=none", "memory=1024"}, List(got))

	got, err = Options{}.ForContainer(nil, declared)
	require.NoError(t, err)
	require.Empty(t, got)

	_, err = o.ForContainer(map[string]string{AnnotationPrefix + "level": "speed"}, declared)
	require.EqualError(t, err, "annotation engine.libwasmshim.io/level is not allowed here; the runtime's option allow_annotations allows: fuel, memory: permission denied")
	_, err = Options{}.ForContainer(map[string]string{AnnotationPrefix + "level": "speed"}, declared)
	require.EqualError(t, err, "annotation engine.libwasmshim.io/level is not allowed here; the runtime's option allow_annotations allows: none: permission denied")
	_, err = o.ForContainer(map[string]string{AnnotationPrefix + "fuel": "much"}, declared)
	require.EqualError(t, err, `annotation engine.libwasmshim.io/fuel: engine option fuel: found "much", accepted: a whole number from 0 to 18446744073709551615: invalid argument`)
}

// k3s and others name the shim itself.
func TestBinaryName(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	link := filepath.Join(dir, "my-wasm")
	require.NoError(t, os.Symlink(exe, link))
	other := filepath.Join(dir, "runc")
	require.NoError(t, os.WriteFile(other, nil, 0o755))
	t.Setenv("PATH", dir)
	for name, accepted := range map[string]bool{
		"":                                  true,
		exe:                                 true,
		link:                                true,
		"my-wasm":                           true,
		"containerd-shim-probe-v1":          true,
		"/no/such/containerd-shim-probe-v1": true, // after an upgrade by another path
		"bin/containerd-shim-probe-v1":      false,
		"containerd-shim-wasm3-v1":          false,
		"runc":                              false,
		other:                               false,
		"/no/such/runc":                     false,
		dir:                                 false,
	} {
		for _, a := range []*anypb.Any{pack(t, &options.Options{BinaryName: name, SystemdCgroup: true}), body(t, "BinaryName = '"+name+"'\nSystemdCgroup = true")} {
			o, err := Parse(a, declared, binary)
			if accepted {
				require.NoError(t, err, name)
				require.Equal(t, Options{SystemdCgroup: true}, o)
				continue
			}
			require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		}
	}
}

// What a compiler is shown differs only where the key does.
func TestCompilerList(t *testing.T) {
	var all []Declaration
	for _, d := range declared {
		value, presence := d, d
		value.Key, value.AffectsCompilation = "v-"+d.Key, true
		presence.Key, presence.PresenceAffectsCompilation = "p-"+d.Key, true
		all = append(all, d, value, presence)
	}
	values := func(text, flag, number, level string) map[string]string {
		m := map[string]string{Preopens.Key: text}
		for _, before := range []string{"", "v-", "p-"} {
			m[before+"text"], m[before+"flag"], m[before+"level"] = text, flag, level
			m[before+"fuel"], m[before+"memory"], m[before+"timeout"] = number, number, number
		}
		return m
	}
	require.Equal(t, []string{
		"v-text=x", "p-text=", "v-flag=false", "p-flag=true", "v-fuel=7", "p-fuel=0",
		"v-memory=7", "p-memory=0", "v-timeout=7", "p-timeout=0", "v-level=speed", "p-level=none",
	}, CompilerList(values("x", "false", "7", "speed"), all))
	require.Empty(t, CompilerList(nil, all))
	one, other := values("x", "false", "7", "speed"), values("y", "true", "8", "none")
	for key := range one {
		changed := maps.Clone(one)
		check := func() {
			same := slices.Equal(KeyList(one, all), KeyList(changed, all))
			require.Equal(t, same, slices.Equal(CompilerList(one, all), CompilerList(changed, all)), key)
		}
		changed[key] = other[key]
		check()
		delete(changed, key)
		check()
	}
}

func TestValue(t *testing.T) {
	for key, values := range map[string]map[string]string{
		"flag":    {"true": "true", "false": "false"},
		"fuel":    {"0": "0", "007": "7", "18446744073709551615": "18446744073709551615"},
		"memory":  {"0": "0", "5": "5", "5KiB": "5120", "5Ki": "5120", "1MiB": "1048576", "2Gi": "2147483648", "1GiB": "1073741824", "1Mi": "1048576"},
		"timeout": {"0": "0", "1ms": "1", "1.5s": "1500", "2h": "7200000"},
		"text":    {"": "", "x, y": "x, y"},
	} {
		for given, want := range values {
			got, err := Value(key, given, declared)
			require.NoError(t, err, given)
			require.Equal(t, want, got)
		}
	}
}

func TestParsePreopens(t *testing.T) {
	got, err := ParsePreopens("/,/data:/d,/x:.")
	require.NoError(t, err)
	require.Equal(t, []stage.Preopen{{Host: "/", Guest: "/"}, {Host: "/data", Guest: "/d"}, {Host: "/x", Guest: "."}}, got)

	for _, none := range []string{"preopens = []", "preopens = ''"} {
		o, err := Parse(body(t, "[engine]\n"+none), declared, binary)
		require.NoError(t, err)
		value, set := o.Engine["preopens"]
		require.True(t, set)
		got, err = ParsePreopens(value)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

func TestSystemd(t *testing.T) {
	for path, want := range map[string]bool{"": false, "/a:b:c": false, "a/b": false, "s.slice:p:n": true, ":p:n": true} {
		require.Equal(t, want, Options{}.Systemd(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}}), path)
	}
	require.True(t, Options{SystemdCgroup: true}.Systemd(&specs.Spec{}))
	require.False(t, SystemdPath(nil))
}

func FuzzParse(f *testing.F) {
	f.Add(body(f, "NoPivotRoot = true\n[engine]\nfuel = 1\nmemory = '1KiB'\npreopens = ['/']").Value)
	f.Add(body(f, "allow_annotations = ['fuel']\nlog_level = 'warn'").Value)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{"runtimeoptions.v1.Options", "containerd.runc.v1.Options"} {
			var g runtimeoptions.Options
			if proto.Unmarshal(b, &g) == nil && g.ConfigPath != "" {
				return // reading any file of this machine is not what is tested
			}
			o, err := Parse(&anypb.Any{TypeUrl: name, Value: b}, declared, binary)
			if err != nil {
				require.NotContains(t, strings.TrimSpace(err.Error()), "\n")
				continue
			}
			// What was accepted is accepted again, in the form that it got.
			for key, value := range o.Engine {
				if key == "timeout" {
					value += "ms"
				}
				again, err := Value(key, value, declared)
				require.NoError(t, err)
				require.Equal(t, strings.TrimSuffix(value, "ms"), again)
			}
		}
	})
}
