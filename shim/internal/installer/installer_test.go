// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// host is a directory with what belongs to a kind of hosts, and a containerd that reads a
// file there. What a real containerd makes of it is tested where there is one.
type host struct {
	t            *testing.T
	root         string
	config       string
	major, minor int
	refuses      bool // whatever it is given
}

func (h *host) AtLeast(major, minor int) bool {
	return h.major > major || h.major == major && h.minor >= minor
}
func (h *host) ConfigFile() (string, error) { return h.config, nil }
func (h *host) Unit() string                { return "" }

var runtimeType = regexp.MustCompile(`runtimes\.(\w+)\]\s+runtime_type = '([^']*)'`)

func (h *host) RuntimeType(_ context.Context, name string) (string, error) {
	if h.refuses && strings.Contains(h.all(), "probe") {
		return "", errors.New("line 1: no")
	}
	for _, m := range runtimeType.FindAllStringSubmatch(h.all(), -1) {
		if m[1] == name {
			return m[2], nil
		}
	}
	return "", nil
}

// all is the configuration with its conf.d.
func (h *host) all() string {
	text := h.read(h.config)
	more, err := filepath.Glob(filepath.Join(h.root, filepath.Dir(h.config), "conf.d", "*.toml"))
	require.NoError(h.t, err)
	for _, file := range more {
		b, err := os.ReadFile(file)
		require.NoError(h.t, err)
		text += string(b)
	}
	return text
}

func (h *host) write(name, text string) {
	path := filepath.Join(h.root, name)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(h.t, os.WriteFile(path, []byte(text), 0o640))
}

func (h *host) read(name string) string {
	b, err := os.ReadFile(filepath.Join(h.root, name))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(h.t, err)
	}
	return string(b)
}

// files are all that the host has.
func (h *host) files() map[string]string {
	all := map[string]string{}
	require.NoError(h.t, filepath.WalkDir(h.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name := strings.TrimPrefix(path, h.root)
			all[name] = h.read(name)
		}
		return err
	}))
	return all
}

func testRuntime(name string) Runtime {
	return Runtime{
		Name: name, Type: "io.containerd." + name + ".v1", Program: "shim",
		Config: func(version int) (string, error) {
			return fmt.Sprintf("[plugins.v%d.runtimes.%s]\n  runtime_type = 'io.containerd.%[2]s.v1'\n", version, name), nil
		},
	}
}

func (h *host) install(r Runtime, dry bool) (said string, _ error) {
	program := filepath.Join(h.t.TempDir(), "program")
	require.NoError(h.t, os.WriteFile(program, []byte("program"), 0o600))
	var out bytes.Buffer
	err := (&Host{Root: h.root, Containerd: h, DryRun: dry, Out: &out}).Install(h.t.Context(), r, program, "/bin")
	return out.String(), err
}

func (h *host) uninstall(r Runtime, dry bool) (said string) {
	var out bytes.Buffer
	require.NoError(h.t, (&Host{Root: h.root, Containerd: h, DryRun: dry, Out: &out}).Uninstall(h.t.Context(), r, "/bin"))
	return out.String()
}

