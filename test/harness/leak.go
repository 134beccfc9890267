// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Snapshot is what there is of a daemon beside containerd itself: processes,
// mounts, cgroups, units, and the files of its shims (bundles, FIFOs, sockets, state).
type Snapshot map[string]bool

// Snapshot looks at the machine.
func (p *Place) Snapshot() Snapshot {
	s := Snapshot{}
	for _, process := range processes(p.Namespace) {
		if process.Parent == os.Getpid() {
			continue // containerd, or a program that the test runs
		}
		if NodeDaemon && isShim(p.Namespace, strings.Fields(process.Args)) {
			continue // it waits for the next
		}
		s["process "+process.String()] = true
	}
	for _, m := range mounts(p.Namespace) {
		s["mount "+m] = true
	}
	for _, c := range cgroups(p.Namespace) {
		if filepath.Base(c) != p.Namespace { // the parent of all stays, as runc leaves it
			s["cgroup "+c] = true
		}
	}
	for _, unit := range scopes(p.Namespace) {
		s["unit "+filepath.Base(unit)] = true
	}
	dirs := []string{p.State, p.SocketDir, filepath.Join(p.Dir, "fifo"), filepath.Join(p.Dir, "tmp"), runcRoot(p.Namespace)}
	for _, f := range files(dirs...) {
		if strings.HasSuffix(f, "/io.containerd.runtime.v2.task/"+p.Namespace) || strings.HasSuffix(f, runcRoot(p.Namespace)) || strings.HasSuffix(f, p.SocketDir) {
			continue // parents that stay
		}
		if NodeDaemon && strings.HasPrefix(f, "S") && strings.Contains(f, " "+p.SocketDir+"/") {
			continue // of a daemon that waits
		}
		s["file "+f] = true
	}
	for _, f := range files(memory(p.Namespace)...) {
		if !strings.HasSuffix(f, ".json") && !strings.Contains(f, "/asked-") && !strings.Contains(f, "/metrics-") && !strings.HasPrefix(f, "d") { // what is remembered stays
			s["file "+f] = true
		}
	}
	for _, socket := range oldSockets(p.Namespace, counter.Load()) {
		s["socket "+socket] = true
	}
	return s
}

// Leaks is what is there now and was not before. Ends are asynchronous
// (containerd asks a shim to shut down and does not wait): it looks again for
// some seconds before it calls a thing left.
func (p *Place) Leaks(before Snapshot) []string {
	var left []string
	for deadline := time.Now().Add(Slow(5 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		left = left[:0]
		for thing := range p.Snapshot() {
			if !before[thing] {
				left = append(left, thing)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			sort.Strings(left)
			return left
		}
	}
}

// oldSockets are the sockets of the named daemon's shims in the directory that
// containerds before 2.3 use for all daemons. Their names are hashes: those of the
// first ids that FreshID makes are looked for.
func oldSockets(name string, ids int64) []string {
	address := filepath.Join(base, name, "c.sock")
	runtimes := ownRuntimes()
	var found []string
	for i := int64(1); i <= ids; i++ {
		for _, prefix := range []string{"c", "pod"} {
			id := fmt.Sprint(prefix, i)
			hashed := []string{filepath.Join(address, name, id)} // as runc's shim has it
			for _, runtime := range runtimes {
				hashed = append(hashed, strings.Join([]string{runtime, address, name, id}, "\x00"))
			}
			for _, text := range hashed {
				path := fmt.Sprintf("/run/containerd/s/%x", sha256.Sum256([]byte(text)))
				if _, err := os.Lstat(path); err == nil {
					found = append(found, path)
				}
			}
		}
	}
	return found
}

// ownRuntimes are the runtimes whose shims are built in this checkout.
func ownRuntimes() []string {
	repo, err := Repo()
	if err != nil {
		return nil
	}
	shims, _ := filepath.Glob(filepath.Join(repo, "dist", "containerd-shim-*-v1"))
	var runtimes []string
	for _, shim := range shims {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(shim), "containerd-shim-"), "-v1")
		runtimes = append(runtimes, "io.containerd."+name+".v1")
	}
	return runtimes
}

// worker is the last argument of a process that finds code for a shim.
const worker = "image"

// Workers are the processes that find code for the daemon's shims.
func (p *Place) Workers() []Process {
	return p.Processes(func(args []string) bool { return len(args) > 1 && args[len(args)-1] == worker })
}

// Compilers are the processes that compile code for the daemon's shims.
func (p *Place) Compilers() []Process {
	return p.Processes(func(args []string) bool { return args[0] == "compiler" })
}

// Processes are those of the place whose command lines are what is looked for.
func (p *Place) Processes(is func(args []string) bool) []Process {
	var found []Process
	for _, process := range processes(p.Namespace) {
		if args := strings.Fields(process.Args); process.State != 'Z' && len(args) > 0 && is(args) {
			found = append(found, process)
		}
	}
	return found
}

// isShim says whether these are the arguments of a daemon.
func isShim(namespace string, args []string) bool {
	return len(args) > 0 && args[len(args)-1] != worker && strings.Contains(filepath.Base(args[0]), "containerd-shim-") &&
		strings.Contains(strings.Join(args, " "), "-namespace "+namespace)
}

// Shims are the shim processes of the daemon.
func (p *Place) Shims() []Process {
	shims := p.Processes(func(args []string) bool { return isShim(p.Namespace, args) })
	for i := range shims {
		shims[i].State = 'S' // so that one shim equals itself
	}
	return shims
}

// Left is what there is of the daemon of a name, whoever started it: its
// processes, mounts and cgroups.
func Left(namespace string) []string {
	left := append(mounts(namespace), cgroups(namespace)...)
	for _, p := range processes(namespace) {
		left = append(left, p.String())
	}
	return left
}
