// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// Finder finds the code of a daemon's guests. What is known from an earlier start
// costs some system calls; anything else is the work of another process, which
// ends: a daemon lives long and is to stay small.
type Finder struct {
	Address, Namespace string // of containerd
	Engine             Engine
	Exe                func(tmpDir string) (*os.File, error) // the sealed binary

	expected expected
}

// expected is an image that was asked for before anybody needed it, to be taken
// once.
type expected struct {
	mu     sync.Mutex
	id     string        // guarded by mu; of the container
	answer chan imageErr // guarded by mu
}

type imageErr struct {
	image Image
	err   error
}

// Expect asks which image a container was made of, if containers with its
// arguments were run from layers before: asking takes some milliseconds, in which
// the daemon would only wait for containerd.
func (f *Finder) Expect(ctx context.Context, id string, args []string) {
	if recordsOf(f.Address, f.Namespace).get(layeredHint(args)) == nil {
		return
	}
	f.expected.mu.Lock()
	defer f.expected.mu.Unlock()
	answer := make(chan imageErr, 1)
	f.expected.id, f.expected.answer = id, answer
	go func() {
		image, err := f.ask(ctx, id)
		answer <- imageErr{image, err}
	}()
}

// layeredHint is the name of a record that says that containers with some
// arguments were run from layers. It decides nothing.
func layeredHint(args []string) string { return sum(append([]string{"layers"}, args...)...) }

// Request is one container's.
type Request struct {
	ID, Bundle string
	Args       []string // the guest's
	// Options are all of the engine's, KeyOptions what of them affects compilation.
	Options, KeyOptions []string
	LogLevel            string // of the engine's lines
	Limits              compiler.Limits
	Log                 *log.Entry
}

