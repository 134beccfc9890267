// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// A daemon of the node serves many pods (the option daemon = "node"). Of one binary, one
// containerd, one namespace and one set of options there are as many as the pods need,
// each in a slot, whose socket start asks for a place; cabi/start.c does it where it can.
// containerd knows the daemon by a link for each pod, which goes when the pod does: for
// it, and for whoever cleans up, a pod's socket is where it is with a daemon of its own.

// defaultDaemonPods is how many pods a daemon of the node serves, where nobody said it.
const defaultDaemonPods = 64

// maxSlots bounds how many daemons are asked.
const maxSlots = 1000

// askTimeout is how long a daemon may take to answer. It has started, or waits for its
// first turn on a processor; one that was killed answers never.
const askTimeout = 2 * time.Second

// maxAsk bounds what start may say to a daemon, in bytes.
const maxAsk = 16 << 10

// place is where a container is served.
type place struct {
	daemon *socket // of a daemon that is to be; nil for one that runs
	slot   *socket // where others ask it for a place; nil for the daemon of one pod
	link   string  // by which containerd knows a daemon of many pods
}

func (p place) Close() {
	for _, s := range []*socket{p.slot, p.daemon} {
		if s != nil {
			s.Close()
		}
	}
	if p.link != "" {
		os.Remove(p.link)
	}
}

// unlist takes the names away under which the daemon can be asked for more.
func (p place) unlist() {
	if p.slot != nil {
		p.slot.remove()
	}
	p.daemon.remove()
}

// sharesDaemon says whether a container or sandbox goes to a daemon of the node. Containers
// of a pod are where the pod is.
func sharesDaemon(c invocation, req request, group string) bool {
	return req.options.Daemon == options.NodeDaemon && group == c.id
}

// share finds a daemon of the node that has room for a container, or makes a slot for one.
// path is the link. Nobody else waits while a daemon is asked, which may take its time.
func share(e Engine, c invocation, req request, path string) (place, error) {
	if served, err := clearLink(path); served || err != nil {
		return place{}, err
	}
	for i := range maxSlots {
		slot, err := slotPath("/proc/self/exe", e, c, req, i)
		if err != nil {
			return place{}, err
		}
		if p, made, err := takeSlot(slot, path); made || err != nil {
			return p, err
		}
		if daemon := ask(slot, c.id, path, c.bundle); daemon != "" {
			return place{}, os.Symlink(daemon, path)
		}
	}
	return place{}, fmt.Errorf("%d daemons of the node have no room: %w", maxSlots, errdefs.ErrResourceExhausted)
}

// clearLink says whether a container's link leads to a daemon already. If not, what a dead
// one has left is removed.
func clearLink(path string) (bool, error) {
	unlock, err := lockSockets(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	defer unlock()
	return isServed(path)
}

// takeSlot makes what a daemon needs in a slot where there is none.
func takeSlot(slot, link string) (_ place, made bool, _ error) {
	isFree := func() bool {
		use := useOf(slot)
		return use == absent || use == unused
	}
	if !isFree() {
		return place{}, false, nil
	}
	unlock, err := lockSockets(filepath.Dir(slot))
	if err != nil {
		return place{}, false, err
	}
	defer unlock()
	if !isFree() { // any more
		return place{}, false, nil
	}
	p, err := makeSlot(slot, link)
	return p, err == nil, err
}

// slotPath names the socket of a slot. Another binary, as after an upgrade, and other
// options have others.
func slotPath(binary string, e Engine, c invocation, req request, i int) (string, error) {
	var exe unix.Stat_t
	if err := unix.Stat(binary, &exe); err != nil {
		return "", fmt.Errorf("look at this binary: %w", err)
	}
	name := fmt.Sprintf("\x00node\x00%d\x00%d %d %d.%d %d\x00%s", i, exe.Dev, exe.Ino, exe.Mtim.Sec, exe.Mtim.Nsec, exe.Size, req.given)
	return socketPath(req.socketDir, e.Runtime(), c.address, c.namespace, name)
}

// slotOf is the slot of a daemon, of which its own socket has the name.
func slotOf(daemon string) string {
	return daemon[:max(0, strings.LastIndexByte(daemon, '-'))]
}

// makeSlot binds what a daemon of the node needs. The caller has locked the directory.
func makeSlot(slot, link string) (_ place, retErr error) {
	daemon := fmt.Sprintf("%s-%d", slot, os.Getpid())
	if len(daemon) > socketPathLimit {
		return place{}, fmt.Errorf("socket path %s has %d bytes, the kernel takes %d: choose a shorter socket directory", daemon, len(daemon), socketPathLimit)
	}
	left, _ := filepath.Glob(slot + "-*")
	for _, socket := range append(left, slot) { // of daemons that were killed
		if useOf(socket) == unused {
			os.Remove(socket)
		}
	}
	var p place
	defer func() {
		if retErr != nil {
			for _, s := range []*socket{p.slot, p.daemon} {
				if s != nil {
					os.Remove(s.path) // not Close, which locks
					s.UnixListener.Close()
				}
			}
		}
	}()
	var err error
	if p.daemon, err = bindSocket(daemon); err != nil {
		return p, err
	}
	if p.slot, err = bindSocket(slot); err != nil {
		return p, err
	}
	if err := os.Symlink(daemon, link); err != nil {
		return p, err
	}
	p.link = link
	return p, nil
}

// ask asks the daemon in a slot for a place for a container. Its answer is where it
// serves; empty if it has no room, or ends.
func ask(slot, id, link, bundle string) string {
	conn, err := net.DialTimeout("unix", slot, askTimeout)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	if _, err := fmt.Fprintf(conn, "%s\n%s\n%s\n\n", id, link, bundle); err != nil {
		return ""
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAsk))
	if err != nil {
		return ""
	}
	return string(answer)
}

// giveOut serves the slot of a daemon.
func (p place) giveOut(s *task.Service, logs *logs) {
	for {
		conn, err := p.slot.Accept()
		if err != nil {
			return
		}
		go p.answer(conn, s, logs)
	}
}

func (p place) answer(conn net.Conn, s *task.Service, logs *logs) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTimeout))
	var asked []string
	lines := bufio.NewScanner(io.LimitReader(conn, maxAsk))
	for lines.Scan() && lines.Text() != "" {
		asked = append(asked, lines.Text())
	}
	if lines.Err() != nil || len(asked) != 3 {
		return
	}
	id, link, bundle := asked[0], asked[1], asked[2]
	if !s.Admit(id, func() { logs.add(id, bundle) }, func() { left(id, link, logs) }) {
		return
	}
	_, _ = io.WriteString(conn, p.daemon.path)
	conn.Close()
	container.HurryMoves()
	config, err := readConfig(bundle)
	if err != nil {
		config = nil // create meets it again, and says so
	}
	s.Prepare(id, bundle, config)
}

// left is called once a pod is gone, of the container that has begun it.
func left(id, link string, logs *logs) {
	os.Remove(link)
	logs.remove(id)
}

func daemonPods(o options.Options) int { return cmp.Or(o.DaemonPods, defaultDaemonPods) }
