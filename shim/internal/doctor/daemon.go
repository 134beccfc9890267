// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// Daemon is a containerd that runs on this machine.
type Daemon struct {
	pid     int
	version string
	// Path is the environment variable PATH of the process; empty if it cannot be read.
	Path string
}

// OpenDaemon looks at the process that listens on containerd's socket. pid is 0 where
// it cannot be seen.
func OpenDaemon(pid int, version string) *Daemon {
	d := &Daemon{pid: pid, version: strings.TrimPrefix(version, "v")}
	if b, err := os.ReadFile(d.proc("environ")); err == nil {
		for v := range strings.SplitSeq(string(b), "\x00") {
			if path, found := strings.CutPrefix(v, "PATH="); found {
				d.Path = path
			}
		}
	}
	return d
}

// Root is where the process has its root directory.
func (d *Daemon) Root() string { return d.proc("root") }

// Unit is the unit of systemd's that the process is in; empty if it is in none.
func (d *Daemon) Unit() string {
	b, err := os.ReadFile(d.proc("cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), ":/")
		if strings.HasSuffix(path, ".service") {
			return filepath.Base(path)
		}
	}
	return ""
}

func (d *Daemon) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", d.pid, file) }

// AtLeast compares the version; one that is none counts as new.
func (d *Daemon) AtLeast(major, minor int) bool {
	var x, y int
	if _, err := fmt.Sscanf(d.version, "%d.%d", &x, &y); err != nil {
		return true
	}
	return x > major || x == major && y >= minor
}

// Release is the finding on containerd's version.
func (d *Daemon) Release() Finding {
	f := ok("containerd", "%s", d.version)
	if !d.AtLeast(1, 6) {
		return f.but(Problem, "accepted: 1.6 and later", "upgrade containerd")
	}
	return f
}

// Runtime looks whether containerd's configuration has a runtime for Kubernetes. command
// is the program's name, which prints what is missing.
func (d *Daemon) Runtime(ctx context.Context, shim, runtime, command string) Finding {
	const about = "configuration"
	file, err := d.ConfigFile()
	var found string
	if err == nil {
		found, err = d.RuntimeType(ctx, shim)
	}
	if err != nil {
		return ok(about, "").but(Note, "cannot be had: "+err.Error(), "compare it with `"+command+" config` by hand, if Kubernetes is to use this runtime")
	}
	f := ok(about, "%s", file)
	switch found {
	case runtime:
	case "":
		return f.but(Note, "without a runtime "+shim+": ctr and nerdctl need none, Kubernetes does", command+" install")
	default:
		return f.but(Problem, fmt.Sprintf("the runtime %s is %s, not %s", shim, found, runtime), "set runtime_type, and restart containerd")
	}
	f.Found += " has the runtime " + shim
	if changed, started := d.changedSince(file); changed {
		return f.but(Problem, "it was changed after containerd was started at "+started.Format(time.DateTime), "restart containerd")
	}
	return f
}

// ConfigFile is the file that the process was told to read, or the usual one; it need
// not exist.
func (d *Daemon) ConfigFile() (string, error) {
	line, err := os.ReadFile(d.proc("cmdline"))
	if err != nil || d.pid == 0 {
		return "", errors.New("containerd's process is not to be seen from here")
	}
	file := configFile(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
	if cwd, err := os.Readlink(d.proc("cwd")); err == nil && !filepath.IsAbs(file) {
		file = filepath.Join(cwd, file)
	}
	return file, nil
}

// RuntimeType is what the configuration that containerd would read now says of a
// runtime, by its name there; empty if it has none of it.
func (d *Daemon) RuntimeType(ctx context.Context, shim string) (string, error) {
	file, err := d.ConfigFile()
	if err != nil {
		return "", err
	}
	text, err := d.dump(ctx, file)
	if err != nil {
		return "", err
	}
	return runtimeType(text, d.plugin(), shim)
}

// dump has containerd's own program print the configuration, with what it includes, where
// the process has its root.
func (d *Daemon) dump(ctx context.Context, file string) ([]byte, error) {
	program, err := os.Readlink(d.proc("exe"))
	if err != nil {
		return nil, err
	}
	program = strings.TrimSuffix(program, " (deleted)") // by an upgrade, which has put another there
	cmd := exec.CommandContext(ctx, program, "--config", file, "config", "dump")
	cmd.Args[0] = "containerd" // what some programs that are several go by
	cmd.Dir = "/"
	if root := d.proc("root"); !isRoot(root) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("containerd config dump: %w: %s", err, lastLine(errOut.String()))
	}
	return text, nil
}

// isRoot says whether a directory is this process's root.
func isRoot(dir string) bool {
	a, err1 := os.Stat(dir)
	b, err2 := os.Stat("/")
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

func (d *Daemon) plugin() string {
	if d.AtLeast(2, 0) {
		return "io.containerd.cri.v1.runtime"
	}
	return "io.containerd.grpc.v1.cri"
}

// configFile is what a command line of containerd's says.
func configFile(args []string) string {
	for i, a := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name != "config" && name != "c" {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return "/etc/containerd/config.toml"
}

// runtimeType is what a configuration says of a runtime; empty if it has none of the name.
func runtimeType(text []byte, plugin, shim string) (string, error) {
	var config struct {
		Plugins map[string]struct {
			Containerd struct {
				Runtimes map[string]struct {
					Type string `toml:"runtime_type"`
				} `toml:"runtimes"`
			} `toml:"containerd"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("containerd's configuration is no TOML: %w", err)
	}
	return config.Plugins[plugin].Containerd.Runtimes[shim].Type, nil
}

// changedSince says whether the file, or one that lies beside it in conf.d, was written
// after containerd was started.
func (d *Daemon) changedSince(file string) (bool, time.Time) {
	started, err := startTime(d.pid)
	if err != nil {
		return false, started
	}
	file = filepath.Join(d.Root(), file)
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "conf.d", "*.toml")) // the pattern is a good one
	for _, f := range append(files, file) {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(started) {
			return true, started
		}
	}
	return false, started
}

// startTime is when a process was started, to the second.
func startTime(pid int) (time.Time, error) {
	ticks, err := container.StartTime(pid)
	if err != nil {
		return time.Time{}, err
	}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	_, rest, _ := strings.Cut(string(b), "\nbtime ")
	boot, _, _ := strings.Cut(rest, "\n")
	seconds, err := strconv.ParseInt(boot, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("btime of /proc/stat: %w", err)
	}
	const perSecond = 100 // see proc_pid_stat(5)
	return time.Unix(seconds+int64(ticks)/perSecond+1, 0), nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
