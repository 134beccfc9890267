// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// How long something that failed is not tried again.
const (
	failedFor  = 10 * time.Minute // for a reason that lies in the code or in the limits
	notKeptFor = time.Minute      // because an artifact could not be stored
)

// Job is one guest whose code is to be found and compiled: what a container needs
// that starts for the first time. It is made by Finder, or for a person.
type Job struct {
	Address, Namespace string // of containerd
	Engine             Engine
	Key                string   // see Engine.Key
	Options            []string // all of the engine's, "key=value"
	LogLevel           string   // of the engine's lines
	Limits             compiler.Limits
	ID                 string // of the container; names the compiler's cgroup
	Dir                string // an existing directory of its own, for the compiler
	Retry              bool   // what has failed before is tried again at once

	// Image is the container's, if it is known. It decides what a guest of layers
	// is; what is compiled of a file hangs on it.
	Image *Image
	// Kind and Stamp are of a guest that is a file.
	Kind  entrypoint.Kind `json:",omitempty"`
	Stamp stamp           `json:",omitzero"`

	Exe      *os.File                      `json:"-"` // the sealed binary
	File     *os.File                      `json:"-"` // the guest; nil if it is layers
	Log      *log.Entry                    `json:"-"`
	Progress func(what string, size int64) `json:"-"` // told what is done next, with how many bytes, 0 where that is not known; may be nil

	// abandoned says whether nobody waits for the job any more, in which case what
	// is left of the compiler may have been cleaned up; may be nil.
	abandoned func() bool
}

// records are those of the job's namespace, beside which its locks are.
func (j *Job) records() records { return recordsOf(j.Address, j.Namespace) }

// record is the name under which what is known of the guest is remembered.
func (j *Job) record() string {
	if j.Stamp != (stamp{}) {
		return sum("file", j.Key, j.Stamp.String())
	}
	if !j.compiles() {
		// Without a key it is the engine that decides which layers these are.
		return sum("image, not compiled", fmt.Sprint(j.Engine), string(j.Image.Target.Digest))
	}
	return sum("image", j.Key, string(j.Image.Target.Digest))
}

// compiles says whether the engine is to compile anything ahead.
func (j *Job) compiles() bool { return j.Engine.Compiles && j.Limits.Time > 0 }

func (j *Job) progress(what string, size int64) {
	if j.Progress != nil {
		j.Progress(what, size)
	}
}

