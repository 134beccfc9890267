// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Finder finds the code of a daemon's guests. What is known from an earlier start
// costs some system calls; compiling is the work of another process, which ends: a
// daemon lives long and is to stay small.
type Finder struct {
	Address, Namespace string // of containerd
	Engine             Engine
	Exe                func(tmpDir string) (*os.File, error) // the sealed binary

	expected struct {
		sync.Mutex
		answers map[string]chan answerOrError // guarded by Mutex; by container, each to be taken once
	}
}

// answer is what containerd says of a container.
type answer struct {
	containerd.Container
	image  containerd.Image
	parent string // the snapshot that the container's own was made of
}

type answerOrError struct {
	answer
	err error
}

// Expect asks containerd about a container before anybody needs it, if such answers
// were needed lately: asking takes some milliseconds, in which the daemon would only
// wait for its first call.
func (f *Finder) Expect(ctx context.Context, id, entrypoint string) {
	if !f.memory().asksAhead(entrypoint) {
		return
	}
	f.expected.Lock()
	defer f.expected.Unlock()
	expected := make(chan answerOrError, 1)
	if f.expected.answers == nil {
		f.expected.answers = map[string]chan answerOrError{}
	}
	f.expected.answers[id] = expected
	go func() {
		a, err := f.ask(ctx, id)
		expected <- answerOrError{a, err}
	}()
}

// Forget is for a container that does not come, after all.
func (f *Finder) Forget(id string) { f.take(id) }

// take takes what was asked ahead; nil if nothing was.
func (f *Finder) take(id string) chan answerOrError {
	f.expected.Lock()
	defer f.expected.Unlock()
	expected := f.expected.answers[id]
	delete(f.expected.answers, id)
	return expected
}

func (f *Finder) memory() memory { return memoryOf(f.Address, f.Namespace) }

