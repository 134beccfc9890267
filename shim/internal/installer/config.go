// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// file is where a runtime's part of the configuration belongs.
type file struct {
	theirs string // whose configuration is not to be changed
	finds  string // who finds the runtime's program by itself
	path   string // on the host
	own    bool   // it holds nothing else
	base   string // what has to stand in a new one that is not our own
	// whole is the file that containerd reads, or what it is made of.
	whole string
}

// version is that of a new configuration file.
func (h *Host) version() int {
	if h.Containerd.AtLeast(2, 0) {
		return 3
	}
	return 2
}

// distributions that make containerd's configuration themselves, from a template, by the
// directory in which it is.
var distributions = map[string]string{
	"k3s":  "/var/lib/rancher/k3s/agent/etc/containerd",
	"RKE2": "/var/lib/rancher/rke2/agent/etc/containerd",
}

// found are the runtimes whose programs these look for by themselves. To name one in the
// template as well would be an error.
var found = []string{"lunatic", "slight", "spin", "wws", "wasmedge", "wasmer", "wasmtime"}

// theirs are hosts on which nobody else may change the configuration: by the name in
// os-release, and by a directory.
var (
	theirOS  = map[string]string{"talos": "Talos", "bottlerocket": "Bottlerocket"}
	theirDir = map[string]string{"/var/snap/microk8s": "MicroK8s"}
)

// configuration says where on this host a runtime belongs.
func (h *Host) configuration(r Runtime) (file, error) {
	if name := theirOS[h.osID()]; name != "" {
		return file{theirs: name}, nil
	}
	config, err := h.Containerd.ConfigFile()
	if err != nil {
		return file{}, err
	}
	for dir, name := range theirDir {
		if strings.HasPrefix(config, dir+"/") {
			return file{theirs: name}, nil
		}
	}
	for distribution, dir := range distributions {
		if filepath.Dir(config) == dir {
			if slices.Contains(found, r.Name) {
				return file{finds: distribution}, nil
			}
			name := "config.toml.tmpl"
			if h.Containerd.AtLeast(2, 0) {
				name = "config-v3.toml.tmpl"
			}
			return file{path: filepath.Join(dir, name), base: "{{ template \"base\" . }}\n", whole: config}, nil
		}
	}
	if h.Containerd.AtLeast(2, 2) && h.readsDropIns(config) {
		return file{path: filepath.Join(filepath.Dir(config), "conf.d", r.Name+".toml"), own: true, whole: config}, nil
	}
	return file{path: config, whole: config}, nil
}

func (h *Host) osID() string {
	b, err := os.ReadFile(h.path("/etc/os-release"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "ID="); found {
			return strings.Trim(id, `"`)
		}
	}
	return ""
}

// readsDropIns says whether a configuration of containerd 2.2 or later includes conf.d:
// it does by itself, unless it says what else it includes, and from one place only.
func (h *Host) readsDropIns(config string) bool {
	const usual = "/etc/containerd/conf.d/*.toml"
	var text struct {
		Imports []string `toml:"imports"`
	}
	b, err := os.ReadFile(h.path(config))
	if err != nil || toml.Unmarshal(b, &text) != nil || text.Imports == nil {
		return filepath.Dir(config) == filepath.Dir(filepath.Dir(usual))
	}
	for _, i := range text.Imports {
		if !filepath.IsAbs(i) {
			i = filepath.Join(filepath.Dir(config), i)
		}
		if i == filepath.Join(filepath.Dir(config), "conf.d", "*.toml") {
			return true
		}
	}
	return false
}

// The lines around what is written into a file of others.
func marks(r Runtime) (begin, end string) {
	return "# begin of what " + r.Program + " install has written", "# end of what " + r.Program + " install has written"
}