// Prepare finds the guest's code, verifies it, has it compiled where nobody did
// so before, stores and remembers the result. What keeps it from compiling is
// logged, and the guest is the original then.
func Prepare(ctx context.Context, j *Job) (_ *Guest, retErr error) {
	c, err := Dial(j.Address, j.Namespace)
	if err != nil {
		return nil, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	p := &preparer{Job: j, Client: c, guest: &Guest{}}
	defer func() {
		p.blobs.close()
		if retErr != nil {
			p.guest.Close()
		}
	}()
	if j.File != nil {
		err = p.file(ctx)
	} else {
		err = p.layers(ctx)
	}
	if err != nil {
		return nil, err
	}
	if why := p.known.NotCompiled; why != nil {
		p.guest.NotCompiled = errors.New(why.Cause)
	}
	return p.guest, nil
}

type preparer struct {
	*Job
	*Client
	blobs *blobs // nil where the content store is not a directory here
	guest *Guest
	known record // what will be remembered
}

// layers finds the layers of the job's image.
func (p *preparer) layers(ctx context.Context) error {
	manifest, err := p.choose(ctx, p.Image, p.Engine.Types())
	if err != nil {
		return err
	}
	p.openStore(ctx)
	for _, d := range manifest.LayersOf(p.Engine.Types()) {
		if len(p.guest.Layers) == stage.MaxLayers {
			return fmt.Errorf("image %s has more than %d layers: %w", p.Image.Name, stage.MaxLayers, errdefs.ErrInvalidArgument)
		}
		f, err := p.open(ctx, p.blobs, d.Digest)
		if err != nil {
			return err
		}
		p.guest.Layers = append(p.guest.Layers, Layer{MediaType: d.MediaType, Digest: d.Digest, File: f})
		at, err := stampOf(f)
		if err != nil {
			return err
		}
		if at.Size != d.Size {
			return fmt.Errorf("layer %s has %d bytes in containerd's content store, its manifest says %d: %w", d.Digest, at.Size, d.Size, errdefs.ErrDataLoss)
		}
		if err := p.verify(f, d.Digest, "layer"); err != nil {
			return err
		}
		p.known.Layers = append(p.known.Layers, knownLayer{MediaType: d.MediaType, Digest: d.Digest, Blob: at})
	}
	if err := p.guest.classify(p.Engine); err != nil {
		return fmt.Errorf("image %s: %w", p.Image.Name, err)
	}
	holders := make([]digest.Digest, len(p.guest.Layers))
	for i, l := range p.guest.Layers {
		holders[i] = l.Digest
	}
	p.artifacts(ctx, p.guest, holders)
	p.remember()
	return nil
}

// file takes the guest's file as it is now: whoever may write it could do so
// while it is read, compiled and run.
func (p *preparer) file(ctx context.Context) error {
	fd, err := readOnly(p.File)
	if err != nil {
		return err
	}
	p.guest.Kind = p.Kind
	p.guest.Layers = []Layer{{File: fd}}
	if p.Image == nil {
		image, err := p.OfContainer(ctx, p.ID)
		if errdefs.IsNotFound(err) {
			// There is nothing that an artifact could belong to.
			p.notCompiled(err, failedFor)
			p.remember()
			return nil
		}
		if err != nil {
			return err
		}
		p.Image = &image
	}
	p.openStore(ctx)
	p.progress("read", p.Stamp.Size)
	begun := time.Now()
	before, err := stampOf(fd)
	if err != nil {
		return err
	}
	copied, d, err := sealedCopy("guest", io.NewSectionReader(fd, 0, before.Size))
	if err != nil {
		return fmt.Errorf("read the guest's file: %w", err)
	}
	p.guest.Layers[0].Digest = d
	p.known.Layers = []knownLayer{{Digest: d}}
	snapshot := &Guest{Kind: p.Kind, Layers: []Layer{{Digest: d, File: copied}}}
	p.artifacts(ctx, snapshot, []digest.Digest{p.Image.Target.Digest})
	p.guest.Layers[0].Artifact = snapshot.Layers[0].Artifact
	after, err := stampOf(fd)
	if err != nil || after != before {
		// The copy is what was compiled, and so it is what has to run.
		p.Log.Warn("the guest's file was changed while it was read; what was read is run")
		p.guest.Layers[0].File, copied = copied, fd
	}
	// What was changed just now may change again without a trace.
	if !p.Stamp.like(after) || !after.settledAt(begun) {
		p.Stamp = stamp{}
	}
	copied.Close()
	p.remember()
	return nil
}

// openStore opens the content store where it is a directory of this machine.
func (p *preparer) openStore(ctx context.Context) {
	root, err := p.root(ctx)
	if err == nil && root != "" {
		p.blobs, err = openBlobs(root)
	}
	if err != nil {
		p.Log.WithError(err).Info("containerd's content store is not used in place; code is copied into memory")
	}
	if p.blobs != nil {
		p.known.Root = root
	}
}

// verify reads a blob and compares.
func (p *preparer) verify(f *os.File, d digest.Digest, what string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	p.progress("verify "+what, info.Size())
	found, err := digestOf(f, d.Algorithm())
	if err != nil {
		return err
	}
	if found != d {
		return mismatch(what, d, found)
	}
	return nil
}

// notCompiled says why there are no artifacts, in the log and for later starts.
func (p *preparer) notCompiled(why error, within time.Duration) {
	p.Log.WithError(why).Warn("the guest's original is run, without an artifact")
	p.known.NotCompiled = later(why, within, p.Limits)
}

// artifacts gives the guest its artifacts, if there can be any.
func (p *preparer) artifacts(ctx context.Context, g *Guest, holders []digest.Digest) {
	if !p.compiles() {
		return
	}
	names := make([]artifact, len(g.Layers))
	for i, l := range g.Layers {
		names[i] = artifact{p.Engine.Name, artifactID(p.Key, g.Layers, i), l.Digest, holders[i]}
	}
	p.progress("wait", 0)
	// One compiles what many need, also where they come from different images.
	l, err := acquire(ctx, p.records().dir, names[0].id)
	if err != nil {
		p.notCompiled(fmt.Errorf("wait for another compiler: %w", err), 0)
		return
	}
	defer l.release()
	found, err := p.findAll(ctx, g, names)
	switch {
	case err != nil:
		p.notCompiled(err, 0)
	case !found:
		p.compile(ctx, g, names)
	}
}

// findAll gives the guest the artifacts that are stored, if they all are. Those
// that are damaged, or that the engine has refused, are removed.
func (p *preparer) findAll(ctx context.Context, g *Guest, names []artifact) (bool, error) {
	var before record
	if r := p.records().get(p.record()); r != nil {
		before = *r
	}
	opened := make([]*os.File, len(names))
	complete := true
	for i, a := range names {
		d, err := p.find(ctx, a)
		if errdefs.IsNotFound(err) {
			complete = false
			continue
		}
		if err != nil {
			compiler.CloseAll(opened)
			return false, err
		}
		if d == "" {
			continue
		}
		bad := error(nil)
		if slices.Contains(before.Refused, d) {
			bad = errors.New("the engine could not load it")
			p.known.Remade = true
		} else if opened[i], bad = p.openArtifact(ctx, d, i); bad == nil {
			continue
		}
		complete = false
		p.Log.WithError(bad).Warnf("artifact %s of %s is made anew", d, a.source)
		if err := p.discard(ctx, a, d); err != nil {
			compiler.CloseAll(opened)
			return false, err
		}
	}
	if !complete {
		compiler.CloseAll(opened)
		for i := range p.known.Layers {
			p.known.Layers[i].Artifact, p.known.Layers[i].Compiled = "", stamp{}
		}
		return false, nil
	}
	for i, f := range opened {
		g.Layers[i].Artifact = f
		_ = p.release(ctx, names[i]) // it ends by itself
	}
	return true, nil
}

// openArtifact opens and verifies the artifact of layer i, and remembers it.
func (p *preparer) openArtifact(ctx context.Context, d digest.Digest, i int) (_ *os.File, retErr error) {
	f, err := p.open(ctx, p.blobs, d)
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			f.Close()
		}
	}()
	at, err := stampOf(f)
	if err != nil {
		return nil, err
	}
	if err := p.verify(f, d, "artifact"); err != nil {
		return nil, err
	}
	p.known.Layers[i].Artifact, p.known.Layers[i].Compiled = d, at
	return f, nil
}

