// SPDX-License-Identifier: Apache-2.0

// Package installer puts a shim onto a host, with what containerd's configuration needs
// of it, and takes both away.
package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/atomicfile"
)

// Runtime is what is installed.
type Runtime struct {
	Name    string // in containerd's configuration
	Type    string // "io.containerd.<name>.v1"
	Program string // the file's name
	// Config is the runtime's part of a configuration file of a version, 2 or 3, without
	// the version.
	Config func(version int) (string, error)
}

// Containerd is one that runs on the host.
type Containerd interface {
	// AtLeast compares its version.
	AtLeast(major, minor int) bool
	// ConfigFile is the absolute path on the host of the file that it was told to read.
	ConfigFile() (string, error)
	// RuntimeType is what the configuration that it would read now says of a runtime, by
	// its name there; empty if it has none of it.
	RuntimeType(ctx context.Context, name string) (string, error)
	// Unit is its unit of systemd's; empty if it is in none.
	Unit() string
}

// Host is where it is installed. Nothing is changed in a dry run; what would be is told.
type Host struct {
	Root       string // the host's root directory, as this process sees it
	Containerd Containerd
	DryRun     bool
	Out        io.Writer

	// Pending is set where containerd does not know yet what was changed.
	Pending bool
	changed bool // the configuration
}

func (h *Host) path(name string) string { return filepath.Join(h.Root, name) }

func (h *Host) say(format string, args ...any) { _, _ = fmt.Fprintf(h.Out, format+"\n", args...) }

// Install puts the program into a directory and the runtime into containerd's
// configuration, and has containerd read that. What is there already stays.
func (h *Host) Install(ctx context.Context, r Runtime, program, dir string) error {
	if err := h.putProgram(program, filepath.Join(dir, r.Program)); err != nil {
		return err
	}
	f, err := h.configuration(r)
	if err != nil {
		return err
	}
	if f.theirs != "" {
		text, err := r.Config(h.version())
		if err != nil {
			return err
		}
		h.say("not changed: containerd's configuration, which is %s's own; add this to it:\n\nversion = %d\n%s", f.theirs, h.version(), text)
		h.Pending = true
		return nil
	}
	if f.finds != "" {
		found, err := h.Containerd.RuntimeType(ctx, r.Name)
		if err != nil {
			return err
		}
		h.say("%s finds the runtime %s by itself", f.finds, r.Name)
		h.changed = found != r.Type
	} else if err := h.addRuntime(ctx, r, f); err != nil {
		return err
	}
	return h.restart(ctx)
}

// Uninstall takes both away. It refuses as long as containers of the runtime run: for
// their end containerd executes the program.
func (h *Host) Uninstall(ctx context.Context, r Runtime, dir string) error {
	target := filepath.Join(dir, r.Program)
	if n := h.running(target); n > 0 {
		return fmt.Errorf("%s is in use by %s: delete the containers of the runtime %s first", target, processes(n), r.Name)
	}
	f, err := h.configuration(r)
	if err != nil {
		return err
	}
	switch {
	case f.theirs != "":
		h.say("not changed: containerd's configuration, which is %s's own; remove the runtime %s from it", f.theirs, r.Name)
	case f.finds != "":
		h.say("%s forgets the runtime %s when it is started next", f.finds, r.Name)
	default:
		if err := h.removeRuntime(r, f); err != nil {
			return err
		}
	}
	if err := h.restart(ctx); err != nil {
		return err
	}
	return h.remove(target)
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

func (h *Host) remove(name string) error {
	if _, err := os.Lstat(h.path(name)); errors.Is(err, fs.ErrNotExist) {
		h.say("not there: %s", name)
		return nil
	}
	h.say("%s %s", h.would("remove"), name)
	if h.DryRun {
		return nil
	}
	return os.Remove(h.path(name))
}

// running counts the processes that execute a file of the host's.
func (h *Host) running(target string) (n int) {
	info, err := os.Stat(h.path(target))
	if err != nil {
		return 0
	}
	all, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is a good one
	for _, exe := range all {
		if other, err := os.Stat(exe); err == nil && os.SameFile(info, other) && filepath.Dir(exe) != fmt.Sprintf("/proc/%d", os.Getpid()) {
			n++
		}
	}
	return n
}

func (h *Host) putProgram(program, target string) error {
	want, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	path := h.path(target)
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm() == 0o755 && info.Size() == int64(len(want)) {
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
			h.say("up to date: %s", target)
			return nil
		}
	}
	h.say("%s %s", h.would("put"), target)
	return h.write(path, want, 0o755)
}

func (h *Host) would(do string) string {
	if h.DryRun {
		return "would " + do
	}
	return do
}

// write replaces a file at once, whoever reads or executes it meanwhile.
func (h *Host) write(path string, content []byte, mode fs.FileMode) error {
	if h.DryRun {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := atomicfile.New(path, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}

// restart has containerd read a configuration that was changed. Containers go on.
func (h *Host) restart(ctx context.Context) error {
	if !h.changed {
		return nil
	}
	unit := h.Containerd.Unit()
	if info, err := os.Lstat(h.path("/run/systemd/system")); unit == "" || err != nil || !info.IsDir() {
		h.say("not restarted: containerd, which is in no unit of systemd's; restart it by hand")
		h.Pending = true
		return nil
	}
	h.say("%s %s", h.would("restart"), unit)
	if h.DryRun {
		return nil
	}
	cmd := exec.CommandContext(ctx, "systemctl", "restart", unit)
	if h.Root != "/" {
		cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Chroot: h.Root}, "/"
		cmd.Path = "/usr/bin/systemctl"
		cmd.Err = nil // of the search in this process's root
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl restart %s: %w: %s", unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}
