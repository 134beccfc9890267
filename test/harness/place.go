// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

const (
	runcVersion = "1.5.2"

	// Unix socket paths end at 107 bytes, and containerd allows 38 for the
	// directory of shim sockets: base is short and fixed, not $TMPDIR.
	base       = "/tmp"
	namePrefix = "wst-"
)

// Place is where a private containerd runs, or shims without one. Everything of
// it carries its name.
type Place struct {
	Version   Version
	Namespace string // its containerd namespace, which no other place has; also the name of Dir
	Dir       string
	State     string // bundles are below
	Address   string // gRPC; the ttrpc one is Address + ".ttrpc"
	SocketDir string // where shims are told to put sockets, containerd 2.x only

	path string // PATH of containerd and so of its shims
}

// NewPlace makes a place. It first clears away what killed runs have left.
func NewPlace(v Version) (*Place, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containers need root for namespaces, mounts and cgroups")
	}
	Sweep()
	dirs, err := binDirs(v)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{filepath.Join(dirs[1], "containerd"), filepath.Join(dirs[2], "runc")} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w (run make deps first)", err)
		}
	}
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	name := namePrefix + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(random[:])
	dir := filepath.Join(base, name)
	p := &Place{
		Version:   v,
		Namespace: name,
		Dir:       dir,
		State:     filepath.Join(dir, "state"),
		Address:   filepath.Join(dir, "c.sock"),
		SocketDir: filepath.Join(dir, "s"),
		path:      strings.Join(dirs, ":") + ":" + os.Getenv("PATH"),
	}
	if Rootless {
		p.SocketDir = filepath.Join(RunDir(), "containerd/s") // nobody tells them
	}
	for _, sub := range []string{"", "state", "tmp", "fifo"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o711); err != nil {
			return nil, err
		}
	}
	return p, os.WriteFile(filepath.Join(dir, "owner"), []byte(identity(os.Getpid())), 0o600)
}

// Clear ends every process of the place and removes everything of it.
func (p *Place) Clear() error { return clear(p.Namespace) }

// Repo is the checkout that the working directory lies in.
func Repo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("not inside the libwasmshim checkout")
		}
	}
}

// CacheDir is where scripts/deps.sh puts what it builds.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "libwasmshim"), err
}

// binDirs are the directories of the daemon's programs, in PATH order.
func binDirs(v Version) ([]string, error) {
	repo, err := Repo()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, "containerd-"+string(v), "bin")
	if v == Containerd16 { // Debian's package, unpacked
		bin = filepath.Join(cache, "containerd-"+string(v), "usr/bin")
	}
	return []string{filepath.Join(repo, "dist"), bin, filepath.Join(cache, "runc-"+runcVersion, "bin")}, nil
}

// Env is the environment of what runs in the place: PATH leads to dist/ and to what
// scripts/deps.sh provides, and temporary files stay in its directory.
func (p *Place) Env() []string {
	env := []string{"PATH=" + p.path, "TMPDIR=" + filepath.Join(p.Dir, "tmp")}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PATH=") && !strings.HasPrefix(kv, "TMPDIR=") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			env = append(env, kv)
		}
	}
	return env
}

// In is ctx in the place's namespace.
func (p *Place) In(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, p.Namespace)
}

// LookPath finds a program as what runs in the place does.
func (p *Place) LookPath(name string) (string, error) {
	for _, dir := range strings.Split(p.path, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, fs.ErrNotExist)
}

// ShimBinary is the program that a runtime name stands for.
func (p *Place) ShimBinary(runtime string) (string, error) {
	parts := strings.Split(runtime, ".")
	if len(parts) < 2 {
		return "", fmt.Errorf("no runtime name: %q", runtime)
	}
	return p.LookPath("containerd-shim-" + strings.Join(parts[len(parts)-2:], "-"))
}

// IsFull says whether a shim has wasmtime's full library.
func IsFull(program string) (bool, error) {
	out, err := exec.Command(program, "--version").Output()
	return strings.Contains(string(out), "(full library"), err
}

// Sweep clears away what is left of daemons whose owner is gone.
func Sweep() {
	for _, name := range Orphans() {
		if err := clear(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// Orphans are the names of daemons whose owner is gone.
func Orphans() []string {
	var names []string
	owners, _ := filepath.Glob(filepath.Join(base, namePrefix+"*", "owner"))
	for _, file := range owners {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.Atoi(pid)
		if err != nil || identity(n) != string(text) {
			names = append(names, filepath.Base(filepath.Dir(file)))
		}
	}
	return names
}

// identity is a process's id and start time: pids are used again.
func identity(pid int) string {
	p, err := readProcess(pid)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d", pid, p.StartTime)
}

// clear kills every process of the named daemon, then removes its mounts,
// cgroups and directories.
func clear(name string) error {
	dir := filepath.Join(base, name)
	deadline := time.Now().Add(Slow(10 * time.Second))
	for {
		left := processes(name)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("clear %s: processes do not end: %v", name, left)
		}
		for _, p := range left {
			_ = unix.Kill(p.Pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, m := range mounts(name) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	for i := 0; i < 50; i++ {
		all := cgroups(name)
		if len(all) == 0 {
			break
		}
		for j := len(all) - 1; j >= 0; j-- { // children first
			_ = unix.Rmdir(all[j])
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = os.RemoveAll(runcRoot(name))
	for _, remembered := range memory(name) {
		_ = os.RemoveAll(remembered)
	}
	for _, socket := range oldSockets(name, 2000) {
		_ = os.Remove(socket)
	}
	if left := mounts(name); len(left) > 0 {
		// Removing the directory now would remove what is mounted there.
		return fmt.Errorf("clear %s: mounts do not go: %v", name, left)
	}
	return os.RemoveAll(dir)
}

// memory are the directories in which shims remember where the code of images
// is, and lock it.
func memory(name string) []string {
	dirs, _ := filepath.Glob(filepath.Join(RunDir(), "libwasmshim", name+"-*"))
	return dirs
}

// runcRoot is where runc's shim keeps runc's state of a namespace.
func runcRoot(name string) string { return filepath.Join("/run/containerd/runc", name) }