// Layers returns the guest that a container's image has as layers. ErrNotFound
// says that it has none that the engine takes, or that there is no image.
func (f *Finder) Layers(ctx context.Context, r Request) (*Guest, error) {
	j := f.job(r)
	image, err := f.image(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	j.Image = &image
	g, err := f.find(ctx, j)
	if known, hint := j.records(), layeredHint(r.Args); err == nil && known.get(hint) == nil {
		if err := known.put(hint, record{}); err != nil {
			r.Log.WithError(err).Debug("cannot remember that these are layers")
		}
	}
	return g, err
}

// image is the image that a container was made of. This one question is asked at
// every start, because the answer may change.
func (f *Finder) image(ctx context.Context, id string) (Image, error) {
	f.expected.mu.Lock()
	answer := f.expected.answer
	mine := answer != nil && f.expected.id == id
	if mine {
		f.expected.answer = nil
	}
	f.expected.mu.Unlock()
	if !mine {
		return f.ask(ctx, id)
	}
	select {
	case a := <-answer:
		return a.image, a.err
	case <-ctx.Done():
		return Image{}, ctx.Err()
	}
}

func (f *Finder) ask(ctx context.Context, id string) (_ Image, retErr error) {
	c, err := Dial(f.Address, f.Namespace)
	if err != nil {
		return Image{}, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	return c.OfContainer(ctx, id)
}

// File returns the guest that is a file of the container's root file system, with
// its artifact; nil if there is none. path is free of symbolic links. What keeps
// it from being compiled is logged. The file stays the caller's.
func (f *Finder) File(ctx context.Context, r Request, file *os.File, path string, kind entrypoint.Kind, rootfs []mount.Mount) *Guest {
	j := f.job(r)
	if !j.compiles() {
		return nil
	}
	g, err := f.file(ctx, j, file, path, kind, rootfs)
	if err != nil {
		r.Log.WithError(err).Warn("the guest's original is run, without an artifact")
		return nil
	}
	if g.Layers[0].Artifact == nil {
		g.Close()
		return nil
	}
	return g
}

func (f *Finder) file(ctx context.Context, j *Job, file *os.File, path string, kind entrypoint.Kind, rootfs []mount.Mount) (*Guest, error) {
	// Not the container's own mount: whoever has a file of it open, if only to end
	// soon, keeps it from being unmounted.
	own, err := readOnly(file)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if err := j.SetFile(own, path, kind, rootfs); err != nil {
		return nil, err
	}
	return f.find(ctx, j)
}

// job is the work that a request makes. Without a key nothing can be kept, and so
// nothing is compiled.
func (f *Finder) job(r Request) *Job {
	key, err := f.Engine.Key(r.KeyOptions)
	if err != nil {
		if f.Engine.Compiles && r.Limits.Time > 0 {
			r.Log.WithError(err).Warn("nothing is compiled ahead")
		}
		r.Limits.Time = 0
	}
	return &Job{
		Address: f.Address, Namespace: f.Namespace, Engine: f.Engine, Key: key,
		Options: r.Options, LogLevel: r.LogLevel, Limits: r.Limits, ID: r.ID, Dir: r.Bundle, Log: r.Log,
	}
}

// find looks at what is known, and has it found out otherwise. Of many daemons
// that need the same at once, one does the work.
func (f *Finder) find(ctx context.Context, j *Job) (g *Guest, _ error) {
	defer func() {
		if g != nil {
			g.record = j.record()
		}
	}()
	if g = j.remembered(j.records().get(j.record())); g != nil {
		return g, nil
	}
	return j.once(ctx, func(l *lock) (_ *Guest, err error) {
		if j.Exe, err = f.Exe(j.Dir); err != nil {
			return nil, err
		}
		return f.work(ctx, j, l)
	})
}

// once has a guest found out, with a lock held, unless whoever held it before has
// done so.
func (j *Job) once(ctx context.Context, find func(l *lock) (*Guest, error)) (*Guest, error) {
	known := j.records()
	l, err := acquire(ctx, known.dir, j.record())
	if err != nil {
		return nil, fmt.Errorf("wait for who looks for the same code: %w", err)
	}
	defer l.release()
	if g := j.remembered(known.get(j.record())); g != nil {
		return g, nil
	}
	return find(l)
}

// remembered opens a guest as a record has it; nil if anything of it has changed,
// or if it is to be tried again.
func (j *Job) remembered(r *record) (_ *Guest) {
	if r == nil || len(r.Refused) > 0 || r.NotCompiled != nil && (j.Retry || !r.NotCompiled.holds(j.Limits)) {
		return nil
	}
	g := &Guest{Kind: r.Kind}
	if j.File != nil {
		own, err := readOnly(j.File)
		if err != nil {
			return nil
		}
		g.Layers = []Layer{{File: own}}
	}
	if r.NotCompiled != nil {
		j.Log.Debugf("the guest's original is run, as before: %s", r.NotCompiled.Cause)
	}
	if err := j.openRemembered(r, g); err != nil {
		j.Log.WithError(err).Debug("what is remembered of the guest's code is out of date")
		g.Close()
		return nil
	}
	return g
}

func (j *Job) openRemembered(r *record, g *Guest) error {
	if r.Root == "" {
		if j.File == nil {
			return errors.New("the content store is not a directory here")
		}
		return nil
	}
	blobs, err := openBlobs(r.Root)
	if err != nil {
		return err
	}
	defer blobs.close()
	if len(r.Layers) == 0 || j.File != nil && len(r.Layers) != 1 {
		return fmt.Errorf("it has %d layers", len(r.Layers))
	}
	for i, known := range r.Layers {
		if j.File == nil {
			f, err := blobs.openSame(known.Digest, known.Blob)
			if err != nil {
				return err
			}
			g.Layers = append(g.Layers, Layer{MediaType: known.MediaType, File: f})
		}
		l := &g.Layers[i]
		l.Digest = known.Digest
		if known.Artifact == "" {
			continue
		}
		if l.Artifact, err = blobs.openSame(known.Artifact, known.Compiled); err != nil {
			return err
		}
	}
	return nil
}

// Refuse is told that the engine could not load an artifact: the next start looks
// for another one.
func (f *Finder) Refuse(r Request, g *Guest, index int) {
	if index >= len(g.Layers) || g.record == "" {
		return
	}
	known := recordsOf(f.Address, f.Namespace)
	now := known.get(g.record)
	if now == nil || index >= len(now.Layers) {
		return
	}
	switch d := now.Layers[index].Artifact; {
	case d == "" || slices.Contains(now.Refused, d):
		return
	case now.Remade:
		// Another one would be the same.
		known.remove(g.record)
		now.NotCompiled = later(errors.New("the engine does not load what it has compiled"), failedFor, r.Limits)
		now.Layers[index].Artifact, now.Layers[index].Compiled = "", stamp{}
	default:
		now.Refused = append(now.Refused, d)
	}
	if err := known.put(g.record, *now); err != nil {
		r.Log.WithError(err).Warn("cannot remember that the engine refused an artifact")
	}
}

// openSame opens a blob if it is the file that it was.
func (b *blobs) openSame(d digest.Digest, want stamp) (*os.File, error) {
	f, err := b.open(d)
	if err != nil {
		return nil, err
	}
	now, err := stampOf(f)
	if err == nil && now != want {
		err = fmt.Errorf("blob %s has changed", d)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// stampBelow is the stamp of a container's file: where an overlay file system has
// it from a layer of an image, that of the file there, which stays the same for
// all containers of the image. Without that, a file is known again in its own
// container only.
func stampBelow(f *os.File, path string, rootfs []mount.Mount) (stamp, error) {
	own, err := stampOf(f)
	if err != nil {
		return stamp{}, err
	}
	for _, dir := range lowerDirs(rootfs) {
		below, err := statBelow(dir, strings.TrimPrefix(path, "/"))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err == nil && below.like(own) {
			return below, nil
		}
		break
	}
	return own, nil
}

func statBelow(dir, path string) (stamp, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stamp{}, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return stamp{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return stamp{}, err
	}
	return stampFrom(&st), nil
}

// lowerDirs are the read-only directories of an overlay mount, the uppermost
// first.
func lowerDirs(rootfs []mount.Mount) []string {
	for _, m := range rootfs {
		if m.Type != "overlay" {
			continue
		}
		for _, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return filepath.SplitList(dirs)
			}
		}
	}
	return nil
}
