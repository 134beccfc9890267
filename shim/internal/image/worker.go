// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// WorkerEnv is the environment variable that makes the binary a worker: the
// process that finds a guest's code for a daemon, and ends.
const WorkerEnv = "_WASMSHIM_ROLE=image"

// Descriptors of a worker beside stdio.
const (
	fdSocket = 3 + iota // what it says: a message for each layer, then how it ended
	fdExe
	fdLock // held as long as the worker or its daemon lives
	fdFile // the guest, if it is a file
)

// order is what a worker reads from its standard input.
type order struct {
	Job       *Job
	HasFile   bool
	LogLevel  string
	LogFields log.Fields
}

// message is what a worker says. With a layer come its files.
type message struct {
	Layer  *layerMessage   `json:",omitempty"`
	Kind   entrypoint.Kind `json:",omitempty"` // of the guest, when all is said
	Code   codes.Code      `json:",omitempty"` // of the error
	Error  string          `json:",omitempty"`
	Failed bool            `json:",omitempty"`
	None   bool            `json:",omitempty"` // the error is ErrOrdinary
}

type layerMessage struct {
	MediaType   string
	Digest      digest.Digest
	HasArtifact bool
}

const maxMessageSize = 64 << 10

// workerPatience is how long a worker may take to end that nobody needs any more.
const workerPatience = time.Minute

var errWorkerDied = errors.New("the process that looks for the guest's code has died")

// work has another process do a job. Should that die by somebody's hand, a second
// one takes over.
func (f *Finder) work(ctx context.Context, j *Job, l *lock) (*Guest, error) {
	g, err := f.workOnce(ctx, j, l)
	if errors.Is(err, errWorkerDied) && ctx.Err() == nil {
		j.Log.WithError(err).Warn("looking for the guest's code once more")
		g, err = f.workOnce(ctx, j, l)
	}
	return g, err
}

func (f *Finder) workOnce(ctx context.Context, j *Job, l *lock) (_ *Guest, retErr error) {
	text, err := json.Marshal(order{
		Job: j, HasFile: j.File != nil, LogLevel: j.Log.Logger.GetLevel().String(), LogFields: j.Log.Data,
	})
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	mine, its := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "worker")
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "image-worker")
	cmd.Args = []string{os.Args[0], "-namespace", j.Namespace, "-address", j.Address, "-id", j.ID, "image"}
	cmd.Env = []string{WorkerEnv}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(string(text))
	cmd.Stderr = os.Stderr // the daemon's log
	cmd.ExtraFiles = []*os.File{its, j.Exe, l.f}
	if j.File != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, j.File)
	}
	// It is told to end, and has time to clean up.
	cmd.Cancel = func() error { return unix.Shutdown(fds[0], unix.SHUT_RDWR) }
	cmd.WaitDelay = workerPatience
	err = cmd.Start()
	its.Close()
	if err != nil {
		mine.Close()
		return nil, fmt.Errorf("start the process that looks for the guest's code: %w", err)
	}
	end := func() error {
		defer mine.Close()
		return cmd.Wait()
	}
	g, err := receive(mine)
	// It has closed its end, or it sends what nobody understands.
	_ = unix.Shutdown(fds[0], unix.SHUT_RDWR)
	if ctx.Err() != nil {
		// Its end is not waited for. It may be storing what was made, which takes an
		// answer of containerd's; and a containerd that starts waits for ours.
		go func() { _ = end() }()
		g.Close()
		return nil, ctx.Err()
	}
	if werr := end(); werr != nil && err == nil {
		err = fmt.Errorf("%w: %w", errWorkerDied, werr)
	} else if errors.Is(err, errWorkerDied) {
		err = fmt.Errorf("%w (%s)", err, cmd.ProcessState)
	}
	if err != nil {
		g.Close()
		return nil, errors.Join(err, compiler.Cleanup(compiler.Name(j.Namespace, j.ID), j.Dir))
	}
	return g, nil
}

