// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// stream is one of a process's standard streams, of whatever kind: the process has
// one end of it, the daemon holds the other, or what keeps it in place.
type stream interface {
	// processEnd is what the process inherits, and what it may do with as it likes:
	// never a file of the host. It is closed by handOver or close.
	processEnd() *os.File
	// handOver closes the process's end once the process has it.
	handOver()
	// endInput lets the process read the end of its input, once the client has closed
	// its own end.
	endInput()
	// drain waits until what the process has written is where it belongs, or until
	// something is closed: others may still hold the process's end.
	drain(giveUp <-chan struct{})
	// settle waits until whoever reads what the process has written has read it all, or
	// until something is closed.
	settle(giveUp <-chan struct{})
	// close gives everything up.
	close()
}

// streams are the three of a process.
type streams struct {
	in, out, err stream   // err may be out
	logger       *logger  // that takes out and err; nil if none was asked for
	console      *console // that is between them and the process; nil where it has no terminal

	unread atomic.Bool // the client has had its time to read the last
}

// names are what containerd calls the streams of a process. With a terminal there is
// no stderr.
type names struct {
	stdin, stdout, stderr string
	terminal              bool
}

// openStreams opens the streams of a process of a container. An empty name is
// /dev/null.
func openStreams(n names, id, namespace string, r *remotes, l *log.Entry) (_ *streams, retErr error) {
	s := &streams{}
	defer func() {
		if retErr != nil {
			s.close()
		}
	}()
	if err := s.open(n, id, namespace, r, l); err != nil {
		return nil, err
	}
	if !n.terminal {
		return s, nil
	}
	in := s.in
	if n.stdin == "" {
		in = nil
	}
	var err error
	s.console, err = newConsole(in, s.out)
	return s, err
}

func (s *streams) open(n names, id, namespace string, r *remotes, l *log.Entry) (err error) {
	if s.in, err = openInput(n.stdin, r); err != nil {
		return fmt.Errorf("stdin %q: %w", n.stdin, err)
	}
	if isLogger(n.stdout) {
		var out, errors *os.File
		if s.logger, out, errors, err = startLogger(n.stdout, id, namespace); err != nil {
			return fmt.Errorf("stdout %q: %w", n.stdout, err)
		}
		s.out, s.err = &handedOver{file: out}, &handedOver{file: errors}
		return nil
	}
	if s.out, err = openOutput(n.stdout, r, l); err != nil {
		return fmt.Errorf("stdout %q: %w", n.stdout, err)
	}
	if _, isCopied := s.out.(*copied); n.terminal || isCopied && n.stderr == n.stdout {
		s.err = s.out // one pipe, or lines would change places
		return nil
	}
	if s.err, err = openOutput(n.stderr, r, l); err != nil {
		return fmt.Errorf("stderr %q: %w", n.stderr, err)
	}
	return nil
}

// processEnds are what the process inherits; nil where it makes a terminal of its own.
func (s *streams) processEnds() (in, out, err *os.File) {
	if s.console != nil {
		return nil, nil, nil
	}
	return s.in.processEnd(), s.out.processEnd(), s.err.processEnd()
}

// begin is called once the process has its ends, with the daemon's end of its
// terminal, if it has one.
func (s *streams) begin(terminal *os.File) {
	s.handOver()
	if s.console != nil {
		s.console.connect(terminal)
	}
}

func (s *streams) endInput() { s.in.endInput() }

// resize gives the process's terminal a size; without one it does nothing.
func (s *streams) resize(size winsize) error {
	if s.console == nil {
		return nil
	}
	return s.console.resize(size)
}

func (s *streams) each(do func(stream)) {
	for i, one := range []stream{s.in, s.out, s.err} {
		if one != nil && (i < 2 || one != s.out) {
			do(one)
		}
	}
}

// chown gives the process's ends, where they are FIFOs or pipes, to a user and a
// group.
func (s *streams) chown(uid, gid uint32) (err error) {
	if uid == 0 && gid == 0 || s.console != nil {
		return nil
	}
	s.each(func(one stream) {
		info, serr := one.processEnd().Stat()
		if serr == nil && info.Mode()&os.ModeNamedPipe != 0 {
			serr = one.processEnd().Chown(int(uid), int(gid))
		}
		err = errors.Join(err, serr)
	})
	return err
}

func (s *streams) handOver() { s.each(stream.handOver) }

// drainTime is how long a process's output is waited for once the process has
// ended: somebody else may hold its end for ever.
const drainTime = 2 * time.Second

// finish waits until all that the process has written is where it belongs, for a
// bounded time, and gives everything up.
func (s *streams) finish() {
	giveUp := make(chan struct{})
	timer := time.AfterFunc(drainTime, func() { close(giveUp) })
	if s.console != nil {
		s.console.drain(giveUp)
	}
	s.each(func(one stream) { one.drain(giveUp) })
	timer.Stop()
	s.close()
}

// settle gives a client time to read the last of what a process has written, which has
// ended. containerd's asks for the state of a process before it deletes it, and then
// gives up what it has not read yet. (2.4's closes its ends, also of FIFOs, and an older
// one what its thread was too late to open.)
func (s *streams) settle() {
	if s.unread.Load() {
		return
	}
	giveUp := make(chan struct{})
	timer := time.AfterFunc(lastReadTime, func() {
		s.unread.Store(true)
		close(giveUp)
	})
	defer timer.Stop()
	if s.console != nil {
		s.console.drain(giveUp)
	}
	s.each(func(one stream) { one.settle(giveUp) })
}

