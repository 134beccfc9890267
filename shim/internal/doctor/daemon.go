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
	"time"

	"github.com/pelletier/go-toml/v2"
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

func (d *Daemon) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", d.pid, file) }

// atLeast compares the version; one that is none counts as new.
func (d *Daemon) atLeast(major, minor int) bool {
	var x, y int
	if _, err := fmt.Sscanf(d.version, "%d.%d", &x, &y); err != nil {
		return true
	}
	return x > major || x == major && y >= minor
}

// Release is the finding on containerd's version.
func (d *Daemon) Release() Finding {
	f := ok("containerd", "%s", d.version)
	if !d.atLeast(1, 6) {
		return f.but(Problem, "accepted: 1.6 and later", "upgrade containerd")
	}
	return f
}

// Runtime looks whether containerd's configuration has a runtime for Kubernetes. command
// is the program's name, which prints what is missing.
func (d *Daemon) Runtime(ctx context.Context, shim, runtime, command string) Finding {
	const about = "configuration"
	file, text, err := d.dump(ctx)
	if err != nil {
		return ok(about, "").but(Note, "cannot be had: "+err.Error(), "compare it with `"+command+" config` by hand, if Kubernetes is to use this runtime")
	}
	plugin, how := "io.containerd.cri.v1.runtime", command+" config > /etc/containerd/conf.d/"+shim+".toml"
	switch {
	case !d.atLeast(2, 0):
		plugin, how = "io.containerd.grpc.v1.cri", command+" config --config-version 2 >> "+file
	case !d.atLeast(2, 2): // reads no conf.d
		how = command + " config >> " + file
	}
	how += ", and restart containerd"
	f := ok(about, "%s", file)
	found, err := runtimeType(text, plugin, shim)
	switch {
	case err != nil:
		return f.but(Problem, err.Error(), "mend the file")
	case found == "":
		return f.but(Note, "without a runtime "+shim+": ctr and nerdctl need none, Kubernetes does", how)
	case found != runtime:
		return f.but(Problem, fmt.Sprintf("the runtime %s is %s, not %s", shim, found, runtime), "set runtime_type, and restart containerd")
	}
	f.Found += " has the runtime " + shim
	if changed, started := d.changedSince(file); changed {
		return f.but(Problem, "it was changed after containerd was started at "+started.Format(time.DateTime), "restart containerd")
	}
	return f
}

// dump has containerd's own program print the configuration, with what it includes.
func (d *Daemon) dump(ctx context.Context) (file string, text []byte, _ error) {
	line, err := os.ReadFile(d.proc("cmdline"))
	if err != nil || d.pid == 0 {
		return "", nil, errors.New("containerd's process is not to be seen from here")
	}
	file = configFile(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
	cmd := exec.CommandContext(ctx, d.proc("exe"), "--config", file, "config", "dump")
	cmd.Args[0] = "containerd" // what some programs that are several go by
	if cwd, err := os.Readlink(d.proc("cwd")); err == nil {
		cmd.Dir = cwd
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	text, err = cmd.Output()
	if err != nil {
		return "", nil, fmt.Errorf("containerd config dump: %w: %s", err, lastLine(errOut.String()))
	}
	return file, text, nil
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
	started, err := startTime(d.proc("stat"))
	if err != nil {
		return false, started
	}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "conf.d", "*.toml")) // the pattern is a good one
	for _, f := range append(files, file) {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(started) {
			return true, started
		}
	}
	return false, started
}

// startTime is when a process was started, to the second.
func startTime(stat string) (time.Time, error) {
	b, err := os.ReadFile(stat)
	if err != nil {
		return time.Time{}, err
	}
	up, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	_, rest, found := strings.Cut(string(up), "\nbtime ")
	boot, _, _ := strings.Cut(rest, "\n")
	seconds, err := strconv.ParseInt(boot, 10, 64)
	if !found || err != nil {
		return time.Time{}, errors.New("/proc/stat has no btime")
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const starttime, perSecond = 22 - 3, 100 // see proc(5)
	if len(fields) <= starttime {
		return time.Time{}, fmt.Errorf("%s is shorter than proc(5) says", stat)
	}
	ticks, err := strconv.ParseInt(fields[starttime], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", stat, err)
	}
	return time.Unix(seconds+ticks/perSecond+1, 0), nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