// compile has the engine compile the guest's layers, and stores what it makes.
func (p *preparer) compile(ctx context.Context, g *Guest, names []artifact) {
	failures := sum("failed", names[0].id)
	if r := p.records().get(failures); !p.Retry && r != nil && r.NotCompiled.holds(p.Limits) {
		p.known.NotCompiled = r.NotCompiled
		p.Log.Warnf("the guest's original is run, because compiling it has failed before and is not tried again until %s: %s",
			r.NotCompiled.Until.Format(time.RFC3339), r.NotCompiled.Cause)
		return
	}
	job := compiler.Job{
		ID: compiler.Name(p.Namespace, p.ID), Dir: p.Dir, Exe: p.Exe, Kind: uint32(g.Kind), Options: p.Options, LogLevel: p.LogLevel, Limits: p.Limits, Log: p.Log,
	}
	var size int64
	for _, l := range g.Layers {
		job.Layers = append(job.Layers, compiler.Layer{MediaType: l.MediaType, Digest: string(l.Digest), File: l.File})
		if info, err := l.File.Stat(); err == nil {
			size += info.Size()
		}
	}
	p.progress("compile", 0)
	begun := time.Now()
	made, err := compiler.Run(ctx, job)
	took := time.Since(begun)
	if err == nil || errors.Is(err, compiler.ErrUnsupported) {
		p.Log.WithFields(log.Fields{"image": p.Image.Name, "took": took.Round(time.Millisecond), "bytes": size}).Infof("compiled %s", names[0].source)
	}
	left := ctx.Err() != nil || p.abandoned != nil && p.abandoned()
	switch {
	case errors.Is(err, compiler.ErrUnsupported):
		made = make([]*os.File, len(names))
	case err != nil && left && took > p.Limits.Time/4:
		// Whoever starts containers has less patience than a compiler may take time,
		// and would have none the next time, either.
		p.notCompiled(fmt.Errorf("nobody waited for the compiler any more after %s", took.Round(time.Second)), failedFor)
		p.putFailure(failures)
		return
	case errors.Is(err, compiler.ErrKilled), err != nil && left:
		p.notCompiled(err, 0) // by somebody: the next one may be luckier
		return
	case err != nil:
		p.notCompiled(fmt.Errorf("compiling failed: %w", err), failedFor)
		p.putFailure(failures)
		return
	}
	// What is made is not thrown away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTime)
	defer cancel()
	for i, f := range made {
		if err := p.store(ctx, names[i], f, i, g); err != nil {
			p.Log.WithError(err).Warnf("the artifact of %s is not kept", names[i].source)
			p.known.NotCompiled = later(err, 0, p.Limits)
			if !errdefs.IsUnavailable(err) {
				p.known.NotCompiled = later(err, notKeptFor, p.Limits)
				p.putFailure(failures)
			}
		}
	}
}

// store keeps what was made of layer i. In any case the guest gets it.
func (p *preparer) store(ctx context.Context, a artifact, made *os.File, i int, g *Guest) error {
	if made == nil {
		return p.attach(ctx, a, "")
	}
	g.Layers[i].Artifact = made
	info, err := made.Stat()
	if err != nil {
		return err
	}
	p.progress("store", info.Size())
	d, err := p.keep(ctx, a, made)
	if err != nil {
		return err
	}
	// The store's own file instead of the memory, so that all containers share its
	// pages.
	f, err := p.openArtifact(ctx, d, i)
	if err != nil {
		return err
	}
	g.Layers[i].Artifact = f
	made.Close()
	return nil
}

func (p *preparer) putFailure(name string) {
	if err := p.records().put(name, record{NotCompiled: p.known.NotCompiled}); err != nil {
		p.Log.WithError(err).Warn("cannot remember that compiling failed")
	}
}

// remember writes down what the next start need not find out.
func (p *preparer) remember() {
	p.known.Kind = p.guest.Kind
	if p.known.Root == "" && p.known.NotCompiled == nil {
		return // nothing that could be opened by name
	}
	if p.File != nil && p.Stamp == (stamp{}) {
		return
	}
	if err := p.records().put(p.record(), p.known); err != nil {
		p.Log.WithError(err).Warn("cannot remember where the guest's code is; the next start looks again")
	}
}
