// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestCalled(t *testing.T) {
	for line, want := range map[string]bool{
		"-namespace ns -address a -publish-binary b -id c start":            true,
		"-namespace ns -address a -publish-binary b -id c -bundle d delete": true,
		"-info": true, "--info": true, "-namespace=ns -id=c start": true, "start": true, "delete": true,
		"": false, "-v": false, "--version": false, "--help": false, "help": false, "run x.wasm": false, "strat": false,
		"run --log-level info x.wasm": false, "run x.wasm start": false, "run x.wasm --namespace a": false, "run x -info": false,
	} {
		require.Equal(t, want, Called(strings.Fields(line)), line)
	}
}

func TestParseInvocation(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	t.Chdir(dir)

	c, err := parseInvocation(strings.Fields("-namespace ns -address /run/c.sock -publish-binary /bin/c -id one -debug start"), false)
	require.NoError(t, err)
	require.Equal(t, invocation{namespace: "ns", id: "one", address: "/run/c.sock", bundle: dir, debug: true, action: "start"}, c)

	c, err = parseInvocation([]string{"-namespace", "ns", "-id", "one", ""}, true)
	require.NoError(t, err)
	require.Equal(t, "start", c.action)

	c, err = parseInvocation(strings.Fields("-namespace ns -id one delete"), false)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(filepath.Dir(dir), "one"), c.bundle)

	c, err = parseInvocation(strings.Fields("-namespace ns -id one -bundle /b/one delete"), false)
	require.NoError(t, err)
	require.Equal(t, "/b/one", c.bundle)

	for line, want := range map[string]string{
		"-namespace ns -id one stop":   `unknown action "stop": containerd calls a shim with start, delete or -info`,
		"-namespace ns -id one":        `unknown action ""`,
		"-id one start":                "start needs -namespace",
		"-namespace ns delete":         `delete needs -id, the id of the container: found ""`,
		"-namespace ns -id ../x start": `found "../x"`,
		"-namespace ns -id .. delete":  `found ".."`,
		"-nonsense start":              "-nonsense",
	} {
		_, err := parseInvocation(strings.Fields(line), false)
		require.ErrorContains(t, err, want, line)
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

func TestDialect(t *testing.T) {
	c := invocation{id: "one", namespace: "ns"}
	dir := "/run/x"
	runc, err := anypb.New(&options.Options{ShimCgroup: "/s"})
	require.NoError(t, err)
	full := &bootapi.BootstrapParams{
		InstanceID: "one", Namespace: "ns", SocketDir: &dir, ContainerdTtrpcAddress: "/new.ttrpc",
		Extensions: []*bootapi.Extension{{Value: runc}},
	}
	for name, tc := range map[string]struct {
		input   []byte
		env     string
		dialect dialect
		ttrpc   string
	}{
		"2.3 and later":                     {marshal(t, full), "2", protobufV1, "/new.ttrpc"},
		"2.3 without its version announced": {marshal(t, full), "", protobufV1, "/new.ttrpc"},
		"params of another container":       {marshal(t, &bootapi.BootstrapParams{InstanceID: "two", Namespace: "ns"}), "2", jsonResult, "/old.ttrpc"},
		"1.7 to 2.2":                        {nil, "2", jsonResult, "/old.ttrpc"},
		"1.7 to 2.2 with options":           {marshal(t, runc), "2", jsonResult, "/old.ttrpc"},
		"1.6":                               {nil, "", plainAddress, "/old.ttrpc"},
		"1.6 with options":                  {marshal(t, runc), "", plainAddress, "/old.ttrpc"},
		"input that is not protobuf at all": {[]byte{0xff, 0xff, 0xff}, "", plainAddress, "/old.ttrpc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TTRPC_ADDRESS", "/old.ttrpc")
			t.Setenv(maxVersionEnv, tc.env)
			r := parseRequest(tc.input, Engine{}, c)
			require.Equal(t, tc.dialect, r.dialect)
			require.Equal(t, tc.ttrpc, r.ttrpc)
			if strings.Contains(name, "options") || tc.dialect == protobufV1 {
				require.Equal(t, "/s", r.options.ShimCgroup)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	b, err := plainAddress.answer("unix:///s")
	require.NoError(t, err)
	require.Equal(t, "unix:///s", string(b))

	b, err = jsonResult.answer("unix:///s")
	require.NoError(t, err)
	require.JSONEq(t, `{"version":2,"address":"unix:///s","protocol":"ttrpc"}`, string(b))

	b, err = protobufV1.answer("unix:///s")
	require.NoError(t, err)
	var r bootapi.BootstrapResult
	require.NoError(t, proto.Unmarshal(b, &r))
	require.Equal(t, "unix:///s", r.Address)
	require.EqualValues(t, 3, r.Version)
	found, err := r.FindExtension(&types.MountCapabilities{})
	require.NoError(t, err)
	require.True(t, found, "without mount capabilities containerd execs the shim again, to ask")
}

func TestInfo(t *testing.T) {
	o, err := anypb.New(&options.Options{SystemdCgroup: true})
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, info(Engine{ShimName: "e", Version: "1.2", Revision: "abc"}, bytes.NewReader(marshal(t, o)), &out))
	var i types.RuntimeInfo
	require.NoError(t, proto.Unmarshal(out.Bytes(), &i))
	require.Equal(t, "io.containerd.e.v1", i.Name)
	require.Equal(t, "1.2", i.Version.Version)
	require.Equal(t, "abc", i.Version.Revision)
	require.True(t, proto.Equal(o, i.Options))
	var f map[string]any
	require.NoError(t, json.Unmarshal(i.Features.Value, &f))
	require.Contains(t, f["mountOptions"], "rro")

	require.ErrorContains(t, info(Engine{}, strings.NewReader("\xff\xff"), &out), "no protobuf Any")
}

func TestGroupOf(t *testing.T) {
	c := invocation{id: "one", bundle: "/b"}
	for spec, want := range map[string]string{
		`{}`: "one",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`:                                       "pod",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"group"}}`: "group",
	} {
		g, err := groupOf(c, []byte(spec))
		require.NoError(t, err)
		require.Equal(t, want, g)
	}
	_, err := groupOf(c, []byte("{"))
	require.ErrorContains(t, err, "parse /b/config.json")
}

func TestCheckRelease(t *testing.T) {
	for release, ok := range map[string]bool{
		"5.6.0": true, "5.6": true, "5.10.0-28-amd64": true, "6.1.0": true, "10.0-rc1": true, "odd": true,
		"5.5.19": false, "5.4.0-170-generic": false, "4.18.0-553.el8.x86_64": false, "3.10.0": false, "2.6.78": false,
	} {
		if ok {
			require.NoError(t, checkRelease(release), release)
			continue
		}
		require.ErrorContains(t, checkRelease(release), "found Linux "+release+", accepted: Linux 5.6 and later")
	}
}