func (h *Host) addRuntime(ctx context.Context, r Runtime, f file) error {
	old, err := os.ReadFile(h.path(f.path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	isNew := err != nil
	begin, end := marks(r)
	before, after, again := cutMarked(string(old), begin, end)
	part, err := h.part(r, f, before+after)
	if err != nil {
		return err
	}
	text := part
	if !f.own {
		if !again {
			switch found, err := h.Containerd.RuntimeType(ctx, r.Name); {
			case err != nil:
				return err
			case found == r.Type:
				h.say("up to date: %s has the runtime %s", f.whole, r.Name)
				return nil
			case found != "":
				return fmt.Errorf("%s has a runtime %s, of the type %s: remove it first", f.whole, r.Name, found)
			}
			if isNew {
				before = f.base
			}
			if before != "" && !strings.HasSuffix(before, "\n") {
				before += "\n"
			}
		}
		text = before + begin + "\n" + part + end + "\n" + after
	}
	if text == string(old) {
		h.say("up to date: %s", f.path)
		return nil
	}
	h.say("%s %s", h.would("write"), f.path)
	if h.DryRun {
		h.changed = true
		return nil
	}
	return h.replace(ctx, r, f, old, isNew, text)
}

// part is the runtime's part of a file, whose version it has to have. others is what else
// is in the file.
func (h *Host) part(r Runtime, f file, others string) (string, error) {
	version := h.version()
	if !f.own && f.base == "" && others != "" {
		var has struct {
			Version int `toml:"version"`
		}
		if err := toml.Unmarshal([]byte(others), &has); err != nil {
			return "", fmt.Errorf("%s is no TOML: %w", f.path, err)
		}
		if has.Version != 2 && has.Version != 3 {
			return "", fmt.Errorf("%s: found version %d, accepted: 2 (containerd 1.6 and later), 3 (containerd 2.x): containerd config migrate", f.path, has.Version)
		}
		version = has.Version
	}
	text, err := r.Config(version)
	if err != nil {
		return "", err
	}
	if f.own || others == "" && f.base == "" {
		text = fmt.Sprintf("version = %d\n", version) + text
	}
	return text, nil
}

// replace writes a file, and takes that back if containerd does not understand it.
func (h *Host) replace(ctx context.Context, r Runtime, f file, old []byte, isNew bool, text string) error {
	path, mode := h.path(f.path), fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if !isNew && !f.own {
		if _, err := os.Stat(h.path(h.backup(r, f))); errors.Is(err, fs.ErrNotExist) {
			if err := h.write(h.path(h.backup(r, f)), old, mode); err != nil {
				return err
			}
			h.say("the file as it was: %s", h.backup(r, f))
		}
	}
	if err := h.write(path, []byte(text), mode); err != nil {
		return err
	}
	h.changed = true
	if f.base != "" {
		return nil // the distribution makes the configuration of it when it is restarted
	}
	found, err := h.Containerd.RuntimeType(ctx, r.Name)
	if err == nil && found != r.Type {
		err = fmt.Errorf("containerd does not read %s", f.path)
	}
	if err == nil {
		return nil
	}
	if isNew {
		return errors.Join(err, os.Remove(path))
	}
	return errors.Join(err, h.write(path, old, mode))
}

// backup is where a file is kept as it was before.
func (h *Host) backup(r Runtime, f file) string { return f.path + ".before-" + r.Program }

func (h *Host) removeRuntime(r Runtime, f file) error {
	old, err := os.ReadFile(h.path(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		h.say("not there: %s", f.path)
		return nil
	} else if err != nil {
		return err
	}
	if f.own {
		h.changed = true
		return h.remove(f.path)
	}
	begin, end := marks(r)
	before, after, found := cutMarked(string(old), begin, end)
	if !found {
		h.say("not there: what install writes into %s", f.path)
		return nil
	}
	h.changed = true
	text, backup := before+after, h.backup(r, f)
	if b, err := os.ReadFile(h.path(backup)); err == nil && string(b) == text {
		if err := h.remove(backup); err != nil {
			return err
		}
	}
	if strings.TrimSpace(text) == strings.TrimSpace(f.base) {
		return h.remove(f.path)
	}
	info, err := os.Stat(h.path(f.path))
	if err != nil {
		return err
	}
	h.say("%s %s", h.would("write"), f.path)
	return h.write(h.path(f.path), []byte(text), info.Mode().Perm())
}

// cutMarked returns what stands before and after the marked lines.
func cutMarked(text, begin, end string) (before, after string, found bool) {
	before, rest, found := strings.Cut(text, begin+"\n")
	if !found {
		return text, "", false
	}
	_, after, found = strings.Cut(rest, end+"\n")
	return before, after, found
}