// What is installed on each kind of hosts, twice, and that nothing of it stays.
func TestHosts(t *testing.T) {
	const (
		usual = "/etc/containerd/config.toml"
		k3s   = "/var/lib/rancher/k3s/agent/etc/containerd"
		rke2  = "/var/lib/rancher/rke2/agent/etc/containerd"
		begin = "# begin of what shim install has written\n"
		end   = "# end of what shim install has written\n"
	)
	part := func(version int) string {
		return fmt.Sprintf("[plugins.v%d.runtimes.probe]\n  runtime_type = 'io.containerd.probe.v1'\n", version)
	}
	for name, tc := range map[string]struct {
		major, minor int
		config       string
		runtime      string
		has, want    map[string]string // but for the program, and the file as it was
		says         string
	}{
		"2.4 without a file":   {2, 4, usual, "probe", nil, map[string]string{"/etc/containerd/conf.d/probe.toml": "version = 3\n" + part(3)}, ""},
		"2.4":                  {2, 4, usual, "probe", map[string]string{usual: "version = 3\n"}, map[string]string{usual: "version = 3\n", "/etc/containerd/conf.d/probe.toml": "version = 3\n" + part(3)}, ""},
		"2.4 without conf.d":   {2, 4, usual, "probe", map[string]string{usual: "version = 3\nimports = []\n"}, map[string]string{usual: "version = 3\nimports = []\n" + begin + part(3) + end}, ""},
		"2.4 elsewhere":        {2, 4, "/opt/c.toml", "probe", map[string]string{"/opt/c.toml": "version = 3"}, map[string]string{"/opt/c.toml": "version = 3\n" + begin + part(3) + end}, ""},
		"2.4 imports":          {2, 4, "/opt/c.toml", "probe", map[string]string{"/opt/c.toml": "imports = ['conf.d/*.toml']"}, map[string]string{"/opt/c.toml": "imports = ['conf.d/*.toml']", "/opt/conf.d/probe.toml": "version = 3\n" + part(3)}, ""},
		"2.0 reads no conf.d":  {2, 0, usual, "probe", map[string]string{usual: "version = 3\n"}, map[string]string{usual: "version = 3\n" + begin + part(3) + end}, ""},
		"2.1 with an old file": {2, 1, usual, "probe", map[string]string{usual: "version = 2\n"}, map[string]string{usual: "version = 2\n" + begin + part(2) + end}, ""},
		"1.7":                  {1, 7, usual, "probe", map[string]string{usual: "version = 2\n[debug]\n"}, map[string]string{usual: "version = 2\n[debug]\n" + begin + part(2) + end}, ""},
		"1.7 without a file":   {1, 7, usual, "probe", nil, map[string]string{usual: begin + "version = 2\n" + part(2) + end}, ""},
		"there already":        {1, 7, usual, "probe", map[string]string{usual: "version = 2\n" + part(2)}, map[string]string{usual: "version = 2\n" + part(2)}, "up to date: " + usual + " has the runtime probe"},
		"k3s":                  {2, 1, k3s + "/config.toml", "probe", map[string]string{k3s + "/config.toml": "made"}, map[string]string{k3s + "/config.toml": "made", k3s + "/config-v3.toml.tmpl": "{{ template \"base\" . }}\n" + begin + part(3) + end}, ""},
		"k3s with a template":  {1, 7, k3s + "/config.toml", "probe", map[string]string{k3s + "/config.toml.tmpl": "{{ x }}\n"}, map[string]string{k3s + "/config.toml.tmpl": "{{ x }}\n" + begin + part(2) + end}, ""},
		"k3s finds it":         {2, 1, k3s + "/config.toml", "wasmtime", map[string]string{k3s + "/config.toml": "made"}, map[string]string{k3s + "/config.toml": "made"}, "k3s finds the runtime wasmtime by itself"},
		"RKE2":                 {2, 1, rke2 + "/config.toml", "wasmtime", nil, nil, "RKE2 finds the runtime wasmtime by itself"},
		"MicroK8s":             {2, 1, "/var/snap/microk8s/1/args/containerd.toml", "probe", map[string]string{"/var/snap/microk8s/1/args/containerd.toml": "x"}, map[string]string{"/var/snap/microk8s/1/args/containerd.toml": "x"}, "which is MicroK8s's own; add this to it:\n\nversion = 3\n" + part(3)},
		"Talos":                {2, 2, usual, "probe", map[string]string{"/etc/os-release": "NAME=\"Talos\"\nID=talos\n"}, map[string]string{"/etc/os-release": "NAME=\"Talos\"\nID=talos\n"}, "which is Talos's own"},
		"Bottlerocket":         {2, 1, usual, "probe", map[string]string{"/etc/os-release": "ID=\"bottlerocket\"\n"}, map[string]string{"/etc/os-release": "ID=\"bottlerocket\"\n"}, "which is Bottlerocket's own"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{t: t, root: t.TempDir(), config: tc.config, major: tc.major, minor: tc.minor}
			for name, text := range tc.has {
				h.write(name, text)
			}
			r := testRuntime(tc.runtime)
			before := h.files()
			_, err := h.install(r, true)
			require.NoError(t, err)
			require.Equal(t, before, h.files(), "a dry run")
			for range 2 {
				said, err := h.install(r, false)
				require.NoError(t, err)
				require.Contains(t, said, tc.says)
				now := h.files()
				require.Equal(t, "program", now["/bin/shim"])
				delete(now, "/bin/shim")
				for name, text := range now {
					if original, found := strings.CutSuffix(name, ".before-shim"); found {
						require.Equal(t, before[original], text)
						delete(now, name)
					}
				}
				want := tc.want
				if want == nil {
					want = map[string]string{}
				}
				require.Equal(t, want, now)
			}
			if text, found := before[tc.config]; found {
				require.NotEmpty(t, text)
				info, err := os.Stat(filepath.Join(h.root, tc.config))
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o640), info.Mode(), "the mode stays")
			}
			installed := h.files()
			h.uninstall(r, true)
			require.Equal(t, installed, h.files(), "a dry run")
			for i := range 2 {
				require.Equal(t, i > 0, strings.Contains(h.uninstall(r, false), "not there: /bin/shim"))
				after := h.files()
				if name == "2.4 elsewhere" { // the line was not ended
					after[tc.config] = strings.TrimSpace(after[tc.config])
					delete(after, tc.config+".before-shim")
				}
				require.Equal(t, before, after)
			}
		})
	}
}

func TestInstallFails(t *testing.T) {
	const usual = "/etc/containerd/config.toml"
	for want, tc := range map[string]struct {
		text    string
		refuses bool
	}{
		"config.toml is no TOML":                                  {"version = ", false},
		"found version 1, accepted: 2 (containerd 1.6 and later)": {"version = 1\n", false},
		"found version 0, accepted: 2":                            {"root = '/x'\n", false},
		"has a runtime probe, of the type io.containerd.other.v1": {"version = 2\n[plugins.v2.runtimes.probe]\n  runtime_type = 'io.containerd.other.v1'\n", false},
		"line 1: no": {"version = 2\n", true},
	} {
		h := &host{t: t, root: t.TempDir(), config: usual, major: 1, minor: 7, refuses: tc.refuses}
		h.write(usual, tc.text)
		_, err := h.install(testRuntime("probe"), false)
		require.ErrorContains(t, err, want)
		require.Equal(t, tc.text, h.read(usual), "the file is as it was")
	}
}