// about is what containerd says of a container. It is asked at every start that
// needs it, because the answer may change.
func (f *Finder) about(ctx context.Context, id string) (answer, error) {
	expected := f.take(id)
	if expected == nil {
		return f.ask(ctx, id)
	}
	select {
	case a := <-expected:
		return a.answer, a.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

func (f *Finder) ask(ctx context.Context, id string) (a answer, retErr error) {
	c, err := Dial(f.Address, f.Namespace)
	if err != nil {
		return a, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	if a.Container, err = c.Container(ctx, id); err != nil {
		return a, err
	}
	if a.Image == "" {
		return a, fmt.Errorf("container %s was made without an image: %w", id, containerd.ErrOrdinary)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		a.image, err = c.Get(ctx, a.Image)
		return err
	})
	if a.Snapshot != "" {
		group.Go(func() (err error) {
			a.parent, err = c.Parent(ctx, a.Snapshotter, a.Snapshot)
			if errdefs.IsNotFound(err) { // its root file system is of another snapshotter's, or of the client's own
				err = nil
			}
			return err
		})
	}
	return a, group.Wait()
}

// Request is one container's.
type Request struct {
	ID, Bundle string
	Args, Env  []string // of its process
	ImageName  string   // as the user of CRI wrote it; empty elsewhere
	// Options are those of the engine's that a compiler is shown, KeyOptions what of
	// them is in the cache's key.
	Options, KeyOptions []string
	LogLevel            string // of the engine's lines
	Limits              compiler.Limits
	Place               compiler.Place
	Log                 *log.Entry
}

// Layers returns the guest that a container's image has as layers. ErrNotFound
// says that it has none that the engine takes, or that there is no image.
func (f *Finder) Layers(ctx context.Context, r Request) (_ *Guest, retErr error) {
	f.memory().asked(r.Args[0])
	about, err := f.about(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	c, err := Dial(f.Address, f.Namespace)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	entry, err := f.entryOf(ctx, c, about, r)
	if err != nil {
		return nil, err
	}
	if about.Labels[containerd.LabelManifest] == "" {
		go f.noteManifest(r, entry.Manifest)
	}
	image := about.image.Name
	if n := len(entry.Layers); n > stage.MaxLayers {
		return nil, fmt.Errorf("image %s has more than %d layers, %d: %w", image, stage.MaxLayers, n, errdefs.ErrInvalidArgument)
	}
	g := &Guest{}
	holders := make([]digest.Digest, len(entry.Layers))
	for i, l := range entry.Layers {
		g.Layers = append(g.Layers, Layer{MediaType: l.MediaType, Digest: l.Digest})
		holders[i] = l.Digest
	}
	w := f.work(r, g, holders)
	w.Image = image
	if err := w.openLayers(ctx, c, g, entry.Layers); err != nil {
		g.Close()
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	return f.withArtifacts(ctx, r, w, g)
}

// noteManifest writes down, in the background, what a container was made of.
func (f *Finder) noteManifest(r Request, manifest digest.Digest) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Dial(f.Address, f.Namespace)
	if err == nil {
		err = errors.Join(c.LabelContainer(ctx, r.ID, containerd.LabelManifest, string(manifest)), c.Close())
	}
	if err != nil && !errdefs.IsNotFound(err) {
		r.Log.WithError(err).Warn("cannot note which manifest the container was made of; if its image's name becomes another one's, that one is run")
	}
}

// entryOf is the entry of its image that a container was made of.
func (f *Finder) entryOf(ctx context.Context, c Store, about answer, r Request) (containerd.Entry, error) {
	origin := containerd.Origin{ID: r.ID, Args: r.Args, Env: r.Env, Labels: about.Labels}
	entries, err := f.entries(ctx, c, about.image)
	if err != nil {
		return containerd.Entry{}, err
	}
	entry, err := origin.Choose(about.image, entries, f.Engine.Types())
	if err != nil || r.ImageName == "" || entry.Labels[containerd.LabelLayers] != "" {
		return entry, err
	}
	// CRI names images by their configuration's digest, which images that were made
	// elsewhere may have in common. The user's own name for it tells them apart.
	other, err := c.Get(ctx, containerd.FullName(r.ImageName))
	switch {
	case err == nil && other.Target.Digest == about.image.Target.Digest:
		return entry, nil
	case err == nil:
		entries, err := f.entries(ctx, c, other)
		if err != nil {
			return containerd.Entry{}, err
		}
		if named, err := origin.Choose(other, entries, f.Engine.Types()); err == nil && named.Config == entry.Config {
			return named, nil
		}
	case !errdefs.IsNotFound(err):
		return containerd.Entry{}, err
	}
	return entry, f.requireUnique(ctx, c, about.image, entry, r.ImageName)
}

// requireUnique fails if there is another image with an entry's configuration, and
// other layers.
func (f *Finder) requireUnique(ctx context.Context, c Store, image containerd.Image, entry containerd.Entry, name string) error {
	images, err := c.Images(ctx)
	if err != nil {
		return err
	}
	for _, other := range images {
		if other.Target.Digest == image.Target.Digest {
			continue
		}
		entries, err := f.entries(ctx, c, other)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // its content was not pulled, or it is no image
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Config == entry.Config && !slices.EqualFunc(e.Layers, entry.Layers, containerd.SameLayer) {
				return fmt.Errorf("images %s and %s have the same configuration, %s, and different code; CRI takes them for one, and %q does not say which is meant: name the image by its tag or its manifest's digest, or make it anew with \"image build\", whose configurations differ: %w",
					image.Name, other.Name, entry.Config, name, errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

// entries are those of an image, from memory where that has them.
func (f *Finder) entries(ctx context.Context, c Store, image containerd.Image) (entries []containerd.Entry, _ error) {
	types := f.Engine.Types()
	name := sum(append([]string{"entries", string(image.Target.Digest)}, types...)...)
	if f.memory().recall(name, &entries) {
		return entries, nil
	}
	entries, err := c.Entries(ctx, image, types)
	if err == nil {
		f.memory().note(name, entries, log.L)
	}
	return entries, err
}

// How large a file may be whose digest is found out at every start, in bytes:
// small files are read in less time than containerd takes to answer, and to read a
// larger one, whose identity nobody vouches for, is still much less than to
// compile it.
const (
	maxSmall = 256 << 10
	maxRead  = 32 << 20
)

// File returns the guest that is a file of the container's root file system. path
// is free of symbolic links; rootfs is what was mounted. The file stays the
// caller's. What keeps the guest from having an artifact is logged.
func (f *Finder) File(ctx context.Context, r Request, file *os.File, path string, kind entrypoint.Kind, rootfs []mount.Mount) (_ *Guest, retErr error) {
	g := &Guest{Kind: kind, Layers: make([]Layer, 1)}
	defer func() {
		if retErr != nil {
			g.Close()
		}
	}()
	var about answer
	err := f.identify(ctx, r, &g.Layers[0], &about, file, path, rootfs)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		r.Log.WithError(err).Warn("the guest's file is read when it starts, and has no artifact")
		g.Layers[0].Digest = ""
	}
	if g.Layers[0].Digest == "" {
		return g, nil
	}
	w := f.work(r, g, nil)
	if !w.compiles() {
		return g, nil
	}
	if w.recall(g) {
		return g, nil
	}
	if about.image.Name == "" {
		if about, err = f.about(ctx, r.ID); err != nil {
			if !errdefs.IsNotFound(err) {
				r.Log.WithError(err).Warn("the guest's original is run, without an artifact")
			}
			return g, ctx.Err() // there is nothing that an artifact could belong to
		}
	}
	w.Layers[0].Holder = about.image.Target.Digest
	w.Image = about.image.Name
	if g.Layers[0].File == nil {
		own, err := readOnly(file)
		if err != nil {
			return nil, err
		}
		defer own.Close()
		w.files, w.Copy = []*os.File{own}, true
	}
	return f.withArtifacts(ctx, r, w, g)
}

// identify finds out what a file is, and opens it where it does not change: without
// a digest it is a file whose identity is not known.
func (f *Finder) identify(ctx context.Context, r Request, l *Layer, about *answer, file *os.File, path string, rootfs []mount.Mount) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= maxSmall {
		l.File, l.Digest, err = sealedCopy("guest", io.NewSectionReader(file, 0, info.Size()), info.Size())
		return err
	}
	if !unchanged(rootfs, path) {
		if info.Size() <= maxRead && f.Engine.compilesWithin(r.Limits) {
			l.Digest, err = digestOf(file, digest.Canonical)
		}
		return err
	}
	// Not the container's own mount: whoever has a file of it open, if only to end
	// soon, keeps it from being unmounted.
	if l.File, err = readOnly(file); err != nil || !f.Engine.compilesWithin(r.Limits) {
		return err
	}
	f.memory().asked(r.Args[0])
	*about, err = f.about(ctx, r.ID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	name := sum("file", string(about.image.Target.Digest), about.Snapshotter, about.parent, path)
	if f.memory().recall(name, &l.Digest) {
		return nil
	}
	known := f.isRootOf(ctx, *about)
	if !known && info.Size() > maxRead {
		return nil
	}
	if l.Digest, err = digestOf(l.File, digest.Canonical); err == nil && known {
		f.memory().note(name, l.Digest, r.Log)
	}
	return err
}

// isRootOf says whether a container's root file system is that of its image, as it
// is now.
func (f *Finder) isRootOf(ctx context.Context, about answer) bool {
	c, err := Dial(f.Address, f.Namespace)
	if err != nil {
		return false
	}
	entries, err := f.entries(ctx, c, about.image)
	err = errors.Join(err, c.Close())
	return err == nil && about.parent != "" && slices.ContainsFunc(entries, func(e containerd.Entry) bool { return e.Chain == about.parent })
}