// receive takes what a worker says until it says that it is done.
func receive(socket *os.File) (*Guest, error) {
	g := &Guest{}
	buffer := make([]byte, maxMessageSize)
	for {
		m, files, err := receiveOne(socket, buffer)
		if err != nil {
			compiler.CloseAll(files)
			return g, err
		}
		if m.Layer == nil {
			compiler.CloseAll(files)
			if m.None {
				return g, &remoteError{m.Error, ErrOrdinary}
			}
			if m.Failed && m.Code != codes.OK {
				return g, errgrpc.ToNative(status.Error(m.Code, m.Error))
			}
			if m.Failed || len(g.Layers) == 0 {
				return g, fmt.Errorf("%w: it sent no layers, and no error", errWorkerDied)
			}
			g.Kind = m.Kind
			return g, nil
		}
		if want := 1 + btoi(m.Layer.HasArtifact); len(files) != want {
			compiler.CloseAll(files)
			return g, fmt.Errorf("%w: it sent %d files and not %d", errWorkerDied, len(files), want)
		}
		l := Layer{MediaType: m.Layer.MediaType, Digest: m.Layer.Digest, File: files[0]}
		if m.Layer.HasArtifact {
			l.Artifact = files[1]
		}
		g.Layers = append(g.Layers, l)
	}
}

// remoteError is an error of another process's.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func receiveOne(socket *os.File, buffer []byte) (m message, files []*os.File, _ error) {
	oob := make([]byte, unix.CmsgSpace(2*4))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), buffer, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(int(socket.Fd()), buffer, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return m, nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return m, nil, errWorkerDied
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return m, nil, fmt.Errorf("%w: it sent what is no message: %w", errWorkerDied, err)
	}
	for i := range control {
		fds, err := unix.ParseUnixRights(&control[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "code"))
		}
	}
	if err := json.Unmarshal(buffer[:n], &m); err != nil {
		return m, files, fmt.Errorf("%w: it sent what is no message: %w", errWorkerDied, err)
	}
	return m, files, nil
}

// Work is the worker. It returns its exit code.
func Work() int {
	for fd := fdSocket; fd <= fdFile; fd++ {
		unix.CloseOnExec(fd)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		// The daemon sends nothing: this returns when it has died, or given up.
		var b [1]byte
		_, _ = unix.Read(fdSocket, b[:])
		cancel()
	}()
	g, err := perform(ctx)
	if err == nil {
		err = send(g)
	}
	if err != nil {
		grpcErr := errgrpc.ToGRPC(err)
		err = sendOne(message{Failed: true, Code: status.Code(grpcErr), Error: err.Error(), None: errors.Is(err, ErrOrdinary)})
	}
	if err != nil {
		return 1
	}
	return 0
}

// logOutput is the daemon's log, a FIFO that may have no reader for a while.
type logOutput struct{}

func (logOutput) Write(p []byte) (int, error) {
	_, _ = unix.Write(2, p)
	return len(p), nil
}

func perform(ctx context.Context) (*Guest, error) {
	var o order
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxManifest)).Decode(&o); err != nil {
		return nil, fmt.Errorf("read what is to be done: %w", err)
	}
	_ = log.SetFormat(log.TextFormat)
	_ = log.SetLevel(o.LogLevel)
	log.L.Logger.SetOutput(logOutput{})
	o.Job.Log = log.L.WithFields(o.LogFields)
	o.Job.Exe = os.NewFile(fdExe, "exe")
	o.Job.abandoned = func() bool {
		socket := []unix.PollFd{{Fd: fdSocket}}
		n, err := unix.Poll(socket, 0)
		return n > 0 && err == nil // closed at the other end
	}
	if o.HasFile {
		o.Job.File = os.NewFile(fdFile, "guest")
	}
	defer func() {
		if o.Job.abandoned() { // its lock is nobody's any more
			unix.Close(fdLock)
			Sweep(o.Job.Address, o.Job.Namespace)
		}
	}()
	return Prepare(ctx, o.Job)
}

func send(g *Guest) error {
	for _, l := range g.Layers {
		files := []*os.File{l.File}
		if l.Artifact != nil {
			files = append(files, l.Artifact)
		}
		m := message{Layer: &layerMessage{l.MediaType, l.Digest, l.Artifact != nil}}
		if err := sendOne(m, files...); err != nil {
			return err
		}
	}
	return sendOne(message{Kind: g.Kind})
}

func sendOne(m message, files ...*os.File) error {
	const maxError = maxMessageSize / 8 // a byte may take six in JSON
	if len(m.Error) > maxError {
		m.Error = m.Error[:maxError]
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fdSocket, text, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return nil
}