func (s *streams) close() {
	if s.console != nil {
		s.console.close()
	}
	s.each(stream.close)
	if s.logger != nil {
		s.logger.finish()
	}
}

// openInput opens what a process reads from: a FIFO itself, and anything else by a
// copy.
func openInput(name string, r *remotes) (stream, error) {
	if name == "" {
		return openNull(unix.O_RDONLY)
	}
	if isRemote(name) {
		one, err := r.open(name)
		if err != nil {
			return nil, err
		}
		return copyInput(one)
	}
	path, fifo, err := locate(name)
	if err != nil {
		return nil, err
	}
	if fifo {
		reader, writer, err := openBoth(path)
		return &handedOver{file: reader, keeps: writer, isInput: true}, err
	}
	file, err := openFile(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return copyInput(hostFile{file})
}

func openOutput(name string, r *remotes, l *log.Entry) (stream, error) {
	if name == "" {
		return openNull(unix.O_WRONLY)
	}
	if isRemote(name) {
		one, err := r.open(name)
		if err != nil {
			return nil, err
		}
		return copyOutput(one, l)
	}
	path, fifo, err := locate(name)
	if err != nil {
		return nil, err
	}
	if fifo {
		reader, writer, err := openBoth(path)
		return &handedOver{file: writer, keeps: reader}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := openFile(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return copyOutput(hostFile{file}, l)
}

func openNull(flags int) (stream, error) {
	f, err := openFile(os.DevNull, flags)
	return &handedOver{file: f}, err
}

// handedOver is a stream that the process uses directly: nothing is copied.
//
// Of a FIFO the daemon holds the other end too, so that the process meets neither
// end of file nor SIGPIPE when containerd or the client goes away and comes back.
// It holds it by a separate descriptor, not by O_RDWR: a write end of stdout in the
// daemon would keep the client from ever seeing the end of file.
type handedOver struct {
	isInput bool

	mu    sync.Mutex
	file  *os.File // the process's end, until it has it; guarded by mu
	keeps *os.File // the daemon's end; nil where there is none; guarded by mu
}

func (h *handedOver) processEnd() *os.File  { return h.file }
func (h *handedOver) drain(<-chan struct{}) {} // it is in the FIFO
func (h *handedOver) handOver()             { h.closeOne(&h.file) }
func (h *handedOver) close()                { h.closeOne(&h.file); h.closeOne(&h.keeps) }

// settle waits until the FIFO is empty. It holds a write end meanwhile: a client that
// comes late to open its own would wait for one for ever.
func (h *handedOver) settle(giveUp <-chan struct{}) {
	writer := h.unread()
	if writer == nil {
		return
	}
	defer writer.Close()
	for tick := time.Tick(time.Millisecond); held(writer) > 0; {
		select {
		case <-tick: // the kernel tells nobody of an empty pipe
		case <-giveUp:
			return
		}
	}
}

// unread is a write end of an output's FIFO that holds what nobody has read yet; nil if
// there is no such FIFO. The caller closes it.
func (h *handedOver) unread() *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isInput || h.keeps == nil || held(h.keeps) == 0 {
		return nil
	}
	writer, err := openFile(fmt.Sprintf("/proc/self/fd/%d", h.keeps.Fd()), unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil
	}
	return writer
}

// held is how much a FIFO holds, in bytes.
func held(f *os.File) int {
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func (h *handedOver) endInput() {
	if h.isInput {
		h.closeOne(&h.keeps)
	}
}

func (h *handedOver) closeOne(f **os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *f != nil {
		(*f).Close()
		*f = nil
	}
}

// openBoth opens a FIFO's read end and then its write end, which in this order
// and with O_NONBLOCK wait for nobody. Both are handed over blocking.
func openBoth(path string) (reader, writer *os.File, err error) {
	var fds [2]int
	for i, mode := range []int{unix.O_RDONLY, unix.O_WRONLY} {
		fds[i], err = unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.SetNonblock(fds[i], false)
		}
		if err != nil {
			for _, fd := range fds[:i] {
				unix.Close(fd)
			}
			return nil, nil, fmt.Errorf("open FIFO: %w", err)
		}
	}
	return os.NewFile(uintptr(fds[0]), path), os.NewFile(uintptr(fds[1]), path), nil
}

// openFile opens a file of the host. With O_NONBLOCK, which is nothing to a regular
// file, nobody waits for a device: not to open it, and not in a thread of this
// process.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// locate turns a stream's name into a path and says whether it is a FIFO.
func locate(name string) (path string, fifo bool, err error) {
	path = name
	if strings.Contains(name, "://") {
		u, err := url.Parse(name)
		if err != nil {
			return "", false, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		switch u.Scheme {
		case "fifo":
			path = u.Path
		case "file":
			if !filepath.IsAbs(u.Path) {
				return "", false, fmt.Errorf("%q is not an absolute path, as in file:///var/log/x: %w", u.Path, errdefs.ErrInvalidArgument)
			}
			if path = u.Path; !exists(path) {
				return path, false, nil
			}
		default:
			return "", false, fmt.Errorf("streams of scheme %s:// are not supported here; accepted: fifo, file, ttrpc+unix, and for stdout binary, binary-v2: %w", u.Scheme, errdefs.ErrInvalidArgument)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return "", false, fmt.Errorf("no such FIFO: %w", errdefs.ErrNotFound)
		}
		return "", false, err
	}
	return path, st.Mode&unix.S_IFMT == unix.S_IFIFO, nil
}
